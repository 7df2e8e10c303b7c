/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workloads and their selector policies come in separate responses. A workload that lists a policy
 * which is not there is closed, so for the moment between the two something waits:
 *
 *   a policy is made      the workload's new record waits for the policy; the old one serves
 *   a policy is removed   the policy waits for the last workload's record without it
 *
 * Nothing waits longer than CV_LIMIT_XDS_HELD_MS, and before the first whole state nothing does:
 * nobody is admitted yet. Workloads of other nodes are judged there.
 */
#define CV_LOG_TARGET "xds"

#include <errno.h>
#include <stdlib.h>

#include "userspace/base/log.h"
#include "userspace/mesh/xds_private.h"

static void add_held(struct xds_held_list *l, struct cv_delta *d)
{
	if (l->n == l->room) {
		l->room = l->room ? 2 * l->room : 16;
		l->items = reallocarray(l->items, l->room, sizeof(*l->items));
		if (!l->items)
			abort(); /* as the objects themselves */
	}
	l->items[l->n++] = (struct xds_held){ *d, cv_now_ms() + CV_LIMIT_XDS_HELD_MS };
	*d = (struct cv_delta){};
}

static struct cv_delta take_held(struct xds_held_list *l, size_t i)
{
	struct cv_delta d = l->items[i].delta;

	l->items[i] = l->items[--l->n];
	return d;
}

static void arm_timer(struct cv_xds *x)
{
	const struct timeval tv = { .tv_usec = CV_LIMIT_XDS_HELD_MS * 1000 / 4 };

	if ((x->workloads.n || x->policies.n) && !event_pending(x->hold_timer, EV_TIMEOUT, NULL))
		event_add(x->hold_timer, &tv);
}

static bool is_local(const struct cv_xds *x, const struct cv_workload *w)
{
	cv_str node = cv_store_node(x->store);

	return !node || w->place->node == node;
}

/* ---- workloads that wait for a policy ------------------------------------------------------- */

/* Is the policy there, or about to be? */
static bool has_policy(const struct cv_xds *x, cv_str key)
{
	struct cv_policy *p = cv_store_policy_by_key(x->store, key);
	bool found = p;

	cv_policy_put(&p);
	for (size_t i = 0; i < x->batch.n && !found; i++)
		found = x->batch.deltas[i].kind == CV_DELTA_POLICY && x->batch.deltas[i].policy &&
			x->batch.deltas[i].key == key;
	return found;
}

static bool has_all_policies(const struct cv_xds *x, const struct cv_workload *w)
{
	for (size_t i = 0; i < w->group->nr_policies; i++)
		if (!has_policy(x, w->group->policies[i]))
			return false;
	return true;
}

bool xds_hold_workload(struct cv_xds *x, struct cv_delta *d)
{
	if (!d->workload->group->nr_policies || !cv_store_is_warm(x->store) ||
	    !is_local(x, d->workload) || has_all_policies(x, d->workload))
		return false;
	add_held(&x->workloads, d);
	arm_timer(x);
	return true;
}

bool xds_hold_forget(struct cv_xds *x, cv_str uid)
{
	for (size_t i = 0; i < x->workloads.n; i++) {
		if (x->workloads.items[i].delta.key == uid) {
			struct cv_delta d = take_held(&x->workloads, i);

			cv_workload_put(&d.workload);
			cv_str_put(&d.key);
			return true;
		}
	}
	return false;
}

/* ---- policies that are still listed --------------------------------------------------------- */

struct listed {
	const struct cv_xds *x;
	cv_str key;
};

static int is_listing(struct cv_workload *w, void *arg)
{
	const struct listed *l = arg;

	if (!w->group->nr_policies || !is_local(l->x, w))
		return 0;
	for (size_t i = 0; i < w->group->nr_policies; i++)
		if (w->group->policies[i] == l->key)
			return 1;
	return 0;
}

static bool is_listed(struct cv_xds *x, cv_str key)
{
	struct listed l = { x, key };

	return cv_store_workload_each(x->store, is_listing, &l);
}

/* A policy that comes back before it has gone stays. */
static void forget_policy(struct cv_xds *x, cv_str key)
{
	for (size_t i = 0; i < x->policies.n; i++) {
		if (x->policies.items[i].delta.key == key) {
			struct cv_delta d = take_held(&x->policies, i);

			cv_str_put(&d.key);
			return;
		}
	}
}

void xds_hold_policies(struct cv_xds *x, struct xds_batch *b)
{
	size_t kept = 0;

	for (size_t i = 0; i < b->n; i++) {
		struct cv_delta d = b->deltas[i];

		if (d.kind == CV_DELTA_POLICY) {
			forget_policy(x, d.key);
			if (!d.policy && cv_store_is_warm(x->store) && is_listed(x, d.key))
				add_held(&x->policies, &d);
		}
		if (d.key)
			b->deltas[kept++] = d;
	}
	b->n = kept;
	arm_timer(x);
}

/* ---- the end of waiting --------------------------------------------------------------------- */

void xds_hold_release(struct cv_xds *x)
{
	uint64_t now = cv_now_ms();

	for (size_t i = 0; i < x->workloads.n;) {
		struct xds_held *h = &x->workloads.items[i];
		bool due = now >= h->due_ms;

		if (!due && !has_all_policies(x, h->delta.workload)) {
			i++;
			continue;
		}
		if (due)
			cv_warn("workload %s lists a policy that does not come: it is closed",
				h->delta.key);
		xds_batch_add(&x->batch, take_held(&x->workloads, i));
	}
	for (size_t i = 0; i < x->policies.n;) {
		struct xds_held *h = &x->policies.items[i];

		if (now < h->due_ms && is_listed(x, h->delta.key))
			i++;
		else
			xds_batch_add(&x->batch, take_held(&x->policies, i));
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct cv_xds *x = arg;

	(void)fd;
	(void)what;
	xds_hold_release(x);
	xds_batch_apply(x);
	arm_timer(x);
}

int xds_hold_init(struct cv_xds *x)
{
	x->hold_timer = event_new(cv_worker_base(x->control), -1, 0, on_timer, x);
	return x->hold_timer ? 0 : -ENOMEM;
}

void xds_hold_fini(struct cv_xds *x)
{
	while (x->workloads.n)
		xds_hold_forget(x, x->workloads.items[0].delta.key);
	while (x->policies.n)
		forget_policy(x, x->policies.items[0].delta.key);
	free(x->workloads.items);
	free(x->policies.items);
	if (x->hold_timer)
		event_free(x->hold_timer);
}
