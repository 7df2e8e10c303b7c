/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of certificates: its entries, and who asks for them.
 *
 *	          get, prefetch                signed
 *	(no entry) ─────────► INITIALIZING ─────────────► AVAILABLE ──┐ half life: asked again;
 *	                          │   ▲                       │  ▲────┘ a failure keeps it
 *	                   failed │   └── retry ◄─┐           │ expired
 *	                          ▼               │           ▼
 *	                      UNAVAILABLE ────────┴───── UNAVAILABLE
 *
 * A new identity is retried for a while before it is called unavailable: the CA may hear of a pod
 * a moment after us. What no pod holds and nobody asks for is dropped when it falls due.
 */
#include "userspace/mesh/certs_cache.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/limits.h"

struct waiter {
	struct cds_list_head link;
	struct cv_worker *worker;
	cv_certs_fn fn;
	void *arg;
	struct cv_cert *cert; /* the answer: a reference, or NULL */
	char *error; /* why there is none */
};

/* ---- entries; under the lock ---- */

struct cv_certs_entry **cv_certs_find(struct cv_certs *c, const struct cv_identity *id)
{
	uintptr_t h = (uintptr_t)id->trust_domain ^ (uintptr_t)id->ns * 31 ^
		      (uintptr_t)id->sa * 131;
	struct cv_certs_entry **place = &c->buckets[(h >> 4 ^ h >> 12) % CV_CERTS_BUCKETS];

	while (*place && !cv_identity_eq(&(*place)->id, id))
		place = &(*place)->next;
	return place;
}

void cv_certs_enqueue(struct cv_certs *c, struct cv_certs_entry *e, enum cv_certs_priority priority)
{
	if (e->signing)
		return;
	if (!cds_list_empty(&e->queued)) {
		if (e->priority >= priority)
			return;
		cds_list_del(&e->queued);
	}
	e->priority = priority;
	cds_list_add_tail(&e->queued, &c->queues[priority]);
}

struct cv_certs_entry *cv_certs_dequeue(struct cv_certs *c)
{
	for (int i = CV_CERTS_NR_PRIORITIES - 1; i >= 0; i--) {
		struct cv_certs_entry *e;

		if (cds_list_empty(&c->queues[i]))
			continue;
		e = cds_list_first_entry(&c->queues[i], struct cv_certs_entry, queued);
		cds_list_del(&e->queued);
		CDS_INIT_LIST_HEAD(&e->queued);
		return e;
	}
	return NULL;
}

/* The identity's entry, made and queued when there is none; NULL = there are too many. */
static struct cv_certs_entry *get_entry(struct cv_certs *c, const struct cv_identity *id,
					enum cv_certs_priority priority)
{
	struct cv_certs_entry **place = cv_certs_find(c, id), *e = *place;

	if (!e) {
		e = c->nr_entries < CV_LIMIT_CERTS ? calloc(1, sizeof(*e)) : NULL;
		if (!e)
			return NULL;
		cv_identity_copy(&e->id, id);
		CDS_INIT_LIST_HEAD(&e->waiters);
		CDS_INIT_LIST_HEAD(&e->queued);
		e->serial = ++c->serial;
		e->since_ms = cv_now_ms();
		cv_certs_renew_entry_init(e);
		*place = e;
		c->nr_entries++;
	}
	if (e->state == CV_CERTS_INITIALIZING && !e->due_ms) /* else it is retried then */
		cv_certs_enqueue(c, e, priority);
	return e;
}

void cv_certs_set_state(struct cv_certs_entry *e, enum cv_certs_state state, struct cv_cert *cert)
{
	assert((state == CV_CERTS_AVAILABLE) == (cert != NULL));
	cv_cert_put(&e->cert);
	e->cert = cert;
	e->state = state;
}

/* ---- answers ---- */

static void run_waiter(void *arg)
{
	struct waiter *w = arg;
	struct cv_cert *cert = cv_take_ptr(w->cert);

	w->fn(cert, cert ? NULL : w->error ? w->error : "out of memory", w->arg);
	free(w->error);
	free(w);
}

/* Under the lock; cert NULL = error. */
void cv_certs_answer(struct cv_certs_entry *e, struct cv_cert *cert, const char *error)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &e->waiters, link) {
		cds_list_del(&w->link);
		w->cert = cv_cert_ref(cert);
		w->error = error ? strdup(error) : NULL;
		cv_worker_post(w->worker, run_waiter, w);
	}
}

static void on_kick(void *arg)
{
	cv_certs_sign_queued(arg);
}

/* Under the lock: have the control thread look at the queues. */
static void kick(struct cv_certs *c)
{
	if (!c->kicked)
		cv_worker_post(c->opts.control, on_kick, c);
	c->kicked = true;
}

/* ---- for everybody ---- */

