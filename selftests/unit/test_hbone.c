/* SPDX-License-Identifier: Apache-2.0 */
/* HBONE's header fields: written as ztunnel writes them, read as leniently, and nothing that a peer
 * sends is more than it is. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/proto/hbone.h"

static struct cv_baggage full_baggage(void)
{
	return (struct cv_baggage){
		.cluster = cv_str_new("c1"),
		.ns = cv_str_new("shop"),
		.workload_type = cv_str_new("deployment"),
		.workload_name = cv_str_new("cart"),
		.service_name = cv_str_new("cart-svc"),
		.revision = cv_str_new("v2"),
		.region = cv_str_new("r1"),
		.zone = cv_str_new("z1"),
	};
}

static int no_strings_left(void **state)
{
	(void)state;
	return cv_str_count() ? -1 : 0;
}

static void test_baggage_format(void **state)
{
	static const char want[] =
		"k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=cart,"
		"service.name=cart-svc,service.version=v2,cloud.region=r1,"
		"cloud.availability_zone=z1";
	struct cv_baggage b = full_baggage(), none = {};
	char buf[256];

	(void)state;
	assert_int_equal(cv_baggage_format(&b, buf, sizeof(buf)), strlen(want));
	assert_string_equal(buf, want);
	/* It fits exactly or not at all. */
	assert_int_equal(cv_baggage_format(&b, buf, sizeof(want)), strlen(want));
	for (size_t size = 0; size < sizeof(want); size++)
		assert_int_equal(cv_baggage_format(&b, buf, size), -ENOBUFS);
	cv_baggage_fini(&b);
	assert_null(b.zone);
	assert_int_equal(cv_baggage_format(&none, buf, sizeof(buf)), 0);
	none.zone = cv_str_new("z");
	assert_int_equal(cv_baggage_format(&none, buf, sizeof(buf)), 25);
	assert_string_equal(buf, "cloud.availability_zone=z");
	cv_baggage_fini(&none);
}

static void parse(struct cv_baggage *b, const char *text)
{
	/* Memory of its own: reading beyond the value is caught. */
	size_t len = strlen(text);
	char *copy = malloc(len ? len : 1);

	memcpy(copy, text, len);
	cv_baggage_parse(b, copy, len);
	free(copy);
}

static void test_baggage_round_trip(void **state)
{
	struct cv_baggage b = full_baggage(), back = {};
	char buf[256];

	(void)state;
	cv_baggage_format(&b, buf, sizeof(buf));
	parse(&back, buf);
	assert_memory_equal(&b, &back, sizeof(b)); /* interned: equal texts are equal pointers */
	cv_baggage_fini(&b);
	cv_baggage_fini(&back);
}

static void test_baggage_parse(void **state)
{
	static const struct {
		const char *text, *ns, *type, *name;
	} rows[] = {
		{ "k8s.namespace.name=a,k8s.namespace.name=b", "b", NULL, NULL },
		{ "k8s.namespace.name=a=b", "a", NULL, NULL },
		{ "k8s.namespace.name=", NULL, NULL, NULL },
		{ "k8s.namespace.name", NULL, NULL, NULL },
		{ "k8s.namespace.name=a,k8s.namespace.name=", NULL, NULL, NULL },
		{ " k8s.namespace.name=a", NULL, NULL, NULL },
		{ "k8s.namespace.name= a", " a", NULL, NULL },
		{ ",,=,=x,k8s.namespace.name=a,", "a", NULL, NULL },
		{ "k8s.pod.name=p", NULL, "pod", "p" },
		{ "k8s.cronjob.name=c", NULL, "cronjob", "c" },
		{ "k8s.job.name=j,k8s.deployment.name=d", NULL, "deployment", "d" },
		{ "k8s.daemonset.name=d", NULL, NULL, NULL },
		{ "k8s..name=d,k8s.name=e,k8s.pod=f", NULL, NULL, NULL },
		{ "k8s.namespace.name=\xc3\xa9", NULL, NULL, NULL },
		{ "k8s.namespace.name=a\x7f", NULL, NULL, NULL },
		{ "k8s.namespace.name=a\tb", "a\tb", NULL, NULL },
		{ "", NULL, NULL, NULL },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_baggage b = {};

		parse(&b, rows[i].text);
		assert_string_equal(cv_str_text(b.ns), rows[i].ns ? rows[i].ns : "");
		assert_string_equal(cv_str_text(b.workload_type), rows[i].type ? rows[i].type : "");
		assert_string_equal(cv_str_text(b.workload_name), rows[i].name ? rows[i].name : "");
		cv_baggage_fini(&b);
	}
}

