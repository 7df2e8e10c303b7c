// SPDX-License-Identifier: Apache-2.0
/*
 * Label sets. The labels of a series are printed once, when it is made, as the exposition wants
 * them. Names, order and values are ztunnel's; `tier` is ours and comes last.
 */
#include "userspace/telemetry/series.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/telemetry/telemetry.h"

_Static_assert(sizeof(struct cv_series_key) ==
		       2 * sizeof(struct cv_series_end) + 3 * sizeof(cv_str) + 4 * sizeof(uint32_t),
	       "a key is compared as bytes");

/* --- keys --- */

static void set_end(struct cv_series_end *end, const struct cv_workload *w,
		    const struct cv_identity *proven)
{
	if (w) {
		end->workload_name = w->group->workload_name;
		end->canonical_name = w->group->canonical_name;
		end->canonical_revision = w->group->canonical_revision;
		end->ns = w->group->ns;
		end->cluster_id = w->group->cluster_id;
		end->region = w->place->locality.region;
		end->zone = w->place->locality.zone;
	}
	if (proven)
		end->principal = *proven;
}

/* Borrows every string. */
static void make_key(struct cv_series_key *key, const struct cv_traffic_info *info)
{
	const struct cv_workload *dst = info->dst;

	*key = (struct cv_series_key){
		.reporter = info->reporter,
		.tier = info->tier,
		.mtls = info->mtls,
		.located = info->src || dst,
	};
	set_end(&key->src, info->src, info->src_identity);
	set_end(&key->dst, dst, info->dst_identity);
	/* The destination's principal is what was proven, else what its record claims. */
	if (!info->dst_identity && dst && dst->group->service_account)
		key->dst.principal = (struct cv_identity){ dst->group->trust_domain, dst->group->ns,
							   dst->group->service_account };
	if (!info->service)
		return;
	key->service_host = info->service->hostname;
	key->service_ns = info->service->ns;
	key->service_name = info->service->name;
}

/* Calls fn for each string of a key. */
static void each_string(struct cv_series_key *key, void (*fn)(cv_str *s))
{
	cv_str *const strings[] = {
		&key->src.workload_name,
		&key->src.canonical_name,
		&key->src.canonical_revision,
		&key->src.ns,
		&key->src.cluster_id,
		&key->src.region,
		&key->src.zone,
		&key->dst.workload_name,
		&key->dst.canonical_name,
		&key->dst.canonical_revision,
		&key->dst.ns,
		&key->dst.cluster_id,
		&key->dst.region,
		&key->dst.zone,
		&key->src.principal.trust_domain,
		&key->src.principal.ns,
		&key->src.principal.sa,
		&key->dst.principal.trust_domain,
		&key->dst.principal.ns,
		&key->dst.principal.sa,
		&key->service_host,
		&key->service_ns,
		&key->service_name,
	};

	_Static_assert(sizeof(strings) == offsetof(struct cv_series_key, reporter),
		       "every string of the key is listed");
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		fn(strings[i]);
}

static void ref_string(cv_str *s)
{
	*s = cv_str_ref(*s);
}