int cv_certs_new(struct cv_certs **ret, const struct cv_certs_opts *opts)
{
	struct cv_certs *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->opts = *opts;
	if (cv_cert_shared_init(&c->shared, opts->tls12) < 0 || cv_certs_renew_init(c) < 0) {
		cv_cert_shared_fini(&c->shared);
		free(c);
		return -ENOMEM;
	}
	c->shared.crl = opts->crl;
	pthread_mutex_init(&c->lock, NULL);
	for (int i = 0; i < CV_CERTS_NR_PRIORITIES; i++)
		CDS_INIT_LIST_HEAD(&c->queues[i]);
	*ret = c;
	return 0;
}

void cv_certs_drop(struct cv_certs *c, struct cv_certs_entry **place)
{
	struct cv_certs_entry *e = *place;

	*place = e->next;
	c->nr_entries--;
	if (!cds_list_empty(&e->queued))
		cds_list_del(&e->queued);
	cv_certs_answer(e, NULL, "the identity is no longer needed");
	cv_cert_put(&e->cert);
	cv_identity_fini(&e->id);
	free(e->error);
	free(e);
}

static void free_waiters(struct cv_certs_entry *e)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &e->waiters, link)
		free(w);
	CDS_INIT_LIST_HEAD(&e->waiters);
}

void cv_certs_free(struct cv_certs **cp)
{
	struct cv_certs *c = cv_take_ptr(*cp);

	if (!c)
		return;
	c->opts.ca.free(c->opts.ca.ctx);
	cv_certs_renew_fini(c);
	for (size_t i = 0; i < CV_CERTS_BUCKETS; i++) {
		while (c->buckets[i]) {
			free_waiters(c->buckets[i]); /* their workers are gone */
			cv_certs_drop(c, &c->buckets[i]);
		}
	}
	cv_cert_shared_fini(&c->shared);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void add_waiter(struct cv_certs *c, struct cv_certs_entry *e, cv_certs_fn fn, void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));
	struct cv_worker *self = cv_worker_self();

	if (!w)
		abort();
	w->worker = self ? self : c->opts.control;
	w->fn = fn;
	w->arg = arg;
	cds_list_add_tail(&w->link, &e->waiters);
	kick(c);
}

static bool is_expired(const struct cv_cert *cert)
{
	return time(NULL) >= cert->not_after;
}

void cv_certs_get(struct cv_certs *c, const struct cv_identity *id, cv_certs_fn fn, void *arg)
{
	char error[CV_CERTS_ERROR_TEXT] = "too many identities";
	struct cv_cert *cert = NULL;
	bool waiting = false;
	struct cv_certs_entry *e;

	pthread_mutex_lock(&c->lock);
	e = get_entry(c, id, CV_CERTS_REALTIME);
	if (e)
		e->used = true;
	if (e && e->state == CV_CERTS_INITIALIZING) {
		add_waiter(c, e, fn, arg);
		waiting = true;
	} else if (e && e->state == CV_CERTS_AVAILABLE && !is_expired(e->cert)) {
		cert = cv_cert_ref(e->cert);
	} else if (e) {
		snprintf(error, sizeof(error), "%s",
			 e->error ? e->error : "the certificate has expired");
	}
	pthread_mutex_unlock(&c->lock);
	if (!waiting)
		fn(cert, cert ? NULL : error, arg);
}

void cv_certs_prefetch(struct cv_certs *c, const struct cv_identity *id)
{
	struct cv_certs_entry *e;

	pthread_mutex_lock(&c->lock);
	e = get_entry(c, id, CV_CERTS_WARMUP);
	if (e) {
		e->held = true;
		if (e->state == CV_CERTS_UNAVAILABLE)
			cv_certs_enqueue(c, e, CV_CERTS_WARMUP); /* why may be over */
		kick(c);
	}
	pthread_mutex_unlock(&c->lock);
}

void cv_certs_forget(struct cv_certs *c, const struct cv_identity *id)
{
	struct cv_certs_entry **place;

	pthread_mutex_lock(&c->lock);
	place = cv_certs_find(c, id);
	if (*place)
		cv_certs_drop(c, place);
	pthread_mutex_unlock(&c->lock);
}

int cv_certs_each(struct cv_certs *c, cv_certs_each_fn fn, void *arg)
{
	static const char *const states[] = { "Initializing", "Available" };
	char text[CV_CERTS_ERROR_TEXT + 16];
	int r = 0;

	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < CV_CERTS_BUCKETS; i++) {
		for (struct cv_certs_entry *e = c->buckets[i]; e && r == 0; e = e->next) {
			snprintf(text, sizeof(text), "Unavailable: %s", e->error ? e->error : "");
			r = fn(&e->id, e->state == CV_CERTS_UNAVAILABLE ? text : states[e->state],
			       e->cert, arg);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}
