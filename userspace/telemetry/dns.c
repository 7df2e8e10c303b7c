/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS queries counted and logged. A series is found by comparing pointers (texts are static or
 * interned) and never removed while the table lives, so counting takes no lock.
 */
#define CV_LOG_TARGET "dns"
#include "userspace/telemetry/dns.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/telemetry/private.h"

/* Upper bounds of the histogram. */
static const struct {
	const char *text;
	uint64_t ns;
} bounds[CV_DNS_TIME_BUCKETS] = {
	{ "0.0005", 500000 }, { "0.001", 1000000 },  { "0.01", 10000000 },
	{ "0.1", 100000000 }, { "1.0", 1000000000 }, { "5.0", 5000000000 },
};

/* ---- series ---- */

void cv_dns_series_init(struct cv_dns_series_table *t)
{
	pthread_mutex_init(&t->lock, NULL);
}

static void free_series(struct cv_dns_series *s)
{
	cv_str_put(&s->service);
	cv_str_put(&s->revision);
	free(s->labels);
	free(s);
}

void cv_dns_series_fini(struct cv_dns_series_table *t)
{
	struct cv_dns_series *s = atomic_load(&t->first), *next;

	for (; s; s = next) {
		next = atomic_load(&s->next);
		free_series(s);
	}
	pthread_mutex_destroy(&t->lock);
}

static bool is_of(const struct cv_dns_series *s, const struct cv_dns_series *key)
{
	return s->type == key->type && s->tcp == key->tcp && s->service == key->service &&
	       s->revision == key->revision;
}

static struct cv_dns_series *_Atomic *bucket_of(struct cv_dns_series_table *t,
						const struct cv_dns_series *key)
{
	uint64_t h = (uintptr_t)key->type ^ (uintptr_t)key->service * 31 ^
		     (uintptr_t)key->revision * 1021 ^ key->tcp;

	return &t->bucket[h * 0x9e3779b97f4a7c15ull >> 56];
}

static struct cv_dns_series *find(struct cv_dns_series *_Atomic *bucket,
				  const struct cv_dns_series *key)
{
	struct cv_dns_series *s = atomic_load_explicit(bucket, memory_order_acquire);

	while (s && !is_of(s, key))
		s = s->same_bucket;
	return s;
}

static void put_label(FILE *out, const char *name, cv_str value)
{
	char escaped[512];

	fprintf(out, ",%s=\"%s\"", name,
		value ? cv_metric_escape(value, escaped, sizeof(escaped)) : "unknown");
}

static int print_labels(struct cv_dns_series *s)
{
	size_t size;
	FILE *out = open_memstream(&s->labels, &size);

	if (!out)
		return -ENOMEM;
	fprintf(out, "request_query_type=\"%s\",request_protocol=\"%s\"", s->type,
		s->tcp ? "tcp" : "udp");
	put_label(out, "source_canonical_service", s->service);
	put_label(out, "source_canonical_revision", s->revision);
	return fclose(out) ? -ENOMEM : 0;
}

/* Under lock. */
static struct cv_dns_series *insert(struct cv_dns_series_table *t,
				    struct cv_dns_series *_Atomic *bucket,
				    const struct cv_dns_series *key)
{
	struct cv_dns_series *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->type = key->type;
	s->tcp = key->tcp;
	s->service = cv_str_ref(key->service);
	s->revision = cv_str_ref(key->revision);
	if (print_labels(s) < 0) {
		free_series(s);
		return NULL;
	}
	s->same_bucket = atomic_load_explicit(bucket, memory_order_relaxed);
	atomic_store_explicit(bucket, s, memory_order_release);
	atomic_store_explicit(t->last ? &t->last->next : &t->first, s, memory_order_release);
	t->last = s;
	t->n++;
	return s;
}

/* NULL only when memory is out. The series of the overflow has the type "overflow". */
static struct cv_dns_series *get_series(struct cv_dns_series_table *t,
					const struct cv_dns_info *info)
{
	struct cv_dns_series key = {
		.type = info->type,
		.tcp = info->tcp,
		.service = info->src ? info->src->group->canonical_name : NULL,
		.revision = info->src ? info->src->group->canonical_revision : NULL,
	};
	struct cv_dns_series *_Atomic *bucket = bucket_of(t, &key);
	struct cv_dns_series *s = find(bucket, &key);

	if (s)
		return s;
	pthread_mutex_lock(&t->lock);
	if (t->n >= CV_LIMIT_DNS_SERIES) {
		key = (struct cv_dns_series){ .type = "overflow", .tcp = info->tcp };
		bucket = bucket_of(t, &key);
	}
	s = find(bucket, &key);
	if (!s)
		s = insert(t, bucket, &key);
	pthread_mutex_unlock(&t->lock);
	return s;
}

/* ---- counting ---- */

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

void cv_dns_count_query(struct cv_telemetry *t, const struct cv_dns_info *info)
{
	struct cv_dns_series *s = get_series(&t->dns, info);

	if (s)
		count(&s->queries, 1);
}

