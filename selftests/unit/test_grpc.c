/* SPDX-License-Identifier: Apache-2.0 */
/* The gRPC client against a server made of bare nghttp2, back to back in memory: what is asked,
 * messages in pieces, who decides that more may be sent, and every way in which a call ends. */
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/buf.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/grpc.h"

/* What the server does with its one stream. */
struct server {
	nghttp2_session *session;
	struct cv_buf out, body, answer; /* to the client; from it; of the response */
	char headers[2048]; /* "name=value\n" */
	int32_t stream;
	bool eof, reset; /* of the client's half; RST_STREAM came */
	bool end; /* trailers follow the answer */
	const char *status, *message; /* trailers; NULL = none */
};

struct client {
	struct cv_grpc *g;
	struct cv_grpc_call *call;
	struct cv_buf out;
	size_t room;
	bool hold; /* consume nothing */
	size_t max_message;
	size_t lens[4];
	unsigned messages, whole, pieces;
	struct cv_buf got;
	bool ended;
	int status;
	char text[256];
};

static struct server srv;
static struct client cl;

/* ---- the server ---- */

static int srv_on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name,
			 size_t nlen, const uint8_t *value, size_t vlen, uint8_t flags, void *arg)
{
	size_t at = strlen(srv.headers);

	(void)s, (void)f, (void)flags, (void)arg;
	snprintf(srv.headers + at, sizeof(srv.headers) - at, "%.*s=%.*s\n", (int)nlen, name,
		 (int)vlen, value);
	srv.stream = f->hd.stream_id;
	return 0;
}

static int srv_on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data,
		       size_t len, void *arg)
{
	(void)s, (void)flags, (void)id, (void)arg;
	return cv_buf_append(&srv.body, data, len);
}

static int srv_on_frame(nghttp2_session *s, const nghttp2_frame *f, void *arg)
{
	(void)s, (void)arg;
	if (f->hd.type == NGHTTP2_RST_STREAM)
		srv.reset = true;
	if ((f->hd.type == NGHTTP2_DATA || f->hd.type == NGHTTP2_HEADERS) &&
	    f->hd.flags & NGHTTP2_FLAG_END_STREAM)
		srv.eof = true;
	return 0;
}

static nghttp2_nv nv(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0 };
}

static ssize_t srv_read(nghttp2_session *s, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
			nghttp2_data_source *source, void *arg)
{
	struct cv_span held = cv_buf_peek(&srv.answer);
	nghttp2_nv trailers[2];
	size_t n = 0;

	(void)source, (void)arg;
	if (!held.len && !srv.end)
		return NGHTTP2_ERR_DEFERRED;
	len = len < held.len ? len : held.len;
	if (len)
		memcpy(buf, held.data, len);
	cv_buf_consume(&srv.answer, len);
	if (!srv.end || cv_buf_len(&srv.answer))
		return (ssize_t)len;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (srv.status) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		trailers[n++] = nv("grpc-status", srv.status);
		if (srv.message)
			trailers[n++] = nv("grpc-message", srv.message);
		assert_int_equal(nghttp2_submit_trailer(s, id, trailers, n), 0);
	}
	return (ssize_t)len;
}

static void srv_respond(const char *http_status, const char *type)
{
	const nghttp2_data_provider provider = { .read_callback = srv_read };
	const nghttp2_nv h[] = { nv(":status", http_status), nv("content-type", type) };

	assert_int_equal(nghttp2_submit_response(srv.session, srv.stream, h, 2, &provider), 0);
}

/* Queues a message with its prefix. */
static void srv_message(const void *data, size_t len)
{
	const uint8_t prefix[] = { 0, (uint8_t)(len >> 24), (uint8_t)(len >> 16),
				   (uint8_t)(len >> 8), (uint8_t)len };

	assert_int_equal(cv_buf_append(&srv.answer, prefix, sizeof(prefix)), 0);
	assert_int_equal(cv_buf_append(&srv.answer, data, len), 0);
	(void)nghttp2_session_resume_data(srv.session, srv.stream);
}

static void srv_end(const char *status, const char *message)
{
	srv.end = true;
	srv.status = status;
	srv.message = message;
	(void)nghttp2_session_resume_data(srv.session, srv.stream);
}

