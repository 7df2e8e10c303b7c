/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/2 sessions and streams: what the caller asks for. nghttp2 keeps the protocol's state; a
 * stream of ours hangs on nghttp2's as its user data and dies with it.
 *
 *   cv_h2_connect / begin_headers ──▶ live ──▶ (dead: reset or refused) ──▶ on_closed, freed
 */
#include "userspace/proto/h2.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/h2_session.h"

/* Payloads that tell our PINGs apart. */
static const uint8_t ping_alive[8] = "cv.alive";
static const uint8_t ping_shutdown[8] = "cv.close";

/* ---- sessions ------------------------------------------------------------------------------- */

static int make_session(struct cv_h2 *h2, nghttp2_session_callbacks *cbs, nghttp2_option *opts)
{
	cv_h2_recv_callbacks(cbs);
	cv_h2_send_callbacks(cbs);
	nghttp2_option_set_no_auto_window_update(opts, 1);
	nghttp2_option_set_no_closed_streams(opts, 1);
	nghttp2_option_set_peer_max_concurrent_streams(opts, h2->max_streams);
	nghttp2_option_set_max_outbound_ack(opts, CV_LIMIT_OUTBOUND_ACKS);
	nghttp2_option_set_max_settings(opts, CV_LIMIT_SETTINGS_ENTRIES);
	/* h2_limits.c counts both itself; here they only must not strike first. */
	nghttp2_option_set_max_continuations(opts, CV_LIMIT_CONTINUATIONS + 1);
	nghttp2_option_set_stream_reset_rate_limit(opts, UINT32_MAX, UINT32_MAX);
	if (h2->server)
		return nghttp2_session_server_new2(&h2->session, cbs, h2, opts);
	return nghttp2_session_client_new2(&h2->session, cbs, h2, opts);
}

static int new_session(struct cv_h2 *h2)
{
	nghttp2_session_callbacks *cbs = NULL;
	nghttp2_option *opts = NULL;
	int r = nghttp2_session_callbacks_new(&cbs);

	r = r ? r : nghttp2_option_new(&opts);
	r = r ? r : make_session(h2, cbs, opts);
	nghttp2_option_del(opts);
	nghttp2_session_callbacks_del(cbs);
	return r ? -ENOMEM : 0;
}

/* The first frames: SETTINGS in the order of their numbers, and the connection's window. */
static int submit_settings(struct cv_h2 *h2)
{
	const nghttp2_settings_entry of_server[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, CV_LIMIT_STREAMS_IN },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CV_LIMIT_STREAM_WINDOW },
		{ NGHTTP2_SETTINGS_MAX_FRAME_SIZE, CV_LIMIT_FRAME_BYTES },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CV_LIMIT_HEADER_BYTES },
	};
	const nghttp2_settings_entry of_client[] = {
		{ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CV_LIMIT_STREAM_WINDOW },
		{ NGHTTP2_SETTINGS_MAX_FRAME_SIZE, CV_LIMIT_FRAME_BYTES },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CV_LIMIT_HEADER_BYTES_CLIENT },
	};
	int r = nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE,
					h2->server ? of_server : of_client,
					CV_ARRAY_SIZE(of_server));

	r = r ? r :
		nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
						      CV_LIMIT_CONNECTION_WINDOW);
	return r ? -ENOMEM : 0;
}

int cv_h2_new(struct cv_h2 **ret, bool server, const struct cv_h2_ops *ops, void *conn,
	      uint64_t now_ms)
{
	struct cv_h2 *h2 = calloc(1, sizeof(*h2));
	int r;

	if (!h2)
		return -ENOMEM;
	h2->server = server;
	h2->ops = ops;
	h2->conn = conn;
	h2->max_streams = server ? CV_LIMIT_STREAMS_IN : CV_LIMIT_STREAMS_OUT;
	h2->now_ms = now_ms;
	h2->ping_due_ms = now_ms + CV_LIMIT_PING_MS;
	cv_h2_limits_init(h2);
	r = new_session(h2);
	r = r ? r : submit_settings(h2);
	if (r)
		cv_h2_free(&h2);
	else
		*ret = h2;
	return r;
}

void cv_h2_set_max_streams(struct cv_h2 *h2, unsigned max_streams)
{
	h2->max_streams = max_streams;
}

void cv_h2_free(struct cv_h2 **h2p)
{
	struct cv_h2 *h2 = *h2p;

	if (!h2)
		return;
	assert(!h2->in_callback);
	h2->in_callback = true; /* nothing is sent any more */
	while (h2->streams)
		cv_h2_stream_close(h2->streams, CV_H2_CONN_LOST);
	nghttp2_session_del(h2->session);
	cv_hbone_request_fini(&h2->block.request);
	cv_baggage_fini(&h2->block.baggage);
	free(h2);
	*h2p = NULL;
}

