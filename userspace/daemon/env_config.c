// SPDX-License-Identifier: Apache-2.0
/*
 * The mesh config file and PROXY_CONFIG (both YAML or JSON) as environment variables:
 *
 *	discoveryAddress     XDS_ADDRESS and CA_ADDRESS
 *	concurrency          ZTUNNEL_WORKER_THREADS
 *	proxyMetadata        ISTIO_META_NAME for each
 *	proxyAdminPort, statsPort
 *
 * Other keys configure other proxies and are passed over.
 */
#include "userspace/daemon/env_config.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/file.h"
#include "userspace/base/quantity.h"
#include "userspace/limits.h"
#include "userspace/proto/yaml_reader.h"

#define META "ISTIO_META_"

/* ---- one ProxyConfig --------------------------------------------------------------------------- */

static int set_unset(struct cv_yaml *y, const struct cv_yaml_node *n, const char *name)
{
	const char *text = cv_yaml_text(y, n);

	if (!text)
		return -EINVAL;
	return setenv(name, text, 0) ? -errno : 0;
}

static int take_address(struct cv_yaml *y, const struct cv_yaml_node *n, struct cv_env_ports *ports)
{
	int r = set_unset(y, n, "XDS_ADDRESS");

	(void)ports;
	return r ? r : set_unset(y, n, "CA_ADDRESS");
}

static int take_concurrency(struct cv_yaml *y, const struct cv_yaml_node *n,
			    struct cv_env_ports *ports)
{
	uint16_t threads;
	int r = cv_yaml_u16(y, n, NULL, &threads);

	(void)ports;
	return r ? r : set_unset(y, n, "ZTUNNEL_WORKER_THREADS");
}

static int take_port(struct cv_yaml *y, const struct cv_yaml_node *n, uint16_t *port)
{
	uint16_t value;
	int r = cv_yaml_u16(y, n, NULL, &value);

	if (r == 0 && !*port)
		*port = value;
	return r;
}

static int take_admin_port(struct cv_yaml *y, const struct cv_yaml_node *n,
			   struct cv_env_ports *ports)
{
	return take_port(y, n, &ports->admin);
}

static int take_stats_port(struct cv_yaml *y, const struct cv_yaml_node *n,
			   struct cv_env_ports *ports)
{
	return take_port(y, n, &ports->metrics);
}

static int take_metadatum(struct cv_yaml *y, const struct cv_yaml_node *key,
			  const struct cv_yaml_node *value, void *arg)
{
	_cleanup_free_ char *name = NULL;
	const char *plain = cv_yaml_text(y, key);

	(void)arg;
	if (!plain)
		return -EINVAL;
	if (!*plain || strchr(plain, '='))
		return cv_yaml_fail(y, key, "no name of a variable");
	if (strncmp(plain, META, strlen(META)) == 0)
		plain += strlen(META);
	if (asprintf(&name, META "%s", plain) < 0)
		return -ENOMEM;
	return set_unset(y, value, name);
}

static int take_metadata(struct cv_yaml *y, const struct cv_yaml_node *n,
			 struct cv_env_ports *ports)
{
	(void)ports;
	return cv_yaml_entries(y, n, take_metadatum, NULL);
}

static const struct {
	const char *key;
	int (*take)(struct cv_yaml *y, const struct cv_yaml_node *n, struct cv_env_ports *ports);
} proxy_keys[] = {
	{ "discoveryAddress", take_address },  { "concurrency", take_concurrency },
	{ "proxyAdminPort", take_admin_port }, { "statsPort", take_stats_port },
	{ "proxyMetadata", take_metadata },
};

static int take_proxy_key(struct cv_yaml *y, const struct cv_yaml_node *key,
			  const struct cv_yaml_node *value, void *arg)
{
	if (key->kind != CV_YAML_SCALAR || cv_yaml_is_null(value))
		return 0;
	for (size_t i = 0; i < CV_ARRAY_SIZE(proxy_keys); i++)
		if (strcmp(key->text, proxy_keys[i].key) == 0)
			return proxy_keys[i].take(y, value, arg);
	return 0;
}

/* The defaultConfig of a mesh config. */
static int take_mesh_key(struct cv_yaml *y, const struct cv_yaml_node *key,
			 const struct cv_yaml_node *value, void *arg)
{
	if (key->kind != CV_YAML_SCALAR || strcmp(key->text, "defaultConfig") != 0)
		return 0;
	return cv_yaml_entries(y, value, take_proxy_key, arg);
}

