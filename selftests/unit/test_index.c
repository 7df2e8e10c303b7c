/* SPDX-License-Identifier: Apache-2.0 */
/* The store's index against a list of (key, object) that is searched from its start: the same
 * objects in the same order after any changes, and readers in another thread never see a key
 * without the object that it always has. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/index.h"

struct thing {
	int ref; /* atomic */
	unsigned keys; /* bit N: it has key N */
};

enum { KEYS = 24, THINGS = 64, MOST = 8 };

static struct thing things[THINGS];

static struct cv_index_key key_of(unsigned i)
{
	struct cv_index_key key = { .len = i + 1 };

	return key;
}

static void ref_thing(void *object)
{
	__atomic_fetch_add(&((struct thing *)object)->ref, 1, __ATOMIC_RELAXED);
}

static void put_thing(void *object)
{
	__atomic_fetch_sub(&((struct thing *)object)->ref, 1, __ATOMIC_RELAXED);
}

static bool has_key(const void *object, const struct cv_index_key *key)
{
	return ((const struct thing *)object)->keys >> (key->len - 1) & 1;
}

static const struct cv_index_ops knows_keys = { ref_thing, put_thing, has_key },
				 keeps_keys = { ref_thing, put_thing, NULL };

/* ---- the twin ---- */

struct row {
	size_t n;
	void *items[MOST];
};

static size_t position(const struct row *row, const void *object)
{
	size_t i = 0;

	while (i < row->n && row->items[i] != object)
		i++;
	return i;
}

static void remove_item(struct row *row, const void *object)
{
	size_t at = position(row, object);

	if (at == row->n)
		return;
	memmove(&row->items[at], &row->items[at + 1], (--row->n - at) * sizeof(void *));
}

static void change(struct cv_index *ix, struct row *rows, unsigned key, void *old, void *fresh)
{
	struct cv_index_key k = key_of(key);
	struct row *row = &rows[key];
	size_t at = old ? position(row, old) : row->n;

	if (fresh)
		((struct thing *)fresh)->keys |= 1u << key;
	cv_index_change(ix, &k, old, fresh);
	if (fresh && at < row->n)
		row->items[at] = fresh;
	else if (fresh && !old && position(row, fresh) < row->n)
		return; /* it is there, and stays where it is */
	else if (fresh)
		row->items[row->n++] = fresh;
	else
		remove_item(row, old);
}

static void assert_same(const struct cv_index *ix, const struct row *rows)
{
	size_t keys = 0, walked = 0;
	struct cv_index_entry e;
	struct cv_index_walk walk;

	for (unsigned k = 0; k < KEYS; k++) {
		struct cv_index_key key = key_of(k);

		cv_index_find(ix, &key, &e);
		assert_int_equal(e.n, rows[k].n);
		for (size_t i = 0; i < e.n; i++)
			assert_ptr_equal(e.items[i], rows[k].items[i]);
		assert_ptr_equal(cv_index_first(ix, &key), e.n ? rows[k].items[0] : NULL);
		keys += rows[k].n > 0;
	}
	for (cv_index_walk_init(&walk, ix); cv_index_walk_next(&walk, &e);)
		walked++;
	assert_int_equal(walked, keys);
}

/* One step: an object goes, comes, or takes another's place, under a key where that can be. */
static void random_step(struct cv_index *ix, struct row *rows)
{
	unsigned key = (unsigned)rand() % KEYS;
	struct row *row = &rows[key];
	void *old = row->n ? row->items[(size_t)rand() % row->n] : NULL;
	void *fresh = &things[rand() % THINGS];
	bool is_there = position(row, fresh) < row->n;

	if (old && rand() % 2)
		change(ix, rows, key, old, is_there ? NULL : fresh);
	else if (!is_there && row->n < MOST && (rand() % 4 || !row->n))
		change(ix, rows, key, NULL, fresh);
	else if (old)
		change(ix, rows, key, is_there ? NULL : old, is_there ? fresh : NULL);
}

static void check_against_twin(const struct cv_index_ops *ops, unsigned seed)
{
	struct row rows[KEYS] = {};
	struct cv_index ix;

	srand(seed);
	memset(things, 0, sizeof(things));
	assert_int_equal(cv_index_init(&ix, ops), 0);
	for (int i = 0; i < 3000; i++) {
		random_step(&ix, rows);
		assert_same(&ix, rows);
	}
	cv_index_fini(&ix);
	rcu_barrier();
	for (size_t i = 0; i < THINGS; i++)
		assert_int_equal(things[i].ref, 0);
}

