/* SPDX-License-Identifier: Apache-2.0 */
/* culvert.yaml: tables of its keys, defaults, and the look-up of a pod's same-node tier. */
#include "userspace/daemon/settings.h"

#define CV_LOG_TARGET "settings"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/file.h"
#include "userspace/base/log.h"
#include "userspace/io/filewatch.h"
#include "userspace/limits.h"
#include "userspace/proto/yaml_reader.h"

static const char *const tier_words[] = {
	[CV_SAME_NODE_DIRECT] = "direct",
	[CV_SAME_NODE_RELAY] = "relay",
	[CV_SAME_NODE_TLS] = "tls",
};
static const struct cv_yaml_words tiers = { tier_words, CV_ARRAY_SIZE(tier_words) };

static int decode_tier(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	enum cv_same_node tier;
	int r = cv_yaml_enum(y, n, &tiers, &tier);

	(void)arg; /* one table of words */
	if (r < 0)
		return r;
	if (tier == CV_SAME_NODE_RELAY)
		return cv_yaml_fail(y, n, "this version has no relay tier: use direct or tls");
	*(enum cv_same_node *)out = tier;
	return 0;
}

struct rules {
	struct cv_same_node_rule **rules;
	size_t *n;
	bool pods; /* keys are "ns/name" */
};

static int decode_rule(struct cv_yaml *y, const struct cv_yaml_node *key,
		       const struct cv_yaml_node *value, void *arg)
{
	struct rules *list = arg;
	struct cv_same_node_rule *grown, rule;
	const char *text = cv_yaml_text(y, key), *slash;
	int r;

	if (!text)
		return -EINVAL;
	slash = strchr(text, '/');
	if (list->pods && (!slash || slash == text || !slash[1] || strchr(slash + 1, '/')))
		return cv_yaml_fail(y, key, "\"%s\": expected NAMESPACE/NAME", text);
	if (!list->pods && (slash || !*text))
		return cv_yaml_fail(y, key, "\"%s\": expected a namespace", text);
	r = decode_tier(y, value, NULL, &rule.tier);
	if (r < 0)
		return r;
	grown = realloc(*list->rules, (*list->n + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	*list->rules = grown;
	rule.key = cv_str_new(text);
	grown[(*list->n)++] = rule;
	return 0;
}

static int decode_namespaces(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			     void *out)
{
	struct cv_settings *s = out;
	struct rules list = { &s->namespaces, &s->nr_namespaces, false };

	(void)arg;
	return cv_yaml_entries(y, n, decode_rule, &list);
}

static int decode_pods(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_settings *s = out;
	struct rules list = { &s->pods, &s->nr_pods, true };

	(void)arg;
	return cv_yaml_entries(y, n, decode_rule, &list);
}

/* A limit: arg is its upper bound. */
static int decode_limit(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const unsigned *most = arg;
	unsigned value;
	int r = cv_yaml_u32(y, n, NULL, &value);

	if (r < 0)
		return r;
	if (!value || value > *most)
		return cv_yaml_fail(y, n, "%u: expected 1 to %u", value, *most);
	*(unsigned *)out = value;
	return 0;
}

static const unsigned most_connections = 1 << 20;
static const unsigned most_series = 1 << 20;

#define MEMBER(m) offsetof(struct cv_settings, m)

static const struct cv_yaml_field same_node_fields[] = {
	{ "mesh", decode_tier, NULL, MEMBER(same_node), 0 },
	{ "namespaces", decode_namespaces, NULL, 0, 0 },
	{ "pods", decode_pods, NULL, 0, 0 },
};
static const struct cv_yaml_field limits_fields[] = {
	{ "connections", decode_limit, &most_connections, MEMBER(max_connections), 0 },
	{ "connectionsPerPod", decode_limit, &most_connections, MEMBER(max_connections_pod), 0 },
	{ "metricSeries", decode_limit, &most_series, MEMBER(max_series), 0 },
};
static const struct cv_yaml_field capture_fields[] = {
	{ "fastPath", cv_yaml_bool, NULL, MEMBER(fast_path), 0 },
	{ "podsCgroup", cv_yaml_str, NULL, MEMBER(pods_cgroup), 0 },
};

struct section {
	const struct cv_yaml_field *fields;
	size_t nr;
};

/* All sections fill the one struct, so each is decoded at offset 0. */
static int decode_section(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			  void *out)
{
	const struct section *section = arg;

	return cv_yaml_struct(y, n, section->fields, section->nr, out);
}

static const struct section same_node_section = { CV_YAML_FIELDS(same_node_fields) };
static const struct section limits_section = { CV_YAML_FIELDS(limits_fields) };
static const struct section capture_section = { CV_YAML_FIELDS(capture_fields) };

static const struct cv_yaml_field top_fields[] = {
	{ "sameNode", decode_section, &same_node_section, 0, 0 },
	{ "limits", decode_section, &limits_section, 0, 0 },
	{ "capture", decode_section, &capture_section, 0, 0 },
};

void cv_settings_init(struct cv_settings *s)
{
	*s = (struct cv_settings){
		.same_node = CV_SAME_NODE_DIRECT,
		.max_connections = CV_LIMIT_CONNECTIONS,
		.max_connections_pod = CV_LIMIT_CONNECTIONS_POD,
		.max_series = CV_LIMIT_SERIES,
		.fast_path = true,
	};
}

static void free_rules(struct cv_same_node_rule **rules, size_t *n)
{
	for (size_t i = 0; i < *n; i++)
		cv_str_put(&(*rules)[i].key);
	free(*rules);
	*rules = NULL;
	*n = 0;
}

void cv_settings_fini(struct cv_settings *s)
{
	free_rules(&s->namespaces, &s->nr_namespaces);
	free_rules(&s->pods, &s->nr_pods);
	cv_str_put(&s->pods_cgroup);
}

int cv_settings_parse(const char *name, const char *text, size_t len, struct cv_settings *ret,
		      char *error, size_t size)
{
	_cleanup_yaml_ struct cv_yaml *y = NULL;
	struct cv_settings s;
	int r = cv_yaml_parse(&y, name, text, len, error, size);

	if (r < 0)
		return r;
	cv_settings_init(&s);
	r = cv_yaml_struct(y, cv_yaml_root(y), CV_YAML_FIELDS(top_fields), &s);
	if (r < 0) {
		cv_settings_fini(&s);
		return r;
	}
	cv_settings_fini(ret);
	*ret = s;
	return 0;
}

int cv_settings_read(const char *path, struct cv_settings *ret, char *error, size_t size)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = cv_file_read(path, CV_LIMIT_SETTINGS_BYTES, &text, &len);

	if (r < 0) {
		snprintf(error, size, "%s: cannot be read: %s", path, strerror(-r));
		return r;
	}
	return cv_settings_parse(path, text, len, ret, error, size);
}

static const struct cv_same_node_rule *find_rule(const struct cv_same_node_rule *rules, size_t n,
						 const char *key)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(cv_str_text(rules[i].key), key) == 0)
			return &rules[i];
	return NULL;
}

