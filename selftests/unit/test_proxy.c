/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path on loopback: outbound → TLS → HTTP/2 → inbound → application and back, with
 * certificates, policy and two workers, as one process.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/proxylab.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/session.h"

#define SERVER "127.0.0.2"
enum { PORT = 8080, STOPPED = 8 };

static struct proxylab lab;
static int listener;

static int set_up(void **state)
{
	static const struct proxylab_opts opts;

	(void)state;
	proxylab_start(&lab, &opts);
	listener = proxylab_listen(SERVER, PORT);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	cv_close(&listener);
	proxylab_stop(&lab);
	return 0;
}

/* ---- helpers ------------------------------------------------------------------------------------ */

struct pair {
	int client, server;
};

static struct pair open_pair(unsigned worker)
{
	struct pair p = { .client = proxylab_outbound(&lab, worker, SERVER, PORT) };

	p.server = proxylab_accept(listener, NULL);
	return p;
}

static void close_pair(struct pair *p)
{
	cv_close(&p->client);
	cv_close(&p->server);
}

static void connect_to(int fd, uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	to.sin_addr.s_addr = htonl(0x7f000002);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
}

static void send_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		p += n;
		len -= n;
	}
}

static void expect(int fd, const char *text)
{
	char buf[256] = "";
	size_t want = strlen(text), have = 0;

	while (have < want) {
		ssize_t n = recv(fd, buf + have, want - have, 0);

		assert_true(n > 0);
		have += n;
	}
	assert_memory_equal(buf, text, want);
}

static void say(int from, int to, const char *text)
{
	send_all(from, text, strlen(text));
	expect(to, text);
}

