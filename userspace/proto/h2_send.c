/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leaves. Control frames are small and come one by one, so they are gathered and written in
 * one piece; payload is written from where the caller keeps it, with the frame header put into the
 * headroom before it.
 *
 * nghttp2 decides the order: control frames first, then the streams in turn.
 */
#include <errno.h>
#include <string.h>

#include "userspace/limits.h"
#include "userspace/proto/h2_session.h"

enum {
	BATCH_BYTES = 2048,
	MAX_DATA_FRAME = CV_LIMIT_TCP_READ, /* longer frames gain nothing and hold others up */
	BYTES_PER_CREDIT = 1024, /* payload sent that pays for one control frame */
};

struct h2_batch {
	size_t len;
	uint8_t data[BATCH_BYTES];
};

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static int write_bytes(struct cv_h2 *h2, const uint8_t *data, size_t len)
{
	int r = h2->ops->write(h2->conn, data, len);

	if (r >= 0)
		return 0;
	h2->mute = true;
	if (!h2->failed) {
		h2->failed = r;
		h2->error = "write failed";
	}
	return r;
}

static int flush_batch(struct cv_h2 *h2)
{
	size_t len = h2->batch->len;

	h2->batch->len = 0;
	return len ? write_bytes(h2, h2->batch->data, len) : 0;
}

static int add_to_batch(struct cv_h2 *h2, const uint8_t *data, size_t len)
{
	struct h2_batch *b = h2->batch;
	int r = len > sizeof(b->data) - b->len ? flush_batch(h2) : 0;

	if (r)
		return r;
	if (len > sizeof(b->data))
		return write_bytes(h2, data, len);
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return 0;
}

/* How much of a stream the next DATA frame takes. nghttp2 wants at least 1; whether anything is
 * sent at all is for read_payload to say. */
static ssize_t choose_length(nghttp2_session *session, uint8_t type, int32_t id,
			     int32_t session_window, int32_t stream_window, uint32_t max_frame,
			     void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s = nghttp2_session_get_stream_user_data(session, id);
	size_t n = min_size(max_frame, MAX_DATA_FRAME);

	(void)type;
	n = min_size(n, (size_t)(session_window > 0 ? session_window : 0));
	n = min_size(n, (size_t)(stream_window > 0 ? stream_window : 0));
	n = min_size(n, h2->ops->room(h2->conn));
	if (s)
		n = min_size(n, s->pending);
	return n ? (ssize_t)n : 1;
}

static ssize_t read_payload(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len,
			    uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s = nghttp2_session_get_stream_user_data(session, id);
	size_t n;

	(void)buf;
	(void)source;
	if (!s || s->dead || (!s->pending && !s->eof))
		return NGHTTP2_ERR_DEFERRED;
	if (s->pending && !h2->ops->room(h2->conn))
		return NGHTTP2_ERR_PAUSE;
	n = min_size(len, s->pending);
	*flags = NGHTTP2_DATA_FLAG_NO_COPY;
	if (s->eof && n == s->pending)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

const nghttp2_data_provider cv_h2_data_provider = { .read_callback = read_payload };

static int send_payload(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header,
			size_t len, nghttp2_data_source *source, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

	(void)source;
	if (!s)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (!len)
		return add_to_batch(h2, header, CV_H2_HEADROOM) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
	memcpy(s->data - CV_H2_HEADROOM, header, CV_H2_HEADROOM);
	if (flush_batch(h2) || write_bytes(h2, s->data - CV_H2_HEADROOM, len + CV_H2_HEADROOM))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	s->data += len;
	s->pending -= len;
	cv_rate_give(&h2->control, (uint32_t)(len / BYTES_PER_CREDIT));
	h2->ops->on_sent(h2->conn, s);
	return 0;
}

/* The whole answer is out: what the client still sends is not wanted. */
static int on_answer_ended(struct cv_h2 *h2, struct cv_h2_stream *s)
{
	if (!h2->server || !s || s->peer_eof)
		return 0;
	return nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct cv_h2 *h2 = arg;
	struct cv_h2_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
			return on_answer_ended(h2, s);
		return 0;
	case NGHTTP2_RST_STREAM:
		/* Not ours but nghttp2's: the peer broke a rule of this stream. Whoever does not
		 * respect a window would go on sending what nobody reads. */
		if (frame->rst_stream.error_code == NGHTTP2_FLOW_CONTROL_ERROR)
			(void)cv_h2_fail(h2, -EPROTO, NGHTTP2_FLOW_CONTROL_ERROR,
					 "peer ignores flow control");
		else if (!s || !s->dead)
			(void)cv_h2_limit_reset(h2); /* the GOAWAY is queued, go on sending */
		return 0;
	case NGHTTP2_GOAWAY:
		if (frame->goaway.error_code != NGHTTP2_NO_ERROR && !h2->failed) {
			h2->failed = -EPROTO;
			h2->error = nghttp2_http2_strerror(frame->goaway.error_code);
		}
		return 0;
	default:
		return 0;
	}
}

int cv_h2_output(struct cv_h2 *h2)
{
	struct h2_batch batch = { .len = 0 };
	const uint8_t *data;
	ssize_t n = 1;
	int r = 0;

	if (h2->in_callback)
		return 0; /* whoever is below us on the stack sends */
	if (h2->mute)
		return h2->failed;
	h2->in_callback = true;
	h2->batch = &batch;
	while (n > 0 && !r && nghttp2_session_want_write(h2->session)) {
		n = nghttp2_session_mem_send(h2->session, &data);
		if (n > 0)
			r = add_to_batch(h2, data, (size_t)n);
	}
	if (n >= 0 && !r)
		(void)flush_batch(h2); /* its failure is in h2->failed */
	h2->batch = NULL;
	h2->in_callback = false;
	if (n < 0 && !h2->failed) {
		h2->failed = n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
		h2->error = nghttp2_strerror((int)n);
	}
	return h2->failed;
}

void cv_h2_send_callbacks(nghttp2_session_callbacks *cbs)
{
	nghttp2_session_callbacks_set_data_source_read_length_callback(cbs, choose_length);
	nghttp2_session_callbacks_set_send_data_callback(cbs, send_payload);
	nghttp2_session_callbacks_set_on_frame_send_callback(cbs, on_frame_send);
}
