/* SPDX-License-Identifier: Apache-2.0 */
/* The file format's policies: rules are lists of clauses, which are lists of matches. */
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/file_decode.h"

static const char *const scope_words[] = {
	[CV_POLICY_GLOBAL] = "Global",
	[CV_POLICY_NAMESPACE] = "Namespace",
	[CV_POLICY_SELECTOR] = "WorkloadSelector",
};
static const char *const action_words[] = { [CV_POLICY_ALLOW] = "Allow", [CV_POLICY_DENY] = "Deny" };
static const struct cv_yaml_words scopes = { scope_words, CV_ARRAY_SIZE(scope_words) };
static const struct cv_yaml_words actions = { action_words, CV_ARRAY_SIZE(action_words) };

/* `!Exact x`, `!Prefix x`, `!Suffix x`, `!Presence []` */
static int decode_string_match(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			       void *out)
{
	static const char *const tags[] = { [CV_MATCH_EXACT] = "Exact",
					    [CV_MATCH_PREFIX] = "Prefix",
					    [CV_MATCH_SUFFIX] = "Suffix",
					    [CV_MATCH_PRESENCE] = "Presence" };
	struct cv_string_match *m = out;
	unsigned kind = 0;

	(void)arg; /* no table */
	while (kind < CV_ARRAY_SIZE(tags) && (!n->tag || strcmp(n->tag, tags[kind])))
		kind++;
	if (kind == CV_ARRAY_SIZE(tags))
		return cv_yaml_fail(y, n, "must be tagged !Exact, !Prefix, !Suffix or !Presence");
	m->kind = kind;
	if (kind == CV_MATCH_PRESENCE && (n->kind != CV_YAML_LIST || n->nr))
		return cv_yaml_fail(y, n, "must be `!Presence []`");
	if (kind != CV_MATCH_PRESENCE && n->kind != CV_YAML_SCALAR)
		return cv_yaml_fail(y, n, "!%s takes a string", n->tag);
	if (kind != CV_MATCH_PRESENCE)
		m->text = cv_str_new(n->text);
	return 0;
}

static const struct cv_yaml_field account_fields[] = {
	{ "namespace", cv_yaml_str, NULL, offsetof(struct cv_sa_match, ns), CV_YAML_REQUIRED },
	{ "serviceAccount", cv_yaml_str, NULL, offsetof(struct cv_sa_match, sa), CV_YAML_REQUIRED },
};

static int decode_account(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			  void *out)
{
	(void)arg; /* no table */
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(account_fields), out);
}

/* A list of a match: where its length is beside the array, and how an element is read. */
struct list_type {
	cv_yaml_decode decode;
	size_t size;
};
static const struct list_type strings = { decode_string_match, sizeof(struct cv_string_match) };
static const struct list_type accounts = { decode_account, sizeof(struct cv_sa_match) };
static const struct list_type cidrs = { cv_file_cidr, sizeof(struct cv_cidr) };
static const struct list_type ports = { cv_yaml_u16, sizeof(uint16_t) };

struct list_field {
	const struct list_type *type;
	size_t items, nr; /* offsets in struct cv_match */
};

static int decode_list(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const struct list_field *f = arg;
	char *match = out;

	return cv_yaml_list(y, n, f->type->size, f->type->decode, NULL, (void **)(match + f->items),
			    (size_t *)(match + f->nr));
}

#define LIST(key, member, type)                                                                 \
	{                                                                                       \
		key, decode_list,                                                               \
			&(const struct list_field){ &(type), offsetof(struct cv_match, member), \
						    offsetof(struct cv_match, nr_##member) },   \
			0, 0                                                                    \
	}

static const struct cv_yaml_field match_fields[] = {
	LIST("namespaces", namespaces, strings),
	LIST("notNamespaces", not_namespaces, strings),
	LIST("serviceAccounts", service_accounts, accounts),
	LIST("notServiceAccounts", not_service_accounts, accounts),
	LIST("principals", principals, strings),
	LIST("notPrincipals", not_principals, strings),
	LIST("sourceIps", source_ips, cidrs),
	LIST("notSourceIps", not_source_ips, cidrs),
	LIST("destinationIps", destination_ips, cidrs),
	LIST("notDestinationIps", not_destination_ips, cidrs),
	LIST("destinationPorts", destination_ports, ports),
	LIST("notDestinationPorts", not_destination_ports, ports),
};

static int decode_match(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	(void)arg; /* no table */
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(match_fields), out);
}

static int decode_clause(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			 void *out)
{
	struct cv_clause *c = out;

	return cv_yaml_list(y, n, sizeof(*c->matches), decode_match, arg, (void **)&c->matches,
			    &c->n);
}

static int decode_rule(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_rule *rule = out;

	return cv_yaml_list(y, n, sizeof(*rule->clauses), decode_clause, arg,
			    (void **)&rule->clauses, &rule->n);
}

static int decode_rules(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_policy *p = out;

	return cv_yaml_list(y, n, sizeof(*p->rules), decode_rule, arg, (void **)&p->rules, &p->n);
}

#define P(member) offsetof(struct cv_policy, member)

static const struct cv_yaml_field policy_fields[] = {
	{ "name", cv_yaml_str, NULL, P(name), CV_YAML_REQUIRED },
	{ "namespace", cv_yaml_str, NULL, P(ns), CV_YAML_REQUIRED },
	{ "scope", cv_yaml_enum, &scopes, P(scope), CV_YAML_REQUIRED },
	{ "action", cv_yaml_enum, &actions, P(action), CV_YAML_REQUIRED },
	{ "rules", decode_rules, NULL, 0, CV_YAML_REQUIRED },
	{ "dryRun", cv_yaml_bool, NULL, P(dry_run), CV_YAML_REQUIRED },
};

static int decode_policy(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			 void *out)
{
	struct cv_policy **p = out;

	(void)arg; /* no table */
	*p = cv_policy_new();
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(policy_fields), *p);
}

int cv_file_policies(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_mesh_file *f = out;
	int r = cv_yaml_list(y, n, sizeof(*f->policies), decode_policy, arg, (void **)&f->policies,
			     &f->nr_policies);
	_cleanup_free_ cv_str *keys = r < 0 ? NULL : calloc(n->nr + 1, sizeof(*keys));

	if (r < 0 || !keys)
		return r < 0 ? r : -ENOMEM;
	for (size_t i = 0; i < f->nr_policies; i++)
		keys[i] = cv_file_key(f->policies[i]->ns, f->policies[i]->name);
	r = cv_file_check_unique(y, n, keys, "namespace and name");
	for (size_t i = 0; i < f->nr_policies; i++)
		cv_str_put(&keys[i]);
	return r;
}
