/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a worker: wait and run callbacks, then the deferred functions, again.
 *
 *   any thread ── cv_worker_post ──▶ inbox (lock) ── eventfd ──▶ callback runs the batch
 *   own thread ── cv_worker_defer ─▶ deferred ────────────────▶ after this round's callbacks
 *
 * What deferred functions defer runs in the next round, after a look at the sockets, so a
 * connection that keeps re-queueing its work cannot starve the others. libevent's own locks are
 * off: a base belongs to its thread.
 */
#include "userspace/io/worker.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <urcu.h>

#include "userspace/base/cleanup.h"

struct message {
	struct message *next;
	cv_worker_fn fn;
	void *arg;
};

/* First in, first out; the tail points at the last `next`. */
struct message_list {
	struct message *first, **tail;
};

struct cv_worker {
	struct event_base *base;
	struct event *wake; /* eventfd is readable: the inbox has messages */
	int wake_fd;
	unsigned id;
	bool quit; /* set on the worker's own thread */
	pthread_t thread; /* not for the control worker */
	struct message_list deferred;
	pthread_mutex_t lock; /* of inbox */
	struct message_list inbox;
};

static _Thread_local struct cv_worker *self;

static void list_init(struct message_list *l)
{
	l->first = NULL;
	l->tail = &l->first;
}

/* Returns whether the list was empty. */
static bool list_append(struct message_list *l, struct message *m)
{
	bool was_empty = !l->first;

	m->next = NULL;
	*l->tail = m;
	l->tail = &m->next;
	return was_empty;
}

static struct message *list_take(struct message_list *l)
{
	struct message *first = l->first;

	list_init(l);
	return first;
}

static struct message *message_new(cv_worker_fn fn, void *arg)
{
	struct message *m = malloc(sizeof(*m));

	if (!m)
		abort();
	*m = (struct message){ .fn = fn, .arg = arg };
	return m;
}

static void run_messages(struct message *m)
{
	struct message *next;

	for (; m; m = next) {
		cv_worker_fn fn = m->fn;
		void *arg = m->arg;

		next = m->next;
		free(m);
		fn(arg);
	}
}

static struct message *take_inbox(struct cv_worker *w)
{
	struct message *m;

	pthread_mutex_lock(&w->lock);
	m = list_take(&w->inbox);
	pthread_mutex_unlock(&w->lock);
	return m;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	eventfd_t count;

	(void)what;
	(void)eventfd_read(fd, &count); /* only resets it; the inbox says what there is */
	run_messages(take_inbox(arg));
}

static void free_worker(struct cv_worker *w)
{
	if (w->wake)
		event_free(w->wake);
	if (w->base)
		event_base_free(w->base);
	cv_close(&w->wake_fd);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static int make_base(struct cv_worker *w)
{
	struct event_config *config = event_config_new();

	if (!config)
		return -ENOMEM;
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	w->base = event_base_new_with_config(config);
	event_config_free(config);
	return w->base ? 0 : -ENOMEM;
}

static int make_worker(struct cv_worker **ret, unsigned id)
{
	struct cv_worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->id = id;
	list_init(&w->inbox);
	list_init(&w->deferred);
	pthread_mutex_init(&w->lock, NULL);
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	r = w->wake_fd < 0 ? -errno : make_base(w);
	if (!r) {
		w->wake = event_new(w->base, w->wake_fd, EV_READ | EV_PERSIST, on_wake, w);
		r = w->wake && !event_add(w->wake, NULL) ? 0 : -ENOMEM;
	}
	if (r) {
		free_worker(w);
		return r;
	}
	*ret = w;
	return 0;
}

/* What is queued when the loop ends still runs: objects are freed there. */
static void run_leftovers(struct cv_worker *w)
{
	struct message *m;

	for (;;) {
		m = list_take(&w->deferred);
		if (!m)
			m = take_inbox(w);
		if (!m)
			return;
		run_messages(m);
	}
}

static int run_loop(struct cv_worker *w)
{
	int r = 0;

	rcu_register_thread();
	self = w;
	while (!w->quit && r >= 0) {
		r = event_base_loop(w->base, w->deferred.first ? EVLOOP_NONBLOCK : EVLOOP_ONCE);
		run_messages(list_take(&w->deferred));
	}
	run_leftovers(w);
	self = NULL;
	rcu_unregister_thread();
	return r < 0 ? -EIO : 0;
}

static void *run_thread(void *arg)
{
	struct cv_worker *w = arg;
	char name[16];

	snprintf(name, sizeof(name), "culvert-%u", w->id);
	pthread_setname_np(pthread_self(), name);
	(void)run_loop(w); /* epoll_wait failed: nothing that this thread could do */
	return NULL;
}

int cv_worker_start(struct cv_worker **ret, unsigned id)
{
	struct cv_worker *w;
	sigset_t all, old;
	int r;

	r = make_worker(&w, id);
	if (r)
		return r;
	/* Signals belong to the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&w->thread, NULL, run_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		free_worker(w);
		return r;
	}
	*ret = w;
	return 0;
}

int cv_worker_control(struct cv_worker **ret)
{
	return make_worker(ret, CV_WORKER_CONTROL);
}

int cv_worker_run(struct cv_worker *w)
{
	return run_loop(w);
}

static void on_quit(void *arg)
{
	struct cv_worker *w = arg;

	w->quit = true;
}

void cv_worker_quit(struct cv_worker *w)
{
	cv_worker_post(w, on_quit, w);
}

void cv_worker_stop(struct cv_worker **w)
{
	struct cv_worker *worker = *w;

	if (!worker)
		return;
	cv_worker_quit(worker);
	if (worker->id == CV_WORKER_CONTROL)
		return;
	pthread_join(worker->thread, NULL);
	free_worker(worker);
	*w = NULL;
}

void cv_worker_free(struct cv_worker **w)
{
	if (!*w)
		return;
	assert((*w)->id == CV_WORKER_CONTROL);
	run_leftovers(*w);
	free_worker(*w);
	*w = NULL;
}

struct event_base *cv_worker_base(struct cv_worker *w)
{
	return w->base;
}

unsigned cv_worker_id(const struct cv_worker *w)
{
	return w->id;
}

struct cv_worker *cv_worker_self(void)
{
	return self;
}

void cv_worker_post(struct cv_worker *w, cv_worker_fn fn, void *arg)
{
	struct message *m = message_new(fn, arg);
	bool was_empty;

	pthread_mutex_lock(&w->lock);
	was_empty = list_append(&w->inbox, m);
	/* Inside the lock: once it is released, the message may end the worker. */
	if (was_empty)
		(void)eventfd_write(w->wake_fd, 1); /* can't fail: the counter is far from full */
	pthread_mutex_unlock(&w->lock);
}

void cv_worker_defer(struct cv_worker *w, cv_worker_fn fn, void *arg)
{
	(void)list_append(&w->deferred, message_new(fn, arg));
}

uint64_t cv_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t cv_now_ms(void)
{
	return cv_now_ns() / 1000000;
}