static void expect_eof(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

static void expect_reset(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
}

static bool has_connections(void *arg)
{
	return proxylab_stats(&lab).connections == (uint64_t)(uintptr_t)arg;
}

static void expect_connections(unsigned n)
{
	assert_true(proxylab_wait(has_connections, (void *)(uintptr_t)n));
}

/* Inbound HBONE connections count too; sessions are two a pair: outbound and inbound. */
static unsigned hbone_connections(unsigned pairs)
{
	return 2 * pairs + (unsigned)proxylab_stats(&lab).hbone_inbound;
}

/* ---- bytes -------------------------------------------------------------------------------------- */

/* The simplest proof: both directions carry bytes, and the application sees the client's address
 * on a port above the ephemeral range, where no inbound connection of the client can be. */
static void test_request_and_response(void **state)
{
	struct pair p = { .client = proxylab_outbound(&lab, 0, SERVER, PORT) };
	struct cv_sockaddr peer;

	(void)state;
	p.server = proxylab_accept(listener, &peer);
	assert_int_equal(cv_addr_cmp(&peer.ip, &lab.workload->ips[0]), 0);
	assert_true(peer.port >= CV_LEG_PORT_FIRST);
	say(p.client, p.server, "GET / HTTP/1.1");
	say(p.server, p.client, "200 OK");
	close_pair(&p);
}

/* Each half ends on its own, whichever is first, and the other still carries bytes. */
static void test_half_close_client_first(void **state)
{
	struct pair p = open_pair(0);

	(void)state;
	say(p.client, p.server, "last words");
	shutdown(p.client, SHUT_WR);
	expect_eof(p.server);
	say(p.server, p.client, "still here");
	cv_close(&p.server);
	expect_eof(p.client);
	cv_close(&p.client);
	expect_connections(hbone_connections(0));
}

static void test_half_close_server_first(void **state)
{
	struct pair p = open_pair(1);

	(void)state;
	say(p.server, p.client, "last words");
	shutdown(p.server, SHUT_WR);
	expect_eof(p.client);
	say(p.client, p.server, "still here");
	cv_close(&p.client);
	expect_eof(p.server);
	cv_close(&p.server);
	expect_connections(hbone_connections(0));
}

/* A client that ends at once, before its stream is open, loses nothing. */
static void test_data_and_end_before_the_tunnel(void **state)
{
	struct pair p = { .client = proxylab_outbound(&lab, 0, SERVER, PORT) };

	(void)state;
	send_all(p.client, "hello", 5);
	shutdown(p.client, SHUT_WR);
	p.server = proxylab_accept(listener, NULL);
	expect(p.server, "hello");
	expect_eof(p.server);
	say(p.server, p.client, "bye");
	close_pair(&p);
}

struct flow {
	int fd;
	uint64_t bytes, sum;
	unsigned seed;
	bool failed;
};

enum { TRANSFER = 24 << 20, PIECE = 300000 };

static uint64_t checksum(uint64_t sum, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum = sum * 31 + data[i];
	return sum;
}

/* Pieces of random size and content; asserts are for the main thread. */
static void *write_stream(void *arg)
{
	struct flow *f = arg;
	uint8_t *buf = malloc(PIECE);

	while (f->bytes < TRANSFER && !f->failed) {
		size_t len = 1 + (size_t)rand_r(&f->seed) % PIECE;

		for (size_t i = 0; i < len; i += 16)
			buf[i] = (uint8_t)rand_r(&f->seed);
		f->sum = checksum(f->sum, buf, len);
		for (size_t off = 0; off < len && !f->failed;) {
			ssize_t n = send(f->fd, buf + off, len - off, MSG_NOSIGNAL);

			f->failed = n <= 0;
			off += n > 0 ? n : 0;
		}
		f->bytes += len;
	}
	shutdown(f->fd, SHUT_WR);
	free(buf);
	return NULL;
}

static void *read_stream(void *arg)
{
	struct flow *f = arg;
	uint8_t *buf = malloc(PIECE);
	ssize_t n;

	while ((n = recv(f->fd, buf, 1 + (size_t)rand_r(&f->seed) % PIECE, 0)) > 0) {
		f->sum = checksum(f->sum, buf, n);
		f->bytes += n;
	}
	f->failed = n < 0;
	free(buf);
	return NULL;
}

static void transfer_both_ways(struct pair *p)
{
	struct flow out[2] = { { .fd = p->client, .seed = 1 }, { .fd = p->server, .seed = 2 } };
	struct flow in[2] = { { .fd = p->server, .seed = 3 }, { .fd = p->client, .seed = 4 } };
	pthread_t threads[4];

	for (int i = 0; i < 2; i++) {
		pthread_create(&threads[i], NULL, write_stream, &out[i]);
		pthread_create(&threads[2 + i], NULL, read_stream, &in[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 2; i++) {
		assert_false(out[i].failed);
		assert_false(in[i].failed);
		assert_int_equal(in[i].bytes, out[i].bytes);
		assert_int_equal(in[i].sum, out[i].sum);
	}
}

/* Every byte, in order, both ways at once, whatever sizes they come in. */
static void test_transfer_hbone(void **state)
{
	struct pair p = open_pair(0);

	(void)state;
	transfer_both_ways(&p);
	close_pair(&p);
}

static void test_transfer_plain(void **state)
{
	struct pair p = { .client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT) };

	(void)state;
	p.server = proxylab_accept(listener, NULL);
	transfer_both_ways(&p);
	close_pair(&p);
}

/* ---- back-pressure --------------------------------------------------------------------------------- */

/* Sends until nothing more is taken for a while. */
static size_t fill(int fd)
{
	static const char zeros[65536];
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	size_t total = 0;

	while (poll(&p, 1, 300) == 1) {
		ssize_t n = send(fd, zeros, sizeof(zeros), MSG_DONTWAIT | MSG_NOSIGNAL);

		assert_true(n > 0);
		total += n;
		assert_true(total < 256u << 20);
	}
	return total;
}

struct held {
	unsigned worker;
	size_t chunks, streams;
};

static void add_held(void *arg)
{
	struct held *held = arg;
	struct cv_hbone_conn *c;

	held->chunks += lab.proxy->workers[held->worker].chunks.held;
	TAILQ_FOREACH(c, &lab.pod->lanes[held->worker]->conns, node)
	held->streams += c->held;
}

static struct held count_held(void)
{
	struct held held = { 0 };

	for (held.worker = 0; held.worker < LAB_WORKERS; held.worker++)
		proxylab_run(lab.workers[held.worker], add_held, &held);
	return held;
}

/* Readers that stopped hold more than the connection's window of 16 MiB; what waits for them is
 * bounded by their streams' windows, and another stream of the same connection goes on. */
static void test_stopped_readers(void **state)
{
	struct pair stopped[STOPPED], p;
	struct held held;

	(void)state;
	for (int i = 0; i < STOPPED; i++) {
		stopped[i] = open_pair(0);
		fill(stopped[i].client);
	}
	held = count_held();
	assert_true(held.streams > CV_LIMIT_CONNECTION_WINDOW);
	assert_true(held.streams <= STOPPED * CV_LIMIT_STREAM_WINDOW);
	assert_true(held.chunks <= STOPPED * CV_LIMIT_TCP_READ);
	p = open_pair(0);
	assert_int_equal(proxylab_stats(&lab).hbone_pooled, 1);
	transfer_both_ways(&p);
	close_pair(&p);
	for (int i = 0; i < STOPPED; i++)
		close_pair(&stopped[i]);
	expect_connections(hbone_connections(0));
	held = count_held();
	assert_int_equal(held.streams, 0);
	assert_int_equal(held.chunks, 0);
}

/* ---- ends that are no ends ------------------------------------------------------------------------- */

static void reset_socket(int *fd)
{
	cv_sock_abort(fd);
}

/* A reset on one side ends the other one too: nobody is left hanging. */
static void test_client_reset(void **state)
{
	struct pair p = open_pair(0);

	(void)state;
	say(p.client, p.server, "hello");
	reset_socket(&p.client);
	expect_eof(p.server);
	cv_close(&p.server);
	expect_connections(hbone_connections(0));
}

static void test_server_reset(void **state)
{
	struct pair p = open_pair(0);

	(void)state;
	say(p.client, p.server, "hello");
	reset_socket(&p.server);
	expect_eof(p.client);
	cv_close(&p.client);
	expect_connections(hbone_connections(0));
}

/* No listener: 503 from the inbound side, and the client is reset. */
static void test_application_refuses(void **state)
{
	int client = proxylab_outbound(&lab, 0, SERVER, PORT + 1);

	(void)state;
	expect_reset(client);
	cv_close(&client);
	expect_connections(hbone_connections(0));
}

/* ---- routes and policy ------------------------------------------------------------------------------- */

/* Nobody knows the destination: plain TCP, straight there, no HBONE connection. */
static void test_passthrough(void **state)
{
	int other = proxylab_listen("127.0.0.3", PORT);
	struct pair p = { .client = proxylab_outbound(&lab, 0, "127.0.0.3", PORT) };

	(void)state;
	p.server = proxylab_accept(other, NULL);
	say(p.client, p.server, "plain");
	say(p.server, p.client, "text");
	assert_int_equal(proxylab_stats(&lab).hbone_pooled, 0);
	close_pair(&p);
	cv_close(&other);
	expect_connections(0);
}

static void test_passthrough_refused(void **state)
{
	int client = proxylab_outbound(&lab, 0, "127.0.0.3", PORT);

	(void)state;
	expect_reset(client);
	cv_close(&client);
	expect_connections(0);
}

/* Our own ports are no destinations. */
static void test_loop_guard(void **state)
{
	static const uint16_t ports[] = { CV_PORT_OUTBOUND, CV_PORT_INBOUND, CV_PORT_HBONE };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(ports); i++) {
		int client = proxylab_outbound(&lab, 0, "127.0.0.1", ports[i]);

		expect_reset(client);
		cv_close(&client);
		client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, ports[i]);
		expect_reset(client);
		cv_close(&client);
	}
	expect_connections(0);
}

