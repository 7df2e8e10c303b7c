/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One certificate: what a CA may not answer, and TLS between certificates, who is let in and who is
 * not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "selftests/lib/certlab.h"
#include "userspace/io/tls.h"
#include "userspace/io/worker.h"

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
	struct cv_identity id = certlab_identity("td", "web"),
			   other = certlab_identity("td", "other"),
			   foreign = certlab_identity("td2", "web");
	EVP_PKEY *key = cv_key_new();
	struct cv_cert *good = certlab_get("td", "web");
	char *nothing = "nonsense", *leaf = pem_of(good->leaf),
	     *root = pem_of(sk_X509_value(good->trust->roots, 0));

	(void)state;
	assert_refused(&id, key, NULL, 0,
		       "chain returned from CA is empty for: spiffe://td/ns/shop/sa/web");
	assert_refused(&id, key, (char *[]){ leaf }, 1, "chain returned from CA has no root");
	assert_refused(&id, key, (char *[]){ nothing, root }, 2,
		       "chain returned from CA is not PEM, or too long");
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

static void assert_ca_refused(const char *why)
{
	struct cv_identity id = certlab_identity("td", "web");
	struct certlab_answer a = {};

	cv_certs_get(certlab.certs, &id, certlab_on_cert, &a);
	certlab_run_until(&a.calls, 1, 20000);
	assert_null(a.cert);
	assert_string_equal(a.error, why);
	cv_certs_forget(certlab.certs, &id);
	cv_identity_fini(&id);
}

/* The same by way of the cache: for somebody else, of another trust domain, a chain that does not
 * lead to its roots, one that is over. */
static void test_bad_ca(void **state)
{
	(void)state;
	certlab.sign_for = "spiffe://td/ns/shop/sa/db";
	assert_ca_refused("did not find expected SAN");
	certlab.sign_for = "spiffe://other/ns/shop/sa/web";
	assert_ca_refused("did not find expected SAN");
	certlab.sign_for = NULL;
	certlab.other_root = true;
	assert_ca_refused("chain returned from CA does not lead to its roots: "
			  "unable to get local issuer certificate");
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
	SSL_CTX *bare = cv_tls_ctx_new(false, false);
	BIO *a, *b;

	*h = (struct handshake){ .client = SSL_new(client ? client->client : bare),
				 .server = SSL_new(server->server) };
	SSL_CTX_free(bare);
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
	struct cv_cert *web = certlab_get("td", "web"), *db = certlab_get("td", "db");
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
	struct cv_cert *web = certlab_get("td", "web"), *stranger = certlab_get("other", "web");
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

/* ---- roots ---- */

struct made {
	EVP_PKEY *key;
	struct cv_identity id;
	struct cv_cert_shared shared;
	struct cv_cert *cert;
};

static void on_made(void *arg, const struct cv_ca_answer *answer)
{
	struct made *m = arg;
	char error[512];

	assert_int_equal(cv_cert_new(&m->cert, &m->shared, &m->id, m->key, answer, error), 0);
}

/* A certificate past the cache, signed as the CA's orders are. */
static void make(struct made *m, const char *sa)
{
	*m = (struct made){ .key = cv_key_new(), .id = certlab_identity("td", sa) };
	assert_int_equal(cv_cert_shared_init(&m->shared, false), 0);
	certlab_sign(&m->id, m->key, on_made, m);
	assert_non_null(m->cert);
}

static void fini_made(struct made *m)
{
	cv_cert_put(&m->cert);
	cv_cert_shared_fini(&m->shared);
	cv_identity_fini(&m->id);
	EVP_PKEY_free(m->key);
}

static bool can_talk(struct cv_cert *a, struct cv_cert *b)
{
	struct handshake h;
	bool ok;

	shake(a, b, &h);
	ok = h.client_done && h.server_done;
	fini_handshake(&h);
	return ok;
}

/* Who has the old root alone and who has the new one alone are strangers; who has both, whichever
 * signed, talks to all. */
static void test_root_rotation(void **state)
{
	struct made old, old_both, new_both, new;

	(void)state;
	make(&old, "old");
	certlab.both_roots = true;
	make(&old_both, "old-both");
	certlab.root = 1;
	make(&new_both, "new-both");
	certlab.both_roots = false;
	make(&new, "new");
	assert_true(can_talk(old.cert, old.cert) && can_talk(new.cert, new.cert));
	assert_false(can_talk(old.cert, new.cert) || can_talk(new.cert, old.cert));
	assert_true(can_talk(old_both.cert, new_both.cert));
	assert_true(can_talk(new_both.cert, old_both.cert));
	assert_true(can_talk(old.cert, old_both.cert) && can_talk(old_both.cert, old.cert));
	assert_true(can_talk(new.cert, new_both.cert) && can_talk(new_both.cert, new.cert));
	fini_made(&old);
	fini_made(&old_both);
	fini_made(&new_both);
	fini_made(&new);
}

static void test_tls_expired(void **state)
{
	struct cv_cert *web = certlab_get("td", "web"), *old;
	struct handshake h;

	(void)state;
	certlab.ttl_s = 1;
	old = certlab_get("td", "old");
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
		cmocka_unit_test_setup_teardown(test_bad_answers, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_bad_ca, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_tls, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_tls_refused, certlab_setup, certlab_teardown),
		cmocka_unit_test_setup_teardown(test_root_rotation, certlab_setup,
						certlab_teardown),
		cmocka_unit_test_setup_teardown(test_tls_expired, certlab_setup, certlab_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
