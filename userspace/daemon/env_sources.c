/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where workloads and certificates come from: the defaults that follow from running in a cluster,
 * the channels' extra metadata, and what does not go together.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "userspace/daemon/env.h"

#define ISTIOD	   "https://istiod.istio-system.svc:15012"
#define TOKEN_FILE "./var/run/secrets/tokens/istio-token"

/* ---- extra metadata ---- */

void cv_env_headers_fini(struct cv_env_headers *h)
{
	for (size_t i = 0; i < h->n; i++) {
		free((char *)h->list[i].name);
		free((char *)h->list[i].value);
	}
	free(h->list);
	*h = (struct cv_env_headers){};
}

/* name=value of len bytes of name. */
static int add_header(struct cv_env_headers *h, const char *name, size_t len)
{
	struct cv_grpc_header *grown = reallocarray(h->list, h->n + 1, sizeof(*grown));
	char *key = strndup(name, len), *value = strdup(name + len + 1);

	if (grown)
		h->list = grown;
	if (!grown || !key || !value) {
		free(key);
		free(value);
		return -ENOMEM;
	}
	for (char *c = key; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	h->list[h->n++] = (struct cv_grpc_header){ key, value };
	return 0;
}

/* What gRPC can carry as text: a token whose end does not promise binary, and printable ASCII. */
static bool is_metadata(const char *name, size_t len, const char *value)
{
	bool binary = len >= 4 && strncasecmp(name + len - 4, "-bin", 4) == 0;

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("!#$%&'*+-.^_`|~", name[i]))
			return false;
	for (; *value; value++)
		if (!isprint((unsigned char)*value) && *value != '\t')
			return false;
	return len && !binary;
}

static int read_headers(struct cv_env_headers *h, const char *prefix, char *error, size_t size)
{
	size_t skip = strlen(prefix);

	for (char **e = environ; *e; e++) {
		const char *name = *e + skip;
		size_t len;

		if (strncmp(*e, prefix, skip) != 0)
			continue;
		len = strcspn(name, "=");
		if (!name[len])
			continue;
		if (!is_metadata(name, len, name + len + 1)) {
			snprintf(
				error, size,
				"%.*s=\"%s\": expected %sNAME=TEXT with the name of a header, not of "
				"a binary one (-bin), and printable ASCII: mend or unset it",
				(int)(skip + len), *e, name + len + 1, prefix);
			return -EINVAL;
		}
		if (add_header(h, name, len) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* ---- sources ---- */

static int set_default(char **member, const char *text)
{
	if (!*member)
		*member = strdup(text);
	return *member ? 0 : -ENOMEM;
}

/* In a cluster istiod is where it always is, unless the variable says that there is none. */
static bool has_default_xds(const struct cv_env *env)
{
	return env->kubernetes_host && !getenv("XDS_ADDRESS");
}

static int check_sources(const struct cv_env *env, char *error, size_t size)
{
	const char *beside = env->ca_address	  ? "CA_ADDRESS" :
			     env->xds_address	  ? "XDS_ADDRESS" :
			     env->kubernetes_host ? "KUBERNETES_SERVICE_HOST" :
						    NULL;

	if (env->local_xds_path && env->local_xds)
		snprintf(error, size, "LOCAL_XDS_PATH and LOCAL_XDS are both set: unset one");
	else if (env->dev_ca && beside)
		snprintf(
			error, size,
			"CULVERT_DEV_CA is for development and refuses to run beside %s: unset one",
			beside);
	else if (!env->local_xds_path && !env->local_xds && !env->xds_address &&
		 !has_default_xds(env))
		snprintf(error, size,
			 "no source of workloads: set XDS_ADDRESS to istiod's address, or "
			 "LOCAL_XDS_PATH to a file (see culvertd(8))");
	else if (!env->dev_ca && !env->ca_address && !env->kubernetes_host)
		snprintf(error, size,
			 "no certificate authority: set CA_ADDRESS to istiod's address, or "
			 "CULVERT_DEV_CA to a directory (see culvertd(8))");
	else
		return 0;
	return -EINVAL;
}

int cv_env_derive_sources(struct cv_env *env, char *error, size_t size)
{
	int r = check_sources(env, error, size);

	if (r < 0)
		return r;
	if (has_default_xds(env))
		r = set_default(&env->xds_address, ISTIOD);
	if (r == 0 && !env->dev_ca)
		r = set_default(&env->ca_address, ISTIOD);
	if (r == 0 && access(TOKEN_FILE, F_OK) == 0)
		r = set_default(&env->auth_token, TOKEN_FILE);
	if (r == 0)
		r = read_headers(&env->ca_headers, "CA_HEADER_", error, size);
	if (r == 0)
		r = read_headers(&env->xds_headers, "XDS_HEADER_", error, size);
	if (r == -ENOMEM)
		snprintf(error, size, "the environment: out of memory");
	return r;
}
