/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash from a key to a short list of reference-counted objects; readers never wait.
 *
 * One flat table with linear probing, since there is an entry for each workload of a mesh: twelve
 * bytes a slot, and mostly nothing else, because an object knows its own keys. What is taken out
 * loses its reference after a grace period. So inside an RCU read section objects are stable, and
 * a reader takes a reference of its own to keep one longer. One writer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu.h>

#include "userspace/base/addr.h"
#include "userspace/base/strs.h"

/* What is not used is zero. Interned strings are equal when their pointers are. */
struct cv_index_key {
	cv_str a, b;
	struct cv_addr ip;
	uint64_t len; /* of a prefix, plus one; 0 = no prefix */
};

struct cv_index_ops {
	/* How the index holds an object. */
	void (*ref)(void *object);
	void (*put)(void *object);
	/* Has the object this key? NULL: it cannot be asked, and the index keeps the keys itself. */
	bool (*has)(const void *object, const struct cv_index_key *key);
};

struct cv_index_table;

struct cv_index {
	struct cv_index_table *table;
	const struct cv_index_ops *ops;
};

/* The objects of a key, as they were when it was looked up; borrowed. */
struct cv_index_entry {
	const struct cv_index_key *key; /* NULL unless the index keeps keys */
	size_t n; /* 0 = no such key */
	void *const *items; /* in the order in which they came; a replaced one keeps its place */
	void *one; /* where items points when there is only one */
};

int cv_index_init(struct cv_index *ix, const struct cv_index_ops *ops);
/* Drops every entry; the references go after a grace period (rcu_barrier() waits for it). */
void cv_index_fini(struct cv_index *ix);

/* Writer: takes `old` out (NULL = none) and puts `new` in (NULL = none), in its place or last. */
void cv_index_change(struct cv_index *ix, const struct cv_index_key *key, void *old, void *new);
/* Writer: many at once: takes out `olds` (sorted by address), then appends `news`. */
void cv_index_change_many(struct cv_index *ix, const struct cv_index_key *key, void *const *olds,
			  size_t nr_olds, void *const *news, size_t nr_news);

/* Inside an RCU read section, or the writer. */
void cv_index_find(const struct cv_index *ix, const struct cv_index_key *key,
		   struct cv_index_entry *ret);
/* First object of the key's entry, NULL = no entry; borrowed. */
void *cv_index_first(const struct cv_index *ix, const struct cv_index_key *key);

/* Walks all keys inside one RCU read section; what changes meanwhile may be seen or not. */
struct cv_index_walk {
	const struct cv_index_table *table;
	size_t at;
};
void cv_index_walk_init(struct cv_index_walk *walk, const struct cv_index *ix);
bool cv_index_walk_next(struct cv_index_walk *walk, struct cv_index_entry *ret);
