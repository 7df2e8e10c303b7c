/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On demand: keys that connections ask about, one look-up each.
 *
 *	(unknown) ──ask──▶ PENDING: subscribed ──an answer──▶ known to the store: forgotten
 *	                       │  │                     └───▶ ABSENT for a while: not asked again
 *	                       │  └─ no answer in time ─────▶ forgotten; who waits hears that
 *	                       └─ the stream ends: subscribed again on the next one
 *
 * Istiod answers an address with the names of what is there, and subscribes us to those. It answers
 * one subscription once, so the key itself is given back after its answer, for the day when
 * somebody else has that address. To a request that subscribes to nothing, istiod answers that
 * everything is gone: what is given back is exchanged for a name that nothing has.
 */
#define CV_LOG_TARGET "xds"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/xds_private.h"

enum { BUCKETS = XDS_DEMAND_BUCKETS, LOOKED_UP = 16 };

struct waiter {
	struct cds_list_head link;
	struct cv_xds *x;
	cv_str key; /* a reference */
	struct cv_worker *worker;
	cv_xds_demand_fn fn;
	void *arg;
	bool answered;
};

/* PENDING while it is in x->demand.pending, else ABSENT. */
struct demand {
	struct demand *next; /* of its bucket */
	struct cds_list_head link; /* by due_ms, which grows along the list */
	struct cds_list_head waiters;
	cv_str key;
	uint64_t due_ms;
	bool pending;
	bool heard; /* the response at hand names it */
};

/* ---- waiters -------------------------------------------------------------------------------- */

static void free_waiter(struct waiter *w)
{
	cv_str_put(&w->key);
	free(w);
}

static void deliver(void *arg)
{
	struct waiter *w = arg;

	w->fn(w->answered, w->arg);
	free_waiter(w);
}

static void answer(struct waiter *w, bool answered)
{
	w->answered = answered;
	cv_worker_post(w->worker, deliver, w);
}

static void answer_all(struct demand *d, bool answered)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &d->waiters, link) {
		cds_list_del(&w->link);
		answer(w, answered);
	}
}

/* ---- keys ----------------------------------------------------------------------------------- */

static struct demand **find(struct cv_xds *x, cv_str key)
{
	uintptr_t h = (uintptr_t)key;
	struct demand **place = &x->demand.buckets[(h >> 4 ^ h >> 12) % BUCKETS];

	while (*place && (*place)->key != key)
		place = &(*place)->next;
	return place;
}

/* Who still waits is answered before. */
static void drop(struct cv_xds *x, struct demand *d)
{
	*find(x, d->key) = d->next;
	cds_list_del(&d->link);
	if (d->pending)
		x->demand.nr_pending--;
	else
		x->demand.nr_absent--;
	cv_str_put(&d->key);
	free(d);
}

/* Does the store have what "network/ip" or "namespace/host" names? */
static bool is_known(struct cv_xds *x, cv_str key)
{
	const char *slash = strchr(key, '/');
	cv_str first = slash ? cv_str_new_len(key, (size_t)(slash - key)) : NULL;
	cv_str host = slash ? cv_str_new(slash + 1) : NULL;
	struct cv_workload *w = NULL;
	struct cv_service *svc = NULL;
	struct cv_addr ip;

	if (host && cv_addr_parse(host, &ip) == 0) {
		w = cv_store_workload_by_addr(x->store, first, &ip);
		svc = w ? NULL : cv_store_service_by_vip(x->store, NULL, first, &ip);
	} else if (host) {
		svc = cv_store_service_by_host(x->store, first, host);
		w = svc ? NULL : cv_store_workload_by_host(x->store, first, host);
	}
	cv_str_put(&first);
	cv_str_put(&host);
	slash = w || svc ? key : NULL;
	cv_workload_put(&w);
	cv_service_put(&svc);
	return slash;
}

/* ---- requests ------------------------------------------------------------------------------- */

/* Names that nothing has, for a namespace is not called like this: the one that we are subscribed to is
 * given back for the other. */
static const char *const nothing[] = { "-/0", "-/1" };

/* A stream that breaks asks again when it is back. */
static void change(struct cv_xds *x, const struct xds_name_list *add,
		   const struct xds_name_list *drop)
{
	struct cv_buf request;
	struct cv_span s;

	if (!x->call)
		return;
	cv_buf_init(&request, CV_LIMIT_XDS_REQUEST);
	if (xds_request_names(&request, cv_xds_type_urls[CV_XDS_ADDRESS], add, drop) == 0) {
		s = cv_buf_peek(&request);
		(void)cv_channel_send(x->call, s.data, s.len);
	}
	cv_buf_fini(&request);
}

static void subscribe_to(struct cv_xds *x, const char *const *keys, size_t n)
{
	static const struct xds_name_list none;

	if (n)
		change(x, &(struct xds_name_list){ keys, n }, &none);
}

/* What subscribes us to an object for good has the object's own name. */
static void give_back(struct cv_xds *x, cv_str key)
{
	const char *old = nothing[x->demand.nothing];
	const char *dropped[] = { key, old };

	if (xds_names_has(&x->types[CV_XDS_ADDRESS].names, key))
		return;
	x->demand.nothing ^= 1;
	change(x, &(struct xds_name_list){ &nothing[x->demand.nothing], 1 },
	       &(struct xds_name_list){ dropped, CV_ARRAY_SIZE(dropped) });
}

