/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC's statuses: their names, and what HTTP's and HTTP/2's codes mean as one. */
#include <stdlib.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/grpc_session.h"

static const char *const names[] = {
	"Ok",
	"Cancelled",
	"Unknown",
	"InvalidArgument",
	"DeadlineExceeded",
	"NotFound",
	"AlreadyExists",
	"PermissionDenied",
	"ResourceExhausted",
	"FailedPrecondition",
	"Aborted",
	"OutOfRange",
	"Unimplemented",
	"Internal",
	"Unavailable",
	"DataLoss",
	"Unauthenticated",
};

const char *cv_grpc_status_name(int status)
{
	return status >= 0 && status < (int)CV_ARRAY_SIZE(names) ? names[status] : "unknown code";
}

int cv_grpc_status_parse(const uint8_t *text, size_t len)
{
	int status = 0;

	if (!len || len > 3)
		return CV_GRPC_UNKNOWN;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return CV_GRPC_UNKNOWN;
		status = status * 10 + text[i] - '0';
	}
	return status;
}

int cv_grpc_status_of_http(int status)
{
	switch (status) {
	case 400:
		return CV_GRPC_INTERNAL;
	case 401:
		return CV_GRPC_UNAUTHENTICATED;
	case 403:
		return CV_GRPC_PERMISSION_DENIED;
	case 404:
		return CV_GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return CV_GRPC_UNAVAILABLE;
	default:
		return CV_GRPC_UNKNOWN;
	}
}

int cv_grpc_status_of_h2(uint32_t code)
{
	switch (code) {
	case NGHTTP2_REFUSED_STREAM:
		return CV_GRPC_UNAVAILABLE;
	case NGHTTP2_CANCEL:
		return CV_GRPC_CANCELLED;
	case NGHTTP2_ENHANCE_YOUR_CALM:
		return CV_GRPC_RESOURCE_EXHAUSTED;
	case NGHTTP2_INADEQUATE_SECURITY:
		return CV_GRPC_PERMISSION_DENIED;
	default:
		return CV_GRPC_INTERNAL;
	}
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *cv_grpc_text(const uint8_t *text, size_t len)
{
	size_t n = 0, i = 0;
	char *out;

	if (len > CV_LIMIT_GRPC_TEXT)
		len = CV_LIMIT_GRPC_TEXT;
	out = malloc(len + 1);
	if (!out)
		return NULL;
	while (i < len) {
		int high = text[i] == '%' && i + 2 < len ? hex_digit(text[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
		uint8_t c = low >= 0 ? (uint8_t)(high << 4 | low) : text[i];

		i += low >= 0 ? 3 : 1;
		out[n++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
	}
	out[n] = '\0';
	return out;
}
