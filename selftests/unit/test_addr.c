/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: texts that are refused and accepted, prefixes of both families, and the way through
 * struct sockaddr and back. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"

static struct cv_addr parse(const char *text)
{
	struct cv_addr a;

	assert_int_equal(cv_addr_parse(text, &a), 0);
	return a;
}

/* What is printed is the canonical text, whatever was read. */
static void test_addr_text(void **state)
{
	static const struct {
		const char *in, *out;
		bool v4;
	} rows[] = {
		{ "10.0.0.1", "10.0.0.1", true },
		{ "::ffff:10.0.0.1", "10.0.0.1", true },
		{ "::1", "::1", false },
		{ "2001:DB8:0::7", "2001:db8::7", false },
		{ "::", "::", false },
		{ "0.0.0.0", "0.0.0.0", true },
	};
	char buf[CV_ADDR_TEXT];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_addr a = parse(rows[i].in);

		assert_string_equal(cv_addr_text(&a, buf), rows[i].out);
		assert_int_equal(cv_addr_is_v4(&a), rows[i].v4);
	}
}

static void test_addr_refused(void **state)
{
	static const char *const rows[] = { "",		 "1.2.3", "1.2.3.4.5",	  "01.2.3.4",
					    "1.2.3.256", "[::1]", "fe80::1%eth0", "::g",
					    "1.2.3.4 " };
	struct cv_addr a;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		assert_int_equal(cv_addr_parse(rows[i], &a), -EINVAL);
}

static void test_addr_kinds(void **state)
{
	struct cv_addr loopback4 = parse("127.8.9.1"), loopback6 = parse("::1");
	struct cv_addr any4 = parse("0.0.0.0"), any6 = parse("::"), other = parse("128.0.0.1");
	struct cv_addr made = cv_addr_v4(0x0a000001);

	(void)state;
	assert_true(cv_addr_is_loopback(&loopback4));
	assert_true(cv_addr_is_loopback(&loopback6));
	assert_false(cv_addr_is_loopback(&other));
	assert_true(cv_addr_is_unspecified(&any4));
	assert_true(cv_addr_is_unspecified(&any6));
	assert_false(cv_addr_is_unspecified(&other));
	/* 0.0.0.0 is an address, "none" is not. */
	assert_false(cv_addr_is_zero(&any4));
	assert_true(cv_addr_is_zero(&any6));
	assert_int_equal(cv_addr_cmp(&made, &other) < 0, 1);
	assert_true(cv_addr_eq(&made, &(struct cv_addr){ .b = { [10] = 255, 255, 10, 0, 0, 1 } }));
	made = cv_addr_from_bytes((const uint8_t *)"abc", 3);
	assert_true(cv_addr_is_zero(&made));
}

static void test_sockaddr_text(void **state)
{
	static const struct {
		const char *in, *out; /* out NULL = refused */
	} rows[] = {
		{ "10.0.0.1:80", "10.0.0.1:80" },
		{ "[2001:db8::1]:15008", "[2001:db8::1]:15008" },
		{ "[::ffff:1.2.3.4]:65535", "1.2.3.4:65535" },
		{ "10.0.0.1:0", "10.0.0.1:0" },
		{ "10.0.0.1", NULL },
		{ "10.0.0.1:", NULL },
		{ "10.0.0.1:65536", NULL },
		{ "10.0.0.1:80x", NULL },
		{ "10.0.0.1:-1", NULL },
		{ "10.0.0.1: 80", NULL },
		{ "10.0.0.1:99999999999999999999", NULL },
		{ "::1:80", NULL },
		{ "[10.0.0.1]:80", NULL },
		{ "[::1]80", NULL },
		{ "[::1:80", NULL },
		{ "host:80", NULL },
		{ "", NULL },
	};
	char buf[CV_SOCKADDR_TEXT];
	struct cv_sockaddr a;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		int r = cv_sockaddr_parse(rows[i].in, &a);

		assert_int_equal(r, rows[i].out ? 0 : -EINVAL);
		if (rows[i].out)
			assert_string_equal(cv_sockaddr_text(&a, buf), rows[i].out);
	}
}