/* Bytes that end a C string would make two names one. */
static void test_baggage_nul(void **state)
{
	struct cv_baggage b = {};

	(void)state;
	cv_baggage_parse(&b, "k8s.namespace.name=a\0b", 22);
	assert_null(b.ns);
	assert_null(cv_forwarded_host("host=a\0b", 8));
}

/* Several header lines are one; what the later says counts. */
static void test_baggage_lines(void **state)
{
	struct cv_baggage b = {};

	(void)state;
	parse(&b, "k8s.namespace.name=a,service.name=s");
	parse(&b, "k8s.namespace.name=b");
	parse(&b, "k8s.namespace.name=\xff");
	assert_string_equal(b.ns, "b");
	assert_string_equal(b.service_name, "s");
	cv_baggage_fini(&b);
}

static void test_forwarded(void **state)
{
	static const struct {
		const char *text, *host;
	} rows[] = {
		{ "for=\"10.0.0.1:80\";host=a.b", "a.b" },
		{ "for=\"10.0.0.1:80\"; host=\"a.b\" ", "a.b" },
		{ "host=x;host=y", "x" },
		{ "host=;for=1", "" },
		{ "host=\"\"", "" },
		{ "host=\"", "\"" },
		{ "Host=x", "" },
		{ "for=1", "" },
		{ "", "" },
		{ ";;;", "" },
		{ "host=\xc3\xa9", "" },
	};
	struct cv_sockaddr client;
	char buf[128];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		cv_str host = cv_forwarded_host(rows[i].text, strlen(rows[i].text));

		assert_string_equal(cv_str_text(host), rows[i].host);
		cv_str_put(&host);
	}
	cv_sockaddr_parse("10.7.0.9:51022", &client);
	assert_int_equal(cv_forwarded_format(&client, NULL, buf, sizeof(buf)), 20);
	assert_string_equal(buf, "for=\"10.7.0.9:51022\"");
	cv_sockaddr_parse("[2001:db8::1]:5", &client);
	assert_true(cv_forwarded_format(&client, "cart.shop", buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "for=\"[2001:db8::1]:5\";host=cart.shop");
	assert_int_equal(cv_forwarded_format(&client, "cart.shop", buf, 20), -ENOBUFS);
	assert_int_equal(cv_forwarded_format(&client, "cart.shop", buf, 0), -ENOBUFS);
}

static void test_traceparent(void **state)
{
	static const char *const refused[] = {
		"",
		"00-0123456789abcdef0123456789abcdef-0123456789abcdef-0",
		"00-0123456789abcdef0123456789abcdef-0123456789abcdef-000",
		"00-0123456789abcdef0123456789abcdeg-0123456789abcdef-00",
		"00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-00",
		"00_0123456789abcdef0123456789abcdef-0123456789abcdef-00",
	};
	uint8_t random[24];
	char text[CV_TRACEPARENT_TEXT], id[33];

	(void)state;
	for (size_t i = 0; i < sizeof(random); i++)
		random[i] = (uint8_t)(i * 11);
	cv_traceparent_format(random, text);
	assert_string_equal(text, "00-000b16212c37424d58636e79848f9aa5-b0bbc6d1dce7f2fd-00");
	assert_int_equal(cv_traceparent_trace_id(text, strlen(text), id), 0);
	assert_string_equal(id, "000b16212c37424d58636e79848f9aa5");
	for (size_t i = 0; i < CV_ARRAY_SIZE(refused); i++)
		assert_int_equal(cv_traceparent_trace_id(refused[i], strlen(refused[i]), id),
				 -EINVAL);
}

