/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interned strings: hash tables of chained nodes, split into shards with a lock each.
 *
 * References are atomic; only the step from one to none, and finding a string, take the
 * shard's lock, so a node that is found is never about to be freed. Hashing is keyed with
 * random bytes, because peers choose some of the texts (baggage).
 */
#include "userspace/base/strs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "userspace/base/cleanup.h"

enum { SHARDS = 16, FIRST_BUCKETS = 16, MOST_A_BUCKET = 2 };

struct node {
	struct node *next;
	uint64_t hash;
	_Atomic uint32_t refs;
	uint32_t len;
	char text[];
};

struct shard {
	pthread_mutex_t lock;
	struct node **buckets; /* NULL until the first string */
	size_t nr_buckets; /* power of two */
	size_t nr_nodes;
};

static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
static uint64_t hash_key[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void draw_key(void)
{
	if (getrandom(hash_key, sizeof(hash_key), 0) != sizeof(hash_key))
		abort();
}

static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_text(const char *text, size_t len)
{
	uint64_t h = hash_key[0] ^ len, word;

	for (; len >= 8; text += 8, len -= 8) {
		memcpy(&word, text, 8);
		h = fold(h ^ word, hash_key[1] | 1);
	}
	word = 0;
	if (len)
		memcpy(&word, text, len);
	h = fold(h ^ word, hash_key[1] | 1);
	return fold(h ^ hash_key[1], 0x9e3779b97f4a7c15u);
}

static struct shard *shard_of(uint64_t hash)
{
	return &shards[hash >> 60 & (SHARDS - 1)];
}

static struct node **bucket_of(struct shard *s, uint64_t hash)
{
	return &s->buckets[hash & (s->nr_buckets - 1)];
}

static void resize(struct shard *s, size_t nr_buckets)
{
	struct shard fresh = *s;

	fresh.nr_buckets = nr_buckets;
	fresh.buckets = calloc(nr_buckets, sizeof(struct node *));
	if (!fresh.buckets)
		abort();
	for (size_t i = 0; i < s->nr_buckets; i++) {
		for (struct node *n = s->buckets[i], *next; n; n = next) {
			struct node **to = bucket_of(&fresh, n->hash);

			next = n->next;
			n->next = *to;
			*to = n;
		}
	}
	free(s->buckets);
	s->buckets = fresh.buckets;
	s->nr_buckets = fresh.nr_buckets;
}

static struct node *find(struct shard *s, uint64_t hash, const char *text, size_t len)
{
	struct node *n = s->buckets ? *bucket_of(s, hash) : NULL;

	while (n && (n->hash != hash || n->len != len || memcmp(n->text, text, len)))
		n = n->next;
	return n;
}

static struct node *insert(struct shard *s, uint64_t hash, const char *text, size_t len)
{
	struct node *n = malloc(sizeof(*n) + len + 1);
	struct node **bucket;

	if (!n)
		abort();
	if (s->nr_nodes >= MOST_A_BUCKET * s->nr_buckets)
		resize(s, s->nr_buckets ? s->nr_buckets * 2 : FIRST_BUCKETS);
	bucket = bucket_of(s, hash);
	n->next = *bucket;
	n->hash = hash;
	n->refs = 1;
	n->len = (uint32_t)len;
	memcpy(n->text, text, len);
	n->text[len] = '\0';
	*bucket = n;
	s->nr_nodes++;
	return n;
}

cv_str cv_str_new(const char *text)
{
	return text ? cv_str_new_len(text, strlen(text)) : NULL;
}

/* The string of this text; makes it when there is none. NULL = the empty one, or none. */
static cv_str get_string(const char *text, size_t len, bool make)
{
	struct shard *s;
	struct node *n;
	uint64_t hash;

	if (!len)
		return NULL;
	pthread_once(&once, draw_key);
	hash = hash_text(text, len);
	s = shard_of(hash);
	pthread_mutex_lock(&s->lock);
	n = find(s, hash, text, len);
	if (n)
		atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
	else if (make)
		n = insert(s, hash, text, len);
	pthread_mutex_unlock(&s->lock);
	return n ? n->text : NULL;
}

cv_str cv_str_new_len(const char *text, size_t len)
{
	return get_string(text, len, true);
}

cv_str cv_str_find(const char *text, size_t len)
{
	return get_string(text, len, false);
}

static struct node *node_of(cv_str s)
{
	return cv_container_of(s, struct node, text);
}

cv_str cv_str_ref(cv_str s)
{
	if (s)
		atomic_fetch_add_explicit(&node_of(s)->refs, 1, memory_order_relaxed);
	return s;
}

/* Drops a reference that is not the last one. */
static bool put_shared(struct node *n)
{
	uint32_t refs = atomic_load_explicit(&n->refs, memory_order_relaxed);

	while (refs > 1) {
		if (atomic_compare_exchange_weak_explicit(
			    &n->refs, &refs, refs - 1, memory_order_release, memory_order_relaxed))
			return true;
	}
	return false;
}

void cv_str_put(cv_str *s)
{
	cv_str text = cv_take_ptr(*s);
	struct node *n, **link;
	struct shard *shard;
	bool last;

	if (!text || put_shared(node_of(text)))
		return;
	n = node_of(text);
	shard = shard_of(n->hash);
	pthread_mutex_lock(&shard->lock);
	last = atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) == 1;
	if (last) {
		for (link = bucket_of(shard, n->hash); *link != n; link = &(*link)->next)
			;
		*link = n->next;
		if (--shard->nr_nodes < shard->nr_buckets / 4 && shard->nr_buckets > FIRST_BUCKETS)
			resize(shard, shard->nr_buckets / 2);
	}
	pthread_mutex_unlock(&shard->lock);
	if (last)
		free(n);
}

size_t cv_str_count(void)
{
	size_t count = 0;

	for (size_t i = 0; i < SHARDS; i++) {
		pthread_mutex_lock(&shards[i].lock);
		count += shards[i].nr_nodes;
		pthread_mutex_unlock(&shards[i].lock);
	}
	return count;
}
