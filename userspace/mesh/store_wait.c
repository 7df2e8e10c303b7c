/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that wait for the record of their local workload.
 *
 * A waiter lives on the worker that asked: its timer and its answer run there. It is in the
 * store's list while nobody has answered it; whoever takes it out, under the lock, answers it:
 * the control thread by a message to the worker, the worker's timer directly.
 */
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/worker.h"
#include "userspace/mesh/store_private.h"

struct waiter {
	struct cds_list_head link; /* in store->waiters, or empty */
	struct cv_store *store;
	struct cv_worker *worker;
	struct event timer;
	char *ns, *sa, *name; /* sa NULL = any */
	unsigned timeout_ms;
	struct cv_workload *found; /* a reference */
	cv_store_wait_fn fn;
	void *arg;
};

void cv_store_wait_init(struct cv_store *s)
{
	pthread_mutex_init(&s->wait_lock, NULL);
	CDS_INIT_LIST_HEAD(&s->waiters);
}

static void free_waiter(struct waiter *w)
{
	cv_workload_put(&w->found);
	free(w->ns);
	free(w->sa);
	free(w->name);
	free(w);
}

/* The workers have ended by now: nobody is left to be answered. */
void cv_store_wait_fini(struct cv_store *s)
{
	struct waiter *w, *next;

	cds_list_for_each_entry_safe(w, next, &s->waiters, link)
		free_waiter(w);
	pthread_mutex_destroy(&s->wait_lock);
}

static struct cv_workload *look_up(struct waiter *w)
{
	return cv_store_workload_local(w->store, w->ns, w->sa, w->name);
}

/* Worker: the answer, with what was found. */
static void answer(struct waiter *w)
{
	w->fn(cv_take_ptr(w->found), w->arg);
	free_waiter(w);
}

static void on_found(void *arg)
{
	struct waiter *w = arg;

	event_del(&w->timer);
	answer(w);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct waiter *w = arg;
	struct cv_store *s = w->store;
	bool ours;

	(void)fd; /* a timer has none */
	(void)what;
	pthread_mutex_lock(&s->wait_lock);
	ours = !cds_list_empty(&w->link);
	cds_list_del(&w->link);
	CDS_INIT_LIST_HEAD(&w->link);
	pthread_mutex_unlock(&s->wait_lock);
	if (ours)
		answer(w); /* else on_found is on its way */
}

/* Worker: look once more, then wait; both under the lock that cv_store_wake takes, so that no
 * workload can appear unseen in between. */
static void start_waiting(void *arg)
{
	struct waiter *w = arg;
	struct cv_store *s = w->store;
	struct timeval tv = { w->timeout_ms / 1000, w->timeout_ms % 1000 * 1000 };

	evtimer_assign(&w->timer, cv_worker_base(w->worker), on_timeout, w);
	pthread_mutex_lock(&s->wait_lock);
	w->found = look_up(w);
	if (!w->found)
		cds_list_add_tail(&w->link, &s->waiters);
	pthread_mutex_unlock(&s->wait_lock);
	if (w->found)
		answer(w);
	else
		evtimer_add(&w->timer, &tv);
}

void cv_store_wake(struct cv_store *s)
{
	struct waiter *w, *next;

	pthread_mutex_lock(&s->wait_lock);
	cds_list_for_each_entry_safe(w, next, &s->waiters, link) {
		w->found = look_up(w);
		if (!w->found)
			continue;
		cds_list_del(&w->link);
		CDS_INIT_LIST_HEAD(&w->link);
		cv_worker_post(w->worker, on_found, w);
	}
	pthread_mutex_unlock(&s->wait_lock);
}

void cv_store_wait_local(struct cv_store *s, struct cv_worker *worker, const char *ns,
			 const char *sa, const char *name, unsigned timeout_ms, cv_store_wait_fn fn,
			 void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	CDS_INIT_LIST_HEAD(&w->link);
	w->store = s;
	w->worker = worker;
	w->ns = strdup(ns);
	w->sa = sa ? strdup(sa) : NULL;
	w->name = strdup(name);
	w->timeout_ms = timeout_ms;
	w->fn = fn;
	w->arg = arg;
	if (!w->ns || !w->name || (sa && !w->sa))
		abort();
	cv_worker_post(worker, start_waiting, w);
}
