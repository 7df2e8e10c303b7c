// SPDX-License-Identifier: Apache-2.0
/*
 * Sorted arrays. Keys are compared as bytes: their padding is zero by the contract of maps/.
 */
#include "userspace/node/table.h"

#include <stdlib.h>
#include <string.h>

void cv_sorted_init(struct cv_sorted *t, size_t entry_size, size_t key_size)
{
	*t = (struct cv_sorted){ .entry_size = entry_size, .key_size = key_size };
}

void cv_sorted_fini(struct cv_sorted *t)
{
	free(t->entries);
	cv_sorted_init(t, t->entry_size, t->key_size);
}

void *cv_sorted_at(const struct cv_sorted *t, size_t i)
{
	return t->entries + i * t->entry_size;
}

void *cv_sorted_add(struct cv_sorted *t)
{
	void *entry;

	if (t->n == t->room) {
		size_t room = t->room ? 2 * t->room : 64;
		char *entries = realloc(t->entries, room * t->entry_size);

		if (!entries)
			return NULL;
		t->entries = entries;
		t->room = room;
	}
	entry = cv_sorted_at(t, t->n++);
	memset(entry, 0, t->entry_size);
	return entry;
}

static int compare_keys(const void *a, const void *b, void *key_size)
{
	return memcmp(a, b, *(const size_t *)key_size);
}

void cv_sorted_done(struct cv_sorted *t)
{
	size_t kept = 0;

	if (!t->n)
		return;
	qsort_r(t->entries, t->n, t->entry_size, compare_keys, &t->key_size);
	for (size_t i = 1; i < t->n; i++) {
		if (memcmp(cv_sorted_at(t, kept), cv_sorted_at(t, i), t->key_size) == 0)
			continue;
		kept++;
		if (kept != i)
			memcpy(cv_sorted_at(t, kept), cv_sorted_at(t, i), t->entry_size);
	}
	t->n = kept + 1;
}

void *cv_sorted_find(const struct cv_sorted *t, const void *key)
{
	size_t low = 0, high = t->n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		int r = memcmp(key, cv_sorted_at(t, mid), t->key_size);

		if (r == 0)
			return cv_sorted_at(t, mid);
		if (r < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return NULL;
}
