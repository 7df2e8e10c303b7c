/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One certificate: its key and request, the CA's answer, the TLS contexts, peer verification.
 *
 * Server side: the chain leads to our own roots and some SPIFFE SAN has our trust domain.
 * Client side: the chain leads to our own roots; who the peer must be depends on the
 * connection, so that is asked after the handshake (cv_cert_verify_peer).
 */
#include "userspace/mesh/certs.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "userspace/io/tls.h"
#include "userspace/limits.h"
#include "userspace/mesh/certs_private.h"

/* ---- keys and requests ---- */

EVP_PKEY *cv_key_new(void)
{
	return EVP_EC_gen("P-256");
}

char *cv_bio_text(BIO *bio)
{
	char *data;
	long len = BIO_get_mem_data(bio, &data);

	return len < 0 ? NULL : strndup(data, (size_t)len);
}

X509_EXTENSION *cv_san_extension(const struct cv_identity *id)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
	char text[CV_IDENTITY_TEXT];
	X509_EXTENSION *ext = NULL;

	if (names && name && uri && ASN1_STRING_set(uri, cv_identity_text(id, text), -1)) {
		GENERAL_NAME_set0_value(name, GEN_URI, cv_take_ptr(uri));
		if (sk_GENERAL_NAME_push(names, name)) {
			name = NULL;
			ext = X509V3_EXT_i2d(NID_subject_alt_name, 1, names);
		}
	}
	ASN1_IA5STRING_free(uri);
	GENERAL_NAME_free(name);
	GENERAL_NAMES_free(names);
	return ext;
}

char *cv_csr_new(EVP_PKEY *key, const struct cv_identity *id)
{
	_cleanup_(cv_free_x509_req) X509_REQ *req = X509_REQ_new();
	_cleanup_(cv_free_bio) BIO *bio = BIO_new(BIO_s_mem());
	STACK_OF(X509_EXTENSION) *exts = sk_X509_EXTENSION_new_null();
	X509_EXTENSION *san = cv_san_extension(id);
	bool ok = req && bio && exts && san && sk_X509_EXTENSION_push(exts, san);

	if (ok)
		san = NULL; /* the stack owns it */
	ok = ok && X509_REQ_set_version(req, X509_REQ_VERSION_1) && X509_REQ_set_pubkey(req, key) &&
	     X509_REQ_add_extensions(req, exts) && X509_REQ_sign(req, key, EVP_sha256()) &&
	     PEM_write_bio_X509_REQ(bio, req);
	X509_EXTENSION_free(san);
	sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
	return ok ? cv_bio_text(bio) : NULL;
}

/* ---- the object ---- */

struct cv_cert *cv_cert_ref(struct cv_cert *c)
{
	if (c)
		__atomic_fetch_add(&c->ref, 1, __ATOMIC_RELAXED);
	return c;
}

void cv_cert_put(struct cv_cert **cp)
{
	struct cv_cert *c = cv_take_ptr(*cp);

	if (!c || __atomic_fetch_sub(&c->ref, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	cv_identity_fini(&c->identity);
	EVP_PKEY_free(c->key);
	X509_free(c->leaf);
	sk_X509_pop_free(c->chain, X509_free);
	cv_trust_put(&c->trust);
	SSL_CTX_free(c->client);
	SSL_CTX_free(c->server);
	free(c);
}

static time_t time_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) ? timegm(&tm) : 0;
}

/* All but the last: the leaf and the intermediates. */
static int read_chain(struct cv_cert *c, const struct cv_ca_answer *answer)
{
	c->chain = sk_X509_new_null();
	for (size_t i = 0; i + 1 < answer->nr_chain; i++)
		if (!c->chain || !cv_trust_read_pem(answer->chain[i], c->chain) ||
		    sk_X509_num(c->chain) > CV_LIMIT_CHAIN)
			return -EINVAL;
	c->leaf = sk_X509_shift(c->chain);
	c->not_before = time_of(X509_get0_notBefore(c->leaf));
	c->not_after = time_of(X509_get0_notAfter(c->leaf));
	return 0;
}

/* ---- contexts ---- */

static pthread_once_t indexes_once = PTHREAD_ONCE_INIT;
static int cert_index; /* of an SSL: the certificate that it uses, a reference */
static int error_index; /* of an SSL: why the peer was refused, allocated */

static void free_cert(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	struct cv_cert *c = ptr;

	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp; /* OpenSSL's signature */
	cv_cert_put(&c);
}

static void free_error(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp; /* OpenSSL's signature */
	free(ptr);
}

static void make_indexes(void)
{
	cert_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_cert);
	error_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_error);
}

const char *cv_cert_error_text(const SSL *ssl)
{
	pthread_once(&indexes_once, make_indexes);
	return SSL_get_ex_data(ssl, error_index);
}

static void refuse_trust_domain(SSL *ssl, X509 *peer, cv_str trust_domain)
{
	char sans[256];
	char *text = NULL;

	if (asprintf(&text,
		     "identity verification error: peer did not present the expected trustdomain "
		     "(%s), got %s",
		     cv_str_text(trust_domain),
		     cv_identity_list_of_cert(peer, sans, sizeof(sans))) < 0)
		return;
	free(SSL_get_ex_data(ssl, error_index));
	SSL_set_ex_data(ssl, error_index, text);
}

/* In place of OpenSSL's own verification: that, and then the revocation lists. 1 = trusted. */
static int verify(X509_STORE_CTX *store, const struct cv_cert *own)
{
	int error;

	assert(own); /* cv_cert_use came first */
	if (X509_verify_cert(store) <= 0)
		return 0;
	error = own->crl ? cv_crl_check(own->crl, X509_STORE_CTX_get0_chain(store)) : X509_V_OK;
	if (error == X509_V_OK)
		return 1;
	X509_STORE_CTX_set_error(store, error);
	return 0;
}