static void test_authority(void **state)
{
	static const struct {
		const char *text, *addr, *host; /* both NULL = refused */
		uint16_t port;
	} rows[] = {
		{ "10.0.0.1:8080", "10.0.0.1:8080", NULL, 8080 },
		{ "[2001:db8::1]:80", "[2001:db8::1]:80", NULL, 80 },
		{ "[::ffff:10.0.0.1]:80", "10.0.0.1:80", NULL, 80 },
		{ "cart.shop.svc.cluster.local:80", NULL, "cart.shop.svc.cluster.local", 80 },
		{ "a_b-c:65535", NULL, "a_b-c", 65535 },
		{ "10.0.0.256:80", NULL, "10.0.0.256", 80 },
		{ "host", NULL, NULL, 0 },
		{ "host:", NULL, NULL, 0 },
		{ ":80", NULL, NULL, 0 },
		{ "host:65536", NULL, NULL, 0 },
		{ "host:0x50", NULL, NULL, 0 },
		{ "host:-1", NULL, NULL, 0 },
		{ "10.0.0.1:"
		  "000000000000000000000000000000000000000000000000000000000000000080",
		  NULL, NULL, 0 },
		{ "host:99999999999999999999", NULL, NULL, 0 },
		{ "user@host:80", NULL, NULL, 0 },
		{ "a/b:80", NULL, NULL, 0 },
		{ "::1:80", NULL, NULL, 0 },
		{ "[::1]", NULL, NULL, 0 },
		{ "[host]:80", NULL, NULL, 0 },
		{ "h%41:80", NULL, NULL, 0 },
		{ "", NULL, NULL, 0 },
	};
	char text[CV_SOCKADDR_TEXT];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_authority a = {};
		int r = cv_authority_parse(rows[i].text, strlen(rows[i].text), &a);

		assert_int_equal(r, rows[i].addr || rows[i].host ? 0 : -EINVAL);
		assert_int_equal(a.is_addr, !!rows[i].addr);
		assert_int_equal(a.port, rows[i].port);
		if (a.is_addr)
			assert_string_equal(cv_sockaddr_text(&a.addr, text), rows[i].addr);
		assert_string_equal(cv_str_text(a.host), rows[i].host ? rows[i].host : "");
		cv_authority_fini(&a);
	}
	assert_int_equal(cv_authority_parse("a\0b:80", 6, &(struct cv_authority){}), -EINVAL);
}

static void header(struct cv_hbone_request *r, const char *name, const char *value)
{
	cv_hbone_request_header(r, name, strlen(name), value, strlen(value));
}

static void test_request(void **state)
{
	struct cv_hbone_request r = {};
	char long_text[400];

	(void)state;
	header(&r, ":method", "CONNECT");
	header(&r, ":authority", "10.0.0.1:80");
	header(&r, "baggage", "k8s.namespace.name=a");
	header(&r, "baggage", "service.name=s");
	header(&r, "forwarded", "for=x;host=h");
	header(&r, "forwarded", "host=other");
	header(&r, "traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00");
	header(&r, "x-forwarded-network", "");
	header(&r, "x-unknown", "y");
	assert_true(r.connect);
	assert_string_equal(r.authority, "10.0.0.1:80");
	assert_string_equal(r.baggage.ns, "a");
	assert_string_equal(r.baggage.service_name, "s");
	assert_string_equal(r.forwarded_host, "h");
	assert_string_equal(r.trace_id, "0123456789abcdef0123456789abcdef");
	assert_true(r.has_x_forwarded_network);
	assert_string_equal(r.x_forwarded_network, "");
	cv_hbone_request_fini(&r);

	r = (struct cv_hbone_request){};
	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	header(&r, ":method", long_text);
	header(&r, ":authority", long_text);
	header(&r, "traceparent", long_text);
	header(&r, "x-forwarded-network", long_text);
	assert_false(r.connect);
	assert_int_equal(strlen(r.method), sizeof(r.method) - 1);
	/* Cut, it would name somebody else. */
	assert_string_equal(r.authority, "");
	assert_string_equal(r.trace_id, "");
	assert_int_equal(strlen(r.x_forwarded_network), sizeof(r.x_forwarded_network) - 1);
	cv_hbone_request_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_baggage_format, no_strings_left),
		cmocka_unit_test_teardown(test_baggage_round_trip, no_strings_left),
		cmocka_unit_test_teardown(test_baggage_parse, no_strings_left),
		cmocka_unit_test_teardown(test_baggage_nul, no_strings_left),
		cmocka_unit_test_teardown(test_baggage_lines, no_strings_left),
		cmocka_unit_test_teardown(test_forwarded, no_strings_left),
		cmocka_unit_test(test_traceparent),
		cmocka_unit_test_teardown(test_authority, no_strings_left),
		cmocka_unit_test_teardown(test_request, no_strings_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
