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

bool cv_service_has_waypoint(const struct cv_service *svc)
{
	for (size_t i = 0; i < svc->nr_weighted_waypoints; i++)
		if (svc->weighted_waypoints[i].weight)
			return true;
	return svc->waypoint;
}

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

/* The endpoint's workload when a client of `network` can be sent there, else NULL. */
static struct cv_workload *usable_workload(const struct cv_store *s, cv_str network,
					   const struct cv_service_endpoint *e)
{
	struct cv_workload *w = cv_store_peek_workload(s, e->workload_uid);

	if (!w || w->nr_ips || w->hostname)
		return w;
	return w->network_gateway && w->network != network ? w : NULL;
}

static bool is_scope_equal(enum cv_lb_scope scope, const struct cv_workload *a,
			   const struct cv_workload *b)
{
	switch (scope) {
	case CV_SCOPE_REGION:
		return a->locality.region == b->locality.region;
	case CV_SCOPE_ZONE:
		return a->locality.zone == b->locality.zone;
	case CV_SCOPE_SUBZONE:
		return a->locality.subzone == b->locality.subzone;
	case CV_SCOPE_NODE:
		return a->node == b->node;
	case CV_SCOPE_CLUSTER:
		return a->cluster_id == b->cluster_id;
	case CV_SCOPE_NETWORK:
		return a->network == b->network;
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

struct pick {
	struct cv_upstream in_hand;
	uint64_t weight; /* of all candidates of best_rank so far */
	unsigned best_rank;
	uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void consider(struct pick *p, const struct cv_upstream *u, unsigned rank_of_u)
{
	if (rank_of_u < p->best_rank || !u->workload->capacity)
		return;
	if (rank_of_u > p->best_rank) {
		p->best_rank = rank_of_u;
		p->weight = 0;
	}
	p->weight += u->workload->capacity;
	if (next_random(&p->random) % p->weight < u->workload->capacity)
		p->in_hand = *u;
}

/* Is this what connect() chose in the kernel? */
static bool is_choice(const struct cv_route_in *in, const struct cv_upstream *u)
{
	return in->choice && in->choice->port == u->port &&
	       cv_workload_has_ip(u->workload, &in->choice->ip);
}

static bool pick_endpoint(const struct cv_store *s, const struct cv_route_in *in,
			  struct cv_service *svc, struct cv_upstream *ret)
{
	struct pick pick = { .random = in->random };
	enum cv_lb_mode mode = svc->has_lb ? svc->lb_mode : CV_LB_STANDARD;

	if (cv_port_map_find(&svc->ports, in->dst.port) < 0)
		return false;
	for (size_t i = 0; i < svc->nr_endpoints; i++) {
		const struct cv_service_endpoint *e = &svc->endpoints[i];
		struct cv_upstream u = { usable_workload(s, in->src->network, e), svc, 0 };
		unsigned near = 0;
		bool all = true;

		if (u.workload)
			u.port = target_port(svc, e, in->dst.port);
		if (!u.port)
			continue;
		if (mode != CV_LB_STANDARD)
			near = rank(svc, in->src, u.workload, &all);
		if (mode == CV_LB_STRICT && !all)
			continue;
		if (mode == CV_LB_STANDARD && is_choice(in, &u)) {
			*ret = u;
			return true;
		}
		consider(&pick, &u, near);
	}
	*ret = pick.in_hand;
	return ret->workload;
}

bool cv_route_find_upstream(const struct cv_store *s, const struct cv_route_in *in,
			    struct cv_upstream *ret)
{
	cv_str network = in->src->network;
	struct cv_service *svc = cv_store_peek_vip(s, in->src->ns, network, &in->dst.ip);

	*ret = (struct cv_upstream){};
	if (svc && svc->has_lb && svc->lb_mode == CV_LB_PASSTHROUGH)
		return false;
	if (svc)
		return pick_endpoint(s, in, svc, ret);
	ret->workload = cv_store_peek_addr(s, network, &in->dst.ip);
	ret->port = in->dst.port;
	return ret->workload;
}

/* One endpoint for the kernel's table: 1 = a candidate, 0 = none, -EOPNOTSUPP. */
static int make_candidate(const struct cv_store *s, const struct cv_service *svc,
			  const struct cv_service_endpoint *e, const struct cv_sockaddr *dialled,
			  struct cv_candidate *ret)
{
	struct cv_workload *w = usable_workload(s, s->network, e);

	if (!w || !w->capacity)
		return 0;
	ret->addr.port = target_port(svc, e, dialled->port);
	if (!ret->addr.port)
		return 0;
	if (w->network != s->network || !cv_route_select_ip(w, svc, &dialled->ip, &ret->addr.ip) ||
	    cv_addr_is_v4(&ret->addr.ip) != cv_addr_is_v4(&dialled->ip))
		return -EOPNOTSUPP;
	ret->workload = w;
	ret->weight = w->capacity;
	return 1;
}

int cv_route_candidates(struct cv_store *s, const struct cv_service *svc, uint16_t port,
			const struct cv_addr *vip, struct cv_candidate *ret, size_t max)
{
	const struct cv_sockaddr dialled = { *vip, port };
	size_t n = 0;
	int r;

	if (cv_service_has_waypoint(svc) || (svc->has_lb && svc->lb_mode != CV_LB_STANDARD))
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

bool cv_gateway_leads_to(const struct cv_store *s, const struct cv_gateway *g,
			 const struct cv_workload *w)
{
	struct cv_service *svc;
	struct cv_workload *target;

	if (g->by_host)
		svc = cv_store_peek_service(s, g->host.ns, g->host.host);
	else
		svc = cv_store_peek_vip(s, NULL, g->addr.network, &g->addr.ip);
	if (svc)
		return cv_service_find_endpoint(svc, w->uid);
	target = g->by_host ? cv_store_peek_host(s, g->host.ns, g->host.host) :
			      cv_store_peek_addr(s, g->addr.network, &g->addr.ip);
	return target && target->uid == w->uid;
}
