/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of certificates.
 *
 *	          get, prefetch                signed
 *	(no entry) ─────────► INITIALIZING ─────────────► AVAILABLE ──┐ half life: asked again;
 *	                          │   ▲                       │  ▲────┘ a failure keeps it
 *	                   failed │   └── retry ◄─┐           │ expired
 *	                          ▼               │           ▼
 *	                      UNAVAILABLE ────────┴───── UNAVAILABLE
 *
 * Entries are under one lock, because workers ask from their own threads; requests are made and
 * answered on the control thread, outside the lock. At most MAX_SIGNING are under way, the rest
 * waits in a queue per priority. One timer serves all entries: it queues those that are due.
 */
#include "userspace/mesh/certs.h"

#define CV_LOG_TARGET "certs"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <urcu/list.h>

#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/mesh/certs_private.h"

enum {
	MAX_SIGNING = 8,
	BUCKETS = 256,
	FIRST_RETRY_MS = 1000,
	MAX_RETRY_MS = 150000,
	MIN_REFRESH_MS = 100,
	ERROR_TEXT = 512,
};

enum state { INITIALIZING, AVAILABLE, UNAVAILABLE };
enum priority { BACKGROUND, WARMUP, REALTIME, NR_PRIORITIES };

struct waiter {
	struct cds_list_head link;
	struct cv_worker *worker;
	cv_certs_fn fn;
	void *arg;
	struct cv_cert *cert; /* the answer: a reference, or NULL and */
	char error[ERROR_TEXT];
};

struct entry {
	struct entry *next; /* of its bucket */
	struct cv_identity id;
	enum state state;
	char error[ERROR_TEXT]; /* last failure */
	struct cv_cert *cert; /* set while AVAILABLE */
	struct cds_list_head waiters;
	struct cds_list_head queued; /* in a queue of its priority, or empty */
	enum priority priority;
	uint64_t serial; /* tells an entry from a later one of the same identity */
	bool signing;
	uint64_t due_ms; /* refresh, retry or expiry; 0 = none */
	uint64_t retry_ms; /* back-off after the next failure */
};

/* A certificate that is being signed. */
struct request {
	struct cds_list_head link;
	struct cv_certs *certs;
	struct cv_identity id;
	uint64_t serial;
	EVP_PKEY *key;
};

struct cv_certs {
	struct cv_certs_opts opts;
	struct event *timer;
	bool starting; /* start_signing is on the stack */
	struct cds_list_head requests; /* control thread */
	size_t nr_requests;
	pthread_mutex_t lock; /* of what follows */
	struct entry *buckets[BUCKETS];
	size_t nr_entries;
	struct cds_list_head queues[NR_PRIORITIES];
	uint64_t serial;
	bool kicked; /* a message to the control thread is on its way */
};

static void start_signing(struct cv_certs *c);

static uint64_t random_below(uint64_t n)
{
	uint64_t v = 0;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		v = cv_now_ns();
	return n ? v % n : 0;
}

/* ms ± percent of itself */
static uint64_t jitter(uint64_t ms, unsigned percent)
{
	uint64_t spread = ms * percent / 100;

	return ms - spread + random_below(2 * spread + 1);
}

/* ---- entries; under the lock ---- */

static struct entry **find_place(struct cv_certs *c, const struct cv_identity *id)
{
	uintptr_t h = (uintptr_t)id->trust_domain ^ (uintptr_t)id->ns * 31 ^
		      (uintptr_t)id->sa * 131;
	struct entry **place = &c->buckets[(h >> 4 ^ h >> 12) % BUCKETS];

	while (*place && !cv_identity_eq(&(*place)->id, id))
		place = &(*place)->next;
	return place;
}

static void enqueue(struct cv_certs *c, struct entry *e, enum priority priority)
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

