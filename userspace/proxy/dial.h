/* SPDX-License-Identifier: Apache-2.0 */
/* A TCP connect from inside a pod's namespace, with a deadline; embedded in its owner. */
#pragma once

#include <event2/event_struct.h>
#include <stdbool.h>

#include "maps/types.h"
#include "userspace/base/addr.h"

struct cv_lane;

struct cv_dial_opts {
	struct cv_sockaddr dst;
	/* Whose address the socket has: the client's, towards the pod's application (the kernel is
	 * told that it is CV_KIND_DAEMON_LEG). NULL = the pod's own (CV_KIND_DAEMON). */
	const struct cv_addr *client;
};

struct cv_dial {
	struct cv_lane *lane;
	int fd; /* -1 = not dialling */
	struct event ev;
	/* Once: fd (ownership moves) or -errno. -ETIMEDOUT after CV_LIMIT_CONNECT_MS. */
	void (*done)(struct cv_dial *d, int fd);
};

void cv_dial_init(struct cv_dial *d, struct cv_lane *lane, void (*done)(struct cv_dial *d, int fd));
/* done may run before this returns. */
void cv_dial_start(struct cv_dial *d, const struct cv_dial_opts *opts);
/* done will not run any more. Idempotent. */
void cv_dial_cancel(struct cv_dial *d);
