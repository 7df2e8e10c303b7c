/* SPDX-License-Identifier: Apache-2.0 */
/* Back-off: doubling without overflow, and the jitter. */
#include "userspace/base/backoff.h"

#include <sys/random.h>

static uint32_t draw(uint32_t below)
{
	uint32_t n;

	if (!below || getrandom(&n, sizeof(n), GRND_NONBLOCK) != sizeof(n))
		return 0; /* no jitter */
	return n % below;
}

uint32_t cv_backoff_next_ms(struct cv_backoff *b)
{
	uint64_t ms = b->first_ms;

	for (uint32_t i = 0; i < b->tries && ms < b->max_ms; i++)
		ms *= 2;
	if (ms > b->max_ms)
		ms = b->max_ms;
	if (b->tries < UINT32_MAX)
		b->tries++;
	return (uint32_t)(ms - ms / 2 + draw((uint32_t)(ms / 2 + 1)));
}

void cv_backoff_reset(struct cv_backoff *b)
{
	b->tries = 0;
}
