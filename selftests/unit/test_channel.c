/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel to the control plane over real sockets: names with several addresses, TLS and whose
 * certificate will do, roots and tokens that are rotated, servers that are away, close, say goodbye or
 * are silent; and the back-off of those who call. The server is a thread that takes one connection
 * after the other and answers each call with what it was sent.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <urcu.h>

#include "selftests/lib/pki.h"
#include "userspace/base/backoff.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/resolve.h"
#include "userspace/mesh/channel.h"

enum { PATIENCE_MS = 60000, MESSAGE = 256 };

/* ---- the server ------------------------------------------------------------------------------ */

enum behaviour { ANSWER, CLOSE, GOODBYE, SILENT };

static struct server {
	int fd, peer; /* of the connection at hand, -1 = none */
	uint16_t port;
	pthread_t thread;
	_Atomic int behaviour, accepted;
	SSL_CTX *ctx; /* NULL = plain */
	SSL *ssl;
	nghttp2_session *session;
	char authorization[64], cluster[64]; /* of the call that came last */
	uint8_t message[MESSAGE];
	size_t len, sent;
} server;

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t namelen, const uint8_t *value, size_t valuelen, uint8_t flags,
		     void *arg)
{
	char *to = NULL;

	(void)session, (void)frame, (void)flags, (void)arg; /* nghttp2's signature */
	if (namelen == 13 && !memcmp(name, "authorization", namelen))
		to = server.authorization;
	if (namelen == 9 && !memcmp(name, "clusterid", namelen))
		to = server.cluster;
	if (to)
		snprintf(to, sizeof(server.cluster), "%.*s", (int)valuelen, (const char *)value);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
		   size_t len, void *arg)
{
	(void)session, (void)flags, (void)id, (void)arg; /* nghttp2's signature */
	if (len > sizeof(server.message) - server.len)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	memcpy(server.message + server.len, data, len);
	server.len += len;
	return 0;
}

/* What came goes back, gRPC's prefix and all; then the trailers. */
static ssize_t read_answer(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len,
			   uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	static const nghttp2_nv trailers[] = { { (uint8_t *)"grpc-status", (uint8_t *)"0", 11, 1,
						 NGHTTP2_NV_FLAG_NONE } };
	size_t n = server.len - server.sent;

	(void)source, (void)arg; /* there is one message */
	n = n < len ? n : len;
	memcpy(buf, server.message + server.sent, n);
	server.sent += n;
	if (server.sent < server.len)
		return (ssize_t)n;
	*flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
	nghttp2_submit_trailer(session, id, trailers, 1);
	return (ssize_t)n;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	static const nghttp2_nv headers[] = {
		{ (uint8_t *)":status", (uint8_t *)"200", 7, 3, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t *)"content-type", (uint8_t *)"application/grpc", 12, 16,
		  NGHTTP2_NV_FLAG_NONE },
	};
	const nghttp2_data_provider answer = { .read_callback = read_answer };

	(void)arg; /* there is one server */
	if (frame->hd.type != NGHTTP2_DATA || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	if (server.behaviour == CLOSE)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (server.behaviour == SILENT)
		return 0;
	nghttp2_submit_response(session, frame->hd.stream_id, headers, 2, &answer);
	if (server.behaviour == GOODBYE)
		nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
				      NGHTTP2_NO_ERROR, NULL, 0);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
	(void)session, (void)id, (void)code, (void)arg; /* nghttp2's signature */
	server.len = server.sent = 0;
	return 0;
}

static ssize_t io(bool out, void *buf, size_t len)
{
	if (server.ssl)
		return out ? SSL_write(server.ssl, buf, (int)len) :
			     SSL_read(server.ssl, buf, (int)len);
	return out ? send(server.peer, buf, len, MSG_NOSIGNAL) : recv(server.peer, buf, len, 0);
}

