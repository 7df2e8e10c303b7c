/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by route*.c: choosing an endpoint, and where waypoints lead. Everything is borrowed,
 * inside an RCU read section. */
#pragma once

#include "userspace/mesh/route.h"

enum { CV_ROUTE_KEY = 512 }; /* bytes of the text of an address or a host name */

/* A workload that was chosen, and how it is reached. */
struct cv_upstream {
	struct cv_workload *workload;
	struct cv_service *service; /* through which it was found, NULL = by its address */
	uint16_t port;
};

/* What an endpoint is chosen for. */
struct cv_pick {
	const struct cv_store *store;
	const struct cv_workload *src;
	uint16_t port; /* of the service */
	bool waypoint; /* an application tunnel makes up for a port that the service lacks */
	const struct cv_sockaddr *choice; /* as in struct cv_route_in */
	uint64_t random;
};
/* One endpoint of svc; false = none that can be used. */
bool cv_route_pick(const struct cv_pick *p, struct cv_service *svc, struct cv_upstream *ret);
/* All that cv_route_pick may choose from, at most max; returns how many there are. */
size_t cv_route_pick_all(const struct cv_pick *p, struct cv_service *svc, struct cv_upstream *ret,
			 size_t max);
/* Service by VIP first, else workload by address. False when there is none: unknown address,
 * passthrough service, or a service without a usable endpoint. */
bool cv_route_find_upstream(const struct cv_pick *p, cv_str network, const struct cv_addr *ip,
			    struct cv_upstream *ret);
/* Address of w for a client that dialled `dialled` (of svc, NULL = w itself); false = none. */
bool cv_route_select_ip(const struct cv_workload *w, const struct cv_service *svc,
			const struct cv_addr *dialled, struct cv_addr *ret);
bool cv_service_has_waypoint(const struct cv_service *svc);
/* The service's waypoint, one of the weighted ones first; NULL = none. */
const struct cv_gateway *cv_service_waypoint(const struct cv_service *svc, uint64_t random);
/* The service's endpoint that is this workload, NULL = none. */
const struct cv_service_endpoint *cv_service_find_endpoint(const struct cv_service *svc,
							   cv_str uid);
bool cv_workload_has_ip(const struct cv_workload *w, const struct cv_addr *ip);
/* The workload behind a waypoint for who dialled `dialled`: p's port is taken from g. *ret_like is
 * the address that was asked for, whose family is preferred. 0; -ENOENT: the store does not know
 * what g names; -EHOSTUNREACH: it has no endpoint that can be used. */
int cv_gateway_resolve(const struct cv_pick *p, const struct cv_gateway *g,
		       const struct cv_addr *dialled, struct cv_upstream *ret,
		       struct cv_addr *ret_like);
/* "namespace/host" or "network/ip"; returns buf. */
const char *cv_gateway_text(const struct cv_gateway *g, char *buf, size_t size);
/* Is w one of the workloads behind this waypoint or gateway? */
bool cv_gateway_leads_to(const struct cv_store *s, const struct cv_gateway *g,
			 const struct cv_workload *w);
