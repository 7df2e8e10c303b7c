/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS messages: what is read from a query, what an answer looks like byte for byte, what is cut when
 * it does not fit, and which of an upstream's datagrams are answers.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/proto/dns.h"

#define BYTES(text) ((struct cv_span){ (const uint8_t *)(text), sizeof(text) - 1 })

static char name[CV_DNS_NAME_TEXT]; /* of the query that was parsed last */

/* id 0x1234, RD; WwW.example.com A IN */
#define HEADER(flags, qd, ar) "\x12\x34" flags qd "\0\0\0\0" ar
#define NAME		      "\3WwW\7example\3com\0"
#define QUERY		      HEADER("\1\0", "\0\1", "\0\0") NAME "\0\1\0\1"
/* OPT: 1232 bytes, version 0, DO */
#define OPT	   "\0\0\x29\4\xd0\0\0\x80\0\0\0"
#define QUERY_EDNS HEADER("\1\0", "\0\1", "\0\1") NAME "\0\1\0\1" OPT

static void test_query(void **state)
{
	struct cv_dns_query q;

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	assert_int_equal(q.id, 0x1234);
	assert_string_equal(name, "www.example.com");
	assert_int_equal(q.type, CV_DNS_A);
	assert_int_equal(q.class, 1);
	assert_int_equal(cv_dns_udp_size(&q), 512);
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY_EDNS), &q, name), CV_DNS_NOERROR);
	assert_int_equal(cv_dns_udp_size(&q), 1232);
	assert_true(q.dnssec_ok);
	assert_int_equal(q.edns_version, 0);
}

static void test_root_and_odd_names(void **state)
{
	struct cv_dns_query q;

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(HEADER("\1\0", "\0\1", "\0\0") "\0\0\2\0\1"), &q,
					    name),
			 CV_DNS_NOERROR);
	assert_string_equal(name, "");
	assert_int_equal(
		cv_dns_query_parse(BYTES(HEADER("\1\0", "\0\1", "\0\0") "\3a.b\1\xff\0\0\1\0\1"),
				   &q, name),
		CV_DNS_NOERROR);
	assert_string_equal(name, "a\\.b.\\255");
}

static void test_refused_queries(void **state)
{
	static const struct {
		struct cv_span message;
		int want;
	} rows[] = {
		{ BYTES("\x12\x34\1\0\0\1\0\0\0\0\0"), -EBADMSG },
		{ BYTES(""), -EBADMSG },
		{ BYTES(HEADER("\x81\0", "\0\1", "\0\0") NAME "\0\1\0\1"), CV_DNS_FORMERR },
		{ BYTES(HEADER("\x21\0", "\0\1", "\0\0") NAME "\0\1\0\1"), CV_DNS_NOTIMP },
		{ BYTES(HEADER("\1\0", "\0\0", "\0\0")), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\2", "\0\0") NAME "\0\1\0\1" NAME "\0\1\0\1"),
		  CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\0\0") NAME "\0\1\0"), CV_DNS_FORMERR },
		/* a pointer, to itself and to the header */
		{ BYTES(HEADER("\1\0", "\0\1", "\0\0") "\xc0\x0c\0\1\0\1"), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\0\0") "\xc0\x02\0\1\0\1"), CV_DNS_FORMERR },
		/* a label beyond the end, of an unknown kind */
		{ BYTES(HEADER("\1\0", "\0\1", "\0\0") "\x3fwww"), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\0\0") "\x41\0\0\0\1\0\1"), CV_DNS_FORMERR },
		/* announced records that are not there, and two OPTs */
		{ BYTES(HEADER("\1\0", "\0\1", "\0\1") NAME "\0\1\0\1"), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\xff\xff") NAME "\0\1\0\1" OPT), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\0\2") NAME "\0\1\0\1" OPT OPT), CV_DNS_FORMERR },
		{ BYTES(HEADER("\1\0", "\0\1", "\0\1") NAME "\0\1\0\1\0\0\x29\4\xd0\0\0\0\0\0\1"),
		  CV_DNS_FORMERR },
	};
	struct cv_dns_query q;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		if (cv_dns_query_parse(rows[i].message, &q, name) != rows[i].want)
			fail_msg("row %zu", i);
}

/* A name of more than 255 bytes is none. */
static void test_longest_name(void **state)
{
	uint8_t m[400] = { 0x12, 0x34, 1, 0, 0, 1 };
	struct cv_dns_query q;

	(void)state;
	for (unsigned n = 100; n < 140; n++) {
		size_t len = CV_DNS_HEADER;

		for (unsigned i = 0; i < n; i++) {
			m[len++] = 1;
			m[len++] = 'a';
		}
		memset(m + len, 0, 5);
		m[len + 2] = m[len + 4] = 1;
		assert_int_equal(cv_dns_query_parse((struct cv_span){ m, len + 5 }, &q, name),
				 2 * n + 1 <= 255 ? CV_DNS_NOERROR : CV_DNS_FORMERR);
	}
}

static struct cv_addr addr(const char *text)
{
	struct cv_addr a;

	assert_int_equal(cv_addr_parse(text, &a), 0);
	return a;
}

static void test_answer(void **state)
{
	static const char want[] = "\x12\x34\x85\x80\0\1\0\3\0\0\0\1" NAME "\0\1\0\1"
				   "\xc0\x0c\0\5\0\1\0\0\0\x1e\0\5\3web\0"
				   "\xc0\x2d\0\1\0\1\0\0\0\x1e\0\4\1\2\3\4"
				   "\xc0\x2d\0\1\0\1\0\0\0\x1e\0\4\5\6\7\x8" OPT;
	const struct cv_addr addrs[] = { addr("1.2.3.4"), addr("5.6.7.8") };
	const struct cv_dns_answer a = {
		.authoritative = true, .cname = "web", .addrs = addrs, .nr_addrs = 2
	};
	struct cv_dns_query q;
	uint8_t buf[512];

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY_EDNS), &q, name), CV_DNS_NOERROR);
	assert_int_equal(cv_dns_answer_write(BYTES(QUERY_EDNS), &q, &a, buf, sizeof(buf)),
			 sizeof(want) - 1);
	assert_memory_equal(buf, want, sizeof(want) - 1);
}