static void test_random(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 4; seed++) {
		check_against_twin(&knows_keys, seed);
		check_against_twin(&keeps_keys, seed);
	}
}

static int by_address(const void *a, const void *b)
{
	const char *pa = *(char *const *)a, *pb = *(char *const *)b;

	return (pa > pb) - (pa < pb);
}

/* Many at once: what goes, goes from wherever it is, and what comes is behind the rest. */
static void test_change_many(void **state)
{
	void *first[] = { &things[3], &things[1], &things[2], &things[0] };
	void *olds[] = { &things[1], &things[0], &things[9] }, *news[] = { &things[5], &things[4] };
	void *want[] = { &things[3], &things[2], &things[5], &things[4] };
	struct cv_index_key key = key_of(0);
	struct cv_index_entry e;
	struct cv_index ix;

	(void)state;
	memset(things, 0, sizeof(things));
	assert_int_equal(cv_index_init(&ix, &keeps_keys), 0);
	cv_index_change_many(&ix, &key, NULL, 0, first, 4);
	qsort(olds, 3, sizeof(void *), by_address);
	cv_index_change_many(&ix, &key, olds, 3, news, 2);
	cv_index_find(&ix, &key, &e);
	assert_int_equal(e.n, 4);
	assert_memory_equal(e.items, want, sizeof(want));
	assert_true(e.key && e.key->len == key.len);
	qsort(want, 4, sizeof(void *), by_address);
	cv_index_change_many(&ix, &key, want, 4, NULL, 0);
	assert_null(cv_index_first(&ix, &key));
	cv_index_fini(&ix);
	rcu_barrier();
	for (size_t i = 0; i < THINGS; i++)
		assert_int_equal(things[i].ref, 0);
}

/* ---- readers ---- */

struct reading {
	struct cv_index *ix;
	bool stop; /* atomic */
	size_t missing, looks;
};

/* Key 0 always has things[0], whatever comes and goes around it. */
static void *read_key(void *arg)
{
	const struct cv_index_key key = key_of(0);
	struct reading *r = arg;

	rcu_register_thread();
	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		struct cv_index_entry e;
		bool found = false;

		rcu_read_lock();
		cv_index_find(r->ix, &key, &e);
		for (size_t i = 0; i < e.n; i++)
			found |= e.items[i] == &things[0];
		rcu_read_unlock();
		r->missing += !found;
		__atomic_fetch_add(&r->looks, 1, __ATOMIC_RELAXED);
	}
	rcu_unregister_thread();
	return NULL;
}

/* The index grows to many keys and shrinks again, and the key's own list changes. */
static void churn(struct cv_index *ix)
{
	const struct cv_index_key key = key_of(0);

	for (uint64_t i = 0; i < 500; i++) {
		const struct cv_index_key other = { .len = 100 + i };

		cv_index_change(ix, &other, NULL, &things[1]);
		cv_index_change(ix, &key, i % 2 ? &things[1] : NULL, i % 2 ? NULL : &things[1]);
	}
	for (uint64_t i = 0; i < 500; i++) {
		const struct cv_index_key other = { .len = 100 + i };

		cv_index_change(ix, &other, &things[1], NULL);
	}
}

static void test_readers(void **state)
{
	const struct cv_index_key key = key_of(0);
	struct cv_index ix;
	struct reading r = { .ix = &ix };
	pthread_t thread;

	(void)state;
	memset(things, 0, sizeof(things));
	assert_int_equal(cv_index_init(&ix, &keeps_keys), 0);
	cv_index_change(&ix, &key, NULL, &things[0]);
	assert_int_equal(pthread_create(&thread, NULL, read_key, &r), 0);
	/* Until the reader has been there throughout some of it. */
	for (int i = 0; i < 20 || __atomic_load_n(&r.looks, __ATOMIC_RELAXED) < 1000; i++)
		churn(&ix);
	__atomic_store_n(&r.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(r.missing, 0);
	cv_index_fini(&ix);
	rcu_barrier();
	assert_int_equal(things[0].ref, 0);
	assert_int_equal(things[1].ref, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_change_many),
		cmocka_unit_test(test_readers),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
