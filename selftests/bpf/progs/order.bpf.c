// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs bpf/lib/attest.h with a daemon that is as untimely as can be: the verdict turns into a refusal
 * right behind the insert, when the daemon's walk may just have passed.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "maps/maps.bpf.h"

struct cv_attested_def cv_attested SEC(".maps");
struct cv_reasons_def cv_reasons SEC(".maps");
struct cv_usage_def cv_usage SEC(".maps");
struct cv_verdicts_def cv_verdicts SEC(".maps");

static struct cv_verdict_key verdict_of(const struct cv_tuple *t, const struct cv_attested_entry *e)
{
	return (struct cv_verdict_key){ .src_pod = e->src_pod,
					.dst_pod = e->dst_pod,
					.port = t->dport };
}

static long update_and_deny(void *map, const void *tuple, const void *entry, __u64 flags)
{
	const struct cv_verdict_entry deny = { .answer = CV_ANSWER_DENY };
	struct cv_verdict_key key = verdict_of(tuple, entry);
	long r = bpf_map_update_elem(map, tuple, entry, flags);

	bpf_map_update_elem(&cv_verdicts, &key, &deny, BPF_ANY);
	return r;
}

/* The only update in it is the insert. */
#define bpf_map_update_elem update_and_deny
#include "bpf/lib/attest.h"
#undef bpf_map_update_elem

struct cv_tuple tuple = {};
struct cv_attested_entry entry = {}; /* as decided; then as attested */
struct cv_attested_entry found = {}; /* in the table, afterwards */
bool attested = false; /* it fitted */

SEC("syscall")
int run_attest(void *ctx)
{
	const struct cv_verdict_entry allow = { .answer = CV_ANSWER_ALLOW, .tier = CV_TIER_DIRECT };
	struct cv_attested_entry e = entry, *live;
	struct cv_tuple t = tuple;
	struct cv_verdict_key key = verdict_of(&t, &e);

	(void)ctx;
	bpf_map_update_elem(&cv_verdicts, &key, &allow, BPF_ANY);
	attested = attest(&t, &e);
	entry = e;
	live = bpf_map_lookup_elem(&cv_attested, &t);
	if (live)
		found = *live;
	return 0;
}

char _license[] SEC("license") = "GPL";
