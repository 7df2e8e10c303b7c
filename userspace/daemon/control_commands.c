/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands of the control socket (userspace/base/control.h), answered from the daemon's parts.
 *
 * `status` is an object: version, node, uptimeMs, ready workers, pods, draining, developmentCa,
 * fileError, proxy, kernelPlane, and where that is true adopted, generation, features {}, reasons [{name, action, meaning, count}],
 * maps [{name, entries, maxEntries}], programs [{name, id, verifiedInsns, xlatedBytes,
 * jitedBytes}], proxy {connections, hboneInbound, hbonePooled, waiting}.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CV_LOG_TARGET "control"

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/daemon/daemon.h"

static void answer_workloads(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_control_answer(&req, cv_dump_workloads(d->store));
}

static void answer_services(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_control_answer(&req, cv_dump_services(d->store));
}

static void answer_policies(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_control_answer(&req, cv_dump_policies(d->store));
}

static void answer_certificates(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_control_answer(&req, cv_dump_certificates(d->certs));
}

static void answer_connections(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_daemon_flows_sync(d);
	cv_control_answer(&req, cv_connections_json(d->telemetry));
}

static void answer_flows(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;

	cv_daemon_flows_sync(d);
	cv_control_answer(&req, cv_flows_json(d->telemetry));
}

static json_t *reasons_json(struct cv_daemon *d)
{
	uint64_t counts[CV_REASON_NR] = {};
	json_t *list = json_array();

	if (cv_table_reasons_get(d->bpf, counts) < 0)
		return list;
	for (uint32_t i = 0; i < CV_REASON_NR; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:I}", "name", cv_reason_name(i),
						"action", cv_reason_action(i), "meaning",
						cv_reason_text(i), "count", (json_int_t)counts[i]));
	return list;
}

static json_t *maps_json(struct cv_daemon *d)
{
	struct cv_table_info maps[32];
	json_t *list = json_array();
	int n = cv_table_info(d->bpf, maps, CV_ARRAY_SIZE(maps));

	for (int i = 0; i < n && i < (int)CV_ARRAY_SIZE(maps); i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:I, s:I}", "name", maps[i].name, "entries",
						(json_int_t)maps[i].entries, "maxEntries",
						(json_int_t)maps[i].max_entries));
	return list;
}

static json_t *programs_json(struct cv_daemon *d)
{
	struct cv_bpf_prog_info progs[32];
	json_t *list = json_array();
	int n = cv_bpf_progs(d->bpf, progs, CV_ARRAY_SIZE(progs));

	for (int i = 0; i < n && i < (int)CV_ARRAY_SIZE(progs); i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", progs[i].name,
						"id", (json_int_t)progs[i].id, "verifiedInsns",
						(json_int_t)progs[i].verified_insns, "xlatedBytes",
						(json_int_t)progs[i].xlated_bytes, "jitedBytes",
						(json_int_t)progs[i].jited_bytes));
	return list;
}

static json_t *features_json(struct cv_daemon *d)
{
	struct cv_bpf_features f;

	cv_bpf_features(d->bpf, &f);
	return json_pack("{s:b, s:b, s:b, s:b, s:b}", "tcx", f.tcx, "setRetval", f.set_retval,
			 "sockDestroy", f.sock_destroy, "tcNetnsCookie", f.tc_netns_cookie,
			 "fastPath", f.fastpath);
}

static json_t *proxy_json(struct cv_daemon *d)
{
	struct cv_proxy_stats s;

	cv_proxy_stats(d->proxy, &s);
	return json_pack("{s:I, s:I, s:I, s:I}", "connections", (json_int_t)s.connections,
			 "hboneInbound", (json_int_t)s.hbone_inbound, "hbonePooled",
			 (json_int_t)s.hbone_pooled, "waiting", (json_int_t)s.waiting);
}

/* In ztunnel's place there is none. */
static void set_kernel(json_t *status, struct cv_daemon *d)
{
	struct cv_control_entry control = {};

	json_object_set_new(status, "kernelPlane", json_boolean(d->bpf));
	if (!d->bpf)
		return;
	(void)cv_table_control_get(d->bpf, &control); /* an unreadable map shows generation 0 */
	json_object_set_new(status, "generation", json_integer((json_int_t)control.generation));
	json_object_set_new(status, "adopted", json_boolean(cv_bpf_adopted(d->bpf)));
	json_object_set_new(status, "features", features_json(d));
	json_object_set_new(status, "reasons", reasons_json(d));
	json_object_set_new(status, "maps", maps_json(d));
	json_object_set_new(status, "programs", programs_json(d));
}

static int count_pod(const struct cv_pod_view *pod, void *arg)
{
	*(json_int_t *)arg += !pod->pending;
	return 0;
}

static void answer_status(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;
	json_int_t pods = 0;
	json_t *j;

	cv_daemon_pods_each(d, count_pod, &pods);
	j = json_pack("{s:s, s:s?, s:I, s:I, s:I, s:b, s:s?, s:s?, s:I}", "version",
		      CULVERT_VERSION, "node", d->env.node_name, "uptimeMs",
		      (json_int_t)(cv_now_ms() - d->started_ms), "workers",
		      (json_int_t)d->nr_workers, "pods", pods, "draining", d->draining,
		      "developmentCa", d->env.dev_ca, "fileError",
		      d->file ? cv_local_file_error(d->file) : NULL, "pid", (json_int_t)getpid());
	json_object_set_new(j, "pending", cv_ready_pending(d->telemetry));
	json_object_set_new(j, "proxy", proxy_json(d));
	set_kernel(j, d);
	cv_control_answer(&req, j);
}

