/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network namespaces, held open by fd, and which of them the calling thread is in.
 *
 * A thread that entered a namespace stays there until it enters another one (cv_netns_enter is a
 * no-op when it is there already), so a busy pod costs no setns() per connection. A thread keeps
 * the namespace alive that it is in: whoever removes a pod makes every thread leave it.
 */
#pragma once

#include <stdint.h>

/* A network namespace that is held open; the cookie tells it from others. */
struct cv_netns {
	int fd; /* owned */
	uint64_t cookie; /* SO_NETNS_COOKIE */
	uint64_t inode;
};

/* Takes ownership of fd on success. -EINVAL: not a network namespace. */
int cv_netns_init(struct cv_netns *ns, int fd);
void cv_netns_fini(struct cv_netns *ns);
/* The calling thread's own namespace. */
int cv_netns_self(struct cv_netns *ret);
/* Switch the calling thread; NULL = the namespace in which the process started. */
int cv_netns_enter(const struct cv_netns *ns);
/* If the calling thread is in ns, leave it (before the last reference goes away). */
void cv_netns_leave(const struct cv_netns *ns);
