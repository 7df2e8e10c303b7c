// SPDX-License-Identifier: Apache-2.0
/*
 * Entering namespaces by fd and finding them by inode. The finder serves removal without a
 * daemon's memory: a pinned sk_lookup link knows the inode of its namespace, and no more.
 */
#include "loader/netns.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "userspace/base/cleanup.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

int cv_netns_visit(int netns_fd, int *ret_back)
{
	_cleanup_close_ int back = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (back < 0)
		return -errno;
	if (setns(netns_fd, CLONE_NEWNET) < 0)
		return -errno;
	*ret_back = cv_take_fd(back);
	return 0;
}

void cv_netns_visit_end(int *back)
{
	if (*back >= 0 && setns(*back, CLONE_NEWNET) < 0)
		abort();
	cv_close(back);
}

int cv_netns_visit_cookie(__u64 *ret)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*ret);

	if (fd < 0)
		return -errno;
	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len) < 0 ? -errno : 0;
}

static int open_if_inode(const char *path, uint64_t inode)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (stat(path, &st) < 0 || st.st_ino != inode)
		return -ENOENT;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || st.st_ino != inode)
		return -ENOENT;
	return cv_take_fd(fd);
}

static int find_in_processes(uint64_t inode)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int fd = -ENOENT;

	if (!proc)
		return -errno;
	while (fd < 0 && (e = readdir(proc))) {
		char path[300];

		if (e->d_name[0] < '0' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/ns/net", e->d_name);
		fd = open_if_inode(path, inode);
	}
	closedir(proc);
	return fd < 0 ? -ENOENT : fd;
}

/* A mounted namespace (`ip netns add`) shows as root `net:[inode]` in mountinfo. */
static int find_in_mounts(uint64_t inode)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096];
	int fd = -ENOENT;

	if (!f)
		return -errno;
	while (fd < 0 && fgets(line, sizeof(line), f)) {
		char root[64], path[2048];

		if (sscanf(line, "%*s %*s %*s %63s %2047s", root, path) == 2 &&
		    !strncmp(root, "net:[", 5) && strtoull(root + 5, NULL, 10) == inode)
			fd = open_if_inode(path, inode);
	}
	fclose(f);
	return fd < 0 ? -ENOENT : fd;
}

int cv_netns_find(uint64_t inode)
{
	int fd = find_in_mounts(inode);

	return fd >= 0 ? fd : find_in_processes(inode);
}
