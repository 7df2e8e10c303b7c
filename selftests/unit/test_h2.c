/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 for HBONE, client and server back to back: what the first bytes are, how requests look,
 * windows and back-pressure both ways, half-close, resets, GOAWAY, keepalive. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>

#include "selftests/lib/h2pair.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"

enum { MIB = 1 << 20 };

static int set_up(void **state)
{
	struct h2pair *p = malloc(sizeof(*p));

	h2pair_init(p);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	h2pair_fini(*state);
	free(*state);
	return 0;
}

/* An answered stream. */
static struct h2flow *open_flow(struct h2pair *p)
{
	struct h2flow *f = h2pair_connect(p, NULL);

	assert_non_null(f);
	h2pair_pump(p, 0);
	assert_int_equal(f->status, p->server.respond);
	return f;
}

/* SETTINGS and the connection's window are ztunnel's, to the byte and in its order. */
static void test_preface(void **state)
{
	static const uint8_t client[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
					"\0\0\x18\x04\0\0\0\0\0"
					"\0\x02\0\0\0\0"
					"\0\x04\0\x40\0\0"
					"\0\x05\0\x10\0\0"
					"\0\x06\0\0\x40\0"
					"\0\0\x04\x08\0\0\0\0\0\0\xff\0\x01";
	static const uint8_t server[] = "\0\0\x18\x04\0\0\0\0\0"
					"\0\x03\0\0\0\xc8"
					"\0\x04\0\x40\0\0"
					"\0\x05\0\x10\0\0"
					"\0\x06\0\x01\0\0"
					"\0\0\x04\x08\0\0\0\0\0\0\xff\0\x01";
	struct h2end e;

	(void)state;
	for (int is_server = 0; is_server < 2; is_server++) {
		size_t len = is_server ? sizeof(server) - 1 : sizeof(client) - 1;

		h2end_init(&e, is_server, 0);
		assert_true(cv_h2_wants_write(e.h2));
		assert_int_equal(cv_h2_output(e.h2), 0);
		assert_int_equal(cv_buf_len(&e.out), len);
		assert_memory_equal(cv_buf_peek(&e.out).data, is_server ? server : client, len);
		assert_int_equal(e.writes, 1); /* all of it in one piece */
		assert_false(cv_h2_wants_write(e.h2));
		h2end_fini(&e);
	}
}

static const struct cv_h2_connect full_request = {
	.authority = "[2001:db8::1]:8080",
	.baggage = "k8s.cluster.name=c1,k8s.deployment.name=web",
	.forwarded = "for=\"10.0.0.9:1234\";host=cart.shop.svc.cluster.local",
	.traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00",
};

static void test_request(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c, *s;

	p->server.respond = 0;
	c = h2pair_connect(p, &full_request);
	h2pair_pump(p, 0);
	s = h2pair_latest(p);
	assert_non_null(s);
	assert_true(s->request.connect);
	assert_string_equal(s->request.method, "CONNECT");
	assert_string_equal(s->request.authority, "[2001:db8::1]:8080");
	assert_string_equal(s->workload, "web");
	assert_string_equal(s->forwarded_host, "cart.shop.svc.cluster.local");
	assert_string_equal(s->request.trace_id, "0123456789abcdef0123456789abcdef");
	assert_false(s->request.has_x_forwarded_network);
	assert_false(s->eof);
	assert_int_equal(c->status, 0);
	assert_int_equal(cv_h2_respond(s->s, 200, "k8s.cluster.name=c2"), 0);
	assert_int_equal(cv_h2_respond(s->s, 200, NULL), -EPIPE);
	h2pair_pump(p, 0);
	assert_int_equal(c->status, 200);
	assert_string_equal(c->cluster, "c2");
	assert_false(c->eof);
}

/* :method, :authority, then baggage, forwarded, traceparent; nothing else, and no END_STREAM. */
static void test_header_order(void **state)
{
	static const char *const names[] = { ":method", ":authority", "baggage", "forwarded",
					     "traceparent" };
	struct h2pair *p = *state;
	nghttp2_hd_inflater *inflater;
	struct cv_span out;
	size_t len, at = 9, n = 0;

	assert_non_null(h2pair_connect(p, &full_request));
	assert_int_equal(cv_h2_output(p->client.h2), 0);
	out = cv_buf_peek(&p->client.out);
	assert_int_equal(out.data[3], NGHTTP2_HEADERS);
	assert_int_equal(out.data[4], NGHTTP2_FLAG_END_HEADERS);
	len = 9 + (size_t)(out.data[0] << 16 | out.data[1] << 8 | out.data[2]);
	assert_int_equal(out.len, len);
	assert_int_equal(nghttp2_hd_inflate_new(&inflater), 0);
	while (at < len) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t used =
			nghttp2_hd_inflate_hd2(inflater, &nv, &flags, out.data + at, len - at, 1);

		assert_true(used > 0);
		at += (size_t)used;
		if (!(flags & NGHTTP2_HD_INFLATE_EMIT))
			continue;
		assert_in_range(n, 0, CV_ARRAY_SIZE(names) - 1);
		assert_string_equal((char *)nv.name, names[n++]);
	}
	assert_int_equal(n, CV_ARRAY_SIZE(names));
	nghttp2_hd_inflate_del(inflater);
}

