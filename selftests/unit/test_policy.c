/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy evaluator: truth tables of matching and of the decision, and random policies
 * against a naive twin that is written from the rules alone, on texts.
 *
 * Policies are written in the file format, which is how people read them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/local_file.h"
#include "userspace/mesh/policy.h"

/* ---- helpers ---- */

static struct cv_mesh_file parse_policies(const char *yaml)
{
	struct cv_mesh_file f = {};
	char error[512] = "";

	if (cv_mesh_file_parse("test", yaml, strlen(yaml), &f, error, sizeof(error)) < 0)
		fail_msg("%s\n%s", error, yaml);
	return f;
}

struct question {
	const char *src, *dst, *identity; /* identity NULL = none */
	uint16_t port;
};

static struct cv_authz_conn make_conn(const struct question *q, struct cv_identity *id)
{
	struct cv_authz_conn c = { .dst_port = q->port };

	assert_int_equal(cv_addr_parse(q->src ? q->src : "10.0.0.1", &c.src), 0);
	assert_int_equal(cv_addr_parse(q->dst ? q->dst : "10.0.0.2", &c.dst), 0);
	if (q->identity) {
		assert_int_equal(cv_identity_parse(q->identity, strlen(q->identity), id), 0);
		c.src_identity = id;
	}
	return c;
}

#define WEB "spiffe://cluster.local/ns/shop/sa/web"

/* ---- one policy ---- */

struct match_row {
	const char *action, *rules;
	struct question q;
	bool matches;
};

