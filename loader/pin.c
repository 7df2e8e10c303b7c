// SPDX-License-Identifier: Apache-2.0
/*
 * Paths, lock, stamp and trees on bpffs. Nothing here knows what a pod or a program is.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/pin.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

enum { BPFFS_MAGIC = 0xcafe4a11 };

uint64_t cv_pin_hash(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ p[i]) * 0x100000001b3ull;
	return hash;
}

static bool is_bpffs(int fd)
{
	struct statfs st;

	return fstatfs(fd, &st) == 0 && (uint32_t)st.f_type == (uint32_t)BPFFS_MAGIC;
}

/* An exchange may have put another directory in the place of the one we opened. */
static bool is_still_at(int fd, const char *dir)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && stat(dir, &named) == 0 && opened.st_ino == named.st_ino &&
	       opened.st_dev == named.st_dev;
}

int cv_pin_lock_existing(const char *dir, int *ret_fd)
{
	_cleanup_close_ int fd = -1;

	if (strlen(dir) >= CV_PIN_DIR)
		return -ENAMETOOLONG;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!is_bpffs(fd))
		return -EOPNOTSUPP;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (!is_still_at(fd, dir))
		return -EBUSY;
	*ret_fd = cv_take_fd(fd);
	return 0;
}

int cv_pin_lock(const char *dir, int *ret_fd)
{
	int r = cv_pin_mkdir(dir);

	return r < 0 ? r : cv_pin_lock_existing(dir, ret_fd);
}

static int stamp_path(const char *dir, char path[CV_PIN_PATH])
{
	int n = snprintf(path, CV_PIN_PATH, "%s/abi", dir);

	return n < CV_PIN_PATH ? 0 : -ENAMETOOLONG;
}

int cv_pin_stamp_read(const char *dir, struct cv_stamp *ret)
{
	struct bpf_map_info info = {};
	uint32_t len = sizeof(info), zero = 0;
	_cleanup_close_ int fd = -1;
	char path[CV_PIN_PATH];
	int r = stamp_path(dir, path);

	if (r < 0)
		return r;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -errno;
	/* A stamp of another size is another version's: the caller sees version 0. */
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	if (info.value_size != sizeof(*ret)) {
		*ret = (struct cv_stamp){};
		return 0;
	}
	return bpf_map_lookup_elem(fd, &zero, ret) < 0 ? -errno : 0;
}

int cv_pin_stamp_write(const char *dir, const struct cv_stamp *stamp)
{
	_cleanup_close_ int fd = -1;
	char path[CV_PIN_PATH];
	uint32_t zero = 0;
	int r = stamp_path(dir, path);

	if (r < 0)
		return r;
	fd = bpf_obj_get(path);
	if (fd < 0) {
		fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "cv_abi", sizeof(zero), sizeof(*stamp), 1,
				    NULL);
		if (fd < 0)
			return -errno;
		r = cv_pin_put(fd, path);
		if (r < 0)
			return r;
	}
	return bpf_map_update_elem(fd, &zero, stamp, BPF_ANY) < 0 ? -errno : 0;
}

int cv_pin_mkdir(const char *path)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

int cv_pin_put(int fd, const char *path)
{
	int r = cv_pin_unlink(path);

	if (r < 0)
		return r;
	return bpf_obj_pin(fd, path) < 0 ? -errno : 0;
}

int cv_pin_unlink(const char *path)
{
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int cv_pin_each(const char *path, int (*fn)(const char *path, const char *name, void *arg),
		void *arg)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (r >= 0 && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = fn(path, e->d_name, arg);
	}
	closedir(dir);
	return r < 0 ? r : 0;
}

static int remove_entry(const char *path, const char *name, void *arg)
{
	char child[CV_PIN_PATH];

	(void)arg;
	if (snprintf(child, sizeof(child), "%s/%s", path, name) >= (int)sizeof(child))
		return -ENAMETOOLONG;
	if (unlink(child) == 0)
		return 0;
	return errno == EISDIR || errno == EPERM ? cv_pin_remove_tree(child) : -errno;
}

int cv_pin_remove_tree(const char *path)
{
	int r = cv_pin_each(path, remove_entry, NULL);

	if (r < 0)
		return r;
	return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* bpffs learned to exchange in Linux 5.16. Before, in steps: a crash between them leaves no
 * directory at dir, and the next start makes it anew. */
static int exchange_in_steps(const char *next, const char *dir)
{
	char aside[CV_PIN_PATH];

	if (snprintf(aside, sizeof(aside), "%s-aside", dir) >= (int)sizeof(aside))
		return -ENAMETOOLONG;
	if (rename(dir, aside) < 0 || rename(next, dir) < 0 || rename(aside, next) < 0)
		return -errno;
	return 0;
}

int cv_pin_exchange(const char *next, const char *dir)
{
	if (renameat2(AT_FDCWD, next, AT_FDCWD, dir, RENAME_EXCHANGE) == 0)
		return 0;
	return errno == EINVAL ? exchange_in_steps(next, dir) : -errno;
}
