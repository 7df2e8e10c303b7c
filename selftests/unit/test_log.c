/* SPDX-License-Identifier: Apache-2.0 */
/* The log, read back through a pipe in place of stdout: both formats to the byte, filters, and that
 * neither a full queue nor many threads lose a line. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#define CV_LOG_TARGET "test"
#include "userspace/base/buf.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/base/log_line.h"
#include "userspace/limits.h"

/* 2026-08-20T09:15:02.120345Z */
static const struct timespec example_time = { .tv_sec = 1787217302, .tv_nsec = 120345678 };

static char *format(const struct cv_log_line *line, bool json)
{
	struct cv_buf b;

	cv_buf_init(&b, CV_LOG_LINE_BYTES);
	if (json)
		cv_log_line_json(line, &b);
	else
		cv_log_line_plain(line, &b);
	assert_int_equal(cv_buf_append(&b, "", 1), 0);
	return (char *)b.storage;
}

static void test_formats(void **state)
{
	const struct cv_log_field fields[] = {
		{ .key = "src.addr", .text = "10.7.0.9:51022", .bare = true },
		{ .key = "src.workload", .text = "web-5f7-k2x" },
		{ .key = "dst.service", .text = NULL },
		{ .key = "bytes_sent", .text = "512", .bare = true },
		{ .key = "duration", .text = "7ms" },
		{ .key = "count", .text = "007", .bare = true },
	};
	const struct cv_log_line line = {
		.time = example_time,
		.level = CV_LOG_INFO,
		.target = "access",
		.message = "connection complete",
		.fields = fields,
		.nr_fields = CV_ARRAY_SIZE(fields),
	};
	char *plain = format(&line, false), *json = format(&line, true);

	(void)state;
	assert_string_equal(plain,
			    "2026-08-20T09:15:02.120345Z\tinfo\taccess\tconnection complete\t"
			    "src.addr=10.7.0.9:51022 src.workload=\"web-5f7-k2x\" bytes_sent=512 "
			    "duration=\"7ms\" count=007\n");
	assert_string_equal(json,
			    "{\"level\":\"info\",\"time\":\"2026-08-20T09:15:02.120345Z\","
			    "\"scope\":\"access\",\"message\":\"connection complete\","
			    "\"src.addr\":\"10.7.0.9:51022\",\"src.workload\":\"web-5f7-k2x\","
			    "\"bytes_sent\":512,\"duration\":\"7ms\",\"count\":\"007\"}\n");
	free(plain);
	free(json);
}

/* Text from a peer can't start a line of its own, break JSON, or smuggle terminal sequences. */
static void test_escapes(void **state)
{
	const struct cv_log_field field = { .key = "error",
					    .text = "a\"b\\c\nd\x1b[1m\xff\xc3\xa9" };
	const struct cv_log_line line = {
		.time = example_time,
		.level = CV_LOG_WARN,
		.target = "t",
		.message = "one\ntwo\t\"q\"",
		.fields = &field,
		.nr_fields = 1,
	};
	char *plain = format(&line, false), *json = format(&line, true);
	json_t *root = json_loads(json, 0, NULL);

	(void)state;
	assert_string_equal(strchr(plain, '\t'),
			    "\twarn\tt\tone\\ntwo\\t\"q\"\t"
			    "error=\"a\\\"b\\\\c\\nd\\u{1b}[1m\xef\xbf\xbd\xc3\xa9\"\n");
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "message")), "one\ntwo\t\"q\"");
	assert_string_equal(json_string_value(json_object_get(root, "error")),
			    "a\"b\\c\nd\x1b[1m\xef\xbf\xbd\xc3\xa9");
	assert_ptr_equal(strchr(json, '\n'), json + strlen(json) - 1);
	json_decref(root);
	free(plain);
	free(json);
}

