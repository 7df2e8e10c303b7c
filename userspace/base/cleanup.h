/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-exit cleanup: a variable's destructor runs when its scope ends; success moves the
 * value out with cv_take_ptr or cv_take_fd. Destructors accept NULL (or -1) and half-built
 * objects, take a pointer to the variable and clear it. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void cv_free_cleanup(void *p)
{
	free(*(void **)p);
	*(void **)p = NULL;
}
#define _cleanup_free_ _cleanup_(cv_free_cleanup)

/* Closes *fd unless it is negative, keeps errno. */
static inline void cv_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}
#define _cleanup_close_ _cleanup_(cv_close)

#define cv_take_ptr(p)                        \
	({                                    \
		__typeof__(p) *_cv_pp = &(p); \
		__auto_type _cv_v = *_cv_pp;  \
		*_cv_pp = NULL;               \
		_cv_v;                        \
	})

#define cv_take_fd(fd)               \
	({                           \
		int *_cv_fp = &(fd); \
		int _cv_f = *_cv_fp; \
		*_cv_fp = -1;        \
		_cv_f;               \
	})

#define cv_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define CV_ARRAY_SIZE(a)		   (sizeof(a) / sizeof((a)[0]))
