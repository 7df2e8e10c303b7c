/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life and comparison of policies.
 *
 * The twelve lists of a match are described by one table {offset of the array, offset of its
 * length, kind of element}, which freeing, comparing and counting share.
 */
#include "userspace/mesh/types.h"

#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum element { STRING, ACCOUNT, CIDR, PORT };

struct match_list {
	size_t items, nr; /* offsets */
	enum element element;
};

#define LIST(name, kind)                                                                    \
	{                                                                                   \
		offsetof(struct cv_match, name), offsetof(struct cv_match, nr_##name), kind \
	}

static const struct match_list lists[] = {
	LIST(namespaces, STRING),	 LIST(not_namespaces, STRING),
	LIST(principals, STRING),	 LIST(not_principals, STRING),
	LIST(service_accounts, ACCOUNT), LIST(not_service_accounts, ACCOUNT),
	LIST(source_ips, CIDR),		 LIST(not_source_ips, CIDR),
	LIST(destination_ips, CIDR),	 LIST(not_destination_ips, CIDR),
	LIST(destination_ports, PORT),	 LIST(not_destination_ports, PORT),
};

static void *list_items(const struct cv_match *m, const struct match_list *l)
{
	return *(void *const *)((const char *)m + l->items);
}

static size_t list_nr(const struct cv_match *m, const struct match_list *l)
{
	return *(const size_t *)((const char *)m + l->nr);
}

bool cv_match_is_empty(const struct cv_match *m)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++)
		if (list_nr(m, &lists[i]))
			return false;
	return true;
}

static void free_list(const struct cv_match *m, const struct match_list *l)
{
	struct cv_string_match *strings = list_items(m, l);
	struct cv_sa_match *accounts = list_items(m, l);

	for (size_t i = 0; i < list_nr(m, l); i++) {
		if (l->element == STRING)
			cv_str_put(&strings[i].text);
		if (l->element == ACCOUNT) {
			cv_str_put(&accounts[i].ns);
			cv_str_put(&accounts[i].sa);
		}
	}
	free(list_items(m, l));
}

static bool element_eq(enum element kind, const void *a, const void *b, size_t i)
{
	const struct cv_string_match *sa = a, *sb = b;
	const struct cv_sa_match *aa = a, *ab = b;
	const struct cv_cidr *ca = a, *cb = b;
	const uint16_t *pa = a, *pb = b;

	switch (kind) {
	case STRING:
		return sa[i].kind == sb[i].kind && sa[i].text == sb[i].text;
	case ACCOUNT:
		return aa[i].ns == ab[i].ns && aa[i].sa == ab[i].sa;
	case CIDR:
		return ca[i].len == cb[i].len && cv_addr_eq(&ca[i].ip, &cb[i].ip);
	case PORT:
		return pa[i] == pb[i];
	}
	return false;
}

static bool match_eq(const struct cv_match *a, const struct cv_match *b)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++) {
		const struct match_list *l = &lists[i];

		if (list_nr(a, l) != list_nr(b, l))
			return false;
		for (size_t j = 0; j < list_nr(a, l); j++)
			if (!element_eq(l->element, list_items(a, l), list_items(b, l), j))
				return false;
	}
	return a->unclear == b->unclear;
}

static bool clause_eq(const struct cv_clause *a, const struct cv_clause *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!match_eq(&a->matches[i], &b->matches[i]))
			return false;
	return true;
}

static bool rule_eq(const struct cv_rule *a, const struct cv_rule *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!clause_eq(&a->clauses[i], &b->clauses[i]))
			return false;
	return true;
}

bool cv_policy_eq(const struct cv_policy *a, const struct cv_policy *b)
{
	if (a->name != b->name || a->ns != b->ns || a->scope != b->scope ||
	    a->action != b->action || a->dry_run != b->dry_run || a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!rule_eq(&a->rules[i], &b->rules[i]))
			return false;
	return true;
}

static void free_clause(struct cv_clause *c)
{
	for (size_t i = 0; i < c->n; i++)
		for (size_t j = 0; j < CV_ARRAY_SIZE(lists); j++)
			free_list(&c->matches[i], &lists[j]);
	free(c->matches);
}

struct cv_policy *cv_policy_new(void)
{
	struct cv_policy *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->ref = 1;
	return p;
}

struct cv_policy *cv_policy_ref(struct cv_policy *p)
{
	if (p)
		__atomic_fetch_add(&p->ref, 1, __ATOMIC_RELAXED);
	return p;
}

void cv_policy_put(struct cv_policy **pp)
{
	struct cv_policy *p = cv_take_ptr(*pp);

	if (!p || __atomic_fetch_sub(&p->ref, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	cv_str_put(&p->name);
	cv_str_put(&p->ns);
	for (size_t i = 0; i < p->n; i++) {
		for (size_t j = 0; j < p->rules[i].n; j++)
			free_clause(&p->rules[i].clauses[j]);
		free(p->rules[i].clauses);
	}
	free(p->rules);
	free(p);
}
