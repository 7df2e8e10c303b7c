/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interned strings: tables of shared texts, sixteen of them, so that threads seldom wait for each
 * other. Hashing is keyed with random bytes, because peers choose some of the texts (baggage).
 */
#include "userspace/base/strs.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/shared.h"

enum { SHARDS = 16 };

struct node {
	struct cv_shared shared;
	uint32_t len;
	char text[];
};

/* A text that may be held, or not. */
struct wanted {
	const char *text;
	size_t len;
};

static struct cv_shared_table shards[SHARDS] = { [0 ... SHARDS - 1] = CV_SHARED_TABLE };
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

static uint32_t hash_text(const char *text, size_t len)
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
	return (uint32_t)fold(h ^ hash_key[1], 0x9e3779b97f4a7c15u);
}

/* By the highest of the bits that count. */
static struct cv_shared_table *shard_of(uint32_t hash)
{
	return &shards[hash >> 27 & (SHARDS - 1)];
}

static bool is_wanted(const void *object, const void *like)
{
	const struct node *n = object;
	const struct wanted *w = like;

	return n->len == w->len && memcmp(n->text, w->text, w->len) == 0;
}

static struct cv_shared *make_node(const void *like)
{
	const struct wanted *w = like;
	struct node *n = malloc(offsetof(struct node, text) + w->len + 1);

	if (!n)
		abort();
	n->shared = (struct cv_shared){ .ref = 1 };
	n->len = (uint32_t)w->len;
	memcpy(n->text, w->text, w->len);
	n->text[w->len] = '\0';
	return &n->shared;
}

static cv_str get_string(const char *text, size_t len, cv_shared_make make)
{
	const struct wanted wanted = { text, len };
	struct cv_shared *o;
	uint32_t hash;

	if (!len)
		return NULL;
	pthread_once(&once, draw_key);
	hash = hash_text(text, len);
	o = cv_shared_get(shard_of(hash), hash, &wanted, is_wanted, make);
	return o ? cv_container_of(o, struct node, shared)->text : NULL;
}

cv_str cv_str_new(const char *text)
{
	return text ? cv_str_new_len(text, strlen(text)) : NULL;
}

cv_str cv_str_new_len(const char *text, size_t len)
{
	return get_string(text, len, make_node);
}

cv_str cv_str_find(const char *text, size_t len)
{
	return get_string(text, len, NULL);
}

static struct node *node_of(cv_str s)
{
	return cv_container_of(s, struct node, text);
}

cv_str cv_str_ref(cv_str s)
{
	if (s)
		cv_shared_ref(&node_of(s)->shared);
	return s;
}

void cv_str_put(cv_str *s)
{
	cv_str text = cv_take_ptr(*s);
	struct node *n;

	if (!text)
		return;
	n = node_of(text);
	if (cv_shared_put(shard_of(n->shared.hash), &n->shared))
		free(n);
}

size_t cv_str_count(void)
{
	size_t count = 0;

	for (size_t i = 0; i < SHARDS; i++)
		count += cv_shared_count(&shards[i]);
	return count;
}
