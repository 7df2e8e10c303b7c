/* SPDX-License-Identifier: Apache-2.0 */
/* Roots: reading them, sharing them, verifying by them. */
#include "userspace/mesh/trust.h"

#include <string.h>

#include "userspace/mesh/certs_private.h"

bool cv_trust_read_pem(const char *pem, STACK_OF(X509) * stack)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new_mem_buf(pem, -1);
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

struct cv_trust *cv_trust_ref(struct cv_trust *t)
{
	if (t)
		__atomic_fetch_add(&t->ref, 1, __ATOMIC_RELAXED);
	return t;
}

void cv_trust_put(struct cv_trust **tp)
{
	struct cv_trust *t = cv_take_ptr(*tp);

	if (!t || __atomic_fetch_sub(&t->ref, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	sk_X509_pop_free(t->roots, X509_free);
	X509_STORE_free(t->store);
	free(t->pem);
	free(t);
}

static struct cv_trust *new_trust(const char *pem)
{
	_cleanup_(cv_trust_put) struct cv_trust *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->ref = 1;
	t->pem = strdup(pem);
	t->roots = sk_X509_new_null();
	t->store = X509_STORE_new();
	if (!t->pem || !t->roots || !t->store || !cv_trust_read_pem(pem, t->roots))
		return NULL;
	for (int i = 0; i < sk_X509_num(t->roots); i++)
		if (!X509_STORE_add_cert(t->store, sk_X509_value(t->roots, i)))
			return NULL;
	/* What the CA calls a root is the end of the chain, self-signed or not. */
	X509_STORE_set_flags(t->store, X509_V_FLAG_PARTIAL_CHAIN);
	return cv_take_ptr(t);
}

struct cv_trust *cv_trust_get(struct cv_trust *latest, const char *pem)
{
	return latest && strcmp(latest->pem, pem) == 0 ? cv_trust_ref(latest) : new_trust(pem);
}

const char *cv_trust_verify(const struct cv_trust *t, X509 *leaf, STACK_OF(X509) * chain)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	const char *why = "out of memory";

	if (ctx && X509_STORE_CTX_init(ctx, t->store, leaf, chain)) {
		X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_NO_CHECK_TIME);
		why = X509_verify_cert(ctx) > 0 ?
			      NULL :
			      X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx));
	}
	X509_STORE_CTX_free(ctx);
	ERR_clear_error();
	return why;
}