static struct entry *dequeue(struct cv_certs *c)
{
	for (int i = NR_PRIORITIES - 1; i >= 0; i--) {
		struct entry *e;

		if (cds_list_empty(&c->queues[i]))
			continue;
		e = cds_list_first_entry(&c->queues[i], struct entry, queued);
		cds_list_del(&e->queued);
		CDS_INIT_LIST_HEAD(&e->queued);
		return e;
	}
	return NULL;
}

/* The identity's entry, made and queued when there is none; NULL = there are too many. */
static struct entry *get_entry(struct cv_certs *c, const struct cv_identity *id,
			       enum priority priority)
{
	struct entry **place = find_place(c, id), *e = *place;

	if (!e) {
		e = c->nr_entries < CV_LIMIT_CERTS ? calloc(1, sizeof(*e)) : NULL;
		if (!e)
			return NULL;
		cv_identity_copy(&e->id, id);
		CDS_INIT_LIST_HEAD(&e->waiters);
		CDS_INIT_LIST_HEAD(&e->queued);
		e->serial = ++c->serial;
		e->retry_ms = FIRST_RETRY_MS;
		*place = e;
		c->nr_entries++;
	}
	if (e->state == INITIALIZING)
		enqueue(c, e, priority);
	return e;
}

static void set_state(struct entry *e, enum state state, struct cv_cert *cert)
{
	assert((state == AVAILABLE) == (cert != NULL));
	cv_cert_put(&e->cert);
	e->cert = cert;
	e->state = state;
}

/* ---- answers ---- */

static void run_waiter(void *arg)
{
	struct waiter *w = arg;
	struct cv_cert *cert = cv_take_ptr(w->cert);

	w->fn(cert, cert ? NULL : w->error, w->arg);
	free(w);
}

/* Under the lock; cert NULL = error. */
static void answer_waiters(struct entry *e, struct cv_cert *cert, const char *error)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &e->waiters, link) {
		cds_list_del(&w->link);
		w->cert = cv_cert_ref(cert);
		snprintf(w->error, sizeof(w->error), "%s", error ? error : "");
		cv_worker_post(w->worker, run_waiter, w);
	}
}

/* ---- signing; control thread ---- */

static uint64_t refresh_at(const struct cv_cert *cert)
{
	time_t now = time(NULL), from = cert->not_before > now ? cert->not_before : now;
	uint64_t left = cert->not_after > from ? (uint64_t)(cert->not_after - from) * 1000 : 0;
	uint64_t half = jitter(left / 2, 10);

	return cv_now_ms() + (half > MIN_REFRESH_MS ? half : MIN_REFRESH_MS);
}

/* Under the lock. */
static void on_signed(struct entry *e, struct cv_cert *cert)
{
	set_state(e, AVAILABLE, cert);
	e->error[0] = '\0';
	e->retry_ms = FIRST_RETRY_MS;
	e->due_ms = refresh_at(cert);
	answer_waiters(e, cert, NULL);
}

/* Under the lock. A certificate that is still valid stays, until it expires. */
static void on_failed(struct entry *e, const char *error)
{
	uint64_t wait = jitter(e->retry_ms, 20);
	time_t now = time(NULL);

	snprintf(e->error, sizeof(e->error), "%s", error);
	e->retry_ms = 2 * e->retry_ms < MAX_RETRY_MS ? 2 * e->retry_ms : MAX_RETRY_MS;
	if (e->cert && e->cert->not_after > now) {
		uint64_t left = (uint64_t)(e->cert->not_after - now) * 1000;

		wait = wait < left ? wait : left;
	} else {
		set_state(e, UNAVAILABLE, NULL);
		answer_waiters(e, NULL, e->error);
	}
	e->due_ms = cv_now_ms() + wait;
}

static void free_request(struct request *r)
{
	cds_list_del(&r->link);
	r->certs->nr_requests--;
	cv_identity_fini(&r->id);
	EVP_PKEY_free(r->key);
	free(r);
}

/* Under the lock: the entry that the request is for, NULL = it was forgotten meanwhile. */
static struct entry *entry_of(const struct request *r)
{
	struct entry *e = *find_place(r->certs, &r->id);

