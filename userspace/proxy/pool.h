/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outbound HBONE connections of one worker, shared by the sessions that have the same key.
 *
 * Key: source pod and identity, the identities that the peer may have, next hop. A connection
 * carries at most POOL_MAX_STREAMS_PER_CONNECTION streams; when all are full another one is
 * dialled, one at a time a key, and who comes meanwhile waits for it. A full connection takes
 * streams again as soon as some end (ztunnel retires it). Without streams it stays for
 * POOL_UNUSED_RELEASE_TIMEOUT. Each worker has a pool, so a pair of peers has several connections.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "userspace/base/addr.h"
#include "userspace/mesh/identity.h"
#include "userspace/telemetry/traffic.h"

struct cv_hbone_conn;
struct cv_lane;

struct cv_pool_key {
	struct cv_lane *lane; /* source pod on this worker */
	struct cv_identity identity;
	struct cv_sockaddr next_hop;
	const cv_str *sans;
	size_t nr_sans;
};

enum { CV_POOL_BUCKETS = 512 };

struct cv_pool {
	LIST_HEAD(, cv_pool_entry) buckets[CV_POOL_BUCKETS];
	unsigned nr_conns;
};

struct cv_pool_wait {
	TAILQ_ENTRY(cv_pool_wait) node;
	struct cv_pool_entry *entry; /* NULL = not waiting */
	/* A connection with room for a stream, which is opened inside the callback; or NULL and
	 * why there is none. */
	void (*done)(struct cv_pool_wait *w, struct cv_hbone_conn *c, enum cv_flag flag,
		     const char *error);
};

TAILQ_HEAD(cv_pool_waits, cv_pool_wait);

struct cv_pool_entry {
	LIST_ENTRY(cv_pool_entry) node;
	struct cv_pool *pool;
	struct cv_pool_key key; /* owns identity and sans; lane is kept by the connections */
	TAILQ_HEAD(, cv_hbone_conn) conns;
	struct cv_pool_waits waiting;
	struct cv_hbone_conn *dialling;
	bool busy; /* being served: neither served again nor freed */
};

void cv_pool_init(struct cv_pool *p);
/* After its connections and sessions are gone: frees what they left. */
void cv_pool_fini(struct cv_pool *p);
/* w->done runs before this returns when a connection is there. */
void cv_pool_get(struct cv_pool *p, const struct cv_pool_key *key, struct cv_pool_wait *w);
void cv_pool_cancel(struct cv_pool_wait *w);
/* What a connection tells. */
void cv_pool_on_ready(struct cv_hbone_conn *c);
void cv_pool_on_goaway(struct cv_hbone_conn *c); /* takes no more streams: out of the pool */
void cv_pool_on_dead(struct cv_hbone_conn *c);
