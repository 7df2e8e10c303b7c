/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC's client side over one HTTP/2 connection: an adapter around nghttp2 that knows calls and
 * messages and nothing of sockets. Bytes go in by cv_grpc_input, come out through ops->write.
 *
 * A message is told in pieces as its bytes arrive and never held whole here; bytes count as taken
 * (and the peer may send more) only when the call's owner says so with cv_grpc_consume. Unary and
 * streaming calls are the same thing: messages are sent by cv_grpc_send, the last one is followed by
 * cv_grpc_end. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cv_grpc;
struct cv_grpc_call;

/* gRPC's status codes that this code speaks of. */
enum cv_grpc_status {
	CV_GRPC_OK = 0,
	CV_GRPC_CANCELLED = 1,
	CV_GRPC_UNKNOWN = 2,
	CV_GRPC_INVALID_ARGUMENT = 3,
	CV_GRPC_DEADLINE_EXCEEDED = 4,
	CV_GRPC_PERMISSION_DENIED = 7,
	CV_GRPC_RESOURCE_EXHAUSTED = 8,
	CV_GRPC_FAILED_PRECONDITION = 9,
	CV_GRPC_UNIMPLEMENTED = 12,
	CV_GRPC_INTERNAL = 13,
	CV_GRPC_UNAVAILABLE = 14,
	CV_GRPC_UNAUTHENTICATED = 16,
	CV_GRPC_STATUS_NR,
};
const char *
cv_grpc_status_name(int status); /* "Unavailable"; "Code(99)" has no name: "unknown code" */

/* Metadata: the name in lower case, the value ASCII. */
struct cv_grpc_header {
	const char *name, *value;
};

/* What a call hears, in this order; any of them may be NULL. */
struct cv_grpc_call_ops {
	/* A message of len bytes begins. Negative refuses it: the call ends with RESOURCE_EXHAUSTED. */
	int (*on_message)(void *arg, size_t len);
	/* The next bytes of it, borrowed. */
	void (*on_data)(void *arg, const uint8_t *data, size_t len);
	void (*on_message_end)(void *arg);
	/* The last callback: the call is freed after it. message is percent-decoded, never NULL, and
	 * only as long as the call. A connection that broke or never came about is UNAVAILABLE. */
	void (*on_end)(void *arg, int status, const char *message);
};

struct cv_grpc_ops {
	/* Bytes for the wire, borrowed. A negative return breaks the connection. */
	int (*write)(void *conn, const uint8_t *data, size_t len);
	/* How many bytes of messages the transport takes now; 0 holds them back until the next
	 * cv_grpc_output. */
	size_t (*room)(void *conn);
};

/* authority: the host (and port) that calls name; https chooses :scheme. Queues the preface. */
int cv_grpc_new(struct cv_grpc **ret, const struct cv_grpc_ops *ops, void *conn,
		const char *authority, bool https, uint64_t now_ms);
/* Every call that is left ends with UNAVAILABLE and `why`. Not from a callback. */
void cv_grpc_free(struct cv_grpc **g, const char *why);

/* Feeds bytes. 0, or -EPROTO/-ENOMEM: the connection is broken (cv_grpc_output says GOAWAY). */
int cv_grpc_input(struct cv_grpc *g, const uint8_t *data, size_t len, uint64_t now_ms);
/* Writes what is queued. 0 or the error that has broken the connection; nothing in a callback. */
int cv_grpc_output(struct cv_grpc *g);
/* Keepalive PING. Returns ms until it wants to be called again, -ETIMEDOUT when a PING is
 * unanswered: the peer is gone. */
int64_t cv_grpc_tick(struct cv_grpc *g, uint64_t now_ms);
/* No more calls here (GOAWAY, or broken): make a new connection for the next one. */
bool cv_grpc_is_closing(const struct cv_grpc *g);
unsigned cv_grpc_calls(const struct cv_grpc *g); /* open now */
const char *cv_grpc_error_text(const struct cv_grpc *g);

/* Opens a call of `path` ("/package.Service/Method"). ops and arg stay until on_end; headers are
 * copied. -EBUSY when the connection takes no more calls. */
int cv_grpc_call(struct cv_grpc *g, const char *path, const struct cv_grpc_header *headers,
		 size_t nr_headers, const struct cv_grpc_call_ops *ops, void *arg,
		 struct cv_grpc_call **ret);
/* Queues one message (copied). -EPIPE after cv_grpc_end or the call's end, -ENOBUFS when
 * CV_LIMIT_GRPC_SEND would be exceeded, -ENOMEM. */
int cv_grpc_send(struct cv_grpc_call *call, const uint8_t *message, size_t len);
void cv_grpc_end(struct cv_grpc_call *call); /* no more messages from us */
/* n bytes of on_data have been dealt with. Framing is counted by itself. */
void cv_grpc_consume(struct cv_grpc_call *call, size_t n);
/* RST_STREAM(CANCEL). No callback follows, not even on_end; the call is no longer the caller's. */
void cv_grpc_cancel(struct cv_grpc_call *call);
