/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The evaluator of L4 authorisation.
 *
 *   policy   any rule         (none: never)
 *   rule     all clauses      (none: always)
 *   clause   any match        (none: always)
 *   match    all attributes   (nothing listed: never; unclear: true in DENY, false in ALLOW)
 *   attribute  (positive list empty or hit) and (negative list empty or not hit)
 */
#include "userspace/mesh/policy.h"

#define CV_LOG_TARGET "access"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

#define SCHEME "spiffe://"

/* A connection with the texts that matches look at. */
struct subject {
	const struct cv_authz_conn *conn;
	const struct cv_identity *id; /* NULL = none */
	char principal[CV_IDENTITY_TEXT]; /* without the scheme */
};

static atomic_bool log_at_info;

void cv_policy_log_at_info(bool on)
{
	atomic_store(&log_at_info, on);
}

static void make_subject(struct subject *s, const struct cv_authz_conn *conn)
{
	char text[CV_IDENTITY_TEXT];

	s->conn = conn;
	s->id = conn->src_identity;
	s->principal[0] = '\0';
	if (s->id)
		snprintf(s->principal, sizeof(s->principal), "%s",
			 cv_identity_text(s->id, text) + strlen(SCHEME));
}

/* ---- matching ---- */

static bool string_matches(const struct cv_string_match *m, const char *text)
{
	const char *want = cv_str_text(m->text);
	size_t len = strlen(text), want_len = strlen(want);

	switch (m->kind) {
	case CV_MATCH_EXACT:
		return !strcmp(text, want);
	case CV_MATCH_PREFIX:
		return !strncmp(text, want, want_len);
	case CV_MATCH_SUFFIX:
		return len >= want_len && !strcmp(text + len - want_len, want);
	case CV_MATCH_PRESENCE:
		return len > 0;
	}
	return false;
}

static bool any_string(const struct cv_string_match *m, size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++)
		if (string_matches(&m[i], text))
			return true;
	return false;
}

static bool any_principal(const struct subject *s, const struct cv_string_match *m, size_t n)
{
	return s->id && any_string(m, n, s->principal);
}

static bool any_account(const struct subject *s, const struct cv_sa_match *m, size_t n)
{
	for (size_t i = 0; s->id && i < n; i++)
		if (m[i].ns == s->id->ns && m[i].sa == s->id->sa)
			return true;
	return false;
}

static bool any_cidr(const struct cv_cidr *c, size_t n, const struct cv_addr *ip)
{
	for (size_t i = 0; i < n; i++)
		if (cv_cidr_contains(&c[i], ip))
			return true;
	return false;
}

static bool any_port(const uint16_t *ports, size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (ports[i] == port)
			return true;
	return false;
}

static bool namespaces_match(const struct cv_match *m, const struct subject *s)
{
	const char *ns = s->id ? cv_str_text(s->id->ns) : "";

	return (!m->nr_namespaces || any_string(m->namespaces, m->nr_namespaces, ns)) &&
	       !any_string(m->not_namespaces, m->nr_not_namespaces, ns);
}

static bool identity_matches(const struct cv_match *m, const struct subject *s)
{
	return (!m->nr_principals || any_principal(s, m->principals, m->nr_principals)) &&
	       !any_principal(s, m->not_principals, m->nr_not_principals) &&
	       (!m->nr_service_accounts ||
		any_account(s, m->service_accounts, m->nr_service_accounts)) &&
	       !any_account(s, m->not_service_accounts, m->nr_not_service_accounts) &&
	       namespaces_match(m, s);
}

static bool address_matches(const struct cv_match *m, const struct cv_authz_conn *c)
{
	return (!m->nr_source_ips || any_cidr(m->source_ips, m->nr_source_ips, &c->src)) &&
	       !any_cidr(m->not_source_ips, m->nr_not_source_ips, &c->src) &&
	       (!m->nr_destination_ips ||
		any_cidr(m->destination_ips, m->nr_destination_ips, &c->dst)) &&
	       !any_cidr(m->not_destination_ips, m->nr_not_destination_ips, &c->dst);
}

