/* SPDX-License-Identifier: Apache-2.0 */
/* A token bucket in thousandths of a token, so that a millisecond at any rate is an integer. */
#include "userspace/base/rate.h"

static void fill(struct cv_rate *r, uint64_t milli)
{
	uint64_t full = (uint64_t)r->burst * 1000;

	r->milli = milli < full - r->milli ? r->milli + milli : full;
}

void cv_rate_init(struct cv_rate *r, uint32_t burst, uint32_t rate, uint64_t now_ms)
{
	*r = (struct cv_rate){
		.last_ms = now_ms,
		.milli = (uint64_t)burst * 1000,
		.burst = burst,
		.rate = rate,
	};
}

bool cv_rate_take(struct cv_rate *r, uint64_t now_ms)
{
	uint64_t passed = now_ms > r->last_ms ? now_ms - r->last_ms : 0;

	/* No bucket takes longer than burst seconds to fill, so this can't overflow. */
	if (passed > (uint64_t)r->burst * 1000)
		passed = (uint64_t)r->burst * 1000;
	fill(r, passed * r->rate);
	r->last_ms = now_ms;
	if (r->milli < 1000)
		return false;
	r->milli -= 1000;
	return true;
}

void cv_rate_give(struct cv_rate *r, uint32_t tokens)
{
	fill(r, (uint64_t)tokens * 1000);
}
