/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names: which service a name means to a pod of namespace ns1 in network nw1, and with which
 * addresses.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/mesh/dns_names.h"

#define D ".svc.cluster.local"
#define SVC(name, ns, host, vips, rest)                                                         \
	"- {name: '" name "', namespace: " ns ", hostname: '" host "', vips: [" vips "], " rest \
	"ports: {80: 80}}\n"
#define K8S(name, ns, vips, rest) SVC(name, ns, name "." ns D, vips, rest)
#define EXT(host, ns, vips, rest) SVC(host, ns, host, vips, rest)
#define WL(uid, ips, service)                                                              \
	"- {uid: " uid ", name: " uid ", namespace: ns1, network: nw1, workloadIps: [" ips \
	"], services: {" service ": {80: 80}}}\n"

static const char mesh[] = "workloads:\n" WL(
	"w0", "30.30.30.30, '2001:db8::30'",
	"ns1/headless.ns1" D) WL("w1", "'2001:db8::31', 31.31.31.31, 31.31.31.99",
				 "ns1/headless.ns1" D) WL("w2", "32.32.32.32",
							  "ns1/headless.example.com")
	WL("w3", "33.33.33.33, '2001:db8::33'",
	   "ns1/headless6.ns1" D) "- {uid: sick, namespace: ns1, network: nw1, status: Unhealthy, workloadIps: [34.34.34.34],\n"
				  "   services: {ns1/headless.ns1" D ": {80: 80}}}\n"
				  "services:\n" EXT("www.google.com", "ns1", "nw1/1.1.1.1", "") K8S(
					  "productpage", "ns1", "nw1/9.9.9.9",
					  "") K8S("example", "ns2", "nw1/10.10.10.10",
						  "") K8S("hidden", "ns2", "nw1/10.10.10.240",
							  "visibility: Namespace, ")
					  K8S("shown", "ns1", "nw1/10.10.10.241",
					      "visibility: Namespace, ") EXT("everywhere.io", "ns2",
									     "nw1/10.10.10.110",
									     "") EXT("preferred.io",
										     "ns2",
										     "nw1/10.10.10.210",
										     "")
						  EXT("everywhere.io", "preferred",
						      "nw1/10.10.10.111",
						      "") EXT("preferred.io", "preferred",
							      "nw1/10.10.10.211",
							      "") EXT("everywhere.io", "ns1",
								      "nw1/10.10.10.112",
								      "") EXT("canonical.io", "ns2",
									      "nw1/10.10.10.140",
									      "") EXT("canonical.io",
										      "preferred",
										      "nw1/10.10.10.142",
										      "")
							  EXT("canonical.io", "ns3", "nw1/10.10.10.141", "canonical: true, ") EXT(
								  "local.io",
								  "ns3", "nw1/10.10.10.151",
								  "canonical: true, ")
								  EXT("local.io", "ns1", "nw1/10.10.10.150", "") SVC(
									  "details", "ns2",
									  "details.ns2.svc.cluster.remote",
									  "nw1/11.11.11.11, nw1/12.12.12.12",
									  "") EXT("ipv4.localhost",
										  "ns1",
										  "nw1/2.2.2.2", "") EXT("ipv6.localhost",
													 "ns1", "'nw1/2001:db8::8329'",
													 "")
									  EXT("dual.localhost",
									      "ns1",
									      "nw1/2.2.2.2, 'nw1/2001:db8::8329'",
									      "") EXT("*.wildcard",
										      "ns1",
										      "nw1/10.10.10.10",
										      "")
										  EXT("*.b.wildcard",
										      "ns1",
										      "nw1/11.11.11.11",
										      "") EXT("*.svc.mesh.company.net",
											      "ns1",
											      "nw1/10.1.2.3",
											      "")
											  K8S("nw2-only",
											      "ns1",
											      "nw2/20.20.20.20",
											      "") K8S("both-networks",
												      "ns1",
												      "nw1/21.21.21.21, nw2/22.22.22.22",
												      "")
												  K8S("headless",
												      "ns1",
												      "",
												      "") K8S("headless6",
													      "ns1",
													      "",
													      "ipFamilies: IPv6, ")
													  K8S("v4only",
													      "ns1",
													      "nw1/2.2.2.3, 'nw1/2001:db8::3'",
													      "ipFamilies: IPv4, ")
														  EXT("headless.example.com",
														      "ns1",
														      "",
														      "");

