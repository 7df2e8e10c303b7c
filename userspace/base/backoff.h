/* SPDX-License-Identifier: Apache-2.0 */
/* Exponential back-off with jitter: how long to wait before the next try. Not for secrets. */
#pragma once

#include <stdint.h>

struct cv_backoff {
	uint32_t first_ms, max_ms; /* set once */
	uint32_t tries; /* since the last success */
};

/* The wait before the next try: first_ms, twice as long each time, at most max_ms; each is drawn
 * from the upper half of its range, so that nodes do not come back all at once. */
uint32_t cv_backoff_next_ms(struct cv_backoff *b);
void cv_backoff_reset(struct cv_backoff *b); /* it worked */
