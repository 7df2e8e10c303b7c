/* SPDX-License-Identifier: Apache-2.0 */
/* HBONE's header values from bytes: the first byte says which field it is. Baggage that was read is
 * written and read again as the same, when its values hold no separators. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/proto/hbone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *const names[] = { ":method",	    ":authority",	   "baggage", "forwarded",
				     "traceparent", "x-forwarded-network", "x-other" };

static void check_baggage(const struct cv_baggage *b)
{
	struct cv_baggage again = {};
	char text[4096];
	int n = cv_baggage_format(b, text, sizeof(text));

	if (n < 0)
		return;
	assert((size_t)n == strlen(text) || !n);
	cv_baggage_parse(&again, text, (size_t)n);
	assert(again.cluster == b->cluster && again.ns == b->ns && again.zone == b->zone);
	assert(again.service_name == b->service_name && again.revision == b->revision);
	/* Interned: equal texts are equal pointers. A type without a name is not sent. */
	if (b->workload_name)
		assert(again.workload_name == b->workload_name &&
		       again.workload_type == b->workload_type);
	cv_baggage_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cv_hbone_request r = {};
	const char *name;

	/* Header lines, each: a byte for the name, a byte for the length, the value. */
	while (len >= 2) {
		size_t n = data[1] < len - 2 ? data[1] : len - 2;

		name = names[data[0] % CV_ARRAY_SIZE(names)];
		cv_hbone_request_header(&r, name, strlen(name), (const char *)data + 2, n);
		data += 2 + n;
		len -= 2 + n;
	}
	assert(memchr(r.method, '\0', sizeof(r.method)));
	assert(memchr(r.authority, '\0', sizeof(r.authority)));
	assert(!r.trace_id[0] || strlen(r.trace_id) == 32);
	assert(!r.connect || !strcmp(r.method, "CONNECT"));
	check_baggage(&r.baggage);
	cv_hbone_request_fini(&r);
	assert(!cv_str_count());
	return 0;
}
