/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DNS proxy as it is without the kernel's capture: clients talk to 127.0.0.1:15053, upstream are
 * the servers of resolv.conf (127.0.0.53, then 127.0.0.54), which the test plays itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "selftests/lib/proxylab.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/proto/dns.h"

#define FIRST  "127.0.0.53"
#define SECOND "127.0.0.54"

static struct proxylab lab;
static bool cannot;

/* ---- set-up ------------------------------------------------------------------------------------ */

/* A resolv.conf of our own in a mount namespace of our own. */
static int replace_resolv_conf(void)
{
	static const char text[] = "nameserver " FIRST "\nnameserver " SECOND
				   "\noptions timeout:1 attempts:2\n";
	char path[] = "/tmp/culvert-resolv-XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	int r = 0;

	if (fd < 0 || write(fd, text, sizeof(text) - 1) != sizeof(text) - 1)
		return -EIO;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL))
		r = -errno;
	unlink(path);
	return r;
}

static void add_service(void *arg)
{
	cv_fixture_apply(arg, "services:\n- {name: web, namespace: ns, hostname: "
			      "web.ns.svc.cluster.local, vips: [/10.0.0.1], ports: {80: 80}}\n");
}

static int start(void **state)
{
	const struct proxylab_opts opts = { .dns = true };

	(void)state;
	if (cannot)
		return 0;
	proxylab_start(&lab, &opts);
	proxylab_run(lab.control, add_service, lab.store);
	return 0;
}

static int start_without_record(void **state)
{
	const struct proxylab_opts opts = { .dns = true, .no_workload = true };

	(void)state;
	if (!cannot)
		proxylab_start(&lab, &opts);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	if (!cannot)
		proxylab_stop(&lab);
	return cv_str_count() != 0;
}

#define SKIP_UNLESS_POSSIBLE()  \
	do {                    \
		if (cannot)     \
			skip(); \
	} while (0)

/* ---- sockets ----------------------------------------------------------------------------------- */

static socklen_t native(const char *ip, uint16_t port, struct sockaddr_storage *ret)
{
	struct cv_sockaddr a = { .port = port };

	assert_int_equal(cv_addr_parse(ip, &a.ip), 0);
	return cv_sockaddr_to_native(&a, ret);
}

static int make_socket(int type)
{
	static const struct timeval patience = { .tv_sec = 20 };
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1, bytes = 1 << 22;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static int client(int type)
{
	struct sockaddr_storage ss;
	socklen_t len = native("127.0.0.1", CV_PORT_DNS_PROXY, &ss);
	int fd = make_socket(type);

	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	return fd;
}

static int server(const char *ip, int type)
{
	struct sockaddr_storage ss;
	socklen_t len = native(ip, CV_PORT_DNS, &ss);
	int fd = make_socket(type);

	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, 16), 0);
	return fd;
}

/* ---- messages ---------------------------------------------------------------------------------- */

struct message {
	uint8_t b[4096];
	size_t len;
};

static struct message query(uint16_t id, const char *name)
{
	struct message m = { .b = { (uint8_t)(id >> 8), (uint8_t)id, 1, 0, 0, 1 }, .len = 12 };

	while (*name) {
		size_t n = strcspn(name, ".");

		m.b[m.len++] = (uint8_t)n;
		memcpy(m.b + m.len, name, n);
		m.len += n;
		name += n + (name[n] == '.');
	}
	memcpy(m.b + m.len, "\0\0\1\0\1", 5);
	m.len += 5;
	return m;
}

/* What a server says to a query that it got; 192.0.2.1 when it says no error. */
static struct message reply_to(const struct message *got, unsigned rcode, bool cut)
{
	struct message m = *got;

	m.b[2] = (uint8_t)(0x84 | (cut ? 2 : 0));
	m.b[3] = (uint8_t)(0x80 | rcode);
	if (!rcode && !cut) {
		m.b[7] = 1;
		memcpy(m.b + m.len, "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1", 16);
		m.len += 16;
	}
	return m;
}

static void send_message(int fd, const struct message *m)
{
	assert_int_equal(send(fd, m->b, m->len, MSG_NOSIGNAL), (ssize_t)m->len);
}

static struct message receive(int fd)
{
	struct message m;
	ssize_t n = recv(fd, m.b, sizeof(m.b), 0);