static ssize_t on_send(nghttp2_session *session, const uint8_t *data, size_t len, int flags,
		       void *arg)
{
	ssize_t n = io(true, (void *)data, len);

	(void)session, (void)flags, (void)arg; /* nghttp2's signature */
	return n > 0 ? n : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void serve_h2(void)
{
	nghttp2_session_callbacks *cbs;
	uint8_t buf[4096];
	ssize_t n;

	nghttp2_session_callbacks_new(&cbs);
	nghttp2_session_callbacks_set_on_header_callback(cbs, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(cbs, on_stream_close);
	nghttp2_session_callbacks_set_send_callback(cbs, on_send);
	nghttp2_session_server_new(&server.session, cbs, NULL);
	nghttp2_submit_settings(server.session, NGHTTP2_FLAG_NONE, NULL, 0);
	do {
		if (nghttp2_session_send(server.session))
			break;
		n = io(false, buf, sizeof(buf));
	} while (n > 0 && nghttp2_session_mem_recv(server.session, buf, (size_t)n) == n);
	nghttp2_session_del(server.session);
	nghttp2_session_callbacks_del(cbs);
}

static void *serve(void *arg)
{
	(void)arg; /* there is one server */
	while ((server.peer = accept(server.fd, NULL, NULL)) >= 0) {
		server.accepted++;
		server.len = server.sent = 0;
		if (server.ctx) {
			server.ssl = SSL_new(server.ctx);
			SSL_set_fd(server.ssl, server.peer);
		}
		if (!server.ssl || SSL_accept(server.ssl) == 1)
			serve_h2();
		SSL_free(server.ssl);
		server.ssl = NULL;
		close(server.peer);
	}
	return NULL;
}

static void server_bind(void)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);

	server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(server.fd >= 0);
	assert_int_equal(bind(server.fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(getsockname(server.fd, (struct sockaddr *)&sin, &len), 0);
	server.port = ntohs(sin.sin_port);
}

/* Takes ctx, NULL = without TLS. */
static void server_start(enum behaviour behaviour, SSL_CTX *ctx)
{
	server = (struct server){ .behaviour = behaviour, .ctx = ctx, .peer = -1 };
	server_bind();
	assert_int_equal(listen(server.fd, 8), 0);
	assert_int_equal(pthread_create(&server.thread, NULL, serve, NULL), 0);
}

/* The clients have gone by now, so that the thread is in accept(), or will be. */
static void server_stop(void)
{
	shutdown(server.fd, SHUT_RDWR);
	pthread_join(server.thread, NULL);
	cv_close(&server.fd);
	SSL_CTX_free(server.ctx);
}

/* ---- names: what the machine's resolver says is no matter ------------------------------------------ */

static unsigned resolvers;

int cv_resolver_new(struct cv_resolver **ret, const struct cv_resolver_opts *opts)
{
	(void)opts;
	*ret = (struct cv_resolver *)&resolvers;
	resolvers++;
	return 0;
}

void cv_resolver_free(struct cv_resolver **r)
{
	resolvers -= *r != NULL;
	*r = NULL;
}

void cv_resolve_cancel(struct cv_resolve_wait *w)
{
	(void)w; /* it was answered at once */
}

/* Nobody listens on the first two; localhost is the server's alone. */
void cv_resolve(struct cv_resolver *r, const char *name, struct cv_resolve_wait *w)
{
	static const char *const texts[] = { "::1", "127.0.0.2", "127.0.0.1" };
	struct cv_addr addrs[3];
	size_t first = strcmp(name, "localhost") == 0 ? 2 : 0;

	(void)r;
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(cv_addr_parse(texts[i], &addrs[i]), 0);
	if (strcmp(name, "none.test") == 0)
		w->done(w, -ENOENT, NULL, 0);
	else
		w->done(w, 0, addrs + first, 3 - first);
}

/* ---- the client -------------------------------------------------------------------------------- */

static struct cv_worker *control;
static char dir[] = "/tmp/culvert-test-XXXXXX";
static struct answer {
	int calls, status;
	char text[512];
	char message[64];
} answer;

static void on_done(void *arg, int status, const char *text, const uint8_t *message, size_t len)
{
	(void)arg; /* there is one at a time */
	answer.calls++;
	answer.status = status;
	snprintf(answer.text, sizeof(answer.text), "%s", text);
	snprintf(answer.message, sizeof(answer.message), "%.*s", (int)len,
		 message ? (const char *)message : "");
}

static void run(void)
{
	uint64_t end = cv_now_ms() + PATIENCE_MS;

	while (!answer.calls && cv_now_ms() < end) {
		event_base_loop(cv_worker_base(control), EVLOOP_NONBLOCK);
		usleep(500);
	}
	assert_int_equal(answer.calls, 1);
}

/* Calls, and returns the status. */
static int call_for(struct cv_channel *c, const char *text, unsigned timeout_ms)
{
	const struct cv_channel_unary unary = {
		.path = "/a.Service/Method",
		.message = (const uint8_t *)text,
		.len = strlen(text),
		.max_len = 64,
		.timeout_ms = timeout_ms,
		.done = on_done,
	};

	answer = (struct answer){};
	cv_channel_unary(c, &unary);
	run();
	return answer.status;
}

static void assert_works(struct cv_channel *c)
{
	if (call_for(c, "hello", PATIENCE_MS) != CV_GRPC_OK)
		fail_msg("%s", answer.text);
	assert_string_equal(answer.message, "hello");
}

/* That it fails, for a reason with these words. */
static void assert_fails(struct cv_channel *c, int status, const char *words)
{
	assert_int_equal(call_for(c, "hello", PATIENCE_MS), status);
	if (!strstr(answer.text, words))
		fail_msg("%s: not in: %s", words, answer.text);
}

static struct cv_channel *channel(const char *scheme, const char *host,
				  struct cv_channel_opts *opts)
{
	struct cv_channel *c;
	char address[128], error[256];

	snprintf(address, sizeof(address), "%s://%s:%u", scheme, host, server.port);
	opts->address = address;
	opts->control = control;
	if (cv_channel_new(&c, opts, error, sizeof(error)) < 0)
		fail_msg("%s", error);
	return c;
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int setup(void **state)
{
	(void)state;
	memset(dir + strlen(dir) - 6, 'X', 6);
	return mkdtemp(dir) && cv_worker_control(&control) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	static const char *const files[] = { "token", "roots" };
	char path[64];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	cv_worker_free(&control);
	assert_int_equal(resolvers, 0);
	return rmdir(dir);
}

/* ---- calls and connections ---------------------------------------------------------------------- */

/* The metadata of each call has the token as it is then. */
static void test_token(void **state)
{
	char path[64];
	struct cv_channel_opts opts = { .auth_token = path, .cluster_id = "c1" };
	struct cv_channel *c;

	(void)state;
	snprintf(path, sizeof(path), "%s/token", dir);
	server_start(ANSWER, NULL);
	c = channel("http", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAUTHENTICATED, "No such file");
	write_file(path, "one\n");
	assert_works(c);
	assert_string_equal(server.authorization, "Bearer one");
	assert_string_equal(server.cluster, "c1");
	write_file(path, "two");
	assert_works(c);
	assert_string_equal(server.authorization, "Bearer two");
	write_file(path, "\n");
	assert_fails(c, CV_GRPC_UNAUTHENTICATED, "holds no token");
	assert_int_equal(server.accepted, 1);
	cv_channel_free(&c);
	server_stop();
}

/* A connection that breaks takes its call with it; the next one gets a new one. */
static void test_broken(void **state)
{
	struct cv_channel_opts opts = {};
	struct cv_channel *c;

	(void)state;
	server_start(CLOSE, NULL);
	c = channel("http", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "");
	server.behaviour = ANSWER;
	assert_works(c);
	assert_works(c);
	assert_int_equal(server.accepted, 2);
	cv_channel_free(&c);
	server_stop();
}

/* After a GOAWAY the call that it answered has its answer, and the next one a new connection. */
static void test_goodbye(void **state)
{
	struct cv_channel_opts opts = {};
	struct cv_channel *c;

	(void)state;
	server_start(GOODBYE, NULL);
	c = channel("http", "127.0.0.1", &opts);
	assert_works(c);
	server.behaviour = ANSWER;
	assert_works(c);
	assert_int_equal(server.accepted, 2);
	cv_channel_free(&c);
	server_stop();
}

static void test_silent(void **state)
{
	struct cv_channel_opts opts = {};
	struct cv_channel *c;

	(void)state;
	server_start(SILENT, NULL);
	c = channel("http", "127.0.0.1", &opts);
	assert_int_equal(call_for(c, "hello", 200), CV_GRPC_DEADLINE_EXCEEDED);
	cv_channel_free(&c);
	server_stop();
	/* A port that is taken and not listened on. */
	server_bind();
	c = channel("http", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "Connection refused");
	cv_channel_free(&c);
	cv_close(&server.fd);
}

/* One address after the other; a name without any. */
static void test_addresses(void **state)
{
	struct cv_channel_opts opts = {};
	struct cv_channel *c;

	(void)state;
	server_start(ANSWER, NULL);
	c = channel("http", "many.test", &opts);
	assert_works(c);
	assert_int_equal(server.accepted, 1);
	cv_channel_free(&c);
	c = channel("http", "none.test", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "no such host");
	cv_channel_free(&c);
	server_stop();
}

/* ---- TLS ------------------------------------------------------------------------------------------ */

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *out_len,
		     const unsigned char *in, unsigned in_len, void *arg)
{
	(void)ssl, (void)arg; /* OpenSSL's signature */
	return SSL_select_next_proto((unsigned char **)out, out_len, (const unsigned char *)"\2h2",
				     3, in, in_len) == OPENSSL_NPN_NEGOTIATED ?
		       SSL_TLSEXT_ERR_OK :
		       SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* A certificate of ca with these alternative names behind the URI. */
static SSL_CTX *server_ctx(const struct pki *ca, const char *names)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	char sans[128];

	snprintf(sans, sizeof(sans), "spiffe://td/ns/istio-system/sa/istiod,%s", names);
	pki_use(ca, ctx, sans);
	SSL_CTX_set_alpn_select_cb(ctx, select_h2, NULL);
	return ctx;
}

static void write_roots(const char *path, const struct pki *ca)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(PEM_write_X509(f, ca->cert), 1);
	fclose(f);
}

/* The root file is read for each connection: what did not do before does now. */
static void test_roots(void **state)
{
	char path[64];
	struct cv_channel_opts opts = { .root_ca = path };
	struct cv_channel *c;
	struct pki ca, other;

	(void)state;
	pki_init(&ca);
	pki_init(&other);
	snprintf(path, sizeof(path), "%s/roots", dir);
	server_start(ANSWER, server_ctx(&ca, "IP:127.0.0.1"));
	c = channel("https", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "No such file");
	write_roots(path, &other);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "TLS: ");
	write_roots(path, &ca);
	assert_works(c);
	write_roots(path, &other); /* no matter to a connection that is there */
	assert_works(c);
	write_file(path, "nothing");
	assert_works(c);
	cv_channel_free(&c);
	c = channel("https", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "no certificate in it");
	cv_channel_free(&c);
	server_stop();
	pki_fini(&ca);
	pki_fini(&other);
}