static const struct match_row match_rows[] = {
	/* How empty lists nest. */
	{ "Allow", "[]", { .port = 80 }, false },
	{ "Allow", "[[]]", { .port = 80 }, true },
	{ "Allow", "[[[]]]", { .port = 80 }, true },
	{ "Allow", "[[[{}]]]", { .port = 80 }, false },
	{ "Deny", "[[[{}]]]", { .port = 80 }, false },
	/* Rules OR, clauses AND, matches OR, attributes AND. */
	{ "Allow",
	  "[[[{destinationPorts: [1]}]], [[{destinationPorts: [2]}]]]",
	  { .port = 2 },
	  true },
	{ "Allow",
	  "[[[{destinationPorts: [1]}], [{destinationPorts: [2]}]]]",
	  { .port = 2 },
	  false },
	{ "Allow", "[[[{destinationPorts: [1]}, {destinationPorts: [2]}]]]", { .port = 2 }, true },
	{ "Allow", "[[[{destinationPorts: [2], sourceIps: [10.9.0.0/16]}]]]", { .port = 2 }, false },
	/* Ports. */
	{ "Allow", "[[[{destinationPorts: [80, 90]}]]]", { .port = 90 }, true },
	{ "Allow", "[[[{notDestinationPorts: [80]}]]]", { .port = 80 }, false },
	{ "Allow", "[[[{notDestinationPorts: [80]}]]]", { .port = 81 }, true },
	{ "Allow",
	  "[[[{destinationPorts: [80], notDestinationPorts: [80]}]]]",
	  { .port = 80 },
	  false },
	/* Addresses: host bits do not matter, families never cross. */
	{ "Allow", "[[[{destinationIps: [127.0.0.1/24]}]]]", { .dst = "127.0.0.2" }, true },
	{ "Allow", "[[[{sourceIps: [10.0.0.1/32]}]]]", { .src = "10.0.0.1" }, true },
	{ "Allow", "[[[{sourceIps: [10.0.0.1/32]}]]]", { .src = "10.0.0.2" }, false },
	{ "Allow", "[[[{sourceIps: [0.0.0.0/0]}]]]", { .src = "2001:db8::1" }, false },
	{ "Allow", "[[[{sourceIps: ['::/0']}]]]", { .src = "10.0.0.1" }, false },
	{ "Allow", "[[[{sourceIps: ['2001:db8::/32']}]]]", { .src = "2001:db8::1" }, true },
	{ "Allow", "[[[{notSourceIps: [10.0.0.0/8]}]]]", { .src = "10.0.0.1" }, false },
	{ "Allow", "[[[{notDestinationIps: [10.0.0.0/8]}]]]", { .dst = "11.0.0.1" }, true },
	{ "Allow", "[[[{sourceIps: ['::ffff:10.0.0.0/104']}]]]", { .src = "10.0.0.1" }, true },
	/* Principals are compared without the scheme, which is a trap. */
	{ "Allow",
	  "[[[{principals: [!Exact cluster.local/ns/shop/sa/web]}]]]",
	  { .identity = WEB },
	  true },
	{ "Allow", "[[[{principals: [!Exact '" WEB "']}]]]", { .identity = WEB }, false },
	{ "Allow", "[[[{principals: [!Prefix cluster.local/]}]]]", { .identity = WEB }, true },
	{ "Allow", "[[[{principals: [!Suffix /sa/web]}]]]", { .identity = WEB }, true },
	{ "Allow", "[[[{principals: [!Suffix /sa/we]}]]]", { .identity = WEB }, false },
	{ "Allow", "[[[{principals: [!Presence []]}]]]", { .identity = WEB }, true },
	{ "Allow", "[[[{principals: [!Presence []]}]]]", { .port = 80 }, false },
	{ "Allow", "[[[{principals: [!Prefix '']}]]]", { .port = 80 }, false },
	{ "Allow",
	  "[[[{principals: [!Exact CLUSTER.local/ns/shop/sa/web]}]]]",
	  { .identity = WEB },
	  false },
	/* Plaintext against negative lists: nothing to hold against it. */
	{ "Allow",
	  "[[[{notPrincipals: [!Exact cluster.local/ns/shop/sa/web]}]]]",
	  { .port = 80 },
	  true },
	{ "Allow",
	  "[[[{notPrincipals: [!Exact cluster.local/ns/shop/sa/web]}]]]",
	  { .identity = WEB },
	  false },
	{ "Allow", "[[[{notNamespaces: [!Exact shop]}]]]", { .port = 80 }, true },
	{ "Allow", "[[[{notNamespaces: [!Exact shop]}]]]", { .identity = WEB }, false },
	{ "Allow",
	  "[[[{notServiceAccounts: [{namespace: shop, serviceAccount: web}]}]]]",
	  { .port = 80 },
	  true },
	{ "Deny", "[[[{notPrincipals: [!Presence []]}]]]", { .port = 80 }, true },
	/* Namespaces: without an identity the text is empty. */
	{ "Allow", "[[[{namespaces: [!Exact shop]}]]]", { .identity = WEB }, true },
	{ "Allow", "[[[{namespaces: [!Prefix sh]}]]]", { .identity = WEB }, true },
	{ "Allow", "[[[{namespaces: [!Presence []]}]]]", { .port = 80 }, false },
	{ "Allow", "[[[{namespaces: [!Exact shop]}]]]", { .port = 80 }, false },
	{ "Allow", "[[[{namespaces: [!Prefix '']}]]]", { .port = 80 }, true },
	/* Service accounts: namespace and name; the trust domain does not matter. */
	{ "Allow",
	  "[[[{serviceAccounts: [{namespace: shop, serviceAccount: web}]}]]]",
	  { .identity = WEB },
	  true },
	{ "Allow",
	  "[[[{serviceAccounts: [{namespace: shop, serviceAccount: web}]}]]]",
	  { .identity = "spiffe://other/ns/shop/sa/web" },
	  true },
	{ "Allow",
	  "[[[{serviceAccounts: [{namespace: shop, serviceAccount: db}]}]]]",
	  { .identity = WEB },
	  false },
	{ "Allow",
	  "[[[{serviceAccounts: [{namespace: shop, serviceAccount: web}]}]]]",
	  { .port = 80 },
	  false },
};

static void test_match_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(match_rows); i++) {
		const struct match_row *row = &match_rows[i];
		_cleanup_free_ char *yaml = NULL;
		_cleanup_(cv_identity_fini) struct cv_identity id = {};
		struct cv_authz_conn c = make_conn(&row->q, &id);
		struct cv_mesh_file f;
		bool got;

		assert_true(asprintf(&yaml,
				     "policies: [{name: p, namespace: n, scope: Global, action: %s,"
				     " dryRun: false, rules: %s}]",
				     row->action, row->rules) > 0);
		f = parse_policies(yaml);
		got = cv_policy_matches(f.policies[0], &c);
		if (got != row->matches)
			fail_msg("row %zu: %s: got %d", i, row->rules, got);
		cv_mesh_file_fini(&f);
	}
	assert_int_equal(cv_str_count(), 0);
}

