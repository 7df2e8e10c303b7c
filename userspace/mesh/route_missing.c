/* SPDX-License-Identifier: Apache-2.0 */
/* What the way of a connection depends on and the store does not have, for who subscribes on demand. */
#include <stdio.h>

#include "userspace/mesh/route_private.h"
#include "userspace/mesh/store_private.h"

static cv_str addr_key(cv_str network, const struct cv_addr *ip)
{
	char text[CV_ADDR_TEXT], key[CV_ROUTE_KEY];

	snprintf(key, sizeof(key), "%s/%s", cv_str_text(network), cv_addr_text(ip, text));
	return cv_str_new(key);
}

/* A waypoint that is named and not there. */
static cv_str missing_gateway(const struct cv_store *s, const struct cv_gateway *g, cv_str ns)
{
	char key[CV_ROUTE_KEY];
	bool known;

	if (g->by_host)
		known = cv_store_peek_service(s, g->host.ns, g->host.host) ||
			cv_store_peek_host(s, g->host.ns, g->host.host);
	else
		known = cv_store_peek_addr(s, g->addr.network, &g->addr.ip) ||
			cv_store_peek_vip(s, ns, g->addr.network, &g->addr.ip);
	return known ? NULL : cv_str_new(cv_gateway_text(g, key, sizeof(key)));
}

cv_str cv_route_missing(struct cv_store *s, const struct cv_route_in *in)
{
	const struct cv_gateway *g = NULL;
	struct cv_service *svc = NULL;
	struct cv_workload *w;
	cv_str key = NULL;

	rcu_read_lock();
	w = cv_store_peek_addr(s, s->network, &in->dst.ip);
	if (!w)
		svc = cv_store_peek_vip(s, in->src->group->ns, s->network, &in->dst.ip);
	if (w)
		g = w->group->waypoint;
	else if (svc)
		g = cv_service_waypoint(svc, in->random);
	else
		key = addr_key(s->network, &in->dst.ip);
	if (g)
		key = missing_gateway(s, g, in->src->group->ns);
	rcu_read_unlock();
	return key;
}