/* Plain inbound: the application sees who called, though it is not an address of the pod. */
static void test_plain_keeps_source(void **state)
{
	struct pair p = { .client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT) };
	struct cv_sockaddr peer;
	char text[CV_ADDR_TEXT];

	(void)state;
	p.server = proxylab_accept(listener, &peer);
	assert_string_equal(cv_addr_text(&peer.ip, text), "127.0.0.5");
	say(p.client, p.server, "hello");
	say(p.server, p.client, "world");
	close_pair(&p);
}

static void test_denied(void **state)
{
	int client;

	(void)state;
	proxylab_deny(&lab, "cluster.local/ns/ns/sa/sa", 0);
	client = proxylab_outbound(&lab, 0, SERVER, PORT);
	expect_reset(client);
	cv_close(&client);
	/* Plain TCP proves no identity, so a rule about one does not match. */
	client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	cv_close(&client);
	client = proxylab_accept(listener, NULL);
	cv_close(&client);
	proxylab_deny(&lab, NULL, PORT);
	client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	expect_reset(client);
	cv_close(&client);
	proxylab_allow_all(&lab);
}

/* A change that forbids what is open closes it, on both inbound paths, and leaves the rest alone. */
static void test_policy_change_closes(void **state)
{
	int other = proxylab_listen(SERVER, PORT + 2);
	struct pair hbone = open_pair(0), plain, kept;

	(void)state;
	plain.client = proxylab_plain(&lab, 1, "127.0.0.5", SERVER, PORT);
	plain.server = proxylab_accept(listener, NULL);
	kept.client = proxylab_outbound(&lab, 1, SERVER, PORT + 2);
	kept.server = proxylab_accept(other, NULL);
	say(hbone.client, hbone.server, "open");
	say(plain.client, plain.server, "open");
	say(kept.client, kept.server, "open");
	proxylab_deny(&lab, NULL, PORT);
	expect_reset(hbone.server);
	expect_eof(hbone.client);
	expect_reset(plain.server);
	expect_reset(plain.client);
	say(kept.client, kept.server, "alive");
	proxylab_allow_all(&lab);
	close_pair(&hbone);
	close_pair(&plain);
	close_pair(&kept);
	cv_close(&other);
}

