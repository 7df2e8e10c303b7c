/* SPDX-License-Identifier: Apache-2.0 */
/* Durations, Kubernetes quantities and token buckets. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/quantity.h"
#include "userspace/base/rate.h"

static void test_numbers(void **state)
{
	static const struct {
		const char *text;
		int result;
		uint64_t value;
	} rows[] = {
		{ "0", 0, 0 },
		{ "007", 0, 7 },
		{ "+5", 0, 5 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "+", -EINVAL, 0 },
		{ "++5", -EINVAL, 0 },
		{ "-5", -EINVAL, 0 },
		{ " 5", -EINVAL, 0 },
		{ "5 ", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		uint64_t value = 0;

		assert_int_equal(cv_uint_parse(rows[i].text, &value), rows[i].result);
		assert_int_equal(value, rows[i].value);
	}
}

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		int result;
		uint64_t ms;
	} rows[] = {
		{ "5s", 0, 5000 },
		{ "1h30m", 0, 5400000 },
		{ "100ms", 0, 100 },
		{ "2m", 0, 120000 },
		{ "1m500ms", 0, 60500 },
		{ "1500us", 0, 1 },
		{ "1500µs", 0, 1 },
		{ "2000000ns", 0, 2 },
		{ "1d", 0, 86400000 },
		{ "1w", 0, 604800000 },
		{ "7", 0, 7000 },
		{ "0s", 0, 0 },
		{ "", -EINVAL, 0 },
		{ "s", -EINVAL, 0 },
		{ "5x", -EINVAL, 0 },
		{ "-5s", -EINVAL, 0 },
		{ "5 s", -EINVAL, 0 },
		{ "5s3", -EINVAL, 0 },
		{ "1.5s", -EINVAL, 0 },
		{ "99999999999999999999s", -ERANGE, 0 },
		{ "18446744073709551615h", -ERANGE, 0 },
		{ "18446744073709551615ns1s", -ERANGE, 0 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		uint64_t ms = 0;

		assert_int_equal(cv_duration_parse(rows[i].text, &ms), rows[i].result);
		assert_int_equal(ms, rows[i].ms);
	}
}

static void test_quantities(void **state)
{
	static const struct {
		const char *text;
		int result;
		double value;
	} rows[] = {
		{ "2", 0, 2 },		{ "1.5", 0, 1.5 },     { "500m", 0, 0.5 },
		{ "100u", 0, 1e-4 },	{ "1k", 0, 1000 },     { "2Ki", 0, 2048 },
		{ "1Gi", 0, 1 << 30 },	{ "1e3", 0, 1000 },    { "25E-1", 0, 2.5 },
		{ "3E", 0, 3e18 },	{ ".5", 0, 0.5 },      { "", -EINVAL, 0 },
		{ "m", -EINVAL, 0 },	{ "1K", -EINVAL, 0 },  { "-1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },	{ "1mm", -EINVAL, 0 }, { "1e", -EINVAL, 0 },
		{ "1e99", -EINVAL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		double value = 0;

		assert_int_equal(cv_quantity_parse(rows[i].text, &value), rows[i].result);
		assert_float_equal(value, rows[i].value, 1e-9);
	}
}

/* A burst at once, then the rate, and never more than the burst after a pause. */
static void test_rate(void **state)
{
	struct cv_rate r;

	(void)state;
	cv_rate_init(&r, 3, 10, 1000);
	for (int i = 0; i < 3; i++)
		assert_true(cv_rate_take(&r, 1000));
	assert_false(cv_rate_take(&r, 1000));
	assert_false(cv_rate_take(&r, 1099));
	assert_true(cv_rate_take(&r, 1100));
	assert_false(cv_rate_take(&r, 1100));
	cv_rate_give(&r, 2);
	assert_true(cv_rate_take(&r, 1100));
	assert_true(cv_rate_take(&r, 1100));
	assert_false(cv_rate_take(&r, 1100));
	/* Time that jumps far ahead, or back, is harmless. */
	for (int i = 0; i < 3; i++)
		assert_true(cv_rate_take(&r, UINT64_MAX));
	assert_false(cv_rate_take(&r, UINT64_MAX));
	assert_false(cv_rate_take(&r, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_quantities),
		cmocka_unit_test(test_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
