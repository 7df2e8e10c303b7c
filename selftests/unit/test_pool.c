/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's rules, seen from outside: how many HBONE connections there are for how many sessions.
 * Also what else counts connections: limits, waiting, draining, the end of a pod.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/proxylab.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"

#define SERVER "127.0.0.2"
enum { PORT = 8080, MAX = 128 };

static struct proxylab lab;
static int listener;
static int clients[MAX], servers[MAX];

static void start(const struct proxylab_opts *opts)
{
	proxylab_start(&lab, opts);
	listener = proxylab_listen(SERVER, PORT);
}

static void stop(void)
{
	cv_close(&listener);
	proxylab_stop(&lab);
}

/* ---- helpers ------------------------------------------------------------------------------------ */

/* Opens sessions `first` to `last`-1 at once, then takes the other ends. They come in any order, so
 * each client says its number. */
static void open_sessions(unsigned worker, int first, int last)
{
	for (int i = first; i < last; i++) {
		char number = (char)i;

		clients[i] = proxylab_outbound(&lab, worker, SERVER, PORT);
		assert_int_equal(send(clients[i], &number, 1, MSG_NOSIGNAL), 1);
	}
	for (int i = first; i < last; i++) {
		int fd = proxylab_accept(listener, NULL);
		char number;

		assert_int_equal(recv(fd, &number, 1, 0), 1);
		assert_in_range(number, first, last - 1);
		servers[(int)number] = fd;
	}
}

static void close_sessions(int first, int last)
{
	for (int i = first; i < last; i++) {
		cv_close(&clients[i]);
		cv_close(&servers[i]);
	}
}

static uint64_t pooled(void)
{
	return proxylab_stats(&lab).hbone_pooled;
}

static bool is_pooled(void *arg)
{
	return pooled() == (uintptr_t)arg;
}

static void expect_pooled(unsigned n)
{
	assert_true(proxylab_wait(is_pooled, (void *)(uintptr_t)n));
}

static bool is_idle(void *arg)
{
	struct cv_proxy_stats s = proxylab_stats(&lab);

	(void)arg;
	return s.connections == s.hbone_inbound;
}

static bool waits(void *arg)
{
	return proxylab_stats(&lab).waiting == (uintptr_t)arg;
}

static void expect_reset(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
}