/* ---- the client ---- */

static int cl_write(void *conn, const uint8_t *data, size_t len)
{
	struct client *c = conn;

	if (c->room != SIZE_MAX)
		c->room -= len < c->room ? len : c->room;
	return cv_buf_append(&c->out, data, len);
}

static size_t cl_room(void *conn)
{
	return ((struct client *)conn)->room;
}

static int on_message(void *arg, size_t len)
{
	struct client *c = arg;

	if (c->messages < CV_ARRAY_SIZE(c->lens))
		c->lens[c->messages] = len;
	c->messages++;
	return len > c->max_message ? -1 : 0;
}

static void on_data(void *arg, const uint8_t *data, size_t len)
{
	struct client *c = arg;

	c->pieces++;
	assert_int_equal(cv_buf_append(&c->got, data, len), 0);
	if (!c->hold)
		cv_grpc_consume(c->call, len);
}

static void on_message_end(void *arg)
{
	((struct client *)arg)->whole++;
}

static void on_end(void *arg, int status, const char *text)
{
	struct client *c = arg;

	assert_false(c->ended);
	c->ended = true;
	c->status = status;
	snprintf(c->text, sizeof(c->text), "%s", text);
}

static const struct cv_grpc_ops grpc_ops = { .write = cl_write, .room = cl_room };
static const struct cv_grpc_call_ops call_ops = { on_message, on_data, on_message_end, on_end };

/* Bytes to and fro until both are quiet. */
static void pump(void)
{
	for (int i = 0; i < 1000; i++) {
		struct cv_span s;
		const uint8_t *data;
		ssize_t n;
		bool quiet = true;

		if (cl.g)
			(void)cv_grpc_output(cl.g);
		s = cv_buf_peek(&cl.out);
		if (s.len) {
			assert_int_equal(nghttp2_session_mem_recv(srv.session, s.data, s.len),
					 s.len);
			cv_buf_consume(&cl.out, s.len);
			quiet = false;
		}
		while ((n = nghttp2_session_mem_send(srv.session, &data)) > 0) {
			if (cl.g)
				(void)cv_grpc_input(cl.g, data, (size_t)n, 1000);
			quiet = false;
		}
		if (quiet)
			return;
	}
	fail_msg("the two never become quiet");
}

static int setup(void **state)
{
	static const struct cv_grpc_header headers[] = { { "authorization", "Bearer t0k3n" },
							 { "clusterid", "c1" } };
	nghttp2_session_callbacks *cbs;
	nghttp2_option *opts;

	(void)state;
	srv = (struct server){ 0 };
	cl = (struct client){ .room = SIZE_MAX, .max_message = SIZE_MAX };
	cv_buf_init(&srv.out, SIZE_MAX / 2);
	cv_buf_init(&srv.body, SIZE_MAX / 2);
	cv_buf_init(&srv.answer, SIZE_MAX / 2);
	cv_buf_init(&cl.out, SIZE_MAX / 2);
	cv_buf_init(&cl.got, SIZE_MAX / 2);
	nghttp2_session_callbacks_new(&cbs);
	nghttp2_session_callbacks_set_on_header_callback(cbs, srv_on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, srv_on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, srv_on_frame);
	nghttp2_option_new(&opts);
	nghttp2_session_server_new2(&srv.session, cbs, NULL, opts);
	nghttp2_option_del(opts);
	nghttp2_session_callbacks_del(cbs);
	nghttp2_submit_settings(srv.session, 0, NULL, 0);
	assert_int_equal(cv_grpc_new(&cl.g, &grpc_ops, &cl, "istiod:15012", true, 0), 0);
	assert_int_equal(cv_grpc_call(cl.g, "/pkg.Service/Method", headers, CV_ARRAY_SIZE(headers),
				      &call_ops, &cl, &cl.call),
			 0);
	pump();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_grpc_free(&cl.g, "gone");
	nghttp2_session_del(srv.session);
	cv_buf_fini(&srv.out);
	cv_buf_fini(&srv.body);
	cv_buf_fini(&srv.answer);
	cv_buf_fini(&cl.out);
	cv_buf_fini(&cl.got);
	return 0;
}

