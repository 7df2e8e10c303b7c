/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy engine: two ends, two independent halves.
 *
 *        end[0] client                              end[1] server
 *        socket or stream ────── half[0] ──────▶    stream or socket
 *                         ◀───── half[1] ───────
 *
 * An end is a TCP socket or an HTTP/2 stream (at most one of the two is a stream). A half ends on
 * its own: FIN ⇄ END_STREAM. What a slow reader has not taken stays with the half: at most one
 * chunk when it was read from a socket, at most one stream window when it came from a stream;
 * the source then stops, nothing is dropped. One worker's thread.
 */
#pragma once

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>

#include "userspace/base/buf.h"
#include "userspace/proto/h2.h"
#include "userspace/proxy/chunk.h"
#include "userspace/telemetry/traffic.h"

struct cv_hbone_conn;
struct cv_tunnel;

enum cv_half_state {
	CV_HALF_OPEN,
	CV_HALF_EOF, /* the source has ended, what it sent is still being passed on */
	CV_HALF_SHUT, /* the sink was told */
};

struct cv_half {
	enum cv_half_state state;
	enum cv_chunk_tier tier; /* size of the next read */
	struct cv_chunk *chunk; /* source is a socket: read, not yet taken by the sink */
	size_t off, len; /* … the part of it that is left (sink is a socket) */
	struct cv_buf out; /* source is a stream: received, not yet taken by the sink */
	size_t uncredited; /* … bytes of it whose connection window was not given back yet */
};

struct cv_tunnel_end {
	struct cv_tunnel *tunnel;
	int fd; /* owned; -1 = a stream, or not there yet */
	struct cv_h2_stream *stream; /* borrowed from conn until on_closed */
	struct cv_hbone_conn *conn;
	struct event rd, wr;
	bool rd_on, wr_on;
};

struct cv_tunnel {
	struct cv_tunnel_end end[2];
	struct cv_half half[2]; /* half[i] moves from end[i] to the other end */
	struct event_base *base;
	struct cv_chunks *chunks;
	struct cv_traffic *traffic; /* borrowed, may be NULL */
	bool running, done;
	/* Called once, when both halves are shut (error NULL) or the tunnel has failed. Sockets are
	 * closed by then; a stream may still be there until cv_tunnel_on_closed. */
	void (*on_done)(struct cv_tunnel *t, enum cv_flag flag, const char *error);
};

void cv_tunnel_init(struct cv_tunnel *t, struct event_base *base, struct cv_chunks *chunks,
		    void (*on_done)(struct cv_tunnel *t, enum cv_flag flag, const char *error));
/* The ends, before or while payload arrives from the stream. The socket moves in. */
void cv_tunnel_set_socket(struct cv_tunnel *t, int end, int fd);
void cv_tunnel_set_stream(struct cv_tunnel *t, int end, struct cv_h2_stream *s,
			  struct cv_hbone_conn *conn);
/* Both ends are there: copy. Reads what is already waiting before it goes to the loop. */
void cv_tunnel_start(struct cv_tunnel *t);
/* Ends it now: sockets are closed (reset when `abort`), an open stream is reset; on_done is
 * called. Idempotent. */
void cv_tunnel_stop(struct cv_tunnel *t, bool abort, enum cv_flag flag, const char *error);
/* The same for a stream that was answered with a refusal, which has ended it. */
void cv_tunnel_refuse(struct cv_tunnel *t, enum cv_flag flag, const char *error);
/* After the stream is gone; gives the memory back. */
void cv_tunnel_fini(struct cv_tunnel *t);

/* What the connection of the stream end tells. */
void cv_tunnel_on_data(struct cv_tunnel *t, const uint8_t *data, size_t len);
void cv_tunnel_on_eof(struct cv_tunnel *t);
void cv_tunnel_on_sent(struct cv_tunnel *t);
void cv_tunnel_on_closed(struct cv_tunnel *t, uint32_t code);
