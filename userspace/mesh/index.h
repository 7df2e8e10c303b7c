/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash from a key to a short list of reference-counted objects; readers never wait.
 *
 * Entries are immutable: a change publishes a new entry and frees the old one, with its
 * references, after a grace period. So inside an RCU read section an entry and the objects in
 * it are stable, and a reader takes a reference of its own to keep one longer. One writer.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <urcu.h>
#include <urcu/rculfhash.h>

#include "userspace/base/addr.h"
#include "userspace/base/strs.h"

/* What is not used is zero. Interned strings are equal when their pointers are. */
struct cv_index_key {
	cv_str a, b;
	struct cv_addr ip;
	uint64_t len; /* of a prefix, plus one; 0 = no prefix */
};

/* How the index holds an object. */
struct cv_index_ops {
	void (*ref)(void *object);
	void (*put)(void *object);
};

struct cv_index_entry {
	struct cds_lfht_node node;
	struct rcu_head rcu;
	const struct cv_index_ops *ops;
	struct cv_index_key key; /* holds references to a and b */
	size_t n; /* at least 1 */
	void *items[]; /* in the order in which they came; a replaced one keeps its place */
};

struct cv_index {
	struct cds_lfht *table;
	const struct cv_index_ops *ops;
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
const struct cv_index_entry *cv_index_find(const struct cv_index *ix,
					   const struct cv_index_key *key);
/* First object of the key's entry, NULL = no entry; borrowed. */
void *cv_index_first(const struct cv_index *ix, const struct cv_index_key *key);
