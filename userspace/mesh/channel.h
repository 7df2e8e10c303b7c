/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gRPC channel to the control plane: name resolution, TCP, TLS, the metadata that istiod asks
 * for. One connection at a time, made when a call needs it and made again for the next call after
 * it broke; who calls decides when to try again (base/backoff.h). Control thread; nothing blocks.
 *
 * The root file is read for each connection and the token file for each call, so rotated ones
 * count from the next on. A connection without calls is closed after CV_LIMIT_GRPC_IDLE_MS.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/io/worker.h"
#include "userspace/proto/grpc.h"

struct cv_channel;
struct cv_channel_call;

struct cv_channel_opts {
	struct cv_worker *control;
	const char *address; /* https://HOST:PORT, http://…, or HOST:PORT, which is https */
	const char *alt_hostname; /* ALT_*_HOSTNAME: accepted in the certificate too; NULL = none */
	const char *root_ca; /* *_ROOT_CA: an existing path, `SYSTEM`, or PEM text */
	const char *auth_token; /* AUTH_TOKEN: an existing path, or the token; NULL = none */
	const char *cluster_id; /* metadata `clusterid`; NULL = none */
	const struct cv_grpc_header *headers; /* XDS_HEADER_*, CA_HEADER_*; copied */
	size_t nr_headers;
	bool tls12; /* TLS 1.2 will do */
};
/* Copies all of opts. -EINVAL with one line in error when the address cannot be used. */
int cv_channel_new(struct cv_channel **ret, const struct cv_channel_opts *opts, char *error,
		   size_t error_size);
/* Calls that are open end with CANCELLED. Not from a callback of one of them. */
void cv_channel_free(struct cv_channel **c);

/* Opens a call; it waits for the connection, and ends with UNAVAILABLE and the reason when that
 * cannot be had. ops->on_end is always called, and never before cv_channel_call has returned. */
struct cv_channel_call *cv_channel_call(struct cv_channel *c, const char *path,
					const struct cv_grpc_call_ops *ops, void *arg);
/* As cv_grpc_send, cv_grpc_end, cv_grpc_consume, cv_grpc_cancel. A call that still waits keeps
 * what is sent. */
int cv_channel_send(struct cv_channel_call *call, const uint8_t *message, size_t len);
void cv_channel_end(struct cv_channel_call *call);
void cv_channel_consume(struct cv_channel_call *call, size_t n);
void cv_channel_cancel(struct cv_channel_call *call);

/* One message out, one back, at most max_len bytes of it. done runs once: status CV_GRPC_OK with the
 * message (borrowed), else with text (never NULL) and no message. */
typedef void (*cv_channel_unary_fn)(void *arg, int status, const char *text, const uint8_t *message,
				    size_t len);
struct cv_channel_unary {
	const char *path;
	const uint8_t *message; /* copied */
	size_t len, max_len;
	unsigned timeout_ms; /* from now, connecting included: DEADLINE_EXCEEDED; 0 = none */
	cv_channel_unary_fn done;
	void *arg;
};
void cv_channel_unary(struct cv_channel *c, const struct cv_channel_unary *call);
