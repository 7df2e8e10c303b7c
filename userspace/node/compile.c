// SPDX-License-Identifier: Apache-2.0
/*
 * The verdict table as a whole: computed for all pairs of enrolled pods, compared with what the
 * map holds, and written as differences; then the flows that are open are judged by it.
 *
 * Order within a pair: entries of single ports before the entry for all others, removals last,
 * so that a port is never judged by an entry that was not meant for it. Entries first, flows
 * second: a connection that is being made sees the new entry or is seen by the walk.
 */
#define CV_LOG_TARGET "node"
#include "userspace/node/compile.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/mesh/policy.h"
#include "userspace/node/compile_private.h"
#include "userspace/node/flows.h"

/* An enrolled pod that has a workload record. */
struct local {
	const struct cv_pod_view *pod;
	struct cv_workload *workload; /* reference */
	struct cv_policy_set policies;
	uint16_t ports[CV_LIMIT_POLICY_PORTS]; /* that policies name */
	size_t nr_ports;
	enum cv_same_node same_node;
};

struct locals {
	struct cv_compile *c;
	struct local *pods;
	size_t n;
	int error;
};

static void free_locals(struct locals *l)
{
	for (size_t i = 0; i < l->n; i++) {
		cv_policy_set_fini(&l->pods[i].policies);
		cv_workload_put(&l->pods[i].workload);
	}
	free(l->pods);
}

static int set_flags(struct cv_compile *c, const struct local *local)
{
	const struct cv_workload_entry wanted = {
		.pod = local->pod->number,
		.flags = local->workload->waypoint ? CV_WL_WAYPOINT : 0,
	};
	struct cv_workload_entry present;

	for (size_t i = 0; i < local->pod->nr_addrs; i++) {
		const struct cv_addr *addr = &local->pod->addrs[i];
		int r = cv_table_workload_get(c->opts.bpf, addr, &present);

		/* What enrolment has not entered, or entered for another pod, stays so. */
		if (r < 0 || present.pod != wanted.pod || present.flags == wanted.flags)
			continue;
		r = cv_table_workload_set(c->opts.bpf, addr, &wanted);
		if (r < 0)
			return r;
	}
	return 0;
}

static int collect(const struct cv_pod_view *pod, void *arg)
{
	struct locals *l = arg;
	struct cv_compile *c = l->c;
	struct local *local = &l->pods[l->n];
	struct cv_workload *w =
		cv_store_workload_local(c->opts.store, pod->ns, pod->service_account, pod->name);
	int n;

	if (!w)
		return 0;
	if (w->network_mode == CV_NETWORK_HOST) {
		cv_workload_put(&w);
		return 0;
	}
	*local = (struct local){ .pod = pod, .workload = w };
	cv_store_policies_for(c->opts.store, w, &local->policies);
	if (c->opts.same_node)
		local->same_node = c->opts.same_node(pod->ns, pod->name, c->opts.arg);
	n = cv_policy_set_ports(&local->policies, local->ports, CV_LIMIT_POLICY_PORTS);
	local->nr_ports = n < 0 ? 0 : (size_t)n; /* too many: one entry sends all to the daemon */
	l->n++;
	return set_flags(c, local);
}

/* --- computing ------------------------------------------------------------------------------ */

static bool is_same_answer(const struct cv_verdict_entry *a, const struct cv_verdict_entry *b)
{
	return a->answer == b->answer && a->tier == b->tier && a->reason == b->reason;
}

static int add_verdict(struct cv_sorted *t, const struct local *src, const struct local *dst,
		       uint16_t port, const struct cv_verdict_entry *value)
{
	struct cv_verdict_row *row = cv_sorted_add(t);

	if (!row)
		return -ENOMEM;
	row->key.src_pod = src->pod->number;
	row->key.dst_pod = dst->pod->number;
	row->key.port = htons(port);
	row->value = *value;
	return 0;
}

/* The entry for all ports, and one for each port whose answer differs from it. */
static int compile_pair(struct cv_sorted *t, const struct local *src, const struct local *dst)
{
	const struct cv_verdict_in in = {
		.src = src->workload,
		.dst = dst->workload,
		.src_addrs = src->pod->addrs,
		.dst_addrs = dst->pod->addrs,
		.nr_src_addrs = src->pod->nr_addrs,
		.nr_dst_addrs = dst->pod->nr_addrs,
		.policies = &dst->policies,
		.same_node = src->same_node > dst->same_node ? src->same_node : dst->same_node,
	};
	struct cv_verdict_entry others, one;
	int r;

	cv_compile_verdict(&in, 0, &others);
	r = add_verdict(t, src, dst, 0, &others);
	for (size_t i = 0; r == 0 && i < dst->nr_ports; i++) {
		cv_compile_verdict(&in, dst->ports[i], &one);
		if (!is_same_answer(&one, &others))
			r = add_verdict(t, src, dst, dst->ports[i], &one);
	}
	return r;
}

