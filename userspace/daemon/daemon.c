/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's life: parts are started in the order of the table `stages`, stopped in the
 * reverse order, and told of each other here and nowhere else.
 *
 *   store, pods, settings change ─► compile (verdicts, services) ─► flows that are now denied die
 *   policies change              ─► the proxy judges its connections again
 *   pods change                  ─► certificates prefetched or forgotten
 */
#include "userspace/daemon/daemon.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define CV_LOG_TARGET "main"

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/base/memory.h"
#include "userspace/mesh/policy.h"

/* --- what one part tells another ------------------------------------------------------------- */

static void run_compile(void *arg)
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
	cv_worker_defer(d->control, run_compile, d);
}

static void on_store_changed(const struct cv_store_change *change, void *arg)
{
	struct cv_daemon *d = arg;

	queue_compile(d);
	if (d->pods && change->workloads)
		cv_identities_sync(&d->identities, d->pods, d->store, d->certs);
	if (d->proxy && (change->policies || change->workloads))
		cv_proxy_policy_changed(d->proxy);
}

static void on_pods_changed(void *arg)
{
	struct cv_daemon *d = arg;

	if (!d->pods)
		return;
	cv_identities_sync(&d->identities, d->pods, d->store, d->certs);
	queue_compile(d);
}

/* The cgroup may not exist yet, or no longer: then the settings file is what to look at. */
static void tell_pods_cgroup(struct cv_daemon *d)
{
	int r = cv_bpf_set_pods_cgroup(d->bpf, d->settings.pods_cgroup);

	if (r < 0)
		cv_warn("capture.podsCgroup: %s: %s", cv_str_text(d->settings.pods_cgroup),
			cv_strerror(-r));
}

static void on_settings_changed(void *arg)
{
	tell_pods_cgroup(arg);
	queue_compile(arg);
}

static enum cv_same_node same_node_of(const char *ns, const char *name, void *arg)
{
	struct cv_daemon *d = arg;

	return cv_settings_same_node(&d->settings, ns, name);
}

static void deny_flow(uint64_t cookie, void *arg)
{
	struct cv_daemon *d = arg;

	cv_flows_deny(d->flows, cookie);
}

static int start_pod_proxy(const struct cv_pod_view *pod, void **ret_handle, void *arg)
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

static void stop_pod_proxy(void *handle, void (*done)(void *done_arg), void *done_arg, void *arg)
{
	struct cv_proxy_pod *pod = handle;

	(void)arg; /* the handle is enough */
	cv_proxy_pod_stop(&pod, done, done_arg);
}

/* --- config_dump ------------------------------------------------------------------------------ */

struct pods_dump {
	struct cv_daemon *d;
	json_t *pods;
};

static int dump_pod(const struct cv_pod_view *pod, void *arg)
{
	struct pods_dump *dump = arg;
	const char *sa = pod->service_account;
	struct cv_workload *w = cv_store_workload_local(dump->d->store, pod->ns, sa, pod->name);

	if (!sa && w)
		sa = cv_str_text(w->service_account);
	json_object_set_new(dump->pods, pod->uid,
			    json_pack("{s:s, s:{s:s, s:s, s:s, s:s}, s:o}", "state", "Up", "info",
				      "name", pod->name, "namespace", pod->ns, "serviceAccount",
				      sa ? sa : "", "trustDomain",
				      w ? cv_str_text(w->trust_domain) : "", "connections",
				      cv_pod_connections_json(dump->d->telemetry, pod->uid)));
	cv_workload_put(&w);
	return 0;
}

json_t *cv_daemon_pods_json(void *daemon)
{
	struct pods_dump dump = { daemon, json_object() };

	cv_flows_sync(dump.d->flows);
	cv_pods_each(dump.d->pods, dump_pod, &dump);
	return dump.pods;
}

static json_t *config_json(void *arg)
{
	struct cv_daemon *d = arg;

	return cv_env_json(&d->env);
}

static void on_quit_request(void *arg)
{
	cv_daemon_shutdown(arg);
}

/* --- stages ----------------------------------------------------------------------------------- */

