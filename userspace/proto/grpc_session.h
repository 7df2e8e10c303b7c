/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the gRPC client share.
 *
 *   grpc.c         a session and its calls: everything the caller asks for
 *   grpc_recv.c    nghttp2's callbacks: headers, pieces of messages, ends
 *   grpc_status.c  names, HTTP's and HTTP/2's codes as statuses, the percent-coded text
 */
#pragma once

#include <nghttp2/nghttp2.h>

#include "userspace/base/buf.h"
#include "userspace/proto/grpc.h"

enum { GRPC_PREFIX = 5 }; /* compressed flag and length before a message */

struct cv_grpc_call {
	struct cv_grpc *g;
	struct cv_grpc_call *next, **link; /* of g->calls */
	const struct cv_grpc_call_ops *ops;
	void *arg;
	int32_t id;
	struct cv_buf out; /* messages with their prefixes */
	bool ended; /* cv_grpc_end */
	bool deaf; /* failed or cancelled: what arrives is dropped */
	bool cancelled; /* nobody is told of the end */
	/* What is being received. */
	uint8_t prefix[GRPC_PREFIX];
	unsigned prefix_len;
	size_t left; /* bytes of the message that are missing */
	size_t unconsumed; /* told to the owner, who has not taken them yet */
	size_t header_bytes;
	int http_status; /* 0 before the headers */
	bool is_grpc; /* by its content type */
	int status; /* grpc-status, -1 = none yet */
	char *text; /* grpc-message, decoded; or why it failed here */
};

struct cv_grpc {
	nghttp2_session *session;
	const struct cv_grpc_ops *ops;
	void *conn;
	char *authority;
	bool https;
	bool in_callback; /* inside nghttp2: it must not be entered again */
	bool closing; /* GOAWAY, or broken */
	bool ping_open;
	int failed; /* -errno once broken */
	const char *error; /* why, static */
	uint64_t now_ms, ping_due_ms;
	struct cv_grpc_call *calls;
	unsigned nr_calls;
};

/* grpc.c */
void cv_grpc_fail(struct cv_grpc *g, int r, uint32_t code, const char *text);
/* Tells the owner unless it was cancelled, gives the window back, frees. */
void cv_grpc_call_close(struct cv_grpc_call *call, int status, const char *text);
/* The call ends with this status once its reset has been sent. */
void cv_grpc_call_fail(struct cv_grpc_call *call, int status, const char *text);

/* grpc_recv.c */
void cv_grpc_recv_callbacks(nghttp2_session_callbacks *cbs);

/* grpc_status.c */
int cv_grpc_status_parse(const uint8_t *text, size_t len); /* UNKNOWN when it is no number */
int cv_grpc_status_of_http(int status);
int cv_grpc_status_of_h2(uint32_t code);
/* Percent-decoded, control characters replaced, at most CV_LIMIT_GRPC_TEXT bytes; NULL = no memory. */
char *cv_grpc_text(const uint8_t *text, size_t len);
