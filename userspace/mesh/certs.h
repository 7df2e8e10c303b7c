/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workload certificates: one entry an identity, fetched from a CA, renewed at half life.
 *
 * The cache runs on the control thread; workers ask from anywhere and are answered on their
 * own thread. A certificate is an immutable, reference-counted object; a connection of its
 * role's SSL_CTX, which all certificates share, becomes its own by cv_cert_use.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>
#include <time.h>

#include "userspace/io/worker.h"
#include "userspace/mesh/crl.h"
#include "userspace/mesh/identity.h"
#include "userspace/mesh/trust.h"

struct cv_cert {
	int ref; /* atomic */
	struct cv_identity identity;
	EVP_PKEY *key;
	X509 *leaf;
	STACK_OF(X509) * chain; /* intermediates, may be empty */
	struct cv_trust *trust; /* the roots that it came with */
	struct cv_crl *crl; /* borrowed; NULL = nothing is ever revoked */
	SSL_CTX *client; /* verifies roots, EKU, time, revocation; the SAN check is cv_cert_verify_peer */
	SSL_CTX *server; /* requires a client certificate of our roots and trust domain */
	time_t not_before, not_after;
};
struct cv_cert *cv_cert_ref(struct cv_cert *c);
void cv_cert_put(struct cv_cert **c);
/* Before the handshake, once: ssl, of c->client or c->server, presents this certificate, verifies by
 * its roots, and holds a reference. 0, -ENOMEM. */
int cv_cert_use(struct cv_cert *c, SSL *ssl);

/* What a CA says to a request; borrowed. */
struct cv_ca_answer {
	const char *error; /* NULL = signed */
	bool unreachable; /* beside error: the CA is away, which says nothing about the request */
	char *const *chain; /* PEM texts, leaf first, roots last (Istio's CreateCertificate shape) */
	size_t nr_chain;
};
struct cv_ca_request {
	const struct cv_identity *id; /* as csr_pem: for the call only */
	const char *csr_pem;
	unsigned ttl_s;
	void (*done)(void *arg,
		     const struct cv_ca_answer *answer); /* once, unless ca.free comes first */
	void *arg;
};
/* A certificate authority. May answer at once or later, on the control thread. */
struct cv_ca {
	void *ctx;
	void (*sign)(void *ctx, const struct cv_ca_request *request);
	void (*free)(void *ctx);
};

struct cv_certs;
struct cv_certs_opts {
	struct cv_worker *control;
	struct cv_ca ca; /* ownership moves */
	unsigned ttl_s; /* SECRET_TTL; 0 = what the authority gives by itself */
	bool tls12;
	struct cv_crl *crl; /* borrowed, for as long as any certificate lives; NULL = none */
};
int cv_certs_new(struct cv_certs **ret, const struct cv_certs_opts *opts);
/* Control thread, after the workers have ended. */
void cv_certs_free(struct cv_certs **c);

/* fn runs once on the calling worker (outside a worker: on the control worker): cert (a new
 * reference) or error text, which lives during the call. When it is known already fn runs before
 * the call returns. */
typedef void (*cv_certs_fn)(struct cv_cert *cert, const char *error, void *arg);
void cv_certs_get(struct cv_certs *c, const struct cv_identity *id, cv_certs_fn fn, void *arg);
/* Have it ready (low priority); forget it when no local pod needs it. Any thread. */
void cv_certs_prefetch(struct cv_certs *c, const struct cv_identity *id);
void cv_certs_forget(struct cv_certs *c, const struct cv_identity *id);

/* Walk for config_dump; fn must not call back. state: "Initializing", "Available", "Unavailable: …". */
typedef int (*cv_certs_each_fn)(const struct cv_identity *id, const char *state,
				const struct cv_cert *cert, void *arg);
int cv_certs_each(struct cv_certs *c, cv_certs_each_fn fn, void *arg);

/* Client side, after the handshake: does the peer's leaf have one of the expected identities?
 * 0, or -EACCES with ztunnel's text. */
int cv_cert_verify_peer(X509 *peer, const cv_str *sans, size_t n, char error[512]);
/* Server side: why a client that has a valid chain was refused, NULL = not for that. Lives as
 * long as the connection. */
const char *cv_cert_error_text(const SSL *ssl);

/* --- development CA (CULVERT_DEV_CA) --- */
/* Opens or makes DIR/root-key.pem and DIR/root-cert.pem: directory 0700, key 0600 (looser is
 * refused: -EACCES with the text in error), made under a lock, published by rename. */
int cv_devca_open(struct cv_ca *ret, const char *dir, char error[256]);