/* A match that could not be understood: true in a DENY, false in an ALLOW, whatever else it says. */
static void test_unclear(void **state)
{
	struct cv_mesh_file f = parse_policies("policies: [{name: p, namespace: n, scope: Global,"
					       " action: Deny, dryRun: false,"
					       " rules: [[[{destinationPorts: [1]}]]]}]");
	struct cv_identity id;
	struct cv_authz_conn c = make_conn(&(struct question){ .port = 2 }, &id);
	struct cv_policy *p = f.policies[0];

	(void)state;
	assert_false(cv_policy_matches(p, &c));
	p->rules[0].clauses[0].matches[0].unclear = true;
	assert_true(cv_policy_matches(p, &c));
	p->action = CV_POLICY_ALLOW;
	assert_false(cv_policy_matches(p, &c));
	c.dst_port = 1;
	assert_false(cv_policy_matches(p, &c));
	cv_mesh_file_fini(&f);
}

/* ---- the decision ---- */

#define POLICY(name, action, dry, port)                                                    \
	"- {name: " name ", namespace: n, scope: Global, action: " action ", dryRun: " dry \
	", rules: [[[{destinationPorts: [" port "]}]]]}\n"

struct decision_row {
	const char *policies;
	uint16_t port;
	bool allow;
	const char *policy, *why;
};

static const struct decision_row decision_rows[] = {
	{ "", 80, true, "", "" },
	{ POLICY("a", "Allow", "false", "80"), 80, true, "n/a", "" },
	{ POLICY("a", "Allow", "false", "80"), 81, false, "",
	  "allow policies exist, but none allowed" },
	{ POLICY("d", "Deny", "false", "80"), 80, false, "n/d", "explicitly denied by: n/d" },
	{ POLICY("d", "Deny", "false", "80"), 81, true, "", "" },
	/* DENY comes before ALLOW. */
	{ POLICY("a", "Allow", "false", "80") POLICY("d", "Deny", "false", "80"), 80, false, "n/d",
	  "explicitly denied by: n/d" },
	/* Policies on trial decide nothing. */
	{ POLICY("d", "Deny", "true", "80"), 80, true, "", "" },
	{ POLICY("a", "Allow", "true", "80"), 81, true, "", "" },
	{ POLICY("a", "Allow", "true", "80") POLICY("b", "Allow", "false", "81"), 80, false, "",
	  "allow policies exist, but none allowed" },
};

static void test_decision_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(decision_rows); i++) {
		const struct decision_row *row = &decision_rows[i];
		_cleanup_free_ char *yaml = NULL;
		struct cv_identity id;
		struct cv_authz_conn c = make_conn(&(struct question){ .port = row->port }, &id);
		struct cv_authz_result got;
		struct cv_mesh_file f;

		assert_true(asprintf(&yaml, "policies:\n%s", row->policies) > 0);
		f = parse_policies(yaml);
		cv_policy_evaluate(&(struct cv_policy_set){ .policies = f.policies,
							    .n = f.nr_policies },
				   &c, &got);
		assert_int_equal(got.allow, row->allow);
		assert_string_equal(got.policy, row->policy);
		assert_string_equal(got.why, row->why);
		cv_mesh_file_fini(&f);
	}
}

/* A listed policy that is not known closes the workload, whatever the others say. */
static void test_missing_policy_denies(void **state)
{
	struct cv_policy_set set = { .missing = true, .missing_key = cv_str_new("n/gone") };
	struct cv_identity id;
	struct cv_authz_conn c = make_conn(&(struct question){ .port = 80 }, &id);
	struct cv_authz_result got;

	(void)state;
	cv_policy_evaluate(&set, &c, &got);
	assert_false(got.allow);
	assert_string_equal(got.policy, "n/gone");
	cv_policy_set_fini(&set);
	assert_int_equal(cv_str_count(), 0);
}

