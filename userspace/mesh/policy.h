/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L4 authorisation: the evaluator (ztunnel's semantics; closed where a match is unclear).
 * Pure functions over a policy set; no I/O, any thread.
 */
#pragma once

#include "userspace/mesh/identity.h"
#include "userspace/mesh/store.h"

/* A connection as policy sees it: after rewriting (final destination port). */
struct cv_authz_conn {
	struct cv_addr src, dst;
	uint16_t dst_port;
	const struct cv_identity *src_identity; /* NULL = none proven */
	bool silent; /* no log lines: the question is not about a connection that is being made */
};

struct cv_authz_result {
	bool allow;
	char policy[320]; /* "ns/name" that decided; empty when none did */
	char why[400]; /* ztunnel's text: "explicitly denied by: ns/name", "allow policies exist, but none allowed" */
};

/* DENY before ALLOW; a set that misses a listed policy denies. Logs what decided (target
 * `access`, debug unless cv_policy_log_at_info). */
void cv_policy_evaluate(const struct cv_policy_set *set, const struct cv_authz_conn *conn,
			struct cv_authz_result *ret);

/* Does one policy match (for tests, explain)? */
bool cv_policy_matches(const struct cv_policy *p, const struct cv_authz_conn *conn);

/* For the verdict compiler: the destination ports that the set names (positive or negative lists),
 * sorted and unique, at most max (-E2BIG beyond); and whether any match looks at addresses. */
int cv_policy_set_ports(const struct cv_policy_set *set, uint16_t *ret, size_t max);
bool cv_policy_set_uses_addresses(const struct cv_policy_set *set);

/* AUTHZ_POLICY_INFO_LOGGING: decisions at info instead of debug. */
void cv_policy_log_at_info(bool on);
