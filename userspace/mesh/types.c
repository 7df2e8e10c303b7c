/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life and comparison of services and of what objects are made of; workloads have
 * workload_types.c, policies policy_types.c.
 *
 * The string members of each object are listed once, as offsets; freeing and comparing walk
 * the list. Equal interned strings are equal pointers, so comparing one is one instruction.
 */
#include "userspace/mesh/types_private.h"

#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

#define STR(type, member) offsetof(struct type, member)

static const size_t service_strs[] = {
	STR(cv_service, name),
	STR(cv_service, ns),
	STR(cv_service, hostname),
};

#define STRS(table) (table), CV_ARRAY_SIZE(table)

void cv_put_strs(void *object, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cv_str_put((cv_str *)((char *)object + offsets[i]));
}

bool cv_strs_eq(const void *a, const void *b, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (*(const cv_str *)((const char *)a + offsets[i]) !=
		    *(const cv_str *)((const char *)b + offsets[i]))
			return false;
	return true;
}

/* Objects are small and few per file or message: without memory there is nothing to go on with. */
void *cv_new_object(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

static void get_ref(int *ref)
{
	__atomic_fetch_add(ref, 1, __ATOMIC_RELAXED);
}

bool cv_ref_drop(int *ref)
{
	return __atomic_fetch_sub(ref, 1, __ATOMIC_ACQ_REL) == 1;
}

void cv_put_str_array(cv_str *items, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cv_str_put(&items[i]);
	free(items);
}

bool cv_str_arrays_eq(const cv_str *a, size_t na, const cv_str *b, size_t nb)
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

static int compare_ports(const void *a, const void *b)
{
	const struct cv_port_map_entry *pa = a, *pb = b;

	return (int)pa->service_port - (int)pb->service_port;
}

/* As a text is interned, so are the entries: most maps of a mesh are the same few. */
static void hold_entries(struct cv_port_map *ret, const void *entries, size_t n)
{
	const void *held = cv_str_new_len(entries, n * sizeof(*ret->entries));

	ret->entries = held;
	ret->n = (uint32_t)n;
}

void cv_port_map_init(struct cv_port_map *ret, struct cv_port_map_entry *entries, size_t n)
{
	size_t kept = 0;

	if (n)
		qsort(entries, n, sizeof(*entries), compare_ports);
	for (size_t i = 0; i < n; i++) {
		if (kept && entries[kept - 1].service_port == entries[i].service_port)
			kept--;
		entries[kept++] = entries[i];
	}
	hold_entries(ret, entries, kept);
}

static cv_str entries_str(const struct cv_port_map *m)
{
	return (const void *)m->entries;
}

void cv_port_map_fini(struct cv_port_map *m)
{
	cv_str held = entries_str(m);

	cv_str_put(&held);
	*m = (struct cv_port_map){};
}

bool cv_port_map_eq(const struct cv_port_map *a, const struct cv_port_map *b)
{
	return a->entries == b->entries;
}

void cv_port_map_copy(struct cv_port_map *ret, const struct cv_port_map *from)
{
	*ret = *from;
	cv_str_ref(entries_str(from));
}

void cv_ns_host_fini(struct cv_ns_host *h)
{
	cv_str_put(&h->ns);
	cv_str_put(&h->host);
}

bool cv_ns_host_eq(const struct cv_ns_host *a, const struct cv_ns_host *b)
{
	return a->ns == b->ns && a->host == b->host;
}

void cv_gateway_fini(struct cv_gateway *g)
{
	cv_str_put(&g->addr.network);
	cv_ns_host_fini(&g->host);
}

void cv_gateway_free(struct cv_gateway **gp)
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

bool cv_gateway_eq(const struct cv_gateway *a, const struct cv_gateway *b)
{
	if (!a || !b)
		return a == b;
	if (a->by_host != b->by_host || a->hbone_port != b->hbone_port)
		return false;
	return a->by_host ? cv_ns_host_eq(&a->host, &b->host) : network_addr_eq(&a->addr, &b->addr);
}

/* ---- services ---- */

struct cv_service *cv_service_new(void)
{
	struct cv_service *s = cv_new_object(sizeof(*s));

	s->ref = 1;
	return s;
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

	if (!s || !cv_ref_drop(&s->ref))
		return;
	cv_put_strs(s, STRS(service_strs));
	for (size_t i = 0; i < s->nr_vips; i++)
		cv_str_put(&s->vips[i].network);
	free(s->vips);
	for (size_t i = 0; i < s->nr_cidr_vips; i++)
		cv_str_put(&s->cidr_vips[i].network);
	free(s->cidr_vips);
	cv_port_map_fini(&s->ports);
	for (size_t i = 0; i < s->nr_endpoints; i++) {
		cv_str_put(&s->endpoints[i].workload_uid);
		cv_port_map_fini(&s->endpoints[i].ports);
	}
	free(s->endpoints);
	cv_put_str_array(s->sans, s->nr_sans);
	cv_gateway_free(&s->waypoint);
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
		    !cv_gateway_eq(&a->weighted_waypoints[i].gateway,
				   &b->weighted_waypoints[i].gateway))
			return false;
	return cv_gateway_eq(a->waypoint, b->waypoint);
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
	return cv_service_eq_bare(a, b) && endpoints_eq(a, b);
}

bool cv_service_eq_bare(const struct cv_service *a, const struct cv_service *b)
{
	return cv_strs_eq(a, b, STRS(service_strs)) && vips_eq(a, b) &&
	       cv_port_map_eq(&a->ports, &b->ports) &&
	       cv_str_arrays_eq(a->sans, a->nr_sans, b->sans, b->nr_sans) && waypoints_eq(a, b) &&
	       balancing_eq(a, b) && a->has_families == b->has_families &&
	       a->families == b->families && a->canonical == b->canonical &&
	       a->ns_visible_only == b->ns_visible_only;
}
