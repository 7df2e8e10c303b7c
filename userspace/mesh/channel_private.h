/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the channel share.
 *
 *   channel.c        calls: which wait, which run on which connection; unary calls
 *   channel_conn.c   a connection: resolve, connect, TLS, bytes to and from gRPC
 *   channel_files.c  the address, the root certificates, the token
 *
 *   call ─▶ waiting ── kick ──▶ current connection ready? ─▶ cv_grpc_call
 *                                none, or closing ─▶ a new one; the old one ends with its calls
 */
#pragma once

#include <openssl/ssl.h>
#include <sys/queue.h>

#include "userspace/base/buf.h"
#include "userspace/io/resolve.h"
#include "userspace/io/tls.h"
#include "userspace/limits.h"
#include "userspace/mesh/channel.h"

enum { CHANNEL_ERROR = 512 };

struct channel_conn {
	TAILQ_ENTRY(channel_conn) node; /* of channel->conns */
	struct cv_channel *channel;
	struct cv_resolver *resolver; /* while it is needed */
	struct cv_resolve_wait resolving;
	struct cv_addr addrs[CV_LIMIT_GRPC_ADDRESSES];
	size_t nr_addrs, next_addr;
	SSL_CTX *ctx;
	int fd;
	struct event *readable, *writable;
	struct event *timer; /* connecting takes too long; then keepalive and idleness */
	struct event *flush; /* output was queued outside of an event */
	struct cv_tls *tls; /* NULL = plain */
	struct cv_buf out; /* plain output */
	struct cv_grpc *grpc; /* NULL until it is ready */
	uint64_t idle_since_ms; /* 0 = it has calls */
	bool dead; /* to be reaped */
	char error[CHANNEL_ERROR]; /* why it died; of an address that failed */
};

struct cv_channel {
	struct cv_worker *control;
	char *host, *authority; /* authority is HOST:PORT */
	uint16_t port;
	bool https, tls12;
	char *alt_hostname, *root_ca, *auth_token, *cluster_id;
	struct cv_grpc_header *headers;
	size_t nr_headers;
	struct event *kick; /* calls wait, or connections are dead */
	struct channel_conn *current; /* NULL = none */
	TAILQ_HEAD(, channel_conn) conns; /* all */
	unsigned nr_conns;
	TAILQ_HEAD(channel_calls, cv_channel_call) waiting, running;
};

struct cv_channel_call {
	TAILQ_ENTRY(cv_channel_call) node;
	struct cv_channel *channel;
	struct channel_conn *conn; /* NULL = it waits */
	struct cv_grpc_call *call;
	const char *path;
	const struct cv_grpc_call_ops *ops;
	void *arg;
	struct cv_buf queued; /* messages, each behind its size_t length, while it waits */
	bool ended;
};

/* channel_conn.c: starts to connect; a failure shows as a dead connection. NULL = no memory. */
struct channel_conn *channel_conn_new(struct cv_channel *c);
/* Ends its calls with UNAVAILABLE. */
void channel_conn_free(struct channel_conn *conn);
/* Sends what is queued, soon. */
void channel_conn_flush(struct channel_conn *conn);

/* channel_files.c: 0 or -errno with one line in error. */
int channel_parse_address(struct cv_channel *c, const char *address, char *error, size_t size);
int channel_tls_ctx(const struct cv_channel *c, SSL_CTX **ret, char error[CHANNEL_ERROR]);
/* Is the certificate for the channel's host, or for the alternative one? */
int channel_check_name(const struct cv_channel *c, X509 *leaf, char error[CHANNEL_ERROR]);
/* "Bearer …", NULL when there is no token to send. */
int channel_bearer(const struct cv_channel *c, char **ret, char error[CHANNEL_ERROR]);
