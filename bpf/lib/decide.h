/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of an outbound connection. Pure: the caller looks everything up, so that a test
 * program can run this with any question.
 */
#pragma once

#include "maps/reasons.h"
#include "maps/types.h"

/* All that the decision depends on. */
struct cv_question {
	__u8 loopback; /* the destination is loopback or unspecified, or both ends are the pod's */
	__u8 src_own; /* the source address is the pod's own, or not chosen yet */
	__u8 dst_local; /* the destination is an enrolled pod of this node */
	__u8 waypoint; /* it has a waypoint */
	__u8 endpoint; /* connect() chose an endpoint that is not on this node */
	__u8 dns; /* TCP to port 53, which the daemon answers */
	__u8 pad[2];
	__u32 answer; /* enum cv_answer of the pair's verdict; NONE when there is no entry */
	__u32 tier; /* enum cv_tier of the verdict */
	__u32 why; /* enum cv_reason of the verdict */
	__u32 generation; /* of the verdict */
};

struct cv_decision {
	__u32 kind; /* SELF, DIRECT or CAPTURED */
	__u32 tier;
	__u32 answer;
	__u32 reason;
	__u32 generation;
};

static __always_inline __u32 captured_reason(const struct cv_question *q)
{
	if (!q->src_own)
		return CV_REASON_FORGED_SOURCE;
	if (q->dns)
		return CV_REASON_DNS;
	if (q->endpoint)
		return CV_REASON_REMOTE_ENDPOINT;
	if (!q->dst_local)
		return CV_REASON_NOT_LOCAL;
	if (q->waypoint)
		return CV_REASON_WAYPOINT;
	if (q->answer == CV_ANSWER_NONE)
		return CV_REASON_NO_VERDICT;
	if (q->answer == CV_ANSWER_DENY)
		return CV_REASON_POLICY;
	if (q->answer != CV_ANSWER_ALLOW)
		return q->why ? q->why : CV_REASON_NEEDS_DAEMON;
	if (q->tier != CV_TIER_DIRECT)
		return CV_REASON_SAME_NODE_TLS;
	return CV_REASON_NONE;
}

/* Everything that is not surely direct goes to the daemon: a doubt costs speed, not safety. */
static __always_inline struct cv_decision decide(const struct cv_question *q)
{
	struct cv_decision d = { .answer = q->answer, .generation = q->generation };

	if (q->loopback) {
		d.kind = CV_KIND_SELF;
		d.reason = CV_REASON_LOOPBACK;
		return d;
	}
	d.reason = captured_reason(q);
	if (d.reason == CV_REASON_NONE) {
		d.kind = CV_KIND_DIRECT;
		d.tier = CV_TIER_DIRECT;
		d.reason = CV_REASON_DIRECT;
		return d;
	}
	d.kind = CV_KIND_CAPTURED;
	return d;
}
