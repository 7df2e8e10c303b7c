/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificate cache (states, renewal, back-off, priorities, forgetting) with a CA of the
 * test's own, and TLS between certificates of the development CA: who is let in and who is not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "userspace/io/worker.h"
#include "userspace/mesh/certs_private.h"

enum { MAX_PENDING = 64 };

/* Signs with the development CA, or fails, or keeps requests until they are released. */
static struct test_ca {
	struct cv_ca dev;
	bool failing, holding;
	int asked, held;
	unsigned ttl_s; /* 0 = as asked */
	struct {
		struct cv_identity id;
		char *csr;
		struct cv_ca_request request; /* with the two copies above */
	} pending[MAX_PENDING];
	char order[512]; /* service accounts in the order of asking */
} test_ca;

static struct cv_worker *control;
static struct cv_certs *certs;
static char ca_dir[64];

static void hold(struct test_ca *ca, const struct cv_ca_request *request)
{
	int i = ca->held++;

	assert_true(i < MAX_PENDING);
	cv_identity_copy(&ca->pending[i].id, request->id);
	ca->pending[i].csr = strdup(request->csr_pem);
	ca->pending[i].request = *request;
}

static void sign(void *ctx, const struct cv_ca_request *asked)
{
	struct test_ca *ca = ctx;
	struct cv_ca_request request = *asked;
	size_t len = strlen(ca->order);

	ca->asked++;
	snprintf(ca->order + len, sizeof(ca->order) - len, "%s ", cv_str_text(request.id->sa));
	request.ttl_s = ca->ttl_s ? ca->ttl_s : request.ttl_s;
	if (ca->failing)
		request.done(request.arg, &(struct cv_ca_answer){ .error = "the CA is down" });
	else if (ca->holding)
		hold(ca, &request);
	else
		ca->dev.sign(ca->dev.ctx, &request);
}

static void drop_pending(struct test_ca *ca, int i)
{
	cv_identity_fini(&ca->pending[i].id);
	free(ca->pending[i].csr);
	memmove(&ca->pending[i], &ca->pending[i + 1],
		(size_t)(ca->held - i - 1) * sizeof(ca->pending[0]));
	ca->held--;
}

/* The CA answers the oldest request that it holds. */
static void release_one(void)
{
	struct test_ca *ca = &test_ca;
	struct cv_identity id = ca->pending[0].id;
	char *csr = ca->pending[0].csr;
	struct cv_ca_request request = ca->pending[0].request;

	memmove(&ca->pending[0], &ca->pending[1], (size_t)(--ca->held) * sizeof(ca->pending[0]));
	request.id = &id;
	request.csr_pem = csr;
	ca->dev.sign(ca->dev.ctx, &request);
	cv_identity_fini(&id);
	free(csr);
}

static void free_test_ca(void *ctx)
{
	struct test_ca *ca = ctx;

	while (ca->held)
		drop_pending(ca, 0);
	ca->dev.free(ca->dev.ctx);
}

static int setup(void **state)
{
	struct cv_certs_opts opts = { .ca = { &test_ca, sign, free_test_ca }, .ttl_s = 86400 };
	char error[256];

	(void)state;
	test_ca = (struct test_ca){};
	snprintf(ca_dir, sizeof(ca_dir), "/tmp/culvert-test-XXXXXX");
	if (!mkdtemp(ca_dir) || cv_devca_open(&test_ca.dev, ca_dir, error) < 0 ||
	    cv_worker_control(&control) < 0)
		return -1;
	opts.control = control;
	return cv_certs_new(&certs, &opts);
}

