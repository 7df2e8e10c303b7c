// SPDX-License-Identifier: Apache-2.0
/* Reading a file into memory that grows with it, so that a small file costs little. */
#include "userspace/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"

enum { FIRST_SIZE = 4096 };

int cv_file_read(const char *path, size_t limit, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len = 0, size = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -errno;
	while (n > 0) {
		if (len + 1 >= size) {
			char *grown = realloc(text, size = size ? size * 2 : FIRST_SIZE);

			if (!grown)
				return -ENOMEM;
			text = grown;
		}
		n = read(fd, text + len, size - len - 1);
		if (n < 0)
			return -errno;
		len += (size_t)n;
		if (len > limit)
			return -EFBIG;
	}
	text[len] = '\0';
	*ret_len = len;
	*ret = cv_take_ptr(text);
	return 0;
}
