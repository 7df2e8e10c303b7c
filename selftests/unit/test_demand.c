/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On demand: what a connection has to ask for, and the look-ups of the xDS client, without a stream:
 * one for a key however many ask, answers by name and by what the store has, what leads to nothing,
 * too many.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "userspace/mesh/route.h"
#include "userspace/mesh/xds_private.h"

static struct cv_xds *x;
static unsigned yes, no; /* answers */

static int setup(void **state)
{
	(void)state;
	x = calloc(1, sizeof(*x));
	assert_int_equal(cv_worker_control(&x->control), 0);
	x->store = cv_fixture_store("", "n1");
	yes = no = 0;
	return xds_demand_init(x, true);
}

static int teardown(void **state)
{
	(void)state;
	xds_demand_fini(x);
	cv_store_free(&x->store);
	cv_worker_free(&x->control);
	free(x);
	assert_int_equal(cv_str_count(), 0);
	return 0;
}

static void on_answer(bool answered, void *arg)
{
	(void)arg;
	yes += answered;
	no += !answered;
}

static void run(void)
{
	for (int i = 0; i < 3; i++) /* messages, and what they post */
		event_base_loop(cv_worker_base(x->control), EVLOOP_NONBLOCK);
}

static void ask(const char *text)
{
	cv_str key = cv_str_new(text);

	cv_xds_demand(x, x->control, key, on_answer, NULL);
	cv_str_put(&key);
	run();
}

static void hear(const char *text)
{
	cv_str name = cv_str_new(text);

	xds_demand_heard(x, name);
	cv_str_put(&name);
	xds_demand_answer(x);
	run();
}

static void assert_answers(unsigned want_yes, unsigned want_no)
{
	assert_int_equal(yes, want_yes);
	assert_int_equal(no, want_no);
}

/* ---- look-ups ---- */

static void test_known(void **state)
{
	(void)state;
	cv_fixture_apply(x->store,
			 "workloads: [{uid: a, name: a, namespace: shop, workloadIps:"
			 " [10.0.0.1], services: {}}]\n"
			 "services: [{name: s, namespace: shop, hostname: s.example, vips:"
			 " [/10.9.0.1], ports: {}}]\n");
	ask("/10.0.0.1");
	ask("/10.9.0.1");
	ask("shop/s.example");
	assert_answers(3, 0);
	assert_int_equal(x->demand.nr_pending, 0);
}

/* The answer has its own name; that the store knows the key is what counts. */
static void test_found(void **state)
{
	(void)state;
	ask("/10.0.0.1");
	ask("/10.0.0.1");
	ask("/2001:db8::1");
	assert_answers(0, 0);
	assert_int_equal(x->demand.nr_pending, 2);
	hear("somebody/else");
	assert_answers(0, 0);
	cv_fixture_apply(x->store, "workloads: [{uid: a, name: a, namespace: shop, workloadIps:"
				   " [10.0.0.1], services: {}}]\n");
	hear("a");
	assert_answers(2, 0);
	assert_int_equal(x->demand.nr_pending, 1);
	cv_fixture_apply(x->store, "workloads: [{uid: b, name: b, namespace: shop, workloadIps:"
				   " ['2001:db8::1'], services: {}}]\n");
	hear("b");
	assert_answers(3, 0);
	assert_int_equal(x->demand.nr_pending + x->demand.nr_absent, 0);
}

/* What leads to nothing is not asked for again at once; when it exists, the store knows. */
static void test_absent(void **state)
{
	(void)state;
	ask("/10.0.0.1");
	hear("/10.0.0.1");
	assert_answers(1, 0);
	assert_int_equal(x->demand.nr_pending, 0);
	assert_int_equal(x->demand.nr_absent, 1);
	ask("/10.0.0.1");
	assert_answers(2, 0);
	assert_int_equal(x->demand.nr_pending, 0);
}

static void each_key(unsigned i, void (*fn)(cv_str key))
{
	char text[32];
	cv_str key;

	snprintf(text, sizeof(text), "/10.1.%u.%u", i / 256, i % 256);
	key = cv_str_new(text);
	fn(key);
	cv_str_put(&key);
}

static void ask_later(cv_str key)
{
	cv_xds_demand(x, x->control, key, on_answer, NULL);
}

static void hear_later(cv_str key)
{
	xds_demand_heard(x, key);
}

/* All at once: what waits for too long is answered as well. */
static void test_bounds(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CV_LIMIT_DEMAND_KEYS; i++)
		each_key(i, ask_later);
	run();
	assert_answers(0, 0);
	ask("/10.2.0.1");
	assert_answers(0, 1);
	ask("/10.1.0.0"); /* one that is pending costs nothing more */
	assert_answers(0, 1);
	for (unsigned i = 0; i < CV_LIMIT_DEMAND_KEYS; i++)
		each_key(i, hear_later);
	xds_demand_answer(x);
	run();
	assert_answers(CV_LIMIT_DEMAND_KEYS + 1, 1);
	ask("/10.2.0.1");
	hear("/10.2.0.1");
	assert_answers(CV_LIMIT_DEMAND_KEYS + 2, 1);
	assert_int_equal(x->demand.nr_absent, CV_LIMIT_DEMAND_KEYS); /* the oldest is forgotten */
}

/* ---- what a connection depends on ---- */

/* What a connection to ip asks for; "" = nothing. */
static const char *missing(const char *ip)
{
	static char text[128];
	cv_str uid = cv_str_new("client");
	struct cv_workload *client = cv_store_workload_by_uid(x->store, uid);
	const struct cv_route_in in = {
		.src = client,
		.src_ip = cv_fixture_ip("10.0.0.1"),
		.dst = { cv_fixture_ip(ip), 80 },
	};
	cv_str key = cv_route_missing(x->store, &in);

	snprintf(text, sizeof(text), "%s", cv_str_text(key));
	cv_str_put(&key);
	cv_str_put(&uid);
	cv_workload_put(&client);
	return text;
}

static void test_missing(void **state)
{
	(void)state;
	cv_fixture_apply(
		x->store,
		"workloads:\n"
		"- {uid: client, name: client, namespace: shop, workloadIps: [10.0.0.1], services: {}}\n"
		"- {uid: a, name: a, namespace: shop, workloadIps: [10.0.0.2], services: {},"
		"   waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}}\n"
		"services:\n"
		"- {name: s, namespace: shop, hostname: s.example, vips: [/10.9.0.1], ports: {}}\n"
		"- {name: w, namespace: shop, hostname: w.example, vips: [/10.9.0.2], ports: {},"
		"   waypoint: {destination: shop/wp.example, hboneMtlsPort: 15008}}\n");
	assert_string_equal(missing("10.0.0.3"), "/10.0.0.3");
	assert_string_equal(missing("2001:db8::3"), "/2001:db8::3");
	assert_string_equal(missing("10.0.0.1"), "");
	assert_string_equal(missing("10.9.0.1"), "");
	assert_string_equal(missing("10.0.0.2"), "/10.0.0.9");
	assert_string_equal(missing("10.9.0.2"), "shop/wp.example");
	cv_fixture_apply(
		x->store,
		"workloads: [{uid: wp, name: wp, namespace: shop, workloadIps: [10.0.0.9],"
		" services: {}}]\n"
		"services: [{name: wp, namespace: shop, hostname: wp.example, vips: [/10.9.0.9],"
		" ports: {}}]\n");
	assert_string_equal(missing("10.0.0.2"), "");
	assert_string_equal(missing("10.9.0.2"), "");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_known),  TEST(test_found),   TEST(test_absent),
		TEST(test_bounds), TEST(test_missing),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
