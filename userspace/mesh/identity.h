/* SPDX-License-Identifier: Apache-2.0 */
/* SPIFFE identities: spiffe://<trust domain>/ns/<namespace>/sa/<service account>. */
#pragma once

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>

#include "userspace/base/strs.h"

struct cv_identity {
	cv_str trust_domain, ns, sa;
};

enum { CV_IDENTITY_TEXT = 512 };

/* Takes over the caller's references to the three strings. */
void cv_identity_set(struct cv_identity *ret, cv_str trust_domain, cv_str ns, cv_str sa);
void cv_identity_copy(struct cv_identity *ret, const struct cv_identity *from);
void cv_identity_fini(struct cv_identity *id);
bool cv_identity_is_set(const struct cv_identity *id); /* not all three empty */
bool cv_identity_eq(const struct cv_identity *a, const struct cv_identity *b);
/* Exactly five path pieces; -EINVAL. */
int cv_identity_parse(const char *text, size_t len, struct cv_identity *ret);
const char *cv_identity_text(const struct cv_identity *id, char buf[CV_IDENTITY_TEXT]);
/* First URI SAN of a certificate that is a SPIFFE identity; -ENOENT. */
int cv_identity_of_cert(X509 *cert, struct cv_identity *ret);
/* Does any SPIFFE URI SAN of the certificate have this trust domain? */
bool cv_identity_cert_has_trust_domain(X509 *cert, cv_str trust_domain);
/* Is one of the certificate's SPIFFE URI SANs among these texts? */
bool cv_identity_cert_has_any(X509 *cert, const cv_str *texts, size_t n);
/* All its SPIFFE URI SANs, comma separated, cut to size; returns buf. */
const char *cv_identity_list_of_cert(X509 *cert, char *buf, size_t size);
