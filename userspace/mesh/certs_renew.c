/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache's side of the CA: what is queued becomes requests, answers become certificates, and one
 * timer queues the entries that are due (half life, retry, expiry). At most MAX_SIGNING requests are
 * under way, the rest waits in a queue per priority.
 */
#include "userspace/mesh/certs_cache.h"

#define CV_LOG_TARGET "certs"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "userspace/base/log.h"

enum {
	MAX_SIGNING = 8,
	FIRST_RETRY_MS = 50,
	MAX_RETRY_MS = 150000,
	PATIENCE_MS = 2000, /* a new identity is retried as long before who waits is refused */
	MIN_REFRESH_MS = 100,
	BACK_SPREAD_MS = 1000, /* retries once the CA is back */
	ROOTS_SPREAD_MS = 5000, /* renewals when the roots have changed */
	/* … and at the earliest this part of a lifetime, at most this long, after the last one:
	 * replicas of a CA may disagree for a while. */
	ROOTS_PART = 16,
	ROOTS_PAUSE_MS = 60000,
};

/* A certificate that is being signed. */
struct request {
	struct cds_list_head link;
	struct cv_certs *certs;
	struct cv_identity id;
	uint64_t serial;
	EVP_PKEY *key;
};

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

/* ---- requests ---- */

static uint64_t refresh_at(const struct cv_cert *cert)
{
	time_t now = time(NULL), from = cert->not_before > now ? cert->not_before : now;
	uint64_t left = cert->not_after > from ? (uint64_t)(cert->not_after - from) * 1000 : 0;
	uint64_t half = jitter(left / 2, 10);

	return cv_now_ms() + (half > MIN_REFRESH_MS ? half : MIN_REFRESH_MS);
}

void cv_certs_renew_entry_init(struct cv_certs_entry *e)
{
	e->backoff = (struct cv_backoff){ .first_ms = FIRST_RETRY_MS, .max_ms = MAX_RETRY_MS };
}

/* Under the lock. */
static void on_signed(struct cv_certs_entry *e, struct cv_cert *cert)
{
	cv_certs_set_state(e, CV_CERTS_AVAILABLE, cert);
	free(cv_take_ptr(e->error));
	cv_backoff_reset(&e->backoff);
	e->unreachable = false;
	e->used = !cds_list_empty(&e->waiters);
	e->signed_ms = cv_now_ms();
	e->due_ms = refresh_at(cert);
	cv_certs_answer(e, cert, NULL);
}

/* Under the lock. A certificate that is still valid stays, until it expires; a new identity is
 * given time. */
static void on_failed(struct cv_certs_entry *e, const char *error, bool unreachable)
{
	uint64_t wait = cv_backoff_next_ms(&e->backoff), now_ms = cv_now_ms();
	time_t now = time(NULL);

	free(e->error);
	e->error = strdup(error);
	e->unreachable = unreachable;
	if (e->cert && e->cert->not_after > now) {
		uint64_t left = (uint64_t)(e->cert->not_after - now) * 1000;

		wait = wait < left ? wait : left;
	} else if (e->state != CV_CERTS_INITIALIZING || now_ms + wait > e->since_ms + PATIENCE_MS) {
		cv_certs_set_state(e, CV_CERTS_UNAVAILABLE, NULL);
		cv_certs_answer(e, NULL, error);
	}
	e->due_ms = now_ms + wait;
}

/* Under the lock: fn per entry. */
static void each_entry(struct cv_certs *c,
		       void (*fn)(struct cv_certs *c, struct cv_certs_entry *e, void *arg),
		       void *arg)
{
	for (size_t i = 0; i < CV_CERTS_BUCKETS; i++)
		for (struct cv_certs_entry *e = c->buckets[i]; e; e = e->next)
			fn(c, e, arg);
}

/* ---- what one answer says about the other entries; under the lock ---- */

static void bring_forward(struct cv_certs_entry *e, uint64_t due_ms)
{
	if (e->due_ms && due_ms < e->due_ms)
		e->due_ms = due_ms;
}

/* The CA is back: what failed without it does not wait for the rest of its back-off. */
static void retry_unreachable(struct cv_certs *c, struct cv_certs_entry *e, void *arg)
{
	(void)c, (void)arg; /* the entry says it all */
	if (e->unreachable)
		bring_forward(e, cv_now_ms() + random_below(BACK_SPREAD_MS));
}

/* Certificates that came with other roots are renewed soon, so that peers with certificates of the
 * new ones are let in everywhere. */
