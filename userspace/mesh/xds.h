/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control plane as a source of the store: delta ADS for workloads and services (Address) and
 * policies (Authorization). Control thread.
 *
 * On demand, workloads and services are subscribed to when somebody asks for them (those of this node
 * come unasked); policies always all.
 *
 * What it holds serves for as long as the control plane is away. Resources are applied while the
 * response that carries them still arrives; one that cannot be used is refused by name and the others
 * count.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "userspace/mesh/channel.h"
#include "userspace/mesh/store.h"

struct cv_xds;

enum cv_xds_type { CV_XDS_ADDRESS, CV_XDS_AUTHORIZATION, CV_XDS_TYPE_NR };

struct cv_xds_opts {
	struct cv_worker *control;
	struct cv_store *store;
	const struct cv_channel_opts *channel; /* of the start only */
	/* Of the start only; NULL = unset. */
	const char *instance_ip, *pod_name, *pod_namespace, *node_name;
	const json_t *metadata; /* an object: the proxy's metadata, any JSON; NULL = none */
	bool on_demand; /* XDS_ON_DEMAND: workloads and services only when asked for */
	void (*on_warm)(void *arg); /* once: the first responses of both types are in; may be NULL */
	void *arg;
};
/* Connects, and stays connected. -EINVAL with one line in error. */
int cv_xds_start(struct cv_xds **ret, const struct cv_xds_opts *opts, char *error,
		 size_t error_size);
void cv_xds_stop(struct cv_xds **x);

/* On demand only. Asks for what a key names ("network/ip", "namespace/host"); fn runs once, on worker:
 * answered = the control plane has said what there is, which is in the store by then, or that there
 * is nothing; else it did not say, or too much is being asked for. Any thread. */
typedef void (*cv_xds_demand_fn)(bool answered, void *arg);
void cv_xds_demand(struct cv_xds *x, struct cv_worker *worker, cv_str key, cv_xds_demand_fn fn,
		   void *arg);

/* Why a stream ended, as ztunnel's metric counts it. */
enum cv_xds_end {
	CV_XDS_END_CONNECTION_ERROR,
	CV_XDS_END_ERROR,
	CV_XDS_END_RECONNECT,
	CV_XDS_END_COMPLETE,
	CV_XDS_END_NR,
};
extern const char *const cv_xds_end_names[CV_XDS_END_NR];
extern const char *const cv_xds_type_urls[CV_XDS_TYPE_NR];

struct cv_xds_stats {
	bool connected; /* a response has come on the stream that is open */
	uint64_t age_ms; /* since the control plane was last there; 0 = it is */
	uint64_t ends[CV_XDS_END_NR];
	uint64_t messages[CV_XDS_TYPE_NR], bytes[CV_XDS_TYPE_NR];
	uint64_t resources[CV_XDS_TYPE_NR]; /* held */
	uint64_t refused; /* resources, since the start */
};
void cv_xds_stats(const struct cv_xds *x, struct cv_xds_stats *ret);
