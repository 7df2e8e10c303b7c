/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: messages keep their order and none is lost, deferred functions run behind the callbacks
 * and starve nobody, the thread is named, deaf to signals and an RCU reader. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <urcu.h>

#include <cmocka.h>

#include "userspace/io/worker.h"

enum { THREADS = 3, MESSAGES = 20000 };

struct counter {
	struct cv_worker *w;
	int next[THREADS];
	int disorder;
	int total; /* touched by the worker alone, read after it has stopped */
};
static struct counter counter;

struct message {
	int thread, number;
};
static struct message messages[THREADS][MESSAGES];

static void on_message(void *arg)
{
	struct message *m = arg;

	if (cv_worker_self() != counter.w || counter.next[m->thread] != m->number)
		counter.disorder++;
	counter.next[m->thread] = m->number + 1;
	counter.total++;
}

static void *post_messages(void *arg)
{
	int thread = (int)(intptr_t)arg;

	for (int i = 0; i < MESSAGES; i++) {
		messages[thread][i] = (struct message){ thread, i };
		cv_worker_post(counter.w, on_message, &messages[thread][i]);
	}
	return NULL;
}

/* What was posted before the stop runs before it. */
static void test_posts(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	assert_int_equal(cv_worker_start(&counter.w, 0), 0);
	assert_null(cv_worker_self());
	for (intptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, post_messages, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	cv_worker_stop(&counter.w);
	assert_null(counter.w);
	assert_int_equal(counter.total, THREADS * MESSAGES);
	assert_int_equal(counter.disorder, 0);
}

static char thread_name[16];
static sigset_t thread_mask;
static unsigned thread_id;

static void look_around(void *arg)
{
	(void)arg;
	pthread_getname_np(pthread_self(), thread_name, sizeof(thread_name));
	pthread_sigmask(SIG_SETMASK, NULL, &thread_mask);
	thread_id = cv_worker_id(cv_worker_self());
}

static void test_thread(void **state)
{
	struct cv_worker *w;

	(void)state;
	assert_int_equal(cv_worker_start(&w, 7), 0);
	cv_worker_post(w, look_around, NULL);
	cv_worker_stop(&w);
	assert_string_equal(thread_name, "culvert-7");
	assert_int_equal(sigismember(&thread_mask, SIGTERM), 1);
	assert_int_equal(sigismember(&thread_mask, SIGHUP), 1);
	assert_int_equal(thread_id, 7);
	/* The caller's own mask is as it was. */
	pthread_sigmask(SIG_SETMASK, NULL, &thread_mask);
	assert_int_equal(sigismember(&thread_mask, SIGTERM), 0);
}

static struct cv_worker *control;
static char trace[64];

static void note(void *arg)
{
	strncat(trace, arg, sizeof(trace) - strlen(trace) - 1);
}

static void defer_twice(void *arg)
{
	note(arg);
	cv_worker_defer(control, note, "c");
}

static void start_trace(void *arg)
{
	(void)arg;
	cv_worker_defer(control, defer_twice, "b");
	cv_worker_defer(control, note, "B");
	note("a");
	cv_worker_post(control, note, "p");
}

static void stop_control(void *arg)
{
	(void)arg;
	cv_worker_quit(control);
}

/* Deferred functions run after the callbacks of the round; what they defer runs in the next one. */
static void test_defer_order(void **state)
{
	(void)state;
	assert_int_equal(cv_worker_control(&control), 0);
	assert_int_equal(cv_worker_id(control), CV_WORKER_CONTROL);
	cv_worker_post(control, start_trace, NULL);
	cv_worker_post(control, note, "A");
	cv_worker_post(control, stop_control, NULL);
	assert_int_equal(cv_worker_run(control), 0);
	assert_null(cv_worker_self());
	cv_worker_free(&control);
	assert_null(control);
	assert_string_equal(trace, "aAbBpc");
}

static struct event *io_event;
static bool served;
static unsigned deferrals;

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	served = true;
}

/* Goes on until the socket has been served. */
static void defer_again(void *arg)
{
	deferrals++;
	if (served || deferrals > 1000000)
		cv_worker_quit(control);
	else
		cv_worker_defer(control, defer_again, arg);
}

/* Somebody who defers for ever does not keep a socket from being served. */
static void test_defer_is_fair(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(cv_worker_control(&control), 0);
	io_event = event_new(cv_worker_base(control), fds[0], EV_READ, on_readable, NULL);
	event_add(io_event, NULL);
	assert_int_equal(write(fds[1], "x", 1), 1);
	cv_worker_defer(control, defer_again, NULL);
	assert_int_equal(cv_worker_run(control), 0);
	assert_true(served);
	assert_in_range(deferrals, 1, 10);
	event_free(io_event);
	cv_worker_free(&control);
	close(fds[0]);
	close(fds[1]);
}

static unsigned chain;

static void defer_chain(void *arg)
{
	chain++;
	if (chain < 5)
		cv_worker_defer(cv_worker_self(), defer_chain, arg);
	if (chain == 2)
		cv_worker_quit(cv_worker_self());
}

/* Deferred functions need no event to run, and those that are left when the loop ends run too. */
static void test_defer_alone(void **state)
{
	struct cv_worker *w;

	(void)state;
	alarm(60); /* in case it waits for an event */
	assert_int_equal(cv_worker_start(&w, 3), 0);
	cv_worker_post(w, defer_chain, NULL);
	cv_worker_stop(&w);
	assert_int_equal(chain, 5);
	chain = 3;
	assert_int_equal(cv_worker_control(&control), 0);
	cv_worker_defer(control, defer_chain, NULL);
	cv_worker_defer(control, stop_control, NULL);
	assert_int_equal(cv_worker_run(control), 0);
	cv_worker_free(&control);
	assert_int_equal(chain, 5);
	alarm(0);
}

static _Atomic bool reclaimed;
static bool reclaimed_too_early;
static struct rcu_head rcu;

static void on_reclaim(struct rcu_head *head)
{
	(void)head;
	reclaimed = true;
}

static void read_side(void *arg)
{
	(void)arg;
	rcu_read_lock();
	call_rcu(&rcu, on_reclaim);
	usleep(20000);
	reclaimed_too_early = reclaimed;
	rcu_read_unlock();
}

/* A worker's read section holds reclamation up, so it is known to RCU. */
static void test_rcu(void **state)
{
	struct cv_worker *w;

	(void)state;
	assert_int_equal(cv_worker_start(&w, 1), 0);
	cv_worker_post(w, read_side, NULL);
	cv_worker_stop(&w);
	assert_false(reclaimed_too_early);
	rcu_barrier();
	assert_true(reclaimed);
}

static void test_clock(void **state)
{
	uint64_t a = cv_now_ns(), b;

	(void)state;
	usleep(2000);
	b = cv_now_ns();
	assert_true(b - a >= 2000000);
	assert_in_range(cv_now_ms(), b / 1000000, b / 1000000 + 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_posts),	    cmocka_unit_test(test_thread),
		cmocka_unit_test(test_defer_order), cmocka_unit_test(test_defer_is_fair),
		cmocka_unit_test(test_defer_alone), cmocka_unit_test(test_rcu),
		cmocka_unit_test(test_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