/* The file is optional: one that is missing means the defaults, until it is made. */
static int start_settings(struct cv_daemon *d)
{
	const char *path = d->env.config_path;
	char error[512];
	int r;

	cv_settings_init(&d->settings);
	r = cv_settings_read(path, &d->settings, error, sizeof(error));
	if (r < 0 && r != -ENOENT) {
		cv_error("%s", error);
		return r;
	}
	r = cv_settings_watch(&d->settings_watch, d->control, path, &d->settings,
			      on_settings_changed, d);
	if (r == -ENOENT) {
		cv_debug("%s: no such directory; the defaults stay", path);
		return 0;
	}
	return r;
}

static void stop_settings(struct cv_daemon *d)
{
	cv_settings_unwatch(&d->settings_watch);
	cv_settings_fini(&d->settings);
}

static int start_control(struct cv_daemon *d)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			cv_warn("open files stay limited to %lu: %s", (unsigned long)files.rlim_cur,
				cv_strerror(errno));
	}
	return cv_worker_control(&d->control);
}

static void stop_control(struct cv_daemon *d)
{
	cv_worker_free(&d->control);
}

static int start_workers(struct cv_daemon *d)
{
	for (; d->nr_workers < d->env.nr_workers; d->nr_workers++) {
		int r = cv_worker_start(&d->workers[d->nr_workers], d->nr_workers);

		if (r < 0)
			return r;
	}
	return 0;
}

static void stop_workers(struct cv_daemon *d)
{
	while (d->nr_workers)
		cv_worker_stop(&d->workers[--d->nr_workers]);
}

/* After the workers: threads inherit the scheduling of the one that starts them. */
static int start_batch(struct cv_daemon *d)
{
	const struct sched_param param = {};

	(void)d; /* the calling thread is meant */
	if (sched_setscheduler(0, SCHED_BATCH, &param) < 0 || setpriority(PRIO_PROCESS, 0, 5) < 0)
		cv_debug("the control thread keeps its priority: %s", cv_strerror(errno));
	return 0;
}

static int start_telemetry(struct cv_daemon *d)
{
	const struct cv_telemetry_opts opts = {
		.istio_version = d->env.istio_version,
		.max_series = d->settings.max_series,
	};
	int r = cv_telemetry_new(&d->telemetry, &opts);

	if (r < 0)
		return r;
	cv_ready_add(d->telemetry, "state manager");
	cv_ready_add(d->telemetry, "proxy");
	cv_ready_add(d->telemetry, "workload proxy manager");
	return 0;
}

static void stop_telemetry(struct cv_daemon *d)
{
	cv_telemetry_free(&d->telemetry);
}

static int start_certs(struct cv_daemon *d)
{
	struct cv_certs_opts opts = {
		.control = d->control,
		.ttl_s = (unsigned)(d->env.secret_ttl_ms / 1000),
		.tls12 = d->env.tls12,
	};
	char error[256];
	int r = cv_devca_open(&opts.ca, d->env.dev_ca, error);

	if (r < 0) {
		cv_error("CULVERT_DEV_CA: %s", error);
		return r;
	}
	cv_warn("certificates come from the development CA in %s: not for production",
		d->env.dev_ca);
	return cv_certs_new(&d->certs, &opts);
}

static void stop_certs(struct cv_daemon *d)
{
	cv_certs_free(&d->certs);
}

static int start_store(struct cv_daemon *d)
{
	const struct cv_store_opts opts = {
		.network = d->env.network ? d->env.network : "",
		.node = d->env.node_name,
	};
	int r = cv_store_new(&d->store, &opts);

	if (r == 0)
		cv_store_subscribe(d->store, on_store_changed, d);
	return r;
}

static void stop_store(struct cv_daemon *d)
{
	cv_store_free(&d->store);
}

static int start_bpf(struct cv_daemon *d)
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
static void stop_bpf(struct cv_daemon *d)
{
	bool unload = d->bpf && d->failed && !cv_bpf_adopted(d->bpf);

	cv_bpf_close(&d->bpf);
	if (unload && cv_bpf_unload(d->env.bpffs_dir) < 0)
		cv_warn("%s could not be emptied", d->env.bpffs_dir);
}

