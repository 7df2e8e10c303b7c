/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying. The rules that keep it fast and bounded:
 *
 * - Everything is tried before it is waited for: a read goes to the other side in the same
 *   callback, a write event exists only while a socket has refused bytes.
 * - A read event is taken out lazily, by the first wake-up that finds its chunk still held, so a
 *   short stall costs no epoll_ctl().
 * - Payload of a stream is written from where it was decrypted; only what the socket did not
 *   take is copied. Its stream window opens again when it was written. The connection's window
 *   opens at once (up to CV_LIMIT_CONNECTION_HELD), so one stopped reader stalls no other
 *   stream of the connection.
 */
#include "userspace/proxy/tunnel.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"

enum { H2_NO_ERROR = 0, H2_CANCEL = 8 };

static int index_of(const struct cv_tunnel_end *e)
{
	return e == &e->tunnel->end[0] ? 0 : 1;
}

static void count(struct cv_tunnel *t, int half, size_t n)
{
	if (t->traffic)
		cv_traffic_add(t->traffic, half == 0 ? n : 0, half == 0 ? 0 : n);
}

static void set_event(struct event *ev, bool *on, bool want)
{
	if (*on == want)
		return;
	*on = want;
	if (want)
		event_add(ev, NULL);
	else
		event_del(ev);
}

static void want_read(struct cv_tunnel_end *e, bool want)
{
	set_event(&e->rd, &e->rd_on, want);
}

static void want_write(struct cv_tunnel_end *e, bool want)
{
	set_event(&e->wr, &e->wr_on, want);
}

/* ---- windows of the stream end ---------------------------------------------------------- */

/* n bytes arrived and were not written yet. */
static void hold(struct cv_tunnel_end *src, struct cv_half *h, size_t n)
{
	if (cv_hbone_conn_hold(src->conn, n))
		cv_h2_consume_connection(src->stream, n);
	else
		h->uncredited += n;
}

/* n bytes that were held are written. */
static void release(struct cv_tunnel_end *src, struct cv_half *h, size_t n)
{
	size_t owed = n < h->uncredited ? n : h->uncredited;

	if (!src->stream)
		return;
	h->uncredited -= owed;
	cv_hbone_conn_unhold(src->conn, n);
	cv_h2_consume_stream(src->stream, n);
	if (owed)
		cv_h2_consume_connection(src->stream, owed);
	cv_hbone_conn_output(src->conn);
}

/* ---- the end ------------------------------------------------------------------------------ */

static void close_socket(struct cv_tunnel_end *e, bool abort)
{
	if (e->fd < 0)
		return;
	want_read(e, false);
	want_write(e, false);
	if (abort)
		cv_sock_abort(&e->fd);
	else
		cv_close(&e->fd);
}

void cv_tunnel_stop(struct cv_tunnel *t, bool abort, enum cv_flag flag, const char *error)
{
	bool whole = t->half[0].state == CV_HALF_SHUT && t->half[1].state == CV_HALF_SHUT;

	if (t->done)
		return;
	t->done = true;
	for (int i = 0; i < 2; i++) {
		struct cv_tunnel_end *e = &t->end[i];

		close_socket(e, abort);
		if (e->stream && !whole) {
			cv_h2_reset(e->stream, H2_CANCEL);
			cv_hbone_conn_output(e->conn);
		}
	}
	t->on_done(t, flag, error);
}

void cv_tunnel_refuse(struct cv_tunnel *t, enum cv_flag flag, const char *error)
{
	t->half[0].state = CV_HALF_SHUT;
	t->half[1].state = CV_HALF_SHUT;
	cv_tunnel_stop(t, true, flag, error);
}

static void check_done(struct cv_tunnel *t)
{
	if (t->half[0].state == CV_HALF_SHUT && t->half[1].state == CV_HALF_SHUT)
		cv_tunnel_stop(t, false, CV_FLAG_NONE, NULL);
}

/* The peer of a socket went away: both halves end, which ztunnel counts as success. Any other
 * error is told with the direction it hit. */
static void on_socket_error(struct cv_tunnel *t, const char *what, int err)
{
	char text[160];

	if (err == ECONNRESET || err == EPIPE || err == ENOTCONN) {
		cv_tunnel_stop(t, true, CV_FLAG_NONE, NULL);
		return;
	}
	snprintf(text, sizeof(text), "%s: %s", what, cv_os_error(err));
	cv_tunnel_stop(t, true, CV_FLAG_CONNECT, text);
}

/* Everything of half i has been passed on: tell the sink. */
static void shut_sink(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *dst = &t->end[!i];

	h->state = CV_HALF_SHUT;
	if (dst->stream) {
		cv_h2_send_eof(dst->stream);
		cv_hbone_conn_output(dst->conn);
	} else if (dst->fd >= 0 && shutdown(dst->fd, SHUT_WR) && errno != ENOTCONN) {
		on_socket_error(t, "while closing connection", errno);
	}
	check_done(t);
}

/* ---- socket → anywhere ----------------------------------------------------------------------- */

