/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The splitter: protobuf's outermost level by hand, one byte of numbers and any number of bytes of
 * fields at a time.
 *
 *   TAG ─▶ LENGTH ─▶ FIELD (told) or SKIP ─▶ TAG …      numbers: TAG ─▶ VARINT or SKIP ─▶ TAG
 */
#include "userspace/proto/xds_response.h"

#include <errno.h>

#include "userspace/limits.h"

/* Fields of a DeltaDiscoveryResponse; others are skipped. */
enum { RESOURCES = 2, TYPE_URL = 4, NONCE = 5, REMOVED = 6 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

void cv_xds_response_init(struct cv_xds_response *r, const struct cv_xds_response_ops *ops,
			  void *arg)
{
	*r = (struct cv_xds_response){ .ops = ops, .arg = arg };
	cv_buf_init(&r->held, CV_LIMIT_XDS_RESOURCE);
}

void cv_xds_response_fini(struct cv_xds_response *r)
{
	cv_buf_fini(&r->held);
}

void cv_xds_response_reset(struct cv_xds_response *r)
{
	cv_buf_fini(&r->held);
	r->state = CV_XDS_TAG;
	r->number = 0;
	r->shift = 0;
}

static void expect(struct cv_xds_response *r, int state)
{
	r->state = state;
	r->number = 0;
	r->shift = 0;
}

static void tell(struct cv_xds_response *r, const uint8_t *data, size_t len)
{
	const char *text = (const char *)data;

	switch (r->field) {
	case RESOURCES:
		r->ops->on_resource(r->arg, data, len);
		break;
	case TYPE_URL:
		r->ops->on_type_url(r->arg, text, len);
		break;
	case NONCE:
		r->ops->on_nonce(r->arg, text, len);
		break;
	case REMOVED:
		r->ops->on_removed(r->arg, text, len);
		break;
	}
}

static int on_tag(struct cv_xds_response *r, uint64_t tag)
{
	r->field = tag >> 3 > UINT32_MAX ? 0 : (unsigned)(tag >> 3);
	if (!r->field)
		return -EBADMSG;
	switch (tag & 7) {
	case WIRE_VARINT:
		expect(r, CV_XDS_VARINT);
		return 0;
	case WIRE_BYTES:
		expect(r, CV_XDS_LENGTH);
		return 0;
	case WIRE_64:
	case WIRE_32:
		expect(r, CV_XDS_SKIP);
		r->left = (tag & 7) == WIRE_64 ? 8 : 4;
		return 0;
	default:
		return -EBADMSG;
	}
}

static int on_length(struct cv_xds_response *r, uint64_t len)
{
	bool known = r->field == RESOURCES || r->field == TYPE_URL || r->field == NONCE ||
		     r->field == REMOVED;
	size_t limit = r->field == RESOURCES ? CV_LIMIT_XDS_RESOURCE : CV_LIMIT_XDS_NAME;

	if (len > CV_LIMIT_XDS_RESPONSE)
		return -EBADMSG;
	if (known && len > limit) {
		if (r->field != RESOURCES)
			return -EBADMSG;
		r->ops->on_too_long(r->arg, (size_t)len);
		known = false;
	}
	expect(r, known ? CV_XDS_FIELD : CV_XDS_SKIP);
	r->left = len;
	if (!len) {
		if (known)
			tell(r, (const uint8_t *)"", 0);
		expect(r, CV_XDS_TAG);
	}
	return 0;
}

/* One byte of a tag, a length or a number. */
static int take_number(struct cv_xds_response *r, uint8_t byte)
{
	if (r->shift > 63 || (r->shift == 63 && byte > 1))
		return -EBADMSG;
	r->number |= (uint64_t)(byte & 0x7f) << r->shift;
	r->shift += 7;
	if (byte & 0x80)
		return 0;
	if (r->state == CV_XDS_TAG)
		return on_tag(r, r->number);
	if (r->state == CV_XDS_LENGTH)
		return on_length(r, r->number);
	expect(r, CV_XDS_TAG);
	return 0;
}

/* At most len bytes of a field; returns how many, or -ENOMEM. */
static ssize_t take_field(struct cv_xds_response *r, const uint8_t *data, size_t len)
{
	size_t n = r->left < len ? (size_t)r->left : len;
	struct cv_span whole = { data, n };
	bool field = r->state == CV_XDS_FIELD;

	r->left -= n;
	if (field && (r->left || cv_buf_len(&r->held))) {
		if (cv_buf_append(&r->held, data, n) < 0)
			return -ENOMEM;
		whole = cv_buf_peek(&r->held);
	}
	if (r->left)
		return (ssize_t)n;
	if (field)
		tell(r, whole.data, whole.len);
	cv_buf_consume(&r->held, cv_buf_len(&r->held));
	expect(r, CV_XDS_TAG);
	return (ssize_t)n;
}

int cv_xds_response_feed(struct cv_xds_response *r, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = 1;

		if (r->state == CV_XDS_FIELD || r->state == CV_XDS_SKIP)
			n = take_field(r, data, len);
		else if (take_number(r, *data) < 0)
			n = -EBADMSG;
		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int cv_xds_response_end(const struct cv_xds_response *r)
{
	return r->state == CV_XDS_TAG && !r->shift ? 0 : -EBADMSG;
}
