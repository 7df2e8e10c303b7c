/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's index: slots of a hash and an item.
 *
 * An item is nothing (the end of a probe), a grave (taken out, the probe goes on), an object, or,
 * marked by its lowest bit, a list: of several objects, or with its key. A slot keeps its key until
 * it becomes a grave, and a key is in one slot, so a reader that passes meanwhile finds what was
 * there before or what is there now. A table that is full of entries or graves is copied.
 */
#include "userspace/mesh/index.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum { FEWEST_SLOTS = 64 };

typedef uintptr_t item_t;
static const item_t NOTHING = 0, GRAVE = 1, LIST = 1;

struct cv_index_table {
	struct rcu_head rcu;
	size_t nr_slots;
	size_t used, live; /* slots that are not nothing; those of them that are no graves */
	_Atomic uint32_t *hashes; /* behind the items */
	_Atomic item_t items[];
};

struct list {
	struct rcu_head rcu;
	const struct cv_index_ops *ops;
	struct cv_index_key key; /* holds references to a and b */
	size_t n;
	void *objects[];
};

/* A reference that goes after a grace period. */
struct farewell {
	struct rcu_head rcu;
	const struct cv_index_ops *ops;
	void *object;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 32;
}

static uint32_t hash_key(const struct cv_index_key *k)
{
	uint64_t h = mix((uintptr_t)k->a, (uintptr_t)k->b);

	h = mix(h, cv_addr_hash(&k->ip));
	return (uint32_t)(mix(h, k->len) >> 32);
}

static bool keys_equal(const struct cv_index_key *a, const struct cv_index_key *b)
{
	return a->a == b->a && a->b == b->b && a->len == b->len && cv_addr_eq(&a->ip, &b->ip);
}

/* ---- tables ---- */

static struct cv_index_table *new_table(size_t nr_slots)
{
	struct cv_index_table *t =
		calloc(1, sizeof(*t) + nr_slots * (sizeof(t->items[0]) + sizeof(t->hashes[0])));

	if (!t)
		return NULL;
	t->nr_slots = nr_slots;
	t->hashes = (_Atomic uint32_t *)&t->items[nr_slots];
	return t;
}

static void free_table(struct rcu_head *head)
{
	free(cv_container_of(head, struct cv_index_table, rcu));
}

static size_t home_of(const struct cv_index_table *t, uint32_t hash)
{
	return (size_t)((uint64_t)hash * t->nr_slots >> 32);
}

static size_t next_of(const struct cv_index_table *t, size_t i)
{
	return i + 1 < t->nr_slots ? i + 1 : 0;
}

static item_t load(const struct cv_index_table *t, size_t i)
{
	return atomic_load_explicit(&t->items[i], memory_order_acquire);
}

static struct list *list_of(item_t item)
{
	/* Without the mark. */
	return item & LIST ? (struct list *)(item - LIST) : NULL; /* NOLINT */
}

static bool matches(const struct cv_index *ix, item_t item, const struct cv_index_key *key)
{
	const struct list *l = list_of(item);

	return l ? keys_equal(&l->key, key) : ix->ops->has((void *)item, key);
}

/* The key's slot, or -1. */
static ssize_t find_slot(const struct cv_index *ix, const struct cv_index_table *t, uint32_t hash,
			 const struct cv_index_key *key, item_t *ret)
{
	for (size_t i = home_of(t, hash);; i = next_of(t, i)) {
		item_t item = load(t, i);

		if (item == NOTHING)
			return -1;
		if (item == GRAVE ||
		    atomic_load_explicit(&t->hashes[i], memory_order_relaxed) != hash ||
		    !matches(ix, item, key))
			continue;
		*ret = item;
		return (ssize_t)i;
	}
}

/* Into a slot where nothing is yet: the hash first, for readers that pass. */
static void put_item(struct cv_index_table *t, uint32_t hash, item_t item)
{
	size_t i = home_of(t, hash);

	while (load(t, i) != NOTHING)
		i = next_of(t, i);
	atomic_store_explicit(&t->hashes[i], hash, memory_order_relaxed);
	atomic_store_explicit(&t->items[i], item, memory_order_release);
	t->used++;
	t->live++;
}

/* A copy without graves and with room for more. */
static void rebuild(struct cv_index *ix)
{
	struct cv_index_table *old = ix->table;
	struct cv_index_table *t = new_table(old->live + old->live / 3 + FEWEST_SLOTS);

	if (!t)
		abort(); /* as the objects themselves */
	for (size_t i = 0; i < old->nr_slots; i++) {
		item_t item = load(old, i);

		if (item != NOTHING && item != GRAVE)
			put_item(t, atomic_load_explicit(&old->hashes[i], memory_order_relaxed),
				 item);
	}
	rcu_assign_pointer(ix->table, t);
	call_rcu(&old->rcu, free_table);
}

/* ---- what is taken out ---- */

static void put_object(struct rcu_head *head)
{
	struct farewell *f = cv_container_of(head, struct farewell, rcu);

	f->ops->put(f->object);
	free(f);
}

static void free_list(struct rcu_head *head)
{
	struct list *l = cv_container_of(head, struct list, rcu);

	for (size_t i = 0; i < l->n; i++)
		l->ops->put(l->objects[i]);
	cv_str_put(&l->key.a);
	cv_str_put(&l->key.b);
	free(l);
}

