/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the HTTP/2 adapter share: the session, its streams, and who does what.
 *
 *   h2.c         life of a session and of its streams, everything the caller asks for
 *   h2_recv.c    nghttp2's callbacks for what arrives
 *   h2_send.c    what leaves: control frames in batches, payload without a copy
 *   h2_limits.c  what a peer may do how often
 */
#pragma once

#include <nghttp2/nghttp2.h>

#include "userspace/base/rate.h"
#include "userspace/proto/h2.h"

struct h2_batch;

struct cv_h2_stream {
	struct cv_h2 *h2;
	struct cv_h2_stream *next, **link; /* of h2->streams */
	void *user;
	uint8_t *data; /* offered, `pending` bytes left */
	size_t pending;
	size_t unconsumed; /* received, not yet announced as consumed */
	int32_t id;
	bool eof; /* END_STREAM follows what is pending */
	bool answered; /* final response headers were received or submitted */
	bool peer_eof; /* END_STREAM was received */
	bool dead; /* reset or refused by us: the caller hears nothing but on_closed */
};

/* The header block that is being received: HTTP/2 allows one at a time. */
struct h2_block {
	struct cv_hbone_request request; /* server */
	struct cv_baggage baggage; /* client */
	bool has_baggage;
	int status; /* client */
	size_t wire_bytes; /* compressed, of all its frames */
	size_t list_bytes; /* as SETTINGS_MAX_HEADER_LIST_SIZE counts */
	unsigned continuations, fields;
};

struct cv_h2 {
	nghttp2_session *session;
	const struct cv_h2_ops *ops;
	void *conn;
	struct cv_h2_stream *streams;
	unsigned nr_streams, max_streams;
	bool server;
	bool in_callback; /* inside nghttp2: it must not be entered again */
	bool no_new; /* shutting down, or the peer said GOAWAY */
	bool goaway_told; /* on_goaway was called */
	bool shutdown; /* cv_h2_shutdown was called */
	bool mute; /* ops->write failed: nothing can be sent */
	bool ping_open; /* keepalive PING without its answer */
	int failed; /* -errno once the connection is broken */
	const char *error; /* why, static */
	uint64_t now_ms;
	uint64_t ping_due_ms; /* send the next, or give up on the one that is open */
	struct h2_block block;
	struct h2_batch *batch; /* during cv_h2_output */
	struct cv_rate resets, refusals, control;
};

/* Breaks the connection: GOAWAY with code, and nothing from the peer counts any more. Returns what
 * an nghttp2 receive callback returns to stop there. The first failure is kept. */
int cv_h2_fail(struct cv_h2 *h2, int r, uint32_t code, const char *text);

/* h2.c */
struct cv_h2_stream *cv_h2_stream_new(struct cv_h2 *h2);
/* Calls on_closed, gives the connection window back, frees. */
void cv_h2_stream_close(struct cv_h2_stream *s, uint32_t code);
void cv_h2_tell_goaway(struct cv_h2 *h2);
void cv_h2_on_pong(struct cv_h2 *h2, const uint8_t opaque[8]);

/* Each registers its callbacks. */
void cv_h2_recv_callbacks(nghttp2_session_callbacks *cbs);
void cv_h2_send_callbacks(nghttp2_session_callbacks *cbs);
/* The source of every stream's payload. */
extern const nghttp2_data_provider cv_h2_data_provider;

/* h2_limits.c: each returns 0 or, after cv_h2_fail, an nghttp2 error. */
void cv_h2_limits_init(struct cv_h2 *h2);
int cv_h2_limit_frame(struct cv_h2 *h2, const nghttp2_frame_hd *hd);
int cv_h2_limit_control(struct cv_h2 *h2);
int cv_h2_limit_reset(struct cv_h2 *h2);
/* False when a header list has become too long. */
bool cv_h2_limit_field(struct cv_h2 *h2, size_t name_len, size_t value_len);
/* One more request that we refused: too many end the connection, gracefully. */
void cv_h2_limit_refusal(struct cv_h2 *h2);
