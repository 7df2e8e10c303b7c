/* SPDX-License-Identifier: Apache-2.0 */
/* A table of chained objects, which doubles and halves with their number; and their references. */
#include "userspace/base/shared.h"

#include <stdlib.h>

enum { FIRST_BUCKETS = 16, MOST_A_BUCKET = 2 };

static struct cv_shared **bucket_of(const struct cv_shared_table *t, uint32_t hash)
{
	return &t->buckets[hash & (t->nr_buckets - 1)];
}

static void resize(struct cv_shared_table *t, size_t nr_buckets)
{
	struct cv_shared **old = t->buckets;
	size_t nr_old = t->nr_buckets;

	t->buckets = calloc(nr_buckets, sizeof(struct cv_shared *));
	if (!t->buckets)
		abort(); /* as the objects themselves */
	t->nr_buckets = nr_buckets;
	for (size_t i = 0; i < nr_old; i++) {
		for (struct cv_shared *o = old[i], *next; o; o = next) {
			struct cv_shared **to = bucket_of(t, o->hash);

			next = o->next;
			o->next = *to;
			*to = o;
		}
	}
	free(old);
}

static struct cv_shared *find(const struct cv_shared_table *t, uint32_t hash, const void *like,
			      cv_shared_eq eq)
{
	struct cv_shared *o = t->n ? *bucket_of(t, hash) : NULL;

	while (o && (o->hash != hash || !eq(o, like)))
		o = o->next;
	return o;
}

static void insert(struct cv_shared_table *t, uint32_t hash, struct cv_shared *o)
{
	struct cv_shared **to;

	if (t->n >= MOST_A_BUCKET * t->nr_buckets)
		resize(t, t->nr_buckets ? 2 * t->nr_buckets : FIRST_BUCKETS);
	to = bucket_of(t, hash);
	o->next = *to;
	o->hash = hash & INT32_MAX;
	o->held = true;
	*to = o;
	t->n++;
}

/* The last object takes the buckets with it: a process that ends leaks nothing. */
static void take_out(struct cv_shared_table *t, struct cv_shared *o)
{
	struct cv_shared **link = bucket_of(t, o->hash);

	while (*link != o)
		link = &(*link)->next;
	*link = o->next;
	if (--t->n == 0) {
		free(t->buckets);
		t->buckets = NULL;
		t->nr_buckets = 0;
	} else if (t->nr_buckets > FIRST_BUCKETS && t->n < t->nr_buckets / 4) {
		resize(t, t->nr_buckets / 2);
	}
}

struct cv_shared *cv_shared_get(struct cv_shared_table *t, uint32_t hash, const void *like,
				cv_shared_eq eq, cv_shared_make make)
{
	struct cv_shared *o;

	hash &= INT32_MAX;
	pthread_mutex_lock(&t->lock);
	o = find(t, hash, like, eq);
	if (o) {
		cv_shared_ref(o);
	} else if (make) {
		o = make(like);
		insert(t, hash, o);
	}
	pthread_mutex_unlock(&t->lock);
	return o;
}

void cv_shared_ref(struct cv_shared *o)
{
	__atomic_fetch_add(&o->ref, 1, __ATOMIC_RELAXED);
}

/* Drops a reference that is not the last one. */
static bool put_one_of_several(struct cv_shared *o)
{
	int ref = __atomic_load_n(&o->ref, __ATOMIC_ACQUIRE);

	while (ref > 1)
		if (__atomic_compare_exchange_n(&o->ref, &ref, ref - 1, true, __ATOMIC_RELEASE,
						__ATOMIC_ACQUIRE))
			return true;
	return false;
}

bool cv_shared_put(struct cv_shared_table *t, struct cv_shared *o)
{
	bool last;

	if (put_one_of_several(o))
		return false;
	/* What the table has not, nobody can find: the last reference is the last. */
	if (!o->held)
		return true;
	pthread_mutex_lock(&t->lock);
	last = __atomic_fetch_sub(&o->ref, 1, __ATOMIC_ACQ_REL) == 1;
	if (last)
		take_out(t, o);
	pthread_mutex_unlock(&t->lock);
	return last;
}

size_t cv_shared_count(struct cv_shared_table *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->n;
	pthread_mutex_unlock(&t->lock);
	return n;
}