static bool port_matches(const struct cv_match *m, uint16_t port)
{
	return (!m->nr_destination_ports ||
		any_port(m->destination_ports, m->nr_destination_ports, port)) &&
	       !any_port(m->not_destination_ports, m->nr_not_destination_ports, port);
}

static bool match_matches(const struct cv_match *m, enum cv_policy_action action,
			  const struct subject *s)
{
	if (m->unclear)
		return action == CV_POLICY_DENY;
	return !cv_match_is_empty(m) && port_matches(m, s->conn->dst_port) &&
	       address_matches(m, s->conn) && identity_matches(m, s);
}

static bool clause_matches(const struct cv_clause *c, enum cv_policy_action action,
			   const struct subject *s)
{
	for (size_t i = 0; i < c->n; i++)
		if (match_matches(&c->matches[i], action, s))
			return true;
	return !c->n;
}

static bool rule_matches(const struct cv_rule *rule, enum cv_policy_action action,
			 const struct subject *s)
{
	for (size_t i = 0; i < rule->n; i++)
		if (!clause_matches(&rule->clauses[i], action, s))
			return false;
	return true;
}

static bool policy_matches(const struct cv_policy *p, const struct subject *s)
{
	for (size_t i = 0; i < p->n; i++)
		if (rule_matches(&p->rules[i], p->action, s))
			return true;
	return false;
}

bool cv_policy_matches(const struct cv_policy *p, const struct cv_authz_conn *conn)
{
	struct subject s;

	make_subject(&s, conn);
	return policy_matches(p, &s);
}

/* ---- the decision ---- */

static void log_decision(const struct subject *s, const char *message, const char *policy)
{
	enum cv_log_level level = atomic_load(&log_at_info) ? CV_LOG_INFO : CV_LOG_DEBUG;
	struct cv_log_field field = { .key = "policy", .text = policy, .bare = true };

	if (!s->conn->silent && cv_log_enabled(level, CV_LOG_TARGET))
		cv_log_fields(level, CV_LOG_TARGET, message, &field, policy ? 1 : 0);
}

static const char *policy_name(const struct cv_policy *p, char buf[320])
{
	snprintf(buf, 320, "%s/%s", cv_str_text(p->ns), cv_str_text(p->name));
	return buf;
}

/* The first policy of this class that matches, NULL = none; *ret_any = there is one at all. */
static const struct cv_policy *find_match(const struct cv_policy_set *set, const struct subject *s,
					  enum cv_policy_action action, bool dry_run, bool *ret_any)
{
	*ret_any = false;
	for (size_t i = 0; i < set->n; i++) {
		const struct cv_policy *p = set->policies[i];

		if (p->action != action || p->dry_run != dry_run)
			continue;
		*ret_any = true;
		if (policy_matches(p, s))
			return p;
	}
	return NULL;
}

/* Policies on trial change nothing: they only say what they would have done. */
static void log_dry_run(const struct cv_policy_set *set, const struct subject *s,
			enum cv_policy_action action)
{
	bool deny = action == CV_POLICY_DENY, any, enforced;
	char name[320];
	const struct cv_policy *p = find_match(set, s, action, true, &any);

	if (p) {
		log_decision(s, deny ? "dry-run: deny policy match" : "dry-run: allow policy match",
			     policy_name(p, name));
		return;
	}
	(void)find_match(set, s, action, false, &enforced); /* only whether there are any */
	if (!deny && any && !enforced)
		log_decision(s, "dry-run: no allow policies match", NULL);
}

static void deny(struct cv_authz_result *ret, const char *policy, const char *why)
{
	ret->allow = false;
	snprintf(ret->policy, sizeof(ret->policy), "%s", policy);
	snprintf(ret->why, sizeof(ret->why), "%s%s", why, policy);
}

