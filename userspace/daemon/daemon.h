/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon as one object: every part, in the order in which it is started. Other modules know
 * nothing of each other; what one must tell another is wired in wiring.c.
 */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "loader/loader.h"
#include "userspace/daemon/control_socket.h"
#include "userspace/daemon/env.h"
#include "userspace/daemon/identities.h"
#include "userspace/daemon/settings.h"
#include "userspace/io/worker.h"
#include "userspace/limits.h"
#include "userspace/mesh/certs.h"
#include "userspace/mesh/local_file.h"
#include "userspace/mesh/store.h"
#include "userspace/mesh/xds.h"
#include "userspace/node/compile.h"
#include "userspace/node/flows.h"
#include "userspace/node/pods.h"
#include "userspace/node/zds.h"
#include "userspace/proxy/proxy.h"
#include "userspace/telemetry/telemetry.h"

struct cv_daemon {
	struct cv_env env;
	struct cv_settings settings;
	struct cv_settings_watch *settings_watch; /* NULL = there is no culvert.yaml */
	uint64_t started_ms;

	struct cv_worker *control;
	struct cv_worker *workers[CV_LIMIT_WORKERS];
	unsigned nr_workers;

	struct cv_telemetry *telemetry;
	struct cv_store *store;
	struct cv_crl *crl; /* NULL = no CRL_PATH */
	struct cv_certs *certs;
	struct cv_bpf *bpf;
	struct cv_proxy *proxy;
	struct cv_pods *pods;
	struct cv_compile *compile;
	struct cv_flows *flows;
	/* in ztunnel's place, instead of bpf, pods, compile and flows: */
	struct cv_zds *zds;
	struct cv_netns own_netns;
	struct cv_proxy_pod *self; /* our own pod; NULL = not known */
	struct cv_local_file *file;
	struct cv_xds *xds; /* NULL = no control plane */
	struct cv_control_socket *control_socket;
	struct cv_identities identities; /* of the enrolled pods: what is prefetched */

	struct event *on_sigterm, *on_sigint, *trim;
	int nice; /* of the control thread, before it was lowered */
	bool in_batch; /* it was lowered */
	uint64_t trim_cpu_ns; /* that the process had used when trim was last due */
	bool pods_started, let_in; /* see cv_let_in */
	uint64_t judged_version; /* of the policies, when the proxy was last told to judge again */
	bool compile_due; /* a compile is queued on the control worker */
	bool http_started;
	bool draining;
	bool failed; /* to start */
};

/* Starts everything; on failure logs why, undoes it and returns -errno. */
int cv_daemon_start(struct cv_daemon *d);
/* Until SIGTERM, SIGINT or /quitquitquit, and through the drain. */
int cv_daemon_run(struct cv_daemon *d);
void cv_daemon_stop(struct cv_daemon *d);
/* Begins the drain; the second call does nothing. Control thread. */
void cv_daemon_shutdown(struct cv_daemon *d);

/* Enrolled pods, wherever they come from. fn's non-zero result ends it and is returned. */
int cv_daemon_pods_each(struct cv_daemon *d, int (*fn)(const struct cv_pod_view *pod, void *arg),
			void *arg);
/* Takes what the kernel knows of direct flows into the connection list. */
void cv_daemon_flows_sync(struct cv_daemon *d);

/* The control command `explain`; arg is the daemon. */
void cv_daemon_explain(struct cv_control_request *req, void *arg);
/* What control_commands.c answers on the control socket. */
void cv_daemon_control_ops(struct cv_daemon *d, struct cv_control_ops *ret);
/* Families of metrics that only the daemon can see: the kernel's reasons, maps, the proxy. */
void cv_daemon_metrics(struct cv_daemon *d);
/* workloadState of config_dump. New reference. */
json_t *cv_daemon_pods_json(void *daemon);