static void remove_dir(const char *dir)
{
	static const char *const files[] = { "root-key.pem", "root-cert.pem", ".lock" };
	char path[96];

	for (size_t i = 0; i < CV_ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	rmdir(dir);
}

static int teardown(void **state)
{
	(void)state;
	cv_certs_free(&certs);
	cv_worker_free(&control);
	remove_dir(ca_dir);
	return cv_str_count() != 0;
}

static struct cv_identity identity(const char *td, const char *sa)
{
	struct cv_identity id;

	cv_identity_set(&id, cv_str_new(td), cv_str_new("shop"), cv_str_new(sa));
	return id;
}

/* Runs the control loop until *n >= want, at most ms. */
static void run_until(const int *n, int want, int ms)
{
	uint64_t end = cv_now_ms() + (uint64_t)ms;

	do {
		event_base_loop(cv_worker_base(control), EVLOOP_NONBLOCK);
		if (*n >= want)
			return;
		usleep(1000);
	} while (cv_now_ms() < end);
}

struct answer {
	int calls;
	struct cv_cert *cert;
	char error[512];
};

static void on_cert(struct cv_cert *cert, const char *error, void *arg)
{
	struct answer *a = arg;

	a->calls++;
	cv_cert_put(&a->cert);
	a->cert = cert;
	snprintf(a->error, sizeof(a->error), "%s", error ? error : "");
	assert_int_equal(!cert, error != NULL);
}

static void get(const struct cv_identity *id, struct answer *a)
{
	cv_certs_get(certs, id, on_cert, a);
}

/* Asks and waits for the answer. */
static struct cv_cert *get_cert(const char *td, const char *sa)
{
	struct cv_identity id = identity(td, sa);
	struct answer a = {};

	get(&id, &a);
	run_until(&a.calls, 1, 5000);
	assert_int_equal(a.calls, 1);
	assert_non_null(a.cert);
	cv_identity_fini(&id);
	return a.cert;
}

static int state_of(const struct cv_identity *id, const char *state, const struct cv_cert *cert,
		    void *arg)
{
	(void)id, (void)cert;
	snprintf(arg, 600, "%s", state);
	return 0;
}

static const char *only_state(void)
{
	static char text[600];

	text[0] = '\0';
	assert_int_equal(cv_certs_each(certs, state_of, text), 0);
	return text;
}

/* The first asks, all later ones are answered before the call returns. */
static void test_get(void **state)
{
	struct cv_identity id = identity("td", "web");
	struct answer a = {}, b = {}, c = {};

	(void)state;
	get(&id, &a);
	get(&id, &b);
	assert_int_equal(a.calls, 0);
	assert_string_equal(only_state(), "Initializing");
	run_until(&b.calls, 1, 5000);
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_ptr_equal(a.cert, b.cert);
	assert_int_equal(test_ca.asked, 1);
	assert_string_equal(only_state(), "Available");
	get(&id, &c);
	assert_int_equal(c.calls, 1);
	assert_ptr_equal(c.cert, a.cert);
	assert_true(cv_identity_eq(&c.cert->identity, &id));
	assert_int_equal(c.cert->not_after - c.cert->not_before, 86460);
	cv_cert_put(&a.cert);
	cv_cert_put(&b.cert);
	cv_cert_put(&c.cert);
	cv_identity_fini(&id);
}

/* A worker is answered on its own thread. */
static struct cv_worker *worker;
static atomic_uint answered_on;

static void on_worker_cert(struct cv_cert *cert, const char *error, void *arg)
{
	(void)error, (void)arg;
	cv_cert_put(&cert);
	atomic_store(&answered_on, cv_worker_id(cv_worker_self()));
}

static void ask_on_worker(void *arg)
{
	cv_certs_get(certs, arg, on_worker_cert, NULL);
}

static void test_get_on_worker(void **state)
{
	struct cv_identity id = identity("td", "web");
	int never = 0;

	(void)state;
	assert_int_equal(cv_worker_start(&worker, 5), 0);
	cv_worker_post(worker, ask_on_worker, &id);
	for (int i = 0; i < 500 && !atomic_load(&answered_on); i++)
		run_until(&never, 1, 10);
	assert_int_equal(atomic_load(&answered_on), 5);
	cv_worker_stop(&worker);
	cv_identity_fini(&id);
}

/* Renewed at half life, again and again; nobody has to ask. */
static void test_renewal(void **state)
{
	struct cv_cert *first, *later;

	(void)state;
	test_ca.ttl_s = 2;
	first = get_cert("td", "web");
	run_until(&test_ca.asked, 3, 6000);
	assert_true(test_ca.asked >= 3);
	later = get_cert("td", "web");
	assert_true(later->not_after > first->not_after);
	assert_true(test_ca.asked <= 4); /* and not in a hurry */
	cv_cert_put(&first);
	cv_cert_put(&later);
}

/* A CA that fails: an error for those who wait and those who come, no request from them; tried
 * again after a second; then it serves. */
static void test_failure_and_retry(void **state)
{
	struct cv_identity id = identity("td", "web");
	struct answer a = {}, b = {};
	uint64_t start = cv_now_ms();

	(void)state;
	test_ca.failing = true;
	get(&id, &a);
	run_until(&a.calls, 1, 5000);
	assert_string_equal(a.error, "the CA is down");
	assert_string_equal(only_state(), "Unavailable: the CA is down");
	get(&id, &b);
	assert_int_equal(b.calls, 1);
	assert_string_equal(b.error, "the CA is down");
	assert_int_equal(test_ca.asked, 1);
	run_until(&test_ca.asked, 2, 5000);
	assert_in_range(cv_now_ms() - start, 750, 4000);
	test_ca.failing = false;
	start = cv_now_ms();
	run_until(&test_ca.asked, 3, 8000);
	assert_in_range(cv_now_ms() - start, 1500, 7000); /* twice as long */
	assert_string_equal(only_state(), "Available");
	cv_identity_fini(&id);
}

/* A renewal that fails keeps the certificate, until that expires. */
static void test_failing_renewal(void **state)
{
	struct cv_identity id = identity("td", "web");
	struct answer a = {};
	struct cv_cert *cert;
	uint64_t end;

	(void)state;
	test_ca.ttl_s = 3;
	cert = get_cert("td", "web");
	test_ca.failing = true;
	run_until(&test_ca.asked, 2, 4000);
	get(&id, &a);
	assert_non_null(a.cert);
	assert_string_equal(only_state(), "Available");
	for (end = cv_now_ms() + 8000; time(NULL) <= cert->not_after && cv_now_ms() < end;)
		run_until(&test_ca.asked, 1000, 20);
	get(&id, &a);
	assert_null(a.cert);
	assert_string_equal(a.error, "the CA is down");
	assert_string_equal(only_state(), "Unavailable: the CA is down");
	cv_cert_put(&cert);
	cv_identity_fini(&id);
}

/* At most eight requests are out; whom a connection waits for goes before prefetches. */
static void test_limits_and_priorities(void **state)
{
	struct answer a = {}, b = {};
	char name[16];

	(void)state;
	test_ca.holding = true;
	for (int i = 0; i < 12; i++) {
		struct cv_identity id;

		snprintf(name, sizeof(name), "p%d", i);
		id = identity("td", name);
		cv_certs_prefetch(certs, &id);
		cv_identity_fini(&id);
	}
	run_until(&test_ca.held, 8, 3000);
	run_until(&test_ca.held, 9, 50);
	assert_int_equal(test_ca.held, 8);
	struct cv_identity now = identity("td", "now"), p11 = identity("td", "p11");

	get(&now, &a);
	get(&p11, &b); /* a prefetch that somebody now waits for */
	release_one();
	release_one();
	release_one();
	run_until(&test_ca.asked, 11, 1000);
	assert_non_null(strstr(test_ca.order, "p7 now p11 p8 "));
	while (test_ca.held) {
		release_one();
		run_until(&test_ca.asked, 1000, 5);
	}
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_int_equal(test_ca.asked, 13);
	cv_cert_put(&a.cert);
	cv_cert_put(&b.cert);
	cv_identity_fini(&now);
	cv_identity_fini(&p11);
}

/* What is forgotten is answered with an error; its late certificate is not taken. */
static void test_forget(void **state)
{
	struct cv_identity id = identity("td", "web");
	struct answer a = {}, b = {};

	(void)state;
	test_ca.holding = true;
	get(&id, &a);
	run_until(&test_ca.held, 1, 3000);
	cv_certs_forget(certs, &id);
	run_until(&a.calls, 1, 3000);
	assert_string_equal(a.error, "the identity is no longer needed");
	assert_string_equal(only_state(), "");
	get(&id, &b);
	run_until(&test_ca.held, 2, 3000);
	release_one(); /* of the forgotten one */
	run_until(&b.calls, 1, 50);
	assert_int_equal(b.calls, 0);
	release_one();
	run_until(&b.calls, 1, 3000);
	assert_non_null(b.cert);
	cv_cert_put(&b.cert);
	cv_certs_forget(certs, &id);
	cv_identity_fini(&id);
}

static char *pem_of(X509 *cert)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new(BIO_s_mem());

	PEM_write_bio_X509(bio, cert);
	return cv_bio_text(bio);
}