	assert_true(n >= 12);
	m.len = (size_t)n;
	return m;
}

/* Takes the next query of a server and answers it. */
static void serve(int fd, unsigned rcode, bool cut)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct message m;
	ssize_t n = recvfrom(fd, m.b, sizeof(m.b), 0, (struct sockaddr *)&ss, &len);

	assert_true(n >= 12);
	m.len = (size_t)n;
	m = reply_to(&m, rcode, cut);
	sendto(fd, m.b, m.len, 0, (struct sockaddr *)&ss, len);
}

static void send_tcp(int fd, const struct message *m)
{
	uint8_t b[2 + sizeof(m->b)] = { (uint8_t)(m->len >> 8), (uint8_t)m->len };

	memcpy(b + 2, m->b, m->len);
	assert_int_equal(send(fd, b, m->len + 2, MSG_NOSIGNAL), (ssize_t)m->len + 2);
}

static struct message receive_tcp(int fd)
{
	uint8_t length[2];
	struct message m;

	assert_int_equal(recv(fd, length, 2, MSG_WAITALL), 2);
	m.len = (size_t)(length[0] << 8 | length[1]);
	assert_in_range(m.len, 12, sizeof(m.b));
	assert_int_equal(recv(fd, m.b, m.len, MSG_WAITALL), (ssize_t)m.len);
	return m;
}

static unsigned id_of(const struct message *m)
{
	return (unsigned)(m->b[0] << 8 | m->b[1]);
}

static unsigned rcode_of(const struct message *m)
{
	return m->b[3] & 15;
}

