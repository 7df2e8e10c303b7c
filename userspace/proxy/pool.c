/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's rules. An entry exists while it has a connection or somebody waiting; connections
 * that take no more streams (GOAWAY, dead) leave it at once. The connection with the most streams
 * that still has room is preferred only by order: new connections go to the end, so load gathers
 * at the front and the tail falls idle and goes.
 */
#define CV_LOG_TARGET "proxy::pool"
#include "userspace/proxy/pool.h"

#include <stdlib.h>
#include <string.h>

#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/lane.h"

/* ---- entries ---------------------------------------------------------------------------------- */

static unsigned bucket_of(const struct cv_pool_key *key)
{
	uint64_t h = cv_addr_hash(&key->next_hop.ip) ^ ((uintptr_t)key->lane >> 4);

	return (unsigned)((h * 0x9e3779b97f4a7c15u) >> 32) % CV_POOL_BUCKETS;
}

static bool key_eq(const struct cv_pool_key *a, const struct cv_pool_key *b)
{
	return a->lane == b->lane && cv_sockaddr_eq(&a->next_hop, &b->next_hop) &&
	       cv_identity_eq(&a->identity, &b->identity) && a->nr_sans == b->nr_sans &&
	       (a->nr_sans == 0 || !memcmp(a->sans, b->sans, a->nr_sans * sizeof(*a->sans)));
}

static struct cv_pool_entry *find_entry(struct cv_pool *p, const struct cv_pool_key *key)
{
	struct cv_pool_entry *e;

	LIST_FOREACH(e, &p->buckets[bucket_of(key)], node)
	if (key_eq(&e->key, key))
		return e;
	return NULL;
}

static struct cv_pool_entry *make_entry(struct cv_pool *p, const struct cv_pool_key *key)
{
	struct cv_pool_entry *e = calloc(1, sizeof(*e));
	cv_str *sans = calloc(key->nr_sans ? key->nr_sans : 1, sizeof(*sans));

	if (!e || !sans) {
		free(e);
		free(sans);
		return NULL;
	}
	e->pool = p;
	e->key = *key;
	cv_identity_copy(&e->key.identity, &key->identity);
	for (size_t i = 0; i < key->nr_sans; i++)
		sans[i] = cv_str_ref(key->sans[i]);
	e->key.sans = sans;
	TAILQ_INIT(&e->conns);
	TAILQ_INIT(&e->waiting);
	LIST_INSERT_HEAD(&p->buckets[bucket_of(key)], e, node);
	return e;
}

static void free_entry(struct cv_pool_entry *e)
{
	cv_str *sans = (cv_str *)e->key.sans;

	LIST_REMOVE(e, node);
	for (size_t i = 0; i < e->key.nr_sans; i++)
		cv_str_put(&sans[i]);
	free(sans);
	cv_identity_fini(&e->key.identity);
	free(e);
}

static void free_if_unused(struct cv_pool_entry *e)
{
	if (TAILQ_EMPTY(&e->conns) && TAILQ_EMPTY(&e->waiting) && !e->busy)
		free_entry(e);
}

/* ---- connections ------------------------------------------------------------------------------- */

static bool has_room(const struct cv_hbone_conn *c)
{
	return c->state == CV_HBONE_READY && !c->closing && cv_h2_can_open(c->h2);
}

static struct cv_hbone_conn *find_room(struct cv_pool_entry *e)
{
	struct cv_hbone_conn *c;

	TAILQ_FOREACH(c, &e->conns, pool_node)
	if (has_room(c))
		return c;
	return NULL;
}

static void answer(struct cv_pool_wait *w, struct cv_hbone_conn *c, enum cv_flag flag,
		   const char *error)
{
	TAILQ_REMOVE(&w->entry->waiting, w, node);
	w->entry = NULL;
	w->done(w, c, flag, error);
}

/* All who wait now get this error; who comes later dials anew. */
static void fail_waiting(struct cv_pool_entry *e, enum cv_flag flag, const char *error)
{
	struct cv_pool_wait *last = TAILQ_LAST(&e->waiting, cv_pool_waits), *w;

	while (last && (w = TAILQ_FIRST(&e->waiting))) {
		if (w == last)
			last = NULL;
		answer(w, NULL, flag, error);
	}
}

static void dial(struct cv_pool_entry *e)
{
	struct cv_hbone_conn *c = NULL;

	if (e->pool->nr_conns < CV_LIMIT_POOL_CONNECTIONS)
		c = cv_hbone_client_new(e);
	if (!c) {
		fail_waiting(e, CV_FLAG_CONNECT, "too many pooled connections");
		return;
	}
	e->pool->nr_conns++;
	e->dialling = c;
	TAILQ_INSERT_TAIL(&e->conns, c, pool_node);
	cv_hbone_client_dial(c);
}

/* Hands out what there is room for; dials when that is not enough. */
static void serve(struct cv_pool_entry *e)
{
	struct cv_hbone_conn *c;

	if (e->busy)
		return;
	e->busy = true;
	while (!TAILQ_EMPTY(&e->waiting)) {
		c = find_room(e);
		if (c)
			answer(TAILQ_FIRST(&e->waiting), c, CV_FLAG_NONE, NULL);
		else if (!e->dialling)
			dial(e);
		else
			break;
	}
	e->busy = false;
	free_if_unused(e);
}

/* Out of the pool; it may live on for its streams. */
static void leave(struct cv_hbone_conn *c)
{
	struct cv_pool_entry *e = c->entry;

	if (!e)
		return;
	c->entry = NULL;
	e->pool->nr_conns--;
	TAILQ_REMOVE(&e->conns, c, pool_node);
	if (e->dialling == c) {
		e->dialling = NULL;
		fail_waiting(e, c->flag, cv_hbone_conn_error(c));
	}
	serve(e);
}

/* ---- interface ------------------------------------------------------------------------------------ */

void cv_pool_init(struct cv_pool *p)
{
	for (int i = 0; i < CV_POOL_BUCKETS; i++)
		LIST_INIT(&p->buckets[i]);
	p->nr_conns = 0;
}

void cv_pool_fini(struct cv_pool *p)
{
	for (int i = 0; i < CV_POOL_BUCKETS; i++)
		while (!LIST_EMPTY(&p->buckets[i]))
			free_entry(LIST_FIRST(&p->buckets[i]));
}

void cv_pool_get(struct cv_pool *p, const struct cv_pool_key *key, struct cv_pool_wait *w)
{
	struct cv_pool_entry *e = find_entry(p, key);

	if (!e)
		e = make_entry(p, key);
	if (!e) {
		w->done(w, NULL, CV_FLAG_CONNECT, "out of memory");
		return;
	}
	w->entry = e;
	TAILQ_INSERT_TAIL(&e->waiting, w, node);
	serve(e);
}

void cv_pool_cancel(struct cv_pool_wait *w)
{
	struct cv_pool_entry *e = w->entry;

	if (!e)
		return;
	w->entry = NULL;
	TAILQ_REMOVE(&e->waiting, w, node);
	free_if_unused(e);
}

void cv_pool_on_ready(struct cv_hbone_conn *c)
{
	c->lane->pw->live.hbone_pooled++;
	c->entry->dialling = NULL;
	serve(c->entry);
}

void cv_pool_on_goaway(struct cv_hbone_conn *c)
{
	leave(c);
}

void cv_pool_on_dead(struct cv_hbone_conn *c)
{
	leave(c);
}
