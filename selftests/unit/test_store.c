/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: what each look-up finds, how endpoints join their services, which policies apply,
 * what subscribers are told, and that readers never see a freed or half-changed object.
 * Every test ends with no interned string left: nothing leaks.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"

static int setup(void **state)
{
	*state = cv_fixture_store("", "node-a");
	return 0;
}

static int teardown(void **state)
{
	struct cv_store *s = *state;

	cv_store_free(&s);
	return cv_str_count() != 0;
}

#define W(uid, ip, rest) "- {uid: '" uid "', workloadIps: [" ip "], namespace: shop, " rest "}\n"

/* ---- helpers that put what they look up ---- */

static const char *uid_at(struct cv_store *s, const char *ip)
{
	static char text[64];
	struct cv_addr addr = cv_fixture_ip(ip);
	struct cv_workload *w = cv_store_workload_by_addr(s, NULL, &addr);

	snprintf(text, sizeof(text), "%s", w ? cv_str_text(w->uid) : "none");
	cv_workload_put(&w);
	return text;
}

static struct cv_service *get_service(struct cv_store *s, const char *ns, const char *host)
{
	cv_str n = cv_str_new(ns), h = cv_str_new(host);
	struct cv_service *svc = cv_store_service_by_host(s, n, h);

	cv_str_put(&n);
	cv_str_put(&h);
	return svc;
}

/* "uid:port,…" of a service's endpoints for service port 80, "none" when there is no service. */
static const char *endpoints_of(struct cv_store *s, const char *host)
{
	static char text[256];
	struct cv_service *svc = get_service(s, "shop", host);
	size_t len = 0;

	snprintf(text, sizeof(text), "%s", svc ? "" : "none");
	for (size_t i = 0; svc && i < svc->nr_endpoints; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s:%d", i ? "," : "",
					svc->endpoints[i].workload_uid,
					cv_port_map_find(&svc->endpoints[i].ports, 80));
	cv_service_put(&svc);
	return text;
}

static const char *host_at(struct cv_store *s, const char *client_ns, const char *vip)
{
	static char text[64];
	struct cv_addr addr = cv_fixture_ip(vip);
	cv_str ns = cv_str_new(client_ns);
	struct cv_service *svc = cv_store_service_by_vip(s, ns, NULL, &addr);

	snprintf(text, sizeof(text), "%s/%s", svc ? cv_str_text(svc->ns) : "",
		 svc ? cv_str_text(svc->name) : "none");
	cv_service_put(&svc);
	cv_str_put(&ns);
	return text;
}

/* ---- workloads ---- */

static void test_workload_lookups(void **state)
{
	struct cv_store *s = *state;
	struct cv_workload *w;
	cv_str ns, host;

	cv_fixture_apply(
		s,
		"workloads:\n" W("a", "10.0.0.1, '2001:db8::1'",
				 "name: web-0, serviceAccount: web, node: node-a, services: {}")
			W("b", "10.0.0.2", "name: web-1, node: node-b, services: {}") W(
				"c", "10.0.0.3",
				"name: web-2, networkMode: HostNetwork, node: node-a, services: {}")
				W("d", "", "name: db, hostname: db.example.com, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.1"), "a");
	assert_string_equal(uid_at(s, "2001:db8::1"), "a");
	assert_string_equal(uid_at(s, "10.0.0.2"), "b");
	assert_string_equal(uid_at(s, "10.0.0.3"), "none"); /* the node's address, not its own */
	w = cv_store_workload_local(s, "shop", "web", "web-0");
	assert_non_null(w);
	cv_workload_put(&w);
	w = cv_store_workload_local(s, "shop", NULL, "web-2");
	assert_non_null(w);
	cv_workload_put(&w);
	assert_null(cv_store_workload_local(s, "shop", "other", "web-0"));
	assert_null(cv_store_workload_local(s, "shop", NULL, "web-1")); /* of another node */
	ns = cv_str_new("shop");
	host = cv_str_new("db.example.com");
	w = cv_store_workload_by_host(s, ns, host);
	assert_non_null(w);
	cv_workload_put(&w);
	cv_str_put(&ns);
	cv_str_put(&host);
}

