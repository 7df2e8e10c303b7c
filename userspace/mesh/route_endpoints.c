/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing an endpoint of a service: candidates, ranking by locality, a weighted random pick.
 *
 * The pick is one pass over the endpoints: each candidate replaces the one in hand with the
 * probability of its share of the weight seen so far, so nothing is collected or counted first.
 */
#include <errno.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/route_private.h"
#include "userspace/mesh/store_private.h"

const struct cv_service_endpoint *cv_service_find_endpoint(const struct cv_service *svc, cv_str uid)
{
	size_t low = 0, high = svc->nr_endpoints;

	while (low < high) {
		size_t mid = (low + high) / 2;
		int r = strcmp(cv_str_text(svc->endpoints[mid].workload_uid), cv_str_text(uid));

		if (!r)
			return &svc->endpoints[mid];
		if (r < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

bool cv_workload_has_ip(const struct cv_workload *w, const struct cv_addr *ip)
{
	for (size_t i = 0; i < w->nr_ips; i++)
		if (cv_addr_eq(&w->ips[i], ip))
			return true;
	return false;
}

static bool is_family_ok(const struct cv_service *svc, const struct cv_addr *ip)
{
	if (!svc || !svc->has_families)
		return true;
	if (svc->families == CV_FAMILIES_V4)
		return cv_addr_is_v4(ip);
	return svc->families != CV_FAMILIES_V6 || !cv_addr_is_v4(ip);
}

bool cv_route_select_ip(const struct cv_workload *w, const struct cv_service *svc,
			const struct cv_addr *dialled, struct cv_addr *ret)
{
	const struct cv_addr *first = NULL;

	if (cv_workload_has_ip(w, dialled)) {
		*ret = *dialled;
		return true;
	}
	for (size_t i = 0; i < w->nr_ips; i++) {
		const struct cv_addr *ip = &w->ips[i];

		if (!is_family_ok(svc, ip))
			continue;
		if (cv_addr_is_v4(ip) == cv_addr_is_v4(dialled)) {
			*ret = *ip;
			return true;
		}
		if (!first)
			first = ip;
	}
	if (first)
		*ret = *first;
	return first;
}

/* ---- candidates ---- */

/* Port at the endpoint, 0 = the maps lead nowhere (a named port that the endpoint lacks). */
static uint16_t target_port(const struct cv_service *svc, const struct cv_service_endpoint *e,
			    uint16_t port)
{
	int target = cv_port_map_find(&e->ports, port);

	if (target <= 0)
		target = cv_port_map_find(&svc->ports, port);
	return target > 0 ? (uint16_t)target : 0;
}

/* The same of a waypoint: what its application tunnel leads to need not be on the service. */
static uint16_t waypoint_port(const struct cv_service *svc, const struct cv_service_endpoint *e,
			      const struct cv_workload *w, uint16_t port)
{
	uint16_t target = target_port(svc, e, port);

	if (!w->group->has_app_tunnel && cv_port_map_find(&svc->ports, port) < 0)
		return 0;
	return target || !w->group->app_tunnel_port ? target : port;
}

/* The endpoint's workload when a client of `network` can be sent there, else NULL. */
static struct cv_workload *usable_workload(const struct cv_store *s, cv_str network,
					   const struct cv_service_endpoint *e)
{
	struct cv_workload *w = cv_store_peek_workload(s, e->workload_uid);

	if (!w || w->nr_ips || w->group->hostname)
		return w;
	return w->group->network_gateway && w->group->network != network ? w : NULL;
}

static bool is_scope_equal(enum cv_lb_scope scope, const struct cv_workload *a,
			   const struct cv_workload *b)
{
	switch (scope) {
	case CV_SCOPE_REGION:
		return a->place->locality.region == b->place->locality.region;
	case CV_SCOPE_ZONE:
		return a->place->locality.zone == b->place->locality.zone;
	case CV_SCOPE_SUBZONE:
		return a->place->locality.subzone == b->place->locality.subzone;
	case CV_SCOPE_NODE:
		return a->place->node == b->place->node;
	case CV_SCOPE_CLUSTER:
		return a->group->cluster_id == b->group->cluster_id;
	case CV_SCOPE_NETWORK:
		return a->group->network == b->group->network;
	}
	return false;
}

/* How near w is to src: the preferences that match, up to the first that does not. Network as
 * the first one does not end the count, but outranks all others together. *ret_all = all match. */
static unsigned rank(const struct cv_service *svc, const struct cv_workload *src,
		     const struct cv_workload *w, bool *ret_all)
{
	unsigned matches = 0, bonus = 0, i;

	*ret_all = true;
	for (i = 0; i < svc->nr_lb_preferences; i++) {
		enum cv_lb_scope scope = svc->lb_preferences[i];
		bool network_first = i == 0 && scope == CV_SCOPE_NETWORK;

		if (is_scope_equal(scope, src, w)) {
			matches++;
			bonus += network_first ? (unsigned)svc->nr_lb_preferences - 1 : 0;
			continue;
		}
		*ret_all = false;
		if (!network_first)
			break;
	}
	return matches + bonus;
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* Is this what connect() chose in the kernel? */
static bool is_choice(const struct cv_pick *p, const struct cv_upstream *u)
{
	return p->choice && p->choice->port == u->port &&
	       cv_workload_has_ip(u->workload, &p->choice->ip);
}

static enum cv_lb_mode lb_mode(const struct cv_service *svc)
{
	return svc->has_lb ? svc->lb_mode : CV_LB_STANDARD;
}

/* What is on another network cannot be reached yet, so it is taken only when there is nothing else:
 * the refusal then says why. */
enum { OWN_NETWORK = 1 << 16 };

/* May the endpoint be taken? Then *ret, and its rank: only those of the highest are chosen from. */
static bool is_candidate(const struct cv_pick *p, struct cv_service *svc,
			 const struct cv_service_endpoint *e, struct cv_upstream *ret,
			 unsigned *ret_rank)
{
	struct cv_workload *w = usable_workload(p->store, p->src->group->network, e);
	enum cv_lb_mode mode = lb_mode(svc);
	unsigned near = 0;
	bool all = true;

	if (!w || !w->group->capacity)
		return false;
	*ret = (struct cv_upstream){ w, svc, 0 };
	ret->port = p->waypoint ? waypoint_port(svc, e, w, p->port) : target_port(svc, e, p->port);
	if (!ret->port)
		return false;
	if (mode != CV_LB_STANDARD)
		near = rank(svc, p->src, w, &all);
	*ret_rank = near + (w->group->network == p->src->group->network ? OWN_NETWORK : 0);
	return mode != CV_LB_STRICT || all;
}

bool cv_route_pick(const struct cv_pick *p, struct cv_service *svc, struct cv_upstream *ret)
{
	bool standard = lb_mode(svc) == CV_LB_STANDARD;
	uint64_t random = p->random, weight = 0;
	unsigned best = 0, near;
	struct cv_upstream u;

	*ret = (struct cv_upstream){};
	if (!p->waypoint && cv_port_map_find(&svc->ports, p->port) < 0)
		return false;
	for (size_t i = 0; i < svc->nr_endpoints; i++) {
		if (!is_candidate(p, svc, &svc->endpoints[i], &u, &near) || near < best)
			continue;
		if (standard && is_choice(p, &u)) {
			*ret = u;
			return true;
		}
		weight = u.workload->group->capacity + (near > best ? 0 : weight);
		best = near;
		if (next_random(&random) % weight < u.workload->group->capacity)
			*ret = u;
	}
	return ret->workload;
}

size_t cv_route_pick_all(const struct cv_pick *p, struct cv_service *svc, struct cv_upstream *ret,
			 size_t max)
{
	unsigned best = 0, near;
	struct cv_upstream u;
	size_t n = 0;

	if (cv_port_map_find(&svc->ports, p->port) < 0)
		return 0;
	for (size_t i = 0; i < svc->nr_endpoints; i++) {
		if (!is_candidate(p, svc, &svc->endpoints[i], &u, &near) || near < best)
			continue;
		if (near > best)
			n = 0;
		best = near;
		if (n < max)
			ret[n] = u;
		n++;
	}
	return n;
}

bool cv_route_find_upstream(const struct cv_pick *p, cv_str network, const struct cv_addr *ip,
			    struct cv_upstream *ret)
{
	struct cv_service *svc = cv_store_peek_vip(p->store, p->src->group->ns, network, ip);

	*ret = (struct cv_upstream){};
	if (svc && lb_mode(svc) == CV_LB_PASSTHROUGH)
		return false;
	if (svc)
		return cv_route_pick(p, svc, ret);
	ret->workload = cv_store_peek_addr(p->store, network, ip);
	ret->port = p->port;
	return ret->workload;
}

/* One endpoint for the kernel's table: 1 = a candidate, 0 = none, -EOPNOTSUPP. */
static int make_candidate(const struct cv_store *s, const struct cv_service *svc,
			  const struct cv_service_endpoint *e, const struct cv_sockaddr *dialled,
			  struct cv_candidate *ret)
{
	struct cv_workload *w = usable_workload(s, s->network, e);

	if (!w || !w->group->capacity || w->group->network != s->network)
		return 0;
	ret->addr.port = target_port(svc, e, dialled->port);
	if (!ret->addr.port)
		return 0;
	if (!cv_route_select_ip(w, svc, &dialled->ip, &ret->addr.ip) ||
	    cv_addr_is_v4(&ret->addr.ip) != cv_addr_is_v4(&dialled->ip))
		return -EOPNOTSUPP;
	ret->workload = w;
	ret->weight = w->group->capacity;
	return 1;
}

int cv_route_candidates(struct cv_store *s, const struct cv_service *svc, uint16_t port,
			const struct cv_addr *vip, struct cv_candidate *ret, size_t max)
{
	const struct cv_sockaddr dialled = { *vip, port };
	size_t n = 0;
	int r;

	if (cv_service_has_waypoint(svc) || lb_mode(svc) != CV_LB_STANDARD)
		return -EOPNOTSUPP;
	if (cv_port_map_find(&svc->ports, port) < 0)
		return 0;
	for (size_t i = 0; i < svc->nr_endpoints; i++) {
		struct cv_candidate c;

		r = make_candidate(s, svc, &svc->endpoints[i], &dialled, &c);
		if (r < 0)
			return r;
		if (r && n < max)
			ret[n] = c;
		n += (size_t)r;
	}
	return (int)n;
}
