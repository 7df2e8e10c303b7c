/* SPDX-License-Identifier: Apache-2.0 */
/* Admin, metrics and readiness answer with ztunnel's paths, codes and texts, and hold their bounds
 * against slow, huge and many clients. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "test"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/telemetry/telemetry.h"

static struct cv_worker *worker;
static struct cv_telemetry *telemetry;
static struct cv_store *store;
static bool read_only;
static _Atomic int shutdowns;

static json_t *pods_json(void *arg)
{
	(void)arg;
	return json_pack("{s:{s:s}}", "uid-1", "state", "Up");
}

static json_t *config_json(void *arg)
{
	(void)arg;
	return json_pack("{s:b}", "proxy", true);
}

static void on_shutdown(void *arg)
{
	(void)arg;
	shutdowns++;
}

/* Runs a function on the worker's thread and waits for it. */
static int on_worker(void (*fn)(void *arg))
{
	int pipe_fds[2];
	char c;

	assert_int_equal(pipe(pipe_fds), 0);
	cv_worker_post(worker, fn, &pipe_fds[1]);
	assert_int_equal(read(pipe_fds[0], &c, 1), 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return c;
}

static void do_start(void *arg)
{
	const struct cv_http_opts opts = {
		.control = worker,
		.store = store,
		.ipv6 = true,
		.admin_read_only = read_only,
		.pods_json = pods_json,
		.config_json = config_json,
		.shutdown = on_shutdown,
	};
	char c = cv_http_start(telemetry, &opts) ? 1 : 0;

	assert_int_equal(write(*(int *)arg, &c, 1), 1);
}

static void do_stop(void *arg)
{
	cv_http_stop(telemetry);
	assert_int_equal(write(*(int *)arg, "", 1), 1);
}

static int setup(void **state)
{
	const struct cv_telemetry_opts topts = {};
	const struct cv_store_opts sopts = { .network = "", .node = "n1" };

	(void)state;
	shutdowns = 0;
	if (cv_telemetry_new(&telemetry, &topts) < 0 || cv_store_new(&store, &sopts) < 0 ||
	    cv_worker_start(&worker, 0) < 0)
		return -1;
	return on_worker(do_start);
}

static int setup_read_only(void **state)
{
	read_only = true;
	return setup(state);
}

static int teardown(void **state)
{
	(void)state;
	read_only = false;
	on_worker(do_stop);
	cv_worker_stop(&worker);
	cv_store_free(&store);
	cv_telemetry_free(&telemetry);
	return 0;
}

/* --- a client --- */

static int dial_at(enum cv_http_which which, const char *ip)
{
	struct cv_sockaddr a = { .port = cv_http_port(telemetry, which) };
	struct sockaddr_storage ss;
	int fd;

	assert_int_equal(cv_addr_parse(ip, &a.ip), 0);
	fd = socket(cv_addr_is_v4(&a.ip) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, cv_sockaddr_to_native(&a, &ss)), 0);
	return fd;
}

static int dial(enum cv_http_which which)
{
	return dial_at(which, "127.0.0.1");
}

static void send_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Everything until the server closes, or for 10 s. */
static const char *read_all(int fd)
{
	static char text[1 << 18];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t len = 0;
	ssize_t n = 1;

	while (n > 0 && poll(&p, 1, 10000) == 1) {
		n = recv(fd, text + len, sizeof(text) - 1 - len, 0);
		len += n > 0 ? n : 0;
	}
	text[len] = '\0';
	return text;
}

/* One request with its own connection; returns the whole answer. */
static const char *ask_at(int fd, const char *request_line, const char *headers)
{
	char request[1024];

	snprintf(request, sizeof(request), "%s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n",
		 request_line, headers);
	send_text(fd, request);
	const char *answer = read_all(fd);

	close(fd);
	return answer;
}

static const char *ask(enum cv_http_which which, const char *request_line)
{
	return ask_at(dial(which), request_line, "");
}

static int code_of(const char *answer)
{
	return strncmp(answer, "HTTP/1.1 ", 9) ? -1 : (int)strtol(answer + 9, NULL, 10);
}

