/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories for a test's files. They lie in CV_TMP, which the runner removes, so that nothing stays
 * of a test that crashes or is killed; by hand, without CV_TMP, in /tmp.
 */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Makes a new directory and writes its path into buf. 0 or -errno. */
static inline int scratch_dir(char *buf, size_t size)
{
	const char *tmp = getenv("CV_TMP");
	int n = snprintf(buf, size, "%s/cv-XXXXXX", tmp && *tmp ? tmp : "/tmp");

	if (n < 0 || (size_t)n >= size)
		return -ENAMETOOLONG;
	return mkdtemp(buf) ? 0 : -errno;
}
