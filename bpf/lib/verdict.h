/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How programs leave. A hook's verdict is made here and nowhere else, from an action and the
 * reason for it, which is counted; so no early exit can lack a reason.
 */
#pragma once

#include "bpf/lib/consts.h"
#include "maps/maps.bpf.h"

static __always_inline void count(enum cv_reason reason)
{
	__u32 zero = 0;
	__u64 *counters = bpf_map_lookup_elem(&cv_reasons, &zero);

	/* Atomic: a softirq on this CPU may count in the middle of a process's program. */
	if (counters && reason < CV_REASON_NR)
		__sync_fetch_and_add(&counters[reason], 1);
}

/* cgroup hooks: 1 lets the system call go on, 0 refuses it. */
static __always_inline int call_pass(enum cv_reason reason)
{
	count(reason);
	return 1;
}

static __always_inline int call_refuse(enum cv_reason reason)
{
	count(reason);
	return 0;
}

/* sockops must return 1, and leaves `reply` to others. */
static __always_inline int ops_done(void)
{
	return 1;
}

/* TC: the next program decides. Other users of the hook keep their say. */
static __always_inline int tc_next(enum cv_reason reason)
{
	count(reason);
	return TCX_NEXT;
}

static __always_inline int tc_drop(enum cv_reason reason)
{
	count(reason);
	return TCX_DROP;
}

/* Into the ingress path of a device of this network namespace. */
static __always_inline int tc_redirect(__u32 ifindex, enum cv_reason reason)
{
	count(reason);
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

/* sk_lookup: with a socket assigned SK_PASS means that socket, else the ordinary look-up. */
static __always_inline int lookup_pass(enum cv_reason reason)
{
	count(reason);
	return SK_PASS;
}

static __always_inline int lookup_drop(enum cv_reason reason)
{
	count(reason);
	return SK_DROP;
}

/* Iterators: 0 goes on to the next object. */
static __always_inline int iter_next(void)
{
	return 0;
}
