/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A certificate cache on a control loop of its own, with a CA that does what a test wants: signs
 * with one of two development roots, refuses, keeps requests waiting, answers with the wrong thing.
 */
#pragma once

#include "userspace/mesh/certs_private.h"

enum { CERTLAB_PENDING = 64, CERTLAB_ROOTS = 2 };

struct certlab {
	struct cv_worker *control;
	struct cv_certs *certs;
	/* The CA's orders. */
	int root; /* signs with this one */
	bool both_roots; /* an answer comes with all of them, else with that of the signer */
	bool other_root; /* … with those that have not signed */
	const char *sign_for; /* an identity in place of the one that is asked for */
	unsigned ttl_s; /* 0 = as asked */
	const char *refusal; /* refuses with this text */
	bool unreachable; /* … because it is away */
	bool holding; /* keeps requests until certlab_release */
	/* What it has seen. */
	int asked, held;
	char order[512]; /* service accounts in the order of asking */
	/* inside */
	char dir[CERTLAB_ROOTS][64];
	struct cv_ca dev[CERTLAB_ROOTS];
	struct {
		struct cv_identity id;
		char *csr;
		struct cv_ca_request request; /* with the two copies above */
	} pending[CERTLAB_PENDING];
};
extern struct certlab certlab;

/* cmocka's setup and teardown. The latter counts strings that are left. */
int certlab_setup(void **state);
int certlab_teardown(void **state);

/* The CA answers the oldest request that it holds. */
void certlab_release(void);
/* spiffe://TD/ns/shop/sa/SA; cv_identity_fini. */
struct cv_identity certlab_identity(const char *td, const char *sa);
/* Runs the control loop until *n >= want, at most ms. */
void certlab_run_until(const int *n, int want, int ms);
/* Asks and waits for a certificate, which there has to be. */
struct cv_cert *certlab_get(const char *td, const char *sa);
/* A CSR of key for id, signed as the CA's orders are. */
void certlab_sign(const struct cv_identity *id, EVP_PKEY *key,
		  void (*done)(void *arg, const struct cv_ca_answer *answer), void *arg);

struct certlab_answer {
	int calls;
	struct cv_cert *cert;
	char error[512];
};
/* A cv_certs_fn; arg is a struct certlab_answer. */
void certlab_on_cert(struct cv_cert *cert, const char *error, void *arg);
/* State of the only identity of the cache, "" = none. */
const char *certlab_only_state(void);
