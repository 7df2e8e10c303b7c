/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a thread lends to its connections, so that an idle one holds none: one large read
 * buffer for whoever reads right now, and equal blocks for what waits to be sent.
 *
 * Everything here belongs to the calling thread and is freed when it ends.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { CV_BLOCK_BYTES = 64 << 10 };

/* A block of bytes [head, tail) in a list of its holder. */
struct cv_block {
	struct cv_block *next;
	uint32_t head, tail;
	uint8_t data[CV_BLOCK_BYTES];
};

/* NULL when out of memory. */
struct cv_block *cv_block_get(void);
void cv_block_put(struct cv_block *b);

/* The thread's read buffer of CV_LIMIT_TCP_READ bytes, and what `claim` last put into it. Whoever
 * takes the buffer while another holder still has bytes in it saves those first, by its callback. */
struct cv_read_holder {
	void (*save)(struct cv_read_holder *h);
};
/* NULL when out of memory. */
uint8_t *cv_read_buffer_claim(struct cv_read_holder *h);
/* h has no bytes in the buffer any more; a no-op when it is not h's. */
void cv_read_buffer_release(struct cv_read_holder *h);