/* Lines have a bound, and even a cut line of JSON is JSON. */
static void test_long_lines(void **state)
{
	char *text = malloc(2 * CV_LOG_LINE_BYTES);
	struct cv_log_field fields[] = { { .key = "a", .text = text },
					 { .key = "b", .text = "x" } };
	struct cv_log_line line = {
		.time = example_time,
		.level = CV_LOG_INFO,
		.target = "t",
		.message = "m",
		.fields = fields,
		.nr_fields = 2,
	};
	json_t *root;
	char *json;

	(void)state;
	memset(text, '\n', 2 * CV_LOG_LINE_BYTES);
	text[2 * CV_LOG_LINE_BYTES - 1] = '\0';
	for (int i = 0; i < 2; i++) {
		json = format(&line, true);
		root = json_loads(json, 0, NULL);
		assert_non_null(root);
		assert_in_range(strlen(json), 1, CV_LOG_LINE_BYTES);
		/* The field that is too long goes, the one behind it stays. */
		assert_int_equal(!!json_object_get(root, "b"), !i);
		assert_null(json_object_get(root, "a"));
		json_decref(root);
		free(json);
		line.message = text;
	}
	free(text);
}

static void test_os_error(void **state)
{
	(void)state;
	assert_string_equal(cv_os_error(ECONNREFUSED), "Connection refused (os error 111)");
	assert_string_equal(cv_os_error(9999), "errno 9999 (os error 9999)");
}

static void test_filter(void **state)
{
	char text[128];

	(void)state;
	assert_int_equal(cv_log_filter_add("warn,proxy=debug,ztunnel::proxy::inbound=off,x:trace",
					   false),
			 0);
	assert_true(cv_log_enabled(CV_LOG_WARN, "access"));
	assert_false(cv_log_enabled(CV_LOG_INFO, "access"));
	assert_true(cv_log_enabled(CV_LOG_DEBUG, "proxy::outbound"));
	assert_false(cv_log_enabled(CV_LOG_TRACE, "proxy"));
	assert_false(cv_log_enabled(CV_LOG_ERROR, "proxy::inbound"));
	assert_true(cv_log_enabled(CV_LOG_TRACE, "x"));
	assert_false(cv_log_enabled(CV_LOG_OFF, "x"));
	assert_int_equal(cv_log_filter_text(text, sizeof(text)),
			 strlen("proxy::inbound=off,proxy=debug,x=trace,warn"));
	assert_string_equal(text, "proxy::inbound=off,proxy=debug,x=trace,warn");
	/* The longest prefix counts, wherever it stands. */
	assert_int_equal(cv_log_filter_add("a::b=error,a=debug", false), 0);
	assert_false(cv_log_enabled(CV_LOG_WARN, "a::b::c"));
	assert_true(cv_log_enabled(CV_LOG_DEBUG, "a::c"));
	/* A directive replaces the one for its target. */
	assert_int_equal(cv_log_filter_add("proxy=error", false), 0);
	assert_false(cv_log_enabled(CV_LOG_DEBUG, "proxy"));
	assert_int_equal(cv_log_filter_add("DEBUG", true), 0);
	cv_log_filter_text(text, sizeof(text));
	assert_string_equal(text, "debug");
	assert_int_equal(cv_log_filter_add(NULL, true), 0);
	cv_log_filter_text(text, sizeof(text));
	assert_string_equal(text, "info");
}

static void test_filter_refused(void **state)
{
	static const char *const rows[] = { "loud",  "proxy",		"proxy=",
					    "=info", "info,proxy=loud", "info=proxy" };
	char text[64], target[100];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		assert_int_equal(cv_log_filter_add(rows[i], false), -EINVAL);
		assert_int_equal(cv_log_init(rows[i], false), -EINVAL);
	}
	memset(target, 'x', 80);
	memcpy(target + 80, "=info", 6);
	assert_int_equal(cv_log_filter_add(target, false), -EINVAL);
	cv_log_filter_text(text, sizeof(text));
	assert_string_equal(text, "info");
	/* Nobody can make the list grow without end. */
	for (int i = 0; i < 100; i++) {
		snprintf(target, sizeof(target), "t%d=info", i);
		if (cv_log_filter_add(target, false) == -E2BIG)
			break;
		assert_in_range(i, 0, 64);
	}
	cv_log_filter_add(NULL, true);
}

