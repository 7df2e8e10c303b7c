/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS over TCP: queries with their length before them, many on one connection, answered in the
 * order in which the answers come.
 *
 * A connection without a whole query for a while is closed; so is one that does not read its answers.
 * One with too many unanswered queries, or too many unread answers, is not read from until that has
 * changed.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "userspace/base/cleanup.h"
#include "userspace/proxy/dns.h"

enum {
	LENGTH_BYTES = 2,
	IN_BYTES = LENGTH_BYTES + CV_LIMIT_DNS_QUERY_BYTES,
	ANSWER_BYTES = LENGTH_BYTES + CV_DNS_TCP_SIZE,
};

struct cv_dns_conn {
	TAILQ_ENTRY(cv_dns_conn) node;
	struct cv_dns_lane *dns; /* its lane is referenced */
	int fd;
	bool dead, eof; /* eof: the client asks no more */
	unsigned unanswered;
	uint64_t active_ms; /* last whole query, or bytes of answers taken */
	struct cv_sockaddr client, server;
	struct cv_buf in, out;
	struct event readable, writable, idle;
};

struct cv_dns_lane *cv_dns_tcp_lane(const struct cv_dns_conn *conn)
{
	return conn->dns;
}

/* ---- death ---- */

static void free_conn(void *arg)
{
	struct cv_dns_conn *c = arg;
	struct cv_lane *lane = c->dns->lane;

	TAILQ_REMOVE(&c->dns->conns, c, node);
	cv_buf_fini(&c->in);
	cv_buf_fini(&c->out);
	cv_close(&c->fd);
	free(c);
	cv_lane_put(lane);
}

static void kill_conn(struct cv_dns_conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	c->dns->nr_conns--;
	event_del(&c->readable);
	event_del(&c->writable);
	event_del(&c->idle);
	cv_close(&c->fd);
	cv_dns_drop_conn(c);
	cv_worker_defer(c->dns->lane->pw->worker, free_conn, c);
}

void cv_dns_tcp_kill_all(struct cv_dns_lane *dns)
{
	struct cv_dns_conn *c;

	/* What is killed stays in its list until after this round. */
	TAILQ_FOREACH(c, &dns->conns, node)
	kill_conn(c);
}

void cv_dns_tcp_discard_all(struct cv_dns_lane *dns)
{
	while (!TAILQ_EMPTY(&dns->conns))
		free_conn(TAILQ_FIRST(&dns->conns));
}

/* ---- reading ---- */

static bool may_read(const struct cv_dns_conn *c)
{
	return c->unanswered < CV_LIMIT_DNS_TCP_PIPELINE && cv_buf_room(&c->out) >= ANSWER_BYTES;
}

/* Takes one query out of the buffer; false: there is no whole one. */
static bool take_query(struct cv_dns_conn *c)
{
	const struct cv_dns_origin origin = {
		.conn = c,
		.client = c->client,
		.server = c->server,
	};
	struct cv_span in = cv_buf_peek(&c->in);
	size_t len = in.len < LENGTH_BYTES ? 0 : (size_t)(in.data[0] << 8 | in.data[1]);

	if (len > CV_LIMIT_DNS_QUERY_BYTES) {
		kill_conn(c);
		return false;
	}
	if (in.len < LENGTH_BYTES || in.len < LENGTH_BYTES + len)
		return false;
	c->unanswered++;
	c->active_ms = cv_now_ms();
	if (cv_dns_take(c->dns, &origin, (struct cv_span){ in.data + LENGTH_BYTES, len }) < 0)
		kill_conn(c);
	else
		cv_buf_consume(&c->in, LENGTH_BYTES + len);
	return !c->dead;
}