/* Offers what the chunk still has to the sink. The chunk is gone when all was taken. */
static void push(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *dst = &t->end[!i];
	ssize_t n;

	n = send(dst->fd, h->chunk->data + h->off, h->len, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		on_socket_error(t, i == 0 ? "send" : "receive", errno);
		return;
	}
	if (n > 0) {
		count(t, i, n);
		h->off += n;
		h->len -= n;
	}
	if (h->len == 0)
		cv_chunk_put(t->chunks, &h->chunk);
	want_write(dst, h->len > 0);
}

static void push_stream(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *dst = &t->end[!i];

	if (!dst->stream || cv_h2_send(dst->stream, h->chunk->data, h->len)) {
		/* The peer has closed its side with an error; on_closed says the rest. */
		cv_chunk_put(t->chunks, &h->chunk);
		h->state = CV_HALF_SHUT;
		want_read(&t->end[i], false);
		check_done(t);
		return;
	}
	count(t, i, h->len);
	cv_hbone_conn_output(dst->conn);
}

static void adapt(struct cv_half *h, size_t n, size_t cap)
{
	if (n == cap && h->tier + 1 < CV_CHUNK_NR)
		h->tier++;
	else if (n < cap / 8 && h->tier > 0)
		h->tier--;
}

/* One read and its way to the sink. Returns the bytes when it is worth trying again. */
static size_t pump_once(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *src = &t->end[i];
	size_t cap = cv_chunk_size(h->tier);
	ssize_t n;

	h->chunk = cv_chunk_get(t->chunks, h->tier);
	if (!h->chunk) {
		cv_tunnel_stop(t, true, CV_FLAG_CONNECT, "out of memory");
		return 0;
	}
	n = recv(src->fd, h->chunk->data, cap, 0);
	if (n <= 0) {
		int err = errno;

		cv_chunk_put(t->chunks, &h->chunk);
		if (n == 0) {
			want_read(src, false);
			shut_sink(t, i);
		} else if (err != EAGAIN && err != EINTR) {
			on_socket_error(t, i == 0 ? "receive" : "send", err);
		}
		return 0;
	}
	h->off = 0;
	h->len = n;
	adapt(h, n, cap);
	if (t->end[!i].fd >= 0)
		push(t, i);
	else
		push_stream(t, i);
	return (size_t)n == cap ? cap : 0;
}

static void pump(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	size_t moved = 0, n;

	do {
		n = pump_once(t, i);
		moved += n;
	} while (n && !t->done && h->state == CV_HALF_OPEN && !h->chunk &&
		 moved < CV_LIMIT_BYTES_PER_WAKEUP);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_tunnel_end *e = arg;
	struct cv_tunnel *t = e->tunnel;
	struct cv_half *h = &t->half[index_of(e)];

	(void)fd;
	(void)what;
	if (t->done)
		return;
	if (h->chunk || h->state != CV_HALF_OPEN)
		want_read(e, false);
	else
		pump(t, index_of(e));
}

/* A sink has taken the chunk of half i: its source may go on. */
static void resume(struct cv_tunnel *t, int i)
{
	if (!t->done && t->running && t->half[i].state == CV_HALF_OPEN && t->end[i].fd >= 0)
		want_read(&t->end[i], true);
}

void cv_tunnel_on_sent(struct cv_tunnel *t)
{
	int i = t->end[0].stream ? 1 : 0;
	struct cv_half *h = &t->half[i];

	if (!h->chunk || !t->end[!i].stream || cv_h2_send_pending(t->end[!i].stream))
		return;
	cv_chunk_put(t->chunks, &h->chunk);
	resume(t, i);
}

/* ---- stream → socket ----------------------------------------------------------------------- */

/* Writes what is held for end !i. */
static void drain(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *dst = &t->end[!i];
	struct cv_span s = cv_buf_peek(&h->out);
	ssize_t n = 0;

	if (s.len) {
		n = send(dst->fd, s.data, s.len, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			on_socket_error(t, i == 0 ? "send" : "receive", errno);
			return;
		}
	}
	if (n > 0) {
		count(t, i, n);
		cv_buf_consume(&h->out, n);
		release(&t->end[i], h, n);
	}
	if (t->done)
		return;
	want_write(dst, cv_buf_len(&h->out) > 0);
	if (cv_buf_len(&h->out))
		return;
	cv_buf_trim(&h->out);
	if (h->state == CV_HALF_EOF)
		shut_sink(t, i);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_tunnel_end *e = arg;
	struct cv_tunnel *t = e->tunnel;
	int i = !index_of(e);

	(void)fd;
	(void)what;
	if (t->done)
		return;
	if (!t->half[i].chunk) {
		drain(t, i);
		return;
	}
	push(t, i);
	if (!t->half[i].chunk)
		resume(t, i);
}

