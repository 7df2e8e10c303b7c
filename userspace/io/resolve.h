/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names to addresses, by c-ares: asked from the namespace in which the process started, of
 * the servers in /etc/resolv.conf, with a cache that lives as long as the records say.
 *
 * One resolver belongs to one event loop; all of it happens on that loop's thread. Who asks for a
 * name that is being asked already waits for the same answer. Bounds: CV_LIMIT_RESOLVE_*.
 */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "userspace/base/addr.h"

struct cv_resolver;

struct cv_resolver_opts {
	struct event_base *base;
	bool ipv4_only; /* no AAAA questions */
	/* For tests: "ip:port" to ask instead of the system's servers, without /etc/hosts. */
	const char *server;
};
/* -ENOMEM, or -EINVAL when the system's configuration cannot be used. */
int cv_resolver_new(struct cv_resolver **ret, const struct cv_resolver_opts *opts);
/* Who still waits is forgotten. */
void cv_resolver_free(struct cv_resolver **r);
/* The same after the loop is gone: touches no event. */
void cv_resolver_discard(struct cv_resolver **r);

/* Embedded in who asks; zero = waits for nothing. */
struct cv_resolve_wait {
	TAILQ_ENTRY(cv_resolve_wait) node;
	struct cv_resolve_entry *entry; /* NULL = does not wait */
	/* Once: 0 and at least one address, valid during the call; or -errno: -ENOENT the name has no
	 * address, -ETIMEDOUT, -EAGAIN too many names at once, -EIO any other failure. */
	void (*done)(struct cv_resolve_wait *w, int r, const struct cv_addr *addrs, size_t n);
};
/* w->done may run before this returns. */
void cv_resolve(struct cv_resolver *r, const char *name, struct cv_resolve_wait *w);
/* done will not run any more. Idempotent. */
void cv_resolve_cancel(struct cv_resolve_wait *w);

/* One of the addresses: of the family of `like` when there is one, chosen by `random`. n > 0. */
const struct cv_addr *cv_resolve_pick(const struct cv_addr *addrs, size_t n,
				      const struct cv_addr *like, uint64_t random);