static void drop_item(const struct cv_index *ix, item_t item)
{
	struct list *l = list_of(item);
	struct farewell *f;

	if (l) {
		call_rcu(&l->rcu, free_list);
		return;
	}
	f = malloc(sizeof(*f));
	if (!f)
		abort(); /* as the objects themselves */
	f->ops = ix->ops;
	f->object = (void *)item; /* NOLINT */
	call_rcu(&f->rcu, put_object);
}

int cv_index_init(struct cv_index *ix, const struct cv_index_ops *ops)
{
	ix->ops = ops;
	ix->table = new_table(FEWEST_SLOTS);
	return ix->table ? 0 : -ENOMEM;
}

void cv_index_fini(struct cv_index *ix)
{
	struct cv_index_table *t = cv_take_ptr(ix->table);

	if (!t)
		return;
	for (size_t i = 0; i < t->nr_slots; i++)
		if (load(t, i) != NOTHING && load(t, i) != GRAVE)
			drop_item(ix, load(t, i));
	call_rcu(&t->rcu, free_table);
}

/* ---- changes ---- */

static struct list *new_list(const struct cv_index *ix, const struct cv_index_key *key, size_t room)
{
	struct list *l = calloc(1, sizeof(*l) + room * sizeof(l->objects[0]));

	if (!l)
		abort();
	l->ops = ix->ops;
	l->key = *key;
	cv_str_ref(key->a);
	cv_str_ref(key->b);
	return l;
}

static void add_object(struct list *l, void *object)
{
	l->ops->ref(object);
	l->objects[l->n++] = object;
}

/* The list as an item: nothing, or an object alone, needs none. */
static item_t item_of(const struct cv_index *ix, struct list *l)
{
	void *one = l->n == 1 && ix->ops->has ? l->objects[0] : NULL;
	bool needed = l->n && !one;

	if (needed)
		return (item_t)l + LIST;
	if (one)
		l->n = 0; /* its reference is the item's now */
	free_list(&l->rcu);
	return one ? (item_t)one : NOTHING;
}

/* `fresh` takes the place of the key's objects. */
static void publish(struct cv_index *ix, const struct cv_index_key *key, struct list *fresh)
{
	struct cv_index_table *t = ix->table;
	uint32_t hash = hash_key(key);
	item_t was = NOTHING, now;
	ssize_t at = find_slot(ix, t, hash, key, &was);

	now = item_of(ix, fresh);
	if (at >= 0) {
		atomic_store_explicit(&t->items[at], now == NOTHING ? GRAVE : now,
				      memory_order_release);
		t->live -= now == NOTHING;
		drop_item(ix, was);
	} else if (now != NOTHING) {
		put_item(t, hash, now);
	}
	if (t->used >= t->nr_slots - t->nr_slots / 8 ||
	    (t->nr_slots > 2 * FEWEST_SLOTS && t->live < t->nr_slots / 4))
		rebuild(ix);
}

void cv_index_change(struct cv_index *ix, const struct cv_index_key *key, void *old, void *new)
{
	struct cv_index_entry was;
	struct list *fresh;
	bool placed = !new;

	cv_index_find(ix, key, &was);
	fresh = new_list(ix, key, was.n + 1);
	for (size_t i = 0; i < was.n; i++) {
		void *item = was.items[i];

		if (item != old && item != new) {
			add_object(fresh, item);
		} else if (!placed) {
			add_object(fresh, new);
			placed = true;
		}
	}
	if (!placed)
		add_object(fresh, new);
	publish(ix, key, fresh);
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
	struct cv_index_entry was;
	struct list *fresh;

	cv_index_find(ix, key, &was);
	fresh = new_list(ix, key, was.n + nr_news);
	for (size_t i = 0; i < was.n; i++)
		if (!is_among(was.items[i], olds, nr_olds))
			add_object(fresh, was.items[i]);
	for (size_t i = 0; i < nr_news; i++)
		if (!is_among(news[i], olds, nr_olds))
			add_object(fresh, news[i]);
	publish(ix, key, fresh);
}

/* ---- look-ups ---- */

static void show(item_t item, struct cv_index_entry *ret)
{
	struct list *l = list_of(item);

	if (l) {
		*ret = (struct cv_index_entry){ &l->key, l->n, l->objects, NULL };
		return;
	}
	ret->key = NULL;
	ret->n = 1;
	ret->one = (void *)item; /* NOLINT */
	ret->items = &ret->one;
}

void cv_index_find(const struct cv_index *ix, const struct cv_index_key *key,
		   struct cv_index_entry *ret)
{
	item_t item;

	if (find_slot(ix, rcu_dereference(ix->table), hash_key(key), key, &item) < 0)
		*ret = (struct cv_index_entry){};
	else
		show(item, ret);
}

void *cv_index_first(const struct cv_index *ix, const struct cv_index_key *key)
{
	struct cv_index_entry e;

	cv_index_find(ix, key, &e);
	return e.n ? e.items[0] : NULL;
}

void cv_index_walk_init(struct cv_index_walk *walk, const struct cv_index *ix)
{
	walk->table = rcu_dereference(ix->table);
	walk->at = 0;
}

bool cv_index_walk_next(struct cv_index_walk *walk, struct cv_index_entry *ret)
{
	while (walk->at < walk->table->nr_slots) {
		item_t item = load(walk->table, walk->at++);

		if (item == NOTHING || item == GRAVE)
			continue;
		show(item, ret);
		return true;
	}
	return false;
}