void cv_dns_count_upstream(struct cv_telemetry *t, const struct cv_dns_info *info, uint64_t took_ns,
			   bool failed)
{
	struct cv_dns_series *s = get_series(&t->dns, info);
	size_t i = 0;

	if (!s)
		return;
	while (i < CV_DNS_TIME_BUCKETS && took_ns > bounds[i].ns)
		i++;
	count(&s->upstream, 1);
	count(&s->failures, failed);
	count(&s->took[i], 1);
	count(&s->took_ns, took_ns);
}

/* ---- exposition ---- */

static uint64_t queries_of(const struct cv_dns_series *s)
{
	return atomic_load(&s->queries);
}

static uint64_t upstream_of(const struct cv_dns_series *s)
{
	return atomic_load(&s->upstream);
}

static uint64_t failures_of(const struct cv_dns_series *s)
{
	return atomic_load(&s->failures);
}

static void print_counter(FILE *out, const char *name, const struct cv_dns_series *s, uint64_t n)
{
	fprintf(out, "%s_total{%s} %" PRIu64 "\n", name, s->labels, n);
}

static void print_times(FILE *out, const char *name, const struct cv_dns_series *s, uint64_t n)
{
	uint64_t up_to = 0;

	fprintf(out, "%s_sum{%s} %.9f\n%s_count{%s} %" PRIu64 "\n", name, s->labels,
		(double)atomic_load(&s->took_ns) / 1e9, name, s->labels, n);
	for (size_t i = 0; i < CV_DNS_TIME_BUCKETS; i++) {
		up_to += atomic_load(&s->took[i]);
		fprintf(out, "%s_bucket{le=\"%s\",%s} %" PRIu64 "\n", name, bounds[i].text,
			s->labels, up_to < n ? up_to : n);
	}
	fprintf(out, "%s_bucket{le=\"+Inf\",%s} %" PRIu64 "\n", name, s->labels, n);
}

static const struct {
	const char *name, *type, *unit, *help;
	uint64_t (*samples)(const struct cv_dns_series *s); /* 0 = nothing to tell */
	void (*print)(FILE *out, const char *name, const struct cv_dns_series *s, uint64_t n);
} families[] = {
	{ "istio_dns_requests", "counter", NULL, "Total number of DNS requests (unstable).",
	  queries_of, print_counter },
	{ "istio_dns_upstream_requests", "counter", NULL,
	  "Total number of DNS requests forwarded to upstream (unstable).", upstream_of,
	  print_counter },
	{ "istio_dns_upstream_failures", "counter", NULL,
	  "Total number of DNS requests that failed to forward upstream (unstable).", failures_of,
	  print_counter },
	{ "istio_dns_upstream_request_duration_seconds", "histogram", "seconds",
	  "Total time in seconds Istio takes to get DNS response from upstream (unstable).",
	  upstream_of, print_times },
};

static void print_header(FILE *out, size_t i)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", families[i].name, families[i].help,
		families[i].name, families[i].type);
	if (families[i].unit)
		fprintf(out, "# UNIT %s %s\n", families[i].name, families[i].unit);
}

void cv_dns_series_print(struct cv_dns_series_table *t, FILE *out)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(families); i++) {
		struct cv_dns_series *s = atomic_load_explicit(&t->first, memory_order_acquire);
		bool started = false;

		for (; s; s = atomic_load_explicit(&s->next, memory_order_acquire)) {
			uint64_t n = families[i].samples(s);

			if (!n)
				continue;
			if (!started)
				print_header(out, i);
			started = true;
			families[i].print(out, families[i].name, s, n);
		}
	}
}

/* ---- log ---- */

void cv_dns_log(const struct cv_dns_info *info, const char *result, unsigned records)
{
	char query[32], domain[1100], endpoints[16];
	const struct cv_log_field fields[] = {
		{ "src.workload", info->src ? cv_str_text(cv_workload_name(info->src)) : "unknown",
		  false },
		{ "src.namespace", info->src ? cv_str_text(info->src->group->ns) : "unknown",
		  false },
		{ "query", query, false },
		{ "domain", domain, false },
		{ "result", result, false },
		{ "endpoints", endpoints, true },
	};
	size_t n = 0;

	if (!cv_log_enabled(CV_LOG_DEBUG, CV_LOG_TARGET))
		return;
	for (; info->type[n] && n + 1 < sizeof(query); n++)
		query[n] = info->type[n] >= 'a' && info->type[n] <= 'z' ?
				   (char)(info->type[n] - 'a' + 'A') :
				   info->type[n];
	query[n] = '\0';
	snprintf(domain, sizeof(domain), "%s.", info->name);
	snprintf(endpoints, sizeof(endpoints), "%u", records);
	cv_log_fields(CV_LOG_DEBUG, CV_LOG_TARGET, "", fields, CV_ARRAY_SIZE(fields));
}
