// SPDX-License-Identifier: Apache-2.0
/* Questions to pinned links. Whether a link still does anything only the kernel knows. */
#include "loader/links.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "loader/netns.h"
#include "loader/pin.h"
#include "userspace/base/cleanup.h"

int cv_pods_dir(const char *base, uint32_t pod, char *buf, size_t size)
{
	return snprintf(buf, size, "%s/pods/%u", base, pod) < (int)size ? 0 : -ENAMETOOLONG;
}

int cv_link_info(int fd, struct bpf_link_info *ret)
{
	uint32_t len = sizeof(*ret);

	memset(ret, 0, sizeof(*ret));
	return bpf_obj_get_info_by_fd(fd, ret, &len) < 0 ? -errno : 0;
}

/* Both are the first member of the kernel's link-specific part. */
uint32_t cv_link_target(const struct bpf_link_info *info)
{
	return info->netns.netns_ino;
}

uint32_t cv_link_netns_inode(const char *dir)
{
	_cleanup_close_ int link = -1;
	struct bpf_link_info info;
	char path[CV_PIN_PATH];

	snprintf(path, sizeof(path), "%s/lookup", dir);
	link = bpf_obj_get(path);
	return link < 0 || cv_link_info(link, &info) < 0 ? 0 : cv_link_target(&info);
}

int cv_link_open_netns(const char *dir)
{
	uint32_t inode = cv_link_netns_inode(dir);

	return inode ? cv_netns_find(inode) : -ENOENT;
}