static const struct cv_dns_zone zone = { .domain = "cluster.local",
					 .preferred_ns = "preferred",
					 .ipv6 = true };

static int setup(void **state)
{
	*state = cv_fixture_store("", "node-a");
	cv_fixture_apply(*state, mesh);
	return 0;
}

static int teardown(void **state)
{
	struct cv_store *s = *state;

	cv_store_free(&s);
	return cv_str_count() != 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* "forward", "empty", "unsupported", or "[CNAME ]ADDRESS…" sorted. */
static const char *ask(struct cv_store *s, const struct cv_dns_zone *z, const char *name, bool v6)
{
	static char text[1024];
	struct cv_workload *client = cv_workload_new();
	struct cv_dns_ask q = { .client = client, .name = name, .v6 = v6, .random = 7 };
	struct cv_dns_records r;
	char addrs[16][CV_ADDR_TEXT];
	size_t len = 0;

	client->group->ns = cv_str_new("ns1");
	client->group->network = cv_str_new("nw1");
	switch (cv_dns_names_find(s, z, &q, &r)) {
	case CV_DNS_UNKNOWN:
		snprintf(text, sizeof(text), "forward");
		break;
	case CV_DNS_NO_RECORDS:
		snprintf(text, sizeof(text), "empty");
		break;
	case CV_DNS_UNSUPPORTED:
		snprintf(text, sizeof(text), "unsupported");
		break;
	case CV_DNS_SUCCESS:
		assert_in_range(r.n, 1, 16);
		for (size_t i = 0; i < r.n; i++)
			cv_addr_text(&r.addrs[i], addrs[i]);
		qsort(addrs, r.n, sizeof(addrs[0]), by_text);
		len = (size_t)snprintf(text, sizeof(text), "%s", r.cname);
		for (size_t i = 0; i < r.n; i++)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
						len ? " " : "", addrs[i]);
	}
	cv_dns_records_fini(&r);
	cv_workload_put(&client);
	return text;
}

enum family { A, AAAA };

struct row {
	enum family family;
	const char *name, *want;
};

static void check(struct cv_store *s, const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *got = ask(s, &zone, rows[i].name, rows[i].family == AAAA);

		if (strcmp(got, rows[i].want) != 0)
			fail_msg("%s: %s, expected %s", rows[i].name, got, rows[i].want);
	}
}
#define CHECK(state, rows) check(state, rows, CV_ARRAY_SIZE(rows))

static void test_kubernetes_names(void **state)
{
	static const struct row rows[] = {
		{ A, "productpage", "9.9.9.9" },
		{ A, "productpage.ns1", "9.9.9.9" },
		{ A, "productpage.ns1.svc", "9.9.9.9" },
		{ A, "productpage.ns1" D, "9.9.9.9" },
		{ A, "productpage.ns1.svc.cluster", "forward" },
		{ A, "example", "forward" },
		{ A, "example.ns2", "10.10.10.10" },
		{ A, "example.ns2.svc", "10.10.10.10" },
		{ A, "example.ns2" D, "10.10.10.10" },
		{ A, "details.ns2", "forward" },
		{ A, "details.ns2.svc.cluster.remote", "11.11.11.11 12.12.12.12" },
		{ A, "headless.w0.ns1", "forward" },
		{ A, "nothing", "forward" },
		{ A, "", "forward" },
		{ A, "cluster.local", "forward" },
		{ A, "svc.cluster.local", "forward" },
	};

	CHECK(*state, rows);
}

static void test_search_domains(void **state)
{
	static const struct row rows[] = {
		{ A, "productpage.ns1.ns1" D, "productpage.ns1 9.9.9.9" },
		{ A, "productpage.ns1.svc.svc.cluster.local", "productpage.ns1.svc 9.9.9.9" },
		{ A, "www.google.com.ns1" D, "www.google.com 1.1.1.1" },
		{ A, "www.google.com" D, "www.google.com 1.1.1.1" },
		{ A, "www.google.com.cluster.local", "www.google.com 1.1.1.1" },
		{ A, "www.google.com.ns2" D, "forward" },
		{ AAAA, "productpage.ns1.ns1" D, "empty" },
		{ A, "wwww.google.com.ns1" D, "forward" },
		{ A, "xns1" D, "forward" },
		{ A, "foo.svc.mesh.company.net.ns1" D, "10.1.2.3" },
	};

	CHECK(*state, rows);
}

