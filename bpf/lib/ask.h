/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Puts the question that bpf/lib/decide.h answers: looks up what the maps know about one outbound
 * connection.
 */
#pragma once

#include "bpf/lib/decide.h"
#include "bpf/lib/flow.h"

/* tuple.src is unspecified while connect() has not chosen a source yet. */
static __always_inline struct cv_question ask(__u32 pod, const struct cv_tuple *tuple)
{
	const struct cv_workload_entry *dst = bpf_map_lookup_elem(&cv_workloads, &tuple->dst);
	const struct cv_verdict_entry *v = 0;
	struct cv_question q = {};

	q.src_own = addr_is_any(&tuple->src) || addr_pod(&tuple->src) == pod;
	q.loopback = addr_is_loopback(&tuple->dst) || addr_is_any(&tuple->dst);
	if (!dst)
		return q;
	q.dst_local = 1;
	q.loopback = dst->pod == pod;
	q.waypoint = !!(dst->flags & CV_WL_WAYPOINT);
	v = verdict_find(pod, dst->pod, tuple->dport);
	if (!v)
		return q;
	q.answer = v->answer;
	q.tier = v->tier;
	q.why = v->reason;
	q.generation = v->generation;
	return q;
}
