/* SPDX-License-Identifier: Apache-2.0 */
/* The store's index, on liburcu's lock-free resizable hash table. */
#include "userspace/mesh/index.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum { FIRST_BUCKETS = 64 };

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 32;
}

static unsigned long hash_key(const struct cv_index_key *k)
{
	uint64_t h = mix((uintptr_t)k->a, (uintptr_t)k->b);

	h = mix(h, cv_addr_hash(&k->ip));
	return (unsigned long)mix(h, k->len);
}

static int match_key(struct cds_lfht_node *node, const void *arg)
{
	const struct cv_index_entry *e = cv_container_of(node, struct cv_index_entry, node);
	const struct cv_index_key *k = arg;

	return e->key.a == k->a && e->key.b == k->b && e->key.len == k->len &&
	       cv_addr_eq(&e->key.ip, &k->ip);
}

static void free_entry(struct rcu_head *head)
{
	struct cv_index_entry *e = cv_container_of(head, struct cv_index_entry, rcu);

	for (size_t i = 0; i < e->n; i++)
		e->ops->put(e->items[i]);
	cv_str_put(&e->key.a);
	cv_str_put(&e->key.b);
	free(e);
}

int cv_index_init(struct cv_index *ix, const struct cv_index_ops *ops)
{
	ix->ops = ops;
	ix->table = cds_lfht_new(FIRST_BUCKETS, FIRST_BUCKETS, 0,
				 CDS_LFHT_AUTO_RESIZE | CDS_LFHT_ACCOUNTING, NULL);
	return ix->table ? 0 : -ENOMEM;
}

void cv_index_fini(struct cv_index *ix)
{
	struct cds_lfht *table = cv_take_ptr(ix->table);
	struct cds_lfht_iter iter;
	struct cv_index_entry *e;

	if (!table)
		return;
	rcu_read_lock();
	cds_lfht_for_each_entry(table, &iter, e, node) {
		cds_lfht_del(table, &e->node);
		call_rcu(&e->rcu, free_entry);
	}
	rcu_read_unlock();
	cds_lfht_destroy(table, NULL);
}

/* A copy of the key's entry with other objects, not yet published. */
static struct cv_index_entry *new_entry(const struct cv_index *ix, const struct cv_index_key *key,
					size_t room)
{
	struct cv_index_entry *e = calloc(1, sizeof(*e) + room * sizeof(e->items[0]));

	if (!e)
		abort();
	cds_lfht_node_init(&e->node);
	e->ops = ix->ops;
	e->key = *key;
	cv_str_ref(key->a);
	cv_str_ref(key->b);
	return e;
}

static void add_item(struct cv_index_entry *e, void *object)
{
	e->ops->ref(object);
	e->items[e->n++] = object;
}

/* `fresh` takes the place of the key's entry; an empty one removes it. */
static void publish(struct cv_index *ix, struct cv_index_entry *fresh)
{
	unsigned long hash = hash_key(&fresh->key);
	struct cds_lfht_iter iter;
	struct cds_lfht_node *old;

	rcu_read_lock();
	cds_lfht_lookup(ix->table, hash, match_key, &fresh->key, &iter);
	old = cds_lfht_iter_get_node(&iter);
	if (!fresh->n && old)
		cds_lfht_del(ix->table, old);
	else if (fresh->n && old)
		cds_lfht_replace(ix->table, &iter, hash, match_key, &fresh->key, &fresh->node);
	else if (fresh->n)
		cds_lfht_add(ix->table, hash, &fresh->node);
	rcu_read_unlock();
	if (old)
		call_rcu(&cv_container_of(old, struct cv_index_entry, node)->rcu, free_entry);
	if (!fresh->n)
		free_entry(&fresh->rcu);
}

void cv_index_change(struct cv_index *ix, const struct cv_index_key *key, void *old, void *new)
{
	const struct cv_index_entry *was = cv_index_find(ix, key);
	size_t n = was ? was->n : 0;
	struct cv_index_entry *fresh = new_entry(ix, key, n + 1);
	bool placed = !new;

	for (size_t i = 0; i < n; i++) {
		void *item = was->items[i];

		if (item != old && item != new) {
			add_item(fresh, item);
		} else if (!placed) {
			add_item(fresh, new);
			placed = true;
		}
	}
	if (!placed)
		add_item(fresh, new);
	publish(ix, fresh);
}

static int compare_pointers(const void *a, const void *b)
{
	const char *pa = *(char *const *)a, *pb = *(char *const *)b;

	return (pa > pb) - (pa < pb);
}

static bool is_among(void *object, void *const *sorted, size_t n)
{
	return n && bsearch(&object, sorted, n, sizeof(*sorted), compare_pointers);
}

void cv_index_change_many(struct cv_index *ix, const struct cv_index_key *key, void *const *olds,
			  size_t nr_olds, void *const *news, size_t nr_news)
{
	const struct cv_index_entry *was = cv_index_find(ix, key);
	size_t n = was ? was->n : 0;
	struct cv_index_entry *fresh = new_entry(ix, key, n + nr_news);

	for (size_t i = 0; i < n; i++)
		if (!is_among(was->items[i], olds, nr_olds))
			add_item(fresh, was->items[i]);
	for (size_t i = 0; i < nr_news; i++)
		if (!is_among(news[i], olds, nr_olds))
			add_item(fresh, news[i]);
	publish(ix, fresh);
}

const struct cv_index_entry *cv_index_find(const struct cv_index *ix,
					   const struct cv_index_key *key)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *node;

	rcu_read_lock();
	cds_lfht_lookup(ix->table, hash_key(key), match_key, key, &iter);
	node = cds_lfht_iter_get_node(&iter);
	rcu_read_unlock();
	return node ? cv_container_of(node, struct cv_index_entry, node) : NULL;
}

void *cv_index_first(const struct cv_index *ix, const struct cv_index_key *key)
{
	const struct cv_index_entry *e = cv_index_find(ix, key);

	return e ? e->items[0] : NULL;
}
