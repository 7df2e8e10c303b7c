/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy: per pod, listeners on 15001, 15006 and 15008 inside its network namespace, and
 * the connections that come in by them; and the DNS proxy on 15053 of its loopback.
 *
 * Every worker has its own listening socket of each port (SO_REUSEPORT). The control thread
 * starts and stops pods; everything of a connection stays on the worker that accepted it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "loader/loader.h"
#include "userspace/io/sock.h"
#include "userspace/io/worker.h"
#include "userspace/mesh/certs.h"
#include "userspace/mesh/dns_names.h"
#include "userspace/mesh/store.h"
#include "userspace/mesh/xds.h"
#include "userspace/telemetry/telemetry.h"

struct cv_proxy;

struct cv_proxy_dns {
	struct cv_sockaddr addrs[2]; /* where it listens, one a family */
	unsigned nr_addrs; /* 0 = no DNS proxy */
	struct cv_dns_zone zone; /* borrowed texts */
};

struct cv_proxy_opts {
	struct cv_worker *control; /* where done() callbacks run */
	struct cv_worker **workers;
	unsigned nr_workers;
	struct cv_store *store;
	struct cv_certs *certs;
	struct cv_xds *demand; /* where unknown addresses are asked for; NULL = all is known */
	struct cv_telemetry *telemetry;
	struct cv_bpf *bpf; /* NULL = no kernel plane (drop-in mode) */
	struct cv_sock_config sock;
	bool ipv6; /* IPV6_ENABLED */
	int original_src; /* ENABLE_ORIG_SRC: 1 must, 0 never, -1 best effort */
	bool port_reuse; /* INPOD_PORT_REUSE */
	bool response_baggage; /* ENABLE_RESPONSE_BAGGAGE */
	bool localhost_app_tunnel; /* LOCALHOST_APP_TUNNEL */
	unsigned pool_max_streams; /* POOL_MAX_STREAMS_PER_CONNECTION */
	unsigned pool_idle_ms; /* POOL_UNUSED_RELEASE_TIMEOUT */
	unsigned max_connections, max_connections_pod; /* culvert.yaml limits, per worker */
	struct cv_proxy_dns dns;
	const char *network; /* NETWORK */
	const char *cluster_id;
};
int cv_proxy_new(struct cv_proxy **ret, const struct cv_proxy_opts *opts);

/* One pod's proxy. `uid` keys workloadState; `number` is its index in the BPF maps (0 = none). */
struct cv_proxy_pod;
struct cv_proxy_pod_info {
	const char *ns, *name, *service_account, *uid;
	uint32_t number;
	const struct cv_netns *netns; /* borrowed until the pod is stopped */
	/* The daemon's own pod, which no rule redirects: 15008 alone, so that its metrics can be
	 * asked for over HBONE; no mark, no address but its own. */
	bool self;
};
/* Control thread. Binds every listener on every worker, puts them into cv_listeners, starts to
 * accept when the store is warm. All or nothing. */
int cv_proxy_pod_start(struct cv_proxy *p, const struct cv_proxy_pod_info *info,
		       struct cv_proxy_pod **ret);
/* Control thread. Closes the listeners at once and every connection of the pod; done(arg) runs
 * on the control thread when no socket and no thread is left in the pod's namespace. */
void cv_proxy_pod_stop(struct cv_proxy_pod **pod, void (*done)(void *arg), void *arg);

/* Policies changed: every inbound connection is judged again, denied ones are closed. */
void cv_proxy_policy_changed(struct cv_proxy *p);
/* Other revocation lists are in force: connections of revoked peers are closed. */
void cv_proxy_revocations_changed(struct cv_proxy *p);
/* The store became warm: listeners accept. */
void cv_proxy_warm(struct cv_proxy *p);
/* Graceful: listeners close, HBONE servers send GOAWAY, connections run on; done(arg) on the
 * control thread when none is left or after deadline_ms, when the rest is closed
 * (`connection closed due to connection drain`). */
void cv_proxy_drain(struct cv_proxy *p, unsigned deadline_ms, void (*done)(void *arg), void *arg);
void cv_proxy_free(struct cv_proxy **p); /* after drain and after the workers have stopped */

/* Bytes held for connections, pooled connections, … for metrics and status. */
struct cv_proxy_stats {
	uint64_t connections, hbone_inbound, hbone_pooled, waiting;
	uint64_t pods_started, pods_stopped; /* since the start */
};
void cv_proxy_stats(struct cv_proxy *p, struct cv_proxy_stats *ret);
