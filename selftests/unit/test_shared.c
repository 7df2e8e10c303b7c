/* SPDX-License-Identifier: Apache-2.0 */
/* Objects of which equal ones are held once: found again by what they are like, while their table
 * grows and shrinks, and gone with the last reference, from any thread. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "userspace/base/shared.h"

struct thing {
	struct cv_shared shared;
	int value;
};

static struct cv_shared_table table = CV_SHARED_TABLE;

static bool is_value(const void *object, const void *like)
{
	return ((const struct thing *)object)->value == *(const int *)like;
}

static struct cv_shared *make_thing(const void *like)
{
	struct thing *t = calloc(1, sizeof(*t));

	if (!t)
		abort();
	t->shared.ref = 1;
	t->value = *(const int *)like;
	return &t->shared;
}

/* Four values have one hash; the top bit of a hash does not count. */
static uint32_t hash_of(int value)
{
	return ((uint32_t)value / 4 * 0x9e3779b9u) | (value & 1 ? 1u << 31 : 0);
}

static struct cv_shared *get(int value, cv_shared_make make)
{
	return cv_shared_get(&table, hash_of(value), &value, is_value, make);
}

static void put(struct cv_shared *o)
{
	if (cv_shared_put(&table, o))
		free(o);
}

static void test_one_each(void **state)
{
	struct cv_shared *a = get(1, make_thing), *b = get(2, make_thing);

	(void)state;
	assert_ptr_not_equal(a, b); /* of one hash */
	assert_ptr_equal(get(1, make_thing), a);
	assert_ptr_equal(get(1, NULL), a);
	assert_null(get(3, NULL));
	assert_int_equal(a->ref, 3);
	assert_int_equal(cv_shared_count(&table), 2);
	assert_false(cv_shared_put(&table, a));
	assert_false(cv_shared_put(&table, a));
	assert_true(cv_shared_put(&table, a));
	free(a);
	assert_null(get(1, NULL));
	cv_shared_ref(b);
	assert_false(cv_shared_put(&table, b));
	put(b);
	assert_int_equal(cv_shared_count(&table), 0);
}

/* Nobody can find it, but several may refer to it. */
static void test_not_held(void **state)
{
	const int value = 1;
	struct cv_shared *o = make_thing(&value);

	(void)state;
	cv_shared_ref(o);
	assert_false(o->held);
	assert_null(get(1, NULL));
	assert_false(cv_shared_put(&table, o));
	assert_true(cv_shared_put(&table, o));
	free(o);
}

/* Ends at the wanted number of objects, each of which is found on the way. */
static void test_resizing(void **state)
{
	enum { N = 5000 };
	static struct cv_shared *things[N];

	(void)state;
	for (int i = 0; i < N; i++)
		things[i] = get(i, make_thing);
	assert_int_equal(cv_shared_count(&table), N);
	assert_true(table.nr_buckets >= N / 4);
	for (int i = 0; i < N; i++) {
		assert_ptr_equal(get(i, NULL), things[i]);
		put(things[i]);
	}
	for (int i = 0; i < N - 1; i++)
		put(things[i]);
	assert_true(table.nr_buckets <= 16);
	assert_ptr_equal(get(N - 1, NULL), things[N - 1]);
	put(things[N - 1]);
	put(things[N - 1]);
	assert_null(table.buckets);
	assert_int_equal(table.nr_buckets, 0);
}

static void *churn(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++) {
		struct cv_shared *a = get(i % 3, make_thing);

		cv_shared_ref(a);
		if (((struct thing *)a)->value != i % 3)
			abort();
		put(a);
		put(a);
	}
	return NULL;
}

/* The last reference goes and comes back in several threads at once: ASan sees a use after free. */
static void test_threads(void **state)
{
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(cv_shared_count(&table), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_each),
		cmocka_unit_test(test_not_held),
		cmocka_unit_test(test_resizing),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