int cv_h2_fail(struct cv_h2 *h2, int r, uint32_t code, const char *text)
{
	if (!h2->failed) {
		h2->failed = r;
		h2->error = text;
		/* No memory for the GOAWAY: the connection is closed without it. */
		(void)nghttp2_session_terminate_session(h2->session, code);
	}
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

int cv_h2_input(struct cv_h2 *h2, const uint8_t *data, size_t len, uint64_t now_ms)
{
	ssize_t n;

	assert(!h2->in_callback);
	h2->now_ms = now_ms;
	if (h2->failed)
		return h2->failed;
	h2->in_callback = true;
	n = nghttp2_session_mem_recv(h2->session, data, len);
	h2->in_callback = false;
	if (n == NGHTTP2_ERR_NOMEM)
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
	else if (n == NGHTTP2_ERR_FLOODED)
		(void)cv_h2_fail(h2, -EPROTO, NGHTTP2_ENHANCE_YOUR_CALM, nghttp2_strerror((int)n));
	else if (n < 0)
		(void)cv_h2_fail(h2, -EPROTO, NGHTTP2_PROTOCOL_ERROR, nghttp2_strerror((int)n));
	return h2->failed;
}

int64_t cv_h2_tick(struct cv_h2 *h2, uint64_t now_ms)
{
	h2->now_ms = now_ms;
	if (now_ms < h2->ping_due_ms)
		return (int64_t)(h2->ping_due_ms - now_ms);
	if (h2->ping_open) {
		h2->error = "peer did not answer PING";
		return -ETIMEDOUT;
	}
	if (nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, ping_alive))
		return -ENOMEM;
	h2->ping_open = true;
	h2->ping_due_ms = now_ms + CV_LIMIT_PONG_MS;
	return CV_LIMIT_PONG_MS;
}

void cv_h2_on_pong(struct cv_h2 *h2, const uint8_t opaque[8])
{
	if (h2->ping_open && !memcmp(opaque, ping_alive, sizeof(ping_alive))) {
		h2->ping_open = false;
		h2->ping_due_ms = h2->now_ms + CV_LIMIT_PING_MS;
	} else if (h2->shutdown && !memcmp(opaque, ping_shutdown, sizeof(ping_shutdown))) {
		/* What the peer opened before it saw the notice has arrived by now. */
		if (nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
					  nghttp2_session_get_last_proc_stream_id(h2->session),
					  NGHTTP2_NO_ERROR, NULL, 0))
			(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
	}
}

void cv_h2_shutdown(struct cv_h2 *h2)
{
	if (h2->shutdown)
		return;
	h2->shutdown = true;
	h2->no_new = true;
	if (!h2->server)
		return;
	if (nghttp2_submit_shutdown_notice(h2->session) ||
	    nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, ping_shutdown))
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

void cv_h2_tell_goaway(struct cv_h2 *h2)
{
	h2->no_new = true;
	if (h2->goaway_told)
		return;
	h2->goaway_told = true;
	h2->ops->on_goaway(h2->conn);
}

unsigned cv_h2_streams(const struct cv_h2 *h2)
{
	return h2->nr_streams;
}

bool cv_h2_can_open(const struct cv_h2 *h2)
{
	return !h2->server && !h2->no_new && !h2->failed && h2->nr_streams < h2->max_streams &&
	       h2->nr_streams < nghttp2_session_get_remote_settings(
					h2->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) &&
	       nghttp2_session_check_request_allowed(h2->session);
}

bool cv_h2_wants_write(const struct cv_h2 *h2)
{
	return nghttp2_session_want_write(h2->session);
}

bool cv_h2_done(const struct cv_h2 *h2)
{
	return !nghttp2_session_want_read(h2->session) && !nghttp2_session_want_write(h2->session);
}

const char *cv_h2_error_text(const struct cv_h2 *h2)
{
	return h2->error ? h2->error : "no error";
}

/* ---- streams -------------------------------------------------------------------------------- */

struct cv_h2_stream *cv_h2_stream_new(struct cv_h2 *h2)
{
	struct cv_h2_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->h2 = h2;
	s->next = h2->streams;
	s->link = &h2->streams;
	if (s->next)
		s->next->link = &s->next;
	h2->streams = s;
	h2->nr_streams++;
	return s;
}

static void free_stream(struct cv_h2_stream *s)
{
	*s->link = s->next;
	if (s->next)
		s->next->link = s->link;
	s->h2->nr_streams--;
	free(s);
}

