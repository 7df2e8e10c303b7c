/* SPDX-License-Identifier: Apache-2.0 */
/* Token bucket: `burst` at once, `rate` a second after that. Time is an argument; one thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cv_rate {
	uint64_t last_ms;
	uint64_t milli; /* tokens in the bucket, in thousandths */
	uint32_t burst;
	uint32_t rate;
};

void cv_rate_init(struct cv_rate *r, uint32_t burst, uint32_t rate, uint64_t now_ms);
/* Takes one token; false when the bucket is empty. */
bool cv_rate_take(struct cv_rate *r, uint64_t now_ms);
/* Gives tokens back, up to the burst. */
void cv_rate_give(struct cv_rate *r, uint32_t tokens);