	return e && e->serial == r->serial ? e : NULL;
}

static void finish_request(struct request *r, struct cv_cert *cert, const char *error)
{
	struct cv_certs *c = r->certs;
	char text[CV_IDENTITY_TEXT];
	struct entry *e;

	if (cert)
		cv_debug("certificate for %s", cv_identity_text(&r->id, text));
	else
		cv_warn("no certificate for %s: %s", cv_identity_text(&r->id, text), error);
	pthread_mutex_lock(&c->lock);
	e = entry_of(r);
	if (e) {
		e->signing = false;
		if (cert)
			on_signed(e, cv_cert_ref(cert));
		else
			on_failed(e, error);
	}
	pthread_mutex_unlock(&c->lock);
	free_request(r);
	start_signing(c);
}

static void on_answer(void *arg, const char *err, char **chain, size_t n)
{
	struct request *r = arg;
	_cleanup_(cv_cert_put) struct cv_cert *cert = NULL;
	char error[ERROR_TEXT] = "out of memory";

	if (err)
		snprintf(error, sizeof(error), "%s", err);
	else
		(void)cv_cert_new(&cert, &r->id, r->key, chain, n, r->certs->opts.tls12, error);
	finish_request(r, cert, error);
}

static void sign_request(struct request *r)
{
	const struct cv_certs_opts *opts = &r->certs->opts;
	_cleanup_free_ char *csr = NULL;

	r->key = cv_key_new();
	if (r->key)
		csr = cv_csr_new(r->key, &r->id);
	if (csr)
		opts->ca.sign(opts->ca.ctx, &r->id, csr, opts->ttl_s, on_answer, r);
	else
		finish_request(r, NULL, "failed to create CSR");
}

/* The next entry of the queue as a request, NULL = none waits or as many as may be are out. */
static struct request *next_request(struct cv_certs *c)
{
	struct request *r = NULL;
	struct entry *e;

	pthread_mutex_lock(&c->lock);
	c->kicked = false;
	e = c->nr_requests < MAX_SIGNING ? dequeue(c) : NULL;
	if (e) {
		r = calloc(1, sizeof(*r));
		if (!r)
			abort();
		e->signing = true;
		e->due_ms = 0;
		r->certs = c;
		r->serial = e->serial;
		cv_identity_copy(&r->id, &e->id);
		cds_list_add_tail(&r->link, &c->requests);
		c->nr_requests++;
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

/* ---- the timer ---- */

/* Under the lock: fn per entry. */
static void each_entry(struct cv_certs *c,
		       void (*fn)(struct cv_certs *c, struct entry *e, void *arg), void *arg)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct entry *e = c->buckets[i]; e; e = e->next)
			fn(c, e, arg);
}

static void find_next_due(struct cv_certs *c, struct entry *e, void *arg)
{
	uint64_t *next = arg;

	(void)c; /* the entry says it all */
	if (e->due_ms && (!*next || e->due_ms < *next))
		*next = e->due_ms;
}

static void arm_timer(struct cv_certs *c)
{
	uint64_t next = 0, now = cv_now_ms(), wait;
	struct timeval tv;

	pthread_mutex_lock(&c->lock);
	each_entry(c, find_next_due, &next);
	pthread_mutex_unlock(&c->lock);
	if (!next)
		return;
	wait = next > now ? next - now : 1;
	tv = (struct timeval){ (time_t)(wait / 1000), (suseconds_t)(wait % 1000 * 1000) };
	evtimer_add(c->timer, &tv);
}

static void start_signing(struct cv_certs *c)
{
	struct request *r;

	if (c->starting)
		return;
	c->starting = true;
	while ((r = next_request(c)))
		sign_request(r);
	c->starting = false;
	arm_timer(c);
}

