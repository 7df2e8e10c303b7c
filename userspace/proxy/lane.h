/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who owns what inside the proxy.
 *
 *   cv_proxy ── one ─▶ cv_proxy_worker (per worker: pool, read buffers, counters)
 *      │                      │
 *      └─ pods ─▶ cv_proxy_pod ─▶ cv_lane (one pod on one worker: listeners, connections)
 *
 * A lane is where connections live. Only its worker touches it, from lane_start to its last
 * reference. A lane that is stopped has no socket any more; it goes when the answers that its
 * connections still wait for (workload, certificate) have come.
 */
#pragma once

#include <event2/event_struct.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "maps/abi.h"
#include "userspace/io/resolve.h"
#include "userspace/proto/hbone.h"
#include "userspace/proxy/chunk.h"
#include "userspace/proxy/pool.h"
#include "userspace/proxy/proxy.h"

struct cv_session;
struct cv_hbone_conn;
struct cv_dns_lane;

/* Live objects, written by the worker, read by anybody. */
struct cv_proxy_counters {
	_Atomic unsigned connections, hbone_inbound, hbone_pooled, waiting;
};

struct cv_proxy_worker {
	struct cv_proxy *proxy;
	struct cv_worker *worker;
	struct event_base *base;
	struct cv_chunks chunks;
	struct cv_pool pool;
	struct cv_resolver *resolver; /* made when the first name is asked for */
	TAILQ_HEAD(, cv_lane) lanes;
	struct cv_proxy_counters live;
	uint8_t *dns_buf; /* CV_DNS_TCP_SIZE bytes for the answer at hand; NULL = no DNS proxy */
	unsigned dns_requests; /* in flight */
	unsigned handshakes; /* unfinished ones of inbound HBONE */
	uint64_t random; /* state of cv_proxy_random */
	unsigned leg_port; /* where the last search for a free port ended */
	bool warm, draining, drained;
};

struct cv_listener_socket {
	struct cv_lane *lane;
	enum cv_listener slot;
	int fd; /* owned, -1 = closed */
	struct event ev;
	struct event retry; /* after accept() has failed */
	bool on;
};

struct cv_lane {
	TAILQ_ENTRY(cv_lane) node;
	struct cv_proxy_pod *pod;
	struct cv_proxy_worker *pw;
	unsigned refs; /* 1 until stopped, and one each session, HBONE connection and DNS query */
	struct cv_listener_socket listeners[CV_LISTENER_NR];
	struct cv_dns_lane *dns; /* NULL = no DNS proxy */
	TAILQ_HEAD(, cv_session) sessions; /* until they are freed, dead ones as well */
	TAILQ_HEAD(, cv_hbone_conn) conns; /* the same */
	unsigned nr_connections, nr_waiting;
	bool listed; /* in pw->lanes: its worker has seen it */
	bool stopped;
};

struct cv_proxy_pod {
	TAILQ_ENTRY(cv_proxy_pod) node;
	struct cv_proxy *proxy;
	char *ns, *name, *service_account, *uid; /* service_account NULL = the record's */
	uint32_t number;
	const struct cv_netns *netns; /* borrowed until stopped */
	bool self; /* 15008 alone */
	struct cv_sock_config sock; /* of every socket in it */
	bool transparent; /* listeners and legs can use addresses that are not the pod's */
	_Atomic unsigned refs; /* one each lane, one of the control thread */
	_Atomic unsigned running; /* lanes that still have sockets */
	void (*done)(void *arg);
	void *done_arg;
	struct cv_lane *lanes[]; /* one a worker */
};

/* Ports of 61000 and above that clients of plaintext inbound connections use right now; see
 * dial.c. */
enum { CV_LEG_PORT_FIRST = 61000, CV_LEG_PORT_LAST = 65535 };

struct cv_proxy {
	struct cv_proxy_opts opts;
	cv_str network, cluster_id;
	struct cv_proxy_worker *workers; /* opts.nr_workers */
	TAILQ_HEAD(, cv_proxy_pod) pods; /* control thread, as the two below */
	uint64_t pods_started, pods_stopped;
	_Atomic unsigned client_ports[CV_LEG_PORT_LAST - CV_LEG_PORT_FIRST + 1];
	_Atomic unsigned undrained; /* workers that still have connections */
	void (*drain_done)(void *arg);
	void *drain_arg;
	struct event *drain_deadline;
};

/* The worker's resolver; NULL when none can be made (logged). The worker's thread. */
struct cv_resolver *cv_proxy_resolver(struct cv_proxy_worker *pw);
/* 64 random bits; not for secrets. */
uint64_t cv_proxy_random(struct cv_proxy_worker *pw);

/* Any thread. */
void cv_pod_put(struct cv_proxy_pod *pod);
struct cv_lane *cv_lane_ref(struct cv_lane *lane);
void cv_lane_put(struct cv_lane *lane);
/* A connection that wants to live in this lane: false when one of the limits says no. */
bool cv_lane_admit(struct cv_lane *lane);
/* Takes back what cv_lane_admit gave; looks whether a drain has ended. */
void cv_lane_leave(struct cv_lane *lane);
/* Waiting for a workload record or a certificate: bounded; false = too many. */
bool cv_lane_wait_begin(struct cv_lane *lane);
void cv_lane_wait_end(struct cv_lane *lane);
/* The pod's record as the store has it now, NULL = none. New reference. */
struct cv_workload *cv_lane_workload(struct cv_lane *lane);
/* The SPIFFE identity of a workload; cv_identity_fini it. */
void cv_proxy_identity(const struct cv_workload *w, struct cv_identity *ret);
/* Baggage of a local workload; borrows its strings. */
struct cv_baggage cv_proxy_baggage(const struct cv_proxy *p, const struct cv_workload *w);
/* ztunnel's text for a record that did not come in time. */
void cv_lane_no_workload_text(const struct cv_lane *lane, char *buf, size_t size);

/* Control thread: opens the sockets of every lane. What is open after a failure is the lanes'. */
int cv_listener_open(struct cv_proxy_pod *pod);
/* The lane's worker. Idempotent. */
void cv_listener_accept(struct cv_lane *lane);
void cv_listener_close(struct cv_lane *lane);
/* Accepts what the kernel has already accepted for us, before a close would reset it. */
void cv_listener_flush(struct cv_lane *lane);

/* Was this the last connection of a worker that drains? */
void cv_proxy_check_drained(struct cv_proxy_worker *pw);
/* Closes every connection of the lane with this error. */
void cv_lane_kill(struct cv_lane *lane, const char *error);
