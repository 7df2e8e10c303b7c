// SPDX-License-Identifier: Apache-2.0
/*
 * A run of the compiler: verdicts, services, then the flows that are open are judged. Entries
 * first, flows second: a connection that is being made sees the new entry or is seen by the walk.
 */
#define CV_LOG_TARGET "node"
#include "userspace/node/compile.h"

#include <errno.h>
#include <stdlib.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/node/compile_private.h"
#include "userspace/node/flows.h"

/* --- judging what is open ------------------------------------------------------------------- */

/* A connection that was let through: by pod numbers, as both tables have it. */
struct admitted {
	const struct cv_tuple *tuple;
	uint64_t cookie;
	uint32_t src_pod, dst_pod;
};

static bool is_direct(struct cv_compile *c, const struct admitted *a)
{
	struct cv_verdict_key key = {
		.src_pod = a->src_pod,
		.dst_pod = a->dst_pod,
		.port = a->tuple->dport,
	};
	struct cv_verdict_entry v;
	int r = cv_table_verdict_get(c->opts.bpf, &key, &v);

	if (r == -ENOENT) {
		key.port = 0;
		r = cv_table_verdict_get(c->opts.bpf, &key, &v);
	}
	return r == 0 && v.answer == CV_ANSWER_ALLOW && v.tier == CV_TIER_DIRECT;
}

/* Flows of a pod that is no longer enrolled are no longer ours to judge. */
static void judge(struct cv_compile *c, const struct admitted *a)
{
	const struct cv_pod_view *src = cv_pods_by_number(c->opts.pods, a->src_pod);
	int r;

	if (!src || !cv_pods_by_number(c->opts.pods, a->dst_pod) || is_direct(c, a))
		return;
	if (c->opts.denied)
		c->opts.denied(a->cookie, c->opts.arg);
	r = cv_sock_destroy(src->netns, a->tuple, a->cookie);
	if (r < 0 && r != -ENOENT)
		cv_error("%s/%s: a connection that policy forbids could not be closed: %s", src->ns,
			 src->name, cv_strerror(-r));
}

static int judge_flow(uint64_t cookie, const struct cv_flow_entry *f, void *arg)
{
	const struct admitted a = { &f->tuple, cookie, f->src_pod, f->dst_pod };

	if (f->kind == CV_KIND_DIRECT && f->state != CV_FLOW_CLOSED)
		judge(arg, &a);
	return 0;
}

static int judge_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e,
			  void *arg)
{
	const struct admitted a = { tuple, e->cookie, e->src_pod, e->dst_pod };

	if (e->kind == CV_KIND_DIRECT)
		judge(arg, &a);
	return 0;
}

/* Both tables: an attested entry goes when somebody else takes its tuple, and its connection lives
 * on; a flow record may have found no room. What the first walk closes the second does not find. */
static int judge_all(struct cv_compile *c)
{
	int r = cv_table_flow_each(c->opts.bpf, judge_flow, c);
	int r2 = cv_table_attested_each(c->opts.bpf, judge_attested, c);

	return r < 0 ? r : r2;
}

/* --- runs ----------------------------------------------------------------------------------- */

static int set_generation(struct cv_compile *c)
{
	struct cv_control_entry control;
	int r = cv_table_control_get(c->opts.bpf, &control);

	if (r < 0)
		return r;
	control.generation = c->generation;
	return cv_table_control_set(c->opts.bpf, &control);
}

static int load(struct cv_compile *c)
{
	int r = cv_compile_verdicts_load(c);

	return r < 0 ? r : cv_compile_services_load(c);
}

static int compile_all(struct cv_compile *c)
{
	int r = c->stale ? load(c) : 0;

	if (r == 0)
		r = cv_compile_verdicts(c);
	return r < 0 ? r : cv_compile_services(c);
}

int cv_compile_run(struct cv_compile *c)
{
	uint64_t start = cv_now_ns();
	int r;

	/* An unfinished store would take verdicts away that are still good. */
	if (!cv_store_is_warm(c->opts.store))
		return 0;
	c->generation++;
	c->changed = c->full = false;
	r = compile_all(c);
	c->stale = r < 0 || c->full;
	cv_debug("compiled in %u us: %s", (unsigned)((cv_now_ns() - start) / 1000),
		 c->changed ? "changed" : "nothing new");
	if (!c->changed) {
		c->generation--;
		return r;
	}
	/* What was written counts even when the rest could not be. */
	if (r == 0)
		r = set_generation(c);
	if (r == 0)
		return judge_all(c);
	(void)judge_all(c); /* the first error is told */
	return r;
}

int cv_compile_new(struct cv_compile **ret, const struct cv_compile_opts *opts)
{
	_cleanup_(cv_compile_free) struct cv_compile *c = calloc(1, sizeof(*c));
	struct cv_control_entry control;
	int r;

	if (!c)
		return -ENOMEM;
	c->opts = *opts;
	c->stale = true;
	r = cv_table_control_get(opts->bpf, &control);
	if (r < 0)
		return r;
	c->generation = control.generation;
	*ret = cv_take_ptr(c);
	return 0;
}

void cv_compile_free(struct cv_compile **pc)
{
	struct cv_compile *c = *pc;

	if (!c)
		return;
	cv_compile_verdicts_fini(c);
	cv_compile_services_fini(&c->services);
	free(c);
	*pc = NULL;
}