enum cv_same_node cv_settings_same_node(const struct cv_settings *s, const char *ns,
					const char *name)
{
	const struct cv_same_node_rule *rule;
	char key[512];

	snprintf(key, sizeof(key), "%s/%s", ns, name);
	rule = find_rule(s->pods, s->nr_pods, key);
	if (!rule)
		rule = find_rule(s->namespaces, s->nr_namespaces, ns);
	return rule ? rule->tier : s->same_node;
}

struct cv_settings_watch {
	struct cv_filewatch *file;
	char *path;
	struct cv_settings *settings;
	void (*changed)(void *arg);
	void *arg;
};

static void on_file_changed(void *arg)
{
	struct cv_settings_watch *w = arg;
	char error[512];

	if (cv_settings_read(w->path, w->settings, error, sizeof(error)) < 0) {
		cv_warn("%s; the last good settings stay in force", error);
		return;
	}
	cv_info("settings read again from %s", w->path);
	w->changed(w->arg);
}

int cv_settings_watch(struct cv_settings_watch **ret, struct cv_worker *control, const char *path,
		      struct cv_settings *s, void (*changed)(void *arg), void *arg)
{
	_cleanup_(cv_settings_unwatch) struct cv_settings_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	*w = (struct cv_settings_watch){ .settings = s, .changed = changed, .arg = arg };
	w->path = strdup(path);
	if (!w->path)
		return -ENOMEM;
	r = cv_filewatch_start(&w->file, control, path, on_file_changed, w);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(w);
	return 0;
}

void cv_settings_unwatch(struct cv_settings_watch **w)
{
	if (!*w)
		return;
	cv_filewatch_stop(&(*w)->file);
	free((*w)->path);
	cv_free_cleanup(w);
}
