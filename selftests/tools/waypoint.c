/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A waypoint that is in no node's care, as a gateway is: speaks HBONE itself, with a certificate of
 * its own, writes what each request says to standard output, and carries it on as plain TCP.
 *
 *	waypoint PORT CERT KEY ROOT [AUTHORITY=IP:PORT…]
 *
 * A line a request: `AUTHORITY identity=… host=… ns=… workload=… service=… trace=N` (host: of the
 * forwarded header; ns, workload, service: of the baggage; N: length of the trace id). Where the
 * authority leads is what the list says, else the authority. One thread a connection.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/tls.h"
#include "userspace/io/worker.h"
#include "userspace/mesh/identity.h"
#include "userspace/proto/h2.h"

enum { CHUNK = 16384, STREAMS = 256, POLL_MS = 1000 };

struct request {
	LIST_ENTRY(request) node;
	struct cv_h2_stream *stream;
	int fd; /* towards the destination */
	bool eof; /* of the destination */
	uint8_t buf[CV_H2_HEADROOM + CHUNK];
};

struct conn {
	int fd;
	struct cv_tls *tls;
	struct cv_h2 *h2;
	char identity[CV_IDENTITY_TEXT];
	LIST_HEAD(, request) requests;
};

static char **routes;
static SSL_CTX *ctx;

/* ---- requests ---------------------------------------------------------------------------------- */

static int dial(const char *authority)
{
	size_t len = strlen(authority);
	struct sockaddr_storage ss;
	struct cv_sockaddr to;
	_cleanup_close_ int fd = -1;
	socklen_t size;

	for (char **r = routes; *r; r++)
		if (!strncmp(*r, authority, len) && (*r)[len] == '=')
			authority = *r + len + 1;
	if (cv_sockaddr_parse(authority, &to))
		return -EINVAL;
	size = cv_sockaddr_to_native(&to, &ss);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&ss, size))
		return -errno;
	return cv_take_fd(fd);
}

static void on_request(void *arg, struct cv_h2_stream *s, const struct cv_hbone_request *r)
{
	struct conn *c = arg;
	struct request *q = calloc(1, sizeof(*q));

	if (!q)
		abort();
	printf("%s identity=%s host=%s ns=%s workload=%s service=%s trace=%zu\n", r->authority,
	       c->identity, cv_str_text(r->forwarded_host), cv_str_text(r->baggage.ns),
	       cv_str_text(r->baggage.workload_name), cv_str_text(r->baggage.service_name),
	       strlen(r->trace_id));
	q->stream = s;
	q->fd = r->connect ? dial(r->authority) : -EINVAL;
	LIST_INSERT_HEAD(&c->requests, q, node);
	cv_h2_stream_set_user(s, q);
	(void)cv_h2_respond(s, q->fd >= 0 ? 200 : 503, NULL); /* on_closed follows in any case */
}

static void on_data(void *arg, struct cv_h2_stream *s, const uint8_t *data, size_t len)
{
	struct request *q = cv_h2_stream_user(s);

	(void)arg;
	for (size_t off = 0; off < len;) {
		ssize_t n = send(q->fd, data + off, len - off, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		off += (size_t)n;
	}
	cv_h2_consume(s, len);
}

static void on_eof(void *arg, struct cv_h2_stream *s)
{
	struct request *q = cv_h2_stream_user(s);

	(void)arg;
	shutdown(q->fd, SHUT_WR);
}

static void on_sent(void *arg, struct cv_h2_stream *s)
{
	(void)arg;
	(void)s;
}

static void on_closed(void *arg, struct cv_h2_stream *s, uint32_t code)
{
	struct request *q = cv_h2_stream_user(s);

	(void)arg;
	(void)code;
	if (!q)
		return;
	LIST_REMOVE(q, node);
	cv_close(&q->fd);
	free(q);
}

static void on_goaway(void *arg)
{
	(void)arg;
}

static int on_write(void *arg, const uint8_t *data, size_t len)
{
	struct conn *c = arg;

	return cv_tls_write(c->tls, data, len);
}

static size_t room(void *arg)
{
	struct conn *c = arg;

	return cv_tls_out_room(c->tls);
}

/* What the destination says goes to the stream, one chunk at a time. */
static void read_destination(struct request *q)
{
	uint8_t *data = q->buf + CV_H2_HEADROOM;
	ssize_t n = recv(q->fd, data, CHUNK, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && cv_h2_send(q->stream, data, (size_t)n) == 0)
		return;
	q->eof = true;
	(void)cv_h2_send_eof(q->stream);
}

/* ---- connections ------------------------------------------------------------------------------- */

static int handshake(struct conn *c)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	struct cv_identity id = {};
	int r;

	while ((r = cv_tls_handshake(c->tls)) == 0) {
		(void)cv_tls_flush(c->tls);
		poll(&p, 1, POLL_MS);
		if (cv_tls_fill(c->tls) == 0)
			return -EPIPE;
	}
	if (r < 0)
		return r;
	if (cv_identity_of_cert(cv_tls_peer(c->tls), &id) == 0)
		cv_identity_text(&id, c->identity);
	cv_identity_fini(&id);
	return 0;
}

