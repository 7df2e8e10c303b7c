/* SPDX-License-Identifier: Apache-2.0 */
/* TLS over a socket pair, both ends in one thread: who is let in, that bytes arrive whole through
 * partial writes and shared buffers, that output is bounded, and that broken records are an error
 * and no more. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/pki.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/tls.h"
#include "userspace/limits.h"

static struct pki ca, other_ca;

/* Two ends of a connection; fd[0] is the client's. */
struct pair {
	int fd[2];
	struct cv_tls *client, *server;
};

static SSL_CTX *make_ctx(bool server, bool tls12, const struct pki *of, const char *uri)
{
	SSL_CTX *ctx = cv_tls_ctx_new(server, tls12);

	assert_non_null(ctx);
	if (of)
		pki_use(of, ctx, uri);
	return ctx;
}

static void open_pair(struct pair *p, SSL_CTX *client, SSL_CTX *server)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p->fd),
			 0);
	assert_int_equal(cv_tls_new(&p->client, client, false, p->fd[0]), 0);
	assert_int_equal(cv_tls_new(&p->server, server, true, p->fd[1]), 0);
	/* The connections hold what they need. */
	SSL_CTX_free(client);
	SSL_CTX_free(server);
}

static void close_pair(struct pair *p)
{
	cv_tls_free(&p->client);
	cv_tls_free(&p->server);
	cv_close(&p->fd[0]);
	cv_close(&p->fd[1]);
}

/* One step of one side: 1 = done, 0 = not yet, negative = failed. What it has to say is sent either
 * way. */
static int step(struct cv_tls *tls)
{
	int r = cv_tls_handshake(tls), sent = cv_tls_flush(tls);

	return r < 0 || !sent ? r : sent;
}

/* Drives both until both are done or have failed; the results. */
static void shake_hands(struct pair *p, int *ret_client, int *ret_server)
{
	int c = 0, s = 0;

	for (int i = 0; i < 10 && (!c || !s); i++) {
		c = c ? c : step(p->client);
		s = s ? s : step(p->server);
	}
	*ret_client = c;
	*ret_server = s;
}

static void open_ready(struct pair *p)
{
	int c, s;

	open_pair(p, make_ctx(false, false, &ca, "spiffe://td/ns/a/sa/client"),
		  make_ctx(true, false, &ca, "spiffe://td/ns/a/sa/server"));
	shake_hands(p, &c, &s);
	assert_int_equal(c, 1);
	assert_int_equal(s, 1);
}

static void test_handshake(void **state)
{
	const unsigned char *alpn;
	unsigned alpn_len;
	struct pair p;
	int c, s;

	(void)state;
	open_pair(&p, make_ctx(false, false, &ca, "spiffe://td/ns/a/sa/client"),
		  make_ctx(true, false, &ca, "spiffe://td/ns/a/sa/server"));
	assert_null(cv_tls_peer(p.client));
	shake_hands(&p, &c, &s);
	assert_int_equal(c, 1);
	assert_int_equal(s, 1);
	assert_non_null(cv_tls_peer(p.client));
	assert_non_null(cv_tls_peer(p.server));
	assert_string_equal(SSL_get_version(cv_tls_ssl(p.client)), "TLSv1.3");
	assert_string_equal(SSL_get_cipher_name(cv_tls_ssl(p.client)), "TLS_AES_256_GCM_SHA384");
	SSL_get0_alpn_selected(cv_tls_ssl(p.client), &alpn, &alpn_len);
	assert_int_equal(alpn_len, 2);
	assert_memory_equal(alpn, "h2", 2);
	/* No tickets: nothing was sent after the handshake. */
	assert_int_equal(cv_tls_fill(p.client), -EAGAIN);
	assert_int_equal(cv_tls_out_pending(p.server), 0);
	close_pair(&p);
}