/* The change comes while the application's kernel still lets the connect wait: the stream is reset
 * without ever having been answered, and the client hears of it. */
static void test_policy_change_while_connecting(void **state)
{
	int full = proxylab_listen(SERVER, PORT + 3), queued, client;

	(void)state;
	assert_int_equal(listen(full, 0), 0); /* one may wait, the next one's SYN is dropped */
	queued = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	connect_to(queued, PORT + 3);
	client = proxylab_outbound(&lab, 0, SERVER, PORT + 3);
	usleep(300000);
	assert_int_equal(proxylab_stats(&lab).connections, hbone_connections(1));
	proxylab_deny(&lab, NULL, PORT + 3);
	expect_reset(client);
	expect_connections(hbone_connections(0));
	proxylab_allow_all(&lab);
	cv_close(&client);
	cv_close(&queued);
	cv_close(&full);
}

struct next_port {
	unsigned worker, port;
};

static void set_next_port(void *arg)
{
	const struct next_port *next = arg;

	lab.proxy->workers[next->worker].leg_port = next->port - CV_LEG_PORT_FIRST;
}

/* A client that uses a port of the legs' range itself: no leg takes that port while it lives, and it
 * is free again afterwards. */
static void test_leg_avoids_client_port(void **state)
{
	struct next_port next = { .worker = 0 };
	struct cv_sockaddr own, peer;
	struct pair p, q;

	(void)state;
	p.client = proxylab_plain_from(&lab, 0, "127.0.0.5", CV_LEG_PORT_FIRST + 100, SERVER, PORT);
	p.server = proxylab_accept(listener, NULL);
	assert_int_equal(cv_sock_local(p.client, &own), 0);
	next.port = own.port;
	proxylab_run(lab.workers[0], set_next_port, &next);
	q.client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	q.server = proxylab_accept(listener, &peer);
	assert_int_equal(peer.port, own.port + 1);
	close_pair(&q);
	close_pair(&p);
	expect_connections(0);
	proxylab_run(lab.workers[0], set_next_port, &next);
	q.client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
	q.server = proxylab_accept(listener, &peer);
	assert_int_equal(peer.port, own.port);
	close_pair(&q);
}

/* More sessions, one after the other, than there are ports for legs would take a minute if a port
 * in TIME_WAIT were lost: here the same port serves again at once, though we closed first. */
static void test_leg_port_in_time_wait(void **state)
{
	struct next_port next = { .worker = 0, .port = CV_LEG_PORT_FIRST + 200 };
	struct cv_sockaddr peer;

	(void)state;
	for (int i = 0; i < 5; i++) {
		struct pair p;

		proxylab_run(lab.workers[0], set_next_port, &next);
		p.client = proxylab_plain(&lab, 0, "127.0.0.5", SERVER, PORT);
		p.server = proxylab_accept(listener, &peer);
		assert_int_equal(peer.port, next.port);
		say(p.client, p.server, "first to close");
		cv_close(&p.client);
		expect_eof(p.server);
		cv_close(&p.server);
		expect_connections(0);
	}
}

/* ---- hostile ------------------------------------------------------------------------------------------ */

/* Garbage on 15008 costs its connection and nothing else. */
static void test_garbage(void **state)
{
	static const char garbage[] = "GET / HTTP/1.1\r\nHost: pod\r\n\r\n";
	struct pair p;
	char buf[64];

	(void)state;
	for (int i = 0; i < 50; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		connect_to(fd, CV_PORT_HBONE);
		if (i % 2)
			send_all(fd, garbage, sizeof(garbage));
		else
			shutdown(fd, SHUT_WR);
		while (recv(fd, buf, sizeof(buf), 0) > 0)
			;
		cv_close(&fd);
	}
	expect_connections(0);
	p = open_pair(0);
	say(p.client, p.server, "fine");
	close_pair(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_request_and_response, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_half_close_client_first, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_half_close_server_first, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_data_and_end_before_the_tunnel, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_transfer_hbone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_transfer_plain, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stopped_readers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_client_reset, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_server_reset, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_application_refuses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_passthrough, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_passthrough_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_loop_guard, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_plain_keeps_source, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_leg_avoids_client_port, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_leg_port_in_time_wait, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_denied, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_policy_change_closes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_policy_change_while_connecting, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_garbage, set_up, tear_down),
	};

	if (proxylab_unshare()) {
		printf("1..0 # SKIP no network namespace to be had\n");
		return 4;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
