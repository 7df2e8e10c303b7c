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

static bool is_direct(struct cv_compile *c, const struct cv_attested_entry *e, __be16 port)
{
	struct cv_verdict_key key = { .src_pod = e->src_pod, .dst_pod = e->dst_pod, .port = port };
	struct cv_verdict_entry v;
	int r = cv_table_verdict_get(c->opts.bpf, &key, &v);

	if (r == -ENOENT) {
		key.port = 0;
		r = cv_table_verdict_get(c->opts.bpf, &key, &v);
	}
	return r == 0 && v.answer == CV_ANSWER_ALLOW && v.tier == CV_TIER_DIRECT;
}

/* Flows of a pod that is no longer enrolled are no longer ours to judge. */
static int judge(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	struct cv_compile *c = arg;
	const struct cv_pod_view *src = cv_pods_by_number(c->opts.pods, e->src_pod);
	int r;

	if (e->kind != CV_KIND_DIRECT || !src || !cv_pods_by_number(c->opts.pods, e->dst_pod) ||
	    is_direct(c, e, tuple->dport))
		return 0;
	if (c->opts.denied)
		c->opts.denied(e->cookie, c->opts.arg);
	r = cv_sock_destroy(src->netns, tuple, e->cookie);
	if (r < 0 && r != -ENOENT)
		cv_error("%s/%s: a connection that policy forbids could not be closed: %s", src->ns,
			 src->name, cv_strerror(-r));
	return 0;
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
		return cv_table_attested_each(c->opts.bpf, judge, c);
	(void)cv_table_attested_each(c->opts.bpf, judge, c); /* the first error is told */
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