static void expect_end(int status, const char *text)
{
	assert_true(cl.ended);
	assert_string_equal(cl.text, text);
	assert_int_equal(cl.status, status);
}

/* ---- tests ---- */

static void test_request(void **state)
{
	(void)state;
	assert_string_equal(srv.headers, ":method=POST\n:scheme=https\n:authority=istiod:15012\n"
					 ":path=/pkg.Service/Method\nte=trailers\n"
					 "content-type=application/grpc\n"
					 "user-agent=culvert/" CULVERT_VERSION "\n"
					 "authorization=Bearer t0k3n\nclusterid=c1\n");
	assert_false(srv.eof);
	assert_int_equal(cv_grpc_send(cl.call, (const uint8_t *)"hello", 5), 0);
	assert_int_equal(cv_grpc_send(cl.call, NULL, 0), 0);
	pump();
	assert_int_equal(cv_buf_len(&srv.body), 15);
	assert_memory_equal(cv_buf_peek(&srv.body).data, "\0\0\0\0\5hello\0\0\0\0\0", 15);
	assert_false(srv.eof);
	cv_grpc_end(cl.call);
	pump();
	assert_true(srv.eof);
	assert_int_equal(cv_grpc_send(cl.call, NULL, 0), -EPIPE);
}

static void test_messages(void **state)
{
	(void)state;
	srv_respond("200", "application/grpc+proto");
	srv_message("first", 5);
	srv_message("", 0);
	pump();
	assert_int_equal(cl.messages, 2);
	assert_int_equal(cl.whole, 2);
	assert_int_equal(cl.lens[0], 5);
	assert_int_equal(cl.lens[1], 0);
	srv_message("third", 5);
	srv_end("0", NULL);
	pump();
	assert_int_equal(cl.whole, 3);
	assert_int_equal(cv_buf_len(&cl.got), 10);
	assert_memory_equal(cv_buf_peek(&cl.got).data, "firstthird", 10);
	expect_end(CV_GRPC_OK, "");
	assert_int_equal(cv_grpc_calls(cl.g), 0);
}

/* Each byte on its own, prefix included. */
static void test_single_bytes(void **state)
{
	static const char bytes[] = "\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\1z";

	(void)state;
	srv_respond("200", "application/grpc");
	for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
		assert_int_equal(cv_buf_append(&srv.answer, bytes + i, 1), 0);
		(void)nghttp2_session_resume_data(srv.session, srv.stream);
		pump();
	}
	assert_int_equal(cl.whole, 3);
	assert_int_equal(cl.lens[0], 3);
	assert_int_equal(cl.lens[1], 0);
	assert_int_equal(cl.lens[2], 1);
	assert_int_equal(cv_buf_len(&cl.got), 4);
	assert_false(cl.ended);
}

/* A message larger than the window arrives as far as the owner takes it. */
static void test_flow_control(void **state)
{
	size_t len = 3 * (size_t)CV_LIMIT_GRPC_WINDOW;
	_cleanup_free_ uint8_t *big = calloc(1, len);

	(void)state;
	cl.hold = true;
	srv_respond("200", "application/grpc");
	srv_message(big, len);
	pump();
	assert_int_equal(cl.lens[0], len);
	assert_int_equal(cl.whole, 0);
	assert_in_range(cv_buf_len(&cl.got), CV_LIMIT_GRPC_WINDOW - 5, CV_LIMIT_GRPC_WINDOW);
	for (size_t taken = 0; taken < len; pump()) {
		size_t n = cv_buf_len(&cl.got) - taken;

		assert_in_range(n, 1, CV_LIMIT_GRPC_WINDOW);
		cv_grpc_consume(cl.call, n);
		taken += n;
	}
	assert_int_equal(cl.whole, 1);
}

/* What the transport has no room for waits. */
static void test_room(void **state)
{
	static uint8_t data[1000];

	(void)state;
	cl.room = 0;
	assert_int_equal(cv_grpc_send(cl.call, data, sizeof(data)), 0);
	pump();
	assert_int_equal(cv_buf_len(&srv.body), 0);
	cl.room = 400;
	pump();
	assert_in_range(cv_buf_len(&srv.body), 1, 400);
	cl.room = SIZE_MAX;
	pump();
	assert_int_equal(cv_buf_len(&srv.body), sizeof(data) + 5);
}