/* What is there already: the handshake may have brought more than itself. 0, or it is over. */
static int read_filled(struct conn *c)
{
	uint8_t data[CHUNK];
	ssize_t n;

	while ((n = cv_tls_read(c->tls, data, sizeof(data))) > 0)
		if (cv_h2_input(c->h2, data, (size_t)n, cv_now_ms()))
			return -EPROTO;
	return n == -EAGAIN ? 0 : -EPIPE;
}

static int read_peer(struct conn *c)
{
	ssize_t n = cv_tls_fill(c->tls);

	if (n > 0 || n == -EAGAIN || n == -ENOBUFS)
		return read_filled(c);
	return -EPIPE;
}

static int serve_once(struct conn *c)
{
	struct pollfd p[STREAMS + 1] = { { .fd = c->fd, .events = POLLIN } };
	struct request *of[STREAMS], *q;
	unsigned n = 0;

	if (cv_h2_output(c->h2))
		return -EPIPE;
	if (cv_tls_flush(c->tls) == -EAGAIN)
		p[0].events |= POLLOUT;
	LIST_FOREACH(q, &c->requests, node)
	{
		if (q->fd < 0 || q->eof || cv_h2_send_pending(q->stream) || n == STREAMS)
			continue;
		of[n] = q;
		p[++n] = (struct pollfd){ .fd = q->fd, .events = POLLIN };
	}
	poll(p, n + 1, POLL_MS);
	for (unsigned i = 0; i < n; i++)
		if (p[i + 1].revents)
			read_destination(of[i]);
	return p[0].revents & ~POLLOUT ? read_peer(c) : 0;
}

static void *serve(void *arg)
{
	static const struct cv_h2_ops ops = {
		.write = on_write,
		.room = room,
		.on_request = on_request,
		.on_data = on_data,
		.on_eof = on_eof,
		.on_sent = on_sent,
		.on_closed = on_closed,
		.on_goaway = on_goaway,
	};
	struct conn c = { .fd = (int)(intptr_t)arg };

	if (cv_tls_new(&c.tls, ctx, true, c.fd) == 0) {
		if (handshake(&c))
			fprintf(stderr, "waypoint: %s\n", cv_tls_error_text(c.tls));
		else if (cv_h2_new(&c.h2, true, &ops, &c, cv_now_ms()) == 0 && !read_filled(&c))
			while (serve_once(&c) == 0)
				;
	}
	if (c.h2)
		cv_h2_free(&c.h2);
	if (c.tls)
		cv_tls_free(&c.tls);
	cv_close(&c.fd);
	return NULL;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 128)) {
		perror("waypoint");
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	int listener, fd;
	pthread_t thread;

	if (argc < 5) {
		fprintf(stderr, "usage: waypoint PORT CERT KEY ROOT [AUTHORITY=IP:PORT...]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	routes = argv + 5;
	ctx = cv_tls_ctx_new(true, false);
	if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_locations(ctx, argv[4], NULL) != 1) {
		fprintf(stderr, "waypoint: certificate, key or root cannot be used\n");
		return 1;
	}
	listener = listen_on((uint16_t)strtoul(argv[1], NULL, 10));
	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
	return 1;
}
