/* SPDX-License-Identifier: Apache-2.0 */
/* A throw-away certificate authority for tests: SPIFFE certificates, made in memory. */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>

struct pki {
	EVP_PKEY *key;
	X509 *cert;
};

void pki_init(struct pki *ca);
void pki_fini(struct pki *ca);
/* A new certificate with this URI SAN, valid for an hour, or expired for one when `expired`. The
 * caller frees both. */
void pki_issue(const struct pki *ca, const char *uri, bool expired, X509 **ret_cert,
	       EVP_PKEY **ret_key);
/* Makes ctx present a certificate of ca with this URI SAN and trust those that ca has issued. */
void pki_use(const struct pki *ca, SSL_CTX *ctx, const char *uri);