static void test_send_limit(void **state)
{
	_cleanup_free_ uint8_t *big = calloc(1, CV_LIMIT_GRPC_SEND);

	(void)state;
	assert_int_equal(cv_grpc_send(cl.call, big, CV_LIMIT_GRPC_SEND), -ENOBUFS);
	assert_false(cl.ended);
}

static void test_refused_message(void **state)
{
	(void)state;
	cl.max_message = 10;
	srv_respond("200", "application/grpc");
	srv_message("0123456789", 10);
	srv_message("0123456789a", 11);
	srv_message("x", 1);
	pump();
	expect_end(CV_GRPC_RESOURCE_EXHAUSTED, "the message is too long");
	assert_int_equal(cl.whole, 1);
	assert_int_equal(cv_buf_len(&cl.got), 10);
	assert_true(srv.reset);
}

static void test_compressed(void **state)
{
	(void)state;
	srv_respond("200", "application/grpc");
	assert_int_equal(cv_buf_append(&srv.answer, "\1\0\0\0\1x", 6), 0);
	pump();
	expect_end(CV_GRPC_INTERNAL, "the message is compressed");
}

/* The answer's trailers, its status line, or its absence. */
static void test_ends(void **state)
{
	static const struct {
		const char *http, *type, *status, *message, *text;
		int expect;
	} rows[] = {
		{ "200", "application/grpc", "7", "no%20pod%3a%0A%zz%", "no pod: %zz%", 7 },
		{ "200", "application/grpc", "99", NULL, "", 99 },
		{ "200", "application/grpc", "x", "?", "?", CV_GRPC_UNKNOWN },
		{ "200", "application/grpc", NULL, NULL, "the stream ended without a status",
		  CV_GRPC_UNKNOWN },
		{ "200", "text/html", "0", NULL, "the server's answer is not gRPC",
		  CV_GRPC_UNKNOWN },
		{ "503", "text/plain", NULL, NULL, "the server answered with an HTTP error",
		  CV_GRPC_UNAVAILABLE },
		{ "401", "text/plain", NULL, NULL, "the server answered with an HTTP error",
		  CV_GRPC_UNAUTHENTICATED },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		teardown(state);
		setup(state);
		srv_respond(rows[i].http, rows[i].type);
		srv_end(rows[i].status, rows[i].message);
		pump();
		expect_end(rows[i].expect, rows[i].text);
	}
}

static void test_trailers_only(void **state)
{
	const nghttp2_nv h[] = { nv(":status", "200"), nv("content-type", "application/grpc"),
				 nv("grpc-status", "14"),
				 nv("grpc-message", "caches%20not ready") };

	(void)state;
	assert_int_equal(nghttp2_submit_response(srv.session, srv.stream, h, 4, NULL), 0);
	pump();
	expect_end(CV_GRPC_UNAVAILABLE, "caches not ready");
}

static void test_half_message(void **state)
{
	(void)state;
	srv_respond("200", "application/grpc");
	assert_int_equal(cv_buf_append(&srv.answer, "\0\0\0\0\5hel", 8), 0);
	srv_end("0", NULL);
	pump();
	expect_end(CV_GRPC_INTERNAL, "the stream ended inside a message");
	assert_int_equal(cl.whole, 0);
}

static void test_half_prefix(void **state)
{
	(void)state;
	srv_respond("200", "application/grpc");
	assert_int_equal(cv_buf_append(&srv.answer, "\0\0", 2), 0);
	srv_end("0", NULL);
	pump();
	expect_end(CV_GRPC_INTERNAL, "the stream ended inside a message");
}

static void test_reset(void **state)
{
	(void)state;
	nghttp2_submit_rst_stream(srv.session, 0, srv.stream, NGHTTP2_REFUSED_STREAM);
	pump();
	expect_end(CV_GRPC_UNAVAILABLE, "REFUSED_STREAM");
}

