/* SPDX-License-Identifier: Apache-2.0 */
/* DNS messages from bytes: the first half is a pod's query, the second an upstream's answer to it.
 * What we answer can be read again, fits, and asks what was asked. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/proto/dns.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { ANSWER_HEADER_FLAGS = 2 };

static void check_own_answer(struct cv_span query, const struct cv_dns_query *q, const char *name,
			     size_t size)
{
	static const struct cv_addr addrs[64];
	const struct cv_dns_answer a = { .cname = "a.b", .addrs = addrs, .nr_addrs = 64 };
	uint8_t *buf = malloc(size);
	struct cv_span answer = { buf, 0 };
	struct cv_dns_query again;
	char name_again[CV_DNS_NAME_TEXT];

	assert(buf);
	answer.len = cv_dns_answer_write(query, q, &a, buf, size);
	assert(answer.len >= CV_DNS_HEADER && answer.len <= size);
	assert(cv_dns_is_answer(query, q, q->id, answer) || !q->question_end);
	/* An answer is read as a query once it says that it is one. */
	buf[ANSWER_HEADER_FLAGS] &= 0x7f;
	assert(!q->question_end ||
	       cv_dns_query_parse(answer, &again, name_again) == CV_DNS_NOERROR);
	assert(!q->question_end || strcmp(name, name_again) == 0);
	free(buf);
}

static void check_relay(struct cv_span query, const struct cv_dns_query *q, struct cv_span answer)
{
	uint8_t *copy = malloc(answer.len ? answer.len : 1);
	uint16_t id = answer.len > 1 ? (uint16_t)(answer.data[0] << 8 | answer.data[1]) : 0;
	size_t len;

	assert(copy);
	memcpy(copy, answer.data, answer.len);
	if (cv_dns_is_answer(query, q, id, answer)) {
		cv_dns_nr_answers(answer);
		len = cv_dns_relay(copy, answer.len, q, CV_DNS_UDP_SIZE);
		assert(len <= answer.len && len <= CV_DNS_UDP_SIZE);
		assert(cv_dns_is_answer(query, q, q->id, (struct cv_span){ copy, len }));
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cv_span query = { data, len / 2 };
	struct cv_span answer = { data + query.len, len - query.len };
	struct cv_dns_query q;
	char name[CV_DNS_NAME_TEXT];
	uint8_t *copy;
	int r = cv_dns_query_parse(query, &q, name);

	if (r < 0)
		return 0;
	check_own_answer(query, &q, name, cv_dns_udp_size(&q));
	if (r != CV_DNS_NOERROR)
		return 0;
	copy = malloc(query.len);
	assert(copy);
	memcpy(copy, query.data, query.len);
	cv_dns_forward(copy, &q, 0xffff, 4096);
	assert(cv_dns_query_parse((struct cv_span){ copy, query.len }, &q, name) == CV_DNS_NOERROR);
	check_relay((struct cv_span){ copy, query.len }, &q, answer);
	free(copy);
	return 0;
}
