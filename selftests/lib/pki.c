/* SPDX-License-Identifier: Apache-2.0 */
/* A throw-away certificate authority, see pki.h. */
#include "selftests/lib/pki.h"

#include <assert.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>

enum { HOUR_S = 3600 };

static void must(int ok)
{
	if (ok != 1)
		ERR_print_errors_fp(stderr);
	assert(ok == 1);
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	must(!!ext);
	must(X509_add_ext(cert, ext, -1));
	X509_EXTENSION_free(ext);
}

/* Everything but the extensions and the signature. */
static X509 *make_cert(EVP_PKEY *key, const char *cn, bool expired)
{
	static long serial = 1;
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);

	must(X509_set_version(cert, X509_VERSION_3));
	must(ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++));
	must(!!X509_gmtime_adj(X509_getm_notBefore(cert), -2 * HOUR_S));
	must(!!X509_gmtime_adj(X509_getm_notAfter(cert), expired ? -HOUR_S : HOUR_S));
	if (cn)
		must(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn,
						-1, -1, 0));
	must(X509_set_pubkey(cert, key));
	return cert;
}

void pki_init(struct pki *ca)
{
	ca->key = EVP_EC_gen("P-256");
	ca->cert = make_cert(ca->key, "test root", false);
	must(X509_set_issuer_name(ca->cert, X509_get_subject_name(ca->cert)));
	add_extension(ca->cert, ca->cert, NID_basic_constraints, "critical,CA:TRUE");
	add_extension(ca->cert, ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	must(!!X509_sign(ca->cert, ca->key, EVP_sha256()));
}

void pki_fini(struct pki *ca)
{
	X509_free(ca->cert);
	EVP_PKEY_free(ca->key);
}

void pki_issue(const struct pki *ca, const char *uri, bool expired, X509 **ret_cert,
	       EVP_PKEY **ret_key)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = make_cert(key, NULL, expired);
	char san[256];

	snprintf(san, sizeof(san), "critical,URI:%s", uri);
	must(X509_set_issuer_name(cert, X509_get_subject_name(ca->cert)));
	add_extension(cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE");
	add_extension(cert, ca->cert, NID_key_usage, "critical,digitalSignature");
	add_extension(cert, ca->cert, NID_ext_key_usage, "serverAuth,clientAuth");
	add_extension(cert, ca->cert, NID_subject_alt_name, san);
	must(!!X509_sign(cert, ca->key, EVP_sha256()));
	*ret_cert = cert;
	*ret_key = key;
}

void pki_use(const struct pki *ca, SSL_CTX *ctx, const char *uri)
{
	EVP_PKEY *key;
	X509 *cert;

	pki_issue(ca, uri, false, &cert, &key);
	must(SSL_CTX_use_certificate(ctx, cert));
	must(SSL_CTX_use_PrivateKey(ctx, key));
	must(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca->cert));
	X509_free(cert);
	EVP_PKEY_free(key);
}
