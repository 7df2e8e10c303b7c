// SPDX-License-Identifier: Apache-2.0
/*
 * Typed access to the maps. Hashes are walked in batches of copies, so that a callback may
 * change or delete what it is shown; an entry that is added meanwhile may be missed.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/tables.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/internal.h"
#include "userspace/base/cleanup.h"

enum { WALK_BATCH = 256, WALK_BATCH_MAX = 1 << 16 };

static int get(const struct cv_bpf *bpf, enum cv_map_id map, const void *key, void *ret)
{
	return bpf_map_lookup_elem(bpf->maps[map], key, ret) < 0 ? -errno : 0;
}

static int set(const struct cv_bpf *bpf, enum cv_map_id map, const void *key, const void *value)
{
	return bpf_map_update_elem(bpf->maps[map], key, value, BPF_ANY) < 0 ? -errno : 0;
}

static int del(const struct cv_bpf *bpf, enum cv_map_id map, const void *key)
{
	return bpf_map_delete_elem(bpf->maps[map], key) < 0 ? -errno : 0;
}

/* --- walking -------------------------------------------------------------------------------- */

typedef int (*walk_fn)(const void *key, const void *value, void *arg);

struct walk {
	int fd;
	size_t key_size, value_size;
	walk_fn fn;
	void *arg;
};

static int show_batch(const struct walk *w, const char *keys, const char *values, uint32_t n)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < n; i++)
		r = w->fn(keys + i * w->key_size, values + i * w->value_size, w->arg);
	return r;
}

/* Shows what there is from *position on, n entries at a time. 0 = all is shown, -ENOSPC = the
 * bucket at *position holds more than n. */
static int walk_batches(const struct walk *w, uint32_t n, uint32_t *position, bool *started)
{
	_cleanup_free_ char *keys = malloc(n * w->key_size);
	_cleanup_free_ char *values = malloc(n * w->value_size);
	bool last = false;

	if (!keys || !values)
		return -ENOMEM;
	while (!last) {
		uint32_t got = n;
		int r = bpf_map_lookup_batch(w->fd, *started ? position : NULL, position, keys,
					     values, &got, NULL);

		*started = true;
		if (r < 0 && errno != ENOENT)
			return -errno;
		last = r < 0;
		r = show_batch(w, keys, values, got);
		if (r)
			return r;
	}
	return 0;
}

static int walk(const struct cv_bpf *bpf, enum cv_map_id map, struct walk *w)
{
	uint32_t position = 0;
	bool started = false;
	int r = -ENOSPC;

	w->fd = bpf->maps[map];
	for (uint32_t n = WALK_BATCH; r == -ENOSPC && n <= WALK_BATCH_MAX; n *= 4)
		r = walk_batches(w, n, &position, &started);
	return r;
}

