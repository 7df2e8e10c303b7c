/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile HTTP/2 peers: each cheap way to keep the other end busy ends in a GOAWAY with
 * ENHANCE_YOUR_CALM after a bounded number of frames, broken frames end in PROTOCOL_ERROR, and what
 * well-behaved peers do much of ends in neither. Frames are made by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>

#include "selftests/lib/h2pair.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"

/* A session of ours, and what is being made for it. */
struct peer {
	struct h2end end;
	struct cv_buf wire;
	uint64_t now_ms;
	int32_t next_id;
};

static void put_frame(struct peer *p, uint8_t type, uint8_t flags, int32_t id, const void *payload,
		      size_t len)
{
	const uint8_t head[9] = {
		(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len,       type,	    flags,
		(uint8_t)(id >> 24),  (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id,
	};

	assert_int_equal(cv_buf_append(&p->wire, head, sizeof(head)), 0);
	assert_int_equal(cv_buf_append(&p->wire, payload, len), 0);
}

/* A literal field that no table keeps. Short names and values. */
static size_t field(uint8_t *to, const char *name, const char *value)
{
	size_t nlen = strlen(name), vlen = strlen(value);

	to[0] = 0;
	to[1] = (uint8_t)nlen;
	memcpy(to + 2, name, nlen);
	to[2 + nlen] = (uint8_t)vlen;
	memcpy(to + 3 + nlen, value, vlen);
	return 3 + nlen + vlen;
}

static int32_t put_connect(struct peer *p)
{
	uint8_t block[64];
	size_t len = field(block, ":method", "CONNECT");
	int32_t id = p->next_id;

	len += field(block + len, ":authority", "10.0.0.1:80");
	p->next_id += 2;
	put_frame(p, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, block, len);
	return id;
}

static void put_u32(struct peer *p, uint8_t type, int32_t id, uint32_t value)
{
	const uint8_t payload[4] = { (uint8_t)(value >> 24), (uint8_t)(value >> 16),
				     (uint8_t)(value >> 8), (uint8_t)value };

	put_frame(p, type, 0, id, payload, sizeof(payload));
}

/* Feeds what was made, and throws away what comes back. */
static int feed(struct peer *p)
{
	struct cv_span s = cv_buf_peek(&p->wire);
	int r = cv_h2_input(p->end.h2, s.data, s.len, p->now_ms), sent;

	cv_buf_consume(&p->wire, s.len);
	sent = cv_h2_output(p->end.h2);
	return r ? r : sent;
}

/* The error code of the GOAWAY at the end of the output, -1 when there is none. */
static int64_t goaway_code(struct peer *p)
{
	struct cv_span s = cv_buf_peek(&p->end.out);
	int64_t code = -1;
	size_t at = 0, len;

	for (; at + 9 <= s.len; at += 9 + len) {
		len = (size_t)(s.data[at] << 16 | s.data[at + 1] << 8 | s.data[at + 2]);
		if (s.data[at + 3] == NGHTTP2_GOAWAY && at + 9 + 8 <= s.len)
			code = (int64_t)s.data[at + 9 + 4] << 24 | s.data[at + 9 + 5] << 16 |
			       s.data[at + 9 + 6] << 8 | s.data[at + 9 + 7];
	}
	return code;
}

static void start(struct peer *p, bool server)
{
	static const char magic[] = NGHTTP2_CLIENT_MAGIC;

	*p = (struct peer){ .now_ms = 1000, .next_id = 1 };
	cv_buf_init(&p->wire, 64 << 20);
	h2end_init(&p->end, server, p->now_ms);
	if (server)
		assert_int_equal(cv_buf_append(&p->wire, magic, sizeof(magic) - 1), 0);
	put_frame(p, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
	assert_int_equal(feed(p), 0);
	put_frame(p, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	assert_int_equal(feed(p), 0);
	cv_buf_consume(&p->end.out, cv_buf_len(&p->end.out));
}

static void stop(struct peer *p)
{
	h2end_fini(&p->end);
	cv_buf_fini(&p->wire);
}

/* One more of the cheap things. */
typedef void (*flood_fn)(struct peer *p);

static void flood_ping(struct peer *p)
{
	put_frame(p, NGHTTP2_PING, 0, 0, "12345678", 8);
}

static void flood_settings(struct peer *p)
{
	put_frame(p, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

static void flood_priority(struct peer *p)
{
	put_frame(p, NGHTTP2_PRIORITY, 0, 1, "\0\0\0\0\x10", 5);
}

static void flood_window_update(struct peer *p)
{
	put_u32(p, NGHTTP2_WINDOW_UPDATE, 0, 1);
}

static void flood_empty_data(struct peer *p)
{
	if (p->next_id == 1)
		put_connect(p);
	put_frame(p, NGHTTP2_DATA, 0, 1, NULL, 0);
}

/* Nothing but padding is nothing as well. */
static void flood_padding(struct peer *p)
{
	if (p->next_id == 1)
		put_connect(p);
	put_frame(p, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, "\x03\0\0\0", 4);
}

static void flood_rapid_reset(struct peer *p)
{
	put_u32(p, NGHTTP2_RST_STREAM, put_connect(p), NGHTTP2_CANCEL);
}

/* A request that HTTP does not allow: a stream that the peer makes us reset. */
static void flood_malformed(struct peer *p)
{
	uint8_t block[64];
	size_t len = field(block, ":method", "CONNECT");

	len += field(block + len, ":path", "/");
	put_frame(p, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, p->next_id, block, len);
	p->next_id += 2;
}

/* The header list is far longer than its compressed form. */
static void flood_header_bomb(struct peer *p)
{
	uint8_t block[1024];
	size_t len = field(block, ":method", "CONNECT");

	len += field(block + len, ":authority", "10.0.0.1:80");
	memset(block + len, 0x80 | 58, sizeof(block) - len); /* user-agent, empty */
	put_frame(p, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, p->next_id, block, sizeof(block));
	p->next_id += 2;
}

static void test_server_floods(void **state)
{
	static const struct {
		flood_fn fn;
		unsigned least, most; /* times until it is over */
	} rows[] = {
		{ flood_ping, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_settings, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_priority, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_window_update, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_empty_data, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_padding, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST },
		{ flood_rapid_reset, CV_LIMIT_RESETS_BURST, CV_LIMIT_RESETS_BURST },
		{ flood_malformed, CV_LIMIT_RESETS_BURST, CV_LIMIT_RESETS_BURST },
		{ flood_header_bomb, CV_LIMIT_RESETS_BURST, CV_LIMIT_RESETS_BURST },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		unsigned times = 0;
		struct peer p;

		start(&p, true);
		do {
			rows[i].fn(&p);
		} while (!feed(&p) && ++times < 20000);
		assert_in_range(times, rows[i].least, rows[i].most);
		assert_int_equal(goaway_code(&p), NGHTTP2_ENHANCE_YOUR_CALM);
		/* It stays over. */
		flood_ping(&p);
		assert_int_equal(feed(&p), -EPROTO);
		assert_string_not_equal(cv_h2_error_text(p.end.h2), "no error");
		stop(&p);
	}
}

/* The same frames at the rate that is allowed go on for ever. */
static void test_slow_is_no_flood(void **state)
{
	struct peer p;

	(void)state;
	start(&p, true);
	for (int i = 0; i < 5000; i++) {
		p.now_ms += 31;
		flood_rapid_reset(&p);
		for (int n = 0; n < 20; n++)
			flood_ping(&p);
		assert_int_equal(feed(&p), 0);
	}
	stop(&p);
}

/* Somebody who reads much may update windows much: a sender of ours pays for it. */
static void test_window_updates_of_readers(void **state)
{
	enum { ROUNDS = 30000, PIECE = 4096 };
	struct h2flow *f;
	struct peer p;

	(void)state;
	start(&p, true);
	put_connect(&p);
	assert_int_equal(feed(&p), 0);
	f = p.end.flows;
	h2flow_send(f, (uint64_t)ROUNDS * PIECE, PIECE);
	for (int i = 0; i < ROUNDS; i++) {
		put_u32(&p, NGHTTP2_WINDOW_UPDATE, 0, PIECE);
		put_u32(&p, NGHTTP2_WINDOW_UPDATE, 1, PIECE);
		assert_int_equal(feed(&p), 0);
		cv_buf_consume(&p.end.out, cv_buf_len(&p.end.out));
	}
	assert_int_equal(f->to_send, 0);
	stop(&p);
}

/* Acknowledgements that the peer does not take are not kept without end. */
static void test_unsent_acks(void **state)
{
	struct peer p;

	(void)state;
	start(&p, true);
	for (int i = 0; i < 2 * CV_LIMIT_OUTBOUND_ACKS; i++)
		flood_ping(&p);
	assert_int_equal(feed(&p), -EPROTO);
	assert_int_equal(goaway_code(&p), NGHTTP2_ENHANCE_YOUR_CALM);
	stop(&p);
}

/* A header block in too many pieces, or too large before it is even looked into. */
static void test_header_blocks(void **state)
{
	enum { HUGE_BLOCK = CV_LIMIT_HEADER_BYTES + 1 };
	/* One field that fills the block: a literal with a value of 65,400 bytes. */
	static const uint8_t field_head[] = { 0x00, 1, 'x', 0x7f, 0xf9, 0xfd, 0x03 };
	_cleanup_free_ uint8_t *block = calloc(1, HUGE_BLOCK);
	struct peer p;

	(void)state;
	start(&p, true);
	put_frame(&p, NGHTTP2_HEADERS, 0, 1, block, 0);
	for (int i = 0; i < CV_LIMIT_CONTINUATIONS; i++) {
		put_frame(&p, NGHTTP2_CONTINUATION, 0, 1, block, 0);
		assert_int_equal(feed(&p), 0);
	}
	put_frame(&p, NGHTTP2_CONTINUATION, 0, 1, block, 0);
	assert_int_equal(feed(&p), -EPROTO);
	assert_int_equal(goaway_code(&p), NGHTTP2_ENHANCE_YOUR_CALM);
	stop(&p);

	memcpy(block, field_head, sizeof(field_head));
	for (int pieces = 1; pieces <= 2; pieces++) {
		start(&p, true);
		put_frame(&p, NGHTTP2_HEADERS, 0, 1, block, (size_t)HUGE_BLOCK / (size_t)pieces);
		if (pieces == 2)
			put_frame(&p, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, block,
				  HUGE_BLOCK / 2 + 2);
		/* The first frame's length alone is enough to know. */
		assert_int_equal(feed(&p), -EPROTO);
		assert_int_equal(goaway_code(&p), NGHTTP2_ENHANCE_YOUR_CALM);
		assert_string_equal(cv_h2_error_text(p.end.h2), "header block too large");
		stop(&p);
	}
}

/* Too many fields cost the stream that has them and no other. */
static void test_too_many_fields(void **state)
{
	struct peer p;
	struct h2flow *f;

	(void)state;
	start(&p, true);
	put_connect(&p);
	flood_header_bomb(&p);
	assert_int_equal(feed(&p), 0);
	assert_int_equal(p.end.nr_flows, 1);
	f = p.end.flows;
	put_frame(&p, NGHTTP2_DATA, 0, 1, "hello", 5);
	put_connect(&p);
	assert_int_equal(feed(&p), 0);
	assert_int_equal(f->received, 5);
	assert_int_equal(p.end.nr_flows, 2);
	assert_int_equal(cv_h2_streams(p.end.h2), 2);
	stop(&p);
}

/* A peer whose requests are refused again and again is sent away politely: what it has open goes
 * on. */
static void test_refusals(void **state)
{
	unsigned refused = 0;
	struct h2flow *f;
	struct peer p;

	(void)state;
	start(&p, true);
	put_connect(&p);
	assert_int_equal(feed(&p), 0);
	f = p.end.flows;
	p.end.respond = 401;
	while (goaway_code(&p) < 0 && refused < 5000) {
		put_connect(&p);
		assert_int_equal(feed(&p), 0);
		refused++;
	}
	assert_int_equal(refused, CV_LIMIT_REFUSALS_BURST + 1);
	assert_int_equal(goaway_code(&p), NGHTTP2_NO_ERROR);
	put_frame(&p, NGHTTP2_DATA, 0, 1, "hello", 5);
	assert_int_equal(feed(&p), 0);
	assert_int_equal(f->received, 5);
	stop(&p);
}

/* More streams at once than were allowed are not served, and nobody opens them by mistake. */
static void test_too_many_streams(void **state)
{
	struct peer p;

	(void)state;
	start(&p, true);
	for (int i = 0; i < CV_LIMIT_STREAMS_IN + 50; i++)
		put_connect(&p);
	assert_int_equal(feed(&p), -EPROTO);
	assert_int_equal(goaway_code(&p), NGHTTP2_PROTOCOL_ERROR);
	assert_int_equal(p.end.nr_flows, CV_LIMIT_STREAMS_IN);
	stop(&p);
}

/* A server may not keep a client busy either. */
static void test_client_floods(void **state)
{
	uint8_t block[64];
	size_t len = field(block, ":status", "103");
	unsigned times = 0;
	struct peer p;
	struct cv_h2_stream *s;

	(void)state;
	start(&p, false);
	assert_int_equal(cv_h2_connect(p.end.h2,
				       &(struct cv_h2_connect){ .authority = "10.0.0.1:80" }, NULL,
				       &s),
			 0);
	assert_int_equal(feed(&p), 0);
	do {
		put_frame(&p, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, block, len);
	} while (!feed(&p) && ++times < 20000);
	assert_in_range(times, CV_LIMIT_CONTROL_BURST - 10, CV_LIMIT_CONTROL_BURST);
	assert_int_equal(goaway_code(&p), NGHTTP2_ENHANCE_YOUR_CALM);
	stop(&p);
}

/* Three digits that are no status are no answer. */
static void test_odd_status(void **state)
{
	uint8_t block[64];
	size_t len = field(block, ":status", "045");
	struct cv_h2_stream *s;
	struct peer p;

	(void)state;
	start(&p, false);
	assert_int_equal(cv_h2_connect(p.end.h2,
				       &(struct cv_h2_connect){ .authority = "10.0.0.1:80" }, NULL,
				       &s),
			 0);
	assert_int_equal(feed(&p), 0);
	put_frame(&p, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, block, len);
	assert_int_equal(feed(&p), 0);
	assert_int_equal(cv_h2_streams(p.end.h2), 0);
	stop(&p);
}

/* What is no HTTP/2 ends the connection, with a reason. */
static void test_garbage(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} rows[] = {
		{ "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27 },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x06\0\0\0\0\0", 33 },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\1\0\0\0\0\0\1x", 43 },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\5\x04\0\0\0\0\0\1\2\3\4\5", 38 },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\xff\xff\xff\0\0\0\0\0\0",
		  42 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct peer p = { .now_ms = 1000 };

		cv_buf_init(&p.wire, 1 << 20);
		h2end_init(&p.end, true, p.now_ms);
		cv_buf_append(&p.wire, rows[i].bytes, rows[i].len);
		assert_int_equal(feed(&p), -EPROTO);
		assert_string_not_equal(cv_h2_error_text(p.end.h2), "no error");
		stop(&p);
	}
}

/* Flow-control windows that are not respected end the connection. */
static void test_window_overrun(void **state)
{
	enum { PIECE = 1 << 20 };
	_cleanup_free_ uint8_t *data = calloc(1, PIECE);
	struct peer p;
	int r = 0, n;

	(void)state;
	start(&p, true);
	p.end.hold = true;
	put_connect(&p);
	assert_int_equal(feed(&p), 0);
	for (n = 0; n < 20 && cv_h2_streams(p.end.h2) && !r; n++) {
		put_frame(&p, NGHTTP2_DATA, 0, 1, data, PIECE);
		r = feed(&p);
	}
	assert_int_equal(r, -EPROTO);
	assert_int_equal(goaway_code(&p), NGHTTP2_FLOW_CONTROL_ERROR);
	assert_int_equal(n, CV_LIMIT_STREAM_WINDOW / PIECE + 1);
	assert_int_equal(p.end.flows->received, CV_LIMIT_STREAM_WINDOW);
	stop(&p);
}

/* So does a window of ours that the peer makes larger than there is a number for. */
static void test_window_overflow(void **state)
{
	struct peer p;

	(void)state;
	start(&p, true);
	put_u32(&p, NGHTTP2_WINDOW_UPDATE, put_connect(&p), INT32_MAX);
	assert_int_equal(feed(&p), -EPROTO);
	assert_int_equal(goaway_code(&p), NGHTTP2_FLOW_CONTROL_ERROR);
	stop(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_server_floods),
		cmocka_unit_test(test_slow_is_no_flood),
		cmocka_unit_test(test_window_updates_of_readers),
		cmocka_unit_test(test_unsent_acks),
		cmocka_unit_test(test_header_blocks),
		cmocka_unit_test(test_too_many_fields),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_too_many_streams),
		cmocka_unit_test(test_client_floods),
		cmocka_unit_test(test_odd_status),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_window_overrun),
		cmocka_unit_test(test_window_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