static bool has_address(const struct message *m, const char *ip)
{
	struct cv_addr a;

	assert_int_equal(cv_addr_parse(ip, &a), 0);
	return m->b[7] == 1 && memcmp(m->b + m->len - 4, a.b + 12, 4) == 0;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void test_udp(void **state)
{
	_cleanup_close_ int up = -1, fd = -1;
	struct message m, web, other;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	web = query(1, "web");
	other = query(2, "other.example");
	up = server(FIRST, SOCK_DGRAM);
	fd = client(SOCK_DGRAM);
	send_message(fd, &web);
	m = receive(fd);
	assert_int_equal(id_of(&m), 1);
	assert_true(has_address(&m, "10.0.0.1"));
	send_message(fd, &other);
	serve(up, 0, false);
	m = receive(fd);
	assert_int_equal(id_of(&m), 2);
	assert_int_equal(m.b[2], 0x80); /* not authoritative */
	assert_true(has_address(&m, "192.0.2.1"));
}

/* A server that is not there, cannot, or stays silent is followed by the next. */
static void test_next_server(void **state)
{
	static const struct {
		bool there;
		int rcode; /* -1 = silent */
	} firsts[] = {
		{ false, 0 }, { true, CV_DNS_SERVFAIL }, { true, CV_DNS_REFUSED }, { true, -1 }
	};
	_cleanup_close_ int second = -1, fd = -1;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	second = server(SECOND, SOCK_DGRAM);
	fd = client(SOCK_DGRAM);
	for (uint16_t i = 0; i < CV_ARRAY_SIZE(firsts); i++) {
		_cleanup_close_ int first = firsts[i].there ? server(FIRST, SOCK_DGRAM) : -1;
		struct message m = query(i, "other.example");

		send_message(fd, &m);
		if (firsts[i].there && firsts[i].rcode >= 0)
			serve(first, (unsigned)firsts[i].rcode, false);
		serve(second, 0, false);
		m = receive(fd);
		assert_int_equal(id_of(&m), i);
		assert_true(has_address(&m, "192.0.2.1"));
	}
}

static void test_all_servers_fail(void **state)
{
	_cleanup_close_ int fd = -1, first = -1;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	fd = client(SOCK_DGRAM);
	m = query(1, "other.example");
	send_message(fd, &m);
	m = receive(fd);
	assert_int_equal(rcode_of(&m), CV_DNS_SERVFAIL);
	/* What one of them said is told, when no other says better. */
	first = server(FIRST, SOCK_DGRAM);
	m = query(2, "other.example");
	send_message(fd, &m);
	serve(first, CV_DNS_REFUSED, false);
	m = receive(fd);
	assert_int_equal(rcode_of(&m), CV_DNS_REFUSED);
}

/* Cut answers are for clients of UDP; a client of TCP gets the whole of it. */
static void test_truncated(void **state)
{
	_cleanup_close_ int udp = -1, tcp = -1, fd = -1, conn = -1, up = -1;
	struct message m, got;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	udp = server(FIRST, SOCK_DGRAM);
	tcp = server(FIRST, SOCK_STREAM);
	fd = client(SOCK_DGRAM);
	m = query(1, "big.example");
	send_message(fd, &m);
	serve(udp, 0, true);
	got = receive(fd);
	assert_int_equal(got.b[2] & 2, 2);

	conn = client(SOCK_STREAM);
	send_tcp(conn, &m);
	serve(udp, 0, true);
	up = accept(tcp, NULL, NULL);
	assert_true(up >= 0);
	got = receive_tcp(up);
	assert_int_equal(got.len, m.len);
	got = reply_to(&got, 0, false);
	send_tcp(up, &got);
	got = receive_tcp(conn);
	assert_int_equal(id_of(&got), 1);
	assert_true(has_address(&got, "192.0.2.1"));
}

/* A server that speaks TCP alone is found by a client of TCP. */
static void test_tcp_only(void **state)
{
	_cleanup_close_ int tcp = -1, conn = -1, up = -1;
	struct message m, got;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	tcp = server(FIRST, SOCK_STREAM);
	conn = client(SOCK_STREAM);
	m = query(1, "other.example");
	send_tcp(conn, &m);
	up = accept(tcp, NULL, NULL);
	assert_true(up >= 0);
	got = receive_tcp(up);
	got = reply_to(&got, 0, false);
	send_tcp(up, &got);
	got = receive_tcp(conn);
	assert_true(has_address(&got, "192.0.2.1"));
}

/* An upstream that keeps talking without an answer is given up in the end, like a silent one. */
static void test_chatter(void **state)
{
	enum { SECONDS = CV_LIMIT_DNS_FORWARD_MS / 1000 + 5 };
	_cleanup_close_ int up = -1, fd = -1;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct pollfd p = { .events = POLLIN };
	struct message m, got;
	int i = 0;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	up = server(FIRST, SOCK_DGRAM);
	fd = client(SOCK_DGRAM);
	m = query(1, "other.example");
	send_message(fd, &m);
	assert_true(recvfrom(up, got.b, sizeof(got.b), 0, (struct sockaddr *)&ss, &len) > 0);
	p.fd = fd;
	for (; i < 2 * SECONDS && poll(&p, 1, 500) == 0; i++)
		sendto(up, "chatter", 7, 0, (struct sockaddr *)&ss, len);
	assert_true(i < 2 * SECONDS);
	got = receive(fd);
	assert_int_equal(rcode_of(&got), CV_DNS_SERVFAIL);
}

/* More queries on one connection than are taken at once, in pieces that cut through messages. */
static void test_tcp_pipeline(void **state)
{
	enum { N = 4 * CV_LIMIT_DNS_TCP_PIPELINE, PIECE = 7 };
	_cleanup_close_ int fd = -1;
	static uint8_t b[N * 64];
	bool seen[N] = { false };
	size_t len = 0;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	fd = client(SOCK_STREAM);
	for (uint16_t i = 0; i < N; i++) {
		struct message m = query(i, i % 2 ? "web" : "web.ns");

		b[len++] = 0;
		b[len++] = (uint8_t)m.len;
		memcpy(b + len, m.b, m.len);
		len += m.len;
	}
	for (size_t at = 0; at < len; at += PIECE)
		assert_true(send(fd, b + at, len - at < PIECE ? len - at : PIECE, MSG_NOSIGNAL) >
			    0);
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < N; i++) {
		struct message m = receive_tcp(fd);

		assert_true(id_of(&m) < N && !seen[id_of(&m)]);
		seen[id_of(&m)] = true;
		assert_true(has_address(&m, "10.0.0.1"));
	}
	assert_int_equal(recv(fd, b, 1, 0), 0);
}

/* The same of forwarded ones: not more upstream than the pipeline holds, and the rest once there are
 * answers. */
