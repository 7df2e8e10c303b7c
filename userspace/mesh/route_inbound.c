/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inbound HBONE: may this authority be asked of this workload, and on which port?
 *
 * Only the port of the authority is used: the connection goes to the local address that the
 * tunnel arrived on, whatever address the peer wrote.
 */
#include <errno.h>
#include <stdio.h>

#include "userspace/mesh/route_private.h"
#include "userspace/mesh/store_private.h"
#include "userspace/proto/hbone.h"

enum { BAD_REQUEST = 400, UNAVAILABLE = 503 };

struct inbound {
	const struct cv_store *store;
	const struct cv_workload *local;
	const struct cv_addr *local_ip;
	const struct cv_authority *authority;
	char *error; /* 256 bytes */
};

#define fail(in, status, ...) ((void)snprintf((in)->error, 256, __VA_ARGS__), (status))

/* Does this waypoint lead to the local workload, by membership or by address? */
static bool is_our_waypoint(const struct inbound *in, const struct cv_gateway *g)
{
	if (!g->by_host && cv_addr_eq(&g->addr.ip, in->local_ip) &&
	    g->addr.network == in->store->network)
		return true;
	return cv_gateway_leads_to(in->store, g, in->local);
}

/* Is the local workload the waypoint of what the authority names? */
static bool is_waypoint_for(const struct inbound *in, const struct cv_addr *ip)
{
	const struct cv_workload *w = cv_store_peek_addr(in->store, in->store->network, ip);
	const struct cv_service *svc;

	if (w)
		return w->group->waypoint && is_our_waypoint(in, w->group->waypoint);
	svc = cv_store_peek_vip(in->store, NULL, in->store->network, ip);
	if (!svc)
		return false;
	for (size_t i = 0; i < svc->nr_weighted_waypoints; i++)
		if (is_our_waypoint(in, &svc->weighted_waypoints[i].gateway))
			return true;
	return svc->waypoint && is_our_waypoint(in, svc->waypoint);
}

static int check_address(const struct inbound *in)
{
	const struct cv_addr *asked = &in->authority->addr.ip;
	char local[CV_ADDR_TEXT], text[CV_ADDR_TEXT];

	if (!in->authority->is_addr || cv_addr_eq(asked, in->local_ip) ||
	    in->local->group->has_app_tunnel || is_waypoint_for(in, asked))
		return 0;
	return fail(in, BAD_REQUEST, "ip mismatch: %s != %s", cv_addr_text(in->local_ip, local),
		    cv_addr_text(asked, text));
}

/* The workload's own port for a service port: its membership, else the service's map. */
static int service_port(const struct cv_service *svc, const struct cv_workload *w, uint16_t port)
{
	const struct cv_service_endpoint *e = cv_service_find_endpoint(svc, w->uid);
	int target = -ENOENT;

	for (size_t i = 0; i < w->group->nr_services && target <= 0; i++)
		if (w->group->services[i].service.ns == svc->ns &&
		    w->group->services[i].service.host == svc->hostname)
			target = cv_port_map_find(&w->group->services[i].ports, port);
	if (target <= 0 && e)
		target = cv_port_map_find(&e->ports, port);
	return target > 0 ? target : cv_port_map_find(&svc->ports, port);
}

/* The address that stands for a service in the PROXY header, which cannot hold a name: one of our
 * network first, then IPv4. */
static const struct cv_network_addr *best_vip(const struct inbound *in,
					      const struct cv_service *svc)
{
	const struct cv_network_addr *best = NULL;
	int best_rank = -1;

	for (size_t i = 0; i < svc->nr_vips; i++) {
		const struct cv_network_addr *vip = &svc->vips[i];
		int rank = vip->network != in->store->network ? 0 : cv_addr_is_v4(&vip->ip) ? 2 : 1;

		if (rank > best_rank) {
			best_rank = rank;
			best = vip;
		}
	}
	return best;
}

/* A request by host name: the workload's own port for it, and what the PROXY header will say. */
static int resolve_host(const struct inbound *in, struct cv_inbound_route *ret)
{
	const struct cv_authority *a = in->authority;
	const char *host = cv_str_text(a->host);
	const struct cv_network_addr *vip;
	const struct cv_service *svc;
	int port;

	svc = cv_store_peek_best_by_host(in->store, in->local->group->ns, a->host);
	if (!svc)
		return fail(in, UNAVAILABLE, "no service or workload for hostname: %s", host);
	port = service_port(svc, in->local, a->port);
	if (port <= 0)
		return fail(in, UNAVAILABLE,
			    "requested service %s:%u found, but cannot resolve port", host,
			    a->port);
	ret->dst.port = (uint16_t)port;
	vip = best_vip(in, svc);
	if (vip)
		ret->tunnel_target = (struct cv_sockaddr){ vip->ip, a->port };
	else if (in->local->group->has_app_tunnel)
		return fail(in, UNAVAILABLE, "requested service %s found, but has no IP addresses",
			    host);
	return 0;
}

static int resolve(const struct inbound *in, struct cv_inbound_route *ret)
{
	const struct cv_workload *local = in->local;
	uint16_t port;
	int status = 0;

	ret->dst.port = in->authority->addr.port;
	ret->tunnel_target = in->authority->addr;
	if (!in->authority->is_addr)
		status = resolve_host(in, ret);
	if (status)
		return status;
	port = ret->dst.port;
	if (port == CV_PORT_OUTBOUND || port == CV_PORT_INBOUND || port == CV_PORT_HBONE)
		return fail(in, UNAVAILABLE, "attempted recursive call to ourselves");
	if (local->group->has_app_tunnel && local->group->app_tunnel_port)
		ret->dst.port = local->group->app_tunnel_port;
	ret->proxy_header = local->group->has_app_tunnel && local->group->app_tunnel_proxy;
	return 0;
}

int cv_route_inbound(struct cv_store *s, const struct cv_workload *local,
		     const struct cv_sockaddr *local_addr, const struct cv_authority *authority,
		     struct cv_inbound_route *ret)
{
	const struct inbound in = { s, local, &local_addr->ip, authority, ret->error };
	int status;

	*ret = (struct cv_inbound_route){ .dst.ip = local_addr->ip };
	rcu_read_lock();
	status = check_address(&in);
	if (!status)
		status = resolve(&in, ret);
	rcu_read_unlock();
	return status;
}

static bool has_target(const struct cv_port_map *m, uint16_t port)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->entries[i].target_port == port)
			return true;
	return false;
}

struct cv_service *cv_route_inbound_service(struct cv_store *s, const struct cv_workload *local,
					    cv_str forwarded_host, uint16_t port)
{
	struct cv_service *by_host = NULL, *by_port = NULL;

	rcu_read_lock();
	for (size_t i = 0; i < local->group->nr_services && !by_host; i++) {
		const struct cv_membership *m = &local->group->services[i];
		struct cv_service *svc = cv_store_peek_service(s, m->service.ns, m->service.host);

		if (!svc)
			continue;
		if (forwarded_host && svc->hostname == forwarded_host)
			by_host = svc;
		if (!by_port && (has_target(&m->ports, port) || has_target(&svc->ports, port)))
			by_port = svc;
	}
	by_host = cv_service_ref(by_host ? by_host : by_port);
	rcu_read_unlock();
	return by_host;
}
