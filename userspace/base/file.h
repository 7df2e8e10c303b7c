/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files, bounded. */
#pragma once

#include <stddef.h>

/* The file's bytes and a NUL behind them; *ret is the caller's to free. -EFBIG beyond the limit. */
int cv_file_read(const char *path, size_t limit, char **ret, size_t *ret_len);