/* Whatever is whole and may be taken; then reads on, or waits for answers to leave. */
static void take_queries(struct cv_dns_conn *c)
{
	while (!c->dead && may_read(c) && take_query(c))
		;
	if (c->dead)
		return;
	cv_buf_trim(&c->in);
	if (c->eof && !c->unanswered && !cv_buf_len(&c->out))
		kill_conn(c);
	else if (may_read(c) && !c->eof)
		event_add(&c->readable, NULL);
	else
		event_del(&c->readable);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_conn *c = arg;
	size_t room = cv_buf_room(&c->in);
	uint8_t *p = cv_buf_reserve(&c->in, room);
	ssize_t n = p ? recv((int)fd, p, room, 0) : -1;

	(void)what;
	if (p && n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		kill_conn(c);
		return;
	}
	c->eof = !n;
	cv_buf_commit(&c->in, (size_t)n);
	take_queries(c);
}

/* ---- writing ---- */

static void write_answers(struct cv_dns_conn *c)
{
	struct cv_span out = cv_buf_peek(&c->out);
	ssize_t n = send(c->fd, out.data, out.len, MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		kill_conn(c);
		return;
	}
	if (n > 0) {
		cv_buf_consume(&c->out, (size_t)n);
		c->active_ms = cv_now_ms();
	}
	if (cv_buf_len(&c->out)) {
		event_add(&c->writable, NULL);
	} else {
		event_del(&c->writable);
		cv_buf_trim(&c->out);
	}
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_conn *c = arg;

	(void)fd;
	(void)what;
	write_answers(c);
	if (!c->dead)
		take_queries(c);
}

/* Runs after the callback that brought the answer. */
static void go_on(void *arg)
{
	struct cv_dns_conn *c = arg;

	if (!c->dead)
		take_queries(c);
}

void cv_dns_tcp_send(struct cv_dns_conn *c, const uint8_t *message, size_t len)
{
	const uint8_t length[] = { (uint8_t)(len >> 8), (uint8_t)len };
	bool waits = c->eof || !may_read(c);

	if (c->dead)
		return;
	c->unanswered--;
	if (cv_buf_room(&c->out) < LENGTH_BYTES + len ||
	    cv_buf_append(&c->out, length, sizeof(length)) ||
	    cv_buf_append(&c->out, message, len)) {
		kill_conn(c);
		return;
	}
	write_answers(c);
	/* A message that is deferred now runs before the connection's own end. */
	if (waits && !c->dead)
		cv_worker_defer(c->dns->lane->pw->worker, go_on, c);
}

/* ---- birth ---- */

static const struct timeval idle_time = {
	CV_LIMIT_DNS_TCP_IDLE_MS / 1000,
	CV_LIMIT_DNS_TCP_IDLE_MS % 1000 * 1000,
};

static void on_idle(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_conn *c = arg;
	bool asking = c->unanswered && !cv_buf_len(&c->out);

	(void)fd;
	(void)what;
	if (!asking && cv_now_ms() - c->active_ms >= CV_LIMIT_DNS_TCP_IDLE_MS)
		kill_conn(c);
	else
		event_add(&c->idle, &idle_time);
}

void cv_dns_tcp_accept(struct cv_dns_socket *socket, int fd, const struct cv_sockaddr *peer)
{
	struct cv_dns_lane *dns = socket->dns;
	struct event_base *base = dns->lane->pw->base;
	struct cv_dns_conn *c = NULL;

	if (dns->nr_conns < CV_LIMIT_DNS_TCP)
		c = calloc(1, sizeof(*c));
	if (!c || cv_sock_local(fd, &c->server)) {
		free(c);
		cv_sock_abort(&fd);
		return;
	}
	c->dns = dns;
	c->fd = fd;
	c->client = *peer;
	c->active_ms = cv_now_ms();
	cv_buf_init(&c->in, IN_BYTES);
	cv_buf_init(&c->out, CV_LIMIT_DNS_TCP_OUT);
	event_assign(&c->readable, base, fd, EV_READ | EV_PERSIST, on_readable, c);
	event_assign(&c->writable, base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
	evtimer_assign(&c->idle, base, on_idle, c);
	event_add(&c->readable, NULL);
	event_add(&c->idle, &idle_time);
	cv_lane_ref(dns->lane);
	dns->nr_conns++;
	TAILQ_INSERT_TAIL(&dns->conns, c, node);
}
