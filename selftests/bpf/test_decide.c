// SPDX-License-Identifier: Apache-2.0
/*
 * bpf/lib/decide.h, run in the kernel, on every question that there is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>
#include <stdbool.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#include "bpf/lib/decide.h"
#include "decide.skel.h"

struct args {
	struct cv_question question;
	struct cv_decision decision;
};

static struct decide_bpf *skel;

static struct cv_decision ask_kernel(const struct cv_question *q)
{
	struct args args = { .question = *q };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &args, .ctx_size_in = sizeof(args));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(skel->progs.run_decide), &opts), 0);
	return args.decision;
}

/* Calls fn with every combination of what a question can hold. */
static void each_question(void (*fn)(const struct cv_question *q))
{
	for (unsigned bits = 0; bits < 32; bits++) {
		for (uint32_t answer = 0; answer <= CV_ANSWER_DAEMON + 1; answer++) {
			for (uint32_t tier = 0; tier < CV_TIER_NR; tier++) {
				struct cv_question q = { .loopback = bits & 1,
							 .src_own = bits >> 1 & 1,
							 .dst_local = bits >> 2 & 1,
							 .waypoint = bits >> 3 & 1,
							 .endpoint = bits >> 4 & 1,
							 .answer = answer,
							 .tier = tier,
							 .generation = 9 };

				fn(&q);
			}
		}
	}
}

static void check_closed(const struct cv_question *q)
{
	struct cv_decision d = ask_kernel(q);
	bool yes = q->src_own && q->dst_local && !q->waypoint && !q->endpoint &&
		   q->answer == CV_ANSWER_ALLOW && q->tier == CV_TIER_DIRECT;

	if (q->loopback)
		assert_int_equal(d.kind, CV_KIND_SELF);
	else
		assert_int_equal(d.kind, yes ? CV_KIND_DIRECT : CV_KIND_CAPTURED);
	assert_int_equal(d.tier, d.kind == CV_KIND_DIRECT ? CV_TIER_DIRECT : CV_TIER_NONE);
	assert_true(d.reason > CV_REASON_NONE && d.reason < CV_REASON_NR);
	assert_int_equal(d.answer, q->answer);
	assert_int_equal(d.generation, 9);
}

/* Direct only on a clear yes to everything, and always for a reason. */
static void test_closed_where_unclear(void **state)
{
	(void)state;
	each_question(check_closed);
}

/* The reason names what stood in the way, the most basic thing first. */
static void test_reasons(void **state)
{
	static const struct {
		struct cv_question q;
		enum cv_reason want;
	} rows[] = {
		{ { .loopback = 1 }, CV_REASON_LOOPBACK },
		{ { .dst_local = 1, .answer = CV_ANSWER_DENY }, CV_REASON_FORGED_SOURCE },
		{ { .src_own = 1, .endpoint = 1 }, CV_REASON_REMOTE_ENDPOINT },
		{ { .src_own = 1 }, CV_REASON_NOT_LOCAL },
		{ { .src_own = 1, .dst_local = 1, .waypoint = 1 }, CV_REASON_WAYPOINT },
		{ { .src_own = 1, .dst_local = 1 }, CV_REASON_NO_VERDICT },
		{ { .src_own = 1, .dst_local = 1, .answer = CV_ANSWER_DENY }, CV_REASON_POLICY },
		{ { .src_own = 1, .dst_local = 1, .answer = CV_ANSWER_DAEMON },
		  CV_REASON_NEEDS_DAEMON },
		{ { .src_own = 1,
		    .dst_local = 1,
		    .answer = CV_ANSWER_DAEMON,
		    .why = CV_REASON_WAYPOINT },
		  CV_REASON_WAYPOINT },
		{ { .src_own = 1, .dst_local = 1, .answer = CV_ANSWER_ALLOW, .tier = CV_TIER_TLS },
		  CV_REASON_SAME_NODE_TLS },
		{ { .src_own = 1,
		    .dst_local = 1,
		    .answer = CV_ANSWER_ALLOW,
		    .tier = CV_TIER_DIRECT },
		  CV_REASON_DIRECT },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(ask_kernel(&rows[i].q).reason, rows[i].want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_closed_where_unclear),
		cmocka_unit_test(test_reasons),
	};
	int failed;

	skel = decide_bpf__open_and_load();
	if (!skel)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	decide_bpf__destroy(skel);
	return failed;
}
