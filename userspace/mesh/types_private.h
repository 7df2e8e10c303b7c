/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the mesh's objects that types.c and workload_types.c have in common. */
#pragma once

#include "userspace/mesh/types.h"

/* Interned strings of an object, as offsets. */
void cv_put_strs(void *object, const size_t *offsets, size_t n);
bool cv_strs_eq(const void *a, const void *b, const size_t *offsets, size_t n);
void cv_put_str_array(cv_str *items, size_t n);
bool cv_str_arrays_eq(const cv_str *a, size_t na, const cv_str *b, size_t nb);
void *cv_new_object(size_t size); /* zero; aborts on no memory */
bool cv_ref_drop(int *ref); /* true: that was the last one */

void cv_ns_host_fini(struct cv_ns_host *h);
bool cv_ns_host_eq(const struct cv_ns_host *a, const struct cv_ns_host *b);
void cv_gateway_free(struct cv_gateway **g);
bool cv_gateway_eq(const struct cv_gateway *a, const struct cv_gateway *b);
