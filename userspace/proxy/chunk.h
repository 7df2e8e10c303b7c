/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read buffers of one worker: three sizes, with a short free list each.
 *
 * A connection holds a chunk only while bytes that were read from its socket have not been
 * taken by the other side, so an idle connection costs none. Data starts behind room for an
 * HTTP/2 frame header, so that a chunk is encrypted from where it was read to.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "userspace/proto/h2.h"

/* Steps of a connection's read size: it goes up when a read fills the chunk. */
enum cv_chunk_tier { CV_CHUNK_SMALL, CV_CHUNK_MEDIUM, CV_CHUNK_LARGE, CV_CHUNK_NR };

struct cv_chunk {
	struct cv_chunk *next;
	enum cv_chunk_tier tier;
	uint8_t headroom[CV_H2_HEADROOM + 3]; /* data stays aligned */
	uint8_t data[];
};

struct cv_chunks {
	struct cv_chunk *free[CV_CHUNK_NR];
	unsigned cached[CV_CHUNK_NR];
	size_t held; /* bytes of chunks that connections hold now */
};

size_t cv_chunk_size(enum cv_chunk_tier tier);
/* NULL when out of memory. */
struct cv_chunk *cv_chunk_get(struct cv_chunks *c, enum cv_chunk_tier tier);
/* Gives the chunk back and clears the pointer; NULL inside is fine. */
void cv_chunk_put(struct cv_chunks *c, struct cv_chunk **chunk);
void cv_chunks_fini(struct cv_chunks *c);