static void say(int from, int to, const char *text)
{
	char buf[64] = "";

	assert_int_equal(send(from, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	assert_int_equal(recv(to, buf, strlen(text), MSG_WAITALL), strlen(text));
	assert_string_equal(buf, text);
}

/* ---- pool --------------------------------------------------------------------------------------- */

/* One connection carries many sessions, those that come while it is being dialled included. */
static void test_one_connection_for_many(void **state)
{
	static const struct proxylab_opts opts;

	(void)state;
	start(&opts);
	open_sessions(0, 0, 50);
	assert_int_equal(pooled(), 1);
	close_sessions(0, 50);
	stop();
}

/* Each worker has a pool: a pair of peers has several connections. */
static void test_one_pool_a_worker(void **state)
{
	static const struct proxylab_opts opts;

	(void)state;
	start(&opts);
	open_sessions(0, 0, 5);
	open_sessions(1, 5, 10);
	assert_int_equal(pooled(), 2);
	close_sessions(0, 10);
	stop();
}

/* Four streams a connection: ten sessions need three. Full connections come back into service. */
static void test_full_connections(void **state)
{
	static const struct proxylab_opts opts = { .pool_max_streams = 4 };

	(void)state;
	start(&opts);
	open_sessions(0, 0, 10);
	assert_int_equal(pooled(), 3);
	close_sessions(0, 8);
	assert_true(proxylab_wait(is_pooled, (void *)3));
	usleep(50000); /* streams end when both ends have said so */
	open_sessions(0, 0, 8);
	assert_int_equal(pooled(), 3);
	for (int i = 0; i < 10; i++)
		say(clients[i], servers[i], "alive");
	close_sessions(0, 10);
	stop();
}

/* Without streams a connection stays for its time, with one it stays. */
static void test_idle_eviction(void **state)
{
	static const struct proxylab_opts opts = { .pool_max_streams = 1, .pool_idle_ms = 200 };

	(void)state;
	start(&opts);
	open_sessions(0, 0, 3);
	assert_int_equal(pooled(), 3);
	close_sessions(1, 3);
	expect_pooled(1);
	say(clients[0], servers[0], "alive");
	close_sessions(0, 1);
	expect_pooled(0);
	stop();
}

/* Nobody listens on 15008: all who waited for the dial are told, and the next one dials anew. */
static void test_dial_fails(void **state)
{
	static const struct proxylab_opts opts;

	(void)state;
	start(&opts);
	proxylab_close_listeners(&lab);
	for (int i = 0; i < 20; i++)
		clients[i] = proxylab_outbound(&lab, 0, SERVER, PORT);
	for (int i = 0; i < 20; i++) {
		expect_reset(clients[i]);
		cv_close(&clients[i]);
	}
	assert_int_equal(pooled(), 0);
	assert_true(proxylab_wait(is_idle, NULL));
	stop();
}

/* ---- limits ------------------------------------------------------------------------------------- */

/* Two sessions and one inbound HBONE connection are a connection through this pod. */
static void test_max_connections(void **state)
{
	static const struct proxylab_opts opts = { .max_connections = 8 };

	(void)state;
	start(&opts);
	for (int i = 0; i < 40; i++)
		clients[i] = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	for (int i = 0; i < 8; i++)
		servers[i] = proxylab_accept(listener, NULL);
	for (int i = 8; i < 40; i++) {
		expect_reset(clients[i]);
		cv_close(&clients[i]);
	}
	close_sessions(0, 8);
	assert_true(proxylab_wait(is_idle, NULL));
	clients[0] = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	servers[0] = proxylab_accept(listener, NULL);
	say(clients[0], servers[0], "room again");
	close_sessions(0, 1);
	stop();
}

/* ---- the pod's record ---------------------------------------------------------------------------- */

/* Connections of a pod without a record wait for it and then go on, whichever way they go. */
static void test_wait_for_record(void **state)
{
	static const struct proxylab_opts opts = { .no_workload = true };

	(void)state;
	start(&opts);
	clients[0] = proxylab_outbound(&lab, 0, SERVER, PORT);
	clients[1] = proxylab_plain(&lab, 1, "127.0.0.5", SERVER, PORT);
	assert_true(proxylab_wait(waits, (void *)2));
	proxylab_add_workload(&lab);
	for (int i = 0; i < 2; i++)
		servers[i] = proxylab_accept(listener, NULL);
	assert_int_equal(proxylab_stats(&lab).waiting, 0);
	close_sessions(0, 2);
	stop();
}

/* … and are refused after five seconds without one. */
static void test_record_does_not_come(void **state)
{
	static const struct proxylab_opts opts = { .no_workload = true };

	(void)state;
	start(&opts);
	clients[0] = proxylab_outbound(&lab, 0, SERVER, PORT);
	expect_reset(clients[0]);
	cv_close(&clients[0]);
	assert_true(proxylab_wait(is_idle, NULL));
	assert_int_equal(proxylab_stats(&lab).waiting, 0);
	stop();
}

/* A pod that goes while its connections wait leaves nothing behind (the sanitizer looks). */
static void test_stop_while_waiting(void **state)
{
	static const struct proxylab_opts opts = { .no_workload = true };

	(void)state;
	start(&opts);
	clients[0] = proxylab_outbound(&lab, 0, SERVER, PORT);
	assert_true(proxylab_wait(waits, (void *)1));
	proxylab_stop_pod(&lab);
	expect_reset(clients[0]);
	cv_close(&clients[0]);
	stop();
}

/* ---- the end ------------------------------------------------------------------------------------- */

/* A pod that goes while busy: its sockets are reset, and no fd of its connections is left. */
static void test_stop_busy_pod(void **state)
{
	static const struct proxylab_opts opts;
	unsigned fds;

	(void)state;
	start(&opts);
	open_sessions(0, 0, 20);
	open_sessions(1, 20, 40);
	fds = proxylab_count_fds();
	proxylab_stop_pod(&lab);
	for (int i = 0; i < 40; i++) {
		char c;

		assert_true(recv(clients[i], &c, 1, 0) <= 0);
		assert_true(recv(servers[i], &c, 1, 0) <= 0);
	}
	/* Listeners of two workers, 40 sockets of either kind, and the HBONE connections' ends. */
	assert_true(proxylab_count_fds() <= fds - 6 - 80 - 4);
	close_sessions(0, 40);
	stop();
}

/* Draining: who is there may finish, nobody new gets in, and the end is told once. */
static void test_drain(void **state)
{
	static const struct proxylab_opts opts;
	sem_t done;

	(void)state;
	start(&opts);
	sem_init(&done, 0, 0);
	open_sessions(0, 0, 2);
	proxylab_drain(&lab, 60000, &done);
	say(clients[0], servers[0], "still here");
	say(servers[1], clients[1], "here too");
	assert_int_equal(proxylab_try_connect("127.0.0.2", CV_PORT_HBONE), -ECONNREFUSED);
	assert_int_equal(sem_trywait(&done), -1);
	close_sessions(0, 2);
	assert_int_equal(proxylab_sem_wait(&done), 0);
	sem_destroy(&done);
	stop();
}

static bool has_one_connection(void *arg)
{
	(void)arg;
	return proxylab_stats(&lab).connections == 1;
}

/* A handshake that is under way is not cut: the peer was let in before. */
static void test_drain_in_handshake(void **state)
{
	static const struct proxylab_opts opts;
	const struct sockaddr_in to = { .sin_family = AF_INET,
					.sin_port = htons(CV_PORT_HBONE),
					.sin_addr.s_addr = htonl(0x7f000002) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	sem_t done;
	char c;

	(void)state;
	start(&opts);
	sem_init(&done, 0, 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(send(fd, "\x16\x03\x01", 3, 0), 3); /* the begin of a ClientHello */
	assert_true(proxylab_wait(has_one_connection, NULL));
	proxylab_drain(&lab, 60000, &done);
	for (int i = 0; i < 5; i++) {
		usleep(20000);
		assert_int_equal(send(fd, i ? "\x01" : "\x40", 1, MSG_NOSIGNAL), 1);
		assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), -1);
		assert_int_equal(errno, EAGAIN);
	}
	assert_int_equal(sem_trywait(&done), -1);
	cv_close(&fd);
	assert_int_equal(proxylab_sem_wait(&done), 0);
	sem_destroy(&done);
	stop();
}

static void block(void *arg)
{
	sem_wait(arg);
}

static void post(void *arg)
{
	sem_post(arg);
}

/* Does not wait for the workers, as proxylab_drain does. */
static void begin_drain(void *arg)
{
	cv_proxy_drain(lab.proxy, 60000, post, arg);
}

/* What the kernel has accepted for us before the drain is served, although nobody has taken it. */
static void test_drain_takes_the_backlog(void **state)
{
	enum { CLIENTS = 16 };
	static const struct proxylab_opts opts;
	const struct sockaddr_in to = { .sin_family = AF_INET,
					.sin_port = htons(CV_PORT_HBONE),
					.sin_addr.s_addr = htonl(0x7f000002) };
	sem_t done, go;
	int fds[CLIENTS];
	char c;

	(void)state;
	start(&opts);
	sem_init(&done, 0, 0);
	sem_init(&go, 0, 0);
	for (int i = 0; i < LAB_WORKERS; i++)
		cv_worker_post(lab.workers[i], block, &go);
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fds[i], (const struct sockaddr *)&to, sizeof(to)), 0);
	}
	proxylab_run(lab.control, begin_drain, &done);
	for (int i = 0; i < LAB_WORKERS; i++)
		sem_post(&go);
	usleep(100000);
	for (int i = 0; i < CLIENTS; i++) {
		assert_int_equal(recv(fds[i], &c, 1, MSG_DONTWAIT), -1);
		assert_int_equal(errno, EAGAIN);
		cv_close(&fds[i]);
	}
	assert_int_equal(proxylab_sem_wait(&done), 0);
	sem_destroy(&done);
	sem_destroy(&go);
	stop();
}

