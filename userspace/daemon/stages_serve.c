/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of what others can ask the daemon: the control socket, and the servers of admin, metrics
 * and readiness with the daemon's own part of config_dump.
 */
#include "userspace/daemon/stages.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/control.h"
#include "userspace/base/log.h"

/* A container with a read-only root has /tmp alone; without a control socket it serves as well. */
static int start_elsewhere(struct cv_daemon *d, const struct cv_control_ops *ops)
{
	int r = cv_control_socket_start(&d->control_socket, d->control, CV_RUN_DIR_FALLBACK, ops);

	if (r < 0)
		cv_warn("no control socket: neither %s nor " CV_RUN_DIR_FALLBACK
			" can be used: %s; culvertctl will not work here",
			d->env.run_dir, cv_strerror(-r));
	else
		cv_info("%s cannot be made here: the control socket is in " CV_RUN_DIR_FALLBACK,
			d->env.run_dir);
	return 0;
}

int cv_start_control_socket(struct cv_daemon *d)
{
	bool fallback = d->env.drop_in && strcmp(d->env.run_dir, CV_RUN_DIR) == 0;
	struct cv_control_ops ops;
	int r;

	cv_daemon_control_ops(d, &ops);
	r = cv_control_socket_start(&d->control_socket, d->control, d->env.run_dir, &ops);
	if (fallback && (r == -EROFS || r == -ENOENT || r == -EACCES || r == -EPERM))
		return start_elsewhere(d, &ops);
	if (r == -EADDRINUSE)
		cv_error("another daemon uses %s: stop it, or set CULVERT_RUN_DIR", d->env.run_dir);
	else if (r < 0)
		cv_error("control socket in %s: %s", d->env.run_dir, cv_strerror(-r));
	return r;
}

void cv_stop_control_socket(struct cv_daemon *d)
{
	cv_control_socket_stop(&d->control_socket);
}

/* Is there another process in our network namespace, as far as /proc shows? Whoever shares it
 * could send requests to the admin port. A container in the node's namespace (hostNetwork) may have a
 * PID namespace of its own and see nobody; but the first network namespace alone has this file. */
static bool is_netns_shared(void)
{
	DIR *proc = opendir("/proc");
	struct stat own, other;
	const struct dirent *e;
	char path[64];
	bool shared = false;

	if (!proc || stat("/proc/self/ns/net", &own) < 0 ||
	    access("/proc/sys/net/core/netdev_budget", F_OK) == 0)
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
		sa = cv_str_text(w->group->service_account);
	json_object_set_new(dump->pods, pod->uid,
			    json_pack("{s:s, s:{s:s, s:s, s:s}, s:o}", "state",
				      pod->pending ? "Pending" : "Up", "info", "name", pod->name,
				      "namespace", pod->ns, "serviceAccount", sa ? sa : "",
				      "connections",
				      cv_pod_connections_json(dump->d->telemetry, pod->uid)));
	cv_workload_put(&w);
	return 0;
}

json_t *cv_daemon_pods_json(void *daemon)
{
	struct pods_dump dump = { daemon, json_object() };

	cv_daemon_flows_sync(dump.d);
	cv_daemon_pods_each(dump.d, dump_pod, &dump);
	return dump.pods;
}

static json_t *config_json(void *arg)
{
	struct cv_daemon *d = arg;

	return cv_env_json(&d->env);
}

/* Read anew, so that a change that was refused shows; nothing where there is no file to read. */
static json_t *static_config_json(void *arg)
{
	struct cv_daemon *d = arg;
	const char *text = d->env.local_xds;
	struct cv_mesh_file file = {};
	char error[512];
	json_t *j;
	int r;

	if (!text && !d->env.local_xds_path)
		return NULL;
	r = text ? cv_mesh_file_parse("LOCAL_XDS", text, strlen(text), &file, error,
				      sizeof(error)) :
		   cv_mesh_file_read(d->env.local_xds_path, &file, error, sizeof(error));
	if (r < 0)
		return NULL;
	j = cv_dump_static_config(&file);
	cv_mesh_file_fini(&file);
	return j;
}

static void on_quit_request(void *arg)
{
	cv_daemon_shutdown(arg);
}

int cv_start_http(struct cv_daemon *d)
{
	const struct cv_http_opts opts = {
		.control = d->control,
		.store = d->store,
		.certs = d->certs,
		.ipv6 = d->env.ipv6,
		.admin_port = d->env.ports.admin,
		.metrics_port = d->env.ports.metrics,
		.readiness_port = 15021,
		.admin_read_only = is_netns_shared(),
		.pods_json = cv_daemon_pods_json,
		.config_json = config_json,
		.static_config_json = static_config_json,
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

void cv_stop_http(struct cv_daemon *d)
{
	if (d->http_started)
		cv_http_stop(d->telemetry);
	d->http_started = false;
}