/* The longest texts fit their buffers. */
static void test_text_sizes(void **state)
{
	struct cv_sockaddr a = { .ip = parse("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
				 .port = 65535 };
	char buf[CV_SOCKADDR_TEXT];

	(void)state;
	assert_string_equal(cv_sockaddr_text(&a, buf),
			    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
}

static void test_cidr(void **state)
{
	static const struct {
		const char *cidr, *addr;
		bool contains;
	} rows[] = {
		{ "10.1.0.0/16", "10.1.255.3", true },
		{ "10.1.0.0/16", "10.2.0.0", false },
		{ "10.1.2.3/32", "10.1.2.3", true },
		{ "10.1.2.3", "10.1.2.4", false },
		{ "10.1.2.3/31", "10.1.2.2", true },
		{ "10.0.0.0/9", "10.127.0.1", true },
		{ "10.0.0.0/9", "10.128.0.1", false },
		{ "0.0.0.0/0", "255.1.2.3", true },
		{ "0.0.0.0/0", "::1", false },
		{ "::/0", "2001:db8::1", true },
		{ "::/0", "10.0.0.1", false },
		{ "2001:db8::/33", "2001:db8:7fff::1", true },
		{ "2001:db8::/33", "2001:db8:8000::1", false },
		{ "2001:db8::1", "2001:db8::1", true },
		{ "::ffff:10.0.0.0/104", "10.255.0.1", true },
		{ "::ffff:10.0.0.0/104", "11.0.0.1", false },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_addr a = parse(rows[i].addr);
		struct cv_cidr c;

		assert_int_equal(cv_cidr_parse(rows[i].cidr, &c), 0);
		assert_int_equal(cv_cidr_contains(&c, &a), rows[i].contains);
	}
}

static void test_cidr_text(void **state)
{
	static const char *const refused[] = { "10.0.0.0/33",	    "::/129",
					       "10.0.0.0/",	    "/8",
					       "::ffff:1.2.3.4/95", "10.0.0.0/8/8" };
	char buf[CV_SOCKADDR_TEXT];
	struct cv_cidr c;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(refused); i++)
		assert_int_equal(cv_cidr_parse(refused[i], &c), -EINVAL);
	assert_int_equal(cv_cidr_parse("10.0.0.0/8", &c), 0);
	assert_string_equal(cv_cidr_text(&c, buf), "10.0.0.0/8");
	assert_int_equal(cv_cidr_parse("2001:db8::", &c), 0);
	assert_string_equal(cv_cidr_text(&c, buf), "2001:db8::/128");
}

/* Both families survive the kernel's forms, and the v4-mapped form of IPv4 comes back as IPv4. */
static void test_native(void **state)
{
	static const char *const rows[] = { "10.0.0.1:80", "[2001:db8::1]:443" };
	struct sockaddr_storage ss;
	struct cv_sockaddr a, back;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		assert_int_equal(cv_sockaddr_parse(rows[i], &a), 0);
		assert_int_equal(cv_sockaddr_to_native(&a, &ss),
				 i ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
		assert_int_equal(ss.ss_family, i ? AF_INET6 : AF_INET);
		assert_int_equal(cv_sockaddr_from_native((struct sockaddr *)&ss, &back), 0);
		assert_true(cv_sockaddr_eq(&a, &back));
		assert_int_equal(cv_sockaddr_to_native6(&a, &ss), sizeof(struct sockaddr_in6));
		assert_int_equal(ss.ss_family, AF_INET6);
		assert_int_equal(((struct sockaddr_in6 *)&ss)->sin6_port, htons(a.port));
		assert_int_equal(cv_sockaddr_from_native((struct sockaddr *)&ss, &back), 0);
		assert_true(cv_sockaddr_eq(&a, &back));
	}
	ss.ss_family = AF_UNIX;
	assert_int_equal(cv_sockaddr_from_native((struct sockaddr *)&ss, &back), -EAFNOSUPPORT);
}

/* Neighbouring addresses spread over the buckets of a table. */
static void test_hash(void **state)
{
	unsigned used[256] = {}, buckets = 0;

	(void)state;
	for (uint32_t i = 0; i < 1024; i++) {
		struct cv_addr a = cv_addr_v4(0x0a000000 + i);

		used[cv_addr_hash(&a) & 255]++;
	}
	for (size_t i = 0; i < CV_ARRAY_SIZE(used); i++) {
		buckets += !!used[i];
		assert_in_range(used[i], 0, 20);
	}
	assert_in_range(buckets, 240, 256);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addr_text),  cmocka_unit_test(test_addr_refused),
		cmocka_unit_test(test_addr_kinds), cmocka_unit_test(test_sockaddr_text),
		cmocka_unit_test(test_text_sizes), cmocka_unit_test(test_cidr),
		cmocka_unit_test(test_cidr_text),  cmocka_unit_test(test_native),
		cmocka_unit_test(test_hash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