static void assert_refused(const struct cv_identity *id, EVP_PKEY *key, char *const *chain,
			   size_t n, const char *why)
{
	const struct cv_ca_answer answer = { .chain = chain, .nr_chain = n };
	struct cv_cert_shared shared;
	struct cv_cert *cert = NULL;
	char error[512] = "";

	assert_int_equal(cv_cert_shared_init(&shared, false), 0);
	assert_int_equal(cv_cert_new(&cert, &shared, id, key, &answer, error), -EINVAL);
	assert_string_equal(error, why);
	assert_null(shared.trust); /* what is refused counts for nothing */
	cv_cert_shared_fini(&shared);
}

/* What a CA may not answer. */
static void test_bad_answers(void **state)
{
	struct cv_identity id = identity("td", "web"), other = identity("td", "other"),
			   foreign = identity("td2", "web");
	EVP_PKEY *key = cv_key_new();
	struct cv_cert *good = get_cert("td", "web");
	char *nothing = "nonsense", *leaf = pem_of(good->leaf),
	     *root = pem_of(sk_X509_value(good->trust->roots, 0));

	(void)state;
	assert_refused(&id, key, NULL, 0,
		       "chain returned from CA is empty for: spiffe://td/ns/shop/sa/web");
	assert_refused(&id, key, (char *[]){ leaf }, 1, "chain returned from CA has no root");
	assert_refused(&id, key, (char *[]){ nothing, root }, 2,
		       "chain returned from CA is not PEM");
	assert_refused(&id, good->key, (char *[]){ leaf, nothing }, 2,
		       "roots returned from CA are not PEM");
	assert_refused(&other, key, (char *[]){ leaf, root }, 2, "did not find expected SAN");
	assert_refused(&foreign, key, (char *[]){ leaf, root }, 2, "did not find expected SAN");
	assert_refused(&id, key, (char *[]){ leaf, root }, 2,
		       "certificate returned from CA is not for our key");
	free(leaf);
	free(root);
	EVP_PKEY_free(key);
	cv_cert_put(&good);
	cv_identity_fini(&id);
	cv_identity_fini(&other);
	cv_identity_fini(&foreign);
}

