/* SPDX-License-Identifier: Apache-2.0 */
/*
 * istio.security.Authorization as policies. A list's entry that cannot be understood makes its match
 * unclear (true in a DENY, false in an ALLOW); a policy that cannot be is refused, and the caller
 * gets one in its place that denies the same scope.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/xds_decode.h"
#include "userspace/proto/pb/security.pb-c.h"
#include "userspace/proto/utf8.h"

static void *new_array(size_t n, size_t size)
{
	void *p = n ? calloc(n, size) : NULL;

	if (n && !p)
		abort(); /* as the constructors of the objects */
	return p;
}

/* ---- lists: each returns how many entries it kept, and tells of those it could not ------------ */

static size_t decode_strings(size_t n, Istio__Security__StringMatch *const *from,
			     struct cv_string_match **ret, bool *unclear)
{
	struct cv_string_match *list = *ret = new_array(n, sizeof(*list));
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		struct cv_string_match *m = &list[kept];

		switch (from[i]->match_type_case) {
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
			*m = (struct cv_string_match){ CV_MATCH_EXACT, cv_str_new(from[i]->exact) };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
			*m = (struct cv_string_match){ CV_MATCH_PREFIX,
						       cv_str_new(from[i]->prefix) };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
			*m = (struct cv_string_match){ CV_MATCH_SUFFIX,
						       cv_str_new(from[i]->suffix) };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
			*m = (struct cv_string_match){ .kind = CV_MATCH_PRESENCE };
			break;
		default:
			*unclear = true;
			continue;
		}
		kept++;
	}
	return kept;
}

static size_t decode_accounts(size_t n, Istio__Security__ServiceAccountMatch *const *from,
			      struct cv_sa_match **ret)
{
	*ret = new_array(n, sizeof(**ret));
	for (size_t i = 0; i < n; i++)
		(*ret)[i] = (struct cv_sa_match){ cv_str_new(from[i]->namespace_),
						  cv_str_new(from[i]->serviceaccount) };
	return n;
}

static size_t decode_cidrs(size_t n, Istio__Security__Address *const *from, struct cv_cidr **ret,
			   bool *unclear)
{
	struct cv_cidr *list = *ret = new_array(n, sizeof(*list));
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		size_t bytes = from[i]->address.len;

		if ((bytes != 4 && bytes != 16) || from[i]->length > 8 * bytes) {
			*unclear = true;
			continue;
		}
		list[kept].ip = cv_addr_from_bytes(from[i]->address.data, bytes);
		list[kept++].len = (uint8_t)from[i]->length;
	}
	return kept;
}

static size_t decode_ports(size_t n, const uint32_t *from, uint16_t **ret, bool *unclear)
{
	uint16_t *list = *ret = new_array(n, sizeof(*list));
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		if (from[i] > UINT16_MAX)
			*unclear = true;
		else
			list[kept++] = (uint16_t)from[i];
	}
	return kept;
}

static void decode_match(const Istio__Security__Match *f, struct cv_match *m)
{
#define STRINGS(name)  m->nr_##name = decode_strings(f->n_##name, f->name, &m->name, &m->unclear)
#define CIDRS(name)    m->nr_##name = decode_cidrs(f->n_##name, f->name, &m->name, &m->unclear)
#define PORTS(name)    m->nr_##name = decode_ports(f->n_##name, f->name, &m->name, &m->unclear)
#define ACCOUNTS(name) m->nr_##name = decode_accounts(f->n_##name, f->name, &m->name)
	STRINGS(namespaces);
	STRINGS(not_namespaces);
	STRINGS(principals);
	STRINGS(not_principals);
	CIDRS(source_ips);
	CIDRS(not_source_ips);
	CIDRS(destination_ips);
	CIDRS(not_destination_ips);
	PORTS(destination_ports);
	PORTS(not_destination_ports);
	ACCOUNTS(service_accounts);
	ACCOUNTS(not_service_accounts);
}

static void decode_rules(const Istio__Security__Authorization *from, struct cv_policy *p)
{
	p->rules = new_array(from->n_rules, sizeof(*p->rules));
	for (; p->n < from->n_rules; p->n++) {
		const Istio__Security__Rule *fr = from->rules[p->n];
		struct cv_rule *rule = &p->rules[p->n];

		rule->clauses = new_array(fr->n_clauses, sizeof(*rule->clauses));
		for (; rule->n < fr->n_clauses; rule->n++) {
			const Istio__Security__Clause *fc = fr->clauses[rule->n];
			struct cv_clause *c = &rule->clauses[rule->n];

			c->matches = new_array(fc->n_matches, sizeof(*c->matches));
			for (; c->n < fc->n_matches; c->n++)
				decode_match(fc->matches[c->n], &c->matches[c->n]);
		}
	}
}

/* ---- policies ------------------------------------------------------------------------------- */

static int decode_policy(const Istio__Security__Authorization *from, struct cv_policy *p,
			 char error[CV_XDS_ERROR])
{
	static const enum cv_policy_scope scopes[] = { CV_POLICY_GLOBAL, CV_POLICY_NAMESPACE,
						       CV_POLICY_SELECTOR };
	const char *bad = cv_utf8_bad_field(&from->base);

	if (bad) {
		snprintf(error, CV_XDS_ERROR, "%s is not UTF-8", bad);
		return -EINVAL;
	}
	p->name = cv_str_new(from->name);
	p->ns = cv_str_new(from->namespace_);
	p->dry_run = from->dry_run;
	if ((unsigned)from->scope >= CV_ARRAY_SIZE(scopes)) {
		snprintf(error, CV_XDS_ERROR, "unknown scope %d", (int)from->scope);
		return -EINVAL;
	}
	p->scope = scopes[from->scope];
	if (from->action != ISTIO__SECURITY__ACTION__ALLOW &&
	    from->action != ISTIO__SECURITY__ACTION__DENY) {
		snprintf(error, CV_XDS_ERROR, "unknown action %d", (int)from->action);
		return -EINVAL;
	}
	p->action = from->action ? CV_POLICY_DENY : CV_POLICY_ALLOW;
	decode_rules(from, p);
	return 0;
}

/* Denies everything in the scope: a rule without clauses matches. The names come from the
 * resource's where the policy has none. */
static void deny_all(struct cv_policy *p, cv_str name)
{
	const char *slash = strchr(cv_str_text(name), '/');

	if (!p->ns && slash)
		p->ns = cv_str_new_len(name, (size_t)(slash - name));
	if (!p->name)
		p->name = cv_str_new(slash ? slash + 1 : name);
	p->action = CV_POLICY_DENY;
	p->rules = new_array(1, sizeof(*p->rules));
	p->n = 1;
}

int cv_xds_decode_policy(cv_str name, const uint8_t *data, size_t len, struct cv_delta *ret,
			 char error[CV_XDS_ERROR])
{
	Istio__Security__Authorization *a = istio__security__authorization__unpack(NULL, len, data);
	struct cv_policy *p = cv_policy_new();
	int r = -EINVAL;

	*ret = (struct cv_delta){ .kind = CV_DELTA_POLICY, .key = cv_str_ref(name), .policy = p };
	p->scope = CV_POLICY_NAMESPACE;
	if (a)
		r = decode_policy(a, p, error);
	else
		snprintf(error, CV_XDS_ERROR, "not an istio.security.Authorization");
	if (r < 0)
		deny_all(p, name);
	if (a)
		istio__security__authorization__free_unpacked(a, NULL);
	return r;
}
