/* SPDX-License-Identifier: Apache-2.0 */
/* Splitting a response: the same parts come out however the bytes were cut, what is too long is
 * skipped, and what is no protobuf message is an error and no more. And what we say: the table of what is held, and requests. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/mesh/xds_private.h"
#include "userspace/proto/pb/discovery.pb-c.h"
#include "userspace/proto/utf8.h"
#include "userspace/proto/xds_response.h"

/* What was told, one part a line. */
static char told[4096];

static void note(const char *what, const void *data, size_t len)
{
	size_t at = strlen(told);

	snprintf(told + at, sizeof(told) - at, "%s %.*s\n", what, (int)(len < 40 ? len : 40),
		 (const char *)data);
}

static void on_resource(void *arg, const uint8_t *data, size_t len)
{
	(void)arg;
	note("resource", data, len);
}

static void on_removed(void *arg, const char *name, size_t len)
{
	(void)arg;
	note("removed", name, len);
}

static void on_type_url(void *arg, const char *text, size_t len)
{
	(void)arg;
	note("type", text, len);
}

static void on_nonce(void *arg, const char *text, size_t len)
{
	(void)arg;
	note("nonce", text, len);
}

static void on_too_long(void *arg, size_t len)
{
	(void)arg;
	(void)len;
	note("long", "", 0);
}

static const struct cv_xds_response_ops ops = { on_resource, on_removed, on_type_url, on_nonce,
						on_too_long };

/* Fields that are not known, of each wire type, stand between. */
static const char message[] = "\x12\5first"
			      "\x12\0"
			      "\x0a\3v1x"
			      "\x78\x96\1"
			      "\x7d"
			      "abcd"
			      "\x79"
			      "abcdefgh"
			      "\x12\6second"
			      "\x22\4type"
			      "\x2a\5nonce"
			      "\x32\4gone"
			      "\x32\2go";
static const char parts[] = "resource first\nresource \nresource second\ntype type\nnonce nonce\n"
			    "removed gone\nremoved go\n";

/* Feeds in pieces of n bytes; the result of the first that failed, else of the end. */
static int split(const char *data, size_t len, size_t n)
{
	struct cv_xds_response r;
	int result = 0;

	told[0] = '\0';
	cv_xds_response_init(&r, &ops, NULL);
	for (size_t at = 0; at < len && !result; at += n)
		result = cv_xds_response_feed(&r, (const uint8_t *)data + at,
					      at + n < len ? n : len - at);
	if (!result)
		result = cv_xds_response_end(&r);
	cv_xds_response_fini(&r);
	return result;
}

static void test_pieces(void **state)
{
	(void)state;
	for (size_t n = 1; n <= sizeof(message); n++) {
		assert_int_equal(split(message, sizeof(message) - 1, n), 0);
		assert_string_equal(told, parts);
	}
}

/* Cut off at every byte: an error unless a field has just ended. */
static void test_half(void **state)
{
	static const size_t whole[] = { 7, 9, 14, 17, 22, 31, 39, 45, 52, 58 };
	size_t next = 0;

	(void)state;
	for (size_t len = 1; len < sizeof(message) - 1; len++) {
		int r = split(message, len, 5);

		if (next < CV_ARRAY_SIZE(whole) && len == whole[next]) {
			assert_int_equal(r, 0);
			next++;
		} else {
			assert_int_equal(r, -EBADMSG);
		}
	}
	assert_int_equal(next, CV_ARRAY_SIZE(whole));
}