/* A pod's name stands at the end of its uid, and nothing but the index holds it as a string. */
static void test_local_workload_by_name_in_uid(void **state)
{
	struct cv_store *s = *state;
	struct cv_workload *w;

	cv_fixture_apply(s, "workloads:\n" W("Kubernetes//Pod/shop/web-6df89-x7k2p", "10.0.0.1",
					     "name: web-6df89-x7k2p, node: node-a, services: {}"));
	w = cv_store_workload_local(s, "shop", NULL, "web-6df89-x7k2p");
	assert_non_null(w);
	assert_string_equal(cv_workload_name(w), "web-6df89-x7k2p");
	cv_workload_put(&w);
}

/* An update moves every index: the old address, name and node lead nowhere. */
static void test_workload_update(void **state)
{
	struct cv_store *s = *state;
	struct cv_workload *w;

	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.1, 10.0.0.2",
					     "name: x, node: node-a, services: {}"));
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.2, 10.0.0.3",
					     "name: y, node: node-a, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.1"), "none");
	assert_string_equal(uid_at(s, "10.0.0.2"), "a");
	assert_string_equal(uid_at(s, "10.0.0.3"), "a");
	assert_null(cv_store_workload_local(s, "shop", NULL, "x"));
	w = cv_store_workload_local(s, "shop", NULL, "y");
	assert_int_equal(w->nr_ips, 2);
	cv_workload_put(&w);
	cv_fixture_apply(s,
			 "workloads:\n" W("a", "10.0.0.2", "name: y, node: node-b, services: {}"));
	assert_null(cv_store_workload_local(s, "shop", NULL, "y"));
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.2", "network: other, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.2"), "none");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "a");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "a"); /* twice does no harm */
	assert_string_equal(uid_at(s, "10.0.0.3"), "none");
}

/* Several workloads claim one address: pods before others, HBONE before plain, then the last. */
static void test_address_conflict(void **state)
{
	struct cv_store *s = *state;

	cv_fixture_apply(s, "workloads:\n" W("c1//Pod/shop/p", "10.0.0.1", "services: {}")
				    W("entry", "10.0.0.1", "protocol: HBONE, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.1"), "c1//Pod/shop/p");
	cv_fixture_apply(s, "workloads:\n" W("c1//Pod/shop/h", "10.0.0.1",
					     "protocol: HBONE, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.1"), "c1//Pod/shop/h");
	cv_fixture_apply(s, "workloads:\n" W("c1//Pod/shop/i", "10.0.0.1",
					     "protocol: HBONE, services: {}"));
	assert_string_equal(uid_at(s, "10.0.0.1"), "c1//Pod/shop/i");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "c1//Pod/shop/i");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "c1//Pod/shop/h");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "c1//Pod/shop/p");
	assert_string_equal(uid_at(s, "10.0.0.1"), "entry");
}

/* ---- services ---- */

#define S(ns, name, vips, rest)                                                          \
	"- {name: " name ", namespace: " ns ", hostname: " name ".example, vips: [" vips \
	"], ports: {80: 8080}, " rest "}\n"

static void test_best_service_of_a_vip(void **state)
{
	struct cv_store *s = *state;

	cv_fixture_apply(s, "services:\n" S("one", "first", "/10.9.0.1", "canonical: false")
				    S("two", "second", "/10.9.0.1", "canonical: true")
					    S("hid", "hidden", "/10.9.0.1", "visibility: Namespace")
						    S("hid", "alone", "/10.9.0.2",
						      "visibility: Namespace"));
	assert_string_equal(host_at(s, "one", "10.9.0.1"), "one/first"); /* own namespace */
	assert_string_equal(host_at(s, "else", "10.9.0.1"), "two/second"); /* canonical */
	assert_string_equal(host_at(s, "hid", "10.9.0.1"), "hid/hidden");
	assert_string_equal(host_at(s, "else", "10.9.0.2"), "/none"); /* not visible */
	assert_string_equal(host_at(s, "", "10.9.0.2"), "hid/alone"); /* nobody asks */
	cv_fixture_remove(s, CV_DELTA_SERVICE, "two/second.example");
	assert_string_equal(host_at(s, "else", "10.9.0.1"), "one/first");
	cv_fixture_apply(s, "services:\n" S("one", "first", "/10.9.0.3", ""));
	assert_string_equal(host_at(s, "one", "10.9.0.1"), "/none"); /* its VIP moved */
	assert_string_equal(host_at(s, "one", "10.9.0.3"), "one/first");
}