/* ---- the two sources ---------------------------------------------------------------------------- */

static int take_text(const char *name, const char *text, size_t len, cv_yaml_entry take,
		     struct cv_env_ports *ports, char *error, size_t size)
{
	_cleanup_yaml_ struct cv_yaml *y = NULL;
	int r = cv_yaml_parse(&y, name, text, len, error, size);

	if (r == 0)
		r = cv_yaml_entries(y, cv_yaml_root(y), take, ports);
	if (r == -ENOMEM)
		snprintf(error, size, "%s: %s", name, strerror(ENOMEM));
	return r;
}

static int take_file(const char *path, struct cv_env_ports *ports, char *error, size_t size)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = cv_file_read(path, CV_LIMIT_SETTINGS_BYTES, &text, &len);

	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r == 0)
		return take_text(path, text, len, take_mesh_key, ports, error, size);
	snprintf(error, size, "%s: cannot be read: %s", path, strerror(-r));
	return -EINVAL;
}

int cv_env_apply_config(const char *path, struct cv_env_ports *ret, char *error, size_t size)
{
	const char *text = getenv("PROXY_CONFIG");
	struct cv_env_ports ports = {};
	int r = 0;

	if (text && *text)
		r = take_text("PROXY_CONFIG", text, strlen(text), take_proxy_key, &ports, error,
			      size);
	if (r == 0)
		r = take_file(path, &ports, error, size);
	if (r == 0)
		*ret = ports;
	return r;
}

/* ---- variables that leave no choice --------------------------------------------------------------- */

static const struct {
	const char *name;
	const char *only; /* the one value; NULL = any: it has no effect */
	const char *help;
	bool number; /* without an effect, but a number of 32 bits if it is set */
} fixed_vars[] = {
	{ "ENABLE_PROXY", "true", "the proxy cannot be switched off: unset it", false },
	{ "PROXY_MODE", "shared", "one daemon serves all pods of its node: unset it", false },
	{ "FAKE_CA", "false", "for development set CULVERT_DEV_CA to a directory", false },
	{ "UNSTABLE_ENABLE_SOCKS5", "false", "there is no SOCKS5 server: unset it", false },
	{ "COMPLIANCE_POLICY", "",
	  "it cannot be kept (no post-quantum key exchange here): unset it", false },
	{ "PROXY_WORKLOAD_INFO", NULL, "of PROXY_MODE=dedicated alone", false },
	{ "HTTP2_STREAM_WINDOW_SIZE", NULL, "always 4 MiB", true },
	{ "HTTP2_CONNECTION_WINDOW_SIZE", NULL, "always 16 MiB", true },
	{ "HTTP2_FRAME_SIZE", NULL, "always 1 MiB", true },
	{ "INPOD_ENABLED", NULL, "always so in ztunnel's place", false },
	{ "RUST_BACKTRACE", NULL, "of another language", false },
};

static bool is_u32(const char *text)
{
	uint64_t value;

	return cv_uint_parse(text, &value) == 0 && value <= UINT32_MAX;
}

int cv_env_check_fixed(char *error, size_t size)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(fixed_vars); i++) {
		const char *text = getenv(fixed_vars[i].name), *only = fixed_vars[i].only;
		bool number = fixed_vars[i].number;

		if (!text || !*text || (only ? strcmp(text, only) == 0 : !number || is_u32(text)))
			continue;
		snprintf(error, size, "%s=\"%s\": %s%s", fixed_vars[i].name, text,
			 number ? "expected a number, or unset it: it is " : "",
			 fixed_vars[i].help);
		return -EINVAL;
	}
	return 0;
}

void cv_env_print_fixed(FILE *out)
{
	fprintf(out, "  %-33s %s\n", "PROXY_CONFIG",
		"ProxyConfig as YAML or JSON; so is " CV_MESH_CONFIG ", if it is there");
	for (size_t i = 0; i < CV_ARRAY_SIZE(fixed_vars); i++) {
		const char *only = fixed_vars[i].only;

		fprintf(out, "  %-33s %s%s%s: %s\n", fixed_vars[i].name,
			only ? "only " : "no effect", only && !*only ? "empty" : "",
			only ? only : "", fixed_vars[i].help);
	}
}
