/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inbound HBONE: a request is checked (400, 503), judged by policy (401), connected to the
 * application with the client's address (503), and only then answered with 200.
 */
#define CV_LOG_TARGET "proxy::inbound"
#include "userspace/proxy/inbound.h"

#include <errno.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/proto/proxy_header.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/session.h"

enum { STATUS_OK = 200, BAD_REQUEST = 400, UNAUTHORIZED = 401, UNAVAILABLE = 503 };

struct request {
	struct cv_session *session;
	const struct cv_hbone_request *headers;
	struct cv_authority authority;
};

/* ---- answers ----------------------------------------------------------------------------------- */

static void refuse(struct cv_session *s, int status, enum cv_flag flag, const char *error)
{
	struct cv_tunnel_end *e = &s->tunnel.end[0];

	if (e->stream && cv_h2_respond(e->stream, status, NULL) == 0) {
		cv_tunnel_refuse(&s->tunnel, flag, error);
		cv_hbone_conn_output(e->conn);
	} else {
		cv_session_fail(s, flag, error);
	}
}

/* In front of the payload. The socket is new, so its buffer takes it whole. */
static int send_proxy_header(struct cv_session *s)
{
	const struct cv_identity *id = &s->src_identity;
	uint8_t header[CV_PROXY_HEADER_MAX];
	char text[CV_IDENTITY_TEXT];
	int n = cv_proxy_header_format(&s->client, &s->tunnel_target,
				       cv_identity_is_set(id) ? cv_identity_text(id, text) : NULL,
				       header, sizeof(header));
	ssize_t sent;

	if (n < 0)
		return n;
	sent = send(s->tunnel.end[1].fd, header, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent < n ? -ENOBUFS : 0;
}

static void accept_request(struct cv_session *s)
{
	const struct cv_proxy *p = s->lane->pod->proxy;
	const struct cv_baggage own = cv_proxy_baggage(p, s->workload);
	struct cv_tunnel_end *e = &s->tunnel.end[0];
	char baggage[2048], text[128];
	int r;
	bool has = p->opts.response_baggage &&
		   cv_baggage_format(&own, baggage, sizeof(baggage)) > 0;

	if (cv_h2_respond(e->stream, STATUS_OK, has ? baggage : NULL)) {
		cv_session_fail(s, CV_FLAG_H2_HANDSHAKE_FAILURE, "h2 failed: no response possible");
		return;
	}
	r = s->proxy_header ? send_proxy_header(s) : 0;
	if (r) {
		snprintf(text, sizeof(text), "send: PROXY header: %s", cv_strerror(-r));
		cv_session_fail(s, CV_FLAG_CONNECT, text);
		return;
	}
	cv_tunnel_start(&s->tunnel);
	cv_hbone_conn_output(e->conn);
}

static void on_connected(struct cv_dial *d, int fd)
{
	struct cv_session *s = cv_container_of(d, struct cv_session, dial);
	char text[128];

	if (fd < 0) {
		snprintf(text, sizeof(text), "connection failed: %s", cv_os_error(-fd));
		refuse(s, UNAVAILABLE, CV_FLAG_CONNECT, text);
		return;
	}
	cv_tunnel_set_socket(&s->tunnel, 1, fd);
	accept_request(s);
}

/* ---- who asks ---------------------------------------------------------------------------------- */

/* A workload that only its own words describe, for telemetry alone. */
static struct cv_workload *workload_of_baggage(const struct cv_baggage *b)
{
	struct cv_workload *w;

	if (!b->ns && !b->workload_name && !b->service_name)
		return NULL;
	w = cv_workload_new();
	if (!w)
		return NULL;
	w->group->ns = cv_str_ref(b->ns);
	w->group->workload_name = cv_str_ref(b->workload_name);
	w->group->workload_type = cv_str_ref(b->workload_type);
	w->group->canonical_name = cv_str_ref(b->service_name);
	w->group->canonical_revision = cv_str_ref(b->revision);
	w->group->cluster_id = cv_str_ref(b->cluster);
	w->place->has_locality = b->region || b->zone;
	w->place->locality.region = cv_str_ref(b->region);
	w->place->locality.zone = cv_str_ref(b->zone);
	return w;
}

/* The record of the client's address, unless a gateway speaks for somebody else. */
static struct cv_workload *find_source(const struct request *r)
{
	const struct cv_proxy *p = r->session->lane->pod->proxy;
	const struct cv_hbone_request *h = r->headers;
	bool gateway = h->has_x_forwarded_network &&
		       strcasecmp(h->x_forwarded_network, cv_str_text(p->network)) != 0;
	struct cv_workload *w = NULL;

	if (!gateway)
		w = cv_store_workload_by_addr(p->opts.store, p->network, &r->session->client.ip);
	return w ? w : workload_of_baggage(&h->baggage);
}

static void open_record(const struct request *r, const struct cv_hbone_conn *conn)
{
	struct cv_session *s = r->session;
	struct cv_workload *src = find_source(r);
	struct cv_service *service =
		cv_route_inbound_service(s->lane->pod->proxy->opts.store, s->workload,
					 r->headers->forwarded_host, s->dst.port);
	struct cv_identity own;
	struct cv_traffic_info info = {
		.tier = CV_TIER_TLS,
		.src = src,
		.dst = s->workload,
		.service = service,
		.dst_identity = &own,
		.mtls = true,
		.dst_addr = conn->local,
	};

	cv_proxy_identity(s->workload, &own);
	if (cv_identity_is_set(&s->src_identity))
		info.src_identity = &s->src_identity;
	if (r->authority.is_addr)
		info.hbone_addr = r->authority.addr;
	cv_session_open(s, &info);
	cv_identity_fini(&own);
	cv_service_put(&service);
	cv_workload_put(&src);
}

/* ---- the request -------------------------------------------------------------------------------- */

/* 0, or the status and why. */
static int check_request(struct request *r, const struct cv_hbone_conn *conn, char error[512])
{
	const struct cv_hbone_request *h = r->headers;
	struct cv_session *s = r->session;
	struct cv_inbound_route to;
	int status;

	if (!h->connect) {
		snprintf(error, 512, "expected method CONNECT, got %s", h->method);
		return BAD_REQUEST;
	}
	if (cv_authority_parse(h->authority, strlen(h->authority), &r->authority)) {
		snprintf(error, 512, "no valid authority pseudo header: %s", h->authority);
		return BAD_REQUEST;
	}
	s->workload = cv_lane_workload(s->lane);
	if (!s->workload) {
		cv_lane_no_workload_text(s->lane, error, 512);
		return UNAVAILABLE;
	}
	status = cv_route_inbound(s->lane->pod->proxy->opts.store, s->workload, &conn->local,
				  &r->authority, &to);
	if (status)
		snprintf(error, 512, "%s", to.error);
	else
		s->dst = to.dst;
	s->proxy_header = to.proxy_header;
	s->tunnel_target = to.tunnel_target;
	return status;
}

static void admit(struct cv_session *s)
{
	struct cv_policy_set set;
	struct cv_authz_result result;
	char text[512];

	cv_store_policies_for(s->lane->pod->proxy->opts.store, s->workload, &set);
	cv_session_judge(s, &set, &result);
	cv_policy_set_fini(&set);
	if (result.allow) {
		cv_session_dial_application(s, on_connected);
		return;
	}
	snprintf(text, sizeof(text), "connection closed due to policy rejection: %s", result.why);
	refuse(s, UNAUTHORIZED, CV_FLAG_DENY, text);
}

void cv_inbound_on_request(struct cv_hbone_conn *conn, struct cv_h2_stream *stream,
			   const struct cv_hbone_request *headers)
{
	const struct cv_session_opts opts = {
		.lane = conn->lane,
		.kind = CV_SESSION_HBONE,
		.client = conn->peer,
		.dst = conn->local,
		.fd = -1,
	};
	struct request r = { .session = cv_session_new(&opts), .headers = headers };
	char error[512];
	int status;

	if (!r.session) {
		/* The stream has no user: nobody is told how it ends. */
		(void)cv_h2_respond(stream, UNAVAILABLE, NULL);
		return;
	}
	cv_session_attach(r.session, 0, stream, conn);
	cv_identity_copy(&r.session->src_identity, &conn->peer_identity);
	status = check_request(&r, conn, error);
	if (status) {
		refuse(r.session, status, CV_FLAG_NONE, error);
	} else {
		open_record(&r, conn);
		admit(r.session);
	}
	cv_authority_fini(&r.authority);
}
