/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outbound: from the address that the application dialled to where the connection goes.
 *
 * Who is dialled is asked twice, in different orders, as ztunnel does: "is this a service's
 * traffic?" takes a workload's address first, choosing the upstream takes a service's first.
 * What needs a gateway to another network is refused: it must not be sent past it.
 */
#include "userspace/mesh/route.h"

#include <errno.h>
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
	return cv_workload_name(w) ? cv_workload_name(w) : cv_str_text(w->uid);
}

/* w is on another network: reached through its gateway alone, which this version does not speak to. */
static void refuse_network(struct decision *d, const struct cv_workload *w)
{
	char text[CV_SOCKADDR_TEXT];

	if (!d->dialled && !d->up.service)
		refuse(d, "no service for target address: %s", cv_sockaddr_text(&d->in->dst, text));
	else if (!w->group->network_gateway)
		refuse(d, "no valid routing destination for workload: %s", workload_text(w));
	else
		refuse(d, "unsupported feature: gateway to network %s",
		       cv_str_text(w->group->network));
}

/* Identities that the peer may have: the service's alternatives and the workload's own. */
static void set_sans(struct cv_route *r, const struct cv_upstream *u)
{
	struct cv_identity id = { u->workload->group->trust_domain, u->workload->group->ns,
				  u->workload->group->service_account };
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

/* Where the chosen workload is for a client that asked for `like`: its address, or its host name
 * to be asked for one. False = nowhere: refused. */
static bool set_next_hop(struct decision *d, const struct cv_addr *like)
{
	const struct cv_workload *w = d->up.workload;
	struct cv_route *r = d->route;

	r->next_hop = (struct cv_sockaddr){ *like, d->up.port };
	if (cv_route_select_ip(w, d->up.service, like, &r->next_hop.ip))
		return true;
	r->hostname = cv_str_ref(w->group->hostname);
	if (!w->group->hostname)
		refuse(d, "no valid routing destination for workload: %s", workload_text(w));
	return w->group->hostname;
}

static void route_to_upstream(struct decision *d)
{
	struct cv_route *r = d->route;

	if (!set_next_hop(d, &d->in->dst.ip))
		return;
	r->target = r->next_hop;
	r->kind = CV_ROUTE_TCP;
	if (d->up.workload->group->protocol != CV_PROTOCOL_HBONE)
		return;
	r->kind = CV_ROUTE_HBONE;
	r->next_hop.port = CV_PORT_HBONE;
	set_sans(r, &d->up);
}

/* ---- waypoints --------------------------------------------------------------------------------- */

static struct cv_pick pick_of(const struct decision *d)
{
	return (struct cv_pick){
		.store = d->store,
		.src = d->in->src,
		.port = d->in->dst.port,
		.choice = d->in->choice,
		.random = d->in->random,
	};
}

/* What was dialled goes to its waypoint as it was dialled; always by HBONE. */
static void route_to_waypoint(struct decision *d, const struct cv_gateway *g)
{
	const struct cv_pick pick = pick_of(d);
	struct cv_route *r = d->route;
	struct cv_addr like;
	char text[400];
	int err;

	r->waypoint = true;
	err = cv_gateway_resolve(&pick, g, &d->in->dst.ip, &d->up, &like);
	if (err) {
		refuse(d, "unknown waypoint: waypoint %s %s",
		       cv_gateway_text(g, text, sizeof(text)),
		       err == -ENOENT ? "not found" : "has no endpoint that can be used");
	} else if (d->dialled && d->up.workload->group->network != d->in->src->group->network) {
		refuse_network(d, d->up.workload);
	} else if (set_next_hop(d, &like)) {
		r->kind = CV_ROUTE_HBONE;
		set_sans(r, &d->up);
	}
}

/* Is the client one of the workloads behind this waypoint, and no other's address in use? */
static bool is_from(const struct decision *d, const struct cv_gateway *g)
{
	return cv_workload_has_ip(d->in->src, &d->in->src_ip) &&
	       cv_gateway_leads_to(d->store, g, d->in->src);
}

/* A waypoint that dials a service of its own would get the connection back, and dial again. */
static void route_to_service_waypoint(struct decision *d, const struct cv_gateway *g)
{
	char text[CV_SOCKADDR_TEXT];

	if (!is_from(d, g)) {
		route_to_waypoint(d, g);
		return;
	}
	d->route->waypoint = true;
	refuse(d, "attempted recursive call to ourselves: %s is a waypoint of %s",
	       workload_text(d->in->src), cv_sockaddr_text(&d->in->dst, text));
}

/* The workload's own waypoint is for those that dial the workload, but for the waypoint itself. */
static const struct cv_gateway *workload_waypoint(const struct decision *d)
{
	const struct cv_gateway *g = d->up.workload->group->waypoint;

	return g && !d->dialled && !is_from(d, g) ? g : NULL;
}

/* ---- decision ---------------------------------------------------------------------------------- */

static bool is_passthrough(const struct cv_service *svc)
{
	return svc->has_lb && svc->lb_mode == CV_LB_PASSTHROUGH;
}

static void find_dialled(struct decision *d)
{
	const struct cv_route_in *in = d->in;

	if (!cv_store_peek_addr(d->store, d->store->network, &in->dst.ip))
		d->dialled = cv_store_peek_vip(d->store, in->src->group->ns, d->store->network,
					       &in->dst.ip);
}

/* With the upstream found. */
static void route_found(struct decision *d)
{
	const struct cv_gateway *g = workload_waypoint(d);
	struct cv_service *through = d->up.service;

	if (d->up.workload->group->network != d->in->src->group->network)
		refuse_network(d, d->up.workload);
	else if (g)
		route_to_waypoint(d, g);
	else
		route_to_upstream(d);
	d->up.service = through; /* the destination's, not the waypoint's own */
}

static void decide(struct decision *d)
{
	const struct cv_pick pick = pick_of(d);
	const struct cv_gateway *g = NULL;
	char text[CV_SOCKADDR_TEXT];

	find_dialled(d);
	if (d->dialled)
		g = cv_service_waypoint(d->dialled, d->in->random);
	if (g) {
		route_to_service_waypoint(d, g);
		d->up.service = d->dialled;
	} else if (cv_route_find_upstream(&pick, d->in->src->group->network, &d->in->dst.ip,
					  &d->up)) {
		route_found(d);
	} else if (d->dialled && !is_passthrough(d->dialled)) {
		refuse(d, "no healthy upstream: %s", cv_sockaddr_text(&d->in->dst, text));
	}
}

static void begin(struct decision *d, struct cv_store *s, const struct cv_route_in *in,
		  struct cv_route *ret)
{
	*d = (struct decision){ .store = s, .in = in, .route = ret };
	*ret = (struct cv_route){ CV_ROUTE_PASSTHROUGH, .next_hop = in->dst, .target = in->dst };
}

static void finish(struct decision *d)
{
	struct cv_route *r = d->route;

	r->dst = cv_workload_ref(d->up.workload);
	r->service = cv_service_ref(d->up.service);
	if (!r->service && r->kind == CV_ROUTE_REFUSE)
		r->service = cv_service_ref(d->dialled);
}

void cv_route_outbound(struct cv_store *s, const struct cv_route_in *in, struct cv_route *ret)
{
	struct decision d;

	begin(&d, s, in, ret);
	rcu_read_lock();
	decide(&d);
	finish(&d);
	rcu_read_unlock();
}

/* The endpoints of a service that is not behind a waypoint; 0 = there is nothing to choose. */
static size_t list_endpoints(const struct decision *d, struct cv_upstream *ret, size_t max)
{
	const struct cv_pick pick = pick_of(d);

	if (!d->up.service || d->route->waypoint)
		return 0;
	return cv_route_pick_all(&pick, d->up.service, ret, max);
}

size_t cv_route_choices(struct cv_store *s, const struct cv_route_in *in,
			struct cv_route_choice *ret, size_t max)
{
	struct cv_upstream *ups = calloc(max, sizeof(*ups));
	struct decision d;
	size_t n;

	if (!ups)
		abort();
	begin(&d, s, in, &ret[0].route);
	ret[0].weight = 1;
	rcu_read_lock();
	decide(&d);
	finish(&d);
	n = list_endpoints(&d, ups, max);
	for (size_t i = 0; i < n && i < max; i++) {
		struct cv_service *dialled = d.dialled;

		if (i == 0)
			cv_route_fini(&ret[0].route);
		begin(&d, s, in, &ret[i].route);
		d.dialled = dialled;
		d.up = ups[i];
		route_found(&d);
		finish(&d);
		ret[i].weight = ups[i].workload->group->capacity;
	}
	rcu_read_unlock();
	free(ups);
	return n ? n : 1;
}

void cv_route_resolved(struct cv_route *r, const struct cv_addr *ip)
{
	r->next_hop.ip = *ip;
	if (!r->waypoint)
		r->target.ip = *ip;
	cv_str_put(&r->hostname);
}

void cv_route_fini(struct cv_route *r)
{
	cv_workload_put(&r->dst);
	cv_service_put(&r->service);
	cv_str_put(&r->hostname);
	for (size_t i = 0; i < r->nr_sans; i++)
		cv_str_put(&r->sans[i]);
	free(r->sans);
	r->sans = NULL;
	r->nr_sans = 0;
}