static void queue_due(struct cv_certs *c, struct entry *e, void *arg)
{
	const uint64_t *now = arg;

	if (!e->due_ms || e->due_ms > *now)
		return;
	e->due_ms = 0;
	enqueue(c, e, BACKGROUND);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct cv_certs *c = arg;
	uint64_t now = cv_now_ms();

	(void)fd, (void)what; /* a timer has none */
	pthread_mutex_lock(&c->lock);
	each_entry(c, queue_due, &now);
	pthread_mutex_unlock(&c->lock);
	start_signing(c);
}

static void on_kick(void *arg)
{
	start_signing(arg);
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
	c->timer = evtimer_new(cv_worker_base(opts->control), on_timer, c);
	if (!c->timer) {
		free(c);
		return -ENOMEM;
	}
	c->opts = *opts;
	CDS_INIT_LIST_HEAD(&c->requests);
	pthread_mutex_init(&c->lock, NULL);
	for (int i = 0; i < NR_PRIORITIES; i++)
		CDS_INIT_LIST_HEAD(&c->queues[i]);
	*ret = c;
	return 0;
}

/* Under the lock: out of the table and the queue. */
static void drop_entry(struct cv_certs *c, struct entry **place)
{
	struct entry *e = *place;

	*place = e->next;
	c->nr_entries--;
	if (!cds_list_empty(&e->queued))
		cds_list_del(&e->queued);
	answer_waiters(e, NULL, "the identity is no longer needed");
	cv_cert_put(&e->cert);
	cv_identity_fini(&e->id);
	free(e);
}

static void free_waiters(struct entry *e)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &e->waiters, link)
		free(w);
	CDS_INIT_LIST_HEAD(&e->waiters);
}

void cv_certs_free(struct cv_certs **cp)
{
	struct cv_certs *c = cv_take_ptr(*cp);
	struct request *r, *next;

	if (!c)
		return;
	c->opts.ca.free(c->opts.ca.ctx);
	event_free(c->timer);
	cds_list_for_each_entry_safe(r, next, &c->requests, link)
		free_request(r);
	for (size_t i = 0; i < BUCKETS; i++) {
		while (c->buckets[i]) {
			free_waiters(c->buckets[i]); /* their workers are gone */
			drop_entry(c, &c->buckets[i]);
		}
	}
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void add_waiter(struct cv_certs *c, struct entry *e, cv_certs_fn fn, void *arg)
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
	char error[ERROR_TEXT] = "too many identities";
	struct cv_cert *cert = NULL;
	bool waiting = false;
	struct entry *e;

	pthread_mutex_lock(&c->lock);
	e = get_entry(c, id, REALTIME);
	if (e && e->state == INITIALIZING) {
		add_waiter(c, e, fn, arg);
		waiting = true;
	} else if (e && e->state == AVAILABLE && !is_expired(e->cert)) {
		cert = cv_cert_ref(e->cert);
	} else if (e) {
		snprintf(error, sizeof(error), "%s",
			 e->error[0] ? e->error : "the certificate has expired");
	}
	pthread_mutex_unlock(&c->lock);
	if (!waiting)
		fn(cert, cert ? NULL : error, arg);
}

void cv_certs_prefetch(struct cv_certs *c, const struct cv_identity *id)
{
	pthread_mutex_lock(&c->lock);
	if (get_entry(c, id, WARMUP))
		kick(c);
	pthread_mutex_unlock(&c->lock);
}

void cv_certs_forget(struct cv_certs *c, const struct cv_identity *id)
{
	struct entry **place;

	pthread_mutex_lock(&c->lock);
	place = find_place(c, id);
	if (*place)
		drop_entry(c, place);
	pthread_mutex_unlock(&c->lock);
}

int cv_certs_each(struct cv_certs *c, cv_certs_each_fn fn, void *arg)
{
	static const char *const states[] = { "Initializing", "Available" };
	char text[ERROR_TEXT + 16];
	int r = 0;

	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct entry *e = c->buckets[i]; e && r == 0; e = e->next) {
			snprintf(text, sizeof(text), "Unavailable: %s", e->error);
			r = fn(&e->id, e->state == UNAVAILABLE ? text : states[e->state], e->cert,
			       arg);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}
