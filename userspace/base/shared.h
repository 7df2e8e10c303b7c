/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of which equal ones are held once, in a hash table with a lock: texts, and what all pods
 * of a deployment have in common. References are atomic; only finding an object and the step from
 * one reference to none take the lock, so what is found is never about to be freed. An object is
 * filled by one thread before it is held, and constant from then on. Any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first member of such an object. One that is not held yet is zeroed, with ref 1. */
struct cv_shared {
	struct cv_shared *next; /* in its bucket */
	uint32_t hash : 31;
	uint32_t held : 1; /* in a table */
	int ref; /* atomic */
};

struct cv_shared_table {
	pthread_mutex_t lock; /* of what follows */
	struct cv_shared **buckets; /* NULL = it is empty */
	size_t nr_buckets, n;
};

#define CV_SHARED_TABLE                           \
	{                                         \
		.lock = PTHREAD_MUTEX_INITIALIZER \
	}

typedef bool (*cv_shared_eq)(const void *object, const void *like);
/* An object that is not held; aborts on no memory. */
typedef struct cv_shared *(*cv_shared_make)(const void *like);

/* A reference to the object that equals `like`, whose hash is given (the low 31 bits count). When
 * there is none, make(like) is held and returned with the reference that it has; NULL without make. */
struct cv_shared *cv_shared_get(struct cv_shared_table *t, uint32_t hash, const void *like,
				cv_shared_eq eq, cv_shared_make make);
void cv_shared_ref(struct cv_shared *o);
/* Drops a reference, also of an object that is not held. True when it was the last one: the object
 * is in no table any more, and the caller's to free. */
bool cv_shared_put(struct cv_shared_table *t, struct cv_shared *o);
size_t cv_shared_count(struct cv_shared_table *t);
