/* SPDX-License-Identifier: Apache-2.0 */
/* Where the pins of pods are, and what pinned links say about their targets. Shared by attach.c
 * and detach.c. */
#pragma once

#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

/* A directory of this name among a pod's pins says that removal has to reset the sysctl. */
#define CV_PIN_ACCEPT_LOCAL "accept_local"

/* BASE/pods/NUMBER; -ENAMETOOLONG. */
int cv_pods_dir(const char *base, uint32_t pod, char *buf, size_t size);

int cv_link_info(int fd, struct bpf_link_info *ret);
/* Inode of the namespace of an sk_lookup link, ifindex of a TCX link; 0 = gone. */
uint32_t cv_link_target(const struct bpf_link_info *info);
/* Inode of the namespace that the pod with these pins is attached to; 0 = gone. */
uint32_t cv_link_netns_inode(const char *dir);
/* That namespace as a new fd; -ENOENT when it is gone or nobody else holds it. */
int cv_link_open_netns(const char *dir);