static void test_ports_and_addresses(void **state)
{
	struct cv_mesh_file f = parse_policies(
		"policies:\n"
		"- {name: a, namespace: n, scope: Global, action: Allow, dryRun: false,\n"
		"   rules: [[[{destinationPorts: [90, 80]}, {notDestinationPorts: [80, 7]}]]]}\n"
		"- {name: b, namespace: n, scope: Global, action: Deny, dryRun: true,\n"
		"   rules: [[[{notSourceIps: [10.0.0.0/8]}]]]}\n");
	struct cv_policy_set set = { .policies = f.policies, .n = f.nr_policies };
	uint16_t ports[3];

	(void)state;
	assert_int_equal(cv_policy_set_ports(&set, ports, 3), 3);
	assert_int_equal(ports[0], 7);
	assert_int_equal(ports[1], 80);
	assert_int_equal(ports[2], 90);
	assert_int_equal(cv_policy_set_ports(&set, ports, 2), -E2BIG);
	assert_true(cv_policy_set_uses_addresses(&set));
	set.n = 1;
	assert_false(cv_policy_set_uses_addresses(&set));
	cv_mesh_file_fini(&f);
}

/* ---- random policies against a naive twin ---- */

static uint32_t rng = 1;

static unsigned pick(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 17;
	rng ^= rng << 5;
	return rng % n;
}

static const char *const namespaces[] = { "", "a", "ab", "b" };
static const char *const accounts[] = { "x", "xy", "y" };

static cv_str pick_str(const char *const *from, unsigned n)
{
	return cv_str_new(from[pick(n)]);
}

static void random_strings(struct cv_string_match **ret, size_t *ret_n, bool principals)
{
	char text[64];

	*ret_n = pick(4) ? 0 : 1 + pick(2);
	*ret = calloc(*ret_n + 1, sizeof(**ret));
	for (size_t i = 0; i < *ret_n; i++) {
		(*ret)[i].kind = pick(4);
		snprintf(text, sizeof(text), principals ? "td/ns/%s/sa/%s" : "%s",
			 namespaces[pick(4)], accounts[pick(3)]);
		/* Prefixes and suffixes of one end of the text. */
		if ((*ret)[i].kind == CV_MATCH_PREFIX)
			text[pick((unsigned)strlen(text) + 1)] = '\0';
		(*ret)[i].text = cv_str_new((*ret)[i].kind == CV_MATCH_SUFFIX ?
						    text + pick((unsigned)strlen(text) + 1) :
						    text);
	}
}

static void random_accounts(struct cv_sa_match **ret, size_t *ret_n)
{
	*ret_n = pick(4) ? 0 : 1 + pick(2);
	*ret = calloc(*ret_n + 1, sizeof(**ret));
	for (size_t i = 0; i < *ret_n; i++)
		(*ret)[i] = (struct cv_sa_match){ pick_str(namespaces, 4), pick_str(accounts, 3) };
}

static void random_cidrs(struct cv_cidr **ret, size_t *ret_n)
{
	*ret_n = pick(4) ? 0 : 1 + pick(2);
	*ret = calloc(*ret_n + 1, sizeof(**ret));
	for (size_t i = 0; i < *ret_n; i++) {
		(*ret)[i].ip = cv_addr_v4(0x0a000000 | pick(8));
		(*ret)[i].len = (uint8_t)(29 + pick(4));
	}
}

static void random_ports(uint16_t **ret, size_t *ret_n)
{
	*ret_n = pick(4) ? 0 : 1 + pick(2);
	*ret = calloc(*ret_n + 1, sizeof(**ret));
	for (size_t i = 0; i < *ret_n; i++)
		(*ret)[i] = (uint16_t)(80 + pick(4));
}

static void random_match(struct cv_match *m)
{
	random_strings(&m->namespaces, &m->nr_namespaces, false);
	random_strings(&m->not_namespaces, &m->nr_not_namespaces, false);
	random_strings(&m->principals, &m->nr_principals, true);
	random_strings(&m->not_principals, &m->nr_not_principals, true);
	random_accounts(&m->service_accounts, &m->nr_service_accounts);
	random_accounts(&m->not_service_accounts, &m->nr_not_service_accounts);
	random_cidrs(&m->source_ips, &m->nr_source_ips);
	random_cidrs(&m->not_source_ips, &m->nr_not_source_ips);
	random_cidrs(&m->destination_ips, &m->nr_destination_ips);
	random_cidrs(&m->not_destination_ips, &m->nr_not_destination_ips);
	random_ports(&m->destination_ports, &m->nr_destination_ports);
	random_ports(&m->not_destination_ports, &m->nr_not_destination_ports);
	m->unclear = !pick(20);
}

