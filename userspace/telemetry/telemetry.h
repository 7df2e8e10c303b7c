/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Telemetry as one object: the metric registry, the connection list, and the HTTP servers for
 * metrics (15020), readiness (15021) and admin (15000), which run on the control worker.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "userspace/io/worker.h"
#include "userspace/mesh/certs.h"
#include "userspace/mesh/local_file.h"
#include "userspace/mesh/store.h"
#include "userspace/telemetry/traffic.h"

struct cv_telemetry_opts {
	const char *istio_version; /* istio_build's tag */
	unsigned max_series; /* 0 = CV_LIMIT_SERIES */
};
int cv_telemetry_new(struct cv_telemetry **ret, const struct cv_telemetry_opts *opts);
void cv_telemetry_free(struct cv_telemetry **t);

/* --- gauges and counters of other parts --- */
/* A family that its owner prints at scrape time, on the control thread. name without _total.
 * fn calls cv_metric_sample for each sample. */
struct cv_metric_sink;
typedef void (*cv_metric_fn)(struct cv_metric_sink *sink, void *arg);
void cv_metric_register(struct cv_telemetry *t, const char *name, const char *help, bool counter,
			cv_metric_fn fn, void *arg);
/* labels: `k="v",k2="v2"` already escaped, or NULL. */
void cv_metric_sample(struct cv_metric_sink *sink, const char *labels, double value);
/* Escapes a label value into buf; returns buf. */
const char *cv_metric_escape(const char *value, char *buf, size_t size);
/* The whole exposition, for the server and for tests; free() it. */
char *cv_metrics_text(struct cv_telemetry *t);

/* --- live and closed connections as JSON: arrays of objects, see connections.c for the shape --- */
json_t *cv_connections_json(struct cv_telemetry *t); /* live */
json_t *cv_flows_json(struct cv_telemetry *t); /* live and recently closed, with tier and bytes */
/* connections of one pod as config_dump's workloadState has them: {inbound:[…],outbound:[…]} */
json_t *cv_pod_connections_json(struct cv_telemetry *t, const char *pod_uid);

/* --- readiness --- */
/* Tasks by name; ready when none is pending. Any thread. Completion logs at info with the time. */
void cv_ready_add(struct cv_telemetry *t, const char *task);
void cv_ready_done(struct cv_telemetry *t, const char *task);
/* Names of the tasks that are not done, sorted: an array, a new reference. */
json_t *cv_ready_pending(struct cv_telemetry *t);

/* --- HTTP servers --- */
/* Every address is bound at call time; -errno. Paths: GET /metrics and /stats/prometheus;
 * /healthz/ready; admin: /, /config_dump, /logging, /quitquitquit. */
struct cv_http_opts {
	struct cv_worker *control;
	struct cv_store *store;
	struct cv_certs *certs; /* may be NULL */
	bool ipv6;
	uint16_t admin_port, metrics_port, readiness_port;
	bool admin_read_only; /* changes over HTTP are refused with 403 and a hint at the control socket */
	/* Parts of config_dump that other modules own; each returns a new reference or NULL. */
	json_t *(*pods_json)(void *arg); /* workloadState */
	json_t *(*config_json)(void *arg); /* config */
	json_t *(*static_config_json)(void *arg); /* staticConfig */
	void (*shutdown)(void *arg); /* /quitquitquit */
	void *arg;
};
int cv_http_start(struct cv_telemetry *t, const struct cv_http_opts *opts);
void cv_http_stop(struct cv_telemetry *t);
/* The ports in use, for tests that ask for port 0. */
enum cv_http_which { CV_HTTP_ADMIN, CV_HTTP_METRICS, CV_HTTP_READINESS, CV_HTTP_NR };
uint16_t cv_http_port(const struct cv_telemetry *t, enum cv_http_which which);

/* config_dump's members, also served over the control socket. New references. */
json_t *cv_dump_workloads(struct cv_store *s);
json_t *cv_dump_services(struct cv_store *s);
json_t *cv_dump_policies(struct cv_store *s);
json_t *cv_dump_staged_services(struct cv_store *s);
/* One object as the dump has it; also for staticConfig. */
json_t *cv_dump_workload(const struct cv_workload *w);
json_t *cv_dump_service(const struct cv_service *svc);
json_t *cv_dump_policy(const struct cv_policy *p);
/* What stands in the local file, for staticConfig. */
json_t *cv_dump_static_config(const struct cv_mesh_file *f);
json_t *cv_dump_certificates(struct cv_certs *c);
json_t *cv_dump_version(const char *istio_version);
