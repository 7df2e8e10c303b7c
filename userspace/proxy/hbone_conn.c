/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What client and server have in common: bytes between the socket, TLS and the HTTP/2 session,
 * keepalive, and death.
 *
 * One wake-up reads the socket once (up to 256 KiB), decrypts into one borrowed chunk and feeds the
 * session; what that causes to be sent leaves before the callback ends, without a detour through the
 * loop. The TLS socket is always read: a slow stream is held back by its own window. The write
 * event exists only while the socket has refused bytes.
 */
#define CV_LOG_TARGET "proxy::hbone"
#include "userspace/proxy/hbone_conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/inbound.h"
#include "userspace/proxy/lane.h"
#include "userspace/proxy/outbound.h"
#include "userspace/proxy/revoke.h"
#include "userspace/proxy/session.h"

enum {
	OUTPUT_ROUNDS = 3, /* fillings of the TLS buffer that one callback sends */
	CLOSING_MS = 500, /* between a server's GOAWAY and its close, for requests under way */
};

static void arm(struct cv_hbone_conn *c, int64_t ms)
{
	const struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	if (c->state != CV_HBONE_DEAD)
		event_add(&c->timer, &tv);
}

/* ---- output --------------------------------------------------------------------------------- */

static void want_write(struct cv_hbone_conn *c, bool want)
{
	if (c->wr_on == want)
		return;
	c->wr_on = want;
	if (want)
		event_add(&c->wr, NULL);
	else
		event_del(&c->wr);
}

/* 1 = again, 0 = all is sent or waits for the socket, -1 = killed. */
static int output_round(struct cv_hbone_conn *c)
{
	int r;

	if (c->h2 && cv_h2_output(c->h2)) {
		(void)cv_tls_flush(c->tls); /* the GOAWAY that says why, if it goes at once */
		cv_hbone_conn_kill(c, CV_FLAG_H2_HANDSHAKE_FAILURE, cv_h2_error_text(c->h2));
		return -1;
	}
	r = cv_tls_flush(c->tls);
	if (r && r != -EAGAIN) {
		cv_hbone_conn_kill(c, CV_FLAG_CONNECT, cv_strerror(-r));
		return -1;
	}
	want_write(c, r == -EAGAIN);
	return !r && c->h2 && cv_h2_wants_write(c->h2);
}

