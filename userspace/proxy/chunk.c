/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free lists of read buffers. Few chunks are kept: what a worker needs at once is what one
 * callback reads; the rest goes back to the allocator, so that memory follows the load down.
 */
#include "userspace/proxy/chunk.h"

#include <stdlib.h>

#include "userspace/limits.h"

static const struct {
	size_t bytes;
	unsigned keep;
} tiers[CV_CHUNK_NR] = {
	[CV_CHUNK_SMALL] = { 16 << 10, 4 },
	[CV_CHUNK_MEDIUM] = { 64 << 10, 2 },
	[CV_CHUNK_LARGE] = { CV_LIMIT_TCP_READ, 2 },
};

size_t cv_chunk_size(enum cv_chunk_tier tier)
{
	return tiers[tier].bytes;
}

struct cv_chunk *cv_chunk_get(struct cv_chunks *c, enum cv_chunk_tier tier)
{
	struct cv_chunk *chunk = c->free[tier];

	if (chunk) {
		c->free[tier] = chunk->next;
		c->cached[tier]--;
	} else {
		chunk = malloc(sizeof(*chunk) + tiers[tier].bytes);
		if (!chunk)
			return NULL;
		chunk->tier = tier;
	}
	c->held += tiers[tier].bytes;
	return chunk;
}

void cv_chunk_put(struct cv_chunks *c, struct cv_chunk **chunk)
{
	struct cv_chunk *x = *chunk;

	if (!x)
		return;
	*chunk = NULL;
	c->held -= tiers[x->tier].bytes;
	if (c->cached[x->tier] == tiers[x->tier].keep) {
		free(x);
		return;
	}
	x->next = c->free[x->tier];
	c->free[x->tier] = x;
	c->cached[x->tier]++;
}

void cv_chunks_fini(struct cv_chunks *c)
{
	for (int tier = 0; tier < CV_CHUNK_NR; tier++) {
		while (c->free[tier]) {
			struct cv_chunk *x = c->free[tier];

			c->free[tier] = x->next;
			free(x);
		}
		c->cached[tier] = 0;
	}
}
