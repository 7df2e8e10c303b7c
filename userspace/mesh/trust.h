/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What certificates have in common: the roots that they came with, and one SSL_CTX a role. All of
 * a node's certificates usually come with the same roots, so these are parsed and held once.
 */
#pragma once

#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdbool.h>

/* The roots of one PEM text; immutable, reference-counted. */
struct cv_trust {
	int ref; /* atomic */
	char *pem;
	STACK_OF(X509) * roots;
	X509_STORE *store;
};

/* A reference: of latest (may be NULL) when that has the same text, else of a new one. NULL = not
 * PEM, no certificate in it, or no memory. */
struct cv_trust *cv_trust_get(struct cv_trust *latest, const char *pem);
struct cv_trust *cv_trust_ref(struct cv_trust *t);
void cv_trust_put(struct cv_trust **t);
/* NULL = leaf leads to these roots by way of chain, whatever the time; else why not. */
const char *cv_trust_verify(const struct cv_trust *t, X509 *leaf, STACK_OF(X509) * chain);

/* Every certificate of a PEM text onto the stack; false when there is none or one is broken. */
bool cv_trust_read_pem(const char *pem, STACK_OF(X509) * stack);
