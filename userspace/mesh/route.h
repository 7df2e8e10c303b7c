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
	/* Authority for HBONE: workload address and port; towards a waypoint what was dialled. */
	struct cv_sockaddr target;
	struct cv_workload *dst; /* chosen workload (a waypoint's, if so), NULL = unknown */
	struct cv_service *service; /* service that was dialled, NULL = none */
	cv_str *sans; /* identities the peer may have, text; owned array */
	size_t nr_sans;
	char error[256]; /* CV_ROUTE_REFUSE */
	bool waypoint; /* goes to the destination's waypoint, or is refused for want of one */
	/* Host name whose address is to be asked first, NULL = none; until cv_route_resolved the ip of
	 * next_hop has only the family that is wanted. */
	cv_str hostname;
};
void cv_route_fini(struct cv_route *r);
/* The address of r->hostname. */
void cv_route_resolved(struct cv_route *r, const struct cv_addr *ip);

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

/* Something that cv_route_outbound depends on and the store does not have, as a key of the control
 * plane ("network/ip", "namespace/host"); a reference, NULL = all is there. For one value of
 * in->random both look at the same waypoint. */
cv_str cv_route_missing(struct cv_store *s, const struct cv_route_in *in);

/* Every route that cv_route_outbound may choose for this connection, each with its weight among
 * them; one of a waypoint's endpoints stands for all of them. At most max are written (cv_route_fini
 * each); returns how many there are. in->choice and in->random do not matter. */
struct cv_route_choice {
	struct cv_route route;
	uint32_t weight;
};
size_t cv_route_choices(struct cv_store *s, const struct cv_route_in *in,
			struct cv_route_choice *ret, size_t max);

/* Endpoint slots of a service port for a client on this node, for the kernel's table: every
 * candidate with its weight. -EOPNOTSUPP when only the daemon can choose (load-balancing mode,
 * waypoint, hostname endpoints, families). Returns how many candidates there
 * are; at most max are written. Called inside an RCU read section. */
struct cv_candidate {
	struct cv_workload *workload; /* borrowed */
	struct cv_sockaddr addr;
	uint32_t weight;
};
int cv_route_candidates(struct cv_store *s, const struct cv_service *svc, uint16_t port,
			const struct cv_addr *vip, struct cv_candidate *ret, size_t max);

/* Inbound HBONE: where a request goes. */
struct cv_inbound_route {
	struct cv_sockaddr dst; /* the local address, and the application's (or its tunnel's) port */
	bool proxy_header; /* the application tunnel wants the PROXY header … */
	struct cv_sockaddr tunnel_target; /* … with this as the destination */
	char error[256];
};
/* Checks an authority against the local address and resolves the port. 0; else the HTTP status
 * (400, 503) and ret->error. */
struct cv_authority;
int cv_route_inbound(struct cv_store *s, const struct cv_workload *local,
		     const struct cv_sockaddr *local_addr, const struct cv_authority *authority,
		     struct cv_inbound_route *ret);
/* Service of `local` that an inbound connection belongs to, for telemetry: host of the
 * forwarded header first, else the first with this target port. NULL = none. */
struct cv_service *cv_route_inbound_service(struct cv_store *s, const struct cv_workload *local,
					    cv_str forwarded_host, uint16_t port);
