/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one part of the daemon tells another:
 *
 *   store, pods, settings change ─► compile (verdicts, services) ─► flows that are now denied die
 *   policies change              ─► the proxy judges its connections again
 *   revocation lists change      ─► the proxy judges its HBONE peers again
 *   pods change                  ─► certificates prefetched or forgotten
 */
#include "userspace/daemon/wiring.h"

#define CV_LOG_TARGET "main"

#include "userspace/base/log.h"

void cv_run_compile(void *arg)
{
	struct cv_daemon *d = arg;
	int r;

	d->compile_due = false;
	r = cv_compile_run(d->compile);
	if (r < 0)
		cv_error("verdicts could not be written: %s", cv_strerror(-r));
}

/* Many changes in one iteration of the loop are compiled once. */
static void queue_compile(struct cv_daemon *d)
{
	if (d->compile_due || !d->compile)
		return;
	d->compile_due = true;
	cv_worker_defer(d->control, cv_run_compile, d);
}

void cv_on_store_changed(const struct cv_store_change *change, void *arg)
{
	struct cv_daemon *d = arg;

	queue_compile(d);
	if (change->workloads)
		cv_identities_sync(d);
	if (d->proxy && cv_store_policy_version(d->store) != d->judged_version)
		cv_proxy_policy_changed(d->proxy);
	d->judged_version = cv_store_policy_version(d->store);
}

void cv_on_pods_changed(void *arg)
{
	struct cv_daemon *d = arg;

	cv_identities_sync(d);
	queue_compile(d);
}

void cv_tell_pods_cgroup(struct cv_daemon *d)
{
	int r = d->bpf ? cv_bpf_set_pods_cgroup(d->bpf, d->settings.pods_cgroup) : 0;

	if (r < 0)
		cv_warn("capture.podsCgroup: %s: %s", cv_str_text(d->settings.pods_cgroup),
			cv_strerror(-r));
}

void cv_on_settings_changed(void *arg)
{
	cv_tell_pods_cgroup(arg);
	queue_compile(arg);
}

void cv_on_revocations_changed(void *arg)
{
	struct cv_daemon *d = arg;

	if (d->proxy)
		cv_proxy_revocations_changed(d->proxy);
}

void cv_on_warm(struct cv_daemon *d)
{
	cv_store_set_warm(d->store);
	cv_ready_done(d->telemetry, "state manager");
	cv_let_in(d);
}

void cv_let_in(struct cv_daemon *d)
{
	if (d->let_in || !d->pods_started || !cv_store_is_warm(d->store))
		return;
	d->let_in = true;
	if (d->compile)
		cv_run_compile(d);
	cv_proxy_warm(d->proxy);
	if (d->zds)
		cv_zds_start(d->zds);
}

int cv_daemon_pods_each(struct cv_daemon *d, int (*fn)(const struct cv_pod_view *pod, void *arg),
			void *arg)
{
	if (d->zds)
		return cv_zds_each(d->zds, fn, arg);
	return d->pods ? cv_pods_each(d->pods, fn, arg) : 0;
}

void cv_daemon_flows_sync(struct cv_daemon *d)
{
	if (d->flows)
		cv_flows_sync(d->flows);
}

enum cv_same_node cv_same_node_of(const char *ns, const char *name, void *arg)
{
	struct cv_daemon *d = arg;

	return cv_settings_same_node(&d->settings, ns, name);
}

void cv_on_flow_denied(uint64_t cookie, void *arg)
{
	struct cv_daemon *d = arg;

	cv_flows_deny(d->flows, cookie);
}