/* Without a better reason the first one counts, and an update does not make it the last. */
static void test_first_service_stays_first(void **state)
{
	struct cv_store *s = *state;

	cv_fixture_apply(s, "services:\n" S("one", "a", "/10.9.0.1", "")
				    S("two", "b", "/10.9.0.1", ""));
	assert_string_equal(host_at(s, "else", "10.9.0.1"), "one/a");
	cv_fixture_apply(s, "services:\n" S("one", "a", "/10.9.0.1, /10.9.0.2", ""));
	assert_string_equal(host_at(s, "else", "10.9.0.1"), "one/a");
}

static void test_cidr_vips(void **state)
{
	struct cv_store *s = *state;
	struct cv_addr vip = cv_fixture_ip("10.1.2.3");
	struct cv_service *svc;

	cv_fixture_apply(
		s, "services:\n" S("a", "wide", "", "cidrVips: [{network: '', cidr: 10.0.0.0/8}]")
			   S("b", "narrow", "", "cidrVips: [{network: '', cidr: 10.1.2.9/24}]")
				   S("c", "exact", "/10.1.2.4",
				     "") S("d", "six", "",
					   "cidrVips: [{network: '', cidr: '2001:db8::/33'}]")
					   S("shop", "mine", "",
					     "cidrVips: [{network: '', cidr: 10.64.0.0/10}]"));
	assert_string_equal(host_at(s, "x", "10.1.2.3"), "b/narrow"); /* the longest */
	assert_string_equal(host_at(s, "a", "10.1.2.3"), "a/wide"); /* one's own comes first */
	assert_string_equal(host_at(s, "x", "10.7.0.1"), "a/wide");
	assert_string_equal(host_at(s, "x", "10.1.2.4"), "c/exact"); /* exact before any prefix */
	assert_string_equal(host_at(s, "x", "11.0.0.1"), "/none");
	assert_string_equal(host_at(s, "x", "2001:db8:7fff::1"), "d/six");
	assert_string_equal(host_at(s, "x", "2001:db8:8000::1"), "/none");
	/* A change of endpoints does not leave an older copy behind. */
	cv_fixture_apply(s, "workloads:\n" W("w1", "10.5.0.1",
					     "services: {shop/mine.example: {80: 1}}"));
	cv_fixture_apply(s, "workloads:\n" W("w2", "10.5.0.2",
					     "services: {shop/mine.example: {80: 2}}"));
	vip = cv_fixture_ip("10.65.0.1");
	svc = cv_store_service_by_vip(s, NULL, NULL, &vip);
	assert_int_equal(svc->nr_endpoints, 2);
	cv_service_put(&svc);
	cv_fixture_remove(s, CV_DELTA_SERVICE, "shop/mine.example");
	assert_string_equal(host_at(s, "shop", "10.65.0.1"), "a/wide");
	cv_fixture_remove(s, CV_DELTA_SERVICE, "a/wide.example");
	assert_string_equal(host_at(s, "shop", "10.65.0.1"), "/none");
}

/* ---- joining ---- */

static int count_staged(const struct cv_ns_host *svc, const struct cv_service_endpoint *e,
			void *arg)
{
	(void)svc, (void)e;
	++*(int *)arg;
	return 0;
}

static int staged(struct cv_store *s)
{
	int n = 0;

	assert_int_equal(cv_store_staged_each(s, count_staged, &n), 0);
	return n;
}

