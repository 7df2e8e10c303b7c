/* SPDX-License-Identifier: Apache-2.0 */
/* SPIFFE identities: exactly five pieces, exact comparison, printing as parsed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/identity.h"

static const char *const good[] = {
	"spiffe://cluster.local/ns/default/sa/web",
	"spiffe:///ns//sa/", /* empty pieces are tolerated */
	"spiffe://td/ns/ns/sa/sa",
};
static const char *const bad[] = {
	"",
	"spiffe://",
	"spiffe://td",
	"spiffe://td/ns/a/sa",
	"spiffe://td/ns/a/sa/b/",
	"spiffe://td/ns/a/sa/b/c",
	"spiffe://td/NS/a/sa/b",
	"spiffe://td/sa/a/ns/b",
	"spiffe://td/nsx/a/sa/b",
	"SPIFFE://td/ns/a/sa/b",
	"https://td/ns/a/sa/b",
	"td/ns/a/sa/b",
};

/* What is parsed is printed as it was. */
static void test_parse_good(void **state)
{
	char text[CV_IDENTITY_TEXT];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(good); i++) {
		struct cv_identity id;

		assert_int_equal(cv_identity_parse(good[i], strlen(good[i]), &id), 0);
		assert_string_equal(cv_identity_text(&id, text), good[i]);
		cv_identity_fini(&id);
	}
	assert_int_equal(cv_str_count(), 0);
}

static void test_parse_bad(void **state)
{
	char longest[CV_IDENTITY_TEXT + 64];
	struct cv_identity id;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(bad); i++)
		assert_int_equal(cv_identity_parse(bad[i], strlen(bad[i]), &id), -EINVAL);
	/* A NUL would cut what is compared later. */
	assert_int_equal(cv_identity_parse("spiffe://td/ns/a\0b/sa/c", 23, &id), -EINVAL);
	/* What would be cut when printed could pass for another one. */
	memset(longest, 'x', sizeof(longest));
	memcpy(longest, "spiffe://td/ns/a/sa/", 20);
	assert_int_equal(cv_identity_parse(longest, CV_IDENTITY_TEXT, &id), -EINVAL);
	assert_int_equal(cv_str_count(), 0);
}

static void test_compare(void **state)
{
	struct cv_identity a, b, none = {};

	(void)state;
	assert_int_equal(cv_identity_parse(good[0], strlen(good[0]), &a), 0);
	cv_identity_copy(&b, &a);
	assert_true(cv_identity_eq(&a, &b));
	assert_true(cv_identity_is_set(&a));
	assert_false(cv_identity_is_set(&none));
	cv_str_put(&b.sa);
	assert_false(cv_identity_eq(&a, &b));
	b.sa = cv_str_new("Web"); /* case matters */
	assert_false(cv_identity_eq(&a, &b));
	cv_identity_fini(&a);
	cv_identity_fini(&b);
	assert_int_equal(cv_str_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_good),
		cmocka_unit_test(test_parse_bad),
		cmocka_unit_test(test_compare),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