/* … and is over at the deadline, when what is left is closed. */
static void test_drain_deadline(void **state)
{
	static const struct proxylab_opts opts;
	sem_t done;

	(void)state;
	start(&opts);
	sem_init(&done, 0, 0);
	open_sessions(0, 0, 2);
	proxylab_drain(&lab, 300, &done);
	assert_int_equal(proxylab_sem_wait(&done), 0);
	for (int i = 0; i < 2; i++)
		expect_reset(clients[i]);
	close_sessions(0, 2);
	sem_destroy(&done);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_connection_for_many),
		cmocka_unit_test(test_one_pool_a_worker),
		cmocka_unit_test(test_full_connections),
		cmocka_unit_test(test_idle_eviction),
		cmocka_unit_test(test_dial_fails),
		cmocka_unit_test(test_max_connections),
		cmocka_unit_test(test_wait_for_record),
		cmocka_unit_test(test_record_does_not_come),
		cmocka_unit_test(test_stop_while_waiting),
		cmocka_unit_test(test_stop_busy_pod),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_drain_in_handshake),
		cmocka_unit_test(test_drain_takes_the_backlog),
		cmocka_unit_test(test_drain_deadline),
	};

	if (proxylab_unshare()) {
		printf("1..0 # SKIP no network namespace to be had\n");
		return 4;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
