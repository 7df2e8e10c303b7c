/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outbound: guard against loops → the pod's own record → the kernel's choice of an endpoint → what is
 * asked for on demand → route → DNS where only a name is known → connect. A refused connection is reset, logged and, once
 * it has a route, counted.
 */
#define CV_LOG_TARGET "proxy::outbound"
#include "userspace/proxy/outbound.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/session.h"

/* A service and its waypoint, or a workload and its; and once more, since the store may change meanwhile. */
enum { MAX_ASKED = 3 };

static bool is_our_port(uint16_t port)
{
	return port == CV_PORT_OUTBOUND || port == CV_PORT_INBOUND || port == CV_PORT_HBONE;
}

/* ---- HBONE ------------------------------------------------------------------------------------- */

static void format_trace(struct cv_session *s, char *buf)
{
	uint64_t random[3];

	for (int i = 0; i < 3; i++)
		random[i] = cv_proxy_random(s->lane->pw);
	cv_traceparent_format((const uint8_t *)random, buf);
}

static int open_stream(struct cv_session *s, struct cv_hbone_conn *c)
{
	const struct cv_service *service = s->route.service;
	const struct cv_baggage own = cv_proxy_baggage(s->lane->pod->proxy, s->workload);
	char authority[CV_SOCKADDR_TEXT], baggage[2048], forwarded[400];
	char trace[CV_TRACEPARENT_TEXT];
	struct cv_h2_connect request = { .authority = authority, .traceparent = trace };
	struct cv_h2_stream *stream;
	int r;

	cv_sockaddr_text(&s->route.target, authority);
	format_trace(s, trace);
	if (cv_baggage_format(&own, baggage, sizeof(baggage)) > 0)
		request.baggage = baggage;
	if (cv_forwarded_format(&s->client, service ? service->hostname : NULL, forwarded,
				sizeof(forwarded)) > 0)
		request.forwarded = forwarded;
	r = cv_h2_connect(c->h2, &request, s, &stream);
	if (r)
		return r;
	cv_session_attach(s, 1, stream, c);
	cv_hbone_conn_output(c);
	return 0;
}

static void on_pooled(struct cv_pool_wait *w, struct cv_hbone_conn *c, enum cv_flag flag,
		      const char *error)
{
	struct cv_session *s = cv_container_of(w, struct cv_session, wait);
	char text[128];
	int r;

	if (!c) {
		cv_session_fail(s, flag, error);
		return;
	}
	r = open_stream(s, c);
	if (r) {
		snprintf(text, sizeof(text), "h2 failed: %s", cv_strerror(-r));
		cv_session_fail(s, CV_FLAG_H2_HANDSHAKE_FAILURE, text);
	}
}

