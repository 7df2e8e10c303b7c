/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One proxied connection, whichever way it goes: an accepted 15001 or 15006 socket, or a stream of
 * an inbound HBONE connection. outbound.c, inbound.c and plain.c decide; the tunnel copies.
 *
 * A session dies once (cv_session_fail, or its tunnel ends): telemetry is closed and everything it
 * waits for is called off. Its memory goes with the last reference: the stream that still has it
 * as its user, an answer that is still to come.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "userspace/io/resolve.h"
#include "userspace/mesh/policy.h"
#include "userspace/mesh/route.h"
#include "userspace/proxy/dial.h"
#include "userspace/proxy/lane.h"
#include "userspace/proxy/pool.h"
#include "userspace/proxy/tunnel.h"

enum cv_session_kind { CV_SESSION_OUTBOUND, CV_SESSION_HBONE, CV_SESSION_PLAIN };

struct cv_session {
	TAILQ_ENTRY(cv_session) node; /* of the lane, until freed */
	struct cv_lane *lane; /* reference */
	unsigned refs;
	enum cv_session_kind kind;
	bool dead;
	bool client_port_counted; /* in cv_proxy.client_ports */
	struct cv_sockaddr client;
	struct cv_sockaddr
		dst; /* outbound: what was dialled; inbound: application's address and port */
	uint64_t accepted_ms;
	struct cv_workload *workload; /* the local pod's record */
	void (*on_record)(struct cv_session *s); /* who waits for it */
	struct cv_traffic *traffic; /* NULL = refused before there was a record */
	struct cv_tunnel tunnel; /* end 0 = client, 1 = server */
	struct cv_dial dial; /* towards the server, when that is a socket */

	/* outbound */
	struct cv_route route;
	uint64_t random; /* its choices */
	cv_str asked; /* of the control plane, last; NULL = nothing */
	unsigned nr_asked;
	struct cv_resolve_wait name; /* for the address of route.hostname */
	struct cv_pool_wait wait;
	/* inbound */
	struct cv_identity src_identity; /* proven; may be unset */
	bool proxy_header; /* the application gets the PROXY header … */
	struct cv_sockaddr tunnel_target; /* … with this as the destination */
};

struct cv_session_opts {
	struct cv_lane *lane;
	enum cv_session_kind kind;
	struct cv_sockaddr client, dst;
	int fd; /* accepted socket, taken in any case; -1 = a stream */
};
/* NULL when a limit says no or memory is out: logged, and the socket is reset. */
struct cv_session *cv_session_new(const struct cv_session_opts *opts);
struct cv_session *cv_session_ref(struct cv_session *s);
void cv_session_put(struct cv_session *s);

/* The stream belongs to this session from now on. */
void cv_session_attach(struct cv_session *s, int end, struct cv_h2_stream *stream,
		       struct cv_hbone_conn *conn);
void cv_session_on_stream_closed(struct cv_session *s, uint32_t code);

/* fn(s) once the pod's record is in s->workload, maybe before this returns; the session fails when
 * it does not come. */
void cv_session_with_workload(struct cv_session *s, void (*fn)(struct cv_session *s));
/* Opens the telemetry record; info's fields of the session itself are filled in here. */
void cv_session_open(struct cv_session *s, struct cv_traffic_info *info);
/* Ends it: sockets are reset, an open stream as well. Idempotent. */
void cv_session_fail(struct cv_session *s, enum cv_flag flag, const char *error);
/* The end of a dial: copying begins with the connected socket fd, which is taken; a negative fd is
 * -errno, and fails the session with what happened. */
void cv_session_connected(struct cv_session *s, int fd, const char *failure);
/* After the worker has ended: closes sockets, touches no event. */
void cv_session_forget(struct cv_session *s);

/* Inbound: what policy says now. */
void cv_session_judge(const struct cv_session *s, const struct cv_policy_set *set,
		      struct cv_authz_result *ret);
/* Inbound: connects to the application with the client's address where that is possible. */
void cv_session_dial_application(struct cv_session *s, void (*done)(struct cv_dial *d, int fd));
