/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies of the store, and the set that applies to a workload.
 *
 * Global and namespace policies are kept in one index entry a namespace, which a batch replaces
 * once, so that a reader sees each namespace's set before or after the batch, never between.
 * Selector policies are found through the workloads that list them.
 */
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/store_private.h"

/* A policy that joins (new) or leaves (old) the set of a namespace. */
struct group_change {
	cv_str ns; /* "" = global; of old or new */
	struct cv_policy *old, *new; /* references, either may be NULL */
};

struct cv_policy_batch {
	struct group_change *now, *later; /* with additions; removals only */
	size_t nr_now, nr_later;
	cv_str *removed; /* keys, borrowed from the deltas */
	size_t nr_removed;
};

static void ref_policy(void *object)
{
	cv_policy_ref(object);
}

static void put_policy(void *object)
{
	struct cv_policy *p = object;

	cv_policy_put(&p);
}

static const struct cv_index_ops policy_ops = { ref_policy, put_policy, NULL };

int cv_store_policies_init(struct cv_store *s)
{
	int r = cv_index_init(&s->policies, &policy_ops);

	return r < 0 ? r : cv_index_init(&s->policies_by_ns, &policy_ops);
}

void cv_store_policies_fini(struct cv_store *s)
{
	cv_index_fini(&s->policies);
	cv_index_fini(&s->policies_by_ns);
}

struct cv_policy *cv_store_policy_by_key(struct cv_store *s, cv_str key)
{
	struct cv_policy *p;

	rcu_read_lock();
	p = cv_policy_ref(cv_index_first(&s->policies, &(struct cv_index_key){ .a = key }));
	rcu_read_unlock();
	return p;
}

int cv_store_policy_each(struct cv_store *s, int (*fn)(cv_str key, struct cv_policy *p, void *arg),
			 void *arg)
{
	struct cv_index_walk walk;
	struct cv_index_entry e;
	int r = 0;

	rcu_read_lock();
	cv_index_walk_init(&walk, &s->policies);
	while (!r && cv_index_walk_next(&walk, &e))
		r = fn(e.key->a, e.items[0], arg);
	rcu_read_unlock();
	return r;
}

/* ---- what applies to a workload ---- */

static void add_policy(struct cv_policy_set *set, struct cv_policy *p)
{
	set->policies[set->n++] = cv_policy_ref(p);
}

static void add_group(struct cv_policy_set *set, const struct cv_index_entry *e)
{
	for (size_t i = 0; i < e->n; i++)
		add_policy(set, e->items[i]);
}

/* A listed policy that is in the set already, by its scope. */
static bool is_in_scope(const struct cv_policy *p, const struct cv_workload *w)
{
	return p->scope == CV_POLICY_GLOBAL ||
	       (p->scope == CV_POLICY_NAMESPACE && p->ns == w->group->ns);
}

static void add_listed(struct cv_store *s, const struct cv_workload *w, struct cv_policy_set *set)
{
	for (size_t i = 0; i < w->group->nr_policies; i++) {
		struct cv_index_key key = { .a = w->group->policies[i] };
		struct cv_policy *p = cv_index_first(&s->policies, &key);

		if (!p && !set->missing)
			set->missing_key = cv_str_ref(key.a);
		if (!p)
			set->missing = true;
		else if (!is_in_scope(p, w))
			add_policy(set, p);
	}
}

void cv_store_policies_for(struct cv_store *s, const struct cv_workload *w,
			   struct cv_policy_set *ret)
{
	struct cv_index_entry global, ns = {};
	const struct cv_workload *now;
	size_t room;

	*ret = (struct cv_policy_set){};
	rcu_read_lock();
	now = cv_store_peek_workload(s, w->uid);
	if (!now)
		now = w;
	cv_index_find(&s->policies_by_ns, &(struct cv_index_key){}, &global);
	if (now->group->ns)
		cv_index_find(&s->policies_by_ns, &(struct cv_index_key){ .a = now->group->ns },
			      &ns);
	room = global.n + ns.n + now->group->nr_policies;
	if (room) {
		ret->policies = calloc(room, sizeof(ret->policies[0]));
		if (!ret->policies)
			abort();
		add_group(ret, &global);
		add_group(ret, &ns);
		add_listed(s, now, ret);
	}
	rcu_read_unlock();
}

void cv_policy_set_fini(struct cv_policy_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		cv_policy_put(&set->policies[i]);
	free(set->policies);
	cv_str_put(&set->missing_key);
	*set = (struct cv_policy_set){};
}

/* ---- changes ---- */