void cv_h2_stream_close(struct cv_h2_stream *s, uint32_t code)
{
	struct cv_h2 *h2 = s->h2;

	if (s->unconsumed && nghttp2_session_consume_connection(h2->session, s->unconsumed))
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
	s->unconsumed = 0;
	s->dead = true;
	h2->ops->on_closed(h2->conn, s, code);
	free_stream(s);
}

static nghttp2_nv make_field(const char *name, const char *value)
{
	return (nghttp2_nv){
		.name = (uint8_t *)name,
		.namelen = strlen(name),
		.value = (uint8_t *)value,
		.valuelen = strlen(value),
		.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME,
	};
}

int cv_h2_connect(struct cv_h2 *h2, const struct cv_h2_connect *req, void *user,
		  struct cv_h2_stream **ret)
{
	const struct {
		const char *name, *value;
	} optional[] = {
		{ "baggage", req->baggage },
		{ "forwarded", req->forwarded },
		{ "traceparent", req->traceparent },
	};
	nghttp2_nv fields[2 + CV_ARRAY_SIZE(optional)];
	struct cv_h2_stream *s;
	size_t n = 0;

	if (!cv_h2_can_open(h2))
		return -EBUSY;
	s = cv_h2_stream_new(h2);
	if (!s)
		return -ENOMEM;
	s->user = user;
	fields[n++] = make_field(":method", "CONNECT");
	fields[n++] = make_field(":authority", req->authority);
	for (size_t i = 0; i < CV_ARRAY_SIZE(optional); i++) {
		if (optional[i].value)
			fields[n++] = make_field(optional[i].name, optional[i].value);
	}
	s->id = nghttp2_submit_request(h2->session, NULL, fields, n, &cv_h2_data_provider, s);
	if (s->id < 0) {
		bool used_up = s->id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE;

		free_stream(s);
		if (used_up)
			cv_h2_tell_goaway(h2);
		return used_up ? -EBUSY : -ENOMEM;
	}
	*ret = s;
	return 0;
}

int cv_h2_respond(struct cv_h2_stream *s, int status, const char *baggage)
{
	struct cv_h2 *h2 = s->h2;
	char text[4];
	nghttp2_nv fields[2];
	size_t n = 0;

	if (s->dead || s->answered)
		return -EPIPE;
	snprintf(text, sizeof(text), "%03u", (unsigned)status % 1000);
	fields[n++] = make_field(":status", text);
	if (baggage)
		fields[n++] = make_field("baggage", baggage);
	if (nghttp2_submit_response(h2->session, s->id, fields, n,
				    status == 200 ? &cv_h2_data_provider : NULL))
		return -ENOMEM;
	s->answered = true;
	if (status != 200) {
		s->dead = true;
		cv_h2_limit_refusal(h2);
	}
	return 0;
}

/* The stream has something to send again. */
static void resume(struct cv_h2_stream *s)
{
	int r = nghttp2_session_resume_data(s->h2->session, s->id);

	/* Not waiting is no error: it will be asked for its payload in turn. */
	if (r && nghttp2_is_fatal(r))
		(void)cv_h2_fail(s->h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, nghttp2_strerror(r));
}

int cv_h2_send(struct cv_h2_stream *s, uint8_t *data, size_t len)
{
	if (s->dead || s->eof)
		return -EPIPE;
	if (s->pending)
		return -EBUSY;
	s->data = data;
	s->pending = len;
	if (len)
		resume(s);
	return 0;
}

size_t cv_h2_send_pending(const struct cv_h2_stream *s)
{
	return s->pending;
}

int cv_h2_send_eof(struct cv_h2_stream *s)
{
	if (s->dead)
		return -EPIPE;
	s->eof = true;
	resume(s);
	return 0;
}

void cv_h2_reset(struct cv_h2_stream *s, uint32_t code)
{
	struct cv_h2 *h2 = s->h2;

	if (s->dead)
		return;
	s->dead = true;
	s->pending = 0;
	if (nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, s->id, code))
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

void cv_h2_consume_connection(struct cv_h2_stream *s, size_t n)
{
	struct cv_h2 *h2 = s->h2;

	assert(n <= s->unconsumed);
	s->unconsumed -= n;
	if (nghttp2_session_consume_connection(h2->session, n))
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

void cv_h2_consume_stream(struct cv_h2_stream *s, size_t n)
{
	struct cv_h2 *h2 = s->h2;

	if (nghttp2_session_consume_stream(h2->session, s->id, n))
		(void)cv_h2_fail(h2, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

void cv_h2_consume(struct cv_h2_stream *s, size_t n)
{
	cv_h2_consume_connection(s, n);
	cv_h2_consume_stream(s, n);
}

void *cv_h2_stream_user(const struct cv_h2_stream *s)
{
	return s->user;
}

void cv_h2_stream_set_user(struct cv_h2_stream *s, void *user)
{
	s->user = user;
}
