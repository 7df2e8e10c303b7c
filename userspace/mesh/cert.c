/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One certificate: its key and request, the CA's answer, the TLS contexts, peer verification.
 *
 * Server side: the chain leads to our own roots and some SPIFFE SAN has our trust domain.
 * Client side: the chain leads to our own roots; who the peer must be depends on the
 * connection, so that is asked after the handshake (cv_cert_verify_peer).
 */
#include "userspace/mesh/certs.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "userspace/io/tls.h"
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
	X509_free(c->leaf);
	sk_X509_pop_free(c->chain, X509_free);
	sk_X509_pop_free(c->roots, X509_free);
	SSL_CTX_free(c->client);
	SSL_CTX_free(c->server);
	free(c);
}

/* Every certificate of a PEM text onto the stack; false when there is none or one is broken. */
static bool read_pem(const char *text, STACK_OF(X509) * stack)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new_mem_buf(text, -1);
	unsigned long err;
	X509 *cert;
	int n = 0;

	if (!bio)
		return false;
	while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
		if (!sk_X509_push(stack, cert)) {
			X509_free(cert);
			return false;
		}
		n++;
	}
	err = ERR_peek_last_error();
	ERR_clear_error();
	return n && ERR_GET_REASON(err) == PEM_R_NO_START_LINE;
}

static time_t time_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) ? timegm(&tm) : 0;
}

static int read_chain(struct cv_cert *c, char **chain, size_t n)
{
	c->chain = sk_X509_new_null();
	c->roots = sk_X509_new_null();
	if (!c->chain || !c->roots || !read_pem(chain[n - 1], c->roots))
		return -EINVAL;
	for (size_t i = 0; i + 1 < n; i++)
		if (!read_pem(chain[i], c->chain))
			return -EINVAL;
	c->leaf = sk_X509_shift(c->chain);
	c->not_before = time_of(X509_get0_notBefore(c->leaf));
	c->not_after = time_of(X509_get0_notAfter(c->leaf));
	return 0;
}

/* ---- contexts ---- */

static pthread_once_t indexes_once = PTHREAD_ONCE_INIT;
static int trust_domain_index; /* of an SSL_CTX: our trust domain, a cv_str */
static int error_index; /* of an SSL: why the peer was refused, allocated */

static void free_trust_domain(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl,
			      void *argp)
{
	cv_str s = ptr;

	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp; /* OpenSSL's signature */
	cv_str_put(&s);
}

static void free_error(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp; /* OpenSSL's signature */
	free(ptr);
}

static void make_indexes(void)
{
	trust_domain_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_trust_domain);
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

/* In place of OpenSSL's own verification: that, and then the trust domain. */
static int verify_client(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	cv_str trust_domain = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), trust_domain_index);
	X509 *peer = X509_STORE_CTX_get0_cert(store);

	(void)arg; /* the context carries what is needed: it may outlive the certificate */
	if (X509_verify_cert(store) <= 0)
		return 0;
	if (cv_identity_cert_has_trust_domain(peer, trust_domain))
		return 1;
	refuse_trust_domain(ssl, peer, trust_domain);
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

static SSL_CTX *new_context(const struct cv_cert *c, EVP_PKEY *key, bool server, bool tls12)
{
	SSL_CTX *ctx = cv_tls_ctx_new(server, tls12);
	X509_STORE *store = ctx ? SSL_CTX_get_cert_store(ctx) : NULL;
	bool ok = ctx && SSL_CTX_use_certificate(ctx, c->leaf) &&
		  SSL_CTX_use_PrivateKey(ctx, key) && SSL_CTX_set1_chain(ctx, c->chain) &&
		  SSL_CTX_set_ex_data(ctx, trust_domain_index,
				      (void *)cv_str_ref(c->identity.trust_domain));

	for (int i = 0; ok && i < sk_X509_num(c->roots); i++)
		ok = X509_STORE_add_cert(store, sk_X509_value(c->roots, i));
	if (!ok) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	/* What the CA calls a root is the end of the chain, self-signed or not. */
	X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
	if (server)
		SSL_CTX_set_cert_verify_callback(ctx, verify_client, NULL);
	return ctx;
}

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

int cv_cert_new(struct cv_cert **ret, const struct cv_identity *id, EVP_PKEY *key, char **chain,
		size_t n, bool tls12, char error[512])
{
	_cleanup_(cv_cert_put) struct cv_cert *c = calloc(1, sizeof(*c));
	char text[CV_IDENTITY_TEXT];
	const char *why = NULL;

	pthread_once(&indexes_once, make_indexes);
	if (!c)
		return -ENOMEM;
	c->ref = 1;
	cv_identity_copy(&c->identity, id);
	if (!n) {
		snprintf(error, 512, "chain returned from CA is empty for: %.450s",
			 cv_identity_text(id, text));
		return -EINVAL;
	}
	if (n == 1)
		why = "chain returned from CA has no root";
	else if (read_chain(c, chain, n) < 0)
		why = "chain returned from CA is not PEM";
	else if (!is_for(c, id))
		why = "did not find expected SAN";
	else if (!X509_check_private_key(c->leaf, key))
		why = "certificate returned from CA is not for our key";
	else if (!(c->client = new_context(c, key, false, tls12)) ||
		 !(c->server = new_context(c, key, true, tls12)))
		why = "certificate returned from CA cannot be used";
	ERR_clear_error();
	if (why) {
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