/* Everything arrives, in order, however the transport cuts it. */
static void test_transfer(void **state)
{
	static const size_t chunks[] = { 0, 1, 9, 16384 };
	struct h2pair *p = *state;

	for (size_t i = 0; i < CV_ARRAY_SIZE(chunks); i++) {
		uint64_t total = chunks[i] == 1 ? 100000 : 20 * MIB + 1;
		struct h2flow *c = open_flow(p), *s = h2pair_latest(p);

		h2flow_send(c, total, 262144);
		h2flow_send(s, total, 1000);
		h2pair_pump(p, chunks[i]);
		assert_int_equal(s->received, total);
		assert_int_equal(c->received, total);
		assert_int_equal(s->checksum, c->sent_checksum);
		assert_int_equal(c->checksum, s->sent_checksum);
	}
	assert_int_equal(p->client.result, 0);
	/* Payload goes out with its frame header in one write, in frames beyond 16 KiB. */
	assert_in_range(p->client.largest_write, 200000, 262144 + CV_H2_HEADROOM);
}

/* A reader who does not read stops its sender at the stream's window, and no other stream. */
static void test_stream_window(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = open_flow(p), *s = h2pair_latest(p);
	struct h2flow *other_c = open_flow(p), *other_s = h2pair_latest(p);

	s->hold = true;
	h2flow_send(c, 10 * MIB, 100000);
	h2flow_send(other_c, 6 * MIB, 100000);
	h2pair_pump(p, 0);
	assert_int_equal(s->received, CV_LIMIT_STREAM_WINDOW);
	assert_int_equal(other_s->received, 6 * MIB);
	/* Less than half a window back: no update yet; then it goes on. */
	s->unconsumed -= MIB;
	cv_h2_consume(s->s, MIB);
	h2pair_pump(p, 0);
	assert_int_equal(s->received, CV_LIMIT_STREAM_WINDOW);
	s->hold = false;
	h2flow_consume(s);
	h2pair_pump(p, 0);
	assert_int_equal(s->received, 10 * MIB);
	assert_int_equal(s->checksum, c->sent_checksum);
}

/* The same from server to client. */
static void test_stream_window_back(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = open_flow(p), *s = h2pair_latest(p);

	c->hold = true;
	h2flow_send(s, 10 * MIB, 100000);
	h2pair_pump(p, 0);
	assert_int_equal(c->received, CV_LIMIT_STREAM_WINDOW);
	c->hold = false;
	h2flow_consume(c);
	h2pair_pump(p, 0);
	assert_int_equal(c->received, 10 * MIB);
}

/* All streams together are held at the connection's window; a stream that ends with bytes unread
 * gives its share back. */
static void test_connection_window(void **state)
{
	enum { STREAMS = 5 };
	struct h2pair *p = *state;
	struct h2flow *c[STREAMS], *s[STREAMS];
	uint64_t total = 0;

	p->server.hold = true;
	for (int i = 0; i < STREAMS; i++) {
		c[i] = open_flow(p);
		s[i] = h2pair_latest(p);
		h2flow_send(c[i], 4 * MIB, 65536);
		h2pair_pump(p, 0);
		total += s[i]->received;
	}
	assert_int_equal(total, CV_LIMIT_CONNECTION_WINDOW);
	assert_int_equal(s[STREAMS - 1]->received, 0);
	for (int i = 0; i < 2; i++)
		cv_h2_reset(s[i]->s, NGHTTP2_CANCEL);
	h2pair_pump(p, 0);
	assert_int_equal(s[STREAMS - 1]->received, 4 * MIB);
}