static int compile_pairs(struct cv_compile *c, struct cv_sorted *t)
{
	struct locals l = { .c = c };
	int r;

	l.pods = calloc(CV_MAX_PODS, sizeof(*l.pods));
	if (!l.pods)
		return -ENOMEM;
	r = cv_pods_each(c->opts.pods, collect, &l);
	for (size_t i = 0; r == 0 && i < l.n * l.n; i++) {
		if (i / l.n != i % l.n)
			r = compile_pair(t, &l.pods[i / l.n], &l.pods[i % l.n]);
	}
	free_locals(&l);
	cv_sorted_done(t);
	return r;
}

/* --- writing -------------------------------------------------------------------------------- */

/* A pair that does not fit stays without an entry, and with the daemon. */
static int write_verdict(struct cv_compile *c, const struct cv_sorted *old,
			 struct cv_verdict_row *row)
{
	const struct cv_verdict_row *present = cv_sorted_find(old, &row->key);
	int r;

	if (present && is_same_answer(&present->value, &row->value))
		return 0;
	row->value.generation = c->generation;
	c->changed = true;
	r = cv_table_verdict_set(c->opts.bpf, &row->key, &row->value);
	return r == -E2BIG ? 0 : r;
}

static int remove_verdicts(struct cv_compile *c, const struct cv_sorted *old,
			   const struct cv_sorted *fresh)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < old->n; i++) {
		const struct cv_verdict_row *row = cv_sorted_at(old, i);

		if (cv_sorted_find(fresh, &row->key))
			continue;
		c->changed = true;
		r = cv_table_verdict_del(c->opts.bpf, &row->key);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

static int write_verdicts(struct cv_compile *c, const struct cv_sorted *old,
			  const struct cv_sorted *fresh)
{
	int r = 0;

	for (int others = 0; others < 2; others++) {
		for (size_t i = 0; r == 0 && i < fresh->n; i++) {
			struct cv_verdict_row *row = cv_sorted_at(fresh, i);

			if ((row->key.port == 0) == others)
				r = write_verdict(c, old, row);
		}
	}
	return r < 0 ? r : remove_verdicts(c, old, fresh);
}

static int load_verdict(const struct cv_verdict_key *key, const struct cv_verdict_entry *entry,
			void *arg)
{
	struct cv_verdict_row *row = cv_sorted_add(arg);

	if (!row)
		return -ENOMEM;
	row->key = *key;
	row->value = *entry;
	return 0;
}

static int compile_verdicts(struct cv_compile *c)
{
	_cleanup_(cv_sorted_fini) struct cv_sorted old = {}, fresh = {};
	int r;

	cv_sorted_init(&old, sizeof(struct cv_verdict_row), sizeof(struct cv_verdict_key));
	cv_sorted_init(&fresh, sizeof(struct cv_verdict_row), sizeof(struct cv_verdict_key));
	r = cv_table_verdict_each(c->opts.bpf, load_verdict, &old);
	if (r == 0)
		r = compile_pairs(c, &fresh);
	cv_sorted_done(&old);
	return r < 0 ? r : write_verdicts(c, &old, &fresh);
}

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

static int compile_all(struct cv_compile *c)
{
	int r = compile_verdicts(c);

	if (r < 0)
		return r;
	if (c->stale) {
		cv_compile_services_fini(&c->services);
		r = cv_compile_services_load(c);
		if (r < 0)
			return r;
	}
	return cv_compile_services(c);
}

int cv_compile_run(struct cv_compile *c)
{
	int r;

	/* An unfinished store would take verdicts away that are still good. */
	if (!cv_store_is_warm(c->opts.store))
		return 0;
	c->generation++;
	c->changed = false;
	r = compile_all(c);
	c->stale = r < 0;
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
	cv_sorted_init(&c->services, sizeof(struct cv_service_row), sizeof(struct cv_service_key));
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
	cv_compile_services_fini(&c->services);
	free(c);
	*pc = NULL;
}
