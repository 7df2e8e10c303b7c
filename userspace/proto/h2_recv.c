/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What arrives: nghttp2 has checked frames, states and header syntax; here they become the
 * caller's events.
 *
 *   HEADERS   begin_headers ─▶ header … header ─▶ frame_recv ─▶ on_request / on_response
 *   DATA      data_chunk … ─▶ on_data, then frame_recv ─▶ on_eof
 *   any end   stream_close ─▶ on_closed
 *
 * A stream that we gave up on (`dead`) tells its caller nothing more until on_closed.
 */
#include <errno.h>
#include <string.h>

#include "userspace/limits.h"
#include "userspace/proto/h2_session.h"

static struct cv_h2_stream *find_stream(struct cv_h2 *h2, int32_t id)
{
	return nghttp2_session_get_stream_user_data(h2->session, id);
}

static void reset_block(struct h2_block *b)
{
	cv_hbone_request_fini(&b->request);
	cv_baggage_fini(&b->baggage);
	*b = (struct h2_block){ .wire_bytes = b->wire_bytes, .continuations = b->continuations };
}

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
	(void)session;
	return cv_h2_limit_frame(arg, hd);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s;

	reset_block(&h2->block);
	if (!h2->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	s = cv_h2_stream_new(h2);
	if (!s)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	s->id = frame->hd.stream_id;
	nghttp2_session_set_stream_user_data(session, s->id, s);
	return 0;
}

/* A header list beyond its limit costs the stream, not the connection. */
static int refuse_block(struct cv_h2 *h2, int32_t id)
{
	struct cv_h2_stream *s = find_stream(h2, id);
	int r = cv_h2_limit_reset(h2);

	if (s)
		s->dead = true;
	if (!r)
		r = nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, id,
					      NGHTTP2_ENHANCE_YOUR_CALM);
	return r ? NGHTTP2_ERR_CALLBACK_FAILURE : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void on_response_header(struct h2_block *b, const char *name, size_t nlen, const char *value,
			       size_t vlen)
{
	static const char status[] = ":status", baggage[] = "baggage";

	if (nlen == strlen(status) && !memcmp(name, status, nlen) && vlen == 3) {
		/* nghttp2 lets three digits through and nothing else. */
		b->status = (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
	} else if (nlen == strlen(baggage) && !memcmp(name, baggage, nlen)) {
		cv_baggage_parse(&b->baggage, value, vlen);
		b->has_baggage = true;
	}
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t nlen, const uint8_t *value, size_t vlen, uint8_t flags, void *arg)
{
	struct cv_h2 *h2 = arg;

	(void)session;
	(void)flags;
	if (!cv_h2_limit_field(h2, nlen, vlen))
		return refuse_block(h2, frame->hd.stream_id);
	if (!h2->server)
		on_response_header(&h2->block, (const char *)name, nlen, (const char *)value, vlen);
	else if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		cv_hbone_request_header(&h2->block.request, (const char *)name, nlen,
					(const char *)value, vlen);
	return 0;
}

static int on_headers(struct cv_h2 *h2, struct cv_h2_stream *s, const nghttp2_frame *frame)
{
	struct h2_block *b = &h2->block;

	if (h2->server) {
		if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
			h2->ops->on_request(h2->conn, s, &b->request);
	} else if (b->status >= 100 && b->status < 200) {
		return cv_h2_limit_control(h2);
	} else if (!s->answered && b->status < 100) {
		cv_h2_reset(s, NGHTTP2_PROTOCOL_ERROR); /* "045" are three digits, and no status */
		return cv_h2_limit_reset(h2);
	} else if (!s->answered) {
		s->answered = true;
		h2->ops->on_response(h2->conn, s, b->status, b->has_baggage ? &b->baggage : NULL);
	}
	return 0;
}

/* A frame of a live stream, complete. */
static int on_stream_frame(struct cv_h2 *h2, struct cv_h2_stream *s, const nghttp2_frame *frame)
{
	bool eof = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	int r = 0;

	if (frame->hd.type == NGHTTP2_HEADERS)
		r = on_headers(h2, s, frame);
	else if (!eof && frame->hd.length == frame->data.padlen)
		r = cv_h2_limit_control(h2); /* no payload, no end: a frame about nothing */
	if (r || !eof)
		return r;
	s->peer_eof = true;
	if (!s->dead)
		h2->ops->on_eof(h2->conn, s);
	return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s;
	int r = 0;

	(void)session;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
		s = find_stream(h2, frame->hd.stream_id);
		if (s && !s->dead)
			r = on_stream_frame(h2, s, frame);
		else if (s)
			s->peer_eof |= frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
		if (frame->hd.type == NGHTTP2_HEADERS)
			reset_block(&h2->block);
		return r;
	case NGHTTP2_RST_STREAM:
		return cv_h2_limit_reset(h2);
	case NGHTTP2_PING:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			cv_h2_on_pong(h2, frame->ping.opaque_data);
		return 0;
	case NGHTTP2_GOAWAY:
		cv_h2_tell_goaway(h2);
		return 0;
	default:
		return 0;
	}
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
			 size_t len, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s = find_stream(h2, id);

	(void)flags;
	/* nghttp2 tells of what is beyond the window, too, and resets the stream later. */
	if (s && s->unconsumed + len > CV_LIMIT_STREAM_WINDOW)
		s->dead = true;
	if (!s || s->dead) {
		/* Nobody will read it, but the other streams need the window. */
		return nghttp2_session_consume_connection(session, len) ?
			       NGHTTP2_ERR_CALLBACK_FAILURE :
			       0;
	}
	s->unconsumed += len;
	h2->ops->on_data(h2->conn, s, data, len);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
	struct cv_h2_stream *s = find_stream(arg, id);

	(void)session;
	if (s)
		cv_h2_stream_close(s, code);
	return 0;
}

void cv_h2_recv_callbacks(nghttp2_session_callbacks *cbs)
{
	nghttp2_session_callbacks_set_on_begin_frame_callback(cbs, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cbs, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(cbs, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, on_data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(cbs, on_stream_close);
}
