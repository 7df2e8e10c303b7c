// SPDX-License-Identifier: Apache-2.0
/*
 * The exposition: OpenMetrics text of our own families and of those that other parts have
 * registered. A family's HELP and TYPE lines come with its first sample, so one without
 * samples is left out.
 */
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "userspace/base/cleanup.h"
#include "userspace/telemetry/private.h"

struct cv_metric_sink {
	FILE *out;
	const char *name, *help;
	bool counter, started;
};

static void start_family(struct cv_metric_sink *sink)
{
	if (sink->started)
		return;
	sink->started = true;
	fprintf(sink->out, "# HELP %s %s\n# TYPE %s %s\n", sink->name, sink->help, sink->name,
		sink->counter ? "counter" : "gauge");
}

void cv_metric_sample(struct cv_metric_sink *sink, const char *labels, double value)
{
	bool whole = value == floor(value) && fabs(value) < 0x1p53;

	start_family(sink);
	fprintf(sink->out, "%s%s", sink->name, sink->counter ? "_total" : "");
	if (labels && *labels)
		fprintf(sink->out, "{%s}", labels);
	fprintf(sink->out, whole ? " %.0f\n" : " %.17g\n", value);
}

/* Labels are ASCII in practice; what is not (a hostile peer's baggage) is shown as '?'. */
const char *cv_metric_escape(const char *value, char *buf, size_t size)
{
	size_t n = 0;

	for (; *value && n + 2 < size; value++) {
		char c = *value;

		if (c == '\\' || c == '"' || c == '\n')
			buf[n++] = '\\';
		if (c == '\n')
			c = 'n';
		buf[n++] = c < ' ' || c > '~' ? '?' : c;
	}
	buf[n] = '\0';
	return buf;
}

void cv_metric_register(struct cv_telemetry *t, const char *name, const char *help, bool counter,
			cv_metric_fn fn, void *arg)
{
	struct cv_metric *m = calloc(1, sizeof(*m)), **end;

	if (!m)
		abort();
	*m = (struct cv_metric){
		.name = strdup(name), .help = strdup(help), .counter = counter, .fn = fn, .arg = arg
	};
	if (!m->name || !m->help)
		abort();
	pthread_mutex_lock(&t->metrics_lock);
	for (end = &t->metrics; *end; end = &(*end)->next)
		;
	*end = m;
	pthread_mutex_unlock(&t->metrics_lock);
}

/* --- families of connections --- */

/* A sample of a series; flag is the value of its label response_flags. */
static void series_sample(struct cv_metric_sink *sink, const struct cv_series *s, enum cv_flag flag,
			  uint64_t value)
{
	start_family(sink);
	fprintf(sink->out, "%s_total{%.*s%s%s} %" PRIu64 "\n", sink->name, (int)s->flags_at,
		s->labels, cv_flag_text(flag), s->labels + s->flags_at, value);
}

static void opened(struct cv_metric_sink *sink, const struct cv_series *s)
{
	series_sample(sink, s, CV_FLAG_NONE, atomic_load(&s->opened));
}

static void received(struct cv_metric_sink *sink, const struct cv_series *s)
{
	series_sample(sink, s, CV_FLAG_NONE, atomic_load(&s->client_to_server));
}

static void sent(struct cv_metric_sink *sink, const struct cv_series *s)
{
	series_sample(sink, s, CV_FLAG_NONE, atomic_load(&s->server_to_client));
}

static void closed_from(struct cv_metric_sink *sink, const struct cv_series *s, enum cv_flag first)
{
	for (enum cv_flag f = first; f < CV_FLAG_NR; f++) {
		uint64_t n = atomic_load(&s->closed[f]);

		if (n)
			series_sample(sink, s, f, n);
	}
}

static void closed(struct cv_metric_sink *sink, const struct cv_series *s)
{
	closed_from(sink, s, CV_FLAG_NONE);
}

static void failed(struct cv_metric_sink *sink, const struct cv_series *s)
{
	closed_from(sink, s, CV_FLAG_NONE + 1);
}

static const struct {
	const char *name, *help;
	void (*print)(struct cv_metric_sink *sink, const struct cv_series *s);
} traffic_families[] = {
	{ "istio_tcp_connections_opened", "The total number of TCP connections opened.", opened },
	{ "istio_tcp_connections_closed", "The total number of TCP connections closed.", closed },
	{ "istio_tcp_received_bytes",
	  "The size of total bytes received during request in case of a TCP connection.",
	  received },
	{ "istio_tcp_sent_bytes",
	  "The size of total bytes sent during response in case of a TCP connection.", sent },
	{ "istio_tcp_connections_failed",
	  "The total number of TCP connections that were closed with a response flag (unstable).",
	  failed },
};