static void answer_logging(struct cv_control_request *req, void *arg)
{
	const char *level = cv_control_string(req, "level");
	bool reset = json_is_true(json_object_get(req->args, "reset"));
	char filter[512];

	(void)arg; /* the log is the process's */
	if ((level || reset) && cv_log_filter_add(level, reset) < 0) {
		cv_control_refuse(&req,
				  "\"%s\": expected LEVEL or TARGET=LEVEL, comma separated; levels "
				  "are off, error, warn, info, debug, trace",
				  level);
		return;
	}
	cv_log_filter_text(filter, sizeof(filter));
	cv_control_answer(&req, json_pack("{s:s}", "level", filter));
}

static json_t *pod_json(const struct cv_pod_view *pod)
{
	json_t *addresses = json_array();
	char text[CV_ADDR_TEXT];

	for (size_t i = 0; i < pod->nr_addrs; i++)
		json_array_append_new(addresses, json_string(cv_addr_text(&pod->addrs[i], text)));
	return json_pack("{s:s, s:s, s:s, s:I, s:s?, s:o, s:s?, s:b}", "namespace", pod->ns, "name",
			 pod->name, "uid", pod->uid, "number", (json_int_t)pod->number,
			 "serviceAccount", pod->service_account, "addresses", addresses, "netns",
			 pod->netns_path, "pending", pod->pending);
}

static int append_pod(const struct cv_pod_view *pod, void *arg)
{
	json_array_append_new(arg, pod_json(pod));
	return 0;
}

static void answer_pod_list(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;
	json_t *list = json_array();

	cv_daemon_pods_each(d, append_pod, list);
	cv_control_answer(&req, list);
}

struct pod_name {
	const char *ns, *name;
	json_t *found;
};

static int find_pod(const struct cv_pod_view *pod, void *arg)
{
	struct pod_name *n = arg;

	if (strcmp(pod->ns, n->ns) != 0 || strcmp(pod->name, n->name) != 0)
		return 0;
	n->found = pod_json(pod);
	return 1;
}

#define NOT_OURS "in ztunnel's place pods come and go by istio-cni alone"

static void answer_pod_add(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_pod_spec spec = {
		.ns = cv_control_string(req, "namespace"),
		.name = cv_control_string(req, "name"),
		.service_account = cv_control_string(req, "serviceAccount"),
		.uid = cv_control_string(req, "uid"),
		.netns_path = cv_control_string(req, "netnsPath"),
		.netns_fd = cv_take_fd(req->fd),
	};
	struct pod_name found = { spec.ns, spec.name, NULL };
	char error[512] = "";
	int r;

	if (!d->pods) {
		cv_close(&spec.netns_fd);
		cv_control_refuse(&req, NOT_OURS);
		return;
	}
	if (!spec.ns || !spec.name || spec.netns_fd < 0) {
		cv_close(&spec.netns_fd);
		cv_control_refuse(&req, "pod-add needs a namespace, a name and a netns descriptor");
		return;
	}
	r = cv_pods_add(d->pods, &spec, error, sizeof(error));
	if (r < 0) {
		cv_warn("pod %s/%s was not enrolled: %s", spec.ns, spec.name,
			*error ? error : cv_strerror(-r));
		cv_control_refuse(&req, "%s", *error ? error : cv_strerror(-r));
		return;
	}
	cv_pods_each(d->pods, find_pod, &found);
	cv_control_answer(&req, found.found);
}

static void on_pod_gone(void *arg)
{
	struct cv_control_request *req = arg;

	cv_control_answer(&req, NULL);
}

static void answer_pod_del(struct cv_control_request *req, void *arg)
{
	struct cv_daemon *d = arg;
	const char *ns = cv_control_string(req, "namespace");
	const char *name = cv_control_string(req, "name");
	int r;

	if (!d->pods) {
		cv_control_refuse(&req, NOT_OURS);
		return;
	}
	r = ns && name ? cv_pods_del(d->pods, ns, name, on_pod_gone, req) : -EINVAL;
	if (r == -ENOENT) /* what is asked for is so already */
		cv_control_answer(&req, NULL);
	else if (r < 0)
		cv_control_refuse(&req, "pod-del: %s", cv_strerror(-r));
}

static const struct cv_control_command commands[] = {
	{ "workloads", answer_workloads },     { "services", answer_services },
	{ "policies", answer_policies },       { "certificates", answer_certificates },
	{ "connections", answer_connections }, { "flows", answer_flows },
	{ "status", answer_status },	       { "logging", answer_logging },
	{ "pod-add", answer_pod_add },	       { "pod-del", answer_pod_del },
	{ "pod-list", answer_pod_list },       { "explain", cv_daemon_explain },
};

void cv_daemon_control_ops(struct cv_daemon *d, struct cv_control_ops *ret)
{
	*ret = (struct cv_control_ops){ commands, CV_ARRAY_SIZE(commands), d };
}
