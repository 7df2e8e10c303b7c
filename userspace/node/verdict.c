// SPDX-License-Identifier: Apache-2.0
/*
 * One verdict: what policy and topology say about a source, a destination and a port. Pure.
 *
 * A pair may have several addresses and the kernel asks by pod number alone. So a policy that
 * looks at addresses can be compiled only if it gives the same answer for all of them.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "maps/reasons.h"
#include "userspace/limits.h"
#include "userspace/mesh/policy.h"
#include "userspace/node/compile.h"

/* What the mesh sends to the daemon's own ports is the daemon's to refuse. */
static bool is_own_port(uint16_t port)
{
	return port == CV_PORT_OUTBOUND || port == CV_PORT_INBOUND || port == CV_PORT_HBONE;
}

/* A port that stands for all that policies do not name; 0 = they name more than we can keep. */
static uint16_t unnamed_port(const struct cv_policy_set *policies)
{
	uint16_t named[CV_LIMIT_POLICY_PORTS];
	int n = cv_policy_set_ports(policies, named, CV_LIMIT_POLICY_PORTS);
	uint16_t port = 1;

	if (n < 0)
		return 0;
	for (int i = 0; i < n; i++)
		port += named[i] == port;
	return port;
}

static bool is_allowed(const struct cv_verdict_in *in, struct cv_authz_conn *conn)
{
	struct cv_authz_result result;

	cv_policy_evaluate(in->policies, conn, &result);
	return result.allow;
}

/* 1 = allowed, 0 = denied, -EOPNOTSUPP = it depends on the addresses. */
static int evaluate(const struct cv_verdict_in *in, uint16_t port)
{
	const struct cv_identity identity = {
		in->src->group->trust_domain,
		in->src->group->ns,
		in->src->group->service_account,
	};
	struct cv_authz_conn conn = { .dst_port = port, .src_identity = &identity, .silent = true };
	int answer = -EOPNOTSUPP;

	if (!cv_policy_set_uses_addresses(in->policies))
		return is_allowed(in, &conn);
	for (size_t i = 0; i < in->nr_src_addrs * in->nr_dst_addrs; i++) {
		int allowed;

		conn.src = in->src_addrs[i / in->nr_dst_addrs];
		conn.dst = in->dst_addrs[i % in->nr_dst_addrs];
		if (cv_addr_is_v4(&conn.src) != cv_addr_is_v4(&conn.dst))
			continue;
		allowed = is_allowed(in, &conn);
		if (answer >= 0 && answer != allowed)
			return -EOPNOTSUPP;
		answer = allowed;
	}
	return answer;
}

static void set_verdict(struct cv_verdict_entry *ret, enum cv_answer answer, enum cv_tier tier,
			enum cv_reason reason)
{
	*ret = (struct cv_verdict_entry){ .answer = answer, .tier = tier, .reason = reason };
}

void cv_compile_verdict(const struct cv_verdict_in *in, uint16_t port, struct cv_verdict_entry *ret)
{
	uint16_t asked = port ? port : unnamed_port(in->policies);
	int answer;

	if (in->dst->group->waypoint) {
		set_verdict(ret, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_WAYPOINT);
		return;
	}
	answer = in->dst->group->has_app_tunnel || is_own_port(port) || !asked ?
			 -EOPNOTSUPP :
			 evaluate(in, asked);
	if (answer < 0)
		set_verdict(ret, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_NEEDS_DAEMON);
	else if (!answer)
		set_verdict(ret, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
	else if (in->same_node == CV_SAME_NODE_DIRECT)
		set_verdict(ret, CV_ANSWER_ALLOW, CV_TIER_DIRECT, CV_REASON_NONE);
	else
		set_verdict(ret, CV_ANSWER_ALLOW, CV_TIER_TLS, CV_REASON_SAME_NODE_TLS);
}