void xds_demand_resume(struct cv_xds *x)
{
	_cleanup_free_ const char **keys = calloc(x->demand.nr_pending + 1, sizeof(*keys));
	struct demand *d;
	size_t n = 0;

	if (!keys)
		abort();
	cds_list_for_each_entry(d, &x->demand.pending, link)
		keys[n++] = d->key;
	subscribe_to(x, keys, n);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void arm(struct cv_xds *x)
{
	uint64_t now = cv_now_ms(), left;
	struct demand *first;
	struct timeval tv;

	event_del(x->demand.timer);
	if (cds_list_empty(&x->demand.pending))
		return;
	first = cds_list_first_entry(&x->demand.pending, struct demand, link);
	left = first->due_ms > now ? first->due_ms - now : 0;
	tv = (struct timeval){ (time_t)(left / 1000), (suseconds_t)(left % 1000 * 1000) };
	event_add(x->demand.timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct cv_xds *x = arg;
	uint64_t now = cv_now_ms();
	struct demand *d, *next;

	(void)fd;
	(void)what;
	cds_list_for_each_entry_safe(d, next, &x->demand.pending, link) {
		if (d->due_ms > now)
			break;
		cv_debug("the control plane says nothing of %s", d->key);
		answer_all(d, false);
		give_back(x, d->key);
		drop(x, d);
	}
	arm(x);
}

/* ---- asking --------------------------------------------------------------------------------- */

static struct demand *begin(struct cv_xds *x, cv_str key)
{
	struct demand *d = calloc(1, sizeof(*d));

	if (!d)
		abort();
	d->key = cv_str_ref(key);
	d->pending = true;
	d->due_ms = cv_now_ms() + CV_LIMIT_DEMAND_MS;
	CDS_INIT_LIST_HEAD(&d->waiters);
	*find(x, key) = d;
	cds_list_add_tail(&d->link, &x->demand.pending);
	x->demand.nr_pending++;
	subscribe_to(x, &d->key, 1);
	arm(x);
	return d;
}

static void ask(void *arg)
{
	struct waiter *w = arg;
	struct cv_xds *x = w->x;
	struct demand *d = *find(x, w->key);

	if (d && !d->pending && d->due_ms <= cv_now_ms()) {
		drop(x, d);
		d = NULL;
	}
	if (is_known(x, w->key) || (d && !d->pending)) {
		answer(w, true);
	} else if (!d && x->demand.nr_pending >= CV_LIMIT_DEMAND_KEYS) {
		answer(w, false);
	} else {
		d = d ? d : begin(x, w->key);
		cds_list_add_tail(&w->link, &d->waiters);
	}
}

void cv_xds_demand(struct cv_xds *x, struct cv_worker *worker, cv_str key, cv_xds_demand_fn fn,
		   void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->x = x;
	w->key = cv_str_ref(key);
	w->worker = worker;
	w->fn = fn;
	w->arg = arg;
	cv_worker_post(x->control, ask, w);
}

/* ---- answers -------------------------------------------------------------------------------- */

void xds_demand_heard(struct cv_xds *x, cv_str name)
{
	struct demand *d = name ? *find(x, name) : NULL;

	if (d)
		d->heard = true;
}

/* Not asked again for a while; the oldest of too many is forgotten. */
static void become_absent(struct cv_xds *x, struct demand *d)
{
	d->pending = false;
	d->due_ms = cv_now_ms() + CV_LIMIT_DEMAND_ABSENT_MS;
	cds_list_del(&d->link);
	cds_list_add_tail(&d->link, &x->demand.absent);
	x->demand.nr_pending--;
	if (++x->demand.nr_absent > CV_LIMIT_DEMAND_KEYS)
		drop(x, cds_list_first_entry(&x->demand.absent, struct demand, link));
}

/* An answer may name neither the key nor an alias of it: an address inside of a range, for one. Since
 * questions are answered in their order, such a key is among the oldest. */
void xds_demand_answer(struct cv_xds *x)
{
	struct demand *d, *next;
	unsigned n = 0;

	cds_list_for_each_entry_safe(d, next, &x->demand.pending, link) {
		bool known = (d->heard || n++ < LOOKED_UP) && is_known(x, d->key);

		if (!known && !d->heard)
			continue;
		d->heard = false;
		answer_all(d, true);
		give_back(x, d->key);
		if (known)
			drop(x, d);
		else
			become_absent(x, d);
	}
	arm(x);
}

/* ---- life ----------------------------------------------------------------------------------- */

int xds_demand_init(struct cv_xds *x, bool on)
{
	CDS_INIT_LIST_HEAD(&x->demand.pending);
	CDS_INIT_LIST_HEAD(&x->demand.absent);
	x->demand.on = on;
	x->demand.timer = event_new(cv_worker_base(x->control), -1, 0, on_timer, x);
	return x->demand.timer ? 0 : -ENOMEM;
}

/* The workers have ended by now: nobody is left to be answered. */
static void free_list(struct cv_xds *x, struct cds_list_head *list)
{
	struct demand *d, *next;
	struct waiter *w, *next_waiter;

	cds_list_for_each_entry_safe(d, next, list, link) {
		cds_list_for_each_entry_safe(w, next_waiter, &d->waiters, link)
			free_waiter(w);
		drop(x, d);
	}
}

void xds_demand_fini(struct cv_xds *x)
{
	if (!x->demand.timer)
		return;
	event_free(x->demand.timer);
	free_list(x, &x->demand.pending);
	free_list(x, &x->demand.absent);
}