/* stdout becomes a pipe while the body runs. */
struct capture {
	int read_fd, old_stdout;
};

static void capture_start(struct capture *c)
{
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	fflush(stdout);
	c->read_fd = fds[0];
	c->old_stdout = dup(STDOUT_FILENO);
	dup2(fds[1], STDOUT_FILENO);
	close(fds[1]);
}

static void capture_stop(struct capture *c)
{
	dup2(c->old_stdout, STDOUT_FILENO);
	close(c->old_stdout);
}

enum { THREADS = 4, LINES = 5000 };

static _Atomic int logged;

static void *log_lines(void *arg)
{
	for (int i = 0; i < LINES; i++) {
		cv_info("thread %d line %d", (int)(intptr_t)arg, i);
		logged++;
	}
	return NULL;
}

static void *count_lines(void *arg)
{
	struct capture *c = arg;
	FILE *f = fdopen(c->read_fd, "r");
	char *line = NULL;
	size_t size = 0;
	int thread, number, next[THREADS] = {};
	intptr_t count = 0;

	while (getline(&line, &size, f) > 0) {
		const char *message = strstr(line, "thread ");

		if (!message || sscanf(message, "thread %d line %d", &thread, &number) != 2 ||
		    next[thread] != number)
			break;
		next[thread]++;
		count++;
	}
	free(line);
	fclose(f);
	return (void *)count;
}

/* Waits until nobody gets on. */
static void wait_for_standstill(void)
{
	int before = -1;

	while (logged != before) {
		before = logged;
		usleep(100000);
	}
}

/* More lines than the queue holds, from several threads: all arrive, each thread's in order. */
static void test_nothing_lost(void **state)
{
	pthread_t threads[THREADS], reader;
	struct capture c;
	void *count;

	(void)state;
	assert_true(THREADS * LINES > CV_LIMIT_LOG_LINES);
	capture_start(&c);
	assert_int_equal(cv_log_init("info", false), 0);
	assert_int_equal(cv_log_init("info", false), -EALREADY);
	for (intptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, log_lines, (void *)i), 0);
	/* The pipe and the queue are full: the threads wait, with lines left. */
	wait_for_standstill();
	assert_in_range(logged, CV_LIMIT_LOG_LINES, THREADS * LINES - 1);
	pthread_create(&reader, NULL, count_lines, &c);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	cv_log_fini();
	capture_stop(&c);
	pthread_join(reader, &count);
	assert_int_equal((intptr_t)count, THREADS * LINES);
}

static void test_fields_to_stdout(void **state)
{
	const struct cv_log_field fields[] = { { .key = "k", .text = "v" } };
	char line[4096] = {};
	struct capture c;

	(void)state;
	capture_start(&c);
	assert_int_equal(cv_log_init("warn", true), 0);
	cv_info("not this one");
	cv_log_fields(CV_LOG_INFO, "test", "nor this", fields, 1);
	cv_log_fields(CV_LOG_WARN, "test", "but this", fields, 1);
	assert_int_equal(cv_log_err(-ENOENT, "open %s", "x"), -ENOENT);
	cv_log_fini();
	capture_stop(&c);
	assert_true(read(c.read_fd, line, sizeof(line) - 1) > 0);
	close(c.read_fd);
	assert_null(strstr(line, "this one"));
	assert_null(strstr(line, "nor this"));
	assert_non_null(strstr(line, "\"message\":\"but this\",\"k\":\"v\"}\n"));
	assert_non_null(strstr(line, "open x: No such file or directory"));
	assert_string_equal(cv_strerror(99999), "errno 99999");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats),	     cmocka_unit_test(test_escapes),
		cmocka_unit_test(test_long_lines),   cmocka_unit_test(test_filter),
		cmocka_unit_test(test_os_error),     cmocka_unit_test(test_filter_refused),
		cmocka_unit_test(test_nothing_lost), cmocka_unit_test(test_fields_to_stdout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
