// SPDX-License-Identifier: Apache-2.0
/*
 * The verdict table: what is remembered of each enrolled pod tells which pods have changed since
 * the last run; the pairs that such a pod is in are computed anew and written as differences.
 *
 * Order of writing: entries of single ports before the entry for all others, removals last, so
 * that a port is never judged by an entry that was not meant for it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/mesh/policy.h"
#include "userspace/node/compile_private.h"

/* --- the pods ------------------------------------------------------------------------------- */

static void fini_local(struct cv_local *local)
{
	cv_policy_set_fini(&local->policies);
	cv_workload_put(&local->workload);
	free(local->addrs);
}

static void free_locals(struct cv_locals *l)
{
	for (size_t i = 0; i < l->n; i++)
		fini_local(&l->pods[i]);
	free(l->pods);
	*l = (struct cv_locals){};
}

static int set_flags(struct cv_compile *c, const struct cv_local *local)
{
	const struct cv_workload_entry wanted = {
		.pod = local->number,
		.flags = local->workload->group->waypoint ? CV_WL_WAYPOINT : 0,
	};
	struct cv_workload_entry present;

	for (size_t i = 0; i < local->nr_addrs; i++) {
		const struct cv_addr *addr = &local->addrs[i];
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

struct collect {
	struct cv_compile *c;
	struct cv_locals locals;
};

static int collect(const struct cv_pod_view *pod, void *arg)
{
	struct collect *to = arg;
	const struct cv_compile_opts *opts = &to->c->opts;
	struct cv_local *local = &to->locals.pods[to->locals.n];
	struct cv_workload *w =
		cv_store_workload_local(opts->store, pod->ns, pod->service_account, pod->name);
	int n;

	if (!w || w->group->network_mode == CV_NETWORK_HOST) {
		cv_workload_put(&w);
		return 0;
	}
	*local = (struct cv_local){ .number = pod->number, .epoch = pod->epoch, .workload = w };
	to->locals.n++;
	cv_store_policies_for(opts->store, w, &local->policies);
	local->addrs = calloc(pod->nr_addrs + 1, sizeof(*local->addrs));
	if (!local->addrs)
		return -ENOMEM;
	memcpy(local->addrs, pod->addrs, pod->nr_addrs * sizeof(*local->addrs));
	local->nr_addrs = pod->nr_addrs;
	if (opts->same_node)
		local->same_node = opts->same_node(pod->ns, pod->name, opts->arg);
	n = cv_policy_set_ports(&local->policies, local->ports, CV_LIMIT_POLICY_PORTS);
	local->nr_ports = n < 0 ? 0 : (size_t)n; /* too many: one entry sends all to the daemon */
	return set_flags(to->c, local);
}

/* References keep the objects, so the same pointers mean the same, immutable, objects. */
static bool is_same(const struct cv_local *a, const struct cv_local *b)
{
	return a->epoch == b->epoch && a->workload == b->workload && a->same_node == b->same_node &&
	       a->policies.missing == b->policies.missing && a->policies.n == b->policies.n &&
	       a->nr_addrs == b->nr_addrs &&
	       !memcmp(a->addrs, b->addrs, a->nr_addrs * sizeof(*a->addrs)) &&
	       (!a->policies.n || !memcmp(a->policies.policies, b->policies.policies,
					  a->policies.n * sizeof(*a->policies.policies)));
}

static struct cv_local *find_local(const struct cv_locals *l, uint32_t number)
{
	size_t low = 0, high = l->n;

	while (low < high) { /* pods are walked, and so kept, in the order of their numbers */
		size_t mid = (low + high) / 2;

		if (l->pods[mid].number == number)
			return &l->pods[mid];
		if (l->pods[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static void find_changes(const struct cv_locals *before, struct cv_locals *now)
{
	for (size_t i = 0; i < now->n; i++) {
		const struct cv_local *old = find_local(before, now->pods[i].number);

		now->pods[i].changed = !old || !is_same(old, &now->pods[i]);
	}
}

/* --- computing ------------------------------------------------------------------------------ */

static bool is_same_answer(const struct cv_verdict_entry *a, const struct cv_verdict_entry *b)
{
	return a->answer == b->answer && a->tier == b->tier && a->reason == b->reason;
}

static int add_verdict(struct cv_sorted *to, const struct cv_local *src, const struct cv_local *dst,
		       uint16_t port, const struct cv_verdict_entry *value)
{
	struct cv_verdict_row *row = cv_sorted_add(to);

	if (!row)
		return -ENOMEM;
	row->key.src_pod = src->number;
	row->key.dst_pod = dst->number;
	row->key.port = htons(port);
	row->value = *value;
	return 0;
}

/* The entry for all ports, and one for each port whose answer differs from it. */
static int compile_pair(struct cv_sorted *to, const struct cv_local *src,
			const struct cv_local *dst)
{
	const struct cv_verdict_in in = {
		.src = src->workload,
		.dst = dst->workload,
		.src_addrs = src->addrs,
		.dst_addrs = dst->addrs,
		.nr_src_addrs = src->nr_addrs,
		.nr_dst_addrs = dst->nr_addrs,
		.policies = &dst->policies,
		.same_node = src->same_node > dst->same_node ? src->same_node : dst->same_node,
	};
	struct cv_verdict_entry others, one;
	int r;

	cv_compile_verdict(&in, 0, &others);
	r = add_verdict(to, src, dst, 0, &others);
	for (size_t i = 0; r == 0 && i < dst->nr_ports; i++) {
		cv_compile_verdict(&in, dst->ports[i], &one);
		if (!is_same_answer(&one, &others))
			r = add_verdict(to, src, dst, dst->ports[i], &one);
	}
	return r;
}

static int compile_pairs(const struct cv_locals *l, struct cv_sorted *to)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n * l->n; i++) {
		const struct cv_local *src = &l->pods[i / l->n], *dst = &l->pods[i % l->n];

		if (src != dst && (src->changed || dst->changed))
			r = compile_pair(to, src, dst);
	}
	cv_sorted_done(to);
	return r;
}

/* --- writing -------------------------------------------------------------------------------- */

/* Is this row of a pair that has not changed? */
static bool is_kept(const struct cv_locals *l, const struct cv_verdict_row *row)
{
	const struct cv_local *src = find_local(l, row->key.src_pod);
	const struct cv_local *dst = find_local(l, row->key.dst_pod);

	return src && dst && !src->changed && !dst->changed;
}

/* A pair that does not fit stays without an entry, and with the daemon. */
static int write_row(struct cv_compile *c, struct cv_verdict_row *row)
{
	const struct cv_verdict_row *present = cv_sorted_find(&c->verdicts, &row->key);
	int r;

	if (present && is_same_answer(&present->value, &row->value)) {
		row->value.generation = present->value.generation;
		return 0;
	}
	row->value.generation = c->generation;
	c->changed = true;
	r = cv_table_verdict_set(c->opts.bpf, &row->key, &row->value);
	if (r != -E2BIG)
		return r;
	c->full = true;
	return 0;
}

static int write_rows(struct cv_compile *c, const struct cv_sorted *fresh)
{
	int r = 0;

	for (int others = 0; others < 2; others++) {
		for (size_t i = 0; r == 0 && i < fresh->n; i++) {
			struct cv_verdict_row *row = cv_sorted_at(fresh, i);

			if ((row->key.port == 0) == others)
				r = write_row(c, row);
		}
	}
	return r;
}

static int remove_rows(struct cv_compile *c, const struct cv_locals *l,
		       const struct cv_sorted *fresh)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->verdicts.n; i++) {
		const struct cv_verdict_row *row = cv_sorted_at(&c->verdicts, i);

		if (is_kept(l, row) || cv_sorted_find(fresh, &row->key))
			continue;
		c->changed = true;
		r = cv_table_verdict_del(c->opts.bpf, &row->key);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

/* What is remembered becomes the rows that were kept and those that were written. */
static int remember(struct cv_compile *c, const struct cv_locals *l, const struct cv_sorted *fresh)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->verdicts.n; i++) {
		struct cv_verdict_row *row = cv_sorted_at(&c->verdicts, i);

		if (is_kept(l, row))
			memmove(cv_sorted_at(&c->verdicts, kept++), row, sizeof(*row));
	}
	c->verdicts.n = kept;
	for (size_t i = 0; i < fresh->n; i++) {
		struct cv_verdict_row *row = cv_sorted_add(&c->verdicts);

		if (!row)
			return -ENOMEM;
		*row = *(const struct cv_verdict_row *)cv_sorted_at(fresh, i);
	}
	cv_sorted_done(&c->verdicts);
	return 0;
}

/* A pod that was removed and enrolled again took its entries with it when it went. */
static void forget_rows(struct cv_compile *c, const struct cv_locals *now)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->verdicts.n; i++) {
		struct cv_verdict_row *row = cv_sorted_at(&c->verdicts, i);
		bool gone = false;

		for (int end = 0; end < 2; end++) {
			uint32_t number = end ? row->key.dst_pod : row->key.src_pod;
			const struct cv_local *old = find_local(&c->locals, number);
			const struct cv_local *fresh = find_local(now, number);

			gone = gone || (old && fresh && old->epoch != fresh->epoch);
		}
		if (!gone)
			memmove(cv_sorted_at(&c->verdicts, kept++), row, sizeof(*row));
	}
	c->verdicts.n = kept;
}

