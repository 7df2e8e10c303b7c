/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names: the aliases of a name in order, and the service that the first of them finds.
 *
 * Nothing that a pod asks for is stored: candidates are looked up among the strings that the mesh
 * already has. The number of candidates is bounded by the labels of a name.
 */
#include "userspace/mesh/dns_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/mesh/store_private.h"

/* One question while it is being answered. */
struct question {
	struct cv_store *store;
	const struct cv_dns_zone *zone;
	const struct cv_workload *client;
	struct cv_service *service; /* borrowed, inside the RCU section */
	bool wildcard; /* … and was found by one */
};

/* ---- services ---- */

static bool ends_with(const char *text, const char *suffix)
{
	size_t len = strlen(text), n = strlen(suffix);

	return len >= n && strcmp(text + len - n, suffix) == 0;
}

/* A service without VIPs is answered for only when it is a headless one of Kubernetes, which its
 * host name tells; else upstream knows better. */
static bool has_answers(const struct question *q, const struct cv_service *svc)
{
	char suffix[CV_DNS_NAME_MAX];

	if (svc->nr_vips)
		return true;
	snprintf(suffix, sizeof(suffix), ".svc.%s", q->zone->domain);
	return ends_with(cv_str_text(svc->hostname), suffix);
}

/* The client's own namespace, else the canonical one (the last of them), else the preferred
 * namespace, else the first. */
static struct cv_service *choose(const struct question *q, const struct cv_index_entry *e)
{
	struct cv_service *canonical = NULL, *preferred = NULL, *first = NULL;

	for (size_t i = 0; i < e->n; i++) {
		struct cv_service *svc = e->items[i];

		if (!has_answers(q, svc))
			continue;
		if (svc->ns == q->client->group->ns)
			return svc;
		if (svc->ns_visible_only)
			continue;
		if (svc->canonical)
			canonical = svc;
		if (!preferred && q->zone->preferred_ns &&
		    strcmp(cv_str_text(svc->ns), q->zone->preferred_ns) == 0)
			preferred = svc;
		if (!first)
			first = svc;
	}
	return canonical ? canonical : preferred ? preferred : first;
}

static bool find_host(struct question *q, const char *host)
{
	cv_str known = cv_str_find(host, strlen(host));
	struct cv_index_entry e;

	if (!known)
		return false;
	cv_index_find(&q->store->services_by_host, &(struct cv_index_key){ .a = known }, &e);
	q->service = choose(q, &e);
	cv_str_put(&known);
	return q->service;
}

/* The name itself, then with its first labels as a wildcard: a.b.c, *.b.c, *.c. */
static bool find_name(struct question *q, const char *name)
{
	char host[CV_DNS_NAME_MAX + 2];

	q->wildcard = false;
	if (find_host(q, name))
		return true;
	q->wildcard = true;
	for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
		snprintf(host, sizeof(host), "*%s", dot);
		if (find_host(q, host))
			return true;
	}
	return false;
}

/* ---- aliases ---- */

static unsigned count_labels(const char *name)
{
	unsigned n = *name != '\0';

	for (; *name; name++)
		n += *name == '.';
	return n;
}

/* name.ns.svc.domain; ns and svc may be left out. A name that gets too long is no name. */
static bool find_expanded(struct question *q, const char *name, cv_str ns, bool svc)
{
	char host[CV_DNS_NAME_MAX];
	int n = snprintf(host, sizeof(host), "%s%s%s%s.%s", name, ns ? "." : "", cv_str_text(ns),
			 svc ? ".svc" : "", q->zone->domain);

	return n < (int)sizeof(host) && find_name(q, host);
}

/* The Kubernetes names that this one may be short for: NAME, NAME.NAMESPACE, HOST.NAME,
 * NAME.NAMESPACE.svc, HOST.NAME.NAMESPACE and HOST.NAME.NAMESPACE.svc. */
static bool find_kubernetes(struct question *q, const char *name)
{
	bool svc = ends_with(name, ".svc");

	switch (count_labels(name)) {
	case 1:
		return find_expanded(q, name, q->client->group->ns, true);
	case 2:
		return find_expanded(q, name, NULL, true) ||
		       find_expanded(q, name, q->client->group->ns, true);
	case 3:
		return (svc && find_expanded(q, name, NULL, false)) ||
		       find_expanded(q, name, NULL, true);
	case 4:
		return svc && find_expanded(q, name, NULL, false);
	default:
		return false;
	}
}

/* The name without this domain, when it is inside of it. */
static bool strip(const char *name, const char *domain, char *ret)
{
	size_t len = strlen(name), n = strlen(domain);

	if (len < n + 2 || name[len - n - 1] != '.' || strcmp(name + len - n, domain) != 0)
		return false;
	snprintf(ret, CV_DNS_NAME_MAX, "%.*s", (int)(len - n - 1), name);
	return true;
}