void cv_tunnel_on_data(struct cv_tunnel *t, const uint8_t *data, size_t len)
{
	int i = t->end[0].stream ? 0 : 1;
	struct cv_half *h = &t->half[i];
	struct cv_tunnel_end *src = &t->end[i], *dst = &t->end[!i];
	ssize_t n = 0;
	int err;

	if (t->done) {
		cv_h2_consume(src->stream, len);
		return;
	}
	if (t->running && cv_buf_len(&h->out) == 0)
		n = send(dst->fd, data, len, MSG_NOSIGNAL);
	err = n < 0 ? errno : 0;
	if (err && err != EAGAIN && err != EINTR) {
		cv_h2_consume(src->stream, len);
		on_socket_error(t, i == 0 ? "send" : "receive", err);
		return;
	}
	if (n > 0) {
		count(t, i, n);
		cv_h2_consume(src->stream, n);
		data += n;
		len -= n;
	}
	if (len == 0)
		return;
	if (cv_buf_append(&h->out, data, len)) {
		cv_h2_consume(src->stream, len);
		cv_tunnel_stop(t, true, CV_FLAG_CONNECT, "out of memory");
		return;
	}
	hold(src, h, len);
	if (t->running)
		want_write(dst, true);
}

/* The stream of end i has said all. */
static void end_half(struct cv_tunnel *t, int i)
{
	struct cv_half *h = &t->half[i];

	if (t->done || h->state != CV_HALF_OPEN)
		return;
	h->state = CV_HALF_EOF;
	if (t->running && cv_buf_len(&h->out) == 0)
		shut_sink(t, i);
}

void cv_tunnel_on_eof(struct cv_tunnel *t)
{
	end_half(t, t->end[0].stream ? 0 : 1);
}

/* The stream of end i is gone, and with it what it owed the connection's window. */
static void leave_stream(struct cv_tunnel *t, int i)
{
	struct cv_tunnel_end *e = &t->end[i];

	cv_hbone_conn_unhold(e->conn, cv_buf_len(&t->half[i].out));
	cv_chunk_put(t->chunks, &t->half[!i].chunk);
	t->half[i].uncredited = 0;
	e->stream = NULL;
	e->conn = NULL;
}

/* NO_ERROR and CANCEL read as the end of a running stream: what came before is still delivered. Any
 * other reset, and the loss of the connection, breaks the socket too. */
void cv_tunnel_on_closed(struct cv_tunnel *t, uint32_t code)
{
	int i = t->end[0].stream ? 0 : 1; /* the half that came from the stream */
	struct cv_tunnel_end *e = &t->end[i];
	char text[160];

	if (code == CV_H2_CONN_LOST)
		snprintf(text, sizeof(text), "h2 failed: %s", cv_hbone_conn_error(e->conn));
	else
		snprintf(text, sizeof(text), "h2 failed: stream error %u", code);
	leave_stream(t, i);
	if (t->done)
		return;
	if (!t->running || (code != H2_NO_ERROR && code != H2_CANCEL)) {
		cv_tunnel_stop(t, true, CV_FLAG_H2_HANDSHAKE_FAILURE, text);
		return;
	}
	if (t->half[!i].state != CV_HALF_SHUT && t->end[!i].fd >= 0)
		want_read(&t->end[!i], false);
	t->half[!i].state = CV_HALF_SHUT;
	end_half(t, i);
	if (!t->done)
		check_done(t);
}

/* ---- life ----------------------------------------------------------------------------------- */

void cv_tunnel_init(struct cv_tunnel *t, struct event_base *base, struct cv_chunks *chunks,
		    void (*on_done)(struct cv_tunnel *t, enum cv_flag flag, const char *error))
{
	*t = (struct cv_tunnel){ .base = base, .chunks = chunks, .on_done = on_done };
	for (int i = 0; i < 2; i++) {
		t->end[i].tunnel = t;
		t->end[i].fd = -1;
		cv_buf_init(&t->half[i].out, CV_LIMIT_STREAM_WINDOW);
	}
}

void cv_tunnel_set_socket(struct cv_tunnel *t, int end, int fd)
{
	struct cv_tunnel_end *e = &t->end[end];

	e->fd = fd;
	event_assign(&e->rd, t->base, fd, EV_READ | EV_PERSIST, on_readable, e);
	event_assign(&e->wr, t->base, fd, EV_WRITE | EV_PERSIST, on_writable, e);
}

void cv_tunnel_set_stream(struct cv_tunnel *t, int end, struct cv_h2_stream *s,
			  struct cv_hbone_conn *conn)
{
	t->end[end].stream = s;
	t->end[end].conn = conn;
}

void cv_tunnel_start(struct cv_tunnel *t)
{
	t->running = true;
	for (int i = 0; i < 2 && !t->done; i++) {
		if (t->end[i].fd >= 0) {
			want_read(&t->end[i], true);
			if (i == 0) /* the client has usually spoken already */
				pump(t, i);
		} else {
			drain(t, i);
		}
	}
}

void cv_tunnel_fini(struct cv_tunnel *t)
{
	for (int i = 0; i < 2; i++) {
		struct cv_half *h = &t->half[i];

		cv_chunk_put(t->chunks, &h->chunk);
		cv_buf_fini(&h->out);
	}
}