static void print_traffic(struct cv_telemetry *t, FILE *out)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(traffic_families); i++) {
		struct cv_metric_sink sink = {
			.out = out,
			.name = traffic_families[i].name,
			.help = traffic_families[i].help,
			.counter = true,
		};
		struct cv_series *s = atomic_load_explicit(&t->series.first, memory_order_acquire);

		for (; s; s = atomic_load_explicit(&s->next, memory_order_acquire))
			traffic_families[i].print(&sink, s);
	}
}

/* --- families of the process --- */

static void print_build(struct cv_metric_sink *sink, void *arg)
{
	const struct cv_telemetry *t = arg;
	char labels[512], tag[256];

	/* Dashboards of ambient meshes select the node proxy by this component. */
	snprintf(labels, sizeof(labels), "component=\"ztunnel\",tag=\"%s\"",
		 cv_metric_escape(t->istio_version ? t->istio_version : "unknown", tag,
				  sizeof(tag)));
	cv_metric_sample(sink, labels, 1);
}

static void print_sockets(struct cv_metric_sink *sink, void *arg)
{
	struct cv_telemetry *t = arg;

	cv_metric_sample(sink, "reporter=\"source\"",
			 atomic_load(&t->sockets_open[CV_REPORTER_SOURCE]));
	cv_metric_sample(sink, "reporter=\"destination\"",
			 atomic_load(&t->sockets_open[CV_REPORTER_DESTINATION]));
}

/* As with all that has labels: nothing until it has happened. */
static void print_revoked(struct cv_metric_sink *sink, void *arg)
{
	struct cv_telemetry *t = arg;
	uint64_t source = atomic_load(&t->revoked[CV_REPORTER_SOURCE]);
	uint64_t destination = atomic_load(&t->revoked[CV_REPORTER_DESTINATION]);

	if (source)
		cv_metric_sample(sink, "reporter=\"source\"", (double)source);
	if (destination)
		cv_metric_sample(sink, "reporter=\"destination\"", (double)destination);
}

static void print_overflow(struct cv_metric_sink *sink, void *arg)
{
	struct cv_telemetry *t = arg;

	cv_metric_sample(sink, NULL, atomic_load(&t->series.overflowed));
}

static void print_open_fds(struct cv_metric_sink *sink, void *arg)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = -3; /* ".", ".." and the directory's own */

	(void)arg;
	if (!dir)
		return;
	while (readdir(dir))
		n++;
	closedir(dir);
	cv_metric_sample(sink, NULL, n);
}

static void print_max_fds(struct cv_metric_sink *sink, void *arg)
{
	struct rlimit limit;

	(void)arg;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		cv_metric_sample(sink, NULL, limit.rlim_cur);
}

static const struct {
	const char *name, *help;
	bool counter;
	cv_metric_fn print;
} process_families[] = {
	{ "istio_build", "Istio component build info.", false, print_build },
	{ "istio_tcp_sockets_open", "The number of accepted sockets that are open (unstable).",
	  false, print_sockets },
	{ "istio_crl_policy_rejections",
	  "The total number of connections rejected due to CRL certificate revocation (unstable)",
	  true, print_revoked },
	{ "culvert_series_overflow",
	  "The number of connections counted without their own labels, for want of room (unstable).",
	  true, print_overflow },
	{ "process_open_fds", "Number of open file descriptors (unstable).", false,
	  print_open_fds },
	{ "process_max_fds", "Maximum number of file descriptors (unstable).", false,
	  print_max_fds },
};

static void print_process(struct cv_telemetry *t, FILE *out)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(process_families); i++) {
		struct cv_metric_sink sink = {
			.out = out,
			.name = process_families[i].name,
			.help = process_families[i].help,
			.counter = process_families[i].counter,
		};

		process_families[i].print(&sink, t);
	}
}

static void print_registered(struct cv_telemetry *t, FILE *out)
{
	pthread_mutex_lock(&t->metrics_lock);
	for (struct cv_metric *m = t->metrics; m; m = m->next) {
		struct cv_metric_sink sink = {
			.out = out, .name = m->name, .help = m->help, .counter = m->counter
		};

		m->fn(&sink, m->arg);
	}
	pthread_mutex_unlock(&t->metrics_lock);
}

char *cv_metrics_text(struct cv_telemetry *t)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	print_process(t, out);
	print_traffic(t, out);
	cv_dns_series_print(&t->dns, out);
	print_registered(t, out);
	fputs("# EOF\n", out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}
