/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepting on 15008: the pod's record, its certificate, then TLS. Everything up to the end of the
 * handshake has one deadline and one bound on how many there may be.
 */
#define CV_LOG_TARGET "proxy::inbound"
#include <errno.h>
#include <stdio.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/lane.h"

static void on_cert(struct cv_cert *cert, const char *error, void *arg)
{
	struct cv_hbone_conn *c = arg;
	char text[320];
	int fd, r;

	if (c->state == CV_HBONE_DEAD) {
		cv_cert_put(&cert);
	} else if (!cert) {
		snprintf(text, sizeof(text), "identity error: %s", error);
		cv_hbone_conn_kill(c, CV_FLAG_IDENTITY_ERROR, text);
	} else {
		c->cert = cert;
		fd = cv_take_fd(c->fd);
		r = cv_hbone_conn_start(c, fd);
		if (r)
			cv_hbone_conn_kill(c, CV_FLAG_TLS_FAILURE, cv_strerror(-r));
	}
	cv_hbone_conn_put(c);
}

/* Takes the reference to w. */
static void begin(struct cv_hbone_conn *c, struct cv_workload *w)
{
	struct cv_identity id;

	c->workload = w;
	cv_proxy_identity(w, &id);
	c->refs++;
	cv_certs_get(c->lane->pod->proxy->opts.certs, &id, on_cert, c);
	cv_identity_fini(&id);
}

static void on_workload(struct cv_workload *w, void *arg)
{
	struct cv_hbone_conn *c = arg;
	char text[320];

	if (c->state == CV_HBONE_DEAD) {
		cv_workload_put(&w);
	} else if (w) {
		begin(c, w);
	} else {
		cv_lane_no_workload_text(c->lane, text, sizeof(text));
		cv_hbone_conn_kill(c, CV_FLAG_IDENTITY_ERROR, text);
	}
	cv_hbone_conn_put(c);
}

/* Bounds say no: the peer is reset before it has cost anything. */
static void refuse(struct cv_lane *lane, int fd, const struct cv_sockaddr *peer)
{
	struct cv_sockaddr local = { 0 };

	(void)cv_sock_local(fd, &local); /* only for the log */
	cv_traffic_early_deny(lane->pod->proxy->opts.telemetry, peer, &local,
			      CV_REPORTER_DESTINATION, "too many connections");
	cv_sock_abort(&fd);
}

void cv_hbone_accept(struct cv_lane *lane, int fd, const struct cv_sockaddr *peer)
{
	static const struct timeval deadline = { .tv_sec = CV_LIMIT_HANDSHAKE_MS / 1000 };
	const struct cv_proxy_pod *pod = lane->pod;
	struct cv_hbone_conn *c;
	struct cv_workload *w;

	if (lane->pw->handshakes >= CV_LIMIT_HANDSHAKES || !cv_lane_admit(lane)) {
		refuse(lane, fd, peer);
		return;
	}
	c = cv_hbone_conn_new(lane, true);
	if (!c) {
		cv_lane_leave(lane);
		refuse(lane, fd, peer);
		return;
	}
	c->fd = fd;
	c->peer = *peer;
	lane->pw->handshakes++;
	cv_traffic_socket(pod->proxy->opts.telemetry, CV_REPORTER_DESTINATION, 1);
	if (cv_sock_local(fd, &c->local)) {
		cv_hbone_conn_kill(c, CV_FLAG_CONNECT, "peer closed the connection");
		return;
	}
	event_add(&c->timer, &deadline);
	w = cv_lane_workload(lane);
	if (w) {
		begin(c, w);
		return;
	}
	c->refs++;
	cv_store_wait_local(pod->proxy->opts.store, lane->pw->worker, pod->ns, pod->service_account,
			    pod->name, CV_LIMIT_WORKLOAD_WAIT_MS, on_workload, c);
}