/* Peers without a certificate, of another CA, with an old protocol or another one inside. */
static void test_refused(void **state)
{
	enum { NO_CERT, OTHER_CA, CLIENT_DISTRUSTS, ONLY_TLS12, OTHER_ALPN, NR };

	(void)state;
	for (int i = 0; i < NR; i++) {
		SSL_CTX *client = make_ctx(false, i == ONLY_TLS12,
					   i == NO_CERT	 ? NULL :
					   i == OTHER_CA ? &other_ca :
							   &ca,
					   "spiffe://td/ns/a/sa/client");
		SSL_CTX *server = make_ctx(true, false, i == CLIENT_DISTRUSTS ? &other_ca : &ca,
					   "spiffe://td/ns/a/sa/server");
		struct pair p;
		int c, s;

		if (i == NO_CERT || i == OTHER_CA)
			X509_STORE_add_cert(SSL_CTX_get_cert_store(client), ca.cert);
		if (i == CLIENT_DISTRUSTS)
			X509_STORE_add_cert(SSL_CTX_get_cert_store(server), ca.cert);
		if (i == ONLY_TLS12)
			SSL_CTX_set_max_proto_version(client, TLS1_2_VERSION);
		if (i == OTHER_ALPN)
			SSL_CTX_set_alpn_protos(client, (const unsigned char *)"\x02h3", 3);
		open_pair(&p, client, server);
		shake_hands(&p, &c, &s);
		assert_int_equal(s, -EPROTO);
		assert_string_not_equal(cv_tls_error_text(p.server), "unknown error");
		if (i == CLIENT_DISTRUSTS) {
			assert_int_equal(c, -EPROTO);
			assert_non_null(strstr(cv_tls_error_text(p.client), "certificate"));
		}
		close_pair(&p);
	}
}

/* TLS 1.2 when it is allowed, and with both it is still 1.3. */
static void test_tls12(void **state)
{
	(void)state;
	for (int both = 0; both < 2; both++) {
		SSL_CTX *client = make_ctx(false, true, &ca, "spiffe://td/ns/a/sa/client");
		struct pair p;
		int c, s;

		if (!both)
			SSL_CTX_set_max_proto_version(client, TLS1_2_VERSION);
		open_pair(&p, client, make_ctx(true, true, &ca, "spiffe://td/ns/a/sa/server"));
		shake_hands(&p, &c, &s);
		assert_int_equal(c, 1);
		assert_int_equal(s, 1);
		assert_string_equal(SSL_get_version(cv_tls_ssl(p.server)),
				    both ? "TLSv1.3" : "TLSv1.2");
		close_pair(&p);
	}
}

static void test_no_tls(void **state)
{
	static const char *const rows[] = { "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff", "" };
	int r;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct pair p;

		open_pair(&p, make_ctx(false, false, &ca, "spiffe://td/ns/a/sa/client"),
			  make_ctx(true, false, &ca, "spiffe://td/ns/a/sa/server"));
		assert_int_equal(write(p.fd[0], rows[i], strlen(rows[i])), strlen(rows[i]));
		r = cv_tls_handshake(p.server);
		cv_close(&p.fd[0]);
		if (!r)
			r = cv_tls_handshake(p.server);
		assert_int_equal(r, -EPROTO);
		assert_string_not_equal(cv_tls_error_text(p.server), "unknown error");
		close_pair(&p);
	}
}

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)(at ^ at >> 8 ^ at >> 16);
}

/* Writes a piece if there is room and sends what goes; returns the bytes taken. */
static size_t push(struct cv_tls *tls, uint64_t at, uint64_t total)
{
	static uint8_t piece[100000];
	size_t room = cv_tls_out_room(tls), n = sizeof(piece);

	n = n < room ? n : room;
	n = n < total - at ? n : (size_t)(total - at);
	for (size_t i = 0; i < n; i++)
		piece[i] = pattern(at + i);
	assert_int_equal(cv_tls_write(tls, piece, n), 0);
	assert_in_range(-cv_tls_flush(tls), 0, EAGAIN);
	return n;
}