static int verify_server(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());

	(void)arg; /* the connection carries what is needed */
	return verify(store, SSL_get_ex_data(ssl, cert_index));
}

/* The trust domain as well. */
static int verify_client(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct cv_cert *own = SSL_get_ex_data(ssl, cert_index);
	X509 *peer = X509_STORE_CTX_get0_cert(store);

	(void)arg; /* the connection carries what is needed */
	if (!verify(store, own))
		return 0;
	if (cv_identity_cert_has_trust_domain(peer, own->identity.trust_domain))
		return 1;
	refuse_trust_domain(ssl, peer, own->identity.trust_domain);
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

int cv_cert_shared_init(struct cv_cert_shared *s, bool tls12)
{
	pthread_once(&indexes_once, make_indexes);
	*s = (struct cv_cert_shared){ .client = cv_tls_ctx_new(false, tls12),
				      .server = cv_tls_ctx_new(true, tls12) };
	if (!s->client || !s->server) {
		cv_cert_shared_fini(s);
		return -ENOMEM;
	}
	SSL_CTX_set_cert_verify_callback(s->client, verify_server, NULL);
	SSL_CTX_set_cert_verify_callback(s->server, verify_client, NULL);
	return 0;
}

void cv_cert_shared_fini(struct cv_cert_shared *s)
{
	SSL_CTX_free(s->client);
	SSL_CTX_free(s->server);
	cv_trust_put(&s->trust);
	*s = (struct cv_cert_shared){};
}

int cv_cert_use(struct cv_cert *c, SSL *ssl)
{
	bool ok = SSL_use_certificate(ssl, c->leaf) && SSL_use_PrivateKey(ssl, c->key) &&
		  SSL_set1_chain(ssl, c->chain) && SSL_set1_verify_cert_store(ssl, c->trust->store);

	ok = ok && SSL_set_ex_data(ssl, cert_index, c);
	if (ok)
		cv_cert_ref(c);
	ERR_clear_error();
	return ok ? 0 : -ENOMEM;
}

/* ---- what a CA answered ---- */

static bool is_for(const struct cv_cert *c, const struct cv_identity *id)
{
	struct cv_identity got;
	bool same;

	if (cv_identity_of_cert(c->leaf, &got) < 0)
		return false;
	same = cv_identity_eq(&got, id);
	cv_identity_fini(&got);
	return same;
}

/* Fills c; NULL = it can be used, else why not, in error or constant. */
static const char *take_answer(struct cv_cert *c, struct cv_cert_shared *shared,
			       const struct cv_ca_answer *answer, char error[512])
{
	const char *why;

	if (answer->nr_chain == 1)
		return "chain returned from CA has no root";
	if (read_chain(c, answer) < 0)
		return "chain returned from CA is not PEM, or too long";
	if (!is_for(c, &c->identity))
		return "did not find expected SAN";
	if (!X509_check_private_key(c->leaf, c->key))
		return "certificate returned from CA is not for our key";
	if (c->not_after <= time(NULL))
		return "certificate returned from CA has expired already: compare the clocks";
	c->trust = cv_trust_get(shared->trust, answer->chain[answer->nr_chain - 1]);
	if (!c->trust)
		return "roots returned from CA are not PEM";
	why = cv_trust_verify(c->trust, c->leaf, c->chain);
	if (!why) {
		cv_trust_put(&shared->trust);
		shared->trust = cv_trust_ref(c->trust);
		return NULL;
	}
	snprintf(error, 512, "chain returned from CA does not lead to its roots: %s", why);
	return error;
}

int cv_cert_new(struct cv_cert **ret, struct cv_cert_shared *shared, const struct cv_identity *id,
		EVP_PKEY *key, const struct cv_ca_answer *answer, char error[512])
{
	_cleanup_(cv_cert_put) struct cv_cert *c = calloc(1, sizeof(*c));
	char text[CV_IDENTITY_TEXT];
	const char *why;

	if (!c)
		return -ENOMEM;
	c->ref = 1;
	cv_identity_copy(&c->identity, id);
	if (!answer->nr_chain) {
		snprintf(error, 512, "chain returned from CA is empty for: %.450s",
			 cv_identity_text(id, text));
		return -EINVAL;
	}
	EVP_PKEY_up_ref(key);
	c->key = key;
	SSL_CTX_up_ref(shared->client);
	c->client = shared->client;
	c->crl = shared->crl;
	SSL_CTX_up_ref(shared->server);
	c->server = shared->server;
	why = take_answer(c, shared, answer, error);
	ERR_clear_error();
	if (why) {
		if (why != error)
			snprintf(error, 512, "%s", why);
		return -EINVAL;
	}
	*ret = cv_take_ptr(c);
	return 0;
}

/* ---- the peer of a client ---- */

int cv_cert_verify_peer(X509 *peer, const cv_str *sans, size_t n, char error[512])
{
	char want[200] = "", got[200];
	size_t len = 0;

	if (peer && cv_identity_cert_has_any(peer, sans, n))
		return 0;
	for (size_t i = 0; i < n && len < sizeof(want); i++)
		len += (size_t)snprintf(want + len, sizeof(want) - len, "%s%s", i ? "," : "",
					cv_str_text(sans[i]));
	snprintf(error, 512,
		 "identity verification error: peer did not present the expected SAN (%s), got %s",
		 want, peer ? cv_identity_list_of_cert(peer, got, sizeof(got)) : "");
	return -EACCES;
}