static void test_answer_of_ipv6(void **state)
{
	static const char want[] = "\x12\x34\x81\x80\0\1\0\1\0\0\0\0" NAME "\0\1\0\1"
				   "\xc0\x0c\0\x1c\0\1\0\0\0\x1e\0\x10"
				   "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1";
	const struct cv_addr ip = addr("2001:db8::1");
	const struct cv_dns_answer a = { .addrs = &ip, .nr_addrs = 1 };
	struct cv_dns_query q;
	uint8_t buf[512];

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	assert_int_equal(cv_dns_answer_write(BYTES(QUERY), &q, &a, buf, sizeof(buf)),
			 sizeof(want) - 1);
	assert_memory_equal(buf, want, sizeof(want) - 1);
}

/* An error answer has the question as far as there is one. */
static void test_error_answer(void **state)
{
	static const char bare[] = HEADER("\xa1\x84", "\0\0", "\0\0");
	static const char whole[] = HEADER("\x81\x82", "\0\1", "\0\0") NAME "\0\1\0\1";
	struct cv_span update = BYTES(HEADER("\x21\0", "\0\1", "\0\0") NAME "\0\1\0\1");
	struct cv_dns_answer a = { .rcode = CV_DNS_NOTIMP };
	struct cv_dns_query q;
	uint8_t buf[512];

	(void)state;
	assert_int_equal(cv_dns_query_parse(update, &q, name), CV_DNS_NOTIMP);
	assert_int_equal(cv_dns_answer_write(update, &q, &a, buf, sizeof(buf)), sizeof(bare) - 1);
	assert_memory_equal(buf, bare, sizeof(bare) - 1);

	a.rcode = CV_DNS_SERVFAIL;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	assert_int_equal(cv_dns_answer_write(BYTES(QUERY), &q, &a, buf, sizeof(buf)),
			 sizeof(whole) - 1);
	assert_memory_equal(buf, whole, sizeof(whole) - 1);
}

static void test_truncation(void **state)
{
	struct cv_addr addrs[4096];
	struct cv_dns_answer a = { .addrs = addrs, .nr_addrs = 100 };
	static uint8_t buf[CV_DNS_TCP_SIZE];
	struct cv_dns_query q;
	struct cv_span answer = { buf, 0 };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(addrs); i++)
		addrs[i] = cv_addr_v4((uint32_t)i);
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	answer.len = cv_dns_answer_write(BYTES(QUERY), &q, &a, buf, cv_dns_udp_size(&q));
	assert_in_range(answer.len, 512 - 15, 512);
	assert_true(cv_dns_is_truncated(answer));
	assert_int_equal(cv_dns_nr_answers(answer), (answer.len - sizeof(QUERY) + 1) / 16);

	assert_int_equal(cv_dns_query_parse(BYTES(QUERY_EDNS), &q, name), CV_DNS_NOERROR);
	answer.len = cv_dns_answer_write(BYTES(QUERY_EDNS), &q, &a, buf, cv_dns_udp_size(&q));
	assert_in_range(answer.len, 1232 - 15, 1232);
	assert_true(cv_dns_is_truncated(answer));
	assert_memory_equal(buf + answer.len - 11, OPT, 11);

	answer.len = cv_dns_answer_write(BYTES(QUERY_EDNS), &q, &a, buf, sizeof(buf));
	assert_false(cv_dns_is_truncated(answer));
	assert_int_equal(cv_dns_nr_answers(answer), 100);

	a.nr_addrs = CV_ARRAY_SIZE(addrs);
	answer.len = cv_dns_answer_write(BYTES(QUERY), &q, &a, buf, sizeof(buf));
	assert_true(cv_dns_is_truncated(answer));
}