/* Reads at most `reads` times; returns the bytes, which were as they should be. */
static size_t pull(struct cv_tls *tls, uint64_t at, int reads)
{
	static uint8_t data[30000];
	size_t total = 0;
	ssize_t n = cv_tls_fill(tls);

	assert_true(n > 0 || n == -EAGAIN || n == -ENOBUFS);
	for (; reads; reads--) {
		n = cv_tls_read(tls, data, sizeof(data));
		assert_true(n > 0 || n == -EAGAIN);
		if (n < 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(data[i], pattern(at + total + (size_t)i));
		total += (size_t)n;
	}
	return total;
}

static void shrink_buffers(struct pair *p)
{
	int bytes = 5000;

	for (int i = 0; i < 2; i++)
		setsockopt(p->fd[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/* Megabytes both ways at once through a socket that takes a few KiB at a time, with new keys on
 * the way. */
static void test_transfer(void **state)
{
	enum { TOTAL = 3 << 20 };
	uint64_t c_sent = 0, s_sent = 0, c_got = 0, s_got = 0;
	struct pair p;

	(void)state;
	open_ready(&p);
	shrink_buffers(&p);
	for (int i = 0; c_got < TOTAL || s_got < TOTAL; i++) {
		assert_in_range(i, 0, 100000);
		if (i == 20)
			SSL_key_update(cv_tls_ssl(p.client), SSL_KEY_UPDATE_REQUESTED);
		c_sent += push(p.client, c_sent, TOTAL);
		s_sent += push(p.server, s_sent, TOTAL);
		s_got += pull(p.server, s_got, 100);
		c_got += pull(p.client, c_got, 100);
	}
	assert_int_equal(s_got, TOTAL);
	close_pair(&p);
}

/* Connections that stop reading in the middle share the thread's read buffer with others. */
static void test_shared_input(void **state)
{
	enum { PAIRS = 3, TOTAL = 1 << 20 };
	uint64_t sent[PAIRS] = {}, got[PAIRS] = {};
	struct pair p[PAIRS];
	uint64_t done = 0;

	(void)state;
	for (int i = 0; i < PAIRS; i++)
		open_ready(&p[i]);
	for (int round = 0; done < PAIRS * (uint64_t)TOTAL; round++) {
		assert_in_range(round, 0, 100000);
		for (int i = 0; i < PAIRS; i++) {
			size_t n;

			sent[i] += push(p[i].client, sent[i], TOTAL);
			n = pull(p[i].server, got[i], 1 + i);
			got[i] += n;
			done += n;
		}
	}
	/* One that goes away with unread input in the buffer. */
	push(p[0].client, 0, 100000);
	assert_true(cv_tls_fill(p[0].server) > 0);
	cv_tls_free(&p[0].server);
	push(p[1].client, 0, 1000);
	assert_int_equal(pull(p[1].server, 0, 10), 1000);
	for (int i = 0; i < PAIRS; i++)
		close_pair(&p[i]);
}

/* fill() reads again only when what it read is used up. */
static void test_fill(void **state)
{
	uint8_t byte;
	struct pair p;

	(void)state;
	open_ready(&p);
	assert_int_equal(cv_tls_fill(p.server), -EAGAIN);
	assert_int_equal(cv_tls_read(p.server, &byte, 1), -EAGAIN);
	for (int i = 0; i < 2; i++)
		assert_int_equal(cv_tls_write(p.client, (const uint8_t *)"xy", 2), 0);
	assert_int_equal(cv_tls_write(p.client, NULL, 0), 0);
	assert_int_equal(cv_tls_flush(p.client), 0);
	assert_true(cv_tls_fill(p.server) > 0);
	assert_int_equal(cv_tls_fill(p.server), -ENOBUFS);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(cv_tls_read(p.server, &byte, 1), 1);
		assert_int_equal(byte, i & 1 ? 'y' : 'x');
	}
	assert_int_equal(cv_tls_read(p.server, &byte, 1), -EAGAIN);
	assert_int_equal(cv_tls_fill(p.server), -EAGAIN);
	close_pair(&p);
}

/* A peer that reads nothing: room goes to 0, and who writes on is stopped. */
static void test_output_bound(void **state)
{
	static uint8_t data[16384];
	struct pair p;
	size_t sent = 0;
	int r = 0;

	(void)state;
	open_ready(&p);
	shrink_buffers(&p);
	assert_int_equal(cv_tls_out_room(p.client), CV_LIMIT_TLS_OUT);
	while (cv_tls_out_room(p.client)) {
		assert_int_equal(cv_tls_write(p.client, data, sizeof(data)), 0);
		sent += sizeof(data);
	}
	assert_in_range(sent, CV_LIMIT_TLS_OUT - 65536, CV_LIMIT_TLS_OUT);
	assert_int_equal(cv_tls_flush(p.client), -EAGAIN);
	for (int i = 0; i < 100 && !r; i++)
		r = cv_tls_write(p.client, data, sizeof(data));
	assert_int_equal(r, -ENOBUFS);
	assert_in_range(cv_tls_out_pending(p.client), CV_LIMIT_TLS_OUT, 2 * CV_LIMIT_TLS_OUT);
	close_pair(&p);
}

/* A peer that asks for new keys and does not read the answers: they are bounded, too. */
static void test_key_update_flood(void **state)
{
	uint8_t byte;
	struct pair p;
	ssize_t r = 0;
	int i;

	(void)state;
	open_ready(&p);
	for (i = 0; i < 100000 && r >= 0; i++) {
		SSL_key_update(cv_tls_ssl(p.client), SSL_KEY_UPDATE_REQUESTED);
		assert_int_equal(cv_tls_write(p.client, (const uint8_t *)"x", 1), 0);
		assert_int_equal(cv_tls_flush(p.client), 0);
		assert_true(cv_tls_fill(p.server) > 0);
		do {
			r = cv_tls_read(p.server, &byte, 1);
		} while (r > 0);
		if (r == -EAGAIN)
			r = cv_tls_write(p.server, (const uint8_t *)"y", 1);
		assert_in_range(cv_tls_out_pending(p.server), 0, 2 * CV_LIMIT_TLS_OUT);
	}
	assert_in_range(i, 1, 99999);
	close_pair(&p);
}

/* One bit that was changed on the way: an error, and nothing of the record is seen. */
static void test_bad_record(void **state)
{
	uint8_t wire[200];
	struct pair p;
	ssize_t n;

	(void)state;
	open_ready(&p);
	assert_int_equal(cv_tls_write(p.client, (const uint8_t *)"secret", 6), 0);
	assert_int_equal(cv_tls_flush(p.client), 0);
	n = recv(p.fd[1], wire, sizeof(wire), 0);
	assert_int_equal(n, 6 + 22);
	wire[10] ^= 1;
	assert_int_equal(send(p.fd[0], wire, (size_t)n, 0), n);
	assert_int_equal(cv_tls_fill(p.server), n);
	memset(wire, 0, sizeof(wire));
	assert_int_equal(cv_tls_read(p.server, wire, sizeof(wire)), -EPROTO);
	assert_string_equal(cv_tls_error_text(p.server), "decryption failed or bad record mac");
	/* The peer is told, and it stays broken. */
	assert_int_equal(cv_tls_flush(p.server), 0);
	assert_true(cv_tls_fill(p.client) > 0);
	assert_int_equal(cv_tls_read(p.client, wire, sizeof(wire)), -EPROTO);
	assert_int_equal(cv_tls_write(p.server, wire, 1), -EPROTO);
	close_pair(&p);
}

/* A proper end reads as 0, a connection that just ends as an error. */
static void test_end(void **state)
{
	uint8_t data[10];

	(void)state;
	for (int proper = 0; proper < 2; proper++) {
		struct pair p;

		open_ready(&p);
		assert_int_equal(cv_tls_write(p.client, (const uint8_t *)"last", 4), 0);
		if (proper)
			cv_tls_close_notify(p.client);
		assert_int_equal(cv_tls_flush(p.client), 0);
		cv_close(&p.fd[0]);
		assert_true(cv_tls_fill(p.server) > 0);
		assert_int_equal(cv_tls_read(p.server, data, sizeof(data)), 4);
		if (!proper) {
			assert_int_equal(cv_tls_read(p.server, data, sizeof(data)), -EAGAIN);
			assert_int_equal(cv_tls_fill(p.server), 0);
		}
		assert_int_equal(cv_tls_read(p.server, data, sizeof(data)), proper ? 0 : -EPROTO);
		/* Writing to who is gone is an error and no signal. */
		assert_int_equal(cv_tls_write(p.server, data, 1), 0);
		assert_int_equal(cv_tls_flush(p.server), -EPIPE);
		close_pair(&p);
	}
}

static int make_cas(void **state)
{
	(void)state;
	pki_init(&ca);
	pki_init(&other_ca);
	return 0;
}

static int free_cas(void **state)
{
	(void)state;
	pki_fini(&ca);
	pki_fini(&other_ca);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_handshake),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_tls12),
		cmocka_unit_test(test_no_tls),
		cmocka_unit_test(test_transfer),
		cmocka_unit_test(test_shared_input),
		cmocka_unit_test(test_fill),
		cmocka_unit_test(test_output_bound),
		cmocka_unit_test(test_key_update_flood),
		cmocka_unit_test(test_bad_record),
		cmocka_unit_test(test_end),
	};

	return cmocka_run_group_tests(tests, make_cas, free_cas);
}
