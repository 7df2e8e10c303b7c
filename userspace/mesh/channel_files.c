/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a channel is configured with, as it is at the moment: the address is parsed once, the root
 * certificates are read for each connection, the token for each call.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/channel_private.h"

/* Up to the limit, NUL-terminated. */
static int read_file(const char *path, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -errno;
	text = malloc(CV_LIMIT_PEM_BYTES + 1);
	if (!text)
		return -ENOMEM;
	while (n > 0 && len < CV_LIMIT_PEM_BYTES) {
		n = read(fd, text + len, CV_LIMIT_PEM_BYTES - len);
		len += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		return -errno;
	if (len == CV_LIMIT_PEM_BYTES)
		return -EFBIG;
	text[len] = '\0';
	*ret = cv_take_ptr(text);
	*ret_len = len;
	return 0;
}

/* ---- the address ---------------------------------------------------------------------------- */

static int bad_address(const char *address, char *error, size_t size)
{
	snprintf(error, size, "\"%s\": expected https://HOST:PORT", address);
	return -EINVAL;
}

static int parse_port(const char *text, uint16_t *ret)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	if (end == text || *end || port == 0 || port > UINT16_MAX || strlen(text) > 5)
		return -EINVAL;
	*ret = (uint16_t)port;
	return 0;
}

/* Without a port: the scheme's. Paths are of no use to gRPC, a lone slash does no harm. */
int channel_parse_address(struct cv_channel *c, const char *address, char *error, size_t size)
{
	const char *rest = strstr(address, "://");
	_cleanup_free_ char *copy = NULL;
	char *host, *port;
	size_t len;

	c->https = !rest || !strncmp(address, "https://", 8);
	if (rest && !c->https && strncmp(address, "http://", 7) != 0)
		return bad_address(address, error, size);
	copy = strdup(rest ? rest + 3 : address);
	if (!copy)
		return -ENOMEM;
	len = strlen(copy);
	if (len && copy[len - 1] == '/')
		copy[len - 1] = '\0';
	host = copy;
	port = strrchr(copy, ':');
	if (copy[0] == '[') {
		char *end = strchr(copy, ']');

		if (!end || (end[1] && end[1] != ':'))
			return bad_address(address, error, size);
		port = end[1] ? end + 1 : NULL;
		*end = '\0';
		host++;
	}
	if (port)
		*port++ = '\0';
	c->port = c->https ? 443 : 80;
	if (!*host || strpbrk(host, "/@ ?#") || (port && parse_port(port, &c->port) < 0))
		return bad_address(address, error, size);
	c->host = strdup(host);
	if (!c->host ||
	    asprintf(&c->authority, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, c->port) < 0)
		return -ENOMEM;
	return 0;
}

/* ---- trust ---------------------------------------------------------------------------------- */

static int add_roots(SSL_CTX *ctx, const char *pem, size_t len)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	int n = 0;
	X509 *x;

	while (bio && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
		n += X509_STORE_add_cert(store, x);
		X509_free(x);
	}
	BIO_free(bio);
	ERR_clear_error(); /* the end of the text is one, too */
	/* Whatever is listed is trusted, self-signed or not. */
	X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
	return n;
}

static int load_roots(const struct cv_channel *c, SSL_CTX *ctx, char error[CHANNEL_ERROR])
{
	const char *ca = c->root_ca ? c->root_ca : "SYSTEM";
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	if (strcmp(ca, "SYSTEM") == 0) {
		if (SSL_CTX_set_default_verify_paths(ctx))
			return 0;
		snprintf(error, CHANNEL_ERROR, "the system's root certificates cannot be read");
		return -EIO;
	}
	if (strstr(ca, "-----BEGIN")) {
		if (add_roots(ctx, ca, strlen(ca)))
			return 0;
		snprintf(error, CHANNEL_ERROR, "the inline root certificate cannot be read");
		return -EINVAL;
	}
	r = read_file(ca, &text, &len);
	if (r < 0)
		snprintf(error, CHANNEL_ERROR, "root certificate %s: %s", ca, cv_strerror(-r));
	else if (!add_roots(ctx, text, len)) {
		snprintf(error, CHANNEL_ERROR, "root certificate %s: no certificate in it", ca);
		r = -EINVAL;
	}
	return r;
}

int channel_tls_ctx(const struct cv_channel *c, SSL_CTX **ret, char error[CHANNEL_ERROR])
{
	SSL_CTX *ctx = cv_tls_ctx_new(false, c->tls12);
	int r;

	if (!ctx) {
		snprintf(error, CHANNEL_ERROR, "out of memory");
		return -ENOMEM;
	}
	r = load_roots(c, ctx, error);
	if (r < 0)
		SSL_CTX_free(ctx);
	else
		*ret = ctx;
	return r;
}

static bool is_for(X509 *leaf, const char *name)
{
	struct cv_addr ip;

	if (cv_addr_parse(name, &ip) == 0)
		return X509_check_ip_asc(leaf, name, 0) == 1;
	return X509_check_host(leaf, name, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1;
}

int channel_check_name(const struct cv_channel *c, X509 *leaf, char error[CHANNEL_ERROR])
{
	if (leaf && (is_for(leaf, c->host) || (c->alt_hostname && is_for(leaf, c->alt_hostname))))
		return 0;
	snprintf(error, CHANNEL_ERROR, "the server's certificate is not for %s%s%s", c->host,
		 c->alt_hostname ? " or " : "", c->alt_hostname ? c->alt_hostname : "");
	return -EACCES;
}

/* ---- the token ------------------------------------------------------------------------------ */

/* A header's value is visible ASCII; what editors leave at the end of a file is not part of it. */
static int check_token(char *token, const char *name, char error[CHANNEL_ERROR])
{
	size_t len = strlen(token);

	while (len && strchr(" \r\n\t", token[len - 1]))
		token[--len] = '\0';
	for (size_t i = 0; i < len; i++)
		if (token[i] <= ' ' || token[i] > '~')
			len = 0;
	if (len)
		return 0;
	snprintf(error, CHANNEL_ERROR, "%s holds no token", name);
	return -EINVAL;
}

int channel_bearer(const struct cv_channel *c, char **ret, char error[CHANNEL_ERROR])
{
	_cleanup_free_ char *token = NULL;
	const char *name = c->auth_token;
	size_t len;
	int r;

	if (!c->auth_token)
		return 0;
	r = read_file(c->auth_token, &token, &len);
	if ((r == -ENOENT || r == -ENAMETOOLONG) && !strchr(c->auth_token, '/')) {
		name = "AUTH_TOKEN";
		token = strdup(c->auth_token);
		r = token ? 0 : -ENOMEM;
	}
	if (r < 0) {
		snprintf(error, CHANNEL_ERROR, "token %s: %s", c->auth_token, cv_strerror(-r));
		return r;
	}
	r = check_token(token, name, error);
	if (r < 0)
		return r;
	return asprintf(ret, "Bearer %s", token) < 0 ? -ENOMEM : 0;
}
