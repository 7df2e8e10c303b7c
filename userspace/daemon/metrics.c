/* SPDX-License-Identifier: Apache-2.0 */
/* Metric families that only the daemon can see, printed at scrape time: the kernel's reasons and
 * maps, the enrolled pods, the proxy's connections, and whether the development CA signs. */
#include <stdio.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/daemon/daemon.h"

static void collect_reasons(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	uint64_t counts[CV_REASON_NR] = {};
	char labels[128];

	if (cv_table_reasons_get(d->bpf, counts) < 0)
		return;
	for (uint32_t i = 0; i < CV_REASON_NR; i++) {
		if (!counts[i])
			continue;
		snprintf(labels, sizeof(labels), "reason=\"%s\",action=\"%s\"", cv_reason_name(i),
			 cv_reason_action(i));
		cv_metric_sample(sink, labels, (double)counts[i]);
	}
}

static void collect_map_entries(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_table_info maps[32];
	int n = cv_table_info(d->bpf, maps, CV_ARRAY_SIZE(maps));
	char labels[64];

	for (int i = 0; i < n && i < (int)CV_ARRAY_SIZE(maps); i++) {
		snprintf(labels, sizeof(labels), "map=\"%.15s\"", maps[i].name);
		cv_metric_sample(sink, labels, maps[i].entries);
	}
}

static void collect_map_capacity(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_table_info maps[32];
	int n = cv_table_info(d->bpf, maps, CV_ARRAY_SIZE(maps));
	char labels[64];

	for (int i = 0; i < n && i < (int)CV_ARRAY_SIZE(maps); i++) {
		snprintf(labels, sizeof(labels), "map=\"%.15s\"", maps[i].name);
		cv_metric_sample(sink, labels, maps[i].max_entries);
	}
}

static void collect_proxy(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_proxy_stats s;

	cv_proxy_stats(d->proxy, &s);
	cv_metric_sample(sink, "kind=\"connection\"", (double)s.connections);
	cv_metric_sample(sink, "kind=\"hbone_inbound\"", (double)s.hbone_inbound);
	cv_metric_sample(sink, "kind=\"hbone_pooled\"", (double)s.hbone_pooled);
	cv_metric_sample(sink, "kind=\"waiting\"", (double)s.waiting);
}

static void count_pods(struct cv_daemon *d, struct cv_zds_counts *ret)
{
	*ret = (struct cv_zds_counts){};
	if (d->zds)
		cv_zds_counts(d->zds, ret);
	else if (d->pods)
		ret->active = cv_pods_count(d->pods);
}

static void collect_pods(struct cv_metric_sink *sink, void *arg)
{
	struct cv_zds_counts counts;

	count_pods(arg, &counts);
	cv_metric_sample(sink, NULL, (double)counts.active);
}

/* In the full mode a pod is captured and served in one step: none waits for its proxy. */
static void collect_pods_pending(struct cv_metric_sink *sink, void *arg)
{
	struct cv_zds_counts counts;

	count_pods(arg, &counts);
	cv_metric_sample(sink, NULL, (double)counts.pending);
}

static void collect_pods_started(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_proxy_stats s;

	cv_proxy_stats(d->proxy, &s);
	cv_metric_sample(sink, NULL, (double)s.pods_started);
}

static void collect_pods_stopped(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_proxy_stats s;

	cv_proxy_stats(d->proxy, &s);
	cv_metric_sample(sink, NULL, (double)s.pods_stopped);
}

static void collect_dev_ca(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;

	cv_metric_sample(sink, NULL, d->env.dev_ca ? 1 : 0);
}

static void collect_file_refused(struct cv_metric_sink *sink, void *arg)
{
	struct cv_daemon *d = arg;

	cv_metric_sample(sink, NULL, d->file && cv_local_file_error(d->file) ? 1 : 0);
}

static void collect_xds_connected(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	cv_metric_sample(sink, NULL, s.connected);
}

static void collect_xds_age(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	cv_metric_sample(sink, NULL, (double)s.age_ms / 1000);
}

static void collect_xds_refused(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	cv_metric_sample(sink, NULL, (double)s.refused);
}

