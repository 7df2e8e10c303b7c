/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life and comparison of workloads and services; policies have policy_types.c.
 *
 * The string members of each object are listed once, as offsets; freeing and comparing walk
 * the list. Equal interned strings are equal pointers, so comparing one is one instruction.
 */
#include "userspace/mesh/types.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

#define STR(type, member) offsetof(struct type, member)

static const size_t workload_strs[] = {
	STR(cv_workload, uid),
	STR(cv_workload, name),
	STR(cv_workload, ns),
	STR(cv_workload, trust_domain),
	STR(cv_workload, service_account),
	STR(cv_workload, network),
	STR(cv_workload, workload_name),
	STR(cv_workload, workload_type),
	STR(cv_workload, canonical_name),
	STR(cv_workload, canonical_revision),
	STR(cv_workload, hostname),
	STR(cv_workload, node),
	STR(cv_workload, cluster_id),
	STR(cv_workload, locality.region),
	STR(cv_workload, locality.zone),
	STR(cv_workload, locality.subzone),
};
static const size_t service_strs[] = {
	STR(cv_service, name),
	STR(cv_service, ns),
	STR(cv_service, hostname),
};

#define STRS(table) (table), CV_ARRAY_SIZE(table)

static void put_strs(void *object, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cv_str_put((cv_str *)((char *)object + offsets[i]));
}

static bool strs_eq(const void *a, const void *b, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (*(const cv_str *)((const char *)a + offsets[i]) !=
		    *(const cv_str *)((const char *)b + offsets[i]))
			return false;
	return true;
}

/* Objects are small and few per file or message: without memory there is nothing to go on with. */
static void *new_object(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	*(int *)p = 1; /* ref, the first member of every object */
	return p;
}

static_assert(offsetof(struct cv_workload, ref) == 0, "new_object sets ref");
static_assert(offsetof(struct cv_service, ref) == 0, "new_object sets ref");

static void get_ref(int *ref)
{
	__atomic_fetch_add(ref, 1, __ATOMIC_RELAXED);
}

static bool put_ref(int *ref)
{
	return __atomic_fetch_sub(ref, 1, __ATOMIC_ACQ_REL) == 1;
}

static void put_str_array(cv_str *items, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cv_str_put(&items[i]);
	free(items);
}

