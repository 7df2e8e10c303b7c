/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers: what goes in comes out in order, limits hold, and an empty buffer costs nothing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/buf.h"

static void test_limit(void **state)
{
	struct cv_buf b;

	(void)state;
	cv_buf_init(&b, 1000);
	assert_int_equal(cv_buf_room(&b), 1000);
	assert_non_null(cv_buf_reserve(&b, 1000));
	assert_null(cv_buf_reserve(&b, 1001));
	cv_buf_commit(&b, 999);
	assert_int_equal(cv_buf_room(&b), 1);
	assert_int_equal(cv_buf_append(&b, "xy", 2), -ENOBUFS);
	assert_int_equal(cv_buf_append(&b, "x", 1), 0);
	assert_int_equal(cv_buf_append(&b, "", 0), 0);
	assert_int_equal(cv_buf_len(&b), 1000);
	/* Taking from the front makes room at the end. */
	cv_buf_consume(&b, 600);
	assert_int_equal(cv_buf_room(&b), 600);
	assert_non_null(cv_buf_reserve(&b, 600));
	cv_buf_fini(&b);
}

static void test_trim(void **state)
{
	struct cv_buf b;

	(void)state;
	cv_buf_init(&b, 4096);
	assert_null(b.storage);
	assert_int_equal(cv_buf_append(&b, "abc", 3), 0);
	cv_buf_trim(&b);
	assert_non_null(b.storage);
	cv_buf_consume(&b, 3);
	assert_int_equal(b.tail, 0);
	cv_buf_trim(&b);
	assert_null(b.storage);
	assert_int_equal(cv_buf_append(&b, "def", 3), 0);
	assert_memory_equal(cv_buf_peek(&b).data, "def", 3);
	cv_buf_fini(&b);
}

/* A buffer against a plain array, with random steps. */
static void test_random_twin(void **state)
{
	enum { LIMIT = 5000, STEPS = 20000 };
	static uint8_t twin[LIMIT];
	size_t twin_len = 0;
	uint8_t chunk[700];
	struct cv_buf b;

	(void)state;
	srandom(7);
	cv_buf_init(&b, LIMIT);
	for (int i = 0; i < STEPS; i++) {
		size_t n = (size_t)random() % sizeof(chunk);

		if (random() & 1) {
			memset(chunk, (int)random(), n);
			if (n > LIMIT - twin_len) {
				assert_int_equal(cv_buf_append(&b, chunk, n), -ENOBUFS);
				continue;
			}
			assert_int_equal(cv_buf_append(&b, chunk, n), 0);
			memcpy(twin + twin_len, chunk, n);
			twin_len += n;
		} else {
			n = n < twin_len ? n : twin_len;
			cv_buf_consume(&b, n);
			memmove(twin, twin + n, twin_len - n);
			twin_len -= n;
			if (!(i % 7))
				cv_buf_trim(&b);
		}
		assert_int_equal(cv_buf_len(&b), twin_len);
		if (twin_len)
			assert_memory_equal(cv_buf_peek(&b).data, twin, twin_len);
	}
	cv_buf_fini(&b);
}

static void test_printf(void **state)
{
	char want[400];
	struct cv_buf b;

	(void)state;
	memset(want, 'x', sizeof(want) - 1);
	want[sizeof(want) - 1] = '\0';
	cv_buf_init(&b, 1024);
	assert_int_equal(cv_buf_printf(&b, "%d-%s", 7, "seven"), 0);
	assert_int_equal(cv_buf_printf(&b, "%s", want), 0);
	assert_int_equal(cv_buf_len(&b), 7 + strlen(want));
	assert_memory_equal(cv_buf_peek(&b).data, "7-sevenxxx", 10);
	/* What does not fit leaves the buffer as it was. */
	assert_int_equal(cv_buf_printf(&b, "%s%s", want, want), -ENOBUFS);
	assert_int_equal(cv_buf_len(&b), 7 + strlen(want));
	cv_buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_random_twin),
		cmocka_unit_test(test_printf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