/* Calls the typed callback of a walk: key by pointer. */
#define DEFINE_EACH(name, MAP, key_t, value_t, show_key)                                        \
	struct each_##name {                                                                    \
		int (*fn)(key_t, const struct value_t *, void *);                               \
		void *arg;                                                                      \
	};                                                                                      \
	static int show_##name(const void *key, const void *value, void *arg)                   \
	{                                                                                       \
		const struct each_##name *e = arg;                                              \
                                                                                                \
		return e->fn(show_key, value, e->arg);                                          \
	}                                                                                       \
	int cv_table_##name##_each(struct cv_bpf *bpf,                                          \
				   int (*fn)(key_t, const struct value_t *, void *), void *arg) \
	{                                                                                       \
		struct each_##name e = { fn, arg };                                             \
		struct walk w = {                                                               \
			.key_size = sizeof(*(const key_##name *)0),                             \
			.value_size = sizeof(struct value_t),                                   \
			.fn = show_##name,                                                      \
			.arg = &e,                                                              \
		};                                                                              \
                                                                                                \
		return walk(bpf, CV_MAP_##MAP, &w);                                             \
	}

typedef uint64_t key_pod, key_flow;
typedef struct cv_addr key_workload;
typedef struct cv_service_key key_service;
typedef struct cv_endpoint_key key_endpoint;
typedef struct cv_verdict_key key_verdict;
typedef struct cv_tuple key_attested;

DEFINE_EACH(pod, PODS, uint64_t, cv_pod, *(const uint64_t *)key)
DEFINE_EACH(flow, FLOWS, uint64_t, cv_flow_entry, *(const uint64_t *)key)
DEFINE_EACH(workload, WORKLOADS, const struct cv_addr *, cv_workload_entry, key)
DEFINE_EACH(service, SERVICES, const struct cv_service_key *, cv_service_entry, key)
DEFINE_EACH(endpoint, ENDPOINTS, const struct cv_endpoint_key *, cv_endpoint_entry, key)
DEFINE_EACH(verdict, VERDICTS, const struct cv_verdict_key *, cv_verdict_entry, key)
DEFINE_EACH(attested, ATTESTED, const struct cv_tuple *, cv_attested_entry, key)

/* --- maps ----------------------------------------------------------------------------------- */

int cv_table_control_get(struct cv_bpf *bpf, struct cv_control_entry *ret)
{
	uint32_t zero = 0;

	return get(bpf, CV_MAP_CONTROL, &zero, ret);
}

int cv_table_control_set(struct cv_bpf *bpf, const struct cv_control_entry *entry)
{
	uint32_t zero = 0;

	return set(bpf, CV_MAP_CONTROL, &zero, entry);
}

int cv_table_pod_get(struct cv_bpf *bpf, uint64_t netns_cookie, struct cv_pod *ret)
{
	return get(bpf, CV_MAP_PODS, &netns_cookie, ret);
}

int cv_table_pod_set(struct cv_bpf *bpf, uint64_t netns_cookie, const struct cv_pod *pod)
{
	return set(bpf, CV_MAP_PODS, &netns_cookie, pod);
}

int cv_table_pod_del(struct cv_bpf *bpf, uint64_t netns_cookie)
{
	return del(bpf, CV_MAP_PODS, &netns_cookie);
}

int cv_table_usage_get(struct cv_bpf *bpf, uint32_t pod, struct cv_usage_entry *ret)
{
	return get(bpf, CV_MAP_USAGE, &pod, ret);
}

int cv_table_usage_set(struct cv_bpf *bpf, uint32_t pod, const struct cv_usage_entry *entry)
{
	return set(bpf, CV_MAP_USAGE, &pod, entry);
}

int cv_table_workload_set(struct cv_bpf *bpf, const struct cv_addr *addr,
			  const struct cv_workload_entry *entry)
{
	return set(bpf, CV_MAP_WORKLOADS, addr, entry);
}

int cv_table_workload_get(struct cv_bpf *bpf, const struct cv_addr *addr,
			  struct cv_workload_entry *ret)
{
	return get(bpf, CV_MAP_WORKLOADS, addr, ret);
}

int cv_table_workload_del(struct cv_bpf *bpf, const struct cv_addr *addr)
{
	return del(bpf, CV_MAP_WORKLOADS, addr);
}

int cv_table_service_set(struct cv_bpf *bpf, const struct cv_service_key *key,
			 const struct cv_service_entry *entry)
{
	return set(bpf, CV_MAP_SERVICES, key, entry);
}

int cv_table_service_get(struct cv_bpf *bpf, const struct cv_service_key *key,
			 struct cv_service_entry *ret)
{
	return get(bpf, CV_MAP_SERVICES, key, ret);
}

int cv_table_service_del(struct cv_bpf *bpf, const struct cv_service_key *key)
{
	return del(bpf, CV_MAP_SERVICES, key);
}

int cv_table_endpoint_set(struct cv_bpf *bpf, const struct cv_endpoint_key *key,
			  const struct cv_endpoint_entry *entry)
{
	return set(bpf, CV_MAP_ENDPOINTS, key, entry);
}

int cv_table_endpoint_del(struct cv_bpf *bpf, const struct cv_endpoint_key *key)
{
	return del(bpf, CV_MAP_ENDPOINTS, key);
}

int cv_table_verdict_set(struct cv_bpf *bpf, const struct cv_verdict_key *key,
			 const struct cv_verdict_entry *entry)
{
	return set(bpf, CV_MAP_VERDICTS, key, entry);
}

int cv_table_verdict_get(struct cv_bpf *bpf, const struct cv_verdict_key *key,
			 struct cv_verdict_entry *ret)
{
	return get(bpf, CV_MAP_VERDICTS, key, ret);
}

int cv_table_verdict_del(struct cv_bpf *bpf, const struct cv_verdict_key *key)
{
	return del(bpf, CV_MAP_VERDICTS, key);
}

int cv_table_attested_get(struct cv_bpf *bpf, const struct cv_tuple *tuple,
			  struct cv_attested_entry *ret)
{
	return get(bpf, CV_MAP_ATTESTED, tuple, ret);
}

int cv_table_attested_del(struct cv_bpf *bpf, const struct cv_tuple *tuple)
{
	return del(bpf, CV_MAP_ATTESTED, tuple);
}

int cv_table_flow_get(struct cv_bpf *bpf, uint64_t cookie, struct cv_flow_entry *ret)
{
	return get(bpf, CV_MAP_FLOWS, &cookie, ret);
}

int cv_table_flow_del(struct cv_bpf *bpf, uint64_t cookie)
{
	return del(bpf, CV_MAP_FLOWS, &cookie);
}

int cv_table_listener_set(struct cv_bpf *bpf, uint32_t pod, enum cv_listener slot, int fd)
{
	uint32_t key = pod * CV_LISTENER_NR + slot;
	uint64_t value = (uint64_t)fd;

	return set(bpf, CV_MAP_LISTENERS, &key, &value);
}

int cv_table_dns_set(struct cv_bpf *bpf, uint32_t pod, enum cv_dns_slot slot, int fd)
{
	uint32_t key = pod * CV_DNS_NR + slot;
	uint64_t value = (uint64_t)fd;

	return set(bpf, CV_MAP_DNS, &key, &value);
}

int cv_table_sk_set_kind(struct cv_bpf *bpf, int fd, enum cv_kind kind)
{
	struct cv_sk_entry entry = { .kind = kind };

	return set(bpf, CV_MAP_SK, &fd, &entry);
}

/* --- reasons -------------------------------------------------------------------------------- */

int cv_table_reasons_get(struct cv_bpf *bpf, uint64_t *ret)
{
	int cpus = libbpf_num_possible_cpus();
	_cleanup_free_ uint64_t *per_cpu = NULL; /* CV_REASON_NR counters a CPU */
	uint32_t zero = 0;
	int r;

	if (cpus < 0)
		return cpus;
	per_cpu = calloc((size_t)cpus, sizeof(struct cv_reasons_entry));
	if (!per_cpu)
		return -ENOMEM;
	r = get(bpf, CV_MAP_REASONS, &zero, per_cpu);
	if (r < 0)
		return r;
	memset(ret, 0, sizeof(struct cv_reasons_entry));
	for (size_t i = 0; i < (size_t)cpus * CV_REASON_NR; i++)
		ret[i % CV_REASON_NR] += per_cpu[i];
	return 0;
}

static const struct {
	const char *name, *action, *text;
} reasons[CV_REASON_NR] = {
#define REASON_ROW(sym, name, action, text) [CV_REASON_##sym] = { #name, #action, text },
	CV_REASONS(REASON_ROW)
#undef REASON_ROW
};

const char *cv_reason_name(uint32_t reason)
{
	return reason < CV_REASON_NR ? reasons[reason].name : "unknown";
}

const char *cv_reason_action(uint32_t reason)
{
	return reason < CV_REASON_NR ? reasons[reason].action : "unknown";
}

const char *cv_reason_text(uint32_t reason)
{
	return reason < CV_REASON_NR ? reasons[reason].text : "unknown";
}

/* --- status --------------------------------------------------------------------------------- */

static int count_entry(const void *key, const void *value, void *arg)
{
	uint32_t *n = arg;

	(void)key;
	(void)value;
	++*n;
	return 0;
}

int cv_table_info(struct cv_bpf *bpf, struct cv_table_info *ret, size_t max)
{
	for (size_t i = 0; i < CV_MAP_NR && i < max; i++) {
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf->maps[i], &info, &len) < 0)
			return -errno;
		ret[i] = (struct cv_table_info){ .max_entries = info.max_entries };
		memcpy(ret[i].name, info.name, sizeof(ret[i].name) - 1);
		if (info.type == BPF_MAP_TYPE_HASH) {
			struct walk w = {
				.key_size = info.key_size,
				.value_size = info.value_size,
				.fn = count_entry,
				.arg = &ret[i].entries,
			};
			int r = walk(bpf, (enum cv_map_id)i, &w);

			if (r < 0)
				return r;
		}
	}
	return CV_MAP_NR;
}
