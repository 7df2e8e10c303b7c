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
	enum { BOTH_MODES, FULL_MODE, IN_POD } mode; /* IN_POD: in ztunnel's place */
} stages[] = {
	{ "control thread", cv_start_control, cv_stop_control, BOTH_MODES },
	{ "settings", cv_start_settings, cv_stop_settings, BOTH_MODES },
	{ "telemetry", cv_start_telemetry, cv_stop_telemetry, BOTH_MODES },
	{ "certificates", cv_start_certs, cv_stop_certs, BOTH_MODES },
	{ "store", cv_start_store, cv_stop_store, BOTH_MODES },
	{ "workloads", cv_start_source, cv_stop_source, BOTH_MODES },
	{ "privileges", cv_start_privileges, NULL, IN_POD },
	{ "BPF programs", cv_start_bpf, cv_stop_bpf, FULL_MODE },
	{ "ZDS", NULL, cv_stop_inpod, IN_POD },
	{ "proxy", NULL, cv_stop_proxy, BOTH_MODES },
	{ "workers", cv_start_workers, cv_stop_workers, BOTH_MODES },
	{ "control thread's priority", cv_start_batch, NULL, FULL_MODE }, /* IN_POD: when ready */
	{ "proxy", cv_start_proxy, NULL, BOTH_MODES },
	{ "node", cv_start_node, cv_stop_node, FULL_MODE },
	{ "ZDS", cv_start_inpod, NULL, IN_POD },
	{ "control socket", cv_start_control_socket, cv_stop_control_socket, BOTH_MODES },
	{ "HTTP servers", cv_start_http, cv_stop_http, BOTH_MODES },
	{ "pods", cv_start_pods, NULL, FULL_MODE },
	{ "pods", cv_start_inpod_pods, NULL, IN_POD },
	{ "signals", cv_start_signals, cv_stop_signals, BOTH_MODES },
	{ "memory", cv_start_trim, cv_stop_trim, BOTH_MODES },
};

static bool is_wanted(const struct stage *s, const struct cv_daemon *d)
{
	return s->mode == BOTH_MODES || (s->mode == IN_POD) == d->env.drop_in;
}

int cv_daemon_start(struct cv_daemon *d)
{
	d->own_netns.fd = -1;
	cv_memory_init();
	d->started_ms = cv_now_ms();
	cv_policy_log_at_info(d->env.authz_info);
	cv_info("culvertd %s starts on node %s", CULVERT_VERSION,
		d->env.node_name ? d->env.node_name : "(unnamed)");
	for (size_t i = 0; i < CV_ARRAY_SIZE(stages); i++) {
		bool wanted = stages[i].start && is_wanted(&stages[i], d);
		int r = wanted ? stages[i].start(d) : 0;

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
	cv_end_batch(d);
	if (d->zds)
		cv_zds_stop(d->zds);
	cv_proxy_drain(d->proxy, (unsigned)d->env.termination_deadline_ms, on_drained, d);
}

void cv_daemon_stop(struct cv_daemon *d)
{
	for (size_t i = CV_ARRAY_SIZE(stages); i-- > 0;)
		if (stages[i].stop && is_wanted(&stages[i], d))
			stages[i].stop(d);
}
