/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificate cache: states, renewal, back-off, priorities, forgetting, a change of roots.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "selftests/lib/certlab.h"
#include "userspace/io/worker.h"

static void get(const struct cv_identity *id, struct certlab_answer *a)
{
	cv_certs_get(certlab.certs, id, certlab_on_cert, a);
}

static void prefetch(const struct cv_identity *id)
{
	cv_certs_prefetch(certlab.certs, id);
}

/* The first asks, all later ones are answered before the call returns. */
static void test_get(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {}, b = {}, c = {};

	(void)state;
	get(&id, &a);
	get(&id, &b);
	assert_int_equal(a.calls, 0);
	assert_string_equal(certlab_only_state(), "Initializing");
	certlab_run_until(&b.calls, 1, 5000);
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_ptr_equal(a.cert, b.cert);
	assert_int_equal(certlab.asked, 1);
	assert_string_equal(certlab_only_state(), "Available");
	get(&id, &c);
	assert_int_equal(c.calls, 1);
	assert_ptr_equal(c.cert, a.cert);
	assert_true(cv_identity_eq(&c.cert->identity, &id));
	assert_int_equal(c.cert->not_after - c.cert->not_before, 86460);
	cv_cert_put(&a.cert);
	cv_cert_put(&b.cert);
	cv_cert_put(&c.cert);
	cv_identity_fini(&id);
}

/* A worker is answered on its own thread. */
static struct cv_worker *worker;
static atomic_uint answered_on;

static void on_worker_cert(struct cv_cert *cert, const char *error, void *arg)
{
	(void)error, (void)arg;
	cv_cert_put(&cert);
	atomic_store(&answered_on, cv_worker_id(cv_worker_self()));
}

static void ask_on_worker(void *arg)
{
	cv_certs_get(certlab.certs, arg, on_worker_cert, NULL);
}

static void test_get_on_worker(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	int never = 0;

	(void)state;
	assert_int_equal(cv_worker_start(&worker, 5), 0);
	cv_worker_post(worker, ask_on_worker, &id);
	for (int i = 0; i < 500 && !atomic_load(&answered_on); i++)
		certlab_run_until(&never, 1, 10);
	assert_int_equal(atomic_load(&answered_on), 5);
	cv_worker_stop(&worker);
	cv_identity_fini(&id);
}

/* Renewed at half life, again and again; nobody has to ask. */
static void test_renewal(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct cv_cert *first, *later;

	(void)state;
	certlab.ttl_s = 2;
	prefetch(&id);
	first = certlab_get("td", "web");
	certlab_run_until(&certlab.asked, 3, 6000);
	assert_true(certlab.asked >= 3);
	later = certlab_get("td", "web");
	assert_true(later->not_after > first->not_after);
	assert_true(certlab.asked <= 4); /* and not in a hurry */
	cv_cert_put(&first);
	cv_cert_put(&later);
	cv_identity_fini(&id);
}

/* What no pod holds is renewed as long as somebody asks, and dropped then. */
static void test_idle_is_dropped(void **state)
{
	struct cv_cert *cert;

	(void)state;
	certlab.ttl_s = 2;
	cert = certlab_get("td", "web");
	certlab_run_until(&certlab.asked, 2, 6000);
	assert_string_equal(certlab_only_state(), "Available");
	certlab_run_until(&certlab.asked, 3, 3000);
	assert_int_equal(certlab.asked, 2);
	assert_string_equal(certlab_only_state(), "");
	cv_cert_put(&cert);
}

/* A CA that refuses a new identity is asked again for a while; the first connection waits. */
static void test_patience(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {};

	(void)state;
	certlab.refusal = "no such pod";
	get(&id, &a);
	certlab_run_until(&certlab.asked, 3, 5000);
	assert_int_equal(certlab.asked, 3);
	assert_int_equal(a.calls, 0);
	assert_string_equal(certlab_only_state(), "Initializing");
	get(&id, &a); /* asks for no request of its own */
	certlab_run_until(&certlab.asked, 4, 30);
	assert_int_equal(certlab.asked, 3);
	certlab.refusal = NULL;
	certlab_run_until(&a.calls, 2, 5000);
	assert_non_null(a.cert);
	assert_string_equal(a.error, "");
	cv_cert_put(&a.cert);
	cv_identity_fini(&id);
}

/* Then: an error for those who wait and those who come, no request from them; tried again later
 * and later, at once when a pod is enrolled; then it serves. */
static void test_failure_and_retry(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {}, b = {};
	uint64_t start = cv_now_ms();
	int asked;

	(void)state;
	certlab.refusal = "no such pod";
	get(&id, &a);
	certlab_run_until(&a.calls, 1, 20000);
	assert_in_range(cv_now_ms() - start, 700, 20000);
	assert_string_equal(a.error, "no such pod");
	assert_string_equal(certlab_only_state(), "Unavailable: no such pod");
	asked = certlab.asked;
	assert_in_range(asked, 4, 9);
	get(&id, &b);
	assert_int_equal(b.calls, 1);
	assert_string_equal(b.error, "no such pod");
	assert_int_equal(certlab.asked, asked);
	certlab_run_until(&certlab.asked, asked + 1, 20000);
	certlab_run_until(&certlab.asked, asked + 2, 400); /* not so soon */
	assert_int_equal(certlab.asked, asked + 1);
	certlab.refusal = NULL;
	prefetch(&id);
	certlab_run_until(&certlab.asked, asked + 2, 400);
	assert_string_equal(certlab_only_state(), "Available");
	cv_identity_fini(&id);
}

