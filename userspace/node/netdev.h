/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices and addresses of a pod, and being told when they change.
 *
 * Everything is asked of the kernel by rtnetlink, inside the pod's namespace; loopback devices
 * and their addresses are left out. Control thread only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "maps/types.h"
#include "userspace/io/netns.h"
#include "userspace/io/worker.h"

struct cv_netdevs {
	uint32_t *ifindexes; /* owned, in the kernel's order */
	size_t nr_ifindexes;
	struct cv_addr *addrs; /* owned, no address twice */
	size_t nr_addrs;
};
int cv_netdevs_read(const struct cv_netns *ns, struct cv_netdevs *ret);
void cv_netdevs_fini(struct cv_netdevs *devs);

/* fn runs on the control thread after devices or addresses have changed; then read them anew.
 * The watch is a socket inside the namespace: free it before the namespace is to go away. */
struct cv_netdev_watch;
int cv_netdev_watch_new(struct cv_netdev_watch **ret, struct cv_worker *control,
			const struct cv_netns *ns, void (*fn)(void *arg), void *arg);
void cv_netdev_watch_free(struct cv_netdev_watch **w);
