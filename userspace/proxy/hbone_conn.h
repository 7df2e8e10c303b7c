/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HBONE connection: a TCP socket, TLS over it, HTTP/2 inside. Client or server.
 *
 *   STARTING ──▶ HANDSHAKE ──▶ READY ──▶ DEAD        (any state may go to DEAD)
 *   certificate,  TLS, then     streams    socket closed, timers stopped; freed after the
 *   TCP connect   h2 preface               callbacks of this round
 *
 * Streams carry a struct cv_session as their user. Owned by its worker; cv_hbone_conn_kill is
 * idempotent.
 */
#pragma once

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "userspace/io/tls.h"
#include "userspace/mesh/certs.h"
#include "userspace/mesh/types.h"
#include "userspace/proto/h2.h"
#include "userspace/proxy/dial.h"
#include "userspace/telemetry/traffic.h"

struct cv_lane;
struct cv_pool_entry;

enum cv_hbone_state { CV_HBONE_STARTING, CV_HBONE_HANDSHAKE, CV_HBONE_READY, CV_HBONE_DEAD };

struct cv_hbone_conn {
	TAILQ_ENTRY(cv_hbone_conn) node; /* of the lane, until freed */
	struct cv_lane *lane; /* reference */
	unsigned refs; /* 1 until dead, and one while an answer is awaited */
	enum cv_hbone_state state;
	bool server;
	bool busy; /* inside the HTTP/2 session: output waits for its end */
	bool closing; /* no new streams; goes with the last one */
	int fd;
	struct event rd, wr, timer;
	bool wr_on;
	struct cv_tls *tls;
	struct cv_h2 *h2;
	struct cv_cert *cert;
	struct cv_identity peer_identity; /* proven by TLS; may be unset */
	struct cv_sockaddr peer, local;
	size_t held; /* bytes of all streams that wait for slow readers */
	uint64_t idle_since_ms; /* client: without streams since; server: closing since */
	enum cv_flag flag; /* why it died: */
	char error[384];

	/* client */
	struct cv_pool_entry *entry; /* NULL once it has left the pool */
	TAILQ_ENTRY(cv_hbone_conn) pool_node;
	struct cv_dial dial;
	/* server */
	struct cv_workload *workload; /* the pod's record at the handshake */
};

/* --- client --- */
/* A connection of entry, not dialled yet; NULL when out of memory. */
struct cv_hbone_conn *cv_hbone_client_new(struct cv_pool_entry *entry);
/* Dials entry's next hop. The pool is told by cv_pool_on_ready or cv_pool_on_dead, maybe before
 * this returns. */
void cv_hbone_client_dial(struct cv_hbone_conn *c);
/* --- server --- */
/* Takes an accepted socket. */
void cv_hbone_accept(struct cv_lane *lane, int fd, const struct cv_sockaddr *peer);
/* GOAWAY: no new streams; closes with the last one. */
void cv_hbone_conn_shutdown(struct cv_hbone_conn *c);

/* --- both --- */
struct cv_hbone_conn *cv_hbone_conn_new(struct cv_lane *lane, bool server);
void cv_hbone_conn_put(struct cv_hbone_conn *c);
/* Takes the socket (in any case) and begins the handshake with c->cert. 0 or -errno. */
int cv_hbone_conn_start(struct cv_hbone_conn *c, int fd);
/* Sends what there is: HTTP/2 → TLS → socket. Call it after everything that queues output. */
void cv_hbone_conn_output(struct cv_hbone_conn *c);
/* A stream has gone. */
void cv_hbone_conn_on_stream_gone(struct cv_hbone_conn *c);
/* Closes it now. The first error is kept. NULL = none. */
void cv_hbone_conn_kill(struct cv_hbone_conn *c, enum cv_flag flag, const char *error);
/* After the worker has ended: frees it as it is, touches no event. */
void cv_hbone_conn_discard(struct cv_hbone_conn *c);
const char *cv_hbone_conn_error(const struct cv_hbone_conn *c);

/* Bytes of a stream are held for a slow reader: true = the connection's window may open again
 * at once, false = its share is used up. */
bool cv_hbone_conn_hold(struct cv_hbone_conn *c, size_t n);
void cv_hbone_conn_unhold(struct cv_hbone_conn *c, size_t n);
