/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the xDS client share.
 *
 *   xds.c          the stream: connect, subscribe, acknowledge, come back
 *   xds_apply.c    a response's parts: decode, batch, apply, what was refused
 *   xds_hold.c     what waits for the other type, so that no workload lists a policy that is not there
 *   xds_demand.c   what connections ask for, on demand
 *   xds_request.c  requests, and the node that they name
 *   xds_names.c    what we hold, for coming back
 */
#pragma once

#include <event2/event.h>
#include <urcu/list.h>

#include "userspace/base/backoff.h"
#include "userspace/base/buf.h"
#include "userspace/limits.h"
#include "userspace/mesh/xds.h"
#include "userspace/mesh/xds_decode.h"
#include "userspace/mesh/xds_names.h"
#include "userspace/proto/xds_response.h"

enum { XDS_TOLD = 64, XDS_DEMAND_BUCKETS = 1024 };

struct xds_type_state {
	struct xds_names names;
	bool acked; /* once */
	uint64_t messages, bytes;
};

/* Deltas on their way to the store. */
struct xds_batch {
	struct cv_delta *deltas; /* keys are references */
	size_t n, room;
};

/* A workload that lists a policy which is not there yet, or a policy that is gone and still listed. */
struct xds_held {
	struct cv_delta delta;
	uint64_t due_ms;
};
struct xds_held_list {
	struct xds_held *items;
	size_t n, room;
};

/* Keys that are asked for, and those that were and lead to nothing. */
struct demand;
struct xds_demand {
	bool on;
	struct demand *buckets[XDS_DEMAND_BUCKETS];
	struct cds_list_head pending, absent;
	size_t nr_pending, nr_absent;
	unsigned nothing; /* which of the names of nothing is subscribed to */
	struct event *timer; /* of the oldest that is pending */
};

struct cv_xds {
	struct cv_worker *control;
	struct cv_store *store;
	void (*on_warm)(void *arg);
	void *arg;
	struct cv_channel *channel;
	struct cv_channel_call *call; /* NULL = waits for the next try */
	struct event *retry;
	struct cv_backoff backoff;
	struct cv_buf node; /* encoded, for the first requests */
	struct xds_type_state types[CV_XDS_TYPE_NR];
	/* The stream. */
	bool connected;
	uint64_t opened_ms, away_since_ms;
	bool warned;
	char warned_text[256]; /* what was logged last: not again */
	uint64_t ends[CV_XDS_END_NR], refused;
	uint64_t told[XDS_TOLD]; /* hashes of the refusals that were logged last */
	unsigned next_told;
	/* The response that is arriving. */
	struct cv_xds_response splitter;
	size_t message_len;
	char type_url[128], nonce[CV_LIMIT_XDS_NAME + 1];
	struct cv_buf refusals; /* "name: reason; name: reason" */
	cv_str *removed;
	size_t nr_removed, removed_room;
	struct xds_batch batch;
	/* What waits. */
	struct xds_held_list workloads, policies;
	struct event *hold_timer;
	struct xds_demand demand;
};

/* xds_apply.c */
extern const struct cv_xds_response_ops xds_response_ops;
/* Its index, or -ENOENT. */
int xds_type_find(const char *url);
void xds_batch_add(struct xds_batch *b, struct cv_delta d); /* takes object and key */
void xds_batch_apply(struct cv_xds *x);
void xds_batch_fini(struct xds_batch *b);
/* All parts have been told: removals, what was held, and the rest of the batch are applied. */
void xds_apply_end(struct cv_xds *x, int type);
/* The response's texts and lists, for the next one or for good. */
void xds_response_clear(struct cv_xds *x);

/* xds_hold.c */
int xds_hold_init(struct cv_xds *x);
void xds_hold_fini(struct cv_xds *x);
/* Does the workload have to wait? Then it is taken over. */
bool xds_hold_workload(struct cv_xds *x, struct cv_delta *d);
/* A newer word about this workload: the one that waits is forgotten. True when there was one. */
bool xds_hold_forget(struct cv_xds *x, cv_str uid);
/* Removals among the policies of the batch that a workload of this node still lists wait. */
void xds_hold_policies(struct cv_xds *x, struct xds_batch *b);
/* What need not wait any longer joins the batch. */
void xds_hold_release(struct cv_xds *x);

/* xds_demand.c */
int xds_demand_init(struct cv_xds *x, bool on);
void xds_demand_fini(struct cv_xds *x);
/* A stream is open: what is pending is asked for on it. */
void xds_demand_resume(struct cv_xds *x);
/* The response that is arriving names this: there, under this name or alias, or not there. */
void xds_demand_heard(struct cv_xds *x, cv_str name);
/* All of a response is in the store: who waited for it goes on. */
void xds_demand_answer(struct cv_xds *x);

/* xds_request.c: 0 or -ENOMEM / -ENOBUFS */
int xds_node_encode(struct cv_buf *to, const struct cv_xds_opts *opts);
int xds_request_first(struct cv_buf *to, const struct cv_xds *x, enum cv_xds_type type);
/* Names to subscribe to, and such to give back. */
struct xds_name_list {
	const char *const *names;
	size_t n;
};
int xds_request_names(struct cv_buf *to, const char *type_url, const struct xds_name_list *add,
		      const struct xds_name_list *drop);
/* ACK; with refusals a NACK. */
int xds_request_ack(struct cv_buf *to, const char *type_url, const char *nonce,
		    struct cv_span refusals);