static void collect_xds_ends(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;
	char labels[64];

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	for (int i = 0; i < CV_XDS_END_NR; i++) {
		if (!s.ends[i])
			continue;
		snprintf(labels, sizeof(labels), "reason=\"%s\"", cv_xds_end_names[i]);
		cv_metric_sample(sink, labels, (double)s.ends[i]);
	}
}

/* One sample a type; a type without messages has none. */
static void sample_types(struct cv_metric_sink *sink, const uint64_t values[CV_XDS_TYPE_NR])
{
	char labels[128];

	for (int i = 0; i < CV_XDS_TYPE_NR; i++) {
		if (!values[i])
			continue;
		snprintf(labels, sizeof(labels), "url=\"%s\"", cv_xds_type_urls[i]);
		cv_metric_sample(sink, labels, (double)values[i]);
	}
}

static void collect_xds_messages(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	sample_types(sink, s.messages);
}

static void collect_xds_bytes(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	sample_types(sink, s.bytes);
}

static void collect_xds_resources(struct cv_metric_sink *sink, void *arg)
{
	struct cv_xds_stats s;

	cv_xds_stats(((struct cv_daemon *)arg)->xds, &s);
	sample_types(sink, s.resources);
}

static void register_xds(struct cv_daemon *d)
{
	struct cv_telemetry *t = d->telemetry;

	cv_metric_register(t, "culvert_xds_connected",
			   "1 while the control plane answers (unstable)", false,
			   collect_xds_connected, d);
	cv_metric_register(t, "culvert_xds_age_seconds",
			   "How long the control plane has been away (unstable)", false,
			   collect_xds_age, d);
	cv_metric_register(t, "culvert_xds_resources",
			   "Resources of the control plane that are held (unstable)", false,
			   collect_xds_resources, d);
	cv_metric_register(t, "culvert_xds_refused",
			   "Resources of the control plane that were refused (unstable)", true,
			   collect_xds_refused, d);
	cv_metric_register(t, "istio_xds_connection_terminations",
			   "The total number of completed connections to xds server (unstable)",
			   true, collect_xds_ends, d);
	cv_metric_register(t, "istio_xds_message",
			   "The total number of messages received (unstable)", true,
			   collect_xds_messages, d);
	cv_metric_register(t, "istio_xds_message_bytes",
			   "The total number of bytes received (unstable)", true, collect_xds_bytes,
			   d);
}

static void register_kernel(struct cv_daemon *d)
{
	struct cv_telemetry *t = d->telemetry;

	cv_metric_register(t, "culvert_bpf_reasons",
			   "What the BPF programs did, by reason (unstable)", true, collect_reasons,
			   d);
	cv_metric_register(t, "culvert_bpf_map_entries", "Entries of a BPF map (unstable)", false,
			   collect_map_entries, d);
	cv_metric_register(t, "culvert_bpf_map_max_entries", "Capacity of a BPF map (unstable)",
			   false, collect_map_capacity, d);
}

void cv_daemon_metrics(struct cv_daemon *d)
{
	struct cv_telemetry *t = d->telemetry;

	if (d->bpf)
		register_kernel(d);
	if (d->xds)
		register_xds(d);
	cv_metric_register(t, "culvert_proxy_objects", "What the proxy holds, by kind (unstable)",
			   false, collect_proxy, d);
	cv_metric_register(t, "workload_manager_active_proxy_count",
			   "The total number of running proxies (unstable)", false, collect_pods,
			   d);
	cv_metric_register(t, "workload_manager_pending_proxy_count",
			   "The number of pods that wait for their proxy (unstable)", false,
			   collect_pods_pending, d);
	cv_metric_register(t, "workload_manager_proxies_started",
			   "The number of pods whose proxy was started (unstable)", true,
			   collect_pods_started, d);
	cv_metric_register(t, "workload_manager_proxies_stopped",
			   "The number of pods whose proxy was stopped (unstable)", true,
			   collect_pods_stopped, d);
	cv_metric_register(t, "culvert_development_ca",
			   "1 when certificates come from the development CA (unstable)", false,
			   collect_dev_ca, d);
	cv_metric_register(t, "culvert_file_refused",
			   "1 while the last change of the local file is refused (unstable)", false,
			   collect_file_refused, d);
}
