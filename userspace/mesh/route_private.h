/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by route*.c: choosing an endpoint, and where waypoints lead. Everything is borrowed,
 * inside an RCU read section. */
#pragma once

#include "userspace/mesh/route.h"

/* A workload that was chosen, and how it is reached. */
struct cv_upstream {
	struct cv_workload *workload;
	struct cv_service *service; /* through which it was found, NULL = by its address */
	uint16_t port;
};

/* Service by VIP first, else workload by address. False when there is none: unknown address,
 * passthrough service, or a service without a usable endpoint. */
bool cv_route_find_upstream(const struct cv_store *s, const struct cv_route_in *in,
			    struct cv_upstream *ret);
/* Address of w for a client that dialled `dialled` (of svc, NULL = w itself); false = none. */
bool cv_route_select_ip(const struct cv_workload *w, const struct cv_service *svc,
			const struct cv_addr *dialled, struct cv_addr *ret);
bool cv_service_has_waypoint(const struct cv_service *svc);
/* The service's endpoint that is this workload, NULL = none. */
const struct cv_service_endpoint *cv_service_find_endpoint(const struct cv_service *svc,
							   cv_str uid);
bool cv_workload_has_ip(const struct cv_workload *w, const struct cv_addr *ip);
/* Is w one of the workloads behind this waypoint or gateway? */
bool cv_gateway_leads_to(const struct cv_store *s, const struct cv_gateway *g,
			 const struct cv_workload *w);