static void renew_other_roots(struct cv_certs *c, struct cv_certs_entry *e, void *arg)
{
	uint64_t soon = cv_now_ms() + random_below(ROOTS_SPREAD_MS), pause, earliest;
	const struct cv_trust *roots = arg;

	(void)c; /* the entry says it all */
	if (!e->cert || e->cert->trust == roots)
		return;
	pause = (uint64_t)(e->cert->not_after - e->cert->not_before) * 1000 / ROOTS_PART;
	earliest = e->signed_ms + (pause < ROOTS_PAUSE_MS ? pause : ROOTS_PAUSE_MS);
	bring_forward(e, soon > earliest ? soon : earliest);
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
static struct cv_certs_entry *entry_of(const struct request *r)
{
	struct cv_certs_entry *e = *cv_certs_find(r->certs, &r->id);

	return e && e->serial == r->serial ? e : NULL;
}

/* Under the lock: one line when it goes away and when it is back. */
static void note_away(struct cv_certs *c, bool away, const char *error)
{
	if (away && !c->away)
		cv_warn("the CA cannot be reached, what is signed stays in use: %s", error);
	if (!away && c->away) {
		cv_info("the CA is back");
		each_entry(c, retry_unreachable, NULL);
	}
	c->away = away;
}

/* Under the lock, before it is kept: a refusal is told when it is not the one that is known. */
static void tell_refusal(const struct cv_certs_entry *e, const char *error)
{
	char text[CV_IDENTITY_TEXT];

	if (!e->error || strcmp(e->error, error) != 0)
		cv_warn("no certificate for %s: %s", cv_identity_text(&e->id, text), error);
}

/* cert NULL = error; unreachable beside it. */
static void finish_request(struct request *r, struct cv_cert *cert, const char *error,
			   bool unreachable)
{
	struct cv_certs *c = r->certs;
	struct cv_certs_entry *e;
	char text[CV_IDENTITY_TEXT];

	pthread_mutex_lock(&c->lock);
	note_away(c, unreachable, error);
	e = entry_of(r);
	if (e)
		e->signing = false;
	if (e && cert) {
		cv_debug("certificate for %s", cv_identity_text(&r->id, text));
		on_signed(e, cv_cert_ref(cert));
		each_entry(c, renew_other_roots, cert->trust);
	} else if (e) {
		if (!unreachable)
			tell_refusal(e, error);
		on_failed(e, error, unreachable);
	}
	pthread_mutex_unlock(&c->lock);
	free_request(r);
	cv_certs_sign_queued(c);
}

static void on_answer(void *arg, const struct cv_ca_answer *answer)
{
	struct request *r = arg;
	_cleanup_(cv_cert_put) struct cv_cert *cert = NULL;
	char error[CV_CERTS_ERROR_TEXT] = "out of memory";

	if (!answer->error)
		(void)cv_cert_new(&cert, &r->certs->shared, &r->id, r->key, answer, error);
	finish_request(r, cert, answer->error ? answer->error : error, answer->unreachable);
}

static void sign_request(struct request *r)
{
	const struct cv_certs_opts *opts = &r->certs->opts;
	_cleanup_free_ char *csr = NULL;

	r->key = cv_key_new();
	if (r->key)
		csr = cv_csr_new(r->key, &r->id);
	if (!csr) {
		finish_request(r, NULL, "failed to create CSR", false);
		return;
	}
	opts->ca.sign(opts->ca.ctx,
		      &(struct cv_ca_request){ &r->id, csr, opts->ttl_s, on_answer, r });
}

/* The next entry of the queue as a request, NULL = none waits or as many as may be are out. */
static struct request *next_request(struct cv_certs *c)
{
	struct request *r = NULL;
	struct cv_certs_entry *e;

	pthread_mutex_lock(&c->lock);
	c->kicked = false;
	e = c->nr_requests < MAX_SIGNING ? cv_certs_dequeue(c) : NULL;
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

static void find_next_due(struct cv_certs *c, struct cv_certs_entry *e, void *arg)
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

void cv_certs_sign_queued(struct cv_certs *c)
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

/* Nobody needs it: a connection that outlived its pod has asked. */
static bool is_idle(struct cv_certs_entry *e)
{
	return !e->held && !e->used && cds_list_empty(&e->waiters);
}

static enum cv_certs_priority priority_of(struct cv_certs_entry *e)
{
	if (!cds_list_empty(&e->waiters))
		return CV_CERTS_REALTIME;
	return e->state == CV_CERTS_INITIALIZING ? CV_CERTS_WARMUP : CV_CERTS_BACKGROUND;
}

/* Under the lock. */
static void queue_due(struct cv_certs *c, struct cv_certs_entry **place, uint64_t now)
{
	struct cv_certs_entry *e;

	while ((e = *place)) {
		bool due = e->due_ms && e->due_ms <= now;

		if (due && is_idle(e)) {
			cv_certs_drop(c, place);
			continue;
		}
		if (due) {
			e->due_ms = 0;
			cv_certs_enqueue(c, e, priority_of(e));
		}
		place = &e->next;
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct cv_certs *c = arg;
	uint64_t now = cv_now_ms();

	(void)fd, (void)what; /* a timer has none */
	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < CV_CERTS_BUCKETS; i++)
		queue_due(c, &c->buckets[i], now);
	pthread_mutex_unlock(&c->lock);
	cv_certs_sign_queued(c);
}

int cv_certs_renew_init(struct cv_certs *c)
{
	CDS_INIT_LIST_HEAD(&c->requests);
	c->timer = evtimer_new(cv_worker_base(c->opts.control), on_timer, c);
	return c->timer ? 0 : -ENOMEM;
}

void cv_certs_renew_fini(struct cv_certs *c)
{
	struct request *r, *next;

	event_free(c->timer);
	cds_list_for_each_entry_safe(r, next, &c->requests, link)
		free_request(r);
}
