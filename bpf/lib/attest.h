/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table of attested connections: in and out, with each pod's share of it counted.
 */
#pragma once

#include "bpf/lib/flow.h"
#include "bpf/lib/verdict.h"
#include "maps/maps.bpf.h"

static __always_inline void usage_put(__u32 pod)
{
	struct cv_usage_entry *u = bpf_map_lookup_elem(&cv_usage, &pod);

	if (u)
		__sync_fetch_and_add(&u->attested, -1);
}

static __always_inline bool usage_get(__u32 pod)
{
	struct cv_usage_entry *u = bpf_map_lookup_elem(&cv_usage, &pod);

	if (!u)
		return false;
	if (__sync_fetch_and_add(&u->attested, 1) < CV_MAX_ATTESTED_POD)
		return true;
	usage_put(pod);
	return false;
}

/* Adds an entry on a tuple that has none; false when it does not fit. */
static __always_inline bool insert(const struct cv_tuple *t, const struct cv_attested_entry *e)
{
	if (!usage_get(e->src_pod))
		return false;
	if (!bpf_map_update_elem(&cv_attested, t, e, BPF_NOEXIST))
		return true;
	usage_put(e->src_pod);
	return false;
}

/* The verdict once more, now that the daemon can see the entry. Too late to be direct: the
 * socket has its route, and pod_egress takes its SYN to the daemon. */
static __always_inline void recheck(const struct cv_tuple *t, struct cv_attested_entry *e)
{
	struct cv_attested_entry *live;

	if (verdict_is_direct(e->src_pod, e->dst_pod, t->dport))
		return;
	count(CV_REASON_VERDICT_CHANGED);
	e->kind = CV_KIND_CAPTURED;
	e->tier = CV_TIER_NONE;
	e->reason = CV_REASON_VERDICT_CHANGED;
	live = bpf_map_lookup_elem(&cv_attested, t);
	if (!live || live->cookie != e->cookie)
		return;
	live->kind = e->kind;
	live->tier = e->tier;
	live->reason = e->reason;
}

/* Attests what was decided, on a tuple that has no entry; false when it does not fit. Inserts first and
 * reads the verdict then: a direct connection whose verdict has changed meanwhile is captured, and *e
 * says so. */
static __always_inline bool attest(const struct cv_tuple *t, struct cv_attested_entry *e)
{
	if (!insert(t, e))
		return false;
	if (e->kind == CV_KIND_DIRECT)
		recheck(t, e);
	return true;
}

/* May a connect() of this pod (0 = a namespace that is none) remove what its tuple has? An entry of another
 * namespace that admits (direct, probe) is one that a reused or a stolen address would have inherited.
 * One that is captured admits nobody, but what removal of its pod has to close is known by it: whose
 * address it is now may take its place, and nobody who only binds to it. A leg of the daemon's stays,
 * for its client is that address's owner. */
static __always_inline bool may_clear(const struct cv_tuple *t, const struct cv_attested_entry *e,
				      __u32 pod)
{
	if (e->src_pod == pod || e->kind == CV_KIND_DIRECT || e->kind == CV_KIND_PROBE)
		return true;
	return e->kind == CV_KIND_CAPTURED && pod && addr_pod(&t->src) == pod;
}

/* Removes whatever an earlier connection left on this tuple: whoever connects now owns it. */
static __always_inline void attest_clear(const struct cv_tuple *t, __u32 pod)
{
	const struct cv_attested_entry *e = bpf_map_lookup_elem(&cv_attested, t);
	__u32 owner;

	if (!e || !may_clear(t, e, pod))
		return;
	owner = e->src_pod;
	if (bpf_map_delete_elem(&cv_attested, t))
		return;
	usage_put(owner);
	if (owner != pod)
		count(CV_REASON_TUPLE_STOLEN);
}

/* Removes the entry of the socket that closes, if it is still its own. */
static __always_inline void attest_end(const struct cv_tuple *t, __u64 cookie)
{
	const struct cv_attested_entry *e = bpf_map_lookup_elem(&cv_attested, t);
	__u32 owner;

	if (!e || e->cookie != cookie)
		return;
	owner = e->src_pod;
	if (!bpf_map_delete_elem(&cv_attested, t))
		usage_put(owner);
}
