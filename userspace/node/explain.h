/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What would become of a connection: every way that it may take now, with tier, endpoint and what
 * policy says. Asks the same routing and policy as the data path, and the kernel's tables; nothing
 * is sent, logged or changed.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "maps/types.h"
#include "userspace/base/addr.h"
#include "userspace/mesh/store.h"

struct cv_explain_in {
	struct cv_store *store;
	const struct cv_workload *src; /* of a pod of this node */
	struct cv_addr src_ip;
	struct cv_sockaddr dst; /* as the application dials it */
	/* The kernel plane; NULL = there is none. */
	/* Its answer for the pod with this address; false: no enrolled pod of this node has it. */
	bool (*verdict)(const struct cv_addr *dst, uint16_t port, struct cv_verdict_entry *ret,
			void *arg);
	/* Does connect() choose the endpoints of this service address itself? */
	bool (*resolves)(const struct cv_sockaddr *vip, void *arg);
	void *arg;
};

/* {to, verdict, service?, paths [{verdict, why, policy?, tier?, weight, address?, nextHop?,
 * hostname?, waypoint?, destination? {namespace, name, uid, node}, kernel? {answer, reason}}]}.
 * A verdict is allow, deny (policy), refuse (no way to get there); the whole is mixed when the
 * paths differ. New reference. */
json_t *cv_explain(const struct cv_explain_in *in);