/* Without room payload waits, control frames do not; with a little room frames are as small. */
static void test_room(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = open_flow(p), *s = h2pair_latest(p);

	p->client.room = 0;
	h2flow_send(c, 1000, 1000);
	assert_int_equal(cv_h2_send(c->s, c->payload, 1), -EBUSY);
	assert_non_null(h2pair_connect(p, NULL));
	h2pair_pump(p, 0);
	assert_int_equal(s->received, 0);
	assert_int_equal(p->server.nr_flows, 2);
	assert_int_equal(cv_h2_send_pending(c->s), 1000);
	assert_true(cv_h2_wants_write(p->client.h2));
	p->client.room = 70 + CV_H2_HEADROOM;
	p->client.limit_room = true;
	h2pair_pump(p, 0);
	assert_in_range(s->received, 1, 70 + CV_H2_HEADROOM);
	p->client.limit_room = false;
	p->client.room = 70;
	h2pair_pump(p, 0);
	assert_int_equal(s->received, 1000);
	assert_in_range(s->data_calls, 1000 / 70, 20);
	assert_int_equal(s->checksum, c->sent_checksum);
}

/* Each half ends on its own; the stream is gone when both have. */
static void test_half_close(void **state)
{
	struct h2pair *p = *state;

	for (int server_first = 0; server_first < 2; server_first++) {
		struct h2flow *c = open_flow(p), *s = h2pair_latest(p);
		struct h2flow *first = server_first ? s : c, *second = server_first ? c : s;

		h2flow_send(first, 3000, 3000);
		assert_int_equal(cv_h2_send_eof(first->s), 0);
		assert_int_equal(cv_h2_send(first->s, first->payload, 1), -EPIPE);
		h2pair_pump(p, 0);
		assert_int_equal(second->received, 3000);
		assert_true(second->eof);
		assert_false(first->eof);
		h2flow_send(second, 5 * MIB, 10000);
		h2pair_pump(p, 0);
		assert_int_equal(first->received, 5 * MIB);
		assert_false(first->closed || second->closed);
		cv_h2_send_eof(second->s); /* with nothing before it */
		h2pair_pump(p, 0);
		assert_true(first->eof);
		assert_true(first->closed && second->closed);
		assert_int_equal(first->code | second->code, 0);
	}
	assert_int_equal(cv_h2_streams(p->client.h2) + cv_h2_streams(p->server.h2), 0);
}

/* END_STREAM that comes with the request. */
static void test_early_eof(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = h2pair_connect(p, NULL), *s;

	cv_h2_send_eof(c->s);
	h2pair_pump(p, 0);
	s = h2pair_latest(p);
	assert_true(s->eof);
	assert_int_equal(c->status, 200);
	cv_h2_send_eof(s->s);
	h2pair_pump(p, 0);
	assert_true(c->closed && s->closed);
}

/* Both sides learn the code; what still arrives is dropped, and does not eat the connection's
 * window. */
static void test_reset(void **state)
{
	static const uint32_t codes[] = { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR,
					  NGHTTP2_INTERNAL_ERROR };
	struct h2pair *p = *state;

	for (size_t i = 0; i < 60; i++) {
		struct h2flow *c = open_flow(p), *s = h2pair_latest(p);
		uint32_t code = codes[i % CV_ARRAY_SIZE(codes)];
		struct h2flow *by = i & 1 ? c : s, *other = i & 1 ? s : c;

		h2flow_send(other, 2 * MIB, 100000);
		h2pair_move(other->end, by->end, 0, p->now_ms);
		assert_true(by->received > 0);
		h2flow_send(other, MIB, 100000);
		cv_h2_reset(by->s, code);
		cv_h2_reset(by->s, NGHTTP2_PROTOCOL_ERROR);
		assert_int_equal(cv_h2_send(by->s, NULL, 1), -EPIPE);
		by->received = 0;
		h2pair_pump(p, 0);
		assert_int_equal(by->received, 0);
		assert_true(c->closed && s->closed);
		assert_int_equal(c->code, code);
		assert_int_equal(s->code, code);
	}
	test_stream_window(state);
}

/* A request that is taken back before it was sent. */
static void test_reset_unsent(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = h2pair_connect(p, NULL);

	cv_h2_reset(c->s, NGHTTP2_CANCEL);
	h2pair_pump(p, 0);
	assert_true(c->closed);
	assert_int_equal(c->code, NGHTTP2_CANCEL);
	assert_int_equal(p->server.nr_flows, 0);
}