static void test_long_headers(void **state)
{
	static char value[CV_LIMIT_GRPC_HEADERS];
	const nghttp2_nv h[] = { nv(":status", "200"), nv("x-long", value) };

	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	((nghttp2_nv *)h)[1].valuelen = sizeof(value) - 1;
	assert_int_equal(nghttp2_submit_response(srv.session, srv.stream, h, 2, NULL), 0);
	pump();
	assert_true(cl.ended);
	assert_int_not_equal(cl.status, CV_GRPC_OK);
}

static void test_goaway(void **state)
{
	struct cv_grpc_call *second;

	(void)state;
	assert_false(cv_grpc_is_closing(cl.g));
	nghttp2_submit_goaway(srv.session, 0, srv.stream, NGHTTP2_NO_ERROR, NULL, 0);
	pump();
	assert_true(cv_grpc_is_closing(cl.g));
	assert_int_equal(cv_grpc_call(cl.g, "/x", NULL, 0, &call_ops, &cl, &second), -EBUSY);
	assert_false(cl.ended);
	srv_respond("200", "application/grpc");
	srv_message("late", 4);
	srv_end("0", NULL);
	pump();
	expect_end(CV_GRPC_OK, "");
	assert_int_equal(cl.whole, 1);
}

static void test_cancel(void **state)
{
	(void)state;
	srv_respond("200", "application/grpc");
	pump();
	cv_grpc_cancel(cl.call);
	srv_message("x", 1);
	pump();
	assert_true(srv.reset);
	assert_false(cl.ended);
	assert_int_equal(cl.messages, 0);
	assert_int_equal(cv_grpc_calls(cl.g), 0);
}

static void test_lost(void **state)
{
	(void)state;
	cv_grpc_free(&cl.g, "connection refused");
	expect_end(CV_GRPC_UNAVAILABLE, "connection refused");
}

static void test_garbage(void **state)
{
	(void)state;
	assert_int_equal(
		cv_grpc_input(cl.g, (const uint8_t *)"HTTP/1.1 400 Bad Request\r\n\r\n", 28, 0), 0);
	pump();
	assert_true(cv_grpc_is_closing(cl.g));
}

static void test_keepalive(void **state)
{
	(void)state;
	assert_int_equal(cv_grpc_tick(cl.g, 1), CV_LIMIT_GRPC_PING_MS - 1);
	assert_int_equal(cv_grpc_tick(cl.g, CV_LIMIT_GRPC_PING_MS), CV_LIMIT_GRPC_PONG_MS);
	pump(); /* the answer arrives at 1000 */
	assert_int_equal(cv_grpc_tick(cl.g, 1000), CV_LIMIT_GRPC_PING_MS);
	assert_int_equal(cv_grpc_tick(cl.g, 1000 + CV_LIMIT_GRPC_PING_MS), CV_LIMIT_GRPC_PONG_MS);
	assert_int_equal(cv_grpc_tick(cl.g, 1000 + CV_LIMIT_GRPC_PING_MS + CV_LIMIT_GRPC_PONG_MS),
			 -ETIMEDOUT);
	assert_true(cv_grpc_is_closing(cl.g));
}

static void test_status_names(void **state)
{
	(void)state;
	assert_string_equal(cv_grpc_status_name(CV_GRPC_UNAVAILABLE), "Unavailable");
	assert_string_equal(cv_grpc_status_name(CV_GRPC_UNAUTHENTICATED), "Unauthenticated");
	assert_string_equal(cv_grpc_status_name(99), "unknown code");
	assert_string_equal(cv_grpc_status_name(-1), "unknown code");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_request),	    TEST(test_messages),     TEST(test_single_bytes),
		TEST(test_flow_control),    TEST(test_room),	     TEST(test_send_limit),
		TEST(test_refused_message), TEST(test_compressed),   TEST(test_ends),
		TEST(test_trailers_only),   TEST(test_half_message), TEST(test_half_prefix),
		TEST(test_reset),	    TEST(test_long_headers), TEST(test_goaway),
		TEST(test_cancel),	    TEST(test_lost),	     TEST(test_garbage),
		TEST(test_keepalive),	    TEST(test_status_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
