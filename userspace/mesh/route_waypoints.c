/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waypoints: which one a service has, which workload is behind it, and whether a workload is one
 * of those behind it.
 */
#include <errno.h>
#include <stdio.h>

#include "userspace/mesh/route_private.h"
#include "userspace/mesh/store_private.h"

bool cv_service_has_waypoint(const struct cv_service *svc)
{
	return cv_service_waypoint(svc, 0);
}

const struct cv_gateway *cv_service_waypoint(const struct cv_service *svc, uint64_t random)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < svc->nr_weighted_waypoints; i++)
		sum += svc->weighted_waypoints[i].weight;
	if (!sum)
		return svc->waypoint;
	random %= sum;
	for (size_t i = 0; i < svc->nr_weighted_waypoints; i++) {
		const struct cv_weighted_waypoint *w = &svc->weighted_waypoints[i];

		if (random < w->weight)
			return &w->gateway;
		random -= w->weight;
	}
	return svc->waypoint;
}

int cv_gateway_resolve(const struct cv_pick *p, const struct cv_gateway *g,
		       const struct cv_addr *dialled, struct cv_upstream *ret,
		       struct cv_addr *ret_like)
{
	struct cv_pick pick = *p;
	struct cv_service *svc;
	bool found;

	pick.port = g->hbone_port;
	pick.waypoint = true;
	pick.choice = NULL;
	*ret_like = g->by_host ? *dialled : g->addr.ip;
	if (!g->by_host) {
		found = cv_route_find_upstream(&pick, g->addr.network, &g->addr.ip, ret);
		if (found)
			return 0;
		svc = cv_store_peek_vip(p->store, p->src->group->ns, g->addr.network, &g->addr.ip);
		return svc ? -EHOSTUNREACH : -ENOENT;
	}
	svc = cv_store_peek_service(p->store, g->host.ns, g->host.host);
	if (svc)
		return cv_route_pick(&pick, svc, ret) ? 0 : -EHOSTUNREACH;
	*ret = (struct cv_upstream){ cv_store_peek_host(p->store, g->host.ns, g->host.host), NULL,
				     g->hbone_port };
	return ret->workload ? 0 : -ENOENT;
}

const char *cv_gateway_text(const struct cv_gateway *g, char *buf, size_t size)
{
	char ip[CV_ADDR_TEXT];

	if (g->by_host)
		snprintf(buf, size, "%s/%s", cv_str_text(g->host.ns), cv_str_text(g->host.host));
	else
		snprintf(buf, size, "%s/%s", cv_str_text(g->addr.network),
			 cv_addr_text(&g->addr.ip, ip));
	return buf;
}

bool cv_gateway_leads_to(const struct cv_store *s, const struct cv_gateway *g,
			 const struct cv_workload *w)
{
	struct cv_workload *target = NULL;
	struct cv_service *svc = NULL;

	if (g->by_host) {
		svc = cv_store_peek_service(s, g->host.ns, g->host.host);
		if (!svc)
			target = cv_store_peek_host(s, g->host.ns, g->host.host);
	} else {
		target = cv_store_peek_addr(s, g->addr.network, &g->addr.ip);
		if (!target)
			svc = cv_store_peek_vip(s, NULL, g->addr.network, &g->addr.ip);
	}
	if (svc)
		return cv_service_find_endpoint(svc, w->uid);
	return target && target->uid == w->uid;
}