/* The reasons that go with the codes that a node proxy or a waypoint answers with. */
static const char *status_reason(int status)
{
	static const struct {
		int status;
		const char *reason;
	} reasons[] = {
		{ 400, " Bad Request" },
		{ 401, " Unauthorized" },
		{ 403, " Forbidden" },
		{ 404, " Not Found" },
		{ 408, " Request Timeout" },
		{ 429, " Too Many Requests" },
		{ 500, " Internal Server Error" },
		{ 502, " Bad Gateway" },
		{ 503, " Service Unavailable" },
		{ 504, " Gateway Timeout" },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "";
}

void cv_outbound_on_response(struct cv_session *s, int status)
{
	char text[64];

	if (s->dead)
		return;
	if (status == 200) {
		cv_tunnel_start(&s->tunnel);
		return;
	}
	snprintf(text, sizeof(text), "http status: %d%s", status, status_reason(status));
	cv_session_fail(s, CV_FLAG_CONNECT, text);
}

static void connect_hbone(struct cv_session *s, const struct cv_identity *own)
{
	const struct cv_pool_key key = {
		.lane = s->lane,
		.identity = *own,
		.next_hop = s->route.next_hop,
		.sans = s->route.sans,
		.nr_sans = s->route.nr_sans,
	};

	s->wait.done = on_pooled;
	cv_pool_get(&s->lane->pw->pool, &key, &s->wait);
}

/* ---- plain TCP --------------------------------------------------------------------------------- */

static void on_connected(struct cv_dial *d, int fd)
{
	cv_session_connected(cv_container_of(d, struct cv_session, dial), fd, "io error");
}

static void connect_tcp(struct cv_session *s)
{
	const struct cv_dial_opts opts = { .dst = s->route.next_hop };

	cv_dial_init(&s->dial, s->lane, on_connected);
	cv_dial_start(&s->dial, &opts);
}

/* ---- decision ---------------------------------------------------------------------------------- */

/* What connect() decided in the kernel: the service that was dialled (the socket may only know the
 * endpoint that took its place) and the endpoint. Returns whether it chose one. What another pod has
 * left on the tuple says nothing of this connection. */
static bool ask_kernel(struct cv_session *s, struct cv_sockaddr *ret_choice)
{
	const struct cv_proxy_pod *pod = s->lane->pod;
	struct cv_bpf *bpf = pod->proxy->opts.bpf;
	const struct cv_tuple tuple = {
		.src = s->client.ip,
		.dst = s->dst.ip,
		.sport = htons(s->client.port),
		.dport = htons(s->dst.port),
	};
	struct cv_attested_entry e;

	if (!bpf || cv_table_attested_get(bpf, &tuple, &e) || e.src_pod != pod->number)
		return false;
	if (!cv_addr_is_zero(&e.vip))
		s->dst = (struct cv_sockaddr){ e.vip, ntohs(e.vip_port) };
	if (cv_addr_is_zero(&e.endpoint))
		return false;
	*ret_choice = (struct cv_sockaddr){ e.endpoint, ntohs(e.endpoint_port) };
	return true;
}

static void decide(struct cv_session *s);

static void on_told(bool answered, void *arg)
{
	struct cv_session *s = arg;
	char text[320];

	cv_lane_wait_end(s->lane);
	if (!s->dead && answered) {
		decide(s);
	} else if (!s->dead) {
		snprintf(text, sizeof(text), "the control plane did not say what %s is",
			 cv_str_text(s->asked));
		cv_session_fail(s, CV_FLAG_NONE, text);
	}
	cv_session_put(s);
}

/* On demand: does the way depend on something that has to be asked for first? Then it is. What has
 * been asked for and is missing still does not exist. */
static bool ask_control_plane(struct cv_session *s, const struct cv_route_in *in)
{
	const struct cv_proxy *p = s->lane->pod->proxy;
	cv_str key = p->opts.demand ? cv_route_missing(p->opts.store, in) : NULL;

	if (!key || key == s->asked || s->nr_asked == MAX_ASKED) {
		cv_str_put(&key);
		return false;
	}
	cv_str_put(&s->asked);
	s->asked = key;
	s->nr_asked++;
	if (cv_lane_wait_begin(s->lane))
		cv_xds_demand(p->opts.demand, s->lane->pw->worker, key, on_told, cv_session_ref(s));
	else
		cv_session_fail(s, CV_FLAG_NONE, "too many connections wait for their routes");
	return true;
}

/* False = it is being asked for, or refused. */
static bool find_route(struct cv_session *s)
{
	struct cv_sockaddr choice;
	struct cv_route_in in = {
		.src = s->workload,
		.src_ip = s->client.ip,
		.random = s->random,
	};

	if (ask_kernel(s, &choice))
		in.choice = &choice;
	in.dst = s->dst;
	if (ask_control_plane(s, &in))
		return false;
	cv_route_outbound(s->lane->pod->proxy->opts.store, &in, &s->route);
	return true;
}

/* What policy says of plain TCP to an enrolled pod of this node. Its 15006 is not told who asks, so a
 * DENY that names us must be found here, where it is known. True without such a pod. */
static bool is_allowed(const struct cv_session *s, struct cv_authz_result *ret)
{
	const struct cv_proxy *p = s->lane->pod->proxy;
	const struct cv_route *r = &s->route;
	struct cv_authz_conn conn = {
		.src = s->client.ip,
		.dst = r->next_hop.ip,
		.dst_port = r->next_hop.port,
	};
	struct cv_workload_entry enrolled;
	struct cv_policy_set set;
	struct cv_identity own;

	if (!p->opts.bpf || r->kind != CV_ROUTE_TCP || !r->dst ||
	    cv_table_workload_get(p->opts.bpf, &r->next_hop.ip, &enrolled))
		return true;
	cv_proxy_identity(s->workload, &own);
	conn.src_identity = &own;
	cv_store_policies_for(p->opts.store, r->dst, &set);
	cv_policy_evaluate(&set, &conn, ret);
	cv_policy_set_fini(&set);
	cv_identity_fini(&own);
	return ret->allow;
}

void cv_outbound_judge_again(struct cv_session *s)
{
	struct cv_authz_result result;

	if (!is_allowed(s, &result))
		cv_session_fail(s, CV_FLAG_DENY, "connection closed due to policy change");
}

static void connect_allowed_tcp(struct cv_session *s)
{
	struct cv_authz_result result;
	char text[512];

	if (is_allowed(s, &result)) {
		connect_tcp(s);
		return;
	}
	snprintf(text, sizeof(text), "connection closed due to policy rejection: %s", result.why);
	cv_session_fail(s, CV_FLAG_DENY, text);
}

static void connect_route(struct cv_session *s)
{
	const struct cv_route *r = &s->route;
	bool hbone = r->kind == CV_ROUTE_HBONE;
	struct cv_identity own, peer = { 0 };
	struct cv_traffic_info info = {
		.tier = hbone ? CV_TIER_TLS : CV_TIER_PASSTHROUGH,
		.src = s->workload,
		.dst = r->dst,
		.service = r->service,
		.mtls = hbone,
		.dst_addr = r->next_hop,
	};

	cv_proxy_identity(s->workload, &own);
	if (r->dst)
		cv_proxy_identity(r->dst, &peer);
	if (hbone) {
		info.src_identity = &own;
		info.dst_identity = r->dst ? &peer : NULL;
		info.hbone_addr = r->target;
	}
	cv_session_open(s, &info);
	if (hbone)
		connect_hbone(s, &own);
	else
		connect_allowed_tcp(s);
	cv_identity_fini(&own);
	cv_identity_fini(&peer);
}

/* The route leads to a workload that only a host name tells the address of. */
static void on_name(struct cv_resolve_wait *w, int r, const struct cv_addr *addrs, size_t n)
{
	struct cv_session *s = cv_container_of(w, struct cv_session, name);
	char text[512];

	if (r) {
		snprintf(text, sizeof(text), "no ip addresses were resolved for workload: %s: %s",
			 cv_str_text(s->route.dst->uid), cv_str_text(s->route.hostname));
		cv_session_fail(s, CV_FLAG_NONE, text);
		return;
	}
	cv_route_resolved(&s->route, cv_resolve_pick(addrs, n, &s->route.next_hop.ip,
						     cv_proxy_random(s->lane->pw)));
	connect_route(s);
}

static void resolve_name(struct cv_session *s)
{
	struct cv_resolver *resolver = cv_proxy_resolver(s->lane->pw);

	cv_traffic_name_asked(s->lane->pod->proxy->opts.telemetry, s->workload, s->route.hostname);
	s->name.done = on_name;
	if (resolver)
		cv_resolve(resolver, s->route.hostname, &s->name);
	else
		on_name(&s->name, -EIO, NULL, 0);
}

static void decide(struct cv_session *s)
{
	if (!find_route(s))
		return;
	if (s->route.kind == CV_ROUTE_REFUSE)
		cv_session_fail(s, CV_FLAG_NONE, s->route.error);
	else if (s->route.hostname)
		resolve_name(s);
	else
		connect_route(s);
}

/* Somebody dialled one of our own ports: nothing of ours may connect there on his behalf, or the
 * connection would come back for ever. */
static bool is_loop(const struct cv_session *s)
{
	return is_our_port(s->dst.port) &&
	       (cv_addr_is_loopback(&s->dst.ip) || cv_addr_eq(&s->dst.ip, &s->client.ip));
}

void cv_outbound_start(struct cv_lane *lane, int fd, const struct cv_sockaddr *client,
		       const struct cv_sockaddr *dst)
{
	const struct cv_session_opts opts = {
		.lane = lane,
		.kind = CV_SESSION_OUTBOUND,
		.client = *client,
		.dst = *dst,
		.fd = fd,
	};
	struct cv_session *s = cv_session_new(&opts);

	if (!s)
		return;
	if (is_loop(s))
		cv_session_fail(s, CV_FLAG_NONE, "attempted recursive call to ourselves");
	else
		cv_session_with_workload(s, decide);
}