static void test_garbage(void **state)
{
	static const struct {
		const char *data;
		size_t len;
	} rows[] = {
		{ "\0\1", 2 }, /* field 0 */
		{ "\x13", 1 }, /* a group */
		{ "\x17", 1 }, /* wire type 7 */
		{ "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\2", 11 }, /* 65 bits */
		{ "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 12 },
		{ "\x12\x80\x80\x80\x80\x10", 6 }, /* 4 GiB */
		{ "\x22\x81\x20", 3 }, /* a type of 4097 bytes */
		{ "HTTP/1.1 200 OK\r\n\r\n", 19 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		assert_int_equal(split(rows[i].data, rows[i].len, 1), -EBADMSG);
}

static void test_too_long(void **state)
{
	size_t n = CV_LIMIT_XDS_RESOURCE + 1, len = 0;
	_cleanup_free_ char *data = calloc(1, n + 100);

	(void)state;
	memcpy(data, "\x12\x81\x80\x80\2", 5);
	len = 5 + n;
	memcpy(data + len, "\x12\2ok", 4);
	assert_int_equal(split(data, len + 4, 1000), 0);
	assert_string_equal(told, "long \nresource ok\n");
}

/* A broken message leaves nothing for the next one. */
static void test_reset(void **state)
{
	struct cv_xds_response r;

	(void)state;
	told[0] = '\0';
	cv_xds_response_init(&r, &ops, NULL);
	assert_int_equal(cv_xds_response_feed(&r, (const uint8_t *)"\x12\7half", 6), 0);
	assert_int_equal(cv_xds_response_end(&r), -EBADMSG);
	cv_xds_response_reset(&r);
	assert_int_equal(cv_xds_response_feed(&r, (const uint8_t *)"\x12\2ok", 4), 0);
	assert_int_equal(cv_xds_response_end(&r), 0);
	assert_string_equal(told, "resource ok\n");
	cv_xds_response_fini(&r);
}

static void test_utf8(void **state)
{
	static const char *const good[] = {
		"", "abc", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf"
	};
	static const char *const bad[] = { "\x80",
					   "\xc3",
					   "\xc0\xaf",
					   "\xe0\x80\x80",
					   "\xed\xa0\x80",
					   "\xf4\x90\x80\x80",
					   "\xf5\x80\x80\x80",
					   "a\xff" };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(good); i++)
		assert_true(cv_utf8_is_valid(good[i]));
	for (size_t i = 0; i < CV_ARRAY_SIZE(bad); i++)
		assert_false(cv_utf8_is_valid(bad[i]));
}

/* ---- the table of names ---- */

static cv_str name_of(unsigned i)
{
	char text[32];

	snprintf(text, sizeof(text), "name-%u", i);
	return cv_str_new(text);
}

static const char *version_of(const struct xds_names *names, cv_str name, char *buf)
{
	const char *version, *found = NULL;
	size_t at = 0, n = 0;
	cv_str one;

	while ((one = xds_names_next(names, &at, &version, buf))) {
		n++;
		if (one == name) {
			found = version;
			break;
		}
	}
	assert_true(n <= names->n);
	return found;
}

/* Versions come back as they came, numbers or not. */
static void test_versions(void **state)
{
	static const char *const versions[] = { "0",  "1f",   "ffffffffffffffff",  "",	"01f",
						"1F", "v1/2", "1ffffffffffffffff", "-1" };
	struct xds_names names = {};
	char buf[XDS_VERSION_TEXT];
	cv_str name = name_of(1);

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(versions); i++) {
		xds_names_set(&names, name, versions[i]);
		assert_int_equal(names.n, 1);
		assert_string_equal(version_of(&names, name, buf), versions[i]);
	}
	cv_str_put(&name);
	xds_names_fini(&names);
	assert_int_equal(cv_str_count(), 0);
}

/* Against an array: random additions and removals. */
static void test_random(void **state)
{
	enum { NAMES = 3000, STEPS = 60000 };
	static unsigned char held[NAMES];
	static cv_str texts[NAMES];
	struct xds_names names = {};
	size_t n = 0;

	(void)state;
	srandom(7);
	for (unsigned i = 0; i < NAMES; i++)
		texts[i] = name_of(i);
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned i = (unsigned)random() % NAMES;
		bool add = (unsigned)random() % (step % 20000 < 10000 ? 3 : 9) < 2;

		if (add)
			xds_names_set(&names, texts[i], i % 2 ? "abc" : "not hex");
		else
			xds_names_remove(&names, texts[i]);
		n += (size_t)(add && !held[i]) - (size_t)(!add && held[i]);
		held[i] = add;
		assert_int_equal(names.n, n);
	}
	for (unsigned i = 0; i < NAMES; i++) {
		assert_int_equal(xds_names_has(&names, texts[i]), held[i]);
		cv_str_put(&texts[i]);
	}
	xds_names_fini(&names);
	assert_int_equal(cv_str_count(), 0);
}

