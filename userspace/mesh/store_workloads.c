/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workloads of the store and their indexes: uid, address, local name, host name.
 *
 * Workloads on the host's network are found by uid and name only: their address belongs to the
 * node, not to them.
 */
#include <string.h>

#include "userspace/mesh/store_private.h"

static void ref_workload(void *object)
{
	cv_workload_ref(object);
}

static void put_workload(void *object)
{
	struct cv_workload *w = object;

	cv_workload_put(&w);
}

static bool has_uid(const void *object, const struct cv_index_key *key)
{
	return ((const struct cv_workload *)object)->uid == key->a;
}

static bool has_addr(const void *object, const struct cv_index_key *key)
{
	const struct cv_workload *w = object;

	if (!w || w->group->network_mode == CV_NETWORK_HOST || w->group->network != key->a)
		return false;
	for (size_t i = 0; i < w->nr_ips; i++)
		if (cv_addr_eq(&w->ips[i], &key->ip))
			return true;
	return false;
}

static bool has_host(const void *object, const struct cv_index_key *key)
{
	const struct cv_workload *w = object;

	return w->group->ns == key->a && w->group->hostname == key->b;
}

static const struct cv_index_ops by_uid = { ref_workload, put_workload, has_uid };
static const struct cv_index_ops by_addr = { ref_workload, put_workload, has_addr };
/* A workload does not hold its name, so the index has to: a key's hash is of the interned strings. */
static const struct cv_index_ops by_name = { ref_workload, put_workload, NULL };
static const struct cv_index_ops by_host = { ref_workload, put_workload, has_host };

int cv_store_workloads_init(struct cv_store *s)
{
	int r = cv_index_init(&s->workloads, &by_uid);

	r = r ? r : cv_index_init(&s->workloads_by_addr, &by_addr);
	r = r ? r : cv_index_init(&s->workloads_local, &by_name);
	return r ? r : cv_index_init(&s->workloads_by_host, &by_host);
}

void cv_store_workloads_fini(struct cv_store *s)
{
	cv_index_fini(&s->workloads);
	cv_index_fini(&s->workloads_by_addr);
	cv_index_fini(&s->workloads_local);
	cv_index_fini(&s->workloads_by_host);
}

/* ---- look-ups ---- */

struct cv_workload *cv_store_peek_workload(const struct cv_store *s, cv_str uid)
{
	return cv_index_first(&s->workloads, &(struct cv_index_key){ .a = uid });
}

/* Which of several workloads an address means: a pod rather than an entry made by hand, and one
 * that speaks HBONE rather than one that does not. */
static int address_rank(const struct cv_workload *w)
{
	int pod = w->uid && strstr(w->uid, "//Pod/") ? 2 : 0;

	return pod + (w->group->protocol == CV_PROTOCOL_HBONE);
}

struct cv_workload *cv_store_peek_addr(const struct cv_store *s, cv_str network,
				       const struct cv_addr *ip)
{
	struct cv_index_key key = { .a = network, .ip = *ip };
	struct cv_workload *best = NULL;
	struct cv_index_entry e;

	cv_index_find(&s->workloads_by_addr, &key, &e);
	for (size_t i = 0; i < e.n; i++)
		if (!best || address_rank(e.items[i]) >= address_rank(best))
			best = e.items[i];
	return best;
}

struct cv_workload *cv_store_peek_host(const struct cv_store *s, cv_str ns, cv_str host)
{
	return cv_index_first(&s->workloads_by_host, &(struct cv_index_key){ .a = ns, .b = host });
}

struct cv_workload *cv_store_workload_by_uid(struct cv_store *s, cv_str uid)
{
	struct cv_workload *w;

	rcu_read_lock();
	w = cv_workload_ref(cv_store_peek_workload(s, uid));
	rcu_read_unlock();
	return w;
}

struct cv_workload *cv_store_workload_by_addr(struct cv_store *s, cv_str network,
					      const struct cv_addr *ip)
{
	struct cv_workload *w;

	rcu_read_lock();
	w = cv_workload_ref(cv_store_peek_addr(s, network, ip));
	rcu_read_unlock();
	return w;
}

struct cv_workload *cv_store_workload_by_host(struct cv_store *s, cv_str ns, cv_str host)
{
	struct cv_workload *w;

	rcu_read_lock();
	w = cv_workload_ref(cv_store_peek_host(s, ns, host));
	rcu_read_unlock();
	return w;
}

