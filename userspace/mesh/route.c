/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outbound: from the address that the application dialled to where the connection goes.
 *
 * Who is dialled is asked twice, in different orders, as ztunnel does: "is this a service's
 * traffic?" takes a workload's address first, choosing the upstream takes a service's first.
 * What needs a waypoint, a gateway or DNS is refused: it must not be sent past them.
 */
#include "userspace/mesh/route.h"

#include <stdio.h>
#include <stdlib.h>

#include "userspace/mesh/route_private.h"
#include "userspace/mesh/store_private.h"

/* A decision in the making; objects are borrowed until finish(). */
struct decision {
	const struct cv_store *store;
	const struct cv_route_in *in;
	struct cv_service *dialled; /* service whose address was dialled, NULL = none */
	struct cv_upstream up;
	struct cv_route *route;
};

#define refuse(d, ...)                       \
	((d)->route->kind = CV_ROUTE_REFUSE, \
	 (void)snprintf((d)->route->error, sizeof((d)->route->error), __VA_ARGS__))

static const char *workload_text(const struct cv_workload *w)
{
	return w->name ? w->name : cv_str_text(w->uid);
}

static void refuse_waypoint(struct decision *d)
{
	char text[CV_SOCKADDR_TEXT];

	d->route->waypoint = true;
	refuse(d, "destination has a waypoint, which this version does not speak to: %s",
	       cv_sockaddr_text(&d->in->dst, text));
}

static void refuse_network(struct decision *d)
{
	const struct cv_workload *w = d->up.workload;
	char text[CV_SOCKADDR_TEXT];

	if (!d->up.service)
		refuse(d, "no service for target address: %s", cv_sockaddr_text(&d->in->dst, text));
	else if (!w->network_gateway)
		refuse(d, "no valid routing destination for workload: %s", workload_text(w));
	else
		refuse(d, "unsupported feature: gateway to network %s", cv_str_text(w->network));
}

/* Identities that the peer may have: the service's alternatives and the workload's own. */
static void set_sans(struct cv_route *r, const struct cv_upstream *u)
{
	struct cv_identity id = { u->workload->trust_domain, u->workload->ns,
				  u->workload->service_account };
	size_t n = u->service ? u->service->nr_sans : 0;
	char text[CV_IDENTITY_TEXT];

	r->sans = calloc(n + 1, sizeof(*r->sans));
	if (!r->sans)
		abort();
	for (size_t i = 0; i < n; i++)
		r->sans[i] = cv_str_ref(u->service->sans[i]);
	r->sans[n] = cv_str_new(cv_identity_text(&id, text));
	r->nr_sans = n + 1;
}

static void route_to_upstream(struct decision *d)
{
	const struct cv_workload *w = d->up.workload;
	struct cv_route *r = d->route;
	struct cv_addr ip;

	if (!cv_route_select_ip(w, d->up.service, &d->in->dst.ip, &ip)) {
		if (w->hostname)
			refuse(d, "unsupported feature: workload %s has a host name for address",
			       workload_text(w));
		else
			refuse(d, "no valid routing destination for workload: %s",
			       workload_text(w));
		return;
	}
	r->target = (struct cv_sockaddr){ ip, d->up.port };
	r->next_hop = r->target;
	r->kind = CV_ROUTE_TCP;
	if (w->protocol != CV_PROTOCOL_HBONE)
		return;
	r->kind = CV_ROUTE_HBONE;
	r->next_hop.port = CV_PORT_HBONE;
	set_sans(r, &d->up);
}

/* Is the client the destination's own waypoint? Then it goes to the workload itself. */
static bool is_from_waypoint(const struct decision *d)
{
	return cv_workload_has_ip(d->in->src, &d->in->src_ip) &&
	       cv_gateway_leads_to(d->store, d->up.workload->waypoint, d->in->src);
}

static bool is_passthrough(const struct cv_service *svc)
{
	return svc->has_lb && svc->lb_mode == CV_LB_PASSTHROUGH;
}

static void decide(struct decision *d)
{
	const struct cv_route_in *in = d->in;
	char text[CV_SOCKADDR_TEXT];

	if (!cv_store_peek_addr(d->store, d->store->network, &in->dst.ip))
		d->dialled =
			cv_store_peek_vip(d->store, in->src->ns, d->store->network, &in->dst.ip);
	if (d->dialled && cv_service_has_waypoint(d->dialled)) {
		refuse_waypoint(d);
	} else if (!cv_route_find_upstream(d->store, in, &d->up)) {
		if (d->dialled && !is_passthrough(d->dialled))
			refuse(d, "no healthy upstream: %s", cv_sockaddr_text(&in->dst, text));
	} else if (d->up.workload->network != in->src->network) {
		refuse_network(d);
	} else if (!d->dialled && d->up.workload->waypoint && !is_from_waypoint(d)) {
		refuse_waypoint(d);
	} else {
		route_to_upstream(d);
	}
}

void cv_route_outbound(struct cv_store *s, const struct cv_route_in *in, struct cv_route *ret)
{
	struct decision d = { .store = s, .in = in, .route = ret };

	*ret = (struct cv_route){ CV_ROUTE_PASSTHROUGH, .next_hop = in->dst, .target = in->dst };
	rcu_read_lock();
	decide(&d);
	ret->dst = cv_workload_ref(d.up.workload);
	ret->service = cv_service_ref(d.up.service);
	if (!ret->service && ret->kind == CV_ROUTE_REFUSE)
		ret->service = cv_service_ref(d.dialled);
	rcu_read_unlock();
}

void cv_route_fini(struct cv_route *r)
{
	cv_workload_put(&r->dst);
	cv_service_put(&r->service);
	for (size_t i = 0; i < r->nr_sans; i++)
		cv_str_put(&r->sans[i]);
	free(r->sans);
	r->sans = NULL;
	r->nr_sans = 0;
}
