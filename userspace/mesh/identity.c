/* SPDX-License-Identifier: Apache-2.0 */
/* SPIFFE identities: parsing, printing, and reading them from certificates. */
#define CV_LOG_TARGET "identity"
#include "userspace/mesh/identity.h"

#include <errno.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

#define SCHEME "spiffe://"

void cv_identity_set(struct cv_identity *ret, cv_str trust_domain, cv_str ns, cv_str sa)
{
	*ret = (struct cv_identity){
		.trust_domain = trust_domain,
		.ns = ns,
		.sa = sa,
	};
}

void cv_identity_copy(struct cv_identity *ret, const struct cv_identity *from)
{
	cv_identity_set(ret, cv_str_ref(from->trust_domain), cv_str_ref(from->ns),
			cv_str_ref(from->sa));
}

void cv_identity_fini(struct cv_identity *id)
{
	cv_str_put(&id->trust_domain);
	cv_str_put(&id->ns);
	cv_str_put(&id->sa);
}

bool cv_identity_is_set(const struct cv_identity *id)
{
	return id->trust_domain || id->ns || id->sa;
}

bool cv_identity_eq(const struct cv_identity *a, const struct cv_identity *b)
{
	return a->trust_domain == b->trust_domain && a->ns == b->ns && a->sa == b->sa;
}

/* The five pieces between slashes after the scheme: trust domain, "ns", ns, "sa", sa. */
int cv_identity_parse(const char *text, size_t len, struct cv_identity *ret)
{
	const char *end = text + len, *piece[5], *p;
	size_t size[5], n = 0;

	if (len < strlen(SCHEME) || len >= CV_IDENTITY_TEXT || memchr(text, '\0', len) ||
	    memcmp(text, SCHEME, strlen(SCHEME)))
		return -EINVAL;
	for (p = text + strlen(SCHEME); n < 5; p += size[n++] + 1) {
		const char *slash = memchr(p, '/', (size_t)(end - p));

		piece[n] = p;
		size[n] = (size_t)((slash ? slash : end) - p);
		if (!slash != (n == 4))
			return -EINVAL;
	}
	if (size[1] != 2 || memcmp(piece[1], "ns", 2) || size[3] != 2 || memcmp(piece[3], "sa", 2))
		return -EINVAL;
	*ret = (struct cv_identity){
		.trust_domain = cv_str_new_len(piece[0], size[0]),
		.ns = cv_str_new_len(piece[2], size[2]),
		.sa = cv_str_new_len(piece[4], size[4]),
	};
	return 0;
}

const char *cv_identity_text(const struct cv_identity *id, char buf[CV_IDENTITY_TEXT])
{
	snprintf(buf, CV_IDENTITY_TEXT, SCHEME "%s/ns/%s/sa/%s", cv_str_text(id->trust_domain),
		 cv_str_text(id->ns), cv_str_text(id->sa));
	return buf;
}

static void free_names(GENERAL_NAMES **names)
{
	GENERAL_NAMES_free(*names);
	*names = NULL;
}

/* fn per URI SAN that is a SPIFFE identity, until it returns true. */
static bool find_identity(X509 *cert, bool (*fn)(const struct cv_identity *id, void *arg),
			  void *arg)
{
	_cleanup_(free_names)
		GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	bool found = false;

	for (int i = 0; !found && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		struct cv_identity id;
		const char *uri;
		int len;

		if (name->type != GEN_URI)
			continue;
		uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		len = ASN1_STRING_length(name->d.uniformResourceIdentifier);
		if (cv_identity_parse(uri, (size_t)len, &id) < 0) {
			cv_debug("a URI SAN of %d bytes is no SPIFFE identity", len);
			continue;
		}
		found = fn(&id, arg);
		cv_identity_fini(&id);
	}
	return found;
}

static bool take_first(const struct cv_identity *id, void *arg)
{
	cv_identity_copy(arg, id);
	return true;
}

int cv_identity_of_cert(X509 *cert, struct cv_identity *ret)
{
	return find_identity(cert, take_first, ret) ? 0 : -ENOENT;
}

static bool is_in_trust_domain(const struct cv_identity *id, void *arg)
{
	return id->trust_domain == *(cv_str *)arg;
}

bool cv_identity_cert_has_trust_domain(X509 *cert, cv_str trust_domain)
{
	return find_identity(cert, is_in_trust_domain, &trust_domain);
}

struct san_list {
	char *buf;
	size_t size, len;
	const cv_str *want;
	size_t nr_want;
	size_t nr;
};

static bool list_san(const struct cv_identity *id, void *arg)
{
	struct san_list *l = arg;
	char text[CV_IDENTITY_TEXT];
	int n;

	n = snprintf(l->buf + l->len, l->size - l->len, "%s%s", l->nr++ ? "," : "",
		     cv_identity_text(id, text));
	l->len += n < 0 ? 0 : (size_t)n;
	if (l->len >= l->size)
		l->len = l->size - 1;
	return false;
}

const char *cv_identity_list_of_cert(X509 *cert, char *buf, size_t size)
{
	struct san_list l = { .buf = buf, .size = size };

	buf[0] = '\0';
	find_identity(cert, list_san, &l);
	return buf;
}

static bool is_expected(const struct cv_identity *id, void *arg)
{
	const struct san_list *l = arg;
	char text[CV_IDENTITY_TEXT];

	cv_identity_text(id, text);
	for (size_t i = 0; i < l->nr_want; i++)
		if (!strcmp(cv_str_text(l->want[i]), text))
			return true;
	return false;
}

bool cv_identity_cert_has_any(X509 *cert, const cv_str *texts, size_t n)
{
	struct san_list l = { .want = texts, .nr_want = n };

	return find_identity(cert, is_expected, &l);
}
