// SPDX-License-Identifier: Apache-2.0
/* config_dump: policies, in ztunnel's JSON. Empty lists of a match are left out. */
#include "userspace/telemetry/dump.h"
#include "userspace/telemetry/telemetry.h"

static void set_list(json_t *match, const char *key, json_t *list)
{
	if (json_array_size(list))
		json_object_set(match, key, list);
	json_decref(list);
}

static json_t *string_match(const struct cv_string_match *m)
{
	static const char *const kinds[] = {
		[CV_MATCH_EXACT] = "Exact",
		[CV_MATCH_PREFIX] = "Prefix",
		[CV_MATCH_SUFFIX] = "Suffix",
	};

	if (m->kind == CV_MATCH_PRESENCE)
		return json_pack("{s:[]}", "Presence");
	return json_pack("{s:s}", kinds[m->kind], cv_str_text(m->text));
}

static json_t *string_matches(const struct cv_string_match *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, string_match(&list[i]));
	return array;
}

static json_t *service_accounts(const struct cv_sa_match *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array,
				      json_pack("{s:s s:s}", "namespace", cv_str_text(list[i].ns),
						"serviceAccount", cv_str_text(list[i].sa)));
	return array;
}

static json_t *cidrs(const struct cv_cidr *list, size_t n)
{
	json_t *array = json_array();
	char text[CV_SOCKADDR_TEXT];

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_string(cv_cidr_text(&list[i], text)));
	return array;
}

static json_t *ports(const uint16_t *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_integer(list[i]));
	return array;
}

static json_t *match(const struct cv_match *m)
{
	json_t *o = json_object();

	set_list(o, "namespaces", string_matches(m->namespaces, m->nr_namespaces));
	set_list(o, "notNamespaces", string_matches(m->not_namespaces, m->nr_not_namespaces));
	set_list(o, "principals", string_matches(m->principals, m->nr_principals));
	set_list(o, "notPrincipals", string_matches(m->not_principals, m->nr_not_principals));
	set_list(o, "serviceAccounts",
		 service_accounts(m->service_accounts, m->nr_service_accounts));
	set_list(o, "notServiceAccounts",
		 service_accounts(m->not_service_accounts, m->nr_not_service_accounts));
	set_list(o, "sourceIps", cidrs(m->source_ips, m->nr_source_ips));
	set_list(o, "notSourceIps", cidrs(m->not_source_ips, m->nr_not_source_ips));
	set_list(o, "destinationIps", cidrs(m->destination_ips, m->nr_destination_ips));
	set_list(o, "notDestinationIps", cidrs(m->not_destination_ips, m->nr_not_destination_ips));
	set_list(o, "destinationPorts", ports(m->destination_ports, m->nr_destination_ports));
	set_list(o, "notDestinationPorts",
		 ports(m->not_destination_ports, m->nr_not_destination_ports));
	return o;
}

static json_t *clause(const struct cv_clause *c)
{
	json_t *array = json_array();

	for (size_t i = 0; i < c->n; i++)
		json_array_append_new(array, match(&c->matches[i]));
	return array;
}

static json_t *rule(const struct cv_rule *r)
{
	json_t *array = json_array();

	for (size_t i = 0; i < r->n; i++)
		json_array_append_new(array, clause(&r->clauses[i]));
	return array;
}

json_t *cv_dump_policy(const struct cv_policy *p)
{
	static const char *const scopes[] = {
		[CV_POLICY_GLOBAL] = "Global",
		[CV_POLICY_NAMESPACE] = "Namespace",
		[CV_POLICY_SELECTOR] = "WorkloadSelector",
	};
	json_t *rules = json_array();

	for (size_t i = 0; i < p->n; i++)
		json_array_append_new(rules, rule(&p->rules[i]));
	return json_pack("{s:s s:s s:s s:s s:o s:b}", "name", cv_str_text(p->name), "namespace",
			 cv_str_text(p->ns), "scope", scopes[p->scope], "action",
			 p->action == CV_POLICY_ALLOW ? "Allow" : "Deny", "rules", rules, "dryRun",
			 p->dry_run);
}

static int append_policy(cv_str key, struct cv_policy *p, void *arg)
{
	(void)key; /* "namespace/name", which the sort below uses member by member */
	json_array_append_new(arg, cv_dump_policy(p));
	return 0;
}

json_t *cv_dump_policies(struct cv_store *s)
{
	static const char *const keys[] = { "namespace", "name", NULL };
	json_t *array = json_array();

	cv_store_policy_each(s, append_policy, array);
	cv_dump_sort(array, keys);
	return array;
}
