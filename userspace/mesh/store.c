/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: making it, applying a batch of deltas, telling the subscribers.
 *
 * Order inside a batch: policies come in, workloads and services go out and come in, the
 * services that changed are published once, policies go out. Readers see each object whole;
 * what they admit between two of these steps is judged again after the batch, because policy's
 * subscribers walk the open connections.
 */
#define CV_LOG_TARGET "state"
#include "userspace/mesh/store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/mesh/store_private.h"

int cv_store_new(struct cv_store **ret, const struct cv_store_opts *opts)
{
	_cleanup_(cv_store_free) struct cv_store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	CDS_INIT_LIST_HEAD(&s->touched);
	cv_store_wait_init(s);
	s->network = cv_str_new(opts->network);
	s->node = cv_str_new(opts->node);
	r = cv_store_workloads_init(s);
	if (r == 0)
		r = cv_store_services_init(s);
	if (r == 0)
		r = cv_store_policies_init(s);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(s);
	return 0;
}

void cv_store_free(struct cv_store **sp)
{
	struct cv_store *s = cv_take_ptr(*sp);

	if (!s)
		return;
	cv_store_wait_fini(s);
	cv_store_workloads_fini(s);
	cv_store_services_fini(s);
	cv_store_policies_fini(s);
	rcu_barrier(); /* objects that go after a grace period are gone, too */
	cv_str_put(&s->network);
	cv_str_put(&s->node);
	free(s->change.keys);
	free(s->change.kinds);
	free(s);
}

/* ---- changes and subscribers ---- */

void cv_store_note(struct cv_store *s, enum cv_delta_kind kind, cv_str key)
{
	struct cv_store_change *c = &s->change;

	if (c->n == s->change_room) {
		s->change_room = s->change_room ? 2 * s->change_room : 64;
		c->keys = reallocarray(c->keys, s->change_room, sizeof(*c->keys));
		c->kinds = reallocarray(c->kinds, s->change_room, sizeof(*c->kinds));
		if (!c->keys || !c->kinds)
			abort();
	}
	c->keys[c->n] = cv_str_ref(key);
	c->kinds[c->n++] = kind;
	c->workloads |= kind == CV_DELTA_WORKLOAD;
	c->services |= kind == CV_DELTA_SERVICE;
	c->policies |= kind == CV_DELTA_POLICY;
}

void cv_store_subscribe(struct cv_store *s, cv_store_fn fn, void *arg)
{
	assert(s->nr_subscribers < CV_STORE_SUBSCRIBERS);
	s->subscribers[s->nr_subscribers].fn = fn;
	s->subscribers[s->nr_subscribers++].arg = arg;
}

static void tell_subscribers(struct cv_store *s)
{
	struct cv_store_change *c = &s->change;

	atomic_fetch_add(&s->version, 1);
	if (c->policies || s->policy_lists_changed)
		atomic_fetch_add(&s->policy_version, 1);
	if (c->workloads)
		cv_store_wake(s);
	for (size_t i = 0; i < s->nr_subscribers; i++)
		s->subscribers[i].fn(c, s->subscribers[i].arg);
	for (size_t i = 0; i < c->n; i++)
		cv_str_put(&c->keys[i]);
	c->workloads = c->services = c->policies = s->policy_lists_changed = false;
	c->n = 0;
}

static void remove_object(struct cv_store *s, const struct cv_delta *d)
{
	if (d->kind == CV_DELTA_WORKLOAD)
		cv_store_workload_remove(s, d->key);
	else if (d->kind == CV_DELTA_SERVICE)
		cv_store_service_remove(s, d->key);
}

static void set_object(struct cv_store *s, struct cv_delta *d)
{
	if (d->kind == CV_DELTA_WORKLOAD)
		cv_store_workload_set(s, cv_take_ptr(d->workload));
	else if (d->kind == CV_DELTA_SERVICE)
		cv_store_service_set(s, cv_take_ptr(d->service));
}

/* A push of a whole mesh replaces objects faster than a loaded machine finds the time to free them:
 * now and then the control thread waits for that, as no reader ever does. */
static void bound_garbage(struct cv_store *s, size_t n)
{
	s->nr_garbage += n;
	if (s->nr_garbage < CV_LIMIT_STORE_GARBAGE)
		return;
	rcu_barrier();
	s->nr_garbage = 0;
}

void cv_store_apply(struct cv_store *s, struct cv_delta *deltas, size_t n)
{
	struct cv_policy_batch *policies = cv_store_policies_add(s, deltas, n);

	for (size_t i = 0; i < n; i++)
		if (!deltas[i].object)
			remove_object(s, &deltas[i]);
	for (size_t i = 0; i < n; i++)
		if (deltas[i].object)
			set_object(s, &deltas[i]);
	cv_store_services_publish(s);
	cv_store_policies_finish(s, policies);
	tell_subscribers(s);
	bound_garbage(s, n);
}

bool cv_store_is_current(struct cv_store *s, const struct cv_delta *d)
{
	struct cv_workload *w;
	struct cv_policy *p;
	bool same;

	switch (d->kind) {
	case CV_DELTA_WORKLOAD:
		w = cv_store_workload_by_uid(s, d->key);
		same = d->workload && w ? cv_workload_eq(d->workload, w) : d->workload == w;
		cv_workload_put(&w);
		return same;
	case CV_DELTA_SERVICE:
		return cv_store_service_is_own(s, d->key, d->service);
	case CV_DELTA_POLICY:
		p = cv_store_policy_by_key(s, d->key);
		same = d->policy && p ? cv_policy_eq(d->policy, p) : d->policy == p;
		cv_policy_put(&p);
		return same;
	}
	return false;
}

/* ---- facts ---- */

void cv_store_set_warm(struct cv_store *s)
{
	if (!atomic_exchange(&s->warm, true))
		cv_debug("the first whole state is in");
}

bool cv_store_is_warm(const struct cv_store *s)
{
	return atomic_load(&s->warm);
}

uint64_t cv_store_version(const struct cv_store *s)
{
	return atomic_load(&s->version);
}

uint64_t cv_store_policy_version(const struct cv_store *s)
{
	return atomic_load(&s->policy_version);
}

cv_str cv_store_network(const struct cv_store *s)
{
	return s->network;
}

cv_str cv_store_node(const struct cv_store *s)
{
	return s->node;
}