/* ---- TLS ---- */

struct handshake {
	bool client_done, server_done;
	SSL *client, *server;
};

/* Both ends over a pair of memory BIOs, until both are done or one fails. client NULL = one
 * without a certificate. */
static void shake(struct cv_cert *client, struct cv_cert *server, struct handshake *h)
{
	BIO *a, *b;

	*h = (struct handshake){ .client = SSL_new(client ? client->client : server->client),
				 .server = SSL_new(server->server) };
	if (client)
		assert_int_equal(cv_cert_use(client, h->client), 0);
	else
		SSL_set_verify(h->client, SSL_VERIFY_NONE, NULL);
	assert_int_equal(cv_cert_use(server, h->server), 0);
	assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(h->client, a, a);
	SSL_set_bio(h->server, b, b);
	SSL_set_connect_state(h->client);
	SSL_set_accept_state(h->server);
	for (int i = 0; i < 20; i++) {
		h->client_done = SSL_do_handshake(h->client) == 1;
		h->server_done = SSL_do_handshake(h->server) == 1;
	}
	ERR_clear_error();
}

static void fini_handshake(struct handshake *h)
{
	SSL_free(h->client);
	SSL_free(h->server);
}

static void test_tls(void **state)
{
	struct cv_cert *web = get_cert("td", "web"), *db = get_cert("td", "db");
	cv_str sans[2] = { cv_str_new("spiffe://td/ns/shop/sa/x"),
			   cv_str_new("spiffe://td/ns/shop/sa/db") };
	char error[512] = "";
	struct cv_identity peer;
	struct handshake h;
	X509 *cert;

	(void)state;
	shake(web, db, &h);
	assert_true(h.client_done && h.server_done);
	assert_string_equal(SSL_get_version(h.client), "TLSv1.3");
	assert_null(cv_cert_error_text(h.server));
	cert = SSL_get0_peer_certificate(h.server);
	assert_int_equal(cv_identity_of_cert(cert, &peer), 0);
	assert_string_equal(peer.sa, "web");
	cv_identity_fini(&peer);
	/* Whom the client expects. */
	cert = SSL_get0_peer_certificate(h.client);
	assert_int_equal(cv_cert_verify_peer(cert, sans, 2, error), 0);
	assert_int_equal(cv_cert_verify_peer(cert, sans, 1, error), -EACCES);
	assert_string_equal(error,
			    "identity verification error: peer did not present the expected SAN"
			    " (spiffe://td/ns/shop/sa/x), got spiffe://td/ns/shop/sa/db");
	assert_int_equal(cv_cert_verify_peer(cert, sans, 0, error), -EACCES);
	assert_int_equal(cv_cert_verify_peer(NULL, sans, 2, error), -EACCES);
	fini_handshake(&h);
	cv_str_put(&sans[0]);
	cv_str_put(&sans[1]);
	cv_cert_put(&web);
	cv_cert_put(&db);
}

