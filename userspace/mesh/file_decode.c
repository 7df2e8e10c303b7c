/* SPDX-License-Identifier: Apache-2.0 */
/* What the file format's objects share: addresses, ports, gateways, names. */
#include "userspace/mesh/file_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

static const char *const health_words[] = { [CV_HEALTHY] = "Healthy", [CV_UNHEALTHY] = "Unhealthy" };
const struct cv_yaml_words cv_file_health = { health_words, CV_ARRAY_SIZE(health_words) };

int cv_file_addr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const char *text = cv_yaml_text(y, n);

	(void)arg; /* no table */
	if (!text)
		return -EINVAL;
	if (cv_addr_parse(text, out) < 0)
		return cv_yaml_fail(y, n, "must be an IP address, is `%s`", text);
	return 0;
}

int cv_file_network_addr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			 void *out)
{
	struct cv_network_addr *ret = out;
	const char *text = cv_yaml_text(y, n), *slash;

	(void)arg; /* no table */
	if (!text)
		return -EINVAL;
	slash = strchr(text, '/');
	if (!slash || cv_addr_parse(slash + 1, &ret->ip) < 0)
		return cv_yaml_fail(y, n, "must be NETWORK/IP, is `%s`", text);
	ret->network = cv_str_new_len(text, (size_t)(slash - text));
	return 0;
}

int cv_file_cidr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const char *text = cv_yaml_text(y, n);

	(void)arg; /* no table */
	if (!text)
		return -EINVAL;
	if (!strchr(text, '/') || cv_cidr_parse(text, out) < 0)
		return cv_yaml_fail(y, n, "must be IP/LENGTH, is `%s`", text);
	return 0;
}

int cv_file_ns_host(struct cv_yaml *y, const struct cv_yaml_node *n, struct cv_ns_host *ret)
{
	const char *text = cv_yaml_text(y, n), *slash;

	if (!text)
		return -EINVAL;
	slash = strchr(text, '/');
	if (!slash || !slash[1] || strchr(slash + 1, '/'))
		return cv_yaml_fail(y, n, "must be NAMESPACE/HOSTNAME, is `%s`", text);
	ret->ns = cv_str_new_len(text, (size_t)(slash - text));
	ret->host = cv_str_new(slash + 1);
	return 0;
}

/* ---- ports ---- */

struct port_list {
	struct cv_port_map_entry *entries;
	size_t n;
};

static int decode_port(struct cv_yaml *y, const struct cv_yaml_node *key,
		       const struct cv_yaml_node *value, void *arg)
{
	struct port_list *l = arg;
	struct cv_port_map_entry *e = &l->entries[l->n];
	int r = cv_yaml_u16(y, key, NULL, &e->service_port);

	if (r == 0)
		r = cv_yaml_u16(y, value, NULL, &e->target_port);
	l->n += r == 0;
	return r;
}

static const struct cv_port_map_entry *find_repeated(const struct port_list *l)
{
	uint8_t seen[(UINT16_MAX + 1) / 8] = {};

	for (size_t i = 0; i < l->n; i++) {
		const struct cv_port_map_entry *e = &l->entries[i];
		uint8_t bit = (uint8_t)(1 << e->service_port % 8);

		if (seen[e->service_port / 8] & bit)
			return e;
		seen[e->service_port / 8] |= bit;
	}
	return NULL;
}

int cv_file_ports(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	_cleanup_free_ struct cv_port_map_entry *entries = calloc(n->nr / 2 + 1, sizeof(*entries));
	struct port_list l = { entries, 0 };
	const struct cv_port_map_entry *repeated;
	int r;

	(void)arg; /* no table */
	if (!entries)
		return -ENOMEM;
	r = cv_yaml_entries(y, n, decode_port, &l);
	if (r < 0)
		return r;
	repeated = find_repeated(&l);
	if (repeated)
		return cv_yaml_fail(y, n, "port %u is there twice", repeated->service_port);
	cv_port_map_init(out, entries, l.n);
	return 0;
}

/* ---- gateways ---- */

/* "network/ip", else "ns/hostname"; a leading slash is the empty network. */
static int decode_destination(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			      void *out)
{
	struct cv_gateway *g = out;
	const char *text = cv_yaml_text(y, n), *slash;
	struct cv_addr ip;

	if (!text)
		return -EINVAL;
	slash = strchr(text, '/');
	if (slash && cv_addr_parse(slash + 1, &ip) == 0)
		return cv_file_network_addr(y, n, arg, &g->addr);
	g->by_host = true;
	return cv_file_ns_host(y, n, &g->host);
}

static const struct cv_yaml_field gateway_fields[] = {
	{ "destination", decode_destination, NULL, 0, CV_YAML_REQUIRED },
	{ "hboneMtlsPort", cv_yaml_u16, NULL, offsetof(struct cv_gateway, hbone_port),
	  CV_YAML_REQUIRED },
};

int cv_file_gateway(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	(void)arg; /* no table */
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(gateway_fields), out);
}

int cv_file_gateway_ptr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_gateway **g = out;

	*g = calloc(1, sizeof(**g));
	return *g ? cv_file_gateway(y, n, arg, *g) : -ENOMEM;
}

/* ---- keys ---- */

struct keyed {
	cv_str key;
	const struct cv_yaml_node *node;
};

static int compare_keyed(const void *a, const void *b)
{
	const struct keyed *ka = a, *kb = b;

	if (ka->key != kb->key)
		return ka->key > kb->key ? 1 : -1;
	return (ka->node->line > kb->node->line) - (ka->node->line < kb->node->line);
}

int cv_file_check_unique(struct cv_yaml *y, const struct cv_yaml_node *n, const cv_str *keys,
			 const char *what)
{
	_cleanup_free_ struct keyed *sorted = calloc(n->nr + 1, sizeof(*sorted));

	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < n->nr; i++)
		sorted[i] = (struct keyed){ keys[i], n->children[i] };
	qsort(sorted, n->nr, sizeof(*sorted), compare_keyed);
	for (size_t i = 1; i < n->nr; i++)
		if (sorted[i].key == sorted[i - 1].key)
			return cv_yaml_fail(y, sorted[i].node, "the same %s as in line %u: `%s`",
					    what, sorted[i - 1].node->line,
					    cv_str_text(sorted[i].key));
	return 0;
}

cv_str cv_file_key(cv_str a, cv_str b)
{
	_cleanup_free_ char *text = NULL;

	if (asprintf(&text, "%s/%s", cv_str_text(a), cv_str_text(b)) < 0)
		abort();
	return cv_str_new(text);
}
