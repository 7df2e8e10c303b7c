/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of which equal ones are held once: what all pods of a deployment have in common is there
 * a single time, however many pods there are. An object is filled by one thread, then exchanged for
 * the equal one that is held already, if there is one, and constant from then on. Any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first member of such an object; calloc'ed, with ref 1. */
struct cv_shared {
	struct cv_shared *next; /* in its bucket */
	uint32_t hash;
	bool held; /* in the type's table */
	int ref; /* atomic */
};

struct cv_shared_type {
	uint64_t (*hash)(const void *object);
	bool (*eq)(const void *a, const void *b);
	void (*free)(void *object);
	pthread_mutex_t lock; /* of what follows */
	struct cv_shared **buckets;
	size_t nr_buckets, n;
};

/* Takes the caller's reference and returns one of the object that is held. */
void *cv_shared_hold(struct cv_shared_type *t, void *object);
void *cv_shared_ref(void *object);
/* NULL is fine. */
void cv_shared_put(struct cv_shared_type *t, void *object);
