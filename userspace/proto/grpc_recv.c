/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What arrives for a call: response headers, pieces of messages, trailers, the end.
 *
 *   DATA ─▶ prefix (5 bytes) ─▶ on_message ─▶ on_data … ─▶ on_message_end ─▶ prefix …
 *
 * A call that failed is deaf: what still arrives for it is dropped and its window given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/grpc_session.h"

static struct cv_grpc_call *find_call(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

static bool is_name(const uint8_t *name, size_t len, const char *text)
{
	return len == strlen(text) && !memcmp(name, text, len);
}

static void set_text(struct cv_grpc_call *call, const uint8_t *value, size_t len)
{
	free(call->text);
	call->text = cv_grpc_text(value, len);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t nlen, const uint8_t *value, size_t vlen, uint8_t flags, void *arg)
{
	static const char type[] = "application/grpc";
	struct cv_grpc_call *call = find_call(session, frame->hd.stream_id);

	(void)flags;
	(void)arg;
	if (!call || call->deaf)
		return 0;
	call->header_bytes += nlen + vlen;
	if (call->header_bytes > CV_LIMIT_GRPC_HEADERS)
		cv_grpc_call_fail(call, CV_GRPC_RESOURCE_EXHAUSTED, "headers are too long");
	else if (is_name(name, nlen, ":status") && vlen == 3)
		call->http_status =
			(value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
	else if (is_name(name, nlen, "content-type"))
		call->is_grpc = vlen >= strlen(type) && !memcmp(value, type, strlen(type));
	else if (is_name(name, nlen, "grpc-status"))
		call->status = cv_grpc_status_parse(value, vlen);
	else if (is_name(name, nlen, "grpc-message"))
		set_text(call, value, vlen);
	return 0;
}

/* The peer's answer has begun: is it gRPC's? */
static void check_response(struct cv_grpc_call *call)
{
	if (call->deaf || call->http_status < 200) /* interim */
		return;
	if (call->http_status != 200)
		cv_grpc_call_fail(call, cv_grpc_status_of_http(call->http_status),
				  "the server answered with an HTTP error");
	else if (!call->is_grpc)
		cv_grpc_call_fail(call, CV_GRPC_UNKNOWN, "the server's answer is not gRPC");
}

/* The server has said its last word: what we still had to say is of no use. */
static void end_both(struct cv_grpc_call *call)
{
	nghttp2_session *session = call->g->session;

	if (nghttp2_session_get_stream_local_close(session, call->id) == 0 &&
	    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->id, NGHTTP2_NO_ERROR))
		cv_grpc_fail(call->g, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct cv_grpc *g = arg;
	struct cv_grpc_call *call = find_call(session, frame->hd.stream_id);

	if (frame->hd.type == NGHTTP2_GOAWAY)
		g->closing = true;
	else if (frame->hd.type == NGHTTP2_HEADERS && call)
		check_response(call);
	else if (frame->hd.type == NGHTTP2_PING && frame->hd.flags & NGHTTP2_FLAG_ACK) {
		g->ping_open = false;
		g->ping_due_ms = g->now_ms + CV_LIMIT_GRPC_PING_MS;
	}
	if (call && frame->hd.flags & NGHTTP2_FLAG_END_STREAM &&
	    (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA))
		end_both(call);
	return 0;
}

/* A rule of HTTP/2 was broken, which nghttp2 tells the peer by itself. */
static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	(void)session;
	if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
		cv_grpc_fail(arg, -EPROTO, frame->goaway.error_code,
			     nghttp2_http2_strerror(frame->goaway.error_code));
	return 0;
}

/* The prefix is complete: a message begins. */
static void begin_message(struct cv_grpc_call *call)
{
	const uint8_t *p = call->prefix;

	call->left = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
	if (p[0])
		cv_grpc_call_fail(call, CV_GRPC_INTERNAL, "the message is compressed");
	else if (call->ops->on_message && call->ops->on_message(call->arg, call->left) < 0)
		cv_grpc_call_fail(call, CV_GRPC_RESOURCE_EXHAUSTED, "the message is too long");
}

static void end_message(struct cv_grpc_call *call)
{
	call->prefix_len = 0;
	if (!call->deaf && call->ops->on_message_end)
		call->ops->on_message_end(call->arg);
}

static size_t take_prefix(struct cv_grpc_call *call, const uint8_t *data, size_t len)
{
	size_t n = GRPC_PREFIX - call->prefix_len;

	n = n < len ? n : len;
	memcpy(call->prefix + call->prefix_len, data, n);
	call->prefix_len += (unsigned)n;
	if (call->prefix_len < GRPC_PREFIX)
		return n;
	begin_message(call);
	if (!call->left)
		end_message(call);
	return n;
}

static size_t take_payload(struct cv_grpc_call *call, const uint8_t *data, size_t len)
{
	size_t n = call->left < len ? call->left : len;

	call->left -= n;
	call->unconsumed += n;
	if (call->ops->on_data)
		call->ops->on_data(call->arg, data, n);
	else
		cv_grpc_consume(call, n);
	if (!call->left)
		end_message(call);
	return n;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
		   size_t len, void *arg)
{
	struct cv_grpc_call *call = find_call(session, id);
	size_t framing = 0, n;

	(void)flags;
	while (len && call && !call->deaf) {
		bool payload = call->prefix_len == GRPC_PREFIX;

		n = payload ? take_payload(call, data, len) : take_prefix(call, data, len);
		framing += payload ? 0 : n;
		data += n;
		len -= n;
	}
	if (nghttp2_session_consume(session, id, framing + len)) /* … and what nobody wants */
		cv_grpc_fail(arg, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
	struct cv_grpc_call *call = find_call(session, id);
	bool partial;

	(void)arg;
	if (!call)
		return 0;
	partial = call->left || call->prefix_len;
	if (call->status == CV_GRPC_OK && !call->deaf && partial)
		cv_grpc_call_close(call, CV_GRPC_INTERNAL, "the stream ended inside a message");
	else if (call->status >= 0)
		cv_grpc_call_close(call, call->status, call->text ? call->text : "");
	else if (code == NGHTTP2_NO_ERROR)
		cv_grpc_call_close(call, CV_GRPC_UNKNOWN, "the stream ended without a status");
	else
		cv_grpc_call_close(call, cv_grpc_status_of_h2(code), nghttp2_http2_strerror(code));
	return 0;
}

void cv_grpc_recv_callbacks(nghttp2_session_callbacks *cbs)
{
	nghttp2_session_callbacks_set_on_header_callback(cbs, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, on_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cbs, on_sent);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cbs, on_stream_close);
}