static void decide_allow(const struct cv_policy_set *set, const struct subject *s,
			 struct cv_authz_result *ret)
{
	bool any;
	const struct cv_policy *p = find_match(set, s, CV_POLICY_ALLOW, false, &any);

	if (p) {
		log_decision(s, "allow policy match", policy_name(p, ret->policy));
		return;
	}
	log_decision(s, any ? "no allow policies matched" : "no allow policies, allow", NULL);
	if (any)
		deny(ret, "", "allow policies exist, but none allowed");
}

void cv_policy_evaluate(const struct cv_policy_set *set, const struct cv_authz_conn *conn,
			struct cv_authz_result *ret)
{
	const struct cv_policy *p;
	struct subject s;
	char name[320];
	bool any;

	make_subject(&s, conn);
	*ret = (struct cv_authz_result){ .allow = true };
	if (set->missing) {
		deny(ret, cv_str_text(set->missing_key), "a policy of the workload is not known: ");
		log_decision(&s, "deny, policy is not known", ret->policy);
		return;
	}
	log_dry_run(set, &s, CV_POLICY_DENY);
	p = find_match(set, &s, CV_POLICY_DENY, false, &any);
	if (p) {
		deny(ret, policy_name(p, name), "explicitly denied by: ");
		log_decision(&s, "deny policy match", name);
		return;
	}
	log_dry_run(set, &s, CV_POLICY_ALLOW);
	decide_allow(set, &s, ret);
}

/* ---- what a set looks at, for the verdict compiler ---- */

typedef int (*match_fn)(const struct cv_match *m, void *arg);

static int each_match_of_rule(const struct cv_rule *rule, match_fn fn, void *arg)
{
	int r = 0;

	for (size_t i = 0; i < rule->n; i++)
		for (size_t j = 0; j < rule->clauses[i].n && r == 0; j++)
			r = fn(&rule->clauses[i].matches[j], arg);
	return r;
}

/* fn per match object until it returns non-zero, which is returned. */
static int each_match(const struct cv_policy_set *set, match_fn fn, void *arg)
{
	int r = 0;

	for (size_t i = 0; i < set->n; i++)
		for (size_t j = 0; j < set->policies[i]->n && r == 0; j++)
			r = each_match_of_rule(&set->policies[i]->rules[j], fn, arg);
	return r;
}

struct port_list {
	uint16_t *ports;
	size_t n, max;
};

/* Insertion into the sorted list; lists are short (CV_LIMIT_POLICY_PORTS). */
static int add_port(struct port_list *l, uint16_t port)
{
	size_t at = 0;

	while (at < l->n && l->ports[at] < port)
		at++;
	if (at < l->n && l->ports[at] == port)
		return 0;
	if (l->n == l->max)
		return -E2BIG;
	memmove(&l->ports[at + 1], &l->ports[at], (l->n - at) * sizeof(*l->ports));
	l->ports[at] = port;
	l->n++;
	return 0;
}

static int add_ports(const struct cv_match *m, void *arg)
{
	int r = 0;

	for (size_t i = 0; i < m->nr_destination_ports && r == 0; i++)
		r = add_port(arg, m->destination_ports[i]);
	for (size_t i = 0; i < m->nr_not_destination_ports && r == 0; i++)
		r = add_port(arg, m->not_destination_ports[i]);
	return r;
}

int cv_policy_set_ports(const struct cv_policy_set *set, uint16_t *ret, size_t max)
{
	struct port_list l = { .ports = ret, .max = max };
	int r = each_match(set, add_ports, &l);

	return r < 0 ? r : (int)l.n;
}

static int uses_addresses(const struct cv_match *m, void *arg)
{
	(void)arg; /* the answer is the return value */
	return m->nr_source_ips || m->nr_not_source_ips || m->nr_destination_ips ||
	       m->nr_not_destination_ips;
}

bool cv_policy_set_uses_addresses(const struct cv_policy_set *set)
{
	return each_match(set, uses_addresses, NULL);
}