struct cv_workload *cv_store_workload_local(struct cv_store *s, const char *ns, const char *sa,
					    const char *name)
{
	struct cv_index_key key = { .a = cv_str_new(ns), .b = cv_str_new(name) };
	struct cv_workload *w, *found = NULL;
	struct cv_index_entry e;

	rcu_read_lock();
	cv_index_find(&s->workloads_local, &key, &e);
	for (size_t i = 0; i < e.n && !found; i++) {
		w = e.items[i];
		if (!sa || !strcmp(cv_str_text(w->group->service_account), sa))
			found = cv_workload_ref(w);
	}
	rcu_read_unlock();
	cv_str_put(&key.a);
	cv_str_put(&key.b);
	return found;
}

int cv_store_workload_each(struct cv_store *s, int (*fn)(struct cv_workload *w, void *arg),
			   void *arg)
{
	struct cv_index_walk walk;
	struct cv_index_entry e;
	int r = 0;

	rcu_read_lock();
	cv_index_walk_init(&walk, &s->workloads);
	while (!r && cv_index_walk_next(&walk, &e))
		r = fn(e.items[0], arg);
	rcu_read_unlock();
	return r;
}

/* ---- changes ---- */

static bool is_local(const struct cv_store *s, const struct cv_workload *w)
{
	return w && (!s->node || w->place->node == s->node);
}

/* `new` takes the place of `old` at each of `at`'s addresses, where each of them is. */
static void index_addrs(struct cv_store *s, struct cv_workload *at, struct cv_workload *old,
			struct cv_workload *new)
{
	for (size_t i = 0; at && i < at->nr_ips; i++) {
		struct cv_index_key key = { .a = at->group->network, .ip = at->ips[i] };
		bool had = has_addr(old, &key), has = has_addr(new, &key);

		if ((had && at == old) || (has && !had))
			cv_index_change(&s->workloads_by_addr, &key, had ? old : NULL,
					has ? new : NULL);
	}
}

static void index_name(struct cv_index *ix, const struct cv_index_key *old_key, void *old,
		       const struct cv_index_key *new_key, void *new)
{
	bool same = old && new && old_key->a == new_key->a && old_key->b == new_key->b;

	if (old)
		cv_index_change(ix, old_key, old, same ? new : NULL);
	if (new && !same)
		cv_index_change(ix, new_key, NULL, new);
}

/* Its b is a new reference: a name is not held by the workload. */
static struct cv_index_key name_key(const struct cv_workload *w)
{
	return w ? (struct cv_index_key){ .a = w->group->ns,
					  .b = cv_str_new(cv_workload_name(w)) } :
		   (struct cv_index_key){};
}

static struct cv_index_key host_key(const struct cv_workload *w)
{
	return w ? (struct cv_index_key){ .a = w->group->ns, .b = w->group->hostname } :
		   (struct cv_index_key){};
}

static bool policy_lists_differ(const struct cv_workload *a, const struct cv_workload *b)
{
	if (!a || !b || a->group->ns != b->group->ns ||
	    a->group->nr_policies != b->group->nr_policies)
		return true;
	for (size_t i = 0; i < a->group->nr_policies; i++)
		if (a->group->policies[i] != b->group->policies[i])
			return true;
	return false;
}

/* Either may be NULL. */
static void replace_workload(struct cv_store *s, cv_str uid, struct cv_workload *old,
			     struct cv_workload *new)
{
	struct cv_index_key uid_key = { .a = uid };
	struct cv_index_key old_name = name_key(old), new_name = name_key(new);
	struct cv_index_key old_host = host_key(old), new_host = host_key(new);

	cv_index_change(&s->workloads, &uid_key, old, new);
	index_addrs(s, old, old, new);
	index_addrs(s, new, old, new);
	index_name(&s->workloads_local, &old_name, is_local(s, old) ? old : NULL, &new_name,
		   is_local(s, new) ? new : NULL);
	index_name(&s->workloads_by_host, &old_host, old_host.b ? old : NULL, &new_host,
		   new_host.b ? new : NULL);
	cv_str_put(&old_name.b);
	cv_str_put(&new_name.b);
	cv_store_join(s, old, new);
	/* Those of other nodes are judged there. */
	if (is_local(s, old) || is_local(s, new))
		s->policy_lists_changed |= policy_lists_differ(old, new);
	cv_store_note(s, CV_DELTA_WORKLOAD, uid);
}

void cv_store_workload_set(struct cv_store *s, struct cv_workload *w)
{
	struct cv_workload *old = cv_store_workload_by_uid(s, w->uid);

	replace_workload(s, w->uid, old, w);
	cv_workload_put(&old);
	cv_workload_put(&w);
}

void cv_store_workload_remove(struct cv_store *s, cv_str uid)
{
	struct cv_workload *old = cv_store_workload_by_uid(s, uid);

	if (!old)
		return;
	replace_workload(s, old->uid, old, NULL);
	cv_workload_put(&old);
}