/* ---- requests ---- */

static Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *parse_request(struct cv_buf *b)
{
	struct cv_span s = cv_buf_peek(b);

	return envoy__service__discovery__v3__delta_discovery_request__unpack(NULL, s.len, s.data);
}

static void test_requests(void **state)
{
	json_t *meta = json_pack("{s:s, s:{s:[i, b, n]}, s:s}", "CLUSTER_ID", "c1", "LABELS", "x",
				 1, 1, "NAME", "override");
	const struct cv_xds_opts opts = { .instance_ip = "10.1.2.3",
					  .pod_name = "z",
					  .pod_namespace = "sys",
					  .node_name = "node-1",
					  .metadata = meta };
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *r;
	cv_str name = cv_str_new("a");
	struct cv_xds held = {}, *x = &held;
	struct cv_buf b;

	(void)state;
	cv_buf_init(&b, CV_LIMIT_GRPC_SEND);
	cv_buf_init(&x->node, CV_LIMIT_XDS_REQUEST);
	assert_int_equal(xds_node_encode(&x->node, &opts), 0);
	xds_names_set(&x->types[CV_XDS_ADDRESS].names, name, "1f");
	assert_int_equal(xds_request_first(&b, x, CV_XDS_ADDRESS), 0);
	r = parse_request(&b);
	assert_non_null(r);
	assert_string_equal(r->node->id, "ztunnel~10.1.2.3~z.sys~sys.svc.cluster.local");
	assert_int_equal(r->node->metadata->n_fields, 6);
	for (size_t i = 0; i < 6; i++) {
		const Google__Protobuf__Struct__FieldsEntry *e = r->node->metadata->fields[i];

		if (strcmp(e->key, "NAME") == 0)
			assert_string_equal(e->value->string_value, "override");
		if (strcmp(e->key, "INSTANCE_IPS") == 0)
			assert_string_equal(e->value->string_value, "10.1.2.3");
		if (strcmp(e->key, "LABELS") == 0)
			assert_int_equal(
				e->value->struct_value->fields[0]->value->list_value->n_values, 3);
	}
	assert_string_equal(r->type_url, CV_XDS_TYPE_ADDRESS);
	assert_int_equal(r->n_initial_resource_versions, 1);
	assert_string_equal(r->initial_resource_versions[0]->key, "a");
	assert_string_equal(r->initial_resource_versions[0]->value, "1f");
	assert_int_equal(r->n_resource_names_subscribe, 0);
	envoy__service__discovery__v3__delta_discovery_request__free_unpacked(r, NULL);
	cv_buf_consume(&b, cv_buf_len(&b));
	assert_int_equal(xds_request_ack(&b, "t", "n7", (struct cv_span){}), 0);
	r = parse_request(&b);
	assert_string_equal(r->response_nonce, "n7");
	assert_null(r->error_detail);
	assert_null(r->node);
	envoy__service__discovery__v3__delta_discovery_request__free_unpacked(r, NULL);
	cv_buf_consume(&b, cv_buf_len(&b));
	assert_int_equal(xds_request_ack(&b, "t", "n8", (struct cv_span){ (uint8_t *)"a: b", 4 }),
			 0);
	r = parse_request(&b);
	assert_string_equal(r->error_detail->message, "a: b");
	assert_int_equal(r->error_detail->code, 3);
	envoy__service__discovery__v3__delta_discovery_request__free_unpacked(r, NULL);
	cv_buf_fini(&b);
	cv_buf_fini(&x->node);
	xds_names_fini(&x->types[CV_XDS_ADDRESS].names);
	cv_str_put(&name);
	json_decref(meta);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces),	 cmocka_unit_test(test_half),
		cmocka_unit_test(test_garbage),	 cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_reset),	 cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_versions), cmocka_unit_test(test_random),
		cmocka_unit_test(test_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