static struct cv_policy *random_policy(void)
{
	struct cv_policy *p = cv_policy_new();

	p->name = cv_str_new("p");
	p->action = pick(2);
	p->dry_run = !pick(5);
	p->n = pick(3);
	p->rules = calloc(p->n + 1, sizeof(*p->rules));
	for (size_t i = 0; i < p->n; i++) {
		struct cv_rule *rule = &p->rules[i];

		rule->n = pick(3);
		rule->clauses = calloc(rule->n + 1, sizeof(*rule->clauses));
		for (size_t j = 0; j < rule->n; j++) {
			struct cv_clause *c = &rule->clauses[j];

			c->n = pick(3);
			c->matches = calloc(c->n + 1, sizeof(*c->matches));
			for (size_t k = 0; k < c->n; k++)
				random_match(&c->matches[k]);
		}
	}
	return p;
}

/* The twin: counts hits list by list; says nothing about how the evaluator does it. */
struct twin {
	const struct cv_authz_conn *c;
	const char *ns, *sa, *principal; /* NULL without an identity */
};

static bool twin_string(const struct cv_string_match *m, const char *text)
{
	const char *want = cv_str_text(m->text), *at;

	if (!text)
		return false;
	if (m->kind == CV_MATCH_PRESENCE)
		return *text;
	if (m->kind == CV_MATCH_EXACT)
		return !strcmp(text, want);
	if (m->kind == CV_MATCH_PREFIX)
		return strstr(text, want) == text;
	for (at = text; *at || !*want; at++)
		if (!strcmp(at, want))
			return true;
		else if (!*at)
			break;
	return !strcmp(at, want);
}

static unsigned twin_strings(const struct cv_string_match *m, size_t n, const char *text)
{
	unsigned hits = 0;

	for (size_t i = 0; i < n; i++)
		hits += twin_string(&m[i], text);
	return hits;
}

static unsigned twin_accounts(const struct cv_sa_match *m, size_t n, const struct twin *t)
{
	unsigned hits = 0;

	for (size_t i = 0; i < n; i++)
		hits += t->sa && !strcmp(cv_str_text(m[i].ns), t->ns) &&
			!strcmp(cv_str_text(m[i].sa), t->sa);
	return hits;
}

static unsigned twin_cidrs(const struct cv_cidr *c, size_t n, const struct cv_addr *ip)
{
	unsigned hits = 0;

	for (size_t i = 0; i < n; i++)
		hits += c[i].ip.b[15] >> (32 - c[i].len) == ip->b[15] >> (32 - c[i].len);
	return hits;
}

static unsigned twin_ports(const uint16_t *p, size_t n, uint16_t port)
{
	unsigned hits = 0;

	for (size_t i = 0; i < n; i++)
		hits += p[i] == port;
	return hits;
}

static bool twin_match(const struct cv_match *m, enum cv_policy_action action, const struct twin *t)
{
	const struct {
		size_t n;
		unsigned hits;
		bool negative;
	} lists[] = {
		{ m->nr_namespaces, twin_strings(m->namespaces, m->nr_namespaces, t->ns), false },
		{ m->nr_not_namespaces,
		  twin_strings(m->not_namespaces, m->nr_not_namespaces, t->ns), true },
		{ m->nr_principals, twin_strings(m->principals, m->nr_principals, t->principal),
		  false },
		{ m->nr_not_principals,
		  twin_strings(m->not_principals, m->nr_not_principals, t->principal), true },
		{ m->nr_service_accounts,
		  twin_accounts(m->service_accounts, m->nr_service_accounts, t), false },
		{ m->nr_not_service_accounts,
		  twin_accounts(m->not_service_accounts, m->nr_not_service_accounts, t), true },
		{ m->nr_source_ips, twin_cidrs(m->source_ips, m->nr_source_ips, &t->c->src),
		  false },
		{ m->nr_not_source_ips,
		  twin_cidrs(m->not_source_ips, m->nr_not_source_ips, &t->c->src), true },
		{ m->nr_destination_ips,
		  twin_cidrs(m->destination_ips, m->nr_destination_ips, &t->c->dst), false },
		{ m->nr_not_destination_ips,
		  twin_cidrs(m->not_destination_ips, m->nr_not_destination_ips, &t->c->dst), true },
		{ m->nr_destination_ports,
		  twin_ports(m->destination_ports, m->nr_destination_ports, t->c->dst_port),
		  false },
		{ m->nr_not_destination_ports,
		  twin_ports(m->not_destination_ports, m->nr_not_destination_ports, t->c->dst_port),
		  true },
	};
	size_t used = 0;

	if (m->unclear)
		return action == CV_POLICY_DENY;
	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++) {
		used += lists[i].n;
		if (lists[i].n && lists[i].negative == (lists[i].hits > 0))
			return false;
	}
	return used > 0;
}