static void test_join(void **state)
{
	struct cv_store *s = *state;

	/* Members may come before their service … */
	cv_fixture_apply(s,
			 "workloads:\n" W("b", "10.0.0.2", "services: {shop/web.example: {80: 2}}")
				 W("a", "10.0.0.1", "services: {shop/web.example: {80: 1}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "none");
	assert_int_equal(staged(s), 2);
	cv_fixture_apply(s, "services:\n" S("shop", "web", "/10.9.0.1", ""));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,b:2");
	assert_int_equal(staged(s), 0);
	/* … and after it, change, and leave. */
	cv_fixture_apply(s, "workloads:\n" W("c", "10.0.0.3",
					     "services: {shop/web.example: {80: 3}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,b:2,c:3");
	cv_fixture_apply(s, "workloads:\n" W("b", "10.0.0.2",
					     "services: {shop/web.example: {80: 22}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,b:22,c:3");
	cv_fixture_apply(s, "workloads:\n" W("b", "10.0.0.2",
					     "services: {shop/other.example: {80: 5}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,c:3");
	assert_int_equal(staged(s), 1);
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "a");
	assert_string_equal(endpoints_of(s, "web.example"), "c:3");
	/* A service that goes and comes back finds its members again. */
	cv_fixture_remove(s, CV_DELTA_SERVICE, "shop/web.example");
	assert_string_equal(endpoints_of(s, "web.example"), "none");
	cv_fixture_apply(s, "services:\n" S("shop", "web", "/10.9.0.1", ""));
	assert_string_equal(endpoints_of(s, "web.example"), "c:3");
}

/* Health is judged when the service is published: what was unhealthy comes back with AllowAll,
 * and a workload's recovery is seen. */
static void test_join_health(void **state)
{
	struct cv_store *s = *state;

	cv_fixture_apply(s, "services:\n" S("shop", "web", "/10.9.0.1", "") "workloads:\n" W(
				    "a", "10.0.0.1", "services: {shop/web.example: {80: 1}}")
				    W("b", "10.0.0.2",
				      "status: Unhealthy, services: {shop/web.example: {80: 2}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1");
	cv_fixture_apply(s, "services:\n" S("shop", "web", "/10.9.0.1",
					    "loadBalancer: {healthPolicy: AllowAll}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,b:2");
	cv_fixture_apply(s, "services:\n" S("shop", "web", "/10.9.0.1", ""));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1");
	cv_fixture_apply(s, "workloads:\n" W("b", "10.0.0.2",
					     "services: {shop/web.example: {80: 2}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,b:2");
	cv_fixture_apply(
		s, "workloads:\n" W("a", "10.0.0.1",
				    "status: Unhealthy, services: {shop/web.example: {80: 1}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "b:2");
}

/* Endpoints that the service itself lists are there beside the members; a member's own word
 * about itself wins. */
static void test_join_own_endpoints(void **state)
{
	struct cv_store *s = *state;

	cv_fixture_apply(
		s,
		"services:\n" S("shop", "web", "/10.9.0.1",
				"endpoints: {z: {workloadUid: z, port: {80: 9}, status: Healthy},"
				" a: {workloadUid: a, port: {80: 8}, status: Healthy},"
				" u: {workloadUid: u, port: {80: 7}, status: Unhealthy}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:8,z:9");
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.1",
					     "services: {shop/web.example: {80: 1}}"));
	assert_string_equal(endpoints_of(s, "web.example"), "a:1,z:9");
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "a");
	assert_string_equal(endpoints_of(s, "web.example"), "a:8,z:9");
}

/* ---- policies ---- */

#define P(ns, name, scope)                                    \
	"- {name: " name ", namespace: " ns ", scope: " scope \
	", action: Deny, dryRun: false, rules: []}\n"

/* "name,…" in order of names, then "!" when one is missing. */
static const char *policies_of(struct cv_store *s, const struct cv_workload *w)
{
	static char text[256];
	struct cv_policy_set set;
	size_t len = 0;

	cv_store_policies_for(s, w, &set);
	text[0] = '\0';
	for (char c = 'a'; c <= 'z'; c++)
		for (size_t i = 0; i < set.n; i++)
			if (set.policies[i]->name[0] == c)
				len += (size_t)snprintf(text + len, sizeof(text) - len, "%c", c);
	if (set.missing)
		snprintf(text + len, sizeof(text) - len, "!%s", cv_str_text(set.missing_key));
	cv_policy_set_fini(&set);
	return text;
}

static void test_policies_for(void **state)
{
	struct cv_store *s = *state;
	struct cv_workload *old;
	struct cv_addr ip = cv_fixture_ip("10.0.0.1");

	cv_fixture_apply(s,
			 "policies:\n" P("root", "g", "Global") P("shop", "n", "Namespace")
				 P("other", "o", "Namespace") P("shop", "s", "WorkloadSelector")
					 P("shop", "t", "WorkloadSelector") "workloads:\n" W(
						 "a", "10.0.0.1",
						 "authorizationPolicies: [shop/s], services: {}"));
	old = cv_store_workload_by_addr(s, NULL, &ip);
	assert_string_equal(policies_of(s, old), "gns");
	/* Scope changes move a policy; an update replaces it; a removal takes it out. */
	cv_fixture_apply(s, "policies:\n" P("shop", "n", "Global") P("shop", "t", "Namespace")
				    P("root", "g", "Global"));
	assert_string_equal(policies_of(s, old), "gnst");
	cv_fixture_apply(s, "policies:\n" P("shop", "n", "WorkloadSelector"));
	assert_string_equal(policies_of(s, old), "gst");
	cv_fixture_remove(s, CV_DELTA_POLICY, "root/g");
	assert_string_equal(policies_of(s, old), "st");
	/* A listed policy that is unknown is told, not skipped. */
	cv_fixture_remove(s, CV_DELTA_POLICY, "shop/s");
	assert_string_equal(policies_of(s, old), "t!shop/s");
	/* An older snapshot of a workload is asked about its list of today. */
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.1", "services: {}"));
	assert_string_equal(policies_of(s, old), "t");
	/* One that is gone keeps its own. */
	cv_fixture_remove(s, CV_DELTA_WORKLOAD, "a");
	assert_string_equal(policies_of(s, old), "t!shop/s");
	cv_workload_put(&old);
}

/* A namespace of many policies is published once a batch, with what changed and what stayed. */
static void test_policy_batches(void **state)
{
	struct cv_store *s = *state;
	_cleanup_free_ char *yaml = NULL;
	size_t size, n;
	FILE *f = open_memstream(&yaml, &size);
	struct cv_workload *w = cv_workload_new();
	struct cv_policy_set set;

	fputs("policies:\n", f);
	for (int i = 0; i < 500; i++)
		fprintf(f,
			"- {name: p%d, namespace: shop, scope: Namespace, action: Deny,"
			" dryRun: false, rules: []}\n",
			i);
	fclose(f);
	w->group->ns = cv_str_new("shop");
	for (int round = 0; round < 3; round++) {
		cv_fixture_apply(s, yaml);
		cv_store_policies_for(s, w, &set);
		n = set.n;
		cv_policy_set_fini(&set);
		assert_int_equal(n, 500);
		cv_fixture_remove(s, CV_DELTA_POLICY, "shop/p7");
		cv_store_policies_for(s, w, &set);
		n = set.n;
		cv_policy_set_fini(&set);
		assert_int_equal(n, 499);
	}
	cv_workload_put(&w);
}

/* ---- subscribers ---- */

struct told {
	int calls;
	char keys[256];
	bool workloads, services, policies;
};

static void on_change(const struct cv_store_change *c, void *arg)
{
	struct told *t = arg;
	size_t len = 0;

	t->calls++;
	t->workloads = c->workloads;
	t->services = c->services;
	t->policies = c->policies;
	t->keys[0] = '\0';
	for (size_t i = 0; i < c->n; i++)
		len += (size_t)snprintf(t->keys + len, sizeof(t->keys) - len, "%d:%s ",
					(int)c->kinds[i], cv_str_text(c->keys[i]));
}

/* Each batch is told once, with what changed and nothing else: the cost of an apply follows the
 * change. A workload that changes nothing about its membership leaves its services alone. */
static void test_subscribers(void **state)
{
	struct cv_store *s = *state;
	struct cv_service *before, *after;
	struct told t = {};
	uint64_t policy_version;

	cv_store_subscribe(s, on_change, &t);
	cv_fixture_apply(
		s, "services:\n" S("shop", "web", "/10.9.0.1", "")
			   S("shop", "db", "/10.9.0.2", "") "workloads:\n" W(
				   "a", "10.0.0.1", "services: {shop/web.example: {80: 1}}")
				   W("b", "10.0.0.2", "services: {shop/web.example: {80: 1}}"));
	assert_int_equal(t.calls, 1);
	assert_int_equal(cv_store_version(s), 1);
	assert_string_equal(t.keys, "0:a 0:b 1:shop/web.example 1:shop/db.example ");
	policy_version = cv_store_policy_version(s);
	before = get_service(s, "shop", "web.example");
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.9",
					     "services: {shop/web.example: {80: 1}}"));
	after = get_service(s, "shop", "web.example");
	assert_ptr_equal(before, after);
	assert_string_equal(t.keys, "0:a ");
	assert_false(t.services);
	assert_int_equal(cv_store_policy_version(s), policy_version);
	cv_service_put(&before);
	cv_service_put(&after);
	cv_fixture_apply(s,
			 "workloads:\n" W("a", "10.0.0.9", "services: {shop/db.example: {80: 1}}"));
	assert_string_equal(t.keys, "0:a 1:shop/web.example 1:shop/db.example ");
	cv_fixture_apply(s, "workloads:\n" W("a", "10.0.0.9",
					     "authorizationPolicies: [shop/x], services: {}"));
	assert_int_equal(cv_store_policy_version(s), policy_version); /* of another node */
	cv_fixture_apply(s, "workloads:\n" W("l", "10.0.0.8",
					     "node: node-a, services: {}, "
					     "authorizationPolicies: [shop/x]"));
	assert_int_equal(cv_store_policy_version(s), policy_version + 1);
	cv_fixture_apply(s, "policies:\n" P("shop", "x", "WorkloadSelector"));
	assert_string_equal(t.keys, "2:shop/x ");
	assert_int_equal(cv_store_policy_version(s), policy_version + 2);
	assert_true(t.policies);
	assert_false(t.workloads);
	assert_false(cv_store_is_warm(s));
	cv_store_set_warm(s);
	assert_true(cv_store_is_warm(s));
}

/* ---- readers against the writer ---- */

struct reader {
	struct cv_store *store;
	atomic_bool stop;
	atomic_ulong found;
};

/* Whatever is found is whole: the address belongs to the workload, each endpoint's port is its
 * workload's number, each policy is of the namespace. */
static void read_once(struct reader *r, unsigned i)
{
	struct cv_addr ip = cv_addr_v4(0x0a000000 | (i % 16 + 1));
	struct cv_workload *w = cv_store_workload_by_addr(r->store, NULL, &ip);
	struct cv_service *svc = get_service(r->store, "shop", "web.example");
	struct cv_policy_set set;

	if (w) {
		assert_true(cv_addr_eq(&w->ips[0], &ip));
		cv_store_policies_for(r->store, w, &set);
		for (size_t p = 0; p < set.n; p++)
			assert_string_equal(set.policies[p]->ns, "shop");
		cv_policy_set_fini(&set);
		atomic_fetch_add(&r->found, 1);
	}
	for (size_t e = 0; svc && e < svc->nr_endpoints; e++)
		assert_int_equal(cv_port_map_find(&svc->endpoints[e].ports, 80),
				 strtol(svc->endpoints[e].workload_uid + 1, NULL, 10));
	cv_workload_put(&w);
	cv_service_put(&svc);
}

static void *read_all(void *arg)
{
	struct reader *r = arg;

	rcu_register_thread();
	for (unsigned i = 0; !atomic_load(&r->stop); i++)
		read_once(r, i);
	rcu_unregister_thread();
	return NULL;
}

static void churn(struct cv_store *s, unsigned i)
{
	char yaml[512], key[32];
	unsigned n = i % 16 + 1;

	snprintf(key, sizeof(key), "w%u", n);
	if (i % 7 == 3) {
		cv_fixture_remove(s, CV_DELTA_WORKLOAD, key);
		return;
	}
	snprintf(yaml, sizeof(yaml),
		 "workloads: [{uid: %s, workloadIps: [10.0.0.%u], namespace: shop, name: n%u,"
		 " services: {shop/web.example: {80: %u}}}]\n"
		 "policies: [{name: p%u, namespace: shop, scope: Namespace, action: Deny,"
		 " dryRun: false, rules: [[[{destinationPorts: [%u]}]]]}]\n%s",
		 key, n, i, n, i % 3, i % 1000,
		 i % 11 ? "" :
			  "services: [{name: web, namespace: shop, hostname: web.example,"
			  " vips: [/10.9.0.1], ports: {80: 0}}]");
	cv_fixture_apply(s, yaml);
	if (i % 29 == 0)
		cv_fixture_remove(s, CV_DELTA_SERVICE, "shop/web.example");
}

static void test_readers(void **state)
{
	struct reader r = { .store = *state };
	pthread_t threads[3];

	for (size_t i = 0; i < CV_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_all, &r), 0);
	for (unsigned i = 0; i < 3000; i++)
		churn(r.store, i);
	atomic_store(&r.stop, true);
	for (size_t i = 0; i < CV_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_true(atomic_load(&r.found) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_workload_lookups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_local_workload_by_name_in_uid, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_workload_update, setup, teardown),
		cmocka_unit_test_setup_teardown(test_address_conflict, setup, teardown),
		cmocka_unit_test_setup_teardown(test_best_service_of_a_vip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_service_stays_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cidr_vips, setup, teardown),
		cmocka_unit_test_setup_teardown(test_join, setup, teardown),
		cmocka_unit_test_setup_teardown(test_join_health, setup, teardown),
		cmocka_unit_test_setup_teardown(test_join_own_endpoints, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policies_for, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policy_batches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_subscribers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_readers, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