static const char *body_of(const char *answer)
{
	const char *body = strstr(answer, "\r\n\r\n");

	return body ? body + 4 : "";
}

/* --- paths --- */

static void test_codes(void **state)
{
	static const struct {
		enum cv_http_which which;
		const char *request;
		int code;
	} rows[] = {
		{ CV_HTTP_ADMIN, "GET /", 200 },
		{ CV_HTTP_ADMIN, "GET /config_dump", 200 },
		{ CV_HTTP_ADMIN, "POST /config_dump?x=y", 200 },
		{ CV_HTTP_ADMIN, "GET /nothing", 404 },
		{ CV_HTTP_ADMIN, "GET /metrics", 404 },
		{ CV_HTTP_ADMIN, "GET /logging", 405 },
		{ CV_HTTP_ADMIN, "GET /quitquitquit", 405 },
		{ CV_HTTP_ADMIN, "POST /logging?level=nonsense", 400 },
		{ CV_HTTP_METRICS, "GET /metrics", 200 },
		{ CV_HTTP_METRICS, "GET /stats/prometheus", 200 },
		{ CV_HTTP_METRICS, "GET /", 404 },
		{ CV_HTTP_READINESS, "GET /healthz/ready", 200 },
		{ CV_HTTP_READINESS, "POST /healthz/ready", 405 },
		{ CV_HTTP_READINESS, "GET /healthz/live", 404 },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		if (code_of(ask(rows[i].which, rows[i].request)) != rows[i].code)
			fail_msg("%s: expected %d, got %s", rows[i].request, rows[i].code,
				 ask(rows[i].which, rows[i].request));
	assert_int_equal(shutdowns, 0);
}

static void test_metrics_types(void **state)
{
	static const struct {
		const char *accept, *type;
	} rows[] = {
		{ "", "text/plain; charset=utf-8" },
		{ "Accept: text/plain\r\n", "text/plain; charset=utf-8" },
		{ "Accept: text/plain;q=1, application/openmetrics-text;version=1.0.0;q=0.1\r\n",
		  "application/openmetrics-text;charset=utf-8;version=1.0.0" },
		{ "Accept: application/openmetrics-textual\r\n", "text/plain; charset=utf-8" },
	};
	char line[128];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		const char *answer = ask_at(dial(CV_HTTP_METRICS), "GET /metrics", rows[i].accept);
		const char *body = body_of(answer);

		snprintf(line, sizeof(line), "\r\nContent-Type: %s\r\n", rows[i].type);
		assert_non_null(strstr(answer, line));
		assert_string_equal(body + strlen(body) - 6, "# EOF\n");
	}
}

static void test_readiness(void **state)
{
	const char *answer;

	(void)state;
	cv_ready_add(telemetry, "workloads");
	cv_ready_add(telemetry, "certificates");
	answer = ask(CV_HTTP_READINESS, "GET /healthz/ready");
	assert_int_equal(code_of(answer), 500);
	assert_string_equal(body_of(answer), "not ready, pending: certificates, workloads\n");
	cv_ready_done(telemetry, "workloads");
	cv_ready_done(telemetry, "certificates");
	assert_string_equal(body_of(ask(CV_HTTP_READINESS, "GET /healthz/ready")), "ready\n");
}

/* What has no body says nothing of a type. */
static void test_nothing_found(void **state)
{
	const char *answer = ask(CV_HTTP_ADMIN, "GET /nothing");

	(void)state;
	assert_null(strcasestr(answer, "content-type"));
	assert_string_equal(body_of(answer), "");
}