static bool str_arrays_eq(const cv_str *a, size_t na, const cv_str *b, size_t nb)
{
	if (na != nb)
		return false;
	for (size_t i = 0; i < na; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

/* ---- port maps and gateways ---- */

int cv_port_map_find(const struct cv_port_map *m, uint16_t service_port)
{
	size_t low = 0, high = m->n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (m->entries[mid].service_port == service_port)
			return m->entries[mid].target_port;
		if (m->entries[mid].service_port < service_port)
			low = mid + 1;
		else
			high = mid;
	}
	return -ENOENT;
}

bool cv_port_map_eq(const struct cv_port_map *a, const struct cv_port_map *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (a->entries[i].service_port != b->entries[i].service_port ||
		    a->entries[i].target_port != b->entries[i].target_port)
			return false;
	return true;
}

void cv_port_map_copy(struct cv_port_map *ret, const struct cv_port_map *from)
{
	*ret = (struct cv_port_map){};
	if (!from->n)
		return;
	ret->entries = calloc(from->n, sizeof(*ret->entries));
	if (!ret->entries)
		abort();
	memcpy(ret->entries, from->entries, from->n * sizeof(*ret->entries));
	ret->n = from->n;
}

static void put_ns_host(struct cv_ns_host *h)
{
	cv_str_put(&h->ns);
	cv_str_put(&h->host);
}

static bool ns_host_eq(const struct cv_ns_host *a, const struct cv_ns_host *b)
{
	return a->ns == b->ns && a->host == b->host;
}

void cv_gateway_fini(struct cv_gateway *g)
{
	cv_str_put(&g->addr.network);
	put_ns_host(&g->host);
}

static void free_gateway(struct cv_gateway **gp)
{
	struct cv_gateway *g = cv_take_ptr(*gp);

	if (!g)
		return;
	cv_gateway_fini(g);
	free(g);
}

static void copy_gateway(struct cv_gateway *ret, const struct cv_gateway *from)
{
	*ret = *from;
	cv_str_ref(ret->addr.network);
	cv_str_ref(ret->host.ns);
	cv_str_ref(ret->host.host);
}

static bool network_addr_eq(const struct cv_network_addr *a, const struct cv_network_addr *b)
{
	return a->network == b->network && cv_addr_eq(&a->ip, &b->ip);
}

static bool gateway_eq(const struct cv_gateway *a, const struct cv_gateway *b)
{
	if (!a || !b)
		return a == b;
	if (a->by_host != b->by_host || a->hbone_port != b->hbone_port)
		return false;
	return a->by_host ? ns_host_eq(&a->host, &b->host) : network_addr_eq(&a->addr, &b->addr);
}

/* ---- workloads ---- */

struct cv_workload *cv_workload_new(void)
{
	struct cv_workload *w = new_object(sizeof(*w));

	w->capacity = 1;
	return w;
}

struct cv_workload *cv_workload_ref(struct cv_workload *w)
{
	if (w)
		get_ref(&w->ref);
	return w;
}

void cv_workload_put(struct cv_workload **wp)
{
	struct cv_workload *w = cv_take_ptr(*wp);

	if (!w || !put_ref(&w->ref))
		return;
	put_strs(w, STRS(workload_strs));
	free(w->ips);
	for (size_t i = 0; i < w->nr_services; i++) {
		put_ns_host(&w->services[i].service);
		free(w->services[i].ports.entries);
	}
	free(w->services);
	put_str_array(w->policies, w->nr_policies);
	free_gateway(&w->waypoint);
	free_gateway(&w->network_gateway);
	free(w);
}

static bool memberships_eq(const struct cv_workload *a, const struct cv_workload *b)
{
	if (a->nr_services != b->nr_services)
		return false;
	for (size_t i = 0; i < a->nr_services; i++)
		if (!ns_host_eq(&a->services[i].service, &b->services[i].service) ||
		    !cv_port_map_eq(&a->services[i].ports, &b->services[i].ports))
			return false;
	return true;
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
	return strs_eq(a, b, STRS(workload_strs)) && a->has_locality == b->has_locality &&
	       a->protocol == b->protocol && a->network_mode == b->network_mode &&
	       a->status == b->status && a->native_tunnel == b->native_tunnel &&
	       a->has_app_tunnel == b->has_app_tunnel &&
	       a->app_tunnel_proxy == b->app_tunnel_proxy &&
	       a->app_tunnel_port == b->app_tunnel_port && a->capacity == b->capacity &&
	       addresses_eq(a, b) && memberships_eq(a, b) &&
	       str_arrays_eq(a->policies, a->nr_policies, b->policies, b->nr_policies) &&
	       gateway_eq(a->waypoint, b->waypoint) &&
	       gateway_eq(a->network_gateway, b->network_gateway);
}

/* ---- services ---- */

struct cv_service *cv_service_new(void)
{
	return new_object(sizeof(struct cv_service));
}

struct cv_service *cv_service_ref(struct cv_service *s)
{
	if (s)
		get_ref(&s->ref);
	return s;
}

void cv_service_put(struct cv_service **sp)
{
	struct cv_service *s = cv_take_ptr(*sp);

	if (!s || !put_ref(&s->ref))
		return;
	put_strs(s, STRS(service_strs));
	for (size_t i = 0; i < s->nr_vips; i++)
		cv_str_put(&s->vips[i].network);
	free(s->vips);
	for (size_t i = 0; i < s->nr_cidr_vips; i++)
		cv_str_put(&s->cidr_vips[i].network);
	free(s->cidr_vips);
	free(s->ports.entries);
	for (size_t i = 0; i < s->nr_endpoints; i++) {
		cv_str_put(&s->endpoints[i].workload_uid);
		free(s->endpoints[i].ports.entries);
	}
	free(s->endpoints);
	put_str_array(s->sans, s->nr_sans);
	free_gateway(&s->waypoint);
	for (size_t i = 0; i < s->nr_weighted_waypoints; i++)
		cv_gateway_fini(&s->weighted_waypoints[i].gateway);
	free(s->weighted_waypoints);
	free(s->lb_preferences);
	free(s);
}

/* A copy of an array of plain values; NULL for an empty one. */
static void *copy_array(const void *items, size_t n, size_t size)
{
	void *copy;

	if (!n)
		return NULL;
	copy = calloc(n, size);
	if (!copy)
		abort();
	memcpy(copy, items, n * size);
	return copy;
}

#define COPY_ARRAY(to, from, member, nr)                                                 \
	((to)->member = copy_array((from)->member, (from)->nr, sizeof(*(from)->member)), \
	 (to)->nr = (from)->nr)

struct cv_service *cv_service_copy_bare(const struct cv_service *from)
{
	struct cv_service *s = cv_service_new();

	*s = *from;
	s->ref = 1;
	s->endpoints = NULL;
	s->nr_endpoints = 0;
	for (size_t i = 0; i < CV_ARRAY_SIZE(service_strs); i++)
		cv_str_ref(*(cv_str *)((char *)s + service_strs[i]));
	COPY_ARRAY(s, from, vips, nr_vips);
	for (size_t i = 0; i < s->nr_vips; i++)
		cv_str_ref(s->vips[i].network);
	COPY_ARRAY(s, from, cidr_vips, nr_cidr_vips);
	for (size_t i = 0; i < s->nr_cidr_vips; i++)
		cv_str_ref(s->cidr_vips[i].network);
	cv_port_map_copy(&s->ports, &from->ports);
	COPY_ARRAY(s, from, sans, nr_sans);
	for (size_t i = 0; i < s->nr_sans; i++)
		cv_str_ref(s->sans[i]);
	if (from->waypoint) {
		s->waypoint = copy_array(from->waypoint, 1, sizeof(*s->waypoint));
		copy_gateway(s->waypoint, from->waypoint);
	}
	COPY_ARRAY(s, from, weighted_waypoints, nr_weighted_waypoints);
	for (size_t i = 0; i < s->nr_weighted_waypoints; i++)
		copy_gateway(&s->weighted_waypoints[i].gateway,
			     &from->weighted_waypoints[i].gateway);
	COPY_ARRAY(s, from, lb_preferences, nr_lb_preferences);
	return s;
}

static bool vips_eq(const struct cv_service *a, const struct cv_service *b)
{
	if (a->nr_vips != b->nr_vips || a->nr_cidr_vips != b->nr_cidr_vips)
		return false;
	for (size_t i = 0; i < a->nr_vips; i++)
		if (!network_addr_eq(&a->vips[i], &b->vips[i]))
			return false;
	for (size_t i = 0; i < a->nr_cidr_vips; i++)
		if (a->cidr_vips[i].network != b->cidr_vips[i].network ||
		    a->cidr_vips[i].cidr.len != b->cidr_vips[i].cidr.len ||
		    !cv_addr_eq(&a->cidr_vips[i].cidr.ip, &b->cidr_vips[i].cidr.ip))
			return false;
	return true;
}

static bool endpoints_eq(const struct cv_service *a, const struct cv_service *b)
{
	if (a->nr_endpoints != b->nr_endpoints)
		return false;
	for (size_t i = 0; i < a->nr_endpoints; i++)
		if (a->endpoints[i].workload_uid != b->endpoints[i].workload_uid ||
		    a->endpoints[i].status != b->endpoints[i].status ||
		    !cv_port_map_eq(&a->endpoints[i].ports, &b->endpoints[i].ports))
			return false;
	return true;
}

static bool waypoints_eq(const struct cv_service *a, const struct cv_service *b)
{
	if (a->nr_weighted_waypoints != b->nr_weighted_waypoints)
		return false;
	for (size_t i = 0; i < a->nr_weighted_waypoints; i++)
		if (a->weighted_waypoints[i].weight != b->weighted_waypoints[i].weight ||
		    !gateway_eq(&a->weighted_waypoints[i].gateway,
				&b->weighted_waypoints[i].gateway))
			return false;
	return gateway_eq(a->waypoint, b->waypoint);
}

static bool balancing_eq(const struct cv_service *a, const struct cv_service *b)
{
	return a->has_lb == b->has_lb && a->lb_mode == b->lb_mode &&
	       a->allow_unhealthy == b->allow_unhealthy &&
	       a->nr_lb_preferences == b->nr_lb_preferences &&
	       (!a->nr_lb_preferences ||
		!memcmp(a->lb_preferences, b->lb_preferences,
			a->nr_lb_preferences * sizeof(*a->lb_preferences)));
}

bool cv_service_eq(const struct cv_service *a, const struct cv_service *b)
{
	return strs_eq(a, b, STRS(service_strs)) && vips_eq(a, b) &&
	       cv_port_map_eq(&a->ports, &b->ports) && endpoints_eq(a, b) &&
	       str_arrays_eq(a->sans, a->nr_sans, b->sans, b->nr_sans) && waypoints_eq(a, b) &&
	       balancing_eq(a, b) && a->has_families == b->has_families &&
	       a->families == b->families && a->canonical == b->canonical &&
	       a->ns_visible_only == b->ns_visible_only;
}