static uint64_t hash_key(const struct cv_series_key *key)
{
	const uint64_t *words = (const uint64_t *)key;
	uint64_t h = 0;

	for (size_t i = 0; i < sizeof(*key) / sizeof(*words); i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	return h;
}

/* --- labels --- */

static void put(FILE *out, const char *end, const char *name, const char *value)
{
	char escaped[2 * CV_IDENTITY_TEXT];

	fprintf(out, ",%s%s=\"%s\"", end, name,
		value && *value ? cv_metric_escape(value, escaped, sizeof(escaped)) : "unknown");
}

static void put_end(FILE *out, const char *end, const struct cv_series_end *e)
{
	char principal[CV_IDENTITY_TEXT];

	put(out, end, "workload", e->workload_name);
	put(out, end, "canonical_service", e->canonical_name);
	put(out, end, "canonical_revision", e->canonical_revision);
	put(out, end, "workload_namespace", e->ns);
	put(out, end, "principal",
	    cv_identity_is_set(&e->principal) ? cv_identity_text(&e->principal, principal) : NULL);
	put(out, end, "app", e->canonical_name);
	put(out, end, "version", e->canonical_revision);
	put(out, end, "cluster", e->cluster_id);
}

static void put_locality(FILE *out, const char *end, const struct cv_series_end *e)
{
	put(out, end, "region", e->region);
	put(out, end, "zone", e->zone);
}

static int print_labels(struct cv_series *s)
{
	const struct cv_series_key *key = &s->key;
	size_t size;
	FILE *out = open_memstream(&s->labels, &size);

	if (!out)
		return -ENOMEM;
	fprintf(out, "reporter=\"%s\"",
		key->reporter == CV_REPORTER_SOURCE ? "source" : "destination");
	put_end(out, "source_", &key->src);
	put(out, "", "destination_service", key->service_host);
	put(out, "", "destination_service_namespace", key->service_ns);
	put(out, "", "destination_service_name", key->service_name);
	put_end(out, "destination_", &key->dst);
	fputs(",request_protocol=\"tcp\",response_flags=\"", out);
	s->flags_at = (size_t)ftello(out);
	fprintf(out, "\",connection_security_policy=\"%s\"", key->mtls ? "mutual_tls" : "unknown");
	if (key->located) {
		put_locality(out, "source_", &key->src);
		put_locality(out, "destination_", &key->dst);
	}
	put(out, "", "tier", cv_tier_text(key->tier));
	return fclose(out) ? -ENOMEM : 0;
}

/* --- the table --- */

static void free_series(struct cv_series *s)
{
	each_string(&s->key, cv_str_put);
	free(s->labels);
	free(s);
}

static struct cv_series *find(struct cv_series *_Atomic *bucket, const struct cv_series_key *key)
{
	struct cv_series *s = atomic_load_explicit(bucket, memory_order_acquire);

	while (s && memcmp(&s->key, key, sizeof(*key)))
		s = s->same_bucket;
	return s;
}

/* Under lock. */
static struct cv_series *insert(struct cv_series_table *t, struct cv_series *_Atomic *bucket,
				const struct cv_series_key *key)
{
	struct cv_series *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->key = *key;
	each_string(&s->key, ref_string);
	if (print_labels(s) < 0) {
		free_series(s);
		return NULL;
	}
	s->same_bucket = atomic_load_explicit(bucket, memory_order_relaxed);
	atomic_store_explicit(bucket, s, memory_order_release);
	atomic_store_explicit(t->last ? &t->last->next : &t->first, s, memory_order_release);
	t->last = s;
	return s;
}

static struct cv_series *find_or_insert(struct cv_series_table *t, const struct cv_series_key *key,
					bool counted)
{
	struct cv_series *_Atomic *bucket = &t->bucket[hash_key(key) % CV_SERIES_BUCKETS];
	struct cv_series *s = find(bucket, key);

	if (s)
		return s;
	pthread_mutex_lock(&t->lock);
	s = find(bucket, key);
	if (!s && (!counted || t->n < t->max)) {
		s = insert(t, bucket, key);
		if (s && counted)
			t->n++;
	}
	pthread_mutex_unlock(&t->lock);
	return s;
}

struct cv_series *cv_series_get(struct cv_series_table *t, const struct cv_traffic_info *info)
{
	struct cv_series_key key;
	struct cv_series *s;

	make_key(&key, info);
	s = find_or_insert(t, &key, true);
	if (s)
		return s;
	atomic_fetch_add_explicit(&t->overflowed, 1, memory_order_relaxed);
	/* Two reporters, a few tiers, mTLS or not: there are not many of these. */
	key = (struct cv_series_key){
		.reporter = info->reporter,
		.tier = info->tier,
		.mtls = info->mtls,
		.src.workload_name = t->overflow,
		.dst.workload_name = t->overflow,
	};
	return find_or_insert(t, &key, false);
}

void cv_series_init(struct cv_series_table *t, unsigned max)
{
	t->max = max;
	t->overflow = cv_str_new("overflow");
	pthread_mutex_init(&t->lock, NULL);
}

void cv_series_fini(struct cv_series_table *t)
{
	struct cv_series *s = atomic_load(&t->first), *next;

	for (; s; s = next) {
		next = atomic_load(&s->next);
		free_series(s);
	}
	cv_str_put(&t->overflow);
	pthread_mutex_destroy(&t->lock);
}
