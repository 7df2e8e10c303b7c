/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/2 for HBONE: an adapter around nghttp2 that knows CONNECT streams and nothing of
 * sockets. Bytes go in by cv_h2_input, come out through ops->write; time is an argument.
 *
 * Flow control is the caller's: received payload is announced as consumed only by
 * cv_h2_consume, so a stream whose reader is slow stops its own sender; payload to send is
 * offered by cv_h2_send and taken as far as the windows allow, zero-copy: the caller keeps
 * CV_H2_HEADROOM writable bytes in front of it, into which the frame header is written.
 * Streams: each half ends on its own (END_STREAM); on_closed is the last callback of a stream.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/buf.h"
#include "userspace/proto/hbone.h"

enum { CV_H2_HEADROOM = 9 };

struct cv_h2;
struct cv_h2_stream;

struct cv_h2_ops {
	/* Bytes for the wire. data is borrowed. A negative return breaks the connection. */
	int (*write)(void *conn, const uint8_t *data, size_t len);
	/* How many payload bytes the transport takes now; 0 holds DATA frames back (back-pressure). */
	size_t (*room)(void *conn);
	/* Server: a request's header block is complete. The callee answers with cv_h2_respond now or
	 * later, or resets. */
	void (*on_request)(void *conn, struct cv_h2_stream *s, const struct cv_hbone_request *r);
	/* Client: final response headers. */
	void (*on_response)(void *conn, struct cv_h2_stream *s, int status,
			    const struct cv_baggage *baggage);
	/* Payload, borrowed; the callee must take all of it (write or copy). */
	void (*on_data)(void *conn, struct cv_h2_stream *s, const uint8_t *data, size_t len);
	void (*on_eof)(void *conn, struct cv_h2_stream *s); /* peer's END_STREAM */
	/* What cv_h2_send holds was sent in part or whole: cv_h2_send_pending() tells how much is left. */
	void (*on_sent)(void *conn, struct cv_h2_stream *s);
	/* The stream is gone: code 0 after both ends finished, else an HTTP/2 error code, or
	 * CV_H2_CONN_LOST. A peer's RST_STREAM(NO_ERROR) is code 0 as well, before both ends have
	 * finished; like CANCEL (8) it reads as the peer's end of data. `s` is freed after the
	 * callback. */
	void (*on_closed)(void *conn, struct cv_h2_stream *s, uint32_t code);
	/* The peer said GOAWAY or the session can take no new streams; existing ones go on. */
	void (*on_goaway)(void *conn);
};

#define CV_H2_CONN_LOST 0xffffffffu

/* A client opens at most CV_LIMIT_STREAMS_OUT streams at a time unless cv_h2_set_max_streams says
 * otherwise. Queues the preface: call cv_h2_output. */
int cv_h2_new(struct cv_h2 **ret, bool server, const struct cv_h2_ops *ops, void *conn,
	      uint64_t now_ms);
/* Client: as many streams at a time; the peer may allow fewer. */
void cv_h2_set_max_streams(struct cv_h2 *h2, unsigned max_streams);
/* on_closed(CV_H2_CONN_LOST) for every stream that is left, then frees. */
void cv_h2_free(struct cv_h2 **h2);

/* Feed bytes; data may be scratch memory. 0, or -EPROTO or -ENOMEM: call cv_h2_output (GOAWAY), then
 * close. Some errors of the peer show only there. cv_h2_error_text says why. Never frees h2 itself;
 * not to be called from a callback. */
int cv_h2_input(struct cv_h2 *h2, const uint8_t *data, size_t len, uint64_t now_ms);
/* Sends what is queued through ops->write, payload as far as ops->room allows; in a callback it does
 * nothing. 0, or the error that has broken the connection (the GOAWAY is written by then). */
int cv_h2_output(struct cv_h2 *h2);
/* Keepalive: queues a PING when due. Returns ms until it wants to be called again, or -ETIMEDOUT
 * when the peer left a PING unanswered. */
int64_t cv_h2_tick(struct cv_h2 *h2, uint64_t now_ms);

/* Client: opens a CONNECT stream. Headers that are NULL are not sent. */
struct cv_h2_connect {
	const char *authority, *baggage, *forwarded, *traceparent;
};
/* -EBUSY when cv_h2_can_open says no. */
int cv_h2_connect(struct cv_h2 *h2, const struct cv_h2_connect *req, void *user,
		  struct cv_h2_stream **ret);
/* Server: answers. status 200 leaves the stream open; anything else ends it: nothing but on_closed
 * follows. A peer that is refused too often is shut down gracefully. -EPIPE: answered or reset
 * before. */
int cv_h2_respond(struct cv_h2_stream *s, int status, const char *baggage);

/* Offer payload. data[-CV_H2_HEADROOM … -1] must be writable scratch, and data must stay
 * valid until cv_h2_send_pending() is 0 or on_closed; what is in front of the part that is left may
 * be overwritten. One offer at a time (-EBUSY); -EPIPE after cv_h2_send_eof or a reset. */
int cv_h2_send(struct cv_h2_stream *s, uint8_t *data, size_t len);
size_t cv_h2_send_pending(const struct cv_h2_stream *s);
/* END_STREAM after what is pending. */
int cv_h2_send_eof(struct cv_h2_stream *s);
/* RST_STREAM. Nothing but on_closed follows, from cv_h2_output. */
void cv_h2_reset(struct cv_h2_stream *s, uint32_t code);
/* n bytes of on_data have been passed on: opens the windows again. */
void cv_h2_consume(struct cv_h2_stream *s, size_t n);
/* The two halves of it, for payload that waits for a slow reader: the connection's window may open at
 * once, so that the other streams go on, and the stream's when the payload has been passed on. */
void cv_h2_consume_connection(struct cv_h2_stream *s, size_t n);
void cv_h2_consume_stream(struct cv_h2_stream *s, size_t n);

/* Graceful shutdown: two-step GOAWAY (server), no new streams. */
void cv_h2_shutdown(struct cv_h2 *h2);

void *cv_h2_stream_user(const struct cv_h2_stream *s);
void cv_h2_stream_set_user(struct cv_h2_stream *s, void *user);
unsigned cv_h2_streams(const struct cv_h2 *h2); /* open now */
bool cv_h2_can_open(const struct cv_h2 *h2); /* client: room for one more stream */
bool cv_h2_wants_write(const struct cv_h2 *h2);
/* After a GOAWAY of either side: all streams have ended, close the connection. */
bool cv_h2_done(const struct cv_h2 *h2);
const char *cv_h2_error_text(const struct cv_h2 *h2);
