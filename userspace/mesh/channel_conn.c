/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to the control plane, from the name to the last byte.
 *
 *   resolve ─▶ connect (one address after the other) ─▶ TLS ─▶ ready: gRPC ─▶ dead
 *
 * Dying only marks it: the channel frees it, and ends its calls, from an event of its own.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/mesh/channel_private.h"

enum { READ_BYTES = 64 << 10 };

static void connect_next(struct channel_conn *conn);

static void set_timer(struct channel_conn *conn, int64_t ms)
{
	const struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	event_add(conn->timer, &tv);
}

static void free_event(struct event **ev)
{
	if (*ev)
		event_free(*ev);
	*ev = NULL;
}

static void close_socket(struct channel_conn *conn)
{
	free_event(&conn->readable);
	free_event(&conn->writable);
	cv_tls_free(&conn->tls);
	cv_close(&conn->fd);
}

__attribute__((format(printf, 2, 3))) static void die(struct channel_conn *conn, const char *fmt,
						      ...)
{
	va_list ap;

	if (conn->dead)
		return;
	conn->dead = true;
	va_start(ap, fmt);
	vsnprintf(conn->error, sizeof(conn->error), fmt, ap);
	va_end(ap);
	close_socket(conn);
	event_del(conn->timer);
	event_active(conn->channel->kick, 0, 0);
}

/* ---- output --------------------------------------------------------------------------------- */

static int on_write(void *arg, const uint8_t *data, size_t len)
{
	struct channel_conn *conn = arg;

	return conn->tls ? cv_tls_write(conn->tls, data, len) :
			   cv_buf_append(&conn->out, data, len);
}

/* With TLS there is always room for one frame more than it says. */
static size_t on_room(void *arg)
{
	struct channel_conn *conn = arg;
	size_t held = cv_buf_len(&conn->out);

	if (conn->tls)
		return cv_tls_out_room(conn->tls);
	return held < CV_LIMIT_GRPC_WIRE / 2 ? CV_LIMIT_GRPC_WIRE / 2 - held : 0;
}

static const struct cv_grpc_ops grpc_ops = { .write = on_write, .room = on_room };

