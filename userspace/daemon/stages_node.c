/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of what carries traffic: the BPF programs, the proxy, and the node's pods with the
 * compiler of their verdicts.
 */
#include "userspace/daemon/stages.h"

#include <string.h>
#include <errno.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/log.h"
#include "userspace/daemon/wiring.h"

int cv_start_bpf(struct cv_daemon *d)
{
	const struct cv_bpf_opts opts = {
		.bpffs_dir = d->env.bpffs_dir,
		.cgroup_dir = d->env.cgroup_dir,
		.no_fastpath = !d->settings.fast_path,
		.debug = cv_log_enabled(CV_LOG_DEBUG, "libbpf"),
	};
	int r = cv_bpf_open(&d->bpf, &opts);

	if (r == -EBUSY)
		cv_error("another daemon uses %s: stop it, or set CULVERT_BPFFS", d->env.bpffs_dir);
	else if (r < 0)
		cv_error("the BPF programs cannot be loaded below %s: %s", d->env.bpffs_dir,
			 cv_strerror(-r));
	else
		cv_info("BPF programs %s below %s",
			cv_bpf_adopted(d->bpf) ? "adopted" : "loaded and pinned", d->env.bpffs_dir);
	return r;
}

/* What a failed first start has loaded goes away again; what an earlier daemon left stays. */
void cv_stop_bpf(struct cv_daemon *d)
{
	bool unload = d->bpf && d->failed && !cv_bpf_adopted(d->bpf);

	cv_bpf_close(&d->bpf);
	if (unload && cv_bpf_unload(d->env.bpffs_dir) < 0)
		cv_warn("%s could not be emptied", d->env.bpffs_dir);
}

int cv_start_proxy(struct cv_daemon *d)
{
	struct cv_proxy_opts opts = {
		.control = d->control,
		.workers = d->workers,
		.nr_workers = d->nr_workers,
		.store = d->store,
		.certs = d->certs,
		.demand = d->env.xds_on_demand ? d->xds : NULL,
		.telemetry = d->telemetry,
		.bpf = d->bpf,
		.sock = d->env.sock,
		.ipv6 = d->env.ipv6,
		.original_src = d->env.original_src,
		.port_reuse = d->env.port_reuse,
		.response_baggage = d->env.response_baggage,
		.localhost_app_tunnel = d->env.localhost_app_tunnel,
		.dns.nr_addrs = d->env.nr_dns_addrs,
		.dns.zone = {
			.domain = d->env.cluster_domain,
			.preferred_ns = d->env.preferred_ns,
			.ipv6 = d->env.ipv6,
		},
		.pool_max_streams = (unsigned)d->env.pool_max_streams,
		.pool_idle_ms = (unsigned)d->env.pool_idle_ms,
		.max_connections = d->settings.max_connections,
		.max_connections_pod = d->settings.max_connections_pod,
		.network = d->env.network ? d->env.network : "",
		.cluster_id = d->env.cluster_id ? d->env.cluster_id : "",
	};

	memcpy(opts.dns.addrs, d->env.dns_addrs, sizeof(opts.dns.addrs));
	return cv_proxy_new(&d->proxy, &opts);
}

void cv_stop_proxy(struct cv_daemon *d)
{
	cv_proxy_free(&d->proxy);
}

int cv_start_pod_proxy(const struct cv_pod_view *pod, void **ret_handle, void *arg)
{
	struct cv_daemon *d = arg;
	const struct cv_proxy_pod_info info = {
		.ns = pod->ns,
		.name = pod->name,
		.service_account = pod->service_account,
		.uid = pod->uid,
		.number = pod->number,
		.netns = pod->netns,
	};

	return cv_proxy_pod_start(d->proxy, &info, (struct cv_proxy_pod **)ret_handle);
}

void cv_stop_pod_proxy(void *handle, void (*done)(void *done_arg), void *done_arg, void *arg)
{
	struct cv_proxy_pod *pod = handle;

	(void)arg; /* the handle is enough */
	cv_proxy_pod_stop(&pod, done, done_arg);
}

int cv_start_node(struct cv_daemon *d)
{
	const struct cv_pods_opts pods = {
		.control = d->control,
		.bpf = d->bpf,
		.store = d->store,
		.run_dir = d->env.run_dir,
		.start = cv_start_pod_proxy,
		.stop = cv_stop_pod_proxy,
		.changed = cv_on_pods_changed,
		.arg = d,
	};
	struct cv_compile_opts compile = {
		.bpf = d->bpf,
		.store = d->store,
		.same_node = cv_same_node_of,
		.denied = cv_on_flow_denied,
		.arg = d,
	};
	struct cv_flows_opts flows = {
		.control = d->control,
		.bpf = d->bpf,
		.store = d->store,
		.telemetry = d->telemetry,
	};
	int r = cv_pods_new(&d->pods, &pods);

	if (r < 0)
		return r;
	compile.pods = flows.pods = d->pods;
	cv_tell_pods_cgroup(d);
	r = cv_flows_new(&d->flows, &flows);
	return r < 0 ? r : cv_compile_new(&d->compile, &compile);
}

void cv_stop_node(struct cv_daemon *d)
{
	cv_compile_free(&d->compile);
	cv_flows_free(&d->flows);
	cv_pods_free(&d->pods);
	cv_identities_fini(&d->identities);
}

/* The pods that were enrolled before; then their verdicts; then the listeners accept. */
int cv_start_pods(struct cv_daemon *d)
{
	int r = cv_pods_adopt(d->pods);

	if (r < 0)
		return cv_log_err(r, "pods that were enrolled before");
	if (r > 0)
		cv_info("%d pods that were enrolled before are enrolled again", r);
	cv_identities_sync(d);
	d->pods_started = true;
	cv_let_in(d);
	cv_ready_done(d->telemetry, "proxy");
	cv_ready_done(d->telemetry, "workload proxy manager");
	return 0;
}