/* True and in ret the name without its search domain ("" = with it) that found q->service. */
static bool find_service(struct question *q, const char *name, char *ret)
{
	const struct {
		bool ns, svc;
	} searched[] = { { true, true }, { false, true }, { false, false } };

	ret[0] = '\0';
	if (find_name(q, name) || find_kubernetes(q, name))
		return true;
	for (size_t i = 0; i < CV_ARRAY_SIZE(searched); i++) {
		char domain[2 * CV_DNS_NAME_MAX];

		snprintf(domain, sizeof(domain), "%s%s%s%s",
			 searched[i].ns ? cv_str_text(q->client->group->ns) : "",
			 searched[i].ns ? "." : "", searched[i].svc ? "svc." : "", q->zone->domain);
		if (strip(name, domain, ret) && (find_name(q, ret) || find_kubernetes(q, ret)))
			return true;
	}
	return false;
}

/* ---- addresses ---- */

static bool family_allowed(const struct question *q, bool v6)
{
	const struct cv_service *svc = q->service;

	if (v6 && !q->zone->ipv6)
		return false;
	return !svc->has_families || svc->families != (v6 ? CV_FAMILIES_V4 : CV_FAMILIES_V6);
}

static void add(struct cv_dns_records *r, const struct cv_addr *ip)
{
	if (r->n < CV_LIMIT_DNS_ADDRESSES)
		r->addrs[r->n++] = *ip;
}

/* A service's VIPs in the client's network. */
static void add_vips(const struct question *q, bool v6, struct cv_dns_records *r)
{
	for (size_t i = 0; i < q->service->nr_vips; i++) {
		const struct cv_network_addr *vip = &q->service->vips[i];

		if (cv_addr_is_v4(&vip->ip) != v6 && vip->network == q->client->group->network)
			add(r, &vip->ip);
	}
}

/* Of each endpoint the first address of the family. */
static void add_endpoints(const struct question *q, bool v6, struct cv_dns_records *r)
{
	for (size_t i = 0; i < q->service->nr_endpoints; i++) {
		const struct cv_workload *w =
			cv_store_peek_workload(q->store, q->service->endpoints[i].workload_uid);
		size_t n = 0;

		while (w && n < w->nr_ips && cv_addr_is_v4(&w->ips[n]) == v6)
			n++;
		if (w && n < w->nr_ips)
			add(r, &w->ips[n]);
	}
}

static void shuffle(struct cv_dns_records *r, uint64_t random)
{
	for (size_t i = r->n; i > 1; i--) {
		size_t other;
		struct cv_addr ip = r->addrs[i - 1];

		random = random * 6364136223846793005u + 1442695040888963407u;
		other = (size_t)((random >> 33) % i);
		r->addrs[i - 1] = r->addrs[other];
		r->addrs[other] = ip;
	}
}

static enum cv_dns_outcome collect(const struct question *q, const struct cv_dns_ask *ask,
				   struct cv_dns_records *r)
{
	const struct cv_service *svc = q->service;
	size_t room = svc->nr_vips ? svc->nr_vips : svc->nr_endpoints;

	if (!family_allowed(q, ask->v6))
		return CV_DNS_UNSUPPORTED;
	r->addrs = calloc(room ? room : 1, sizeof(*r->addrs));
	if (!r->addrs)
		return CV_DNS_NO_RECORDS;
	if (svc->nr_vips)
		add_vips(q, ask->v6, r);
	else
		add_endpoints(q, ask->v6, r);
	shuffle(r, ask->random);
	return r->n ? CV_DNS_SUCCESS : CV_DNS_NO_RECORDS;
}

enum cv_dns_outcome cv_dns_names_find(struct cv_store *s, const struct cv_dns_zone *zone,
				      const struct cv_dns_ask *ask, struct cv_dns_records *ret)
{
	struct question q = { .store = s, .zone = zone, .client = ask->client };
	enum cv_dns_outcome outcome = CV_DNS_UNKNOWN;

	*ret = (struct cv_dns_records){ 0 };
	/* An escaped byte: no host of the mesh has such a name. */
	if (!*ask->name || strlen(ask->name) >= CV_DNS_NAME_MAX || strchr(ask->name, '\\'))
		return outcome;
	rcu_read_lock();
	if (find_service(&q, ask->name, ret->cname))
		outcome = collect(&q, ask, ret);
	rcu_read_unlock();
	/* What a wildcard found has the name that was asked for. */
	if (q.wildcard)
		ret->cname[0] = '\0';
	return outcome;
}

void cv_dns_records_fini(struct cv_dns_records *r)
{
	free(r->addrs);
	*r = (struct cv_dns_records){ 0 };
}