static int flush_plain(struct channel_conn *conn)
{
	struct cv_span s;
	ssize_t n;

	while ((s = cv_buf_peek(&conn->out)).len) {
		n = send(conn->fd, s.data, s.len, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		cv_buf_consume(&conn->out, n > 0 ? (size_t)n : 0);
	}
	cv_buf_trim(&conn->out);
	return 0;
}

static void send_output(struct channel_conn *conn)
{
	int broken = conn->grpc ? cv_grpc_output(conn->grpc) : 0;
	int r = conn->tls ? cv_tls_flush(conn->tls) : flush_plain(conn);

	if (r == -EAGAIN)
		event_add(conn->writable, NULL);
	else if (r < 0)
		die(conn, "%s: %s", conn->channel->authority, cv_strerror(-r));
	if (broken)
		die(conn, "%s: %s", conn->channel->authority, cv_grpc_error_text(conn->grpc));
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
	struct channel_conn *conn = arg;

	(void)fd;
	(void)what;
	if (!conn->dead && conn->grpc)
		send_output(conn);
}

void channel_conn_flush(struct channel_conn *conn)
{
	event_active(conn->flush, 0, 0);
}

/* ---- ready ---------------------------------------------------------------------------------- */

/* Keepalive, and an end for a connection that nobody uses. */
static void on_tick(struct channel_conn *conn)
{
	uint64_t now = cv_now_ms();
	int64_t ms = cv_grpc_tick(conn->grpc, now);

	if (ms < 0) {
		die(conn, "%s: %s", conn->channel->authority, cv_grpc_error_text(conn->grpc));
		return;
	}
	if (cv_grpc_calls(conn->grpc))
		conn->idle_since_ms = 0;
	else if (!conn->idle_since_ms)
		conn->idle_since_ms = now;
	else if (now - conn->idle_since_ms >= CV_LIMIT_GRPC_IDLE_MS) {
		die(conn, "%s: idle", conn->channel->authority);
		return;
	}
	set_timer(conn, ms);
	send_output(conn);
}

static void set_ready(struct channel_conn *conn)
{
	cv_resolver_free(&conn->resolver);
	if (cv_grpc_new(&conn->grpc, &grpc_ops, conn, conn->channel->authority,
			conn->channel->https, cv_now_ms()) < 0) {
		die(conn, "out of memory");
		return;
	}
	set_timer(conn, CV_LIMIT_GRPC_PING_MS);
	event_active(conn->channel->kick, 0, 0);
	channel_conn_flush(conn);
}

/* ---- input ---------------------------------------------------------------------------------- */

static int feed(struct channel_conn *conn, const uint8_t *data, size_t len)
{
	return cv_grpc_input(conn->grpc, data, len, cv_now_ms());
}

/* 0, or -errno; -ECONNRESET stands for the peer's end. */
static int read_plain(struct channel_conn *conn)
{
	uint8_t data[READ_BYTES];
	ssize_t n = recv(conn->fd, data, sizeof(data), 0);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n ? feed(conn, data, (size_t)n) : -ECONNRESET;
}

static int read_tls(struct channel_conn *conn)
{
	uint8_t data[READ_BYTES];
	ssize_t n = cv_tls_fill(conn->tls);

	if (n <= 0 && n != -ENOBUFS)
		return n == -EAGAIN ? 0 : n ? (int)n : -ECONNRESET;
	for (;;) {
		int r;

		n = cv_tls_read(conn->tls, data, sizeof(data));
		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return n ? (int)n : -ECONNRESET;
		r = feed(conn, data, (size_t)n);
		if (r < 0)
			return r;
	}
}

static void read_input(struct channel_conn *conn)
{
	int r = conn->tls ? read_tls(conn) : read_plain(conn);

	if (!conn->dead)
		send_output(conn);
	if (r == -ECONNRESET)
		die(conn, "%s: the server closed the connection", conn->channel->authority);
	else if (r < 0)
		die(conn, "%s: %s", conn->channel->authority,
		    conn->tls && r == -EPROTO && !cv_grpc_is_closing(conn->grpc) ?
			    cv_tls_error_text(conn->tls) :
			    cv_grpc_error_text(conn->grpc));
	else if (!conn->dead && cv_grpc_is_closing(conn->grpc)) {
		event_active(conn->channel->kick, 0, 0);
		if (!cv_grpc_calls(conn->grpc))
			die(conn, "%s: the server said goodbye", conn->channel->authority);
	}
}

/* ---- connecting ----------------------------------------------------------------------------- */

/* This address failed: the next one, or the end. */
__attribute__((format(printf, 2, 3))) static void fail_address(struct channel_conn *conn,
							       const char *fmt, ...)
{
	char why[CHANNEL_ERROR / 2];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	close_socket(conn);
	if (conn->next_addr < conn->nr_addrs)
		connect_next(conn);
	else
		die(conn, "%s: %s", conn->channel->authority, why);
}

static void do_handshake(struct channel_conn *conn)
{
	char error[CHANNEL_ERROR];
	int r = cv_tls_handshake(conn->tls);
	int sent = cv_tls_flush(conn->tls);

	if (r < 0)
		die(conn, "%s: TLS: %s", conn->channel->authority, cv_tls_error_text(conn->tls));
	else if (sent < 0 && sent != -EAGAIN)
		fail_address(conn, "TLS: %s", cv_strerror(-sent));
	else if (sent == -EAGAIN)
		event_add(conn->writable, NULL);
	else if (r && channel_check_name(conn->channel, cv_tls_peer(conn->tls), error) < 0)
		die(conn, "%s: %s", conn->channel->authority, error);
	else if (r)
		set_ready(conn);
}

static void on_connected(struct channel_conn *conn)
{
	struct cv_channel *c = conn->channel;
	struct cv_addr ip;
	int r = cv_sock_connect_result(conn->fd);

	if (r < 0) {
		fail_address(conn, "connect: %s", cv_strerror(-r));
		return;
	}
	event_add(conn->readable, NULL);
	if (!c->https) {
		set_ready(conn);
		return;
	}
	if (cv_tls_new(&conn->tls, conn->ctx, false, conn->fd) < 0) {
		die(conn, "out of memory");
		return;
	}
	if (cv_addr_parse(c->host, &ip) < 0)
		SSL_set_tlsext_host_name(cv_tls_ssl(conn->tls), c->host);
	set_timer(conn, CV_LIMIT_HANDSHAKE_MS);
	do_handshake(conn);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct channel_conn *conn = arg;

	(void)fd;
	(void)what;
	if (conn->grpc)
		read_input(conn);
	else
		do_handshake(conn);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct channel_conn *conn = arg;

	(void)fd;
	(void)what;
	if (conn->grpc)
		send_output(conn);
	else if (conn->tls)
		do_handshake(conn);
	else
		on_connected(conn);
}

static void connect_next(struct channel_conn *conn)
{
	static const struct cv_sock_config keepalive = { .keepalive = true,
							 .keepalive_time_s = 300,
							 .keepalive_interval_s = 75,
							 .keepalive_retries = 9 };
	struct event_base *base = cv_worker_base(conn->channel->control);
	const struct cv_connect_opts opts = {
		.dst = { conn->addrs[conn->next_addr++], conn->channel->port },
		.config = &keepalive,
	};

	conn->fd = cv_sock_connect(&opts);
	if (conn->fd < 0) {
		int r = conn->fd;

		conn->fd = -1;
		fail_address(conn, "connect: %s", cv_strerror(-r));
		return;
	}
	conn->readable = event_new(base, conn->fd, EV_READ | EV_PERSIST, on_readable, conn);
	conn->writable = event_new(base, conn->fd, EV_WRITE, on_writable, conn);
	if (!conn->readable || !conn->writable) {
		die(conn, "out of memory");
		return;
	}
	event_add(conn->writable, NULL);
	set_timer(conn, CV_LIMIT_GRPC_CONNECT_MS);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct channel_conn *conn = arg;

	(void)fd;
	(void)what;
	if (conn->grpc)
		on_tick(conn);
	else if (conn->fd >= 0)
		fail_address(conn, "%s timed out", conn->tls ? "TLS handshake" : "connect");
	else
		die(conn, "%s: resolving the name timed out", conn->channel->authority);
}

static void on_resolved(struct cv_resolve_wait *w, int r, const struct cv_addr *addrs, size_t n)
{
	struct channel_conn *conn = cv_container_of(w, struct channel_conn, resolving);

	if (r < 0) {
		die(conn, "%s: %s", conn->channel->authority,
		    r == -ENOENT ? "no such host" : cv_strerror(-r));
		return;
	}
	conn->nr_addrs = n < CV_LIMIT_GRPC_ADDRESSES ? n : CV_LIMIT_GRPC_ADDRESSES;
	memcpy(conn->addrs, addrs, conn->nr_addrs * sizeof(*addrs));
	connect_next(conn);
}

static void start(struct channel_conn *conn)
{
	const struct cv_resolver_opts opts = { .base = cv_worker_base(conn->channel->control) };
	struct cv_channel *c = conn->channel;
	char error[CHANNEL_ERROR];
	struct cv_addr ip;

	if (c->https && channel_tls_ctx(c, &conn->ctx, error) < 0) {
		die(conn, "%s", error);
		return;
	}
	if (cv_addr_parse(c->host, &ip) == 0) {
		on_resolved(&conn->resolving, 0, &ip, 1);
		return;
	}
	set_timer(conn, CV_LIMIT_GRPC_CONNECT_MS);
	if (cv_resolver_new(&conn->resolver, &opts) < 0)
		die(conn, "%s: /etc/resolv.conf cannot be used", c->authority);
	else
		cv_resolve(conn->resolver, c->host, &conn->resolving);
}

struct channel_conn *channel_conn_new(struct cv_channel *c)
{
	struct event_base *base = cv_worker_base(c->control);
	struct channel_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->channel = c;
	conn->fd = -1;
	conn->resolving.done = on_resolved;
	cv_buf_init(&conn->out, CV_LIMIT_GRPC_WIRE);
	conn->timer = event_new(base, -1, 0, on_timer, conn);
	conn->flush = event_new(base, -1, 0, on_flush, conn);
	TAILQ_INSERT_TAIL(&c->conns, conn, node);
	c->nr_conns++;
	if (!conn->timer || !conn->flush) {
		channel_conn_free(conn);
		return NULL;
	}
	start(conn);
	return conn;
}

void channel_conn_free(struct channel_conn *conn)
{
	TAILQ_REMOVE(&conn->channel->conns, conn, node);
	conn->channel->nr_conns--;
	cv_resolve_cancel(&conn->resolving);
	cv_resolver_free(&conn->resolver);
	cv_grpc_free(&conn->grpc, conn->error);
	close_socket(conn);
	free_event(&conn->timer);
	free_event(&conn->flush);
	SSL_CTX_free(conn->ctx);
	cv_buf_fini(&conn->out);
	free(conn);
}
