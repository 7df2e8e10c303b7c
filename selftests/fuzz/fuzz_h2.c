/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP/2 session of ours against bytes: the first byte chooses the end and what its caller does,
 * the rest comes from the peer, in pieces. Checked: streams are told in order and once, payload
 * stays within the window, and what we answer is bounded.
 */
#include <assert.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/h2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Bits of the first byte. */
enum {
	CHOOSE_SERVER = 1,
	CHOOSE_PREFACE = 2, /* the peer's first frames are made for it */
	CHOOSE_HOLD = 4, /* received payload is not consumed */
	CHOOSE_REFUSE = 8, /* requests are answered with an error */
	CHOOSE_SEND = 16, /* something is sent on every stream */
	CHOOSE_RESET = 32, /* streams are reset when their first data comes */
	CHOOSE_SMALL = 64, /* input comes in small pieces */
	CHOOSE_SHUTDOWN = 128,
};

struct conn {
	uint8_t choice;
	unsigned streams;
	size_t written;
};

struct flow {
	bool eof, closed;
	size_t unconsumed;
	uint8_t memory[CV_H2_HEADROOM + 64];
};

static int on_write(void *conn, const uint8_t *data, size_t len)
{
	struct conn *c = conn;
	_cleanup_free_ uint8_t *copy = malloc(len);

	/* Reads every byte, so that one that is not there is caught. */
	if (copy)
		memcpy(copy, data, len);
	c->written += len;
	return 0;
}

static size_t on_room(void *conn)
{
	struct conn *c = conn;

	return c->choice & CHOOSE_SMALL ? 10 : 100000;
}

static struct flow *flow_new(struct conn *c, struct cv_h2_stream *s)
{
	struct flow *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	c->streams++;
	if (s)
		cv_h2_stream_set_user(s, f);
	return f;
}

static void on_request(void *conn, struct cv_h2_stream *s, const struct cv_hbone_request *r)
{
	struct conn *c = conn;
	struct flow *f = flow_new(c, s);

	assert(r->method[0]);
	if (c->choice & CHOOSE_SEND)
		(void)cv_h2_send(s, f->memory + CV_H2_HEADROOM, 64);
	(void)cv_h2_respond(s, c->choice & CHOOSE_REFUSE ? 503 : 200, "k8s.cluster.name=c");
}

static void on_response(void *conn, struct cv_h2_stream *s, int status,
			const struct cv_baggage *baggage)
{
	(void)conn;
	(void)s;
	(void)baggage;
	assert(status >= 200 && status <= 999);
}

static void on_data(void *conn, struct cv_h2_stream *s, const uint8_t *data, size_t len)
{
	struct conn *c = conn;
	struct flow *f = cv_h2_stream_user(s);

	(void)data;
	assert(f && !f->eof && !f->closed);
	f->unconsumed += len;
	assert(f->unconsumed <= CV_LIMIT_STREAM_WINDOW);
	if (c->choice & CHOOSE_RESET)
		cv_h2_reset(s, NGHTTP2_CANCEL);
	if (!(c->choice & CHOOSE_HOLD)) {
		cv_h2_consume(s, f->unconsumed);
		f->unconsumed = 0;
	}
}

static void on_eof(void *conn, struct cv_h2_stream *s)
{
	struct flow *f = cv_h2_stream_user(s);

	(void)conn;
	assert(f && !f->eof && !f->closed);
	f->eof = true;
	(void)cv_h2_send_eof(s);
}

static void on_sent(void *conn, struct cv_h2_stream *s)
{
	(void)conn;
	assert(cv_h2_send_pending(s) < 64);
}

static void on_closed(void *conn, struct cv_h2_stream *s, uint32_t code)
{
	struct conn *c = conn;
	struct flow *f = cv_h2_stream_user(s);

	(void)code;
	if (!f)
		return; /* a request that never came to be one */
	assert(!f->closed);
	c->streams--;
	free(f);
}

static void on_goaway(void *conn)
{
	(void)conn;
}

static const struct cv_h2_ops ops = {
	.write = on_write,
	.room = on_room,
	.on_request = on_request,
	.on_response = on_response,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_sent = on_sent,
	.on_closed = on_closed,
	.on_goaway = on_goaway,
};

static void open_stream(struct cv_h2 *h2, struct conn *c)
{
	static const struct cv_h2_connect request = { .authority = "10.0.0.1:80" };
	struct flow *f = flow_new(c, NULL);
	struct cv_h2_stream *s;

	if (cv_h2_connect(h2, &request, f, &s))
		abort();
	if (c->choice & CHOOSE_SEND)
		(void)cv_h2_send(s, f->memory + CV_H2_HEADROOM, 64);
}

/* 0 while the connection is whole. */
static int feed(struct cv_h2 *h2, const uint8_t *data, size_t len)
{
	int r = cv_h2_input(h2, data, len, 1000), sent = cv_h2_output(h2);

	return r ? r : sent;
}

static int feed_preface(struct cv_h2 *h2, bool server)
{
	static const uint8_t preface[] = NGHTTP2_CLIENT_MAGIC "\0\0\0\4\0\0\0\0\0"
							      "\0\0\0\4\1\0\0\0";
	size_t magic = server ? 0 : NGHTTP2_CLIENT_MAGIC_LEN;

	return feed(h2, preface + magic, sizeof(preface) - magic);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct conn c = {};
	struct cv_h2 *h2;
	size_t piece;
	int r = 0;

	if (!len || len > 65536)
		return 0;
	c.choice = *data++;
	len--;
	if (cv_h2_new(&h2, c.choice & CHOOSE_SERVER, &ops, &c, 1000))
		return 0;
	if (!(c.choice & CHOOSE_SERVER)) {
		for (int i = 0; i < 3; i++)
			open_stream(h2, &c);
	}
	if (c.choice & CHOOSE_PREFACE)
		r = feed_preface(h2, c.choice & CHOOSE_SERVER);
	for (; len && !r; data += piece, len -= piece) {
		piece = c.choice & CHOOSE_SMALL ? 7 : 1000;
		piece = piece < len ? piece : len;
		r = feed(h2, data, piece);
		if (c.choice & CHOOSE_SHUTDOWN)
			cv_h2_shutdown(h2);
	}
	(void)cv_h2_tick(h2, 1000 + CV_LIMIT_PING_MS);
	(void)cv_h2_output(h2);
	assert(cv_h2_streams(h2) <= CV_LIMIT_STREAMS_IN);
	cv_h2_free(&h2);
	assert(!c.streams);
	return 0;
}