/* A client of another trust domain, of another root, or without a certificate is not let in. */
static void test_tls_refused(void **state)
{
	struct cv_cert *web = get_cert("td", "web"), *stranger = get_cert("other", "web");
	struct handshake h;

	(void)state;
	shake(stranger, web, &h);
	assert_false(h.server_done);
	assert_string_equal(
		cv_cert_error_text(h.server),
		"identity verification error: peer did not present the expected trustdomain"
		" (td), got spiffe://other/ns/shop/sa/web");
	fini_handshake(&h);
	shake(NULL, web, &h);
	assert_false(h.server_done);
	fini_handshake(&h);
	cv_cert_put(&web);
	cv_cert_put(&stranger);
}

struct other {
	EVP_PKEY *key;
	struct cv_identity id;
	struct cv_cert_shared shared;
	struct cv_cert *cert;
};

static void on_other_signed(void *arg, const struct cv_ca_answer *answer)
{
	struct other *other = arg;
	char error[512];

	assert_null(answer->error);
	assert_int_equal(cv_cert_new(&other->cert, &other->shared, &other->id, other->key, answer,
				     error),
			 0);
}

static void test_tls_other_root(void **state)
{
	struct other other = { .key = cv_key_new(), .id = identity("td", "web") };
	struct cv_cert *web = get_cert("td", "web");
	_cleanup_free_ char *csr = cv_csr_new(other.key, &other.id);
	char dir[] = "/tmp/culvert-test-XXXXXX", error[256];
	struct handshake h;
	struct cv_ca ca;

	(void)state;
	assert_int_equal(cv_cert_shared_init(&other.shared, false), 0);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(cv_devca_open(&ca, dir, error), 0);
	ca.sign(ca.ctx, &(struct cv_ca_request){ &other.id, csr, 1000, on_other_signed, &other });
	shake(other.cert, web, &h);
	assert_false(h.server_done || h.client_done);
	fini_handshake(&h);
	shake(web, other.cert, &h);
	assert_false(h.server_done || h.client_done);
	fini_handshake(&h);
	/* Its own root lets it in: the refusals above are for the root. */
	shake(other.cert, other.cert, &h);
	assert_true(h.server_done && h.client_done);
	fini_handshake(&h);
	cv_cert_put(&other.cert);
	cv_cert_shared_fini(&other.shared);
	cv_cert_put(&web);
	cv_identity_fini(&other.id);
	EVP_PKEY_free(other.key);
	ca.free(ca.ctx);
	remove_dir(dir);
}

static void test_tls_expired(void **state)
{
	struct cv_cert *web = get_cert("td", "web"), *old;
	struct handshake h;

	(void)state;
	test_ca.ttl_s = 1;
	old = get_cert("td", "old");
	while (time(NULL) <= old->not_after)
		usleep(50000);
	shake(old, web, &h);
	assert_false(h.server_done);
	fini_handshake(&h);
	shake(web, old, &h);
	assert_false(h.client_done);
	fini_handshake(&h);
	cv_cert_put(&web);
	cv_cert_put(&old);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_get, setup, teardown),
		cmocka_unit_test_setup_teardown(test_get_on_worker, setup, teardown),
		cmocka_unit_test_setup_teardown(test_renewal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failure_and_retry, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failing_renewal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits_and_priorities, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tls_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tls_other_root, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tls_expired, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
