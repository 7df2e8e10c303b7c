/* SPDX-License-Identifier: Apache-2.0 */
/* culvert.yaml: every key does what culvert.yaml(5) says, the most specific sameNode entry counts,
 * and a bad file is refused with file, line and reason and changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/daemon/settings.h"
#include "userspace/limits.h"

static int parse(const char *text, struct cv_settings *s, char error[512])
{
	return cv_settings_parse("culvert.yaml", text, strlen(text), s, error, 512);
}

static void test_empty_is_defaults(void **state)
{
	struct cv_settings s;
	char error[512];

	(void)state;
	cv_settings_init(&s);
	assert_int_equal(parse("", &s, error), 0);
	assert_int_equal(s.same_node, CV_SAME_NODE_DIRECT);
	assert_int_equal(s.max_connections, CV_LIMIT_CONNECTIONS);
	assert_true(s.fast_path);
	cv_settings_fini(&s);
}

static void test_all_keys(void **state)
{
	const char *text = "sameNode:\n"
			   "  mesh: tls\n"
			   "  namespaces: {shop: direct}\n"
			   "  pods: {shop/cart-0: tls}\n"
			   "limits: {connections: 10, connectionsPerPod: 5, metricSeries: 100}\n"
			   "capture: {fastPath: false, podsCgroup: /kubepods}\n";
	struct cv_settings s;
	char error[512];

	(void)state;
	cv_settings_init(&s);
	assert_int_equal(parse(text, &s, error), 0);
	assert_int_equal(cv_settings_same_node(&s, "other", "a"), CV_SAME_NODE_TLS);
	assert_int_equal(cv_settings_same_node(&s, "shop", "web"), CV_SAME_NODE_DIRECT);
	assert_int_equal(cv_settings_same_node(&s, "shop", "cart-0"), CV_SAME_NODE_TLS);
	assert_int_equal(s.max_connections, 10);
	assert_int_equal(s.max_connections_pod, 5);
	assert_int_equal(s.max_series, 100);
	assert_false(s.fast_path);
	assert_string_equal(s.pods_cgroup, "/kubepods");
	cv_settings_fini(&s);
}

static void test_bad_changes_nothing(void **state)
{
	static const struct {
		const char *text, *line, *why;
	} rows[] = {
		{ "sameNode:\n  mesh: fast\n", "culvert.yaml:2:", "fast" },
		{ "sameNode:\n  mesh: relay\n", "culvert.yaml:2:", "relay" },
		{ "sameNode:\n  pods:\n    cart-0: tls\n", "culvert.yaml:3:", "NAMESPACE/NAME" },
		{ "sameNode:\n  namespaces:\n    a/b: tls\n", "culvert.yaml:3:", "namespace" },
		{ "limits: {connections: 0}\n", "culvert.yaml:1:", "connections" },
		{ "limits: {conections: 1}\n", "culvert.yaml:1:", "conections" },
		{ "samenode: {}\n", "culvert.yaml:1:", "samenode" },
		{ "limits: [\n", "culvert.yaml:", "" },
	};
	struct cv_settings s;
	char error[512];

	(void)state;
	cv_settings_init(&s);
	assert_int_equal(parse("sameNode: {pods: {a/b: tls}}", &s, error), 0);
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		assert_true(parse(rows[i].text, &s, error) < 0);
		assert_non_null(strstr(error, rows[i].line));
		assert_non_null(strstr(error, rows[i].why));
		assert_int_equal(cv_settings_same_node(&s, "a", "b"), CV_SAME_NODE_TLS);
	}
	cv_settings_fini(&s);
	assert_int_equal(cv_str_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_is_defaults),
		cmocka_unit_test(test_all_keys),
		cmocka_unit_test(test_bad_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
