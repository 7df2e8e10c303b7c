/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a peer may do how often. Every cheap frame that makes us work is paid for from a bucket;
 * a peer that runs one dry is closed with ENHANCE_YOUR_CALM:
 *
 *   resets    RST_STREAM received (rapid reset), and streams that the peer's errors made us reset
 *   control   PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, interim responses; DATA that we send pays back, as it is what WINDOW_UPDATE answers to
 *   refusals  requests that we answered with an error; these end in a graceful GOAWAY, because
 *             the peer's other streams have done nothing wrong
 */
#include <errno.h>

#include "userspace/limits.h"
#include "userspace/proto/h2_session.h"

static size_t max_header_bytes(const struct cv_h2 *h2)
{
	return h2->server ? CV_LIMIT_HEADER_BYTES : CV_LIMIT_HEADER_BYTES_CLIENT;
}

static int calm_down(struct cv_h2 *h2, const char *text)
{
	return cv_h2_fail(h2, -EPROTO, NGHTTP2_ENHANCE_YOUR_CALM, text);
}

void cv_h2_limits_init(struct cv_h2 *h2)
{
	cv_rate_init(&h2->resets, CV_LIMIT_RESETS_BURST, CV_LIMIT_RESETS_RATE, h2->now_ms);
	cv_rate_init(&h2->refusals, CV_LIMIT_REFUSALS_BURST, CV_LIMIT_RESETS_RATE, h2->now_ms);
	cv_rate_init(&h2->control, CV_LIMIT_CONTROL_BURST, CV_LIMIT_CONTROL_RATE, h2->now_ms);
}

int cv_h2_limit_control(struct cv_h2 *h2)
{
	if (cv_rate_take(&h2->control, h2->now_ms))
		return 0;
	return calm_down(h2, "too many control frames");
}

int cv_h2_limit_reset(struct cv_h2 *h2)
{
	if (cv_rate_take(&h2->resets, h2->now_ms))
		return 0;
	return calm_down(h2, "too many streams reset");
}

/* Bounds what a block may take on the wire before it is even decompressed: a block that fits the
 * announced list size is never longer than that. */
static int limit_block(struct cv_h2 *h2, size_t frame_bytes)
{
	h2->block.wire_bytes += frame_bytes;
	if (h2->block.wire_bytes > max_header_bytes(h2))
		return calm_down(h2, "header block too large");
	if (h2->block.continuations > CV_LIMIT_CONTINUATIONS)
		return calm_down(h2, "too many CONTINUATION frames");
	return 0;
}

int cv_h2_limit_frame(struct cv_h2 *h2, const nghttp2_frame_hd *hd)
{
	switch (hd->type) {
	case NGHTTP2_DATA:
	case NGHTTP2_RST_STREAM:
	case NGHTTP2_GOAWAY:
		return 0; /* looked at once they are complete */
	case NGHTTP2_HEADERS:
		h2->block.wire_bytes = 0;
		h2->block.continuations = 0;
		return limit_block(h2, hd->length);
	case NGHTTP2_CONTINUATION:
		h2->block.continuations++;
		return limit_block(h2, hd->length);
	default:
		return cv_h2_limit_control(h2);
	}
}

bool cv_h2_limit_field(struct cv_h2 *h2, size_t name_len, size_t value_len)
{
	enum { FIELD_OVERHEAD = 32 }; /* RFC 9113, 6.5.2 */

	h2->block.fields++;
	h2->block.list_bytes += name_len + value_len + FIELD_OVERHEAD;
	return h2->block.fields <= CV_LIMIT_HEADERS && h2->block.list_bytes <= max_header_bytes(h2);
}

void cv_h2_limit_refusal(struct cv_h2 *h2)
{
	if (!cv_rate_take(&h2->refusals, h2->now_ms))
		cv_h2_shutdown(h2);
}
