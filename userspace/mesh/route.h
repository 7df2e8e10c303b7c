/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a connection goes: ztunnel's outbound decision procedure and the inbound checks.
 * Pure over the store; any RCU-registered thread.
 */
#pragma once

#include "userspace/mesh/identity.h"
#include "userspace/mesh/store.h"

enum cv_route_kind {
	CV_ROUTE_PASSTHROUGH, /* unknown destination: plain TCP to where it was going */
	CV_ROUTE_TCP, /* plain TCP to the chosen workload */
	CV_ROUTE_HBONE,
	CV_ROUTE_REFUSE, /* error says why (ztunnel's text) */
};

struct cv_route {
	enum cv_route_kind kind;
	struct cv_sockaddr next_hop; /* TCP destination of our connection */
	struct cv_sockaddr target; /* authority for HBONE: workload address and port */
	struct cv_workload *dst; /* chosen workload, NULL = unknown */
	struct cv_service *service; /* service that was dialled, NULL = none */
	cv_str *sans; /* identities the peer may have, text; owned array */
	size_t nr_sans;
	char error[256]; /* CV_ROUTE_REFUSE */
	bool waypoint; /* refused because the destination has a waypoint */
};
void cv_route_fini(struct cv_route *r);

/* dst = original destination. choice = endpoint address and port that connect() chose in the
 * kernel, NULL = none; honoured when it is still an endpoint of the dialled service. src_ip
 * is the client's address. Random choices come from `random`. */
struct cv_route_in {
	const struct cv_workload *src;
	struct cv_addr src_ip;
	struct cv_sockaddr dst;
	const struct cv_sockaddr *choice;
	uint64_t random;
};
void cv_route_outbound(struct cv_store *s, const struct cv_route_in *in, struct cv_route *ret);

/* Endpoint slots of a service port for a client on this node, for the kernel's table: every
 * candidate with its weight. -EOPNOTSUPP when only the daemon can choose (load-balancing mode,
 * waypoint, hostname endpoints, other networks, families). Returns how many candidates there
 * are; at most max are written. Called inside an RCU read section. */
struct cv_candidate {
	struct cv_workload *workload; /* borrowed */
	struct cv_sockaddr addr;
	uint32_t weight;
};
int cv_route_candidates(struct cv_store *s, const struct cv_service *svc, uint16_t port,
			const struct cv_addr *vip, struct cv_candidate *ret, size_t max);

/* Inbound HBONE: checks an authority against the local address and resolves the port.
 * 0 and *ret_dst; else the HTTP status (400, 503) and error text. */
struct cv_authority;
int cv_route_inbound(struct cv_store *s, const struct cv_workload *local,
		     const struct cv_sockaddr *local_addr, const struct cv_authority *authority,
		     struct cv_sockaddr *ret_dst, char error[256]);
/* Service of `local` that an inbound connection belongs to, for telemetry: host of the
 * forwarded header first, else the first with this target port. NULL = none. */
struct cv_service *cv_route_inbound_service(struct cv_store *s, const struct cv_workload *local,
					    cv_str forwarded_host, uint16_t port);