static void test_tcp_pipeline_is_bounded(void **state)
{
	enum { N = 2 * CV_LIMIT_DNS_TCP_PIPELINE };
	_cleanup_close_ int up = -1, fd = -1;
	static struct sockaddr_storage from[N];
	static struct message asked[N];
	struct pollfd p = { .events = POLLIN };
	int n = 0;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	up = server(FIRST, SOCK_DGRAM);
	fd = client(SOCK_STREAM);
	for (uint16_t i = 0; i < N; i++) {
		struct message m = query(i, "other.example");

		send_tcp(fd, &m);
	}
	p.fd = up;
	for (; n < N && poll(&p, 1, 500) > 0; n++) {
		socklen_t len = sizeof(from[n]);

		asked[n].len = (size_t)recvfrom(up, asked[n].b, sizeof(asked[n].b), 0,
						(struct sockaddr *)&from[n], &len);
	}
	/* Those that timed out make room: so not more than the pipeline in half a second. */
	assert_int_equal(n, CV_LIMIT_DNS_TCP_PIPELINE);
	for (int i = 0; i < n; i++) {
		struct message m = reply_to(&asked[i], 0, false);

		sendto(up, m.b, m.len, 0, (struct sockaddr *)&from[i], sizeof(struct sockaddr_in));
	}
	for (int i = n; i < N; i++)
		serve(up, 0, false);
	for (int i = 0; i < N; i++) {
		struct message m = receive_tcp(fd);

		assert_true(has_address(&m, "192.0.2.1"));
	}
}

static void test_bad_tcp(void **state)
{
	static const uint8_t too_long[] = { 0x10, 0x01 }, short_message[] = { 0, 3, 1, 2, 3 };
	_cleanup_close_ int a = -1, b = -1, idle = -1;
	uint8_t byte;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	idle = client(SOCK_STREAM);
	a = client(SOCK_STREAM);
	assert_int_equal(send(a, too_long, sizeof(too_long), 0), sizeof(too_long));
	assert_true(recv(a, &byte, 1, 0) <= 0);
	b = client(SOCK_STREAM);
	assert_int_equal(send(b, short_message, sizeof(short_message), 0), sizeof(short_message));
	assert_true(recv(b, &byte, 1, 0) <= 0);
	/* Nothing for five seconds; recv() waits twenty. */
	assert_int_equal(recv(idle, &byte, 1, 0), 0);
}

static void test_too_many_connections(void **state)
{
	int fds[LAB_WORKERS * CV_LIMIT_DNS_TCP + 64];
	int closed = 0;
	uint8_t byte;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++)
		fds[i] = client(SOCK_STREAM);
	usleep(300000);
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++) {
		closed += recv(fds[i], &byte, 1, MSG_DONTWAIT) < 0 && errno != EAGAIN;
		close(fds[i]);
	}
	assert_in_range(closed, 64, CV_ARRAY_SIZE(fds) - CV_LIMIT_DNS_TCP);
}

/* What is beyond the limit is refused at once, and the rest when its time is up. */
static void test_too_many_queries(void **state)
{
	enum { N = CV_LIMIT_DNS_QUERIES_POD + 100 };
	_cleanup_close_ int up = -1, fd = -1;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	up = server(FIRST, SOCK_DGRAM);
	fd = client(SOCK_DGRAM); /* one socket: one worker */
	for (unsigned i = 0; i < N; i++) {
		m = query((uint16_t)i, "other.example");
		send_message(fd, &m);
		if (i % 256 == 255)
			usleep(20000);
	}
	for (unsigned i = 0; i < 50; i++) {
		m = receive(fd);
		assert_int_equal(rcode_of(&m), CV_DNS_SERVFAIL);
		assert_true(id_of(&m) >= CV_LIMIT_DNS_QUERIES_POD);
	}
}

static void test_record_comes_late(void **state)
{
	_cleanup_close_ int fd = -1;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	fd = client(SOCK_DGRAM);
	m = query(1, "web");
	send_message(fd, &m);
	proxylab_run(lab.control, add_service, lab.store);
	usleep(50000);
	proxylab_add_workload(&lab);
	m = receive(fd);
	assert_true(has_address(&m, "10.0.0.1"));
}

static void test_record_never_comes(void **state)
{
	_cleanup_close_ int fd = -1;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	fd = client(SOCK_DGRAM);
	m = query(1, "web");
	send_message(fd, &m);
	m = receive(fd);
	assert_int_equal(rcode_of(&m), CV_DNS_SERVFAIL);
}

