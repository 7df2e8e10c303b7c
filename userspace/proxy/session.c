/* SPDX-License-Identifier: Apache-2.0 */
/* What the three kinds of sessions share: birth under limits, telemetry, policy, death. */
#define CV_LOG_TARGET "proxy"
#include "userspace/proxy/session.h"

#include <stdio.h>
#include <stdlib.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"

static enum cv_reporter reporter_of(enum cv_session_kind kind)
{
	return kind == CV_SESSION_OUTBOUND ? CV_REPORTER_SOURCE : CV_REPORTER_DESTINATION;
}

static struct cv_telemetry *telemetry_of(const struct cv_session *s)
{
	return s->lane->pod->proxy->opts.telemetry;
}

/* ---- ports that clients use (dial.c says why) ------------------------------------------------- */

static void count_client_port(struct cv_session *s)
{
	if (s->kind != CV_SESSION_PLAIN || s->client.port < CV_LEG_PORT_FIRST)
		return;
	s->lane->pod->proxy->client_ports[s->client.port - CV_LEG_PORT_FIRST]++;
	s->client_port_counted = true;
}

static void uncount_client_port(struct cv_session *s)
{
	if (s->client_port_counted)
		s->lane->pod->proxy->client_ports[s->client.port - CV_LEG_PORT_FIRST]--;
	s->client_port_counted = false;
}

/* ---- death ------------------------------------------------------------------------------------- */

static void put_deferred(void *arg)
{
	cv_session_put(arg);
}

static void on_tunnel_done(struct cv_tunnel *t, enum cv_flag flag, const char *error)
{
	struct cv_session *s = cv_container_of(t, struct cv_session, tunnel);

	s->dead = true;
	cv_dial_cancel(&s->dial);
	cv_pool_cancel(&s->wait);
	cv_resolve_cancel(&s->name);
	uncount_client_port(s);
	t->traffic = NULL;
	if (s->traffic)
		cv_traffic_close(&s->traffic, flag, error);
	else if (error)
		cv_traffic_early_deny(telemetry_of(s), &s->client, &s->dst, reporter_of(s->kind),
				      error);
	if (s->kind != CV_SESSION_HBONE)
		cv_traffic_socket(telemetry_of(s), reporter_of(s->kind), -1);
	cv_lane_leave(s->lane);
	cv_worker_defer(s->lane->pw->worker, put_deferred, s);
}

void cv_session_fail(struct cv_session *s, enum cv_flag flag, const char *error)
{
	cv_tunnel_stop(&s->tunnel, true, flag, error);
}

void cv_session_connected(struct cv_session *s, int fd, const char *failure)
{
	char text[128];

	if (fd < 0) {
		snprintf(text, sizeof(text), "%s: %s", failure, cv_os_error(-fd));
		cv_session_fail(s, CV_FLAG_CONNECT, text);
		return;
	}
	cv_tunnel_set_socket(&s->tunnel, 1, fd);
	cv_tunnel_start(&s->tunnel);
}

void cv_session_forget(struct cv_session *s)
{
	s->dead = true;
	s->tunnel.done = true;
	if (s->traffic)
		cv_traffic_close(&s->traffic, CV_FLAG_NONE,
				 "connection closed due to connection drain");
	s->wait.entry = NULL;
	cv_resolve_cancel(&s->name);
	cv_close(&s->dial.fd);
	for (int i = 0; i < 2; i++)
		cv_close(&s->tunnel.end[i].fd);
}

struct cv_session *cv_session_ref(struct cv_session *s)
{
	s->refs++;
	return s;
}

void cv_session_put(struct cv_session *s)
{
	if (--s->refs)
		return;
	TAILQ_REMOVE(&s->lane->sessions, s, node);
	cv_tunnel_fini(&s->tunnel);
	cv_route_fini(&s->route);
	cv_str_put(&s->asked);
	cv_identity_fini(&s->src_identity);
	cv_workload_put(&s->workload);
	cv_lane_put(s->lane);
	free(s);
}

/* ---- birth ------------------------------------------------------------------------------------- */

static void refuse(const struct cv_session_opts *opts, const char *why)
{
	int fd = opts->fd;

	cv_traffic_early_deny(opts->lane->pod->proxy->opts.telemetry, &opts->client, &opts->dst,
			      reporter_of(opts->kind), why);
	cv_sock_abort(&fd);
}

struct cv_session *cv_session_new(const struct cv_session_opts *opts)
{
	struct cv_lane *lane = opts->lane;
	struct cv_session *s;