static void test_hosts_and_wildcards(void **state)
{
	static const struct row rows[] = {
		{ A, "www.google.com", "1.1.1.1" },
		{ A, "www.bing.com", "forward" },
		{ A, "google.com", "forward" },
		{ A, "foo.wildcard", "10.10.10.10" },
		{ A, "x.foo.wildcard", "10.10.10.10" },
		{ A, "a.b.wildcard", "11.11.11.11" },
		{ A, "b.wildcard", "10.10.10.10" },
		{ A, "wildcard", "forward" },
		{ A, "foo.svc.mesh.company.net", "10.1.2.3" },
		{ A, "foo.foons.svc.mesh.company.net", "10.1.2.3" },
		{ A, "foo\\.x.wildcard", "forward" },
	};

	CHECK(*state, rows);
}

static void test_families(void **state)
{
	static const struct row rows[] = {
		{ A, "dual.localhost", "2.2.2.2" },  { AAAA, "dual.localhost", "2001:db8::8329" },
		{ A, "ipv6.localhost", "empty" },    { AAAA, "ipv6.localhost", "2001:db8::8329" },
		{ AAAA, "ipv4.localhost", "empty" }, { A, "v4only", "2.2.2.3" },
		{ AAAA, "v4only", "unsupported" },
	};
	struct cv_dns_zone v4 = zone;

	CHECK(*state, rows);
	v4.ipv6 = false;
	assert_string_equal(ask(*state, &v4, "dual.localhost", true), "unsupported");
	assert_string_equal(ask(*state, &v4, "dual.localhost", false), "2.2.2.2");
}

static void test_networks(void **state)
{
	static const struct row rows[] = {
		{ A, "nw2-only.ns1" D, "empty" },
		{ A, "both-networks.ns1" D, "21.21.21.21" },
	};

	CHECK(*state, rows);
}

static void test_headless(void **state)
{
	static const struct row rows[] = {
		{ A, "headless.ns1" D, "30.30.30.30 31.31.31.31" },
		{ AAAA, "headless.ns1" D, "2001:db8::30 2001:db8::31" },
		{ AAAA, "headless6.ns1" D, "2001:db8::33" },
		{ A, "headless6.ns1" D, "unsupported" },
		{ A, "headless.example.com", "forward" },
	};

	CHECK(*state, rows);
	cv_fixture_remove(*state, CV_DELTA_WORKLOAD, "w0");
	cv_fixture_remove(*state, CV_DELTA_WORKLOAD, "w1");
	assert_string_equal(ask(*state, &zone, "headless", false), "empty");
}

static void test_choice_of_namespace(void **state)
{
	static const struct row rows[] = {
		{ A, "hidden.ns2" D, "forward" },      { A, "shown.ns1" D, "10.10.10.241" },
		{ A, "preferred.io", "10.10.10.211" }, { A, "everywhere.io", "10.10.10.112" },
		{ A, "canonical.io", "10.10.10.141" }, { A, "local.io", "10.10.10.150" },
	};
	struct cv_dns_zone none = zone;

	CHECK(*state, rows);
	none.preferred_ns = NULL;
	assert_string_equal(ask(*state, &none, "preferred.io", false), "10.10.10.210");
}

/* Names as long as DNS allows, whose expansions would be longer. */
static void test_long_names(void **state)
{
	char name[300];

	for (size_t len = 1; len < sizeof(name); len++) {
		memset(name, 'a', len);
		for (size_t i = 1; i < len; i += 2)
			name[i] = '.';
		name[len] = '\0';
		assert_string_equal(ask(*state, &zone, name, false), "forward");
		memset(name, 'a', len);
		assert_string_equal(ask(*state, &zone, name, false), "forward");
	}
}

/* What nobody holds is not kept either. */
static void test_nothing_is_remembered(void **state)
{
	size_t before;
	char name[64];

	ask(*state, &zone, "x", false);
	before = cv_str_count();
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "host%d.of.nobody.example", i);
		assert_string_equal(ask(*state, &zone, name, false), "forward");
	}
	assert_int_equal(cv_str_count(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kubernetes_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_search_domains, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hosts_and_wildcards, setup, teardown),
		cmocka_unit_test_setup_teardown(test_families, setup, teardown),
		cmocka_unit_test_setup_teardown(test_networks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_headless, setup, teardown),
		cmocka_unit_test_setup_teardown(test_choice_of_namespace, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_remembered, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
