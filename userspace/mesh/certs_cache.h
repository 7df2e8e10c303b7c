/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the certificate cache, shared by certs.c (the entries, and who asks for them) and
 * certs_renew.c (requests to the CA, renewal, retries).
 *
 * Entries are under one lock, because workers ask from their own threads; requests are made and
 * answered on the control thread, outside the lock.
 */
#pragma once

#include <pthread.h>
#include <urcu/list.h>

#include "userspace/base/backoff.h"
#include "userspace/mesh/certs_private.h"

enum { CV_CERTS_BUCKETS = 256, CV_CERTS_ERROR_TEXT = 512 };

enum cv_certs_state { CV_CERTS_INITIALIZING, CV_CERTS_AVAILABLE, CV_CERTS_UNAVAILABLE };
enum cv_certs_priority {
	CV_CERTS_BACKGROUND,
	CV_CERTS_WARMUP,
	CV_CERTS_REALTIME,
	CV_CERTS_NR_PRIORITIES
};

struct cv_certs_entry {
	struct cv_certs_entry *next; /* of its bucket */
	struct cv_identity id;
	enum cv_certs_state state;
	char *error; /* last failure, NULL = none */
	struct cv_cert *cert; /* set while AVAILABLE */
	struct cds_list_head waiters;
	struct cds_list_head queued; /* in a queue of its priority, or empty */
	enum cv_certs_priority priority;
	uint64_t serial; /* tells an entry from a later one of the same identity */
	bool signing;
	bool held; /* prefetched: a pod of this node has the identity */
	bool used; /* asked for since it was signed last */
	bool unreachable; /* the last failure was the CA's absence */
	uint64_t since_ms; /* made */
	uint64_t signed_ms; /* last */
	uint64_t due_ms; /* refresh, retry or expiry; 0 = none */
	struct cv_backoff backoff; /* of failures */
};

struct cv_certs {
	struct cv_certs_opts opts;
	struct cv_cert_shared shared; /* control thread */
	struct event *timer;
	bool starting; /* cv_certs_sign_queued is on the stack */
	bool away; /* the CA is, as its last answer says */
	struct cds_list_head requests; /* control thread */
	size_t nr_requests;
	pthread_mutex_t lock; /* of what follows */
	struct cv_certs_entry *buckets[CV_CERTS_BUCKETS];
	size_t nr_entries;
	struct cds_list_head queues[CV_CERTS_NR_PRIORITIES];
	uint64_t serial;
	bool kicked; /* a message to the control thread is on its way */
};

/* --- certs.c; all under the lock --- */
struct cv_certs_entry **cv_certs_find(struct cv_certs *c, const struct cv_identity *id);
void cv_certs_enqueue(struct cv_certs *c, struct cv_certs_entry *e,
		      enum cv_certs_priority priority);
struct cv_certs_entry *cv_certs_dequeue(struct cv_certs *c); /* NULL = nothing waits */
/* cert: the reference is taken over; set if and only if AVAILABLE. */
void cv_certs_set_state(struct cv_certs_entry *e, enum cv_certs_state state, struct cv_cert *cert);
/* Out of the table and the queue, and freed; who waits hears that it is no longer needed. */
void cv_certs_drop(struct cv_certs *c, struct cv_certs_entry **place);
/* Everybody who waits is answered: with a reference of cert, or, when that is NULL, with error. */
void cv_certs_answer(struct cv_certs_entry *e, struct cv_cert *cert, const char *error);

/* --- certs_renew.c; control thread, outside the lock --- */
void cv_certs_renew_entry_init(struct cv_certs_entry *e); /* any thread */
int cv_certs_renew_init(struct cv_certs *c);
void cv_certs_renew_fini(struct cv_certs *c); /* requests that are out are forgotten */
void cv_certs_sign_queued(struct cv_certs *c);
