/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a mesh file, for local_file.c; what others use is in local_file.h. */
#pragma once

#include "userspace/mesh/local_file.h"

/* Reads a regular file of at most CV_LIMIT_FILE_BYTES. *ret_text is the caller's to free. */
int cv_mesh_file_load(const char *path, char **ret_text, size_t *ret_len, char *error,
		      size_t error_size);