	if (!cv_lane_admit(lane)) {
		refuse(opts, "too many connections");
		return NULL;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		cv_lane_leave(lane);
		refuse(opts, "out of memory");
		return NULL;
	}
	s->refs = 1;
	s->lane = cv_lane_ref(lane);
	s->kind = opts->kind;
	s->client = opts->client;
	s->dst = opts->dst;
	s->accepted_ms = cv_now_ms();
	s->random = cv_proxy_random(lane->pw);
	TAILQ_INSERT_TAIL(&lane->sessions, s, node);
	cv_dial_init(&s->dial, lane, NULL);
	cv_tunnel_init(&s->tunnel, lane->pw->base, &lane->pw->chunks, on_tunnel_done);
	if (opts->fd >= 0) {
		cv_tunnel_set_socket(&s->tunnel, 0, opts->fd);
		cv_traffic_socket(telemetry_of(s), reporter_of(s->kind), 1);
	}
	count_client_port(s);
	return s;
}

void cv_session_attach(struct cv_session *s, int end, struct cv_h2_stream *stream,
		       struct cv_hbone_conn *conn)
{
	cv_h2_stream_set_user(stream, cv_session_ref(s));
	cv_tunnel_set_stream(&s->tunnel, end, stream, conn);
}

void cv_session_on_stream_closed(struct cv_session *s, uint32_t code)
{
	cv_tunnel_on_closed(&s->tunnel, code);
	cv_session_put(s);
}

/* ---- the local pod's record ---------------------------------------------------------------------- */

static void on_workload(struct cv_workload *w, void *arg)
{
	struct cv_session *s = arg;
	char text[320];

	cv_lane_wait_end(s->lane);
	if (s->dead) {
		cv_workload_put(&w);
	} else if (w) {
		s->workload = w;
		s->on_record(s);
	} else {
		cv_lane_no_workload_text(s->lane, text, sizeof(text));
		cv_session_fail(s, CV_FLAG_NONE, text);
	}
	cv_session_put(s);
}

void cv_session_with_workload(struct cv_session *s, void (*fn)(struct cv_session *s))
{
	const struct cv_proxy_pod *pod = s->lane->pod;

	s->workload = cv_lane_workload(s->lane);
	if (s->workload) {
		fn(s);
		return;
	}
	if (!cv_lane_wait_begin(s->lane)) {
		cv_session_fail(s, CV_FLAG_NONE, "too many connections wait for the workload");
		return;
	}
	s->on_record = fn;
	cv_store_wait_local(pod->proxy->opts.store, s->lane->pw->worker, pod->ns,
			    pod->service_account, pod->name, CV_LIMIT_WORKLOAD_WAIT_MS, on_workload,
			    cv_session_ref(s));
}

/* ---- telemetry and policy ------------------------------------------------------------------------- */

void cv_session_open(struct cv_session *s, struct cv_traffic_info *info)
{
	const struct cv_proxy_pod *pod = s->lane->pod;

	info->reporter = reporter_of(s->kind);
	info->pod_ns = pod->ns;
	info->pod_name = pod->name;
	info->pod_uid = pod->uid;
	info->src_addr = s->client;
	info->original_dst = s->dst;
	info->opened_ms = s->accepted_ms;
	s->traffic = cv_traffic_open(telemetry_of(s), info);
	s->tunnel.traffic = s->traffic;
}

void cv_session_judge(const struct cv_session *s, const struct cv_policy_set *set,
		      struct cv_authz_result *ret)
{
	const struct cv_authz_conn conn = {
		.src = s->client.ip,
		.dst = s->dst.ip,
		.dst_port = s->dst.port,
		.src_identity = cv_identity_is_set(&s->src_identity) ? &s->src_identity : NULL,
	};

	cv_policy_evaluate(set, &conn, ret);
}

/* An application tunnel that listens for the PROXY header does so on loopback, where nobody gets by
 * us: the header tells it the client. */
static bool is_local_tunnel(const struct cv_session *s)
{
	return s->proxy_header && s->lane->pod->proxy->opts.localhost_app_tunnel;
}

static struct cv_addr loopback_like(const struct cv_addr *ip)
{
	return cv_addr_is_v4(ip) ? cv_addr_v4(INADDR_LOOPBACK) :
				   (struct cv_addr){ .b = { [15] = 1 } };
}

/* The client's address is kept unless the pod may not (ENABLE_ORIG_SRC), or it is the pod's own:
 * a pod that talks to itself through the mesh. */
void cv_session_dial_application(struct cv_session *s, void (*done)(struct cv_dial *d, int fd))
{
	struct cv_dial_opts opts = { .dst = s->dst };

	if (is_local_tunnel(s))
		opts.dst.ip = loopback_like(&s->dst.ip);
	else if (s->lane->pod->transparent && !cv_addr_eq(&s->client.ip, &s->dst.ip))
		opts.client = &s->client.ip;
	cv_dial_init(&s->dial, s->lane, done);
	cv_dial_start(&s->dial, &opts);
}
