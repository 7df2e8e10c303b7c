/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's life: parts are started in the order of the table `stages` and stopped in the
 * reverse order. What one part tells another is wired in wiring.c.
 */
#include "userspace/daemon/daemon.h"

#define CV_LOG_TARGET "main"

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/base/memory.h"
#include "userspace/daemon/stages.h"
#include "userspace/mesh/policy.h"

/* Stops tolerate what was never started, so a failure stops everything up to its stage. The
 * workers stop before what their connections use is freed. */
static const struct stage {
	const char *name;
	int (*start)(struct cv_daemon *d);
	void (*stop)(struct cv_daemon *d);
} stages[] = {
	{ "control thread", cv_start_control, cv_stop_control },
	{ "settings", cv_start_settings, cv_stop_settings },
	{ "telemetry", cv_start_telemetry, cv_stop_telemetry },
	{ "certificates", cv_start_certs, cv_stop_certs },
	{ "store", cv_start_store, cv_stop_store },
	{ "workloads", cv_start_source, cv_stop_source },
	{ "BPF programs", cv_start_bpf, cv_stop_bpf },
	{ "proxy", NULL, cv_stop_proxy },
	{ "workers", cv_start_workers, cv_stop_workers },
	{ "control thread's priority", cv_start_batch, NULL },
	{ "proxy", cv_start_proxy, NULL },
	{ "node", cv_start_node, cv_stop_node },
	{ "control socket", cv_start_control_socket, cv_stop_control_socket },
	{ "HTTP servers", cv_start_http, cv_stop_http },
	{ "pods", cv_start_pods, NULL },
	{ "signals", cv_start_signals, cv_stop_signals },
	{ "memory", cv_start_trim, cv_stop_trim },
};

int cv_daemon_start(struct cv_daemon *d)
{
	cv_memory_init();
	d->started_ms = cv_now_ms();
	cv_policy_log_at_info(d->env.authz_info);
	cv_info("culvertd %s starts on node %s", CULVERT_VERSION,
		d->env.node_name ? d->env.node_name : "(unnamed)");
	for (size_t i = 0; i < CV_ARRAY_SIZE(stages); i++) {
		int r = stages[i].start ? stages[i].start(d) : 0;

		if (r < 0) {
			d->failed = true;
			return cv_log_err(r, "start: %s", stages[i].name);
		}
	}
	cv_info("ready after %llu ms", (unsigned long long)(cv_now_ms() - d->started_ms));
	return 0;
}

int cv_daemon_run(struct cv_daemon *d)
{
	return cv_worker_run(d->control);
}

static void on_drained(void *arg)
{
	struct cv_daemon *d = arg;

	cv_info("drained");
	cv_worker_quit(d->control);
}

void cv_daemon_shutdown(struct cv_daemon *d)
{
	if (d->draining)
		return;
	d->draining = true;
	cv_proxy_drain(d->proxy, (unsigned)d->env.termination_deadline_ms, on_drained, d);
}

void cv_daemon_stop(struct cv_daemon *d)
{
	for (size_t i = CV_ARRAY_SIZE(stages); i-- > 0;)
		if (stages[i].stop)
			stages[i].stop(d);
}
