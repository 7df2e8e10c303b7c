/* SPDX-License-Identifier: Apache-2.0 */
/* A sorted array of fixed-size entries whose first bytes are the key: what a compiled map should
 * hold, or what it was last given. Built by appending, sorted once, then searched. */
#pragma once

#include <stddef.h>

struct cv_sorted {
	char *entries; /* owned */
	size_t n, room;
	size_t entry_size, key_size;
};

void cv_sorted_init(struct cv_sorted *t, size_t entry_size, size_t key_size);
void cv_sorted_fini(struct cv_sorted *t);
/* Appends a zeroed entry and returns it, until the next append; NULL = no memory. */
void *cv_sorted_add(struct cv_sorted *t);
/* Sorts by key; of entries with equal keys one stays. */
void cv_sorted_done(struct cv_sorted *t);
void *cv_sorted_at(const struct cv_sorted *t, size_t i);
void *cv_sorted_find(const struct cv_sorted *t, const void *key); /* NULL = none */
