/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker threads: one libevent base each, and a message queue that any thread may post to.
 *
 * Everything of a connection happens on its worker; nothing is shared but read-mostly
 * snapshots (RCU: every worker is a registered liburcu reader). The control thread is a
 * cv_worker too (id CV_WORKER_CONTROL) that runs on the main thread.
 */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#define CV_WORKER_CONTROL (~0u)

struct cv_worker;

/* A message: runs fn(arg) on the worker, in order of posting from one thread. */
typedef void (*cv_worker_fn)(void *arg);

/* Makes a worker and starts its thread `culvert-<id>`. */
int cv_worker_start(struct cv_worker **ret, unsigned id);
/* Makes the control worker around the calling thread; run it with cv_worker_run. */
int cv_worker_control(struct cv_worker **ret);
int cv_worker_run(struct cv_worker *w); /* until cv_worker_stop */
/* Asks the loop to end after the messages that are already queued; joins the thread and
 * frees the worker (control: only asks; cv_worker_free frees). */
void cv_worker_stop(struct cv_worker **w);
void cv_worker_quit(struct cv_worker *w); /* ask only, any thread */
void cv_worker_free(struct cv_worker **w); /* control worker, after run returned */

struct event_base *cv_worker_base(struct cv_worker *w);
unsigned cv_worker_id(const struct cv_worker *w);
struct cv_worker *cv_worker_self(void); /* of the calling thread, NULL outside */

/* Any thread. Never fails: queue nodes are allocated, no memory aborts. */
void cv_worker_post(struct cv_worker *w, cv_worker_fn fn, void *arg);
/* The worker's own thread: runs fn(arg) after the callbacks of this iteration. This is where
 * dead objects are freed, so that no callback frees its own object. */
void cv_worker_defer(struct cv_worker *w, cv_worker_fn fn, void *arg);

/* CLOCK_MONOTONIC. */
uint64_t cv_now_ns(void);
uint64_t cv_now_ms(void);
