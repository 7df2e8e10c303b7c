/* SPDX-License-Identifier: Apache-2.0 */
/* The PROXY protocol's header, byte for byte, and its bounds. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/proto/proxy_header.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static void check(const char *src, const char *dst, const char *identity, const void *want,
		  size_t len)
{
	uint8_t buf[CV_PROXY_HEADER_MAX];
	struct cv_sockaddr s, d;

	assert_int_equal(cv_sockaddr_parse(src, &s), 0);
	assert_int_equal(cv_sockaddr_parse(dst, &d), 0);
	assert_int_equal(cv_proxy_header_format(&s, &d, identity, buf, sizeof(buf)), len);
	assert_memory_equal(buf, want, len);
	/* Every size that is too small is refused, the right one is enough. */
	for (size_t i = 0; i < len; i++)
		assert_int_equal(cv_proxy_header_format(&s, &d, identity, buf, i), -ENOBUFS);
	assert_int_equal(cv_proxy_header_format(&s, &d, identity, buf, len), len);
}

static void test_ipv4(void **state)
{
	static const char want[] = SIGNATURE "\x21\x11\0\x0c"
					     "\x0a\0\0\x01"
					     "\x0a\x09\0\x02"
					     "\x04\xd2\0\x50";

	(void)state;
	check("10.0.0.1:1234", "10.9.0.2:80", NULL, want, sizeof(want) - 1);
}

static void test_identity(void **state)
{
	static const char want[] = SIGNATURE "\x21\x11\0\x25"
					     "\x0a\0\0\x01"
					     "\x0a\x09\0\x02"
					     "\x04\xd2\0\x50"
					     "\xd0\0\x16spiffe://td/ns/a/sa/bb";

	(void)state;
	check("10.0.0.1:1234", "10.9.0.2:80", "spiffe://td/ns/a/sa/bb", want, sizeof(want) - 1);
}

static void test_ipv6(void **state)
{
	static const char want[] = SIGNATURE "\x21\x21\0\x24"
					     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
					     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"
					     "\x04\xd2\0\x50";
	static const char mixed[] = SIGNATURE "\x21\x21\0\x24"
					      "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01"
					      "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"
					      "\x04\xd2\0\x50";

	(void)state;
	check("[2001:db8::1]:1234", "[2001:db8::2]:80", NULL, want, sizeof(want) - 1);
	check("10.0.0.1:1234", "[2001:db8::2]:80", NULL, mixed, sizeof(mixed) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ipv4),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_ipv6),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
