/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking an upstream resolver: one datagram socket a try, with a port and an id of its own, so that
 * a forged answer has both to guess.
 *
 * A truncated answer goes to a client that asked by UDP as it is, for that client asks again by TCP;
 * for a client of TCP the question is repeated by TCP. A server that fails, or says that it cannot,
 * is followed by the next one. Nothing is cached: the client sees the times to live as they are.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/udp.h"
#include "userspace/proxy/dns.h"

enum { LENGTH_BYTES = 2, STRAY_DATAGRAMS = 16 };

static void next_try(struct cv_dns_request *req);

static struct cv_dns_request *request_of(struct cv_dns_forward *f)
{
	return cv_container_of(f, struct cv_dns_request, forward);
}

static struct cv_span question_of(const struct cv_dns_request *req)
{
	return (struct cv_span){ req->message, req->len };
}

/* The query as an upstream gets it, in the worker's buffer. */
static const uint8_t *make_question(struct cv_dns_request *req)
{
	uint8_t *buf = req->dns->lane->pw->dns_buf;

	memcpy(buf, req->message, req->len);
	cv_dns_forward(buf, &req->query, req->forward.id, CV_LIMIT_DNS_QUERY_BYTES);
	return buf;
}

/* ---- sockets ---- */

/* The daemon's own socket: not captured again. */
static int mark_own(int fd, void *arg)
{
	struct cv_bpf *bpf = arg;

	return bpf ? cv_table_sk_set_kind(bpf, fd, CV_KIND_DAEMON) : 0;
}

static int open_socket(struct cv_dns_request *req, int (*connect)(const struct cv_connect_opts *))
{
	const struct cv_dns_forward *f = &req->forward;
	const struct cv_proxy_pod *pod = req->dns->lane->pod;
	const struct cv_connect_opts opts = {
		.ns = pod->netns,
		.dst = f->servers[(f->tries - 1) % f->nr_servers],
		.config = &pod->proxy->opts.sock,
		.before_connect = mark_own,
		.arg = pod->proxy->opts.bpf,
	};

	return connect(&opts);
}

void cv_dns_forward_discard(struct cv_dns_forward *f)
{
	cv_close(&f->fd);
	cv_buf_fini(&f->in);
	cv_buf_fini(&f->out);
}

void cv_dns_forward_stop(struct cv_dns_forward *f)
{
	if (f->fd >= 0 && event_initialized(&f->ev))
		event_del(&f->ev);
	cv_dns_forward_discard(f);
}

/* All tries together have a bound, too: bytes that trickle in start a try's own time anew. */
static bool is_late(const struct cv_dns_forward *f)
{
	return cv_now_ns() - f->started_ns > CV_LIMIT_DNS_FORWARD_MS * 1000000ull;
}

/* Waits for the socket, for as long as one try may take. */
static void wait_for(struct cv_dns_request *req, short what, event_callback_fn fn)
{
	struct cv_dns_forward *f = &req->forward;
	struct timeval tv = { f->timeout_ms / 1000, f->timeout_ms % 1000 * 1000 };

	event_assign(&f->ev, req->dns->lane->pw->base, f->fd, (short)(what | EV_PERSIST), fn, f);
	event_add(&f->ev, &tv);
}

/* ---- answers ---- */

static bool may_ask_another(const struct cv_dns_forward *f)
{
	return f->tries < f->nr_servers;
}

/* True: it was the answer, and the try is over. */
static bool take_answer(struct cv_dns_request *req, uint8_t *message, size_t len)
{
	struct cv_dns_forward *f = &req->forward;
	struct cv_span answer = { message, len };
	enum cv_dns_rcode rcode;

	if (!cv_dns_is_answer(question_of(req), &req->query, f->id, answer))
		return false;
	rcode = cv_dns_rcode(answer);
	if (may_ask_another(f) &&
	    (rcode == CV_DNS_SERVFAIL || rcode == CV_DNS_NOTIMP || rcode == CV_DNS_REFUSED)) {
		f->last_rcode = (int)rcode;
		next_try(req);
	} else {
		cv_dns_forwarded(req, message, len);
	}
	return true;
}

static void fail_try(struct cv_dns_request *req, int error)
{
	req->forward.error = error;
	next_try(req);
}

/* ---- TCP ---- */

/* Reads what is there; -EAGAIN: not a whole message yet. */
static int read_message(struct cv_dns_forward *f, struct cv_span *ret)
{
	size_t want = LENGTH_BYTES;
	uint8_t *room;
	ssize_t n;

	for (;;) {
		struct cv_span have = cv_buf_peek(&f->in);

		if (have.len >= LENGTH_BYTES)
			want = LENGTH_BYTES + (size_t)(have.data[0] << 8 | have.data[1]);
		if (have.len >= LENGTH_BYTES && have.len == want) {
			*ret = (struct cv_span){ have.data + LENGTH_BYTES, want - LENGTH_BYTES };
			return 0;
		}
		room = cv_buf_reserve(&f->in, want - have.len);
		if (!room)
			return -ENOMEM;
		n = recv(f->fd, room, want - have.len, 0);
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		cv_buf_commit(&f->in, (size_t)n);
	}
}