static bool has_group(const struct cv_policy *p)
{
	return p && p->scope != CV_POLICY_SELECTOR;
}

static cv_str group_of(const struct cv_policy *p)
{
	return p->scope == CV_POLICY_GLOBAL ? NULL : p->ns;
}

static void note_group(struct group_change *list, size_t *nr, cv_str ns, struct cv_policy *old,
		       struct cv_policy *new)
{
	list[(*nr)++] = (struct group_change){ ns, cv_policy_ref(old), cv_policy_ref(new) };
}

static void note_change(struct cv_policy_batch *b, struct cv_policy *old, struct cv_policy *new)
{
	bool from = has_group(old), to = has_group(new);

	if (from && to && group_of(old) == group_of(new)) {
		note_group(b->now, &b->nr_now, group_of(new), old, new);
		return;
	}
	if (to)
		note_group(b->now, &b->nr_now, group_of(new), NULL, new);
	if (from)
		note_group(b->later, &b->nr_later, group_of(old), old, NULL);
}

static int compare_groups(const void *a, const void *b)
{
	const struct group_change *ga = a, *gb = b;

	return (ga->ns > gb->ns) - (ga->ns < gb->ns);
}

static int compare_pointers(const void *a, const void *b)
{
	const char *pa = *(char *const *)a, *pb = *(char *const *)b;

	return (pa > pb) - (pa < pb);
}

/* One namespace's changes, published as one. */
static void change_group(struct cv_store *s, const struct group_change *changes, size_t n)
{
	_cleanup_free_ void **olds = calloc(n, sizeof(*olds));
	_cleanup_free_ void **news = calloc(n, sizeof(*news));
	size_t nr_olds = 0, nr_news = 0;

	if (!olds || !news)
		abort();
	for (size_t i = 0; i < n; i++) {
		if (changes[i].old)
			olds[nr_olds++] = changes[i].old;
		if (changes[i].new)
			news[nr_news++] = changes[i].new;
	}
	qsort(olds, nr_olds, sizeof(*olds), compare_pointers);
	cv_index_change_many(&s->policies_by_ns, &(struct cv_index_key){ .a = changes->ns }, olds,
			     nr_olds, news, nr_news);
}

static void change_groups(struct cv_store *s, struct group_change *changes, size_t n)
{
	size_t end;

	if (!n)
		return;
	qsort(changes, n, sizeof(*changes), compare_groups);
	for (size_t i = 0; i < n; i = end) {
		for (end = i + 1; end < n && changes[end].ns == changes[i].ns;)
			end++;
		change_group(s, &changes[i], end - i);
	}
	for (size_t i = 0; i < n; i++) {
		cv_policy_put(&changes[i].old);
		cv_policy_put(&changes[i].new);
	}
}

static void set_policy(struct cv_store *s, struct cv_policy_batch *b, cv_str key,
		       struct cv_policy *new)
{
	struct cv_policy *old = cv_store_policy_by_key(s, key);

	if (old || new) {
		cv_index_change(&s->policies, &(struct cv_index_key){ .a = key }, old, new);
		note_change(b, old, new);
		cv_store_note(s, CV_DELTA_POLICY, key);
	}
	cv_policy_put(&old);
}

struct cv_policy_batch *cv_store_policies_add(struct cv_store *s, struct cv_delta *deltas, size_t n)
{
	struct cv_policy_batch *b = calloc(1, sizeof(*b));
	size_t nr = 0;

	for (size_t i = 0; i < n; i++)
		nr += deltas[i].kind == CV_DELTA_POLICY;
	if (!b || !nr)
		return b;
	b->now = calloc(nr, sizeof(*b->now));
	b->later = calloc(nr, sizeof(*b->later));
	b->removed = calloc(nr, sizeof(*b->removed));
	if (!b->now || !b->later || !b->removed)
		abort();
	for (size_t i = 0; i < n; i++) {
		if (deltas[i].kind != CV_DELTA_POLICY)
			continue;
		if (!deltas[i].policy)
			b->removed[b->nr_removed++] = deltas[i].key;
		else
			set_policy(s, b, deltas[i].key, deltas[i].policy);
		cv_policy_put(&deltas[i].policy);
	}
	change_groups(s, b->now, b->nr_now);
	return b;
}

void cv_store_policies_finish(struct cv_store *s, struct cv_policy_batch *b)
{
	if (!b)
		abort();
	for (size_t i = 0; i < b->nr_removed; i++)
		set_policy(s, b, b->removed[i], NULL);
	change_groups(s, b->later, b->nr_later);
	free(b->now);
	free(b->later);
	free(b->removed);
	free(b);
}