static bool twin_policy(const struct cv_policy *p, const struct twin *t)
{
	for (size_t i = 0; i < p->n; i++) {
		size_t good = 0;

		for (size_t j = 0; j < p->rules[i].n; j++) {
			const struct cv_clause *c = &p->rules[i].clauses[j];
			size_t hits = 0;

			for (size_t k = 0; k < c->n; k++)
				hits += twin_match(&c->matches[k], p->action, t);
			good += hits || !c->n;
		}
		if (good == p->rules[i].n)
			return true;
	}
	return false;
}

static bool twin_decide(struct cv_policy **policies, size_t n, const struct twin *t)
{
	size_t denies = 0, allows = 0, allowed = 0;

	for (size_t i = 0; i < n; i++) {
		bool hit = twin_policy(policies[i], t);

		if (policies[i]->dry_run)
			continue;
		denies += policies[i]->action == CV_POLICY_DENY && hit;
		allows += policies[i]->action == CV_POLICY_ALLOW;
		allowed += policies[i]->action == CV_POLICY_ALLOW && hit;
	}
	return !denies && (!allows || allowed);
}

static bool ask_both(struct cv_policy **policies, size_t n)
{
	const char *ns = namespaces[pick(4)], *sa = accounts[pick(3)];
	struct cv_identity id;
	struct cv_authz_conn c = { cv_addr_v4(0x0a000000 | pick(8)),
				   cv_addr_v4(0x0a000000 | pick(8)), (uint16_t)(80 + pick(4)),
				   pick(3) ? &id : NULL, false };
	char principal[64];
	struct twin t = { .c = &c, .ns = "" };
	struct cv_authz_result got;

	cv_identity_set(&id, cv_str_new("td"), cv_str_new(ns), cv_str_new(sa));
	snprintf(principal, sizeof(principal), "td/ns/%s/sa/%s", ns, sa);
	if (c.src_identity)
		t = (struct twin){ &c, ns, sa, principal };
	cv_policy_evaluate(&(struct cv_policy_set){ .policies = policies, .n = n }, &c, &got);
	assert_int_equal(got.allow, twin_decide(policies, n, &t));
	for (size_t i = 0; i < n; i++)
		assert_int_equal(cv_policy_matches(policies[i], &c), twin_policy(policies[i], &t));
	cv_identity_fini(&id);
	return got.allow;
}

static void test_random_against_twin(void **state)
{
	unsigned allowed = 0, asked = 0;

	(void)state;
	for (int round = 0; round < 4000; round++) {
		struct cv_policy *policies[3];
		size_t n = pick(4);

		for (size_t i = 0; i < n; i++)
			policies[i] = random_policy();
		for (int q = 0; q < 8; q++, asked++)
			allowed += ask_both(policies, n);
		for (size_t i = 0; i < n; i++)
			cv_policy_put(&policies[i]);
	}
	/* The questions are worth asking: both answers are common. */
	assert_in_range(allowed, asked / 10, asked * 9 / 10);
	assert_int_equal(cv_str_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_match_table),
		cmocka_unit_test(test_unclear),
		cmocka_unit_test(test_decision_table),
		cmocka_unit_test(test_missing_policy_denies),
		cmocka_unit_test(test_ports_and_addresses),
		cmocka_unit_test(test_random_against_twin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
