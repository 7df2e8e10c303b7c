/* SPDX-License-Identifier: Apache-2.0 */
/* Interned strings: names of the mesh repeat a thousandfold (namespaces, trust domains,
 * clusters), so each distinct text is stored once and reference-counted. Any thread. */
#pragma once

#include <stddef.h>

/* An interned, immutable, NUL-terminated string. NULL stands for the empty string. Equal
 * texts are equal pointers. */
typedef const char *cv_str;

cv_str cv_str_new(const char *text); /* NULL or "" -> NULL; aborts on no memory */
cv_str cv_str_new_len(const char *text, size_t len);
/* As new, but NULL when nobody holds that text: for what strangers ask for. */
cv_str cv_str_find(const char *text, size_t len);
cv_str cv_str_ref(cv_str s);
void cv_str_put(cv_str *s); /* clears *s */
size_t cv_str_count(void); /* distinct strings held, for leak tests */

/* Text for printing: never NULL. */
static inline const char *cv_str_text(cv_str s)
{
	return s ? s : "";
}
