/* SPDX-License-Identifier: Apache-2.0 */
/* Interned strings: one pointer a text, freed with the last reference, from any thread. */
#include <pthread.h>
#include <stdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/strs.h"

static void test_interning(void **state)
{
	cv_str a = cv_str_new("cluster.local"), b = cv_str_new_len("cluster.locality", 13);
	cv_str c = cv_str_new("cluster.loca"), d;

	(void)state;
	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	assert_string_equal(b, "cluster.local");
	assert_int_equal(cv_str_count(), 2);
	/* Three references to the one text: two from making it, one from here. */
	assert_ptr_equal(cv_str_ref(a), a);
	d = a;
	cv_str_put(&a);
	assert_null(a);
	cv_str_put(&a);
	cv_str_put(&b);
	assert_int_equal(cv_str_count(), 2);
	assert_string_equal(d, "cluster.local");
	cv_str_put(&d);
	assert_int_equal(cv_str_count(), 1);
	cv_str_put(&c);
	assert_int_equal(cv_str_count(), 0);
}

static void test_empty(void **state)
{
	cv_str none = NULL;

	(void)state;
	assert_null(cv_str_new(NULL));
	assert_null(cv_str_new(""));
	assert_null(cv_str_new_len("x", 0));
	assert_null(cv_str_ref(NULL));
	cv_str_put(&none);
	assert_string_equal(cv_str_text(NULL), "");
	assert_int_equal(cv_str_count(), 0);
}

/* Tables grow, and every text stays findable. */
static void test_many(void **state)
{
	enum { N = 20000 };
	static cv_str strs[N];
	char text[64];

	(void)state;
	for (int i = 0; i < N; i++) {
		snprintf(text, sizeof(text), "namespace-%d/workload-%d", i % 97, i);
		strs[i] = cv_str_new(text);
	}
	assert_int_equal(cv_str_count(), N);
	for (int i = 0; i < N; i++) {
		cv_str again;

		snprintf(text, sizeof(text), "namespace-%d/workload-%d", i % 97, i);
		again = cv_str_new(text);
		assert_ptr_equal(again, strs[i]);
		cv_str_put(&again);
		cv_str_put(&strs[i]);
	}
	assert_int_equal(cv_str_count(), 0);
}

enum { THREADS = 4, ROUNDS = 20000 };

static void *churn(void *arg)
{
	char text[16];

	(void)arg;
	for (int i = 0; i < ROUNDS; i++) {
		cv_str a, b;

		snprintf(text, sizeof(text), "s%d", i % 3);
		a = cv_str_new(text);
		b = cv_str_ref(a);
		if (strcmp(b, text))
			abort();
		cv_str_put(&a);
		cv_str_put(&b);
	}
	return NULL;
}

/* The last reference goes and comes back in several threads at once: ASan sees a use after free. */
static void test_threads(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(cv_str_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interning),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
