/* SPDX-License-Identifier: Apache-2.0 */
/* A thread's lendable memory. A few free blocks are kept; a burst gives the rest back. */
#include "userspace/io/scratch.h"

#include <pthread.h>
#include <stdlib.h>

#include "userspace/limits.h"

enum { MAX_FREE_BLOCKS = 8 }; /* what one full output buffer takes */

struct scratch {
	struct cv_block *free_blocks;
	unsigned nr_free;
	uint8_t *read_buffer;
	struct cv_read_holder *holder;
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local struct scratch *own;

static void free_scratch(void *arg)
{
	struct scratch *s = arg;

	for (struct cv_block *b = s->free_blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	free(s->read_buffer);
	free(s);
	own = NULL;
}

static void make_key(void)
{
	if (pthread_key_create(&key, free_scratch))
		abort();
}

static struct scratch *get_scratch(void)
{
	if (own)
		return own;
	pthread_once(&once, make_key);
	own = calloc(1, sizeof(*own));
	if (own && pthread_setspecific(key, own)) {
		free(own);
		own = NULL;
	}
	return own;
}

struct cv_block *cv_block_get(void)
{
	struct scratch *s = get_scratch();
	struct cv_block *b = s ? s->free_blocks : NULL;

	if (b) {
		s->free_blocks = b->next;
		s->nr_free--;
	} else {
		b = malloc(sizeof(*b));
		if (!b)
			return NULL;
	}
	b->next = NULL;
	b->head = b->tail = 0;
	return b;
}

void cv_block_put(struct cv_block *b)
{
	struct scratch *s = get_scratch();

	if (!s || s->nr_free == MAX_FREE_BLOCKS) {
		free(b);
		return;
	}
	b->next = s->free_blocks;
	s->free_blocks = b;
	s->nr_free++;
}

uint8_t *cv_read_buffer_claim(struct cv_read_holder *h)
{
	struct scratch *s = get_scratch();

	if (!s)
		return NULL;
	if (!s->read_buffer)
		s->read_buffer = malloc(CV_LIMIT_TCP_READ);
	if (!s->read_buffer)
		return NULL;
	if (s->holder && s->holder != h)
		s->holder->save(s->holder);
	s->holder = h;
	return s->read_buffer;
}

void cv_read_buffer_release(struct cv_read_holder *h)
{
	if (own && own->holder == h)
		own->holder = NULL;
}