static int update(struct cv_compile *c, struct cv_locals *now)
{
	_cleanup_(cv_sorted_fini) struct cv_sorted fresh = {};
	int r;

	cv_sorted_init(&fresh, sizeof(struct cv_verdict_row), sizeof(struct cv_verdict_key));
	find_changes(&c->locals, now);
	forget_rows(c, now);
	r = compile_pairs(now, &fresh);
	if (r == 0)
		r = write_rows(c, &fresh);
	if (r == 0)
		r = remove_rows(c, now, &fresh);
	return r < 0 ? r : remember(c, now, &fresh);
}

int cv_compile_verdicts(struct cv_compile *c)
{
	struct collect to = { .c = c };
	int r;

	to.locals.pods = calloc(cv_pods_count(c->opts.pods) + 1, sizeof(*to.locals.pods));
	if (!to.locals.pods)
		return -ENOMEM;
	r = cv_pods_each(c->opts.pods, collect, &to);
	if (r == 0)
		r = update(c, &to.locals);
	if (r < 0) {
		free_locals(&to.locals);
		return r;
	}
	free_locals(&c->locals);
	c->locals = to.locals;
	return 0;
}

static int load_row(const struct cv_verdict_key *key, const struct cv_verdict_entry *entry,
		    void *arg)
{
	struct cv_verdict_row *row = cv_sorted_add(arg);

	if (!row)
		return -ENOMEM;
	row->key = *key;
	row->value = *entry;
	return 0;
}

void cv_compile_verdicts_fini(struct cv_compile *c)
{
	free_locals(&c->locals);
	cv_sorted_fini(&c->verdicts);
}

int cv_compile_verdicts_load(struct cv_compile *c)
{
	int r;

	cv_compile_verdicts_fini(c);
	cv_sorted_init(&c->verdicts, sizeof(struct cv_verdict_row), sizeof(struct cv_verdict_key));
	r = cv_table_verdict_each(c->opts.bpf, load_row, &c->verdicts);
	cv_sorted_done(&c->verdicts);
	return r;
}