/* Every member that istioctl decodes is there and has its type, also in an empty mesh. */
static void test_config_dump(void **state)
{
	static const char *const arrays[] = { "workloads", "services", "policies", "certificates" };
	static const char *const objects[] = { "config", "staticConfig", "version", "workloadState",
					       "stagedServices" };
	const char *body = body_of(ask(CV_HTTP_ADMIN, "GET /config_dump"));
	json_t *dump = json_loads(body, 0, NULL);
	const char *last = "", *key;
	json_t *value;

	(void)state;
	assert_non_null(dump);
	for (size_t i = 0; i < CV_ARRAY_SIZE(arrays); i++)
		assert_true(json_is_array(json_object_get(dump, arrays[i])));
	for (size_t i = 0; i < CV_ARRAY_SIZE(objects); i++)
		assert_true(json_is_object(json_object_get(dump, objects[i])));
	json_object_foreach(dump, key, value) {
		assert_true(strcmp(last, key) < 0); /* jansson keeps the order of the text */
		last = key;
	}
	assert_true(
		json_is_array(json_object_get(json_object_get(dump, "staticConfig"), "workloads")));
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(dump, "version"), "version")),
		CULVERT_VERSION);
	json_decref(dump);
}

static void test_logging(void **state)
{
	(void)state;
	assert_string_equal(body_of(ask(CV_HTTP_ADMIN, "POST /logging?level=warn")),
			    "current log level is hickory_server::server=off,warn\n");
	assert_string_equal(body_of(ask(CV_HTTP_ADMIN, "POST /logging")),
			    "current log level is hickory_server::server=off,warn\n");
	/* istioctl's spelling, and a scope with colons of its own. */
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?level=access:debug")), 200);
	assert_true(cv_log_enabled(CV_LOG_DEBUG, "access"));
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?level=a::b:trace")), 200);
	assert_true(cv_log_enabled(CV_LOG_TRACE, "a::b"));
	assert_false(cv_log_enabled(CV_LOG_DEBUG, "test"));
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?level=access")), 400);
	assert_memory_equal(body_of(ask(CV_HTTP_ADMIN, "POST /logging?level=loud")),
			    "Invalid level provided: loud\n", 29);
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?level=error&reset")), 200);
	assert_false(cv_log_enabled(CV_LOG_DEBUG, "access"));
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?reset")), 200);
}

static void test_quit(void **state)
{
	(void)state;
	assert_string_equal(body_of(ask(CV_HTTP_ADMIN, "POST /quitquitquit")), "shutdown now\n");
	assert_int_equal(shutdowns, 1);
}

/* Where the network namespace is not ours alone, HTTP shows and does not change. */
static void test_read_only(void **state)
{
	const char *answer = ask(CV_HTTP_ADMIN, "POST /quitquitquit");

	(void)state;
	assert_int_equal(code_of(answer), 403);
	assert_int_equal(shutdowns, 0);
	answer = ask(CV_HTTP_ADMIN, "POST /logging?level=debug");
	assert_int_equal(code_of(answer), 403);
	assert_non_null(strstr(answer, "culvertctl"));
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging")), 200);
	/* How istioctl asks. */
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "POST /logging?level=")), 200);
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "GET /config_dump")), 200);
}

