/* SPDX-License-Identifier: Apache-2.0 */
/* A table of chained objects under a lock, which only holding one and dropping the last reference
 * take; as the interned strings have it. */
#include "userspace/mesh/shared.h"

#include <stdlib.h>

enum { FIRST_BUCKETS = 64 };

static struct cv_shared **bucket_of(const struct cv_shared_type *t, uint32_t hash)
{
	return &t->buckets[hash & (t->nr_buckets - 1)];
}

/* Doubles or halves the table, so that there is about an object a bucket. */
static void resize(struct cv_shared_type *t, size_t nr_buckets)
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

static struct cv_shared *find(const struct cv_shared_type *t, const struct cv_shared *like)
{
	struct cv_shared *o = t->n ? *bucket_of(t, like->hash) : NULL;

	while (o && (o->hash != like->hash || !t->eq(o, like)))
		o = o->next;
	return o;
}

static void insert(struct cv_shared_type *t, struct cv_shared *o)
{
	struct cv_shared **to;

	if (t->n >= t->nr_buckets)
		resize(t, t->nr_buckets ? 2 * t->nr_buckets : FIRST_BUCKETS);
	to = bucket_of(t, o->hash);
	o->next = *to;
	o->held = true;
	*to = o;
	t->n++;
}

/* The last object takes the table with it: a process that ends leaks nothing. */
static void take_out(struct cv_shared_type *t, struct cv_shared *o)
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

void *cv_shared_hold(struct cv_shared_type *t, void *object)
{
	struct cv_shared *o = object, *held;
	uint64_t hash;

	if (o->held)
		return o;
	hash = t->hash(o);
	o->hash = (uint32_t)(hash ^ hash >> 32);
	pthread_mutex_lock(&t->lock);
	held = find(t, o);
	if (held)
		cv_shared_ref(held);
	else
		insert(t, o);
	pthread_mutex_unlock(&t->lock);
	if (!held)
		return o;
	t->free(o);
	return held;
}

void *cv_shared_ref(void *object)
{
	__atomic_fetch_add(&((struct cv_shared *)object)->ref, 1, __ATOMIC_RELAXED);
	return object;
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

void cv_shared_put(struct cv_shared_type *t, void *object)
{
	struct cv_shared *o = object;
	bool last;

	if (!o || put_one_of_several(o))
		return;
	/* What the table has not, nobody can find: the last reference is the last. */
	if (!o->held) {
		t->free(o);
		return;
	}
	pthread_mutex_lock(&t->lock);
	last = __atomic_fetch_sub(&o->ref, 1, __ATOMIC_ACQ_REL) == 1;
	if (last)
		take_out(t, o);
	pthread_mutex_unlock(&t->lock);
	if (last)
		t->free(o);
}