static void reset_in_callback(struct h2flow *f)
{
	assert_int_equal(cv_h2_output(f->end->h2), 0); /* does nothing here */
	cv_h2_reset(f->s, NGHTTP2_CANCEL);
}

/* The caller may give a stream up while it is being told something. */
static void test_reset_in_callback(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = open_flow(p), *s = h2pair_latest(p);

	s->on_data = reset_in_callback;
	h2flow_send(c, MIB, MIB);
	cv_h2_send_eof(c->s);
	h2pair_pump(p, 0);
	assert_int_equal(s->data_calls, 1);
	assert_false(s->eof);
	assert_true(c->closed && s->closed);
	assert_int_equal(c->code, NGHTTP2_CANCEL);
}

/* An error status ends the stream at once, whatever the client is doing with its half. */
static void test_refusal(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c;

	p->server.respond = 401;
	/* What arrives for nobody does not eat the connection's window. */
	for (int i = 0; i < 10; i++) {
		c = h2pair_connect(p, NULL);
		h2flow_send(c, 10 * MIB, 100000);
		h2pair_pump(p, 0);
		assert_int_equal(c->status, 401);
		assert_true(c->eof && c->closed);
		assert_int_equal(c->code, NGHTTP2_NO_ERROR);
		assert_true(h2pair_latest(p)->closed);
		assert_int_equal(h2pair_latest(p)->received, 0);
		assert_int_equal(cv_h2_streams(p->server.h2), 0);
	}
	/* The connection goes on. */
	p->server.respond = 200;
	h2flow_send(open_flow(p), 6 * MIB, 100000);
	h2pair_pump(p, 0);
	assert_int_equal(h2pair_latest(p)->received, 6 * MIB);
}

/* Two steps: what the client opened before it saw the notice is served, nothing after that. */
static void test_shutdown(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *old = open_flow(p), *old_s = h2pair_latest(p), *crossing;

	cv_h2_shutdown(p->server.h2);
	cv_h2_shutdown(p->server.h2);
	crossing = h2pair_connect(p, NULL);
	assert_non_null(crossing);
	h2pair_pump(p, 0);
	assert_int_equal(crossing->status, 200);
	assert_int_equal(p->client.goaways, 1);
	assert_false(cv_h2_can_open(p->client.h2));
	assert_null(h2pair_connect(p, NULL));
	h2flow_send(old, MIB, MIB);
	cv_h2_send_eof(old->s);
	h2pair_pump(p, 0);
	assert_int_equal(old_s->received, MIB);
	assert_false(cv_h2_done(p->server.h2));
	cv_h2_send_eof(old_s->s);
	cv_h2_reset(crossing->s, NGHTTP2_CANCEL);
	h2pair_pump(p, 0);
	assert_int_equal(old->code, 0);
	assert_true(old->closed);
	assert_true(cv_h2_done(p->server.h2));
	assert_true(cv_h2_done(p->client.h2));
	assert_int_equal(p->client.result | p->server.result, 0);
}

/* A client that is shut down opens nothing more and tells the peer nothing. */
static void test_client_shutdown(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *f = open_flow(p);

	cv_h2_shutdown(p->client.h2);
	assert_false(cv_h2_can_open(p->client.h2));
	assert_false(cv_h2_wants_write(p->client.h2));
	h2flow_send(f, 1000, 1000);
	h2pair_pump(p, 0);
	assert_int_equal(h2pair_latest(p)->received, 1000);
}

/* 1,000 streams, as many at a time as allowed, each with data both ways. */
static void test_many_streams(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c[CV_LIMIT_STREAMS_OUT], *s;

	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < CV_LIMIT_STREAMS_OUT; i++) {
			c[i] = h2pair_connect(p, NULL);
			assert_non_null(c[i]);
		}
		assert_null(h2pair_connect(p, NULL));
		h2pair_pump(p, 0);
		s = p->server.flows;
		for (int i = CV_LIMIT_STREAMS_OUT - 1; i >= 0; i--, s = s->next) {
			h2flow_send(c[i], 1000 + i, 300);
			h2flow_send(s, 2000 + i, 300);
		}
		h2pair_pump(p, 0);
		s = p->server.flows;
		for (int i = CV_LIMIT_STREAMS_OUT - 1; i >= 0; i--, s = s->next) {
			assert_int_equal(s->received, 1000 + i);
			assert_int_equal(c[i]->received, 2000 + i);
			cv_h2_send_eof(c[i]->s);
			cv_h2_send_eof(s->s);
		}
		h2pair_pump(p, 0);
		assert_int_equal(cv_h2_streams(p->client.h2), 0);
		assert_int_equal(cv_h2_streams(p->server.h2), 0);
	}
	assert_int_equal(p->server.nr_flows, 1000);
}