static void test_forward(void **state)
{
	uint8_t m[] = QUERY_EDNS;
	struct cv_dns_query q;

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY_EDNS), &q, name), CV_DNS_NOERROR);
	cv_dns_forward(m, &q, 0xbeef, 4096);
	assert_memory_equal(m, "\xbe\xef", 2);
	assert_memory_equal(m + 2, &QUERY_EDNS[2], sizeof(m) - 2);
	cv_dns_forward(m, &q, 0xbeef, 1024);
	assert_memory_equal(m + q.edns_at, "\4\0", 2);
}

#define ANSWER(id, flags, name)                     \
	id flags "\0\1\0\1\0\0\0\0" name "\0\1\0\1" \
		 "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4"

static void test_is_answer(void **state)
{
	static const struct {
		struct cv_span answer;
		bool want;
	} rows[] = {
		{ BYTES(ANSWER("\xbe\xef", "\x81\x80", NAME)), true },
		{ BYTES(ANSWER("\xbe\xef", "\x81\x80", "\3www\7example\3com\0")), true },
		{ BYTES(ANSWER("\xbe\xee", "\x81\x80", NAME)), false },
		{ BYTES(ANSWER("\xbe\xef", "\x01\x80", NAME)), false },
		{ BYTES(ANSWER("\xbe\xef", "\xa1\x80", NAME)), false },
		{ BYTES(ANSWER("\xbe\xef", "\x81\x80", "\3wwx\7example\3com\0")), false },
		{ BYTES("\xbe\xef\x81\x80\0\1\0\0\0\0\0\0" NAME "\0\x1c\0\1"), false },
		{ BYTES("\xbe\xef\x81\x83\0\1\0\0\0\0\0\0" NAME "\0\1\0\1"), true },
		{ BYTES("\xbe\xef\x81\x83\0\1\0\0\0\0\0\0" NAME "\0\1\0"), false },
		{ BYTES("\xbe\xef\x81\x81\0\0\0\0\0\0\0\0"), true },
		{ BYTES("\xbe\xef\x81\x80\0\0\0\0\0\0\0\0"), false },
		{ BYTES("\xbe\xef\x81\x81\0\0\0\0\0\0\0"), false },
	};
	struct cv_dns_query q;

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		if (cv_dns_is_answer(BYTES(QUERY), &q, 0xbeef, rows[i].answer) != rows[i].want)
			fail_msg("row %zu", i);
}

static void test_relay(void **state)
{
	static const char want[] = ANSWER("\x12\x34", "\x81\x80", NAME);
	uint8_t m[] = ANSWER("\xbe\xef", "\x85\x00", NAME);
	struct cv_dns_query q;
	struct cv_span cut;

	(void)state;
	assert_int_equal(cv_dns_query_parse(BYTES(QUERY), &q, name), CV_DNS_NOERROR);
	assert_int_equal(cv_dns_relay(m, sizeof(m) - 1, &q, 512), sizeof(m) - 1);
	assert_memory_equal(m, want, sizeof(m) - 1);
	cut = (struct cv_span){ m, cv_dns_relay(m, sizeof(m) - 1, &q, sizeof(m) - 2) };
	assert_int_equal(cut.len, sizeof(QUERY) - 1);
	assert_true(cv_dns_is_truncated(cut));
	assert_int_equal(cv_dns_nr_answers(cut), 0);
}

static void test_type_texts(void **state)
{
	(void)state;
	assert_string_equal(cv_dns_type_text(CV_DNS_A), "a");
	assert_string_equal(cv_dns_type_text(65), "https");
	assert_string_equal(cv_dns_type_text(65000), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_query),		cmocka_unit_test(test_root_and_odd_names),
		cmocka_unit_test(test_refused_queries), cmocka_unit_test(test_longest_name),
		cmocka_unit_test(test_answer),		cmocka_unit_test(test_answer_of_ipv6),
		cmocka_unit_test(test_error_answer),	cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_forward),		cmocka_unit_test(test_is_answer),
		cmocka_unit_test(test_relay),		cmocka_unit_test(test_type_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