static void test_names(void **state)
{
	char path[64];
	struct cv_channel_opts opts = { .root_ca = path },
			       alt = { .root_ca = path, .alt_hostname = "istiod.svc" };
	struct cv_channel *c;
	struct pki ca;

	(void)state;
	pki_init(&ca);
	snprintf(path, sizeof(path), "%s/roots", dir);
	write_roots(path, &ca);
	server_start(ANSWER, server_ctx(&ca, "DNS:istiod.svc"));
	c = channel("https", "localhost", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "certificate is not for localhost");
	cv_channel_free(&c);
	c = channel("https", "127.0.0.1", &opts);
	assert_fails(c, CV_GRPC_UNAVAILABLE, "certificate is not for 127.0.0.1");
	cv_channel_free(&c);
	c = channel("https", "localhost", &alt);
	assert_works(c);
	cv_channel_free(&c);
	server_stop();
	pki_fini(&ca);
}

/* ---- back-off ------------------------------------------------------------------------------------- */

/* Each wait is in the upper half of a range that doubles up to the limit; they are not all the same. */
static void test_backoff(void **state)
{
	struct cv_backoff b = { .first_ms = 10, .max_ms = 15000 };
	uint32_t first = 0;
	bool differs = false;

	(void)state;
	for (uint32_t ms = 10, i = 0; i < 40; i++, ms = ms * 2 < 15000 ? ms * 2 : 15000)
		assert_in_range(cv_backoff_next_ms(&b), ms / 2, ms);
	for (int i = 0; i < 40; i++) {
		uint32_t ms = cv_backoff_next_ms(&b);

		differs |= first && ms != first;
		first = ms;
	}
	assert_true(differs);
	cv_backoff_reset(&b);
	assert_in_range(cv_backoff_next_ms(&b), 5, 10);
	b.tries = UINT32_MAX;
	assert_in_range(cv_backoff_next_ms(&b), 7500, 15000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_token),     TEST(test_broken),
		TEST(test_goodbye),   TEST(test_silent),
		TEST(test_addresses), TEST(test_roots),
		TEST(test_names),     cmocka_unit_test(test_backoff),
	};
	int r;

	signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
