/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by cert*.c, trust.c and devca.c: keys, requests, and OpenSSL's destructors as cleanups. */
#pragma once

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/certs.h"

#define CV_OPENSSL_CLEANUP(name, type, destroy) \
	static inline void name(type **p)       \
	{                                       \
		destroy(*p);                    \
		*p = NULL;                      \
	}
CV_OPENSSL_CLEANUP(cv_free_bio, BIO, BIO_free_all)
CV_OPENSSL_CLEANUP(cv_free_pkey, EVP_PKEY, EVP_PKEY_free)
CV_OPENSSL_CLEANUP(cv_free_x509, X509, X509_free)
CV_OPENSSL_CLEANUP(cv_free_x509_req, X509_REQ, X509_REQ_free)

/* A fresh P-256 key, NULL = OpenSSL failed. */
EVP_PKEY *cv_key_new(void);
/* The subject alternative name extension of an identity: one URI, critical. */
X509_EXTENSION *cv_san_extension(const struct cv_identity *id);
/* PEM text of a certificate signing request: empty subject, SAN. NULL = OpenSSL failed. */
char *cv_csr_new(EVP_PKEY *key, const struct cv_identity *id);

/* What the certificates of one cache share. Control thread. */
struct cv_cert_shared {
	SSL_CTX *client, *server;
	struct cv_trust *trust; /* the roots that came last */
	struct cv_crl *crl; /* borrowed, NULL = none */
};
int cv_cert_shared_init(struct cv_cert_shared *s, bool tls12);
void cv_cert_shared_fini(struct cv_cert_shared *s);
/* What a CA answered becomes a certificate; takes a reference of key. -EINVAL with the text. */
int cv_cert_new(struct cv_cert **ret, struct cv_cert_shared *shared, const struct cv_identity *id,
		EVP_PKEY *key, const struct cv_ca_answer *answer, char error[512]);
/* Text of what a memory BIO holds; the caller frees it. NULL = no memory. */
char *cv_bio_text(BIO *bio);