static int start_proxy(struct cv_daemon *d)
{
	const struct cv_proxy_opts opts = {
		.control = d->control,
		.workers = d->workers,
		.nr_workers = d->nr_workers,
		.store = d->store,
		.certs = d->certs,
		.telemetry = d->telemetry,
		.bpf = d->bpf,
		.sock = d->env.sock,
		.ipv6 = d->env.ipv6,
		.original_src = d->env.original_src,
		.port_reuse = d->env.port_reuse,
		.response_baggage = d->env.response_baggage,
		.pool_max_streams = (unsigned)d->env.pool_max_streams,
		.pool_idle_ms = (unsigned)d->env.pool_idle_ms,
		.max_connections = d->settings.max_connections,
		.max_connections_pod = d->settings.max_connections_pod,
		.network = d->env.network ? d->env.network : "",
		.cluster_id = d->env.cluster_id ? d->env.cluster_id : "",
	};

	return cv_proxy_new(&d->proxy, &opts);
}

static void stop_proxy(struct cv_daemon *d)
{
	cv_proxy_free(&d->proxy);
}

static int start_node(struct cv_daemon *d)
{
	const struct cv_pods_opts pods = {
		.control = d->control,
		.bpf = d->bpf,
		.store = d->store,
		.run_dir = d->env.run_dir,
		.start = start_pod_proxy,
		.stop = stop_pod_proxy,
		.changed = on_pods_changed,
		.arg = d,
	};
	struct cv_compile_opts compile = {
		.bpf = d->bpf,
		.store = d->store,
		.same_node = same_node_of,
		.denied = deny_flow,
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
	tell_pods_cgroup(d);
	r = cv_flows_new(&d->flows, &flows);
	return r < 0 ? r : cv_compile_new(&d->compile, &compile);
}

static void stop_node(struct cv_daemon *d)
{
	cv_compile_free(&d->compile);
	cv_flows_free(&d->flows);
	cv_pods_free(&d->pods);
	cv_identities_fini(&d->identities);
}

static int start_control_socket(struct cv_daemon *d)
{
	struct cv_control_ops ops;
	int r;

	cv_daemon_control_ops(d, &ops);
	r = cv_control_socket_start(&d->control_socket, d->control, d->env.run_dir, &ops);
	if (r == -EADDRINUSE)
		cv_error("another daemon uses %s: stop it, or set CULVERT_RUN_DIR", d->env.run_dir);
	else if (r < 0)
		cv_error("control socket in %s: %s", d->env.run_dir, cv_strerror(-r));
	return r;
}

static void stop_control_socket(struct cv_daemon *d)
{
	cv_control_socket_stop(&d->control_socket);
}

/* Is there another process in our network namespace, as far as /proc shows? Whoever shares it
 * could send requests to the admin port. */
static bool is_netns_shared(void)
{
	DIR *proc = opendir("/proc");
	struct stat own, other;
	const struct dirent *e;
	char path[64];
	bool shared = false;

	if (!proc || stat("/proc/self/ns/net", &own) < 0)
		shared = true;
	while (!shared && (e = readdir(proc))) {
		if (e->d_name[0] < '1' || e->d_name[0] > '9' ||
		    strtol(e->d_name, NULL, 10) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/ns/net", e->d_name);
		shared = stat(path, &other) == 0 && other.st_ino == own.st_ino;
	}
	if (proc)
		closedir(proc);
	return shared;
}

static int start_http(struct cv_daemon *d)
{
	const struct cv_http_opts opts = {
		.control = d->control,
		.store = d->store,
		.certs = d->certs,
		.ipv6 = d->env.ipv6,
		.admin_port = 15000,
		.metrics_port = 15020,
		.readiness_port = 15021,
		.admin_read_only = is_netns_shared(),
		.pods_json = cv_daemon_pods_json,
		.config_json = config_json,
		.shutdown = on_quit_request,
		.arg = d,
	};
	int r = cv_http_start(d->telemetry, &opts);

	if (r < 0)
		return cv_log_err(r, "admin, metrics and readiness servers");
	d->http_started = true;
	cv_daemon_metrics(d);
	return 0;
}

static void stop_http(struct cv_daemon *d)
{
	if (d->http_started)
		cv_http_stop(d->telemetry);
	d->http_started = false;
}

/* Before the kernel is touched: a bad file at start must leave nothing behind. */
static int start_source(struct cv_daemon *d)
{
	char error[512];
	int r;

	if (d->env.local_xds)
		r = cv_local_inline(d->store, d->env.local_xds, error, sizeof(error));
	else
		r = cv_local_file_start(&d->file, d->control, d->store, d->env.local_xds_path,
					error, sizeof(error));
	if (r < 0) {
		cv_error("%s", error);
		return r;
	}
	cv_store_set_warm(d->store);
	cv_ready_done(d->telemetry, "state manager");
	return 0;
}

static void stop_source(struct cv_daemon *d)
{
	cv_local_file_stop(&d->file);
}

/* The pods that were enrolled before; then their verdicts; then the listeners accept. */
static int start_pods(struct cv_daemon *d)
{
	int r = cv_pods_adopt(d->pods);

	if (r < 0)
		return cv_log_err(r, "pods that were enrolled before");
	if (r > 0)
		cv_info("%d pods that were enrolled before are enrolled again", r);
	cv_identities_sync(&d->identities, d->pods, d->store, d->certs);
	run_compile(d);
	cv_proxy_warm(d->proxy);
	cv_ready_done(d->telemetry, "proxy");
	cv_ready_done(d->telemetry, "workload proxy manager");
	return 0;
}

/* Not while it carries traffic, which would only fault everything in again. */
static void on_trim_due(evutil_socket_t fd, short what, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_proxy_stats stats;

	(void)fd; /* a timer */
	(void)what;
	cv_proxy_stats(d->proxy, &stats);
	if (!stats.connections)
		cv_memory_trim();
}

/* Enrolment, certificates and bursts of traffic leave memory behind that an idle node does not
 * need; coming back costs a page fault for each 64 KiB of code. */
static int start_trim(struct cv_daemon *d)
{
	const struct timeval every = { .tv_sec = 5 };

	d->trim = event_new(cv_worker_base(d->control), -1, EV_PERSIST, on_trim_due, d);
	return d->trim && event_add(d->trim, &every) == 0 ? 0 : -ENOMEM;
}

static void stop_trim(struct cv_daemon *d)
{
	if (d->trim)
		event_free(d->trim);
	d->trim = NULL;
}

static void on_sigterm(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	cv_info("signal %d: draining", (int)fd);
	cv_daemon_shutdown(arg);
}

static void on_sigint(evutil_socket_t fd, short what, void *arg)
{
	struct cv_daemon *d = arg;

	(void)fd;
	(void)what;
	if (d->draining)
		_exit(0);
	cv_info("interrupted: draining; once more ends at once");
	cv_daemon_shutdown(d);
}

static int start_signals(struct cv_daemon *d)
{
	struct event_base *base = cv_worker_base(d->control);

	d->on_sigterm = evsignal_new(base, SIGTERM, on_sigterm, d);
	d->on_sigint = evsignal_new(base, SIGINT, on_sigint, d);
	if (!d->on_sigterm || !d->on_sigint || event_add(d->on_sigterm, NULL) < 0 ||
	    event_add(d->on_sigint, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static void stop_signals(struct cv_daemon *d)
{
	if (d->on_sigterm)
		event_free(d->on_sigterm);
	if (d->on_sigint)
		event_free(d->on_sigint);
	d->on_sigterm = d->on_sigint = NULL;
}

/* Stops tolerate what was never started, so a failure stops everything up to its stage. The
 * workers stop before what their connections use is freed. */
static const struct stage {
	const char *name;
	int (*start)(struct cv_daemon *d);
	void (*stop)(struct cv_daemon *d);
} stages[] = {
	{ "control thread", start_control, stop_control },
	{ "settings", start_settings, stop_settings },
	{ "telemetry", start_telemetry, stop_telemetry },
	{ "certificates", start_certs, stop_certs },
	{ "store", start_store, stop_store },
	{ "workloads", start_source, stop_source },
	{ "BPF programs", start_bpf, stop_bpf },
	{ "proxy", NULL, stop_proxy },
	{ "workers", start_workers, stop_workers },
	{ "control thread's priority", start_batch, NULL },
	{ "proxy", start_proxy, NULL },
	{ "node", start_node, stop_node },
	{ "control socket", start_control_socket, stop_control_socket },
	{ "HTTP servers", start_http, stop_http },
	{ "pods", start_pods, NULL },
	{ "signals", start_signals, stop_signals },
	{ "memory", start_trim, stop_trim },
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
