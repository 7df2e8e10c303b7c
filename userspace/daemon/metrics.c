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