static void on_tcp_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_forward *f = arg;
	struct cv_dns_request *req = request_of(f);
	struct cv_span message = { 0 };
	int r = what & EV_TIMEOUT || is_late(f) ? -ETIMEDOUT : read_message(f, &message);

	(void)fd;
	if (r == -EAGAIN)
		return;
	/* The buffer is ours, and not read again. */
	if (r || !take_answer(req, (uint8_t *)message.data, message.len))
		fail_try(req, r ? r : -EBADMSG);
}

static void on_tcp_writable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_forward *f = arg;
	struct cv_dns_request *req = request_of(f);
	struct cv_span out = cv_buf_peek(&f->out);
	int r = what & EV_TIMEOUT ? -ETIMEDOUT : cv_sock_connect_result(f->fd);
	ssize_t n = 0;

	(void)fd;
	if (!r) {
		n = send(f->fd, out.data, out.len, MSG_NOSIGNAL);
		r = n < 0 && errno != EAGAIN ? -errno : 0;
	}
	if (r) {
		fail_try(req, r);
		return;
	}
	cv_buf_consume(&f->out, n > 0 ? (size_t)n : 0);
	if (cv_buf_len(&f->out))
		return;
	event_del(&f->ev);
	wait_for(req, EV_READ, on_tcp_readable);
}

/* The same server once more, by TCP. */
static int start_tcp(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;
	const uint8_t *message = make_question(req);
	const uint8_t length[] = { (uint8_t)(req->len >> 8), (uint8_t)req->len };

	cv_dns_forward_stop(f);
	cv_buf_init(&f->out, LENGTH_BYTES + CV_LIMIT_DNS_QUERY_BYTES);
	cv_buf_init(&f->in, LENGTH_BYTES + CV_DNS_TCP_SIZE);
	if (cv_buf_append(&f->out, length, sizeof(length)) ||
	    cv_buf_append(&f->out, message, req->len))
		return -ENOMEM;
	f->fd = open_socket(req, cv_sock_connect);
	if (f->fd < 0)
		return f->fd;
	wait_for(req, EV_WRITE, on_tcp_writable);
	return 0;
}

/* ---- UDP ---- */

/* Worth asking again by TCP: the client can take the whole of it. */
static bool is_cut(const struct cv_dns_request *req, struct cv_span answer)
{
	return req->origin.conn &&
	       cv_dns_is_answer(question_of(req), &req->query, req->forward.id, answer) &&
	       cv_dns_is_truncated(answer);
}

static void on_udp_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_forward *f = arg;
	struct cv_dns_request *req = request_of(f);
	uint8_t *buf = req->dns->lane->pw->dns_buf;
	struct cv_span answer = { buf, 0 };

	if (what & EV_TIMEOUT || is_late(f)) {
		fail_try(req, -ETIMEDOUT);
		return;
	}
	for (int i = 0; i < STRAY_DATAGRAMS; i++) {
		ssize_t n = cv_udp_recv((int)fd, buf, CV_DNS_TCP_SIZE, NULL, NULL);

		if (n == -EAGAIN)
			return;
		if (n < 0) {
			fail_try(req, (int)n);
			return;
		}
		answer.len = (size_t)n;
		if (is_cut(req, answer)) {
			int r = start_tcp(req);

			if (r)
				fail_try(req, r);
			return;
		}
		if (take_answer(req, buf, answer.len))
			return;
	}
}

static int start_udp(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;
	const uint8_t *message = make_question(req);

	f->fd = open_socket(req, cv_udp_connect);
	if (f->fd < 0)
		return f->fd;
	if (send(f->fd, message, req->len, MSG_NOSIGNAL) < 0)
		return -errno;
	wait_for(req, EV_READ, on_udp_readable);
	return 0;
}

/* ---- tries ---- */

/* A client of TCP may mean a server that speaks nothing else: the second round goes by TCP. */
static int start_try(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;

	if (getrandom(&f->id, sizeof(f->id), 0) != sizeof(f->id))
		return -EIO;
	return req->origin.conn && f->tries > f->nr_servers ? start_tcp(req) : start_udp(req);
}

/* Ends with a try that is under way, or with the request. */
static void next_try(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;

	while (f->tries < f->max_tries && !is_late(f)) {
		cv_dns_forward_stop(f);
		f->tries++;
		f->error = start_try(req);
		if (!f->error)
			return;
	}
	cv_dns_forward_stop(f);
	cv_dns_forward_failed(req, f->last_rcode ? f->last_rcode : CV_DNS_SERVFAIL,
			      f->last_rcode ? 0 : f->error);
}

/* With the kernel's capture we know which server was asked, and ask that; a redirected query has
 * lost it, and goes to the servers of resolv.conf. */
static void choose_servers(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;
	const struct cv_resolv_conf *conf = &req->dns->upstream;

	f->timeout_ms = conf->timeout_ms;
	if (cv_dns_is_captured(req->dns, &req->origin)) {
		f->servers[0] = req->origin.server;
		f->nr_servers = 1;
	} else {
		memcpy(f->servers, conf->servers, sizeof(f->servers));
		f->nr_servers = conf->nr_servers;
	}
	f->max_tries = f->nr_servers * conf->attempts;
}

void cv_dns_forward_start(struct cv_dns_request *req)
{
	struct cv_dns_forward *f = &req->forward;

	f->started_ns = cv_now_ns();
	f->error = -EDESTADDRREQ; /* resolv.conf names nobody */
	choose_servers(req);
	next_try(req);
}
