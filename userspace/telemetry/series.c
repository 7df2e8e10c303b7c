// SPDX-License-Identifier: Apache-2.0
/*
 * Label sets. The labels of a connection are printed once, as the exposition wants them, and
 * that text is the key. Names, order and values are ztunnel's; `tier` is ours and comes last.
 */
#include "userspace/telemetry/series.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/telemetry/telemetry.h"

enum { LABELS_BYTES = 16384 }; /* names are at most 253 bytes, so 28 labels fit */

struct labels {
	size_t len;
	size_t flags_at;
	bool cut;
	char text[LABELS_BYTES];
};

static void add_raw(struct labels *l, const char *text)
{
	size_t n = strlen(text);

	if (n >= sizeof(l->text) - l->len) {
		l->cut = true;
		return;
	}
	memcpy(l->text + l->len, text, n + 1);
	l->len += n;
}

static void add(struct labels *l, const char *name, const char *value)
{
	char escaped[2 * CV_IDENTITY_TEXT];

	add_raw(l, l->len ? "," : "");
	add_raw(l, name);
	add_raw(l, "=\"");
	add_raw(l, value && *value ? cv_metric_escape(value, escaped, sizeof(escaped)) : "unknown");
	add_raw(l, "\"");
}

static void add_end(struct labels *l, const char *end, const char *name, const char *value)
{
	char full[64];

	snprintf(full, sizeof(full), "%s_%s", end, name);
	add(l, full, value);
}

static void add_workload(struct labels *l, const char *end, const struct cv_workload *w,
			 const char *principal)
{
	static const struct cv_workload unknown;

	w = w ? w : &unknown;
	add_end(l, end, "workload", w->workload_name);
	add_end(l, end, "canonical_service", w->canonical_name);
	add_end(l, end, "canonical_revision", w->canonical_revision);
	add_end(l, end, "workload_namespace", w->ns);
	add_end(l, end, "principal", principal);
	add_end(l, end, "app", w->canonical_name);
	add_end(l, end, "version", w->canonical_revision);
	add_end(l, end, "cluster", w->cluster_id);
}

/* The destination's principal is what was proven, else what its record claims. */
static const char *destination_principal(const struct cv_traffic_info *info,
					 char buf[CV_IDENTITY_TEXT])
{
	const struct cv_workload *w = info->dst;
	struct cv_identity claimed;

	if (info->dst_identity)
		return cv_identity_text(info->dst_identity, buf);
	if (!w || !w->service_account)
		return NULL;
	claimed = (struct cv_identity){ w->trust_domain, w->ns, w->service_account };
	return cv_identity_text(&claimed, buf);
}

static void add_locality(struct labels *l, const char *end, const struct cv_workload *w)
{
	add_end(l, end, "region", w ? w->locality.region : NULL);
	add_end(l, end, "zone", w ? w->locality.zone : NULL);
}

static void print_labels(struct labels *l, const struct cv_traffic_info *info)
{
	const struct cv_service *svc = info->service;
	char buf[CV_IDENTITY_TEXT];

	l->len = 0;
	l->cut = false;
	add(l, "reporter", info->reporter == CV_REPORTER_SOURCE ? "source" : "destination");
	add_workload(l, "source", info->src,
		     info->src_identity ? cv_identity_text(info->src_identity, buf) : NULL);
	add(l, "destination_service", svc ? svc->hostname : NULL);
	add(l, "destination_service_namespace", svc ? svc->ns : NULL);
	add(l, "destination_service_name", svc ? svc->name : NULL);
	add_workload(l, "destination", info->dst, destination_principal(info, buf));
	add(l, "request_protocol", "tcp");
	add_raw(l, ",response_flags=\"");
	l->flags_at = l->len;
	add_raw(l, "\"");
	add(l, "connection_security_policy", info->mtls ? "mutual_tls" : "unknown");
	if (info->src || info->dst) {
		add_locality(l, "source", info->src);
		add_locality(l, "destination", info->dst);
	}
	add(l, "tier", cv_tier_text(info->tier));
}

/* FNV-1a, enough for labels that we make ourselves and bound. */
static uint64_t hash_labels(const struct labels *l)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < l->len; i++)
		h = (h ^ (uint8_t)l->text[i]) * 0x100000001b3ull;
	return h;
}

static struct cv_series *find(struct cv_series_table *t, const struct labels *l, uint64_t hash)
{
	struct cv_series *s =
		atomic_load_explicit(&t->bucket[hash % CV_SERIES_BUCKETS], memory_order_acquire);

	while (s && (s->hash != hash || strcmp(s->labels, l->text)))
		s = s->same_bucket;
	return s;
}

/* Under lock. */
static struct cv_series *insert(struct cv_series_table *t, const struct labels *l, uint64_t hash)
{
	struct cv_series *_Atomic *bucket = &t->bucket[hash % CV_SERIES_BUCKETS];
	struct cv_series *s = calloc(1, sizeof(*s) + l->len + 1);

	if (!s)
		return NULL;
	memcpy(s->labels, l->text, l->len + 1);
	s->flags_at = l->flags_at;
	s->hash = hash;
	s->same_bucket = atomic_load_explicit(bucket, memory_order_relaxed);
	atomic_store_explicit(bucket, s, memory_order_release);
	atomic_store_explicit(t->last ? &t->last->next : &t->first, s, memory_order_release);
	t->last = s;
	return s;
}

static struct cv_series *find_or_insert(struct cv_series_table *t, const struct labels *l,
					bool counted)
{
	uint64_t hash = hash_labels(l);
	struct cv_series *s = find(t, l, hash);

	if (s)
		return s;
	pthread_mutex_lock(&t->lock);
	s = find(t, l, hash);
	if (!s && (!counted || t->n < t->max)) {
		s = insert(t, l, hash);
		if (s && counted)
			t->n++;
	}
	pthread_mutex_unlock(&t->lock);
	return s;
}

struct cv_series *cv_series_get(struct cv_series_table *t, const struct cv_traffic_info *info)
{
	static char overflow[] = "overflow";
	const struct cv_workload stand_in = { .workload_name = overflow };
	/* Two reporters, a few tiers, mTLS or not: there are not many of these. */
	const struct cv_traffic_info rest = {
		.reporter = info->reporter,
		.tier = info->tier,
		.mtls = info->mtls,
		.src = &stand_in,
		.dst = &stand_in,
	};
	struct cv_series *s = NULL;
	struct labels l;

	print_labels(&l, info);
	if (!l.cut)
		s = find_or_insert(t, &l, true);
	if (s)
		return s;
	atomic_fetch_add_explicit(&t->overflowed, 1, memory_order_relaxed);
	print_labels(&l, &rest);
	return find_or_insert(t, &l, false);
}

void cv_series_init(struct cv_series_table *t, unsigned max)
{
	t->max = max;
	pthread_mutex_init(&t->lock, NULL);
}

void cv_series_fini(struct cv_series_table *t)
{
	struct cv_series *s = atomic_load(&t->first), *next;

	for (; s; s = next) {
		next = atomic_load(&s->next);
		free(s);
	}
	pthread_mutex_destroy(&t->lock);
}