/* The CA was away: when it has answered one request, those that failed meanwhile are made again. */
static void test_ca_is_back(void **state)
{
	struct cv_identity id = certlab_identity("td", "web"), other = certlab_identity("td", "db");
	struct certlab_answer a = {};
	int asked;

	(void)state;
	certlab.refusal = "the CA does not answer";
	certlab.unreachable = true;
	prefetch(&id);
	certlab_run_until(&certlab.asked, 8, 60000); /* the next wait is 3.2 s at least */
	asked = certlab.asked;
	certlab.refusal = NULL;
	certlab.unreachable = false;
	get(&other, &a);
	certlab_run_until(&certlab.asked, asked + 2, 2500);
	assert_int_equal(certlab.asked, asked + 2);
	assert_non_null(a.cert);
	cv_cert_put(&a.cert);
	cv_identity_fini(&id);
	cv_identity_fini(&other);
}

/* One answer has come with other roots: certificates with the old ones are renewed long before
 * their half life, and trust both then. */
static void test_new_roots(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct cv_cert *old, *db, *now;

	(void)state;
	certlab.ttl_s = 64;
	prefetch(&id);
	old = certlab_get("td", "web");
	certlab.root = 1;
	certlab.both_roots = true;
	db = certlab_get("td", "db");
	assert_ptr_not_equal(db->trust, old->trust);
	certlab_run_until(&certlab.asked, 3, 100000);
	assert_true(time(NULL) < old->not_before + 60 + 24);
	now = certlab_get("td", "web");
	assert_ptr_equal(now->trust, db->trust); /* held once */
	assert_int_equal(sk_X509_num(now->trust->roots), 2);
	cv_cert_put(&old);
	cv_cert_put(&db);
	cv_cert_put(&now);
	cv_identity_fini(&id);
}

/* A renewal that fails keeps the certificate, until that expires. */
static void test_failing_renewal(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {};
	struct cv_cert *cert;
	uint64_t end;

	(void)state;
	certlab.ttl_s = 3;
	prefetch(&id);
	cert = certlab_get("td", "web");
	certlab.refusal = "no such pod";
	certlab_run_until(&certlab.asked, 2, 4000);
	get(&id, &a);
	assert_non_null(a.cert);
	assert_string_equal(certlab_only_state(), "Available");
	for (end = cv_now_ms() + 8000; time(NULL) <= cert->not_after && cv_now_ms() < end;)
		certlab_run_until(&certlab.asked, 1000, 20);
	get(&id, &a);
	assert_null(a.cert);
	assert_string_equal(a.error, "no such pod");
	assert_string_equal(certlab_only_state(), "Unavailable: no such pod");
	cv_cert_put(&cert);
	cv_identity_fini(&id);
}

/* At most eight requests are out; whom a connection waits for goes before prefetches. */
static void test_limits_and_priorities(void **state)
{
	struct certlab_answer a = {}, b = {};
	char name[16];

	(void)state;
	certlab.holding = true;
	for (int i = 0; i < 12; i++) {
		struct cv_identity id;

		snprintf(name, sizeof(name), "p%d", i);
		id = certlab_identity("td", name);
		cv_certs_prefetch(certlab.certs, &id);
		cv_identity_fini(&id);
	}
	certlab_run_until(&certlab.held, 8, 3000);
	certlab_run_until(&certlab.held, 9, 50);
	assert_int_equal(certlab.held, 8);
	struct cv_identity now = certlab_identity("td", "now"), p11 = certlab_identity("td", "p11");

	get(&now, &a);
	get(&p11, &b); /* a prefetch that somebody now waits for */
	certlab_release();
	certlab_release();
	certlab_release();
	certlab_run_until(&certlab.asked, 11, 1000);
	assert_non_null(strstr(certlab.order, "p7 now p11 p8 "));
	while (certlab.held) {
		certlab_release();
		certlab_run_until(&certlab.asked, 1000, 5);
	}
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_int_equal(certlab.asked, 13);
	cv_cert_put(&a.cert);
	cv_cert_put(&b.cert);
	cv_identity_fini(&now);
	cv_identity_fini(&p11);
}

/* What is forgotten is answered with an error; its late certificate is not taken. */
static void test_forget(void **state)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {}, b = {};

	(void)state;
	certlab.holding = true;
	get(&id, &a);
	certlab_run_until(&certlab.held, 1, 3000);
	cv_certs_forget(certlab.certs, &id);
	certlab_run_until(&a.calls, 1, 3000);
	assert_string_equal(a.error, "the identity is no longer needed");
	assert_string_equal(certlab_only_state(), "");
	get(&id, &b);
	certlab_run_until(&certlab.held, 2, 3000);
	certlab_release(); /* of the forgotten one */
	certlab_run_until(&b.calls, 1, 50);
	assert_int_equal(b.calls, 0);
	certlab_release();
	certlab_run_until(&b.calls, 1, 3000);
	assert_non_null(b.cert);
	cv_cert_put(&b.cert);
	cv_certs_forget(certlab.certs, &id);
	cv_identity_fini(&id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_get, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_get_on_worker, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_renewal, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_idle_is_dropped, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_patience, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_failure_and_retry, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_ca_is_back, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_new_roots, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_failing_renewal, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_limits_and_priorities, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_forget, certlab_setup, certlab_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