/* Admin is reachable on both loopbacks, and on nothing else that is ours. */
static void test_addresses(void **state)
{
	struct sockaddr_in other = { .sin_family = AF_INET,
				     .sin_port = htons(cv_http_port(telemetry, CV_HTTP_ADMIN)),
				     .sin_addr.s_addr = htonl(0x7f000002) }; /* 127.0.0.2 */
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	assert_int_equal(connect(fd, (struct sockaddr *)&other, sizeof(other)), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	assert_int_equal(code_of(ask_at(dial_at(CV_HTTP_ADMIN, "::1"), "GET /", "")), 200);
	assert_int_equal(code_of(ask_at(dial_at(CV_HTTP_METRICS, "::1"), "GET /metrics", "")), 200);
}

/* --- bounds --- */

/* A byte now and then does not hold a connection: the whole request has 2 s. */
static void test_slow_header(void **state)
{
	uint64_t start = cv_now_ms();
	int fd = dial(CV_HTTP_ADMIN);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	const char *text = "GET /config_dump HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";

	(void)state;
	while (*text && poll(&p, 1, 250) == 0)
		if (send(fd, text++, 1, MSG_NOSIGNAL) < 0)
			break;
	assert_string_equal(read_all(fd), "");
	assert_in_range(cv_now_ms() - start, CV_LIMIT_ADMIN_REQUEST_MS,
			4 * CV_LIMIT_ADMIN_REQUEST_MS);
	close(fd);
}

static void test_silent_client(void **state)
{
	uint64_t start = cv_now_ms();
	int fd = dial(CV_HTTP_METRICS);

	(void)state;
	assert_string_equal(read_all(fd), "");
	assert_in_range(cv_now_ms() - start, CV_LIMIT_ADMIN_REQUEST_MS,
			4 * CV_LIMIT_ADMIN_REQUEST_MS);
	close(fd);
}

static void test_huge_header(void **state)
{
	char *junk = malloc(CV_LIMIT_ADMIN_HEADER + 1);
	int fd = dial(CV_HTTP_ADMIN);

	(void)state;
	memset(junk, 'a', CV_LIMIT_ADMIN_HEADER);
	junk[CV_LIMIT_ADMIN_HEADER] = '\0';
	send_text(fd, "GET / HTTP/1.1\r\nX: ");
	send_text(fd, junk);
	free(junk);
	assert_int_equal(code_of(read_all(fd)), 400);
	close(fd);
}

static void test_huge_body(void **state)
{
	int fd = dial(CV_HTTP_ADMIN);

	(void)state;
	send_text(fd, "POST /logging HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n");
	assert_int_equal(code_of(read_all(fd)), 413);
	close(fd);
}

static void test_garbage(void **state)
{
	static const char *const rows[] = { "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "\r\n\r\n\r\n",
					    "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
					    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		int fd = dial(CV_HTTP_ADMIN);

		send_text(fd, rows[i]);
		assert_int_not_equal(code_of(read_all(fd)), 200);
		close(fd);
	}
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "GET /")), 200);
}

/* `printf … | nc`: the client has sent everything and says so before it reads. */
static void test_half_close(void **state)
{
	int fd = dial(CV_HTTP_ADMIN);

	(void)state;
	send_text(fd, "GET /config_dump HTTP/1.1\r\nConnection: close\r\n\r\n");
	shutdown(fd, SHUT_WR);
	assert_int_equal(code_of(read_all(fd)), 200);
	close(fd);
}

/* Several requests on one connection. */
static void test_keep_alive(void **state)
{
	int fd = dial(CV_HTTP_READINESS);
	char buf[1024];
	ssize_t n;

	(void)state;
	for (int i = 0; i < 3; i++) {
		send_text(fd, "GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n");
		n = recv(fd, buf, sizeof(buf) - 1, 0);
		assert_true(n > 0);
		buf[n] = '\0';
		assert_int_equal(code_of(buf), 200);
	}
	close(fd);
}

/* Clients beyond the bound wait in the kernel until others are gone; nobody is starved. */
static void test_too_many_clients(void **state)
{
	int fds[CV_LIMIT_ADMIN_CLIENTS], extra;
	struct pollfd p = { .events = POLLIN };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++)
		fds[i] = dial(CV_HTTP_ADMIN);
	extra = dial(CV_HTTP_ADMIN);
	send_text(extra, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
	p.fd = extra;
	assert_int_equal(poll(&p, 1, 500), 0);
	/* The silent ones are over their time soon. */
	assert_int_equal(code_of(read_all(extra)), 200);
	close(extra);
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++)
		close(fds[i]);
	assert_int_equal(code_of(ask(CV_HTTP_ADMIN, "GET /")), 200);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_codes),
		TEST(test_metrics_types),
		TEST(test_readiness),
		TEST(test_nothing_found),
		TEST(test_config_dump),
		TEST(test_logging),
		TEST(test_quit),
		cmocka_unit_test_setup_teardown(test_read_only, setup_read_only, teardown),
		TEST(test_addresses),
		TEST(test_slow_header),
		TEST(test_silent_client),
		TEST(test_huge_header),
		TEST(test_huge_body),
		TEST(test_garbage),
		TEST(test_half_close),
		TEST(test_keep_alive),
		TEST(test_too_many_clients),
	};

	cv_log_filter_add("off", true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