/* The pod goes while queries wait, upstream and for its record: nothing is left of them. */
static void test_stop_while_busy(void **state)
{
	_cleanup_close_ int up = -1, tcp = -1, fd = -1, conn = -1;
	unsigned before;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	before = proxylab_count_fds();
	up = server(FIRST, SOCK_DGRAM);
	tcp = server(FIRST, SOCK_STREAM);
	fd = client(SOCK_DGRAM);
	conn = client(SOCK_STREAM);
	m = query(1, "other.example");
	for (int i = 0; i < 20; i++)
		send_message(fd, &m);
	send_tcp(conn, &m);
	send_tcp(conn, &m);
	for (int i = 0; i < 10; i++)
		serve(up, 0, true); /* some of them go on by TCP, and hang there */
	proxylab_stop_pod(&lab);
	/* The four of the test, and not those of the pod's own listeners. */
	assert_true(proxylab_count_fds() <= before + 4);
}

static void test_stop_while_waiting(void **state)
{
	_cleanup_close_ int fd = -1;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	fd = client(SOCK_DGRAM);
	m = query(1, "web");
	for (int i = 0; i < 20; i++)
		send_message(fd, &m);
	usleep(50000);
	proxylab_stop_pod(&lab);
	proxylab_add_workload(&lab);
}

static void test_metrics(void **state)
{
	_cleanup_close_ int up = -1, fd = -1;
	_cleanup_free_ char *text = NULL;
	struct message m;

	(void)state;
	SKIP_UNLESS_POSSIBLE();
	up = server(FIRST, SOCK_DGRAM);
	fd = client(SOCK_DGRAM);
	m = query(1, "web");
	send_message(fd, &m);
	receive(fd);
	m = query(2, "other.example");
	send_message(fd, &m);
	serve(up, 0, false);
	receive(fd);
	m = query(3, "other.example");
	send_message(fd, &m);
	serve(up, CV_DNS_NXDOMAIN, false);
	receive(fd);
	text = cv_metrics_text(lab.telemetry);
#define LABELS                                               \
	"request_query_type=\"a\",request_protocol=\"udp\"," \
	"source_canonical_service=\"app\",source_canonical_revision=\"v1\"}"
	assert_non_null(strstr(text, "\nistio_dns_requests_total{" LABELS " 3\n"));
	assert_non_null(strstr(text, "\nistio_dns_upstream_requests_total{" LABELS " 2\n"));
	assert_non_null(strstr(text, "\nistio_dns_upstream_failures_total{" LABELS " 1\n"));
	assert_non_null(
		strstr(text, "# TYPE istio_dns_upstream_request_duration_seconds histogram\n"));
	assert_non_null(strstr(text, "\nistio_dns_upstream_request_duration_seconds_bucket{"
				     "le=\"+Inf\"," LABELS " 2\n"));
}

static int prepare(void **state)
{
	int r = proxylab_unshare();

	(void)state;
	if (!r)
		r = replace_resolv_conf();
	cannot = r < 0;
	if (cannot)
		print_message("# no network namespace to be had: %s\n", strerror(-r));
	rcu_register_thread();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_udp, start, stop),
		cmocka_unit_test_setup_teardown(test_next_server, start, stop),
		cmocka_unit_test_setup_teardown(test_all_servers_fail, start, stop),
		cmocka_unit_test_setup_teardown(test_truncated, start, stop),
		cmocka_unit_test_setup_teardown(test_tcp_only, start, stop),
		cmocka_unit_test_setup_teardown(test_chatter, start, stop),
		cmocka_unit_test_setup_teardown(test_tcp_pipeline, start, stop),
		cmocka_unit_test_setup_teardown(test_tcp_pipeline_is_bounded, start, stop),
		cmocka_unit_test_setup_teardown(test_bad_tcp, start, stop),
		cmocka_unit_test_setup_teardown(test_too_many_connections, start, stop),
		cmocka_unit_test_setup_teardown(test_too_many_queries, start, stop),
		cmocka_unit_test_setup_teardown(test_record_comes_late, start_without_record, stop),
		cmocka_unit_test_setup_teardown(test_record_never_comes, start_without_record,
						stop),
		cmocka_unit_test_setup_teardown(test_stop_while_busy, start, stop),
		cmocka_unit_test_setup_teardown(test_stop_while_waiting, start_without_record,
						stop),
		cmocka_unit_test_setup_teardown(test_metrics, start, stop),
	};

	return cmocka_run_group_tests(tests, prepare, NULL);
}
