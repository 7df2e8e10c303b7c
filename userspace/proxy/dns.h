/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DNS proxy of one pod on one worker: sockets on 15053 of the pod's loopback, UDP and TCP, and
 * the queries that came in by them.
 *
 *   dns_listener.c   the sockets: datagrams in and out, accepting
 *   dns_tcp.c        TCP connections: messages with their length before them
 *   dns.c            a query: answered from the store, or forwarded
 *   dns_forward.c    asking an upstream resolver, from inside the pod's namespace
 *
 * Only the lane's worker touches any of this, except cv_dns_open and cv_dns_discard.
 */
#pragma once

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "maps/abi.h"
#include "userspace/base/buf.h"
#include "userspace/io/resolv_conf.h"
#include "userspace/limits.h"
#include "userspace/proto/dns.h"
#include "userspace/proxy/lane.h"

struct cv_dns_lane;
struct cv_dns_conn;

struct cv_dns_socket {
	struct cv_dns_lane *dns;
	enum cv_dns_slot slot;
	int fd; /* owned, -1 = none of this family */
	struct event ev;
	struct event retry; /* TCP: after accept() has failed */
	bool on;
};

/* A socket whose address is that of a server which the pod asks: answers come from there. */
struct cv_dns_reply_socket {
	struct cv_sockaddr from;
	int fd; /* owned, -1 = free */
};

struct cv_dns_lane {
	struct cv_lane *lane;
	struct cv_resolv_conf upstream;
	struct cv_dns_socket sockets[CV_DNS_NR];
	struct cv_dns_reply_socket replies[CV_LIMIT_DNS_REPLY_SOCKETS];
	unsigned next_reply; /* the slot that the next new address takes */
	TAILQ_HEAD(, cv_dns_request) requests; /* until they are freed */
	TAILQ_HEAD(, cv_dns_conn) conns; /* the same */
	unsigned nr_requests, nr_conns; /* live ones */
};

/* Where a query came from, and its answer goes. */
struct cv_dns_origin {
	struct cv_dns_conn *conn; /* TCP; else UDP: */
	struct cv_dns_socket *socket;
	struct cv_sockaddr client;
	struct cv_sockaddr server; /* that was asked; for TCP as well */
};

/* One try after the other to ask one upstream after the other. */
struct cv_dns_forward {
	struct cv_sockaddr servers[CV_LIMIT_DNS_SERVERS];
	unsigned nr_servers, tries, max_tries, timeout_ms;
	uint64_t started_ns;
	uint16_t id; /* of the current try */
	int last_rcode; /* a server's answer that another one may know better; 0 = none */
	int error; /* of the last try, -errno */
	int fd; /* -1 = not asking */
	struct event ev;
	struct cv_buf out, in; /* TCP */
};

struct cv_dns_request {
	TAILQ_ENTRY(cv_dns_request) node;
	struct cv_dns_lane *dns;
	struct cv_dns_origin origin;
	struct cv_workload *src; /* the pod's record */
	struct cv_dns_query query;
	struct cv_dns_forward forward;
	bool done, waiting; /* waiting: the store will call back */
	char *name; /* behind the message */
	size_t len;
	uint8_t message[];
};

/* ---- dns.c ---- */

/* The kernel's capture brought it: origin->server is the server that the pod meant. */
bool cv_dns_is_captured(const struct cv_dns_lane *dns, const struct cv_dns_origin *origin);

/* A message came in. -EBADMSG: it is no DNS; else it has been or will be answered. */
int cv_dns_take(struct cv_dns_lane *dns, const struct cv_dns_origin *origin,
		struct cv_span message);
/* The upstream's answer, changed in place, or why there is none: an rcode of its own, or -errno. */
void cv_dns_forwarded(struct cv_dns_request *req, uint8_t *answer, size_t len);
void cv_dns_forward_failed(struct cv_dns_request *req, int rcode, int error);
/* Nobody waits for it any more. Idempotent. */
void cv_dns_drop(struct cv_dns_request *req);
/* After the workers have ended: touches no event. */
void cv_dns_discard_requests(struct cv_dns_lane *dns);
/* Every query that came by this connection. */
void cv_dns_drop_conn(struct cv_dns_conn *conn);

/* ---- dns_forward.c ---- */

void cv_dns_forward_start(struct cv_dns_request *req);
/* Stops asking. Idempotent. */
void cv_dns_forward_stop(struct cv_dns_forward *f);
/* After the workers have ended: touches no event. */
void cv_dns_forward_discard(struct cv_dns_forward *f);

/* ---- dns_tcp.c ---- */

void cv_dns_tcp_accept(struct cv_dns_socket *socket, int fd, const struct cv_sockaddr *peer);
/* One answer; the connection counts its unanswered queries. */
void cv_dns_tcp_send(struct cv_dns_conn *conn, const uint8_t *message, size_t len);
void cv_dns_tcp_kill_all(struct cv_dns_lane *dns);
/* After the workers have ended: touches no event. */
void cv_dns_tcp_discard_all(struct cv_dns_lane *dns);
struct cv_dns_lane *cv_dns_tcp_lane(const struct cv_dns_conn *conn);

/* ---- dns_listener.c ---- */

/* Control thread: the sockets of every lane. What is open after a failure is the lanes'. */
int cv_dns_open(struct cv_proxy_pod *pod);
/* The lane's worker. Idempotent; a lane without DNS has nothing to do. */
void cv_dns_start(struct cv_lane *lane);
void cv_dns_stop(struct cv_lane *lane);
/* After the workers have ended, or before they have seen the lane: touches no event. */
void cv_dns_discard(struct cv_lane *lane);
/* Sends an answer by UDP, from the server that was asked. Failures are the network's: the client
 * asks again. */
void cv_dns_udp_send(struct cv_dns_lane *dns, const struct cv_dns_origin *origin,
		     const uint8_t *message, size_t len);
