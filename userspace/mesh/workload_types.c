/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life and comparison of workloads, of their groups and their places.
 *
 * A workload is the sixty bytes in which pods of one deployment differ; the group is the rest. Its
 * strings are interned, so that equal ones are equal pointers.
 */
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/types_private.h"

#define STRS(table) (table), CV_ARRAY_SIZE(table)

/* ---- groups ---- */

static const size_t group_strs[] = {
	offsetof(struct cv_group, name),
	offsetof(struct cv_group, ns),
	offsetof(struct cv_group, trust_domain),
	offsetof(struct cv_group, service_account),
	offsetof(struct cv_group, network),
	offsetof(struct cv_group, workload_name),
	offsetof(struct cv_group, workload_type),
	offsetof(struct cv_group, canonical_name),
	offsetof(struct cv_group, canonical_revision),
	offsetof(struct cv_group, hostname),
	offsetof(struct cv_group, cluster_id),
};

static uint64_t mix(uint64_t h, const void *pointer)
{
	h = (h ^ (uintptr_t)pointer) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 32;
}

static uint64_t mix_strs(uint64_t h, const void *object, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = mix(h, *(const cv_str *)((const char *)object + offsets[i]));
	return h;
}

static uint64_t hash_group(const void *object)
{
	const struct cv_group *g = object;
	uint64_t h = mix_strs(g->nr_services, g, STRS(group_strs));

	for (size_t i = 0; i < g->nr_services; i++)
		h = mix(mix(h, g->services[i].service.host), g->services[i].ports.entries);
	for (size_t i = 0; i < g->nr_policies; i++)
		h = mix(h, g->policies[i]);
	return h;
}

static bool memberships_eq(const struct cv_group *a, const struct cv_group *b)
{
	if (a->nr_services != b->nr_services)
		return false;
	for (size_t i = 0; i < a->nr_services; i++)
		if (!cv_ns_host_eq(&a->services[i].service, &b->services[i].service) ||
		    !cv_port_map_eq(&a->services[i].ports, &b->services[i].ports))
			return false;
	return true;
}

static bool groups_eq(const void *object, const void *other)
{
	const struct cv_group *a = object, *b = other;

	return a == b ||
	       (cv_strs_eq(a, b, STRS(group_strs)) && a->protocol == b->protocol &&
		a->network_mode == b->network_mode && a->native_tunnel == b->native_tunnel &&
		a->has_app_tunnel == b->has_app_tunnel &&
		a->app_tunnel_proxy == b->app_tunnel_proxy &&
		a->app_tunnel_port == b->app_tunnel_port && a->capacity == b->capacity &&
		memberships_eq(a, b) &&
		cv_str_arrays_eq(a->policies, a->nr_policies, b->policies, b->nr_policies) &&
		cv_gateway_eq(a->waypoint, b->waypoint) &&
		cv_gateway_eq(a->network_gateway, b->network_gateway));
}

static void free_group(void *object)
{
	struct cv_group *g = object;

	cv_put_strs(g, STRS(group_strs));
	for (size_t i = 0; i < g->nr_services; i++) {
		cv_ns_host_fini(&g->services[i].service);
		cv_port_map_fini(&g->services[i].ports);
	}
	free(g->services);
	cv_put_str_array(g->policies, g->nr_policies);
	cv_gateway_free(&g->waypoint);
	cv_gateway_free(&g->network_gateway);
	free(g);
}

static struct cv_shared_table groups = CV_SHARED_TABLE;

/* ---- places ---- */

static const size_t place_strs[] = {
	offsetof(struct cv_place, node),
	offsetof(struct cv_place, locality.region),
	offsetof(struct cv_place, locality.zone),
	offsetof(struct cv_place, locality.subzone),
};

static uint64_t hash_place(const void *object)
{
	return mix_strs(0, object, STRS(place_strs));
}

static bool places_eq(const void *object, const void *other)
{
	const struct cv_place *a = object, *b = other;

	return a == b || (cv_strs_eq(a, b, STRS(place_strs)) && a->has_locality == b->has_locality);
}

static void free_place(void *object)
{
	cv_put_strs(object, STRS(place_strs));
	free(object);
}

static struct cv_shared_table places = CV_SHARED_TABLE;

/* ---- workloads ---- */

struct cv_workload *cv_workload_new(void)
{
	struct cv_workload *w = cv_new_object(sizeof(*w));

	w->ref = 1;
	w->group = cv_new_object(sizeof(*w->group));
	w->group->shared.ref = 1;
	w->group->capacity = 1;
	w->place = cv_new_object(sizeof(*w->place));
	w->place->shared.ref = 1;
	return w;
}

struct cv_workload *cv_workload_ref(struct cv_workload *w)
{
	if (w)
		__atomic_fetch_add(&w->ref, 1, __ATOMIC_RELAXED);
	return w;
}

void cv_workload_put(struct cv_workload **wp)
{
	struct cv_workload *w = cv_take_ptr(*wp);

	if (!w || !cv_ref_drop(&w->ref))
		return;
	if (cv_shared_put(&groups, &w->group->shared))
		free_group(w->group);
	if (cv_shared_put(&places, &w->place->shared))
		free_place(w->place);
	cv_str_put(&w->uid);
	if (w->ips != &w->ip)
		free(w->ips);
	free(w);
}

void cv_workload_set_ips(struct cv_workload *w, const struct cv_addr *ips, size_t n)
{
	if (w->ips != &w->ip)
		free(w->ips);
	w->ips = n > 1 ? cv_new_object(n * sizeof(*ips)) : n ? &w->ip : NULL;
	if (n)
		memcpy(w->ips, ips, n * sizeof(*ips));
	w->nr_ips = (uint16_t)n;
}

static const char *end_of_uid(const struct cv_workload *w)
{
	const char *slash = strrchr(cv_str_text(w->uid), '/');

	return slash && slash[1] ? slash + 1 : NULL;
}

const char *cv_workload_name(const struct cv_workload *w)
{
	return w->name_in_uid ? end_of_uid(w) : w->group->name;
}

static struct cv_shared *as_is(const void *like)
{
	return (struct cv_shared *)like;
}

/* The object that equals this one, which is it itself or takes its place. */
static void *hold(struct cv_shared_table *t, void *object, uint64_t hash, cv_shared_eq eq,
		  void (*free_object)(void *object))
{
	void *held = cv_shared_get(t, (uint32_t)(hash ^ hash >> 32), object, eq, as_is);

	if (held != object)
		free_object(object);
	return held;
}

void cv_workload_seal(struct cv_workload *w)
{
	const char *end = end_of_uid(w);

	if (end && w->group->name && !w->group->shared.held && strcmp(w->group->name, end) == 0) {
		cv_str_put(&w->group->name);
		w->name_in_uid = true;
	}
	if (!w->group->shared.held)
		w->group = hold(&groups, w->group, hash_group(w->group), groups_eq, free_group);
	if (!w->place->shared.held)
		w->place = hold(&places, w->place, hash_place(w->place), places_eq, free_place);
}

static bool addresses_eq(const struct cv_workload *a, const struct cv_workload *b)
{
	if (a->nr_ips != b->nr_ips)
		return false;
	for (size_t i = 0; i < a->nr_ips; i++)
		if (!cv_addr_eq(&a->ips[i], &b->ips[i]))
			return false;
	return true;
}

bool cv_workload_eq(const struct cv_workload *a, const struct cv_workload *b)
{
	return a->uid == b->uid && a->status == b->status && a->name_in_uid == b->name_in_uid &&
	       groups_eq(a->group, b->group) && places_eq(a->place, b->place) && addresses_eq(a, b);
}