/* The server's own announcement bounds a client that would open more. */
static void test_peer_limit(void **state)
{
	struct h2pair *p = *state;
	unsigned n = 0;

	cv_h2_set_max_streams(p->client.h2, 1000);
	while (h2pair_connect(p, NULL))
		n++;
	assert_int_equal(n, CV_LIMIT_STREAMS_IN);
	h2pair_pump(p, 0);
	assert_int_equal(cv_h2_streams(p->server.h2), CV_LIMIT_STREAMS_IN);
}

/* One stream does not keep the others from being sent. */
static void test_fairness(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *big = open_flow(p), *small = open_flow(p), *small_s = h2pair_latest(p);

	h2flow_send(big, 4 * MIB, 262144);
	h2flow_send(small, 1000, 1000);
	p->client.room = 2 * MIB;
	p->client.limit_room = true;
	h2pair_move(&p->client, &p->server, 0, p->now_ms);
	assert_int_equal(small_s->received, 1000);
}

static void test_keepalive(void **state)
{
	struct h2pair *p = *state;
	struct cv_h2 *h2 = p->client.h2;
	uint64_t start = p->now_ms;

	assert_int_equal(cv_h2_tick(h2, start + 4000), CV_LIMIT_PING_MS - 4000);
	assert_false(cv_h2_wants_write(h2));
	assert_int_equal(cv_h2_tick(h2, start + CV_LIMIT_PING_MS), CV_LIMIT_PONG_MS);
	assert_true(cv_h2_wants_write(h2));
	p->now_ms = start + 12000;
	h2pair_pump(p, 0);
	/* The next one is due ten seconds after the answer. */
	assert_int_equal(cv_h2_tick(h2, p->now_ms), CV_LIMIT_PING_MS);
	p->now_ms += CV_LIMIT_PING_MS;
	assert_int_equal(cv_h2_tick(h2, p->now_ms), CV_LIMIT_PONG_MS);
	assert_int_equal(cv_h2_tick(h2, p->now_ms + CV_LIMIT_PONG_MS - 1), 1);
	assert_int_equal(cv_h2_tick(h2, p->now_ms + CV_LIMIT_PONG_MS), -ETIMEDOUT);
	assert_string_equal(cv_h2_error_text(h2), "peer did not answer PING");
}

/* A session that is freed tells every stream so. */
static void test_connection_lost(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *c = open_flow(p), *d = h2pair_connect(p, NULL);

	cv_h2_free(&p->client.h2);
	assert_null(p->client.h2);
	assert_true(c->closed && d->closed);
	assert_int_equal(c->code, CV_H2_CONN_LOST);
	assert_int_equal(d->code, CV_H2_CONN_LOST);
}

static void test_write_error(void **state)
{
	struct h2pair *p = *state;
	struct h2flow *f = open_flow(p);

	p->client.write_result = -ENOBUFS;
	p->client.writes = 0;
	h2flow_send(f, 1000, 1000);
	assert_int_equal(cv_h2_output(p->client.h2), -ENOBUFS);
	assert_int_equal(cv_h2_output(p->client.h2), -ENOBUFS);
	assert_int_equal(p->client.writes, 1);
	assert_false(cv_h2_can_open(p->client.h2));
}

#define WITH_PAIR(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_preface),
		WITH_PAIR(test_request),
		WITH_PAIR(test_header_order),
		WITH_PAIR(test_transfer),
		WITH_PAIR(test_stream_window),
		WITH_PAIR(test_stream_window_back),
		WITH_PAIR(test_connection_window),
		WITH_PAIR(test_room),
		WITH_PAIR(test_half_close),
		WITH_PAIR(test_early_eof),
		WITH_PAIR(test_reset),
		WITH_PAIR(test_reset_unsent),
		WITH_PAIR(test_reset_in_callback),
		WITH_PAIR(test_refusal),
		WITH_PAIR(test_shutdown),
		WITH_PAIR(test_client_shutdown),
		WITH_PAIR(test_many_streams),
		WITH_PAIR(test_peer_limit),
		WITH_PAIR(test_fairness),
		WITH_PAIR(test_keepalive),
		WITH_PAIR(test_connection_lost),
		WITH_PAIR(test_write_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
