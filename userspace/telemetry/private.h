/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of struct cv_telemetry, for telemetry's own files. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "userspace/limits.h"
#include "userspace/telemetry/dns_series.h"
#include "userspace/telemetry/series.h"
#include "userspace/telemetry/telemetry.h"

enum { CV_TRAFFIC_SHARDS = 16 };

/* One connection and reporter. Everything but the atomics is immutable once published; flag
 * and error are written before closed_ms, which publishes them. */
struct cv_traffic {
	_Atomic int ref; /* the owner's, then the closed ring's; and those of walks */
	struct cv_telemetry *telemetry;
	struct cv_series *series;
	struct cv_traffic *next, **link; /* of the shard, under its lock */
	unsigned shard;
	struct cv_traffic_info info; /* owns its references and texts */
	_Atomic uint64_t client_to_server, server_to_client;
	_Atomic uint64_t closed_ms; /* 0 = live */
	enum cv_flag flag;
	char *error;
};

struct cv_traffic_shard {
	pthread_mutex_t lock;
	struct cv_traffic *first;
	size_t n;
};

struct cv_metric {
	struct cv_metric *next;
	char *name, *help;
	bool counter;
	cv_metric_fn fn;
	void *arg;
};

struct cv_ready_task {
	struct cv_ready_task *next; /* sorted by name */
	char name[];
};

struct cv_http;

struct cv_telemetry {
	char *istio_version;
	struct cv_series_table series;
	struct cv_dns_series_table dns;
	_Atomic int64_t sockets_open[2]; /* by enum cv_reporter, as the next */
	_Atomic uint64_t revoked[2];

	pthread_mutex_t metrics_lock;
	struct cv_metric *metrics;

	pthread_mutex_t names_lock;
	struct cv_name_series *names; /* names.c */
	unsigned nr_names;

	struct cv_traffic_shard shards[CV_TRAFFIC_SHARDS];
	pthread_mutex_t closed_lock;
	struct cv_traffic *closed[CV_LIMIT_CLOSED_FLOWS]; /* ring */
	unsigned closed_next;

	pthread_mutex_t ready_lock;
	struct cv_ready_task *pending;
	uint64_t started_ms;

	struct cv_http *http;
};

/* traffic.c */
void cv_traffic_init(struct cv_telemetry *t);
void cv_traffic_fini(struct cv_telemetry *t);
/* Every live record, then, when asked for, the closed ones, newest first; each with a reference for the caller, and
 * the array is the caller's. Returns how many, or -ENOMEM. */
ssize_t cv_traffic_snapshot(struct cv_telemetry *t, bool with_closed, struct cv_traffic ***ret);
void cv_traffic_put(struct cv_traffic *c);

/* names.c */
void cv_names_init(struct cv_telemetry *t);
void cv_names_fini(struct cv_telemetry *t);

/* access.c */
void cv_access_opened(const struct cv_traffic *c);
void cv_access_closed(const struct cv_traffic *c);

/* The address of the inbound or outbound end that a person would name: the authority of
 * HBONE, else the address itself. */
const struct cv_sockaddr *cv_traffic_target(const struct cv_traffic_info *info);