void cv_hbone_conn_output(struct cv_hbone_conn *c)
{
	int r = 1;

	if (c->busy || c->state == CV_HBONE_DEAD || !c->tls)
		return;
	c->busy = true;
	for (int i = 0; i < OUTPUT_ROUNDS && r > 0; i++)
		r = output_round(c);
	c->busy = false;
	if (r > 0)
		want_write(c, true); /* enough for one callback: go on when the loop comes round */
	else if (!r && c->closing && c->h2 && cv_h2_done(c->h2) && !cv_tls_out_pending(c->tls))
		cv_hbone_conn_kill(c, CV_FLAG_NONE, NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	cv_hbone_conn_output(arg);
}

/* ---- HTTP/2 session ---------------------------------------------------------------------------- */

static int on_h2_write(void *conn, const uint8_t *data, size_t len)
{
	struct cv_hbone_conn *c = conn;

	return cv_tls_write(c->tls, data, len);
}

static size_t on_h2_room(void *conn)
{
	struct cv_hbone_conn *c = conn;

	return cv_tls_out_room(c->tls);
}

static void on_h2_request(void *conn, struct cv_h2_stream *s, const struct cv_hbone_request *r)
{
	cv_inbound_on_request(conn, s, r);
}

static void on_h2_response(void *conn, struct cv_h2_stream *s, int status,
			   const struct cv_baggage *baggage)
{
	(void)conn;
	(void)baggage; /* told by gateways of other networks only */
	cv_outbound_on_response(cv_h2_stream_user(s), status);
}

static void on_h2_data(void *conn, struct cv_h2_stream *s, const uint8_t *data, size_t len)
{
	struct cv_session *session = cv_h2_stream_user(s);

	(void)conn;
	if (session)
		cv_tunnel_on_data(&session->tunnel, data, len);
	else
		cv_h2_consume(s, len);
}

static void on_h2_eof(void *conn, struct cv_h2_stream *s)
{
	struct cv_session *session = cv_h2_stream_user(s);

	(void)conn;
	if (session)
		cv_tunnel_on_eof(&session->tunnel);
}

static void on_h2_sent(void *conn, struct cv_h2_stream *s)
{
	struct cv_session *session = cv_h2_stream_user(s);

	(void)conn;
	if (session)
		cv_tunnel_on_sent(&session->tunnel);
}

static void on_h2_closed(void *conn, struct cv_h2_stream *s, uint32_t code)
{
	struct cv_session *session = cv_h2_stream_user(s);

	if (session)
		cv_session_on_stream_closed(session, code);
	cv_hbone_conn_on_stream_gone(conn);
}

static void on_h2_goaway(void *conn)
{
	struct cv_hbone_conn *c = conn;

	c->closing = true;
	c->idle_since_ms = cv_now_ms();
	arm(c, CLOSING_MS);
	if (!c->server)
		cv_pool_on_goaway(c);
}

static const struct cv_h2_ops h2_ops = {
	.write = on_h2_write,
	.room = on_h2_room,
	.on_request = on_h2_request,
	.on_response = on_h2_response,
	.on_data = on_h2_data,
	.on_eof = on_h2_eof,
	.on_sent = on_h2_sent,
	.on_closed = on_h2_closed,
	.on_goaway = on_h2_goaway,
};

/* ---- time ------------------------------------------------------------------------------------- */

/* Ms until a connection without streams has served its time; -1 = it has. */
static int64_t idle_left(const struct cv_hbone_conn *c, uint64_t now)
{
	unsigned allowed = c->closing ? CLOSING_MS : c->lane->pod->proxy->opts.pool_idle_ms;
	uint64_t end = c->idle_since_ms + allowed;

	if ((c->server && !c->closing) || cv_h2_streams(c->h2))
		return INT64_MAX;
	return now >= end ? -1 : (int64_t)(end - now);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct cv_hbone_conn *c = arg;
	uint64_t now = cv_now_ms();
	int64_t next, idle;

	(void)fd;
	(void)what;
	if (c->state != CV_HBONE_READY) {
		cv_hbone_conn_kill(c, CV_FLAG_TLS_FAILURE, "handshake timed out");
		return;
	}
	next = cv_h2_tick(c->h2, now);
	idle = idle_left(c, now);
	if (next < 0) {
		cv_hbone_conn_kill(c, CV_FLAG_H2_HANDSHAKE_FAILURE, "HBONE ping timeout/error");
	} else if (idle < 0) {
		cv_tls_close_notify(c->tls);
		cv_hbone_conn_output(c);
		cv_hbone_conn_kill(c, CV_FLAG_NONE, NULL);
	} else {
		arm(c, idle < next ? idle : next);
		cv_hbone_conn_output(c);
	}
}

/* The keepalive comes often enough to notice long idleness by itself. */
void cv_hbone_conn_on_stream_gone(struct cv_hbone_conn *c)
{
	unsigned idle_ms = c->lane->pod->proxy->opts.pool_idle_ms;

	c->idle_since_ms = cv_now_ms();
	if (c->state != CV_HBONE_READY)
		return;
	if (c->closing)
		arm(c, CLOSING_MS);
	else if (!c->server && idle_ms < CV_LIMIT_PING_MS)
		arm(c, idle_ms);
}

/* ---- input ------------------------------------------------------------------------------------ */

/* Is the peer one of those whom we meant to reach? */
static int verify_peer(struct cv_hbone_conn *c)
{
	const struct cv_pool_key *key = &c->entry->key;
	char why[512] = "", error[sizeof(c->error)];
	int r = cv_cert_verify_peer(cv_tls_peer(c->tls), key->sans, key->nr_sans, why);

	if (r) {
		snprintf(error, sizeof(error), "io error: invalid peer certificate: %.300s", why);
		cv_hbone_conn_kill(c, CV_FLAG_CONNECT, error);
	}
	return r;
}

/* TLS is done: nothing is sent to a server before it was verified. */
static void begin_h2(struct cv_hbone_conn *c)
{
	if (!c->server && verify_peer(c))
		return;
	/* No SPIFFE identity in it: stays unset, which policy takes for unproven. */
	(void)cv_identity_of_cert(cv_tls_peer(c->tls), &c->peer_identity);
	if (cv_h2_new(&c->h2, c->server, &h2_ops, c, cv_now_ms())) {
		cv_hbone_conn_kill(c, CV_FLAG_H2_HANDSHAKE_FAILURE, "http2 handshake failed");
		return;
	}
	if (!c->server)
		cv_h2_set_max_streams(c->h2, c->lane->pod->proxy->opts.pool_max_streams);
	c->state = CV_HBONE_READY;
	c->idle_since_ms = cv_now_ms();
	arm(c, 0); /* the keepalive says when it wants to be called */
	if (c->server) {
		c->lane->pw->handshakes--;
		c->lane->pw->live.hbone_inbound++;
	} else {
		cv_pool_on_ready(c);
	}
	if (c->closing)
		cv_hbone_conn_shutdown(c);
}

static void handshake(struct cv_hbone_conn *c)
{
	int r = cv_tls_handshake(c->tls);
	char error[sizeof(c->error)];

	if (r < 0) {
		const char *why = c->server ? cv_cert_error_text(cv_tls_ssl(c->tls)) : NULL;

		snprintf(error, sizeof(error), "%s: %s",
			 c->server ? "tls handshake error" : "io error",
			 why ? why : cv_tls_error_text(c->tls));
		(void)cv_tls_flush(c->tls); /* the alert, if it goes at once */
		cv_revoke_count_refused(c);
		cv_hbone_conn_kill(c, c->server ? CV_FLAG_TLS_FAILURE : CV_FLAG_CONNECT, error);
		return;
	}
	if (r == 1)
		begin_h2(c);
	cv_hbone_conn_output(c);
}

/* Decrypts what was read, as much as fits, and feeds it. -EAGAIN = nothing is left, 0 = the peer
 * has closed, 1 = there is more, -errno. */
static int feed(struct cv_hbone_conn *c, struct cv_chunk *scratch)
{
	size_t cap = cv_chunk_size(scratch->tier), len = 0;
	ssize_t n = 1;
	int r = 0;

	while (n > 0 && len < cap) {
		n = cv_tls_read(c->tls, scratch->data + len, cap - len);
		if (n > 0)
			len += n;
	}
	if (len) {
		c->busy = true;
		r = cv_h2_input(c->h2, scratch->data, len, cv_now_ms());
		c->busy = false;
	}
	if (r) {
		cv_hbone_conn_output(c); /* fails as well, and says why */
		return r;
	}
	return n > 0 ? 1 : (int)n;
}

static void read_streams(struct cv_hbone_conn *c)
{
	struct cv_chunks *chunks = &c->lane->pw->chunks;
	struct cv_chunk *scratch = cv_chunk_get(chunks, CV_CHUNK_LARGE);
	int r = scratch ? 1 : -ENOMEM;

	while (r > 0 && c->state == CV_HBONE_READY)
		r = feed(c, scratch);
	cv_chunk_put(chunks, &scratch);
	if (r == 0)
		cv_hbone_conn_kill(c, CV_FLAG_H2_HANDSHAKE_FAILURE,
				   "connection closed by the peer");
	else if (r < 0 && r != -EAGAIN)
		cv_hbone_conn_kill(c, CV_FLAG_H2_HANDSHAKE_FAILURE, cv_tls_error_text(c->tls));
	else
		cv_hbone_conn_output(c);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_hbone_conn *c = arg;
	ssize_t n;

	(void)fd;
	(void)what;
	if (c->state == CV_HBONE_HANDSHAKE) {
		handshake(c); /* reads by itself */
	} else {
		n = cv_tls_fill(c->tls);
		if (n == -EAGAIN)
			return;
		if (n < 0 && n != -ENOBUFS) {
			cv_hbone_conn_kill(c, CV_FLAG_CONNECT, cv_strerror((int)-n));
			return;
		}
	}
	if (c->state == CV_HBONE_READY)
		read_streams(c);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct cv_hbone_conn *cv_hbone_conn_new(struct cv_lane *lane, bool server)
{
	struct cv_hbone_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->lane = cv_lane_ref(lane);
	c->refs = 1;
	c->server = server;
	c->fd = -1;
	TAILQ_INSERT_TAIL(&lane->conns, c, node);
	cv_dial_init(&c->dial, lane, NULL);
	evtimer_assign(&c->timer, lane->pw->base, on_timer, c);
	return c;
}

void cv_hbone_conn_put(struct cv_hbone_conn *c)
{
	if (--c->refs)
		return;
	TAILQ_REMOVE(&c->lane->conns, c, node);
	cv_identity_fini(&c->peer_identity);
	cv_workload_put(&c->workload);
	cv_cert_put(&c->cert);
	cv_lane_put(c->lane);
	free(c);
}

int cv_hbone_conn_start(struct cv_hbone_conn *c, int fd)
{
	struct event_base *base = c->lane->pw->base;
	int r;

	c->fd = fd;
	r = cv_tls_new(&c->tls, c->server ? c->cert->server : c->cert->client, c->server, fd);
	if (r == 0)
		r = cv_cert_use(c->cert, cv_tls_ssl(c->tls));
	if (r)
		return r;
	event_assign(&c->rd, base, fd, EV_READ | EV_PERSIST, on_readable, c);
	event_assign(&c->wr, base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
	event_add(&c->rd, NULL);
	arm(c, CV_LIMIT_HANDSHAKE_MS);
	c->state = CV_HBONE_HANDSHAKE;
	if (!c->server)
		handshake(c); /* the client speaks first */
	return 0;
}

/* After the callbacks of this round: the session tells every stream that is left. */
static void reap(void *arg)
{
	struct cv_hbone_conn *c = arg;

	cv_h2_free(&c->h2);
	cv_tls_free(&c->tls);
	cv_hbone_conn_put(c);
}

/* Tells whoever counted on it. */
static void tell_dead(struct cv_hbone_conn *c, enum cv_hbone_state was)
{
	struct cv_proxy_worker *pw = c->lane->pw;
	struct cv_telemetry *telemetry = pw->proxy->opts.telemetry;

	if (!c->server) {
		if (was == CV_HBONE_READY)
			pw->live.hbone_pooled--;
		cv_pool_on_dead(c);
		return;
	}
	if (was == CV_HBONE_READY) {
		pw->live.hbone_inbound--;
	} else {
		pw->handshakes--;
		cv_traffic_early_deny(telemetry, &c->peer, &c->local, CV_REPORTER_DESTINATION,
				      cv_hbone_conn_error(c));
	}
	cv_traffic_socket(telemetry, CV_REPORTER_DESTINATION, -1);
	cv_lane_leave(c->lane);
}

void cv_hbone_conn_kill(struct cv_hbone_conn *c, enum cv_flag flag, const char *error)
{
	enum cv_hbone_state was = c->state;

	if (was == CV_HBONE_DEAD)
		return;
	c->state = CV_HBONE_DEAD;
	c->flag = flag;
	snprintf(c->error, sizeof(c->error), "%s", error ? error : "");
	cv_debug("%s connection of %s/%s closed: %s", c->server ? "inbound" : "outbound",
		 c->lane->pod->ns, c->lane->pod->name, error ? error : "idle");
	event_del(&c->timer);
	if (c->tls) {
		event_del(&c->rd);
		want_write(c, false);
	}
	cv_dial_cancel(&c->dial);
	if (c->lane->stopped)
		cv_sock_abort(&c->fd); /* an orphan that lingers would keep the namespace */
	else
		cv_close(&c->fd);
	cv_worker_defer(c->lane->pw->worker, reap, c);
	tell_dead(c, was);
}

void cv_hbone_conn_discard(struct cv_hbone_conn *c)
{
	c->state = CV_HBONE_DEAD;
	c->entry = NULL;
	cv_close(&c->dial.fd);
	cv_close(&c->fd);
	c->refs = 1;
	reap(c);
}

const char *cv_hbone_conn_error(const struct cv_hbone_conn *c)
{
	return c->error[0] ? c->error : "connection closed";
}

void cv_hbone_conn_shutdown(struct cv_hbone_conn *c)
{
	c->closing = true;
	if (c->state != CV_HBONE_READY)
		return; /* the handshake may end, and what it was made for */
	c->idle_since_ms = cv_now_ms();
	cv_h2_shutdown(c->h2);
	arm(c, CLOSING_MS);
	cv_hbone_conn_output(c);
}

bool cv_hbone_conn_hold(struct cv_hbone_conn *c, size_t n)
{
	c->held += n;
	return c->held <= CV_LIMIT_CONNECTION_HELD;
}

void cv_hbone_conn_unhold(struct cv_hbone_conn *c, size_t n)
{
	c->held -= n;
}
