/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a local workload: answered at once, when it appears, or after the timeout; once,
 * and on the worker that asked. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/worker.h"

struct answer {
	atomic_int calls;
	atomic_uint worker;
	char uid[32];
	uint64_t after_ms;
	uint64_t asked_ms;
};

static struct cv_worker *worker;

static void on_answer(struct cv_workload *w, void *arg)
{
	struct answer *a = arg;

	snprintf(a->uid, sizeof(a->uid), "%s", w ? cv_str_text(w->uid) : "none");
	a->after_ms = cv_now_ms() - a->asked_ms;
	atomic_store(&a->worker, cv_worker_id(cv_worker_self()));
	cv_workload_put(&w);
	atomic_fetch_add(&a->calls, 1);
}

static void wait_for(const atomic_int *calls, int n)
{
	for (int i = 0; i < 1000 && atomic_load(calls) < n; i++)
		usleep(10000);
	assert_int_equal(atomic_load(calls), n);
}

static void ask(struct cv_store *s, struct answer *a, const char *sa, const char *name, unsigned ms)
{
	a->asked_ms = cv_now_ms();
	cv_store_wait_local(s, worker, "shop", sa, name, ms, on_answer, a);
}

#define POD(name)                                                                       \
	"workloads: [{uid: " name ", name: " name ", workloadIps: [], namespace: shop," \
	" serviceAccount: web, services: {}}]"

static void test_already_there(void **state)
{
	struct answer a = {};

	cv_fixture_apply(*state, POD("web-0"));
	ask(*state, &a, "web", "web-0", 60000);
	wait_for(&a.calls, 1);
	assert_string_equal(a.uid, "web-0");
	assert_int_equal(atomic_load(&a.worker), 7);
}

static void test_appears(void **state)
{
	struct answer a = {}, b = {};

	ask(*state, &a, "web", "web-1", 60000);
	ask(*state, &b, NULL, "web-1", 60000);
	cv_fixture_apply(*state, POD("web-2"));
	usleep(50000);
	assert_int_equal(atomic_load(&a.calls), 0);
	cv_fixture_apply(*state, POD("web-1"));
	wait_for(&a.calls, 1);
	wait_for(&b.calls, 1);
	assert_string_equal(a.uid, "web-1");
	assert_string_equal(b.uid, "web-1");
	assert_int_equal(atomic_load(&a.worker), 7);
	cv_fixture_apply(*state, POD("web-1"));
	usleep(50000);
	assert_int_equal(atomic_load(&a.calls), 1);
}

/* A pod of another service account is not the one that was asked for. */
static void test_times_out(void **state)
{
	struct answer a = {};

	cv_fixture_apply(*state, POD("web-3"));
	ask(*state, &a, "other", "web-3", 100);
	wait_for(&a.calls, 1);
	assert_string_equal(a.uid, "none");
	assert_in_range(a.after_ms, 99, 5000);
}

/* Many waiters, with the workload appearing while they begin to wait: none is lost or answered
 * twice. */
static void test_race_with_beginning(void **state)
{
	enum { ROUNDS = 300 };
	static struct answer answers[ROUNDS];
	char yaml[256], name[16];

	for (int i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof(name), "r%d", i);
		snprintf(yaml, sizeof(yaml),
			 "workloads: [{uid: %s, name: %s, workloadIps: [], namespace: shop,"
			 " services: {}}]",
			 name, name);
		ask(*state, &answers[i], NULL, name, 60000);
		cv_fixture_apply(*state, yaml);
	}
	for (int i = 0; i < ROUNDS; i++)
		wait_for(&answers[i].calls, 1);
}

/* The workload appears between the moment when the time is known to be up and the waiter's timer:
 * a timer of the test's own, due just before in the same round, holds the worker there. */
static atomic_bool holding, release;

static void hold(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what, (void)arg;
	atomic_store(&holding, true);
	while (!atomic_load(&release))
		usleep(1000);
}

static void arm_hold(void *arg)
{
	const struct timeval tv = { 0, 1000 };

	(void)arg;
	assert_int_equal(event_base_once(cv_worker_base(worker), -1, EV_TIMEOUT, hold, NULL, &tv),
			 0);
}

static void stall(void *arg)
{
	(void)arg;
	usleep(50000); /* until both timers are due */
}

static void test_race_with_timeout(void **state)
{
	struct answer a = {};

	cv_worker_post(worker, arm_hold, NULL);
	ask(*state, &a, NULL, "late", 5);
	cv_worker_post(worker, stall, NULL);
	while (!atomic_load(&holding))
		usleep(1000);
	cv_fixture_apply(*state, POD("late"));
	atomic_store(&release, true);
	wait_for(&a.calls, 1);
	usleep(50000);
	assert_int_equal(atomic_load(&a.calls), 1);
	assert_string_equal(a.uid, "late");
}

/* Waiters that are left when the store goes are freed with it. */
static void test_left_behind(void **state)
{
	static struct answer a;

	ask(*state, &a, NULL, "never", 3600000);
	usleep(50000);
	assert_int_equal(atomic_load(&a.calls), 0);
}

static int setup(void **state)
{
	*state = cv_fixture_store("", NULL);
	return cv_worker_start(&worker, 7);
}

static int teardown(void **state)
{
	struct cv_store *s = *state;

	cv_worker_stop(&worker);
	cv_store_free(&s);
	return cv_str_count() != 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_already_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_appears, setup, teardown),
		cmocka_unit_test_setup_teardown(test_times_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_race_with_beginning, setup, teardown),
		cmocka_unit_test_setup_teardown(test_race_with_timeout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_left_behind, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
