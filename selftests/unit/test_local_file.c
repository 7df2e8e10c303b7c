/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local file: every key is understood, each mistake is refused with its line and path, and
 * the watched file is applied as differences, by whatever way it is replaced.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "selftests/lib/scratch.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/worker.h"
#include "userspace/limits.h"
#include "userspace/mesh/local_file.h"

static int parse(const char *text, struct cv_mesh_file *f, char error[512])
{
	error[0] = '\0';
	return cv_mesh_file_parse("mesh.yaml", text, strlen(text), f, error, 512);
}

/* ---- what is understood ---- */

static const char everything[] =
	"workloads:\n"
	"- uid: c1//Pod/shop/cart-0\n"
	"  name: cart-0\n"
	"  namespace: shop\n"
	"  serviceAccount: cart\n"
	"  trustDomain: cluster.local\n"
	"  workloadIps: [\"10.7.0.4\", \"2001:db8::4\"]\n"
	"  protocol: HBONE\n"
	"  networkMode: HostNetwork\n"
	"  network: net-a\n"
	"  workloadName: cart\n"
	"  workloadType: deployment\n"
	"  canonicalName: cart-app\n"
	"  canonicalRevision: v2\n"
	"  hostname: cart.example\n"
	"  node: worker-a\n"
	"  nativeTunnel: true\n"
	"  applicationTunnel: {protocol: PROXY, port: 15088}\n"
	"  waypoint: {destination: net-a/10.0.0.9, hboneMtlsPort: 15008}\n"
	"  networkGateway: {destination: istio/gw.example, hboneMtlsPort: 0x3AA1}\n"
	"  authorizationPolicies: [shop/one, shop/two]\n"
	"  status: Unhealthy\n"
	"  clusterId: c1\n"
	"  locality: {region: eu, zone: eu-1, subzone: \"\"}\n"
	"  capacity: 7\n"
	"  services:\n"
	"    \"shop/cart.shop.svc.cluster.local\": {443: 8443, 80: 8080}\n"
	"services:\n"
	"- name: cart\n"
	"  namespace: shop\n"
	"  hostname: cart.shop.svc.cluster.local\n"
	"  vips: [\"/10.96.3.3\", \"net-b/2001:db8::1\"]\n"
	"  cidrVips: [{network: net-a, cidr: 10.0.0.0/8}]\n"
	"  ports: {80: 8080, 443: 0}\n"
	"  endpoints: {k: {workloadUid: u, port: {80: 1}, status: Unhealthy}}\n"
	"  subjectAltNames: [spiffe://td/ns/a/sa/b]\n"
	"  waypoint: {destination: istio/wp.example, hboneMtlsPort: 15008}\n"
	"  weightedWaypoints:\n"
	"  - {destination: {destination: /10.0.0.1, hboneMtlsPort: 15008}, weight: 30}\n"
	"  loadBalancer: {routingPreferences: [Network, Node], mode: Failover, healthPolicy: AllowAll}\n"
	"  ipFamilies: Dual\n"
	"  canonical: true\n"
	"  visibility: Namespace\n"
	"policies:\n"
	"- name: only-web\n"
	"  namespace: shop\n"
	"  scope: WorkloadSelector\n"
	"  action: Deny\n"
	"  dryRun: true\n"
	"  rules:\n"
	"  - - - namespaces: [!Exact a, !Prefix b, !Suffix c, !Presence []]\n"
	"        notNamespaces: [!Exact n]\n"
	"        serviceAccounts: [{namespace: shop, serviceAccount: web}]\n"
	"        notServiceAccounts: [{namespace: shop, serviceAccount: not}]\n"
	"        principals: [!Exact td/ns/a/sa/b]\n"
	"        notPrincipals: [!Exact td/ns/a/sa/c]\n"
	"        sourceIps: [10.0.0.0/8]\n"
	"        notSourceIps: [10.1.0.0/16]\n"
	"        destinationIps: ['2001:db8::/32']\n"
	"        notDestinationIps: [0.0.0.0/0]\n"
	"        destinationPorts: [80, 90]\n"
	"        notDestinationPorts: [443]\n"
	"      - destinationPorts: [1]\n"
	"    - - destinationPorts: [8080]\n"
	"  - []\n";

static void check_workload(const struct cv_workload *w)
{
	assert_string_equal(w->uid, "c1//Pod/shop/cart-0");
	assert_string_equal(cv_workload_name(w), "cart-0");
	assert_string_equal(w->group->ns, "shop");
	assert_string_equal(w->group->service_account, "cart");
	assert_string_equal(w->group->trust_domain, "cluster.local");
	assert_string_equal(w->group->network, "net-a");
	assert_string_equal(w->group->workload_name, "cart");
	assert_string_equal(w->group->workload_type, "deployment");
	assert_string_equal(w->group->canonical_name, "cart-app");
	assert_string_equal(w->group->canonical_revision, "v2");
	assert_string_equal(w->group->hostname, "cart.example");
	assert_string_equal(w->place->node, "worker-a");
	assert_string_equal(w->group->cluster_id, "c1");
	assert_string_equal(w->place->locality.zone, "eu-1");
	assert_null(w->place->locality.subzone);
	assert_true(w->place->has_locality && w->group->native_tunnel && w->group->has_app_tunnel &&
		    w->group->app_tunnel_proxy);
	assert_int_equal(w->group->app_tunnel_port, 15088);
	assert_int_equal(w->group->protocol, CV_PROTOCOL_HBONE);
	assert_int_equal(w->group->network_mode, CV_NETWORK_HOST);
	assert_int_equal(w->status, CV_UNHEALTHY);
	assert_int_equal(w->group->capacity, 7);
	assert_int_equal(w->nr_ips, 2);
	assert_int_equal(w->group->nr_policies, 2);
	assert_string_equal(w->group->policies[1], "shop/two");
	assert_false(w->group->waypoint->by_host);
	assert_string_equal(w->group->waypoint->addr.network, "net-a");
	assert_true(w->group->network_gateway->by_host);
	assert_string_equal(w->group->network_gateway->host.host, "gw.example");
	assert_int_equal(w->group->network_gateway->hbone_port, 15009);
	assert_int_equal(w->group->nr_services, 1);
	assert_int_equal(cv_port_map_find(&w->group->services[0].ports, 80), 8080);
	assert_int_equal(cv_port_map_find(&w->group->services[0].ports, 443), 8443);
	assert_int_equal(cv_port_map_find(&w->group->services[0].ports, 81), -ENOENT);
}

static void check_service(const struct cv_service *s)
{
	assert_string_equal(s->name, "cart");
	assert_int_equal(s->nr_vips, 2);
	assert_null(s->vips[0].network);
	assert_string_equal(s->vips[1].network, "net-b");
	assert_int_equal(s->cidr_vips[0].cidr.len, 8);
	assert_int_equal(cv_port_map_find(&s->ports, 443), 0);
	assert_string_equal(s->endpoints[0].workload_uid, "u");
	assert_int_equal(s->endpoints[0].status, CV_UNHEALTHY);
	assert_string_equal(s->sans[0], "spiffe://td/ns/a/sa/b");
	assert_string_equal(s->waypoint->host.ns, "istio");
	assert_int_equal(s->weighted_waypoints[0].weight, 30);
	assert_true(s->has_lb && s->allow_unhealthy && s->has_families && s->canonical);
	assert_true(s->ns_visible_only);
	assert_int_equal(s->lb_mode, CV_LB_FAILOVER);
	assert_int_equal(s->nr_lb_preferences, 2);
	assert_int_equal(s->lb_preferences[0], CV_SCOPE_NETWORK);
	assert_int_equal(s->lb_preferences[1], CV_SCOPE_NODE);
	assert_int_equal(s->families, CV_FAMILIES_DUAL);
}

static void check_policy(const struct cv_policy *p)
{
	const struct cv_match *m = &p->rules[0].clauses[0].matches[0];

	assert_string_equal(p->name, "only-web");
	assert_int_equal(p->scope, CV_POLICY_SELECTOR);
	assert_int_equal(p->action, CV_POLICY_DENY);
	assert_true(p->dry_run);
	assert_int_equal(p->n, 2);
	assert_int_equal(p->rules[0].n, 2);
	assert_int_equal(p->rules[0].clauses[0].n, 2);
	assert_int_equal(p->rules[1].n, 0);
	assert_int_equal(m->nr_namespaces, 4);
	assert_int_equal(m->namespaces[2].kind, CV_MATCH_SUFFIX);
	assert_string_equal(m->namespaces[2].text, "c");
	assert_int_equal(m->namespaces[3].kind, CV_MATCH_PRESENCE);
	assert_string_equal(m->not_namespaces[0].text, "n");
	assert_string_equal(m->service_accounts[0].sa, "web");
	assert_string_equal(m->not_service_accounts[0].sa, "not");
	assert_string_equal(m->principals[0].text, "td/ns/a/sa/b");
	assert_string_equal(m->not_principals[0].text, "td/ns/a/sa/c");
	assert_int_equal(m->source_ips[0].len, 8);
	assert_int_equal(m->not_source_ips[0].len, 16);
	assert_int_equal(m->destination_ips[0].len, 32);
	assert_int_equal(m->not_destination_ips[0].len, 0);
	assert_int_equal(m->destination_ports[1], 90);
	assert_int_equal(m->not_destination_ports[0], 443);
}

static void test_everything(void **state)
{
	struct cv_mesh_file f, again;
	char error[512];

	(void)state;
	assert_int_equal(parse(everything, &f, error), 0);
	check_workload(f.workloads[0]);
	check_service(f.services[0]);
	check_policy(f.policies[0]);
	/* The same text gives equal objects. */
	assert_int_equal(parse(everything, &again, error), 0);
	assert_true(cv_workload_eq(f.workloads[0], again.workloads[0]));
	assert_true(cv_service_eq(f.services[0], again.services[0]));
	assert_true(cv_policy_eq(f.policies[0], again.policies[0]));
	cv_mesh_file_fini(&f);
	cv_mesh_file_fini(&again);
	assert_int_equal(cv_str_count(), 0);
}

static const char *const changes[][2] = {
	{ "cart-0\n  namespace", "cart-1\n  namespace" },
	{ "Account: cart\n", "Account: x\n" },
	{ "Domain: cluster.local", "Domain: x" },
	{ "10.7.0.4", "10.7.0.5" },
	{ "protocol: HBONE", "protocol: TCP" },
	{ "HostNetwork", "Standard" },
	{ "network: net-a\n", "network: x\n" },
	{ "workloadName: cart", "workloadName: x" },
	{ "deployment", "job" },
	{ "cart-app", "x" },
	{ "v2", "v3" },
	{ "cart.example", "x" },
	{ "worker-a", "x" },
	{ "nativeTunnel: true", "nativeTunnel: false" },
	{ "PROXY", "NONE" },
	{ "15088", "15089" },
	{ "net-a/10.0.0.9", "net-a/10.0.0.8" },
	{ "istio/gw.example", "istio/x" },
	{ "0x3AA1", "1" },
	{ "shop/two", "shop/x" },
	{ "status: Unhealthy\n", "status: Healthy\n" },
	{ "clusterId: c1", "clusterId: c2" },
	{ "region: eu,", "region: us," },
	{ "eu-1", "eu-2" },
	{ "subzone: \"\"", "subzone: x" },
	{ "capacity: 7", "capacity: 8" },
	{ "443: 8443", "443: 8444" },
	{ "443: 8443", "444: 8443" },
	{ "name: cart\n", "name: x\n" },
	{ "/10.96.3.3", "/10.96.3.4" },
	{ "net-b/2001", "x/2001" },
	{ "cidr: 10.0.0.0/8", "cidr: 10.0.0.0/9" },
	{ "443: 0", "443: 1" },
	{ "workloadUid: u", "workloadUid: v" },
	{ "port: {80: 1}", "port: {80: 2}" },
	{ "status: Unhealthy}", "status: Healthy}" },
	{ "spiffe://td/ns/a/sa/b", "spiffe://x" },
	{ "istio/wp.example", "istio/x" },
	{ "weight: 30", "weight: 31" },
	{ "/10.0.0.1, hbone", "/10.0.0.2, hbone" },
	{ "[Network, Node]", "[Network, Zone]" },
	{ "Failover", "Strict" },
	{ "AllowAll", "OnlyHealthy" },
	{ "Dual", "IPv4" },
	{ "canonical: true", "canonical: false" },
	{ "visibility: Namespace", "visibility: Public" },
	{ "WorkloadSelector", "Global" },
	{ "action: Deny", "action: Allow" },
	{ "dryRun: true", "dryRun: false" },
	{ "!Exact a", "!Prefix a" },
	{ "!Prefix b", "!Prefix x" },
	{ "!Exact n", "!Exact x" },
	{ "serviceAccount: web", "serviceAccount: x" },
	{ "serviceAccount: not", "serviceAccount: x" },
	{ "td/ns/a/sa/b]", "x]" },
	{ "td/ns/a/sa/c", "x" },
	{ "sourceIps: [10.0.0.0/8]", "sourceIps: [10.0.0.0/9]" },
	{ "10.1.0.0/16", "10.2.0.0/16" },
	{ "db8::/32", "db8::/33" },
	{ "[0.0.0.0/0]", "[0.0.0.0/1]" },
	{ "80, 90", "80, 91" },
	{ "[443]", "[444]" },
	{ "  - []\n", "" },
	{ "[8080]", "[8081]" },
};

/* Each line of `everything` that holds a value, changed in one place, gives an object that
 * differs: no member is forgotten by the comparison that decides what is sent to the store. */
static void test_every_difference_is_seen(void **state)
{
	struct cv_mesh_file f, g;
	char error[512];

	(void)state;
	assert_int_equal(parse(everything, &f, error), 0);
	for (size_t i = 0; i < CV_ARRAY_SIZE(changes); i++) {
		const char *at = strstr(everything, changes[i][0]);
		_cleanup_free_ char *text = NULL;

		if (!at)
			fail_msg("`%s` is not in the text", changes[i][0]);
		assert_true(asprintf(&text, "%.*s%s%s", (int)(at - everything), everything,
				     changes[i][1], at + strlen(changes[i][0])) > 0);
		if (parse(text, &g, error) < 0)
			fail_msg("%s", error);
		if (cv_workload_eq(f.workloads[0], g.workloads[0]) &&
		    cv_service_eq(f.services[0], g.services[0]) &&
		    cv_policy_eq(f.policies[0], g.policies[0]))
			fail_msg("`%s` instead of `%s` makes no difference", changes[i][1],
				 changes[i][0]);
		cv_mesh_file_fini(&g);
	}
	cv_mesh_file_fini(&f);
}

static void test_defaults(void **state)
{
	static const char *const empty[] = { "", "# nothing\n", "{}",
					     "workloads:\nservices: []\npolicies: ~\n" };
	struct cv_mesh_file f;
	char error[512];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(empty); i++) {
		assert_int_equal(parse(empty[i], &f, error), 0);
		assert_int_equal(f.nr_workloads + f.nr_services + f.nr_policies, 0);
		cv_mesh_file_fini(&f);
	}
	assert_int_equal(
		parse("workloads: [{workloadIps: [], namespace: n, services: {}}]", &f, error), 0);
	assert_null(f.workloads[0]->group->trust_domain); /* nothing is made up */
	assert_null(f.workloads[0]->group->service_account);
	assert_int_equal(f.workloads[0]->group->capacity, 1);
	assert_int_equal(f.workloads[0]->group->protocol, CV_PROTOCOL_TCP);
	cv_mesh_file_fini(&f);
}

/* An anchor stands for what it names; numbers of a string are a string. */
static void test_aliases(void **state)
{
	struct cv_mesh_file f;
	char error[512];

	(void)state;
	assert_int_equal(
		parse("workloads:\n"
		      "- {uid: 1, workloadIps: &ips [10.0.0.1], namespace: n, services: &s {}}\n"
		      "- {uid: 2, workloadIps: *ips, namespace: n, services: *s}\n",
		      &f, error),
		0);
	assert_true(cv_addr_eq(&f.workloads[1]->ips[0], &f.workloads[0]->ips[0]));
	assert_string_equal(f.workloads[1]->uid, "2");
	cv_mesh_file_fini(&f);
	assert_int_equal(cv_str_count(), 0);
}

/* ---- what is refused ---- */

struct bad_row {
	const char *text, *error; /* the error begins with this */
};

#define WL "workloads:\n- workloadIps: [10.0.0.1]\n  namespace: n\n  services: {}\n"
#define SV "services:\n- name: s\n  namespace: n\n  hostname: h\n  vips: []\n  ports: {}\n"
#define PO \
	"policies:\n- name: p\n  namespace: n\n  scope: Global\n  action: Deny\n  dryRun: false\n"

static const struct bad_row bad_rows[] = {
	{ "- a\n", "mesh.yaml:1: file: must be a mapping, is a list" },
	{ "nope: 1\n", "mesh.yaml:1: nope: unknown key" },
	{ "\n\nworkloads: 5\n", "mesh.yaml:3: workloads: must be a list, is a scalar" },
	{ "workloads:\n- 5\n", "mesh.yaml:2: workloads[0]: must be a mapping" },
	{ WL "  bogus: 1\n", "mesh.yaml:5: workloads[0].bogus: unknown key" },
	{ WL "  namespace: m\n", "mesh.yaml:5: workloads[0]: key namespace is there twice" },
	{ "workloads:\n- workloadIps: []\n  namespace: n\n",
	  "mesh.yaml:2: workloads[0]: key services is missing" },
	{ "workloads:\n- workloadIps: []\n  services: {}\n",
	  "mesh.yaml:2: workloads[0]: key namespace is missing" },
	{ "workloads:\n- namespace: n\n  services: {}\n",
	  "mesh.yaml:2: workloads[0]: key workloadIps is missing" },
	{ "workloads:\n- workloadIps:\n  - 10.0.0.1\n  - 10.0.0.256\n",
	  "mesh.yaml:4: workloads[0].workloadIps[1]: must be an IP address, is `10.0.0.256`" },
	{ "workloads:\n- workloadIps: []\n  namespace: ~\n",
	  "mesh.yaml:3: workloads[0].namespace: must be a string, is null" },
	{ "workloads:\n- workloadIps: []\n  namespace: [n]\n",
	  "mesh.yaml:3: workloads[0].namespace: must be a scalar" },
	{ WL "  name: !Exact x\n", "mesh.yaml:5: workloads[0].name: unexpected tag !Exact" },
	{ WL "  protocol: hbone\n",
	  "mesh.yaml:5: workloads[0].protocol: must be one of TCP, HBONE; is `hbone`" },
	{ WL "  networkMode: Host\n", "mesh.yaml:5: workloads[0].networkMode: must be one of" },
	{ WL "  status: Sick\n", "mesh.yaml:5: workloads[0].status: must be one of" },
	{ WL "  nativeTunnel: yes\n",
	  "mesh.yaml:5: workloads[0].nativeTunnel: must be true or false, is `yes`" },
	{ WL "  capacity: -1\n", "mesh.yaml:5: workloads[0].capacity: must be a number" },
	{ WL "  capacity: 4294967296\n", "mesh.yaml:5: workloads[0].capacity: must be a number" },
	{ WL "  capacity: '1'\n", "mesh.yaml:5: workloads[0].capacity: must be a number" },
	{ WL "  applicationTunnel: {port: 1}\n",
	  "mesh.yaml:5: workloads[0].applicationTunnel: key protocol is missing" },
	{ WL "  applicationTunnel: {protocol: HTTP}\n",
	  "mesh.yaml:5: workloads[0].applicationTunnel.protocol: must be one of" },
	{ WL "  waypoint: {destination: x, hboneMtlsPort: 1}\n",
	  "mesh.yaml:5: workloads[0].waypoint.destination: must be NAMESPACE/HOSTNAME, is `x`" },
	{ WL "  waypoint: {destination: /10.0.0.1}\n",
	  "mesh.yaml:5: workloads[0].waypoint: key hboneMtlsPort is missing" },
	{ WL "  waypoint: {destination: a/b, hboneMtlsPort: 65536}\n",
	  "mesh.yaml:5: workloads[0].waypoint.hboneMtlsPort: must be a number from 0 to 65535, is `65536`" },
	{ WL "  locality: {region: r, zone: z}\n",
	  "mesh.yaml:5: workloads[0].locality: key subzone is missing" },
	{ WL "  authorizationPolicies: x\n",
	  "mesh.yaml:5: workloads[0].authorizationPolicies: must be a list" },
	{ "workloads:\n- workloadIps: []\n  namespace: n\n  services:\n    nohost: {}\n",
	  "mesh.yaml:5: workloads[0].services.nohost: must be NAMESPACE/HOSTNAME" },
	{ "workloads:\n- workloadIps: []\n  namespace: n\n  services:\n    n/h: {80: x}\n",
	  "mesh.yaml:5: workloads[0].services.n/h.80: must be a number" },
	{ "workloads:\n- workloadIps: []\n  namespace: n\n  services:\n    n/h: {'80': 1}\n",
	  "mesh.yaml:5: workloads[0].services.n/h.80: must be a number" },
	{ "workloads:\n- workloadIps: []\n  namespace: n\n  services:\n    n/h: {80: 1, 0x50: 2}\n",
	  "mesh.yaml:5: workloads[0].services.n/h: port 80 is there twice" },
	{ WL "- workloadIps: []\n  namespace: n\n  services: {}\n",
	  "mesh.yaml:5: workloads: the same uid as in line 2: ``" },
	{ "services:\n- name: s\n  namespace: n\n  hostname: h\n  vips: []\n",
	  "mesh.yaml:2: services[0]: key ports is missing" },
	{ SV "  cidrVips: [{network: '', cidr: 10.0.0.0/33}]\n",
	  "mesh.yaml:7: services[0].cidrVips[0].cidr: must be IP/LENGTH" },
	{ SV "  cidrVips: [{network: '', cidr: 10.0.0.0}]\n",
	  "mesh.yaml:7: services[0].cidrVips[0].cidr: must be IP/LENGTH" },
	{ SV "  ipFamilies: V4\n",
	  "mesh.yaml:7: services[0].ipFamilies: must be one of IPv4, IPv6, Dual" },
	{ SV "  visibility: Private\n", "mesh.yaml:7: services[0].visibility: must be one of" },
	{ SV "  loadBalancer: {mode: Random}\n",
	  "mesh.yaml:7: services[0].loadBalancer.mode: must be one of" },
	{ SV "  loadBalancer: {routingPreferences: [Planet]}\n",
	  "mesh.yaml:7: services[0].loadBalancer.routingPreferences[0]: must be one of" },
	{ SV "  endpoints: {a: {port: {}}}\n",
	  "mesh.yaml:7: services[0].endpoints.a: key workloadUid is missing" },
	{ SV "  weightedWaypoints: [{weight: 1}]\n",
	  "mesh.yaml:7: services[0].weightedWaypoints[0]: key destination is missing" },
	{ SV "- name: t\n  namespace: n\n  hostname: h\n  vips: []\n  ports: {}\n",
	  "mesh.yaml:7: services: the same namespace and hostname as in line 2: `n/h`" },
	{ "services:\n- name: s\n  namespace: n\n  hostname: h\n  ports: {}\n  vips: [10.0.0.1]\n",
	  "mesh.yaml:6: services[0].vips[0]: must be NETWORK/IP, is `10.0.0.1`" },
	{ PO, "mesh.yaml:2: policies[0]: key rules is missing" },
	{ PO "  rules: [[[{ports: [1]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].ports: unknown key" },
	{ PO "  rules: [[{}]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0]: must be a list, is a mapping" },
	{ PO "  rules: [[[{namespaces: [x]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].namespaces[0]: must be tagged !Exact" },
	{ PO "  rules: [[[{namespaces: [!Regex x]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].namespaces[0]: must be tagged !Exact" },
	{ PO "  rules: [[[{namespaces: [!Exact [x]]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].namespaces[0]: !Exact takes a string" },
	{ PO "  rules: [[[{namespaces: [!Presence x]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].namespaces[0]: must be `!Presence []`" },
	{ PO "  rules: [[[{destinationPorts: [65536]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].destinationPorts[0]: must be a number" },
	{ PO "  rules: [[[{serviceAccounts: [{namespace: n}]}]]]\n",
	  "mesh.yaml:7: policies[0].rules[0][0][0].serviceAccounts[0]: key serviceAccount is missing" },
	{ PO
	  "  rules: []\n"
	  "- name: p\n  namespace: n\n  scope: Global\n  action: Deny\n  dryRun: false\n  rules: []\n",
	  "mesh.yaml:8: policies: the same namespace and name as in line 2: `n/p`" },
	{ "policies:\n- name: p\n  namespace: n\n  scope: Global\n  action: Audit\n",
	  "mesh.yaml:5: policies[0].action: must be one of Allow, Deny; is `Audit`" },
	/* YAML itself */
	{ "workloads:\n  - a\n b: c\n", "mesh.yaml:3: not YAML: " },
	{ "workloads: [\n", "mesh.yaml:2: not YAML: " },
	{ "a: \"\\0\"\n", "mesh.yaml:1: text: holds a NUL character" },
	{ "{}\n---\n{}\n", "mesh.yaml:2: file: more than one document" },
	{ "workloads: *nowhere\n", "mesh.yaml:1: *nowhere: no such anchor before this line" },
	{ "workloads: &a [*a]\n", "mesh.yaml:1: *a: no such anchor before this line" },
	{ "workloads: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
	  "mesh.yaml:1: file: nested deeper than 32" },
	{ "? [a]\n: b\n", "mesh.yaml:1: file: a key must be a plain word" },
};

static void test_bad_files(void **state)
{
	struct cv_mesh_file f;
	char error[512];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(bad_rows); i++) {
		const struct bad_row *row = &bad_rows[i];

		if (parse(row->text, &f, error) != -EINVAL)
			fail_msg("row %zu was taken: %s", i, row->text);
		if (strncmp(error, row->error, strlen(row->error)))
			fail_msg("row %zu: got `%s`, want `%s`", i, error, row->error);
	}
	assert_int_equal(cv_str_count(), 0);
}

/* Aliases of aliases would be a thousand million nodes: refused before they cost anything. */
static void test_alias_bomb(void **state)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	struct cv_mesh_file f;
	char error[512];

	(void)state;
	fputs("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n", out);
	for (int i = 1; i < 10; i++) {
		fprintf(out, "a%d: &a%d [", i, i);
		for (int j = 0; j < 10; j++)
			fprintf(out, "*a%d,", i - 1);
		fputs("]\n", out);
	}
	fclose(out);
	assert_int_equal(parse(text, &f, error), -EINVAL);
	assert_non_null(strstr(error, "nodes"));
}

/* ---- the source ---- */

struct source {
	char dir[64], path[96];
	struct cv_worker *control;
	struct cv_store *store;
	struct cv_local_file *file;
	int applies;
	char keys[128];
};

static void on_apply(const struct cv_store_change *c, void *arg)
{
	struct source *src = arg;
	size_t len = 0;

	src->applies++;
	src->keys[0] = '\0';
	for (size_t i = 0; i < c->n; i++)
		len += (size_t)snprintf(src->keys + len, sizeof(src->keys) - len, "%s ",
					cv_str_text(c->keys[i]));
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* Runs the control loop until the store was applied to n times, at most ms. */
static void run_until(struct source *src, int n, int ms)
{
	uint64_t end = cv_now_ms() + (uint64_t)ms;

	while (src->applies < n && cv_now_ms() < end) {
		event_base_loop(cv_worker_base(src->control), EVLOOP_NONBLOCK);
		usleep(2000);
	}
}

#define ONE "workloads:\n- {uid: a, workloadIps: [10.0.0.1], namespace: n, services: {}}\n"
#define TWO ONE "- {uid: b, workloadIps: [10.0.0.2], namespace: n, services: {}}\n"

static int setup(void **state)
{
	struct source *src = calloc(1, sizeof(*src));

	if (scratch_dir(src->dir, sizeof(src->dir)))
		return -1;
	snprintf(src->path, sizeof(src->path), "%s/mesh.yaml", src->dir);
	*state = src;
	src->store = cv_fixture_store("", NULL);
	cv_store_subscribe(src->store, on_apply, src);
	return cv_worker_control(&src->control);
}

static int teardown(void **state)
{
	struct source *src = *state;
	char cmd[160];

	cv_local_file_stop(&src->file);
	cv_worker_free(&src->control);
	cv_store_free(&src->store);
	snprintf(cmd, sizeof(cmd), "%s/..data", src->dir);
	unlink(cmd);
	snprintf(cmd, sizeof(cmd), "%s/v1/mesh.yaml", src->dir);
	unlink(cmd);
	snprintf(cmd, sizeof(cmd), "%s/v2/mesh.yaml", src->dir);
	unlink(cmd);
	snprintf(cmd, sizeof(cmd), "%s/v1", src->dir);
	rmdir(cmd);
	snprintf(cmd, sizeof(cmd), "%s/v2", src->dir);
	rmdir(cmd);
	unlink(src->path);
	rmdir(src->dir);
	free(src);
	return cv_str_count() != 0;
}

static void start(struct source *src)
{
	char error[512] = "";

	if (cv_local_file_start(&src->file, src->control, src->store, src->path, error,
				sizeof(error)) < 0)
		fail_msg("%s", error);
	assert_int_equal(src->applies, 1);
}

/* Only what differs reaches the store; written in place and replaced by rename. */
static void test_source_changes(void **state)
{
	struct source *src = *state;
	char tmp[128];

	write_file(src->path, ONE);
	start(src);
	assert_string_equal(src->keys, "a ");
	write_file(src->path, TWO);
	run_until(src, 2, 3000);
	assert_string_equal(src->keys, "b ");
	snprintf(tmp, sizeof(tmp), "%s/new", src->dir);
	write_file(tmp,
		   "workloads:\n- {uid: b, workloadIps: [10.0.0.3], namespace: n, services: {}}\n");
	assert_int_equal(rename(tmp, src->path), 0);
	run_until(src, 3, 3000);
	assert_int_equal(src->applies, 3);
	assert_true(!strcmp(src->keys, "a b ") || !strcmp(src->keys, "b a "));
	/* The same content in another form changes nothing. */
	write_file(src->path,
		   "workloads: [{uid: b, workloadIps: [10.0.0.3], namespace: n, services: {}}]");
	run_until(src, 4, 500);
	assert_int_equal(src->applies, 3);
}

/* A bad file is told and changes nothing; the next good one counts again. */
static void test_source_bad_file(void **state)
{
	struct source *src = *state;

	write_file(src->path, ONE);
	start(src);
	assert_null(cv_local_file_error(src->file));
	write_file(src->path, ONE "- {uid: b, bogus: 1}\n");
	run_until(src, 2, 500);
	assert_int_equal(src->applies, 1);
	assert_non_null(cv_local_file_error(src->file));
	assert_non_null(strstr(cv_local_file_error(src->file), "mesh.yaml:3: workloads[1].bogus"));
	unlink(src->path);
	run_until(src, 2, 300);
	assert_non_null(strstr(cv_local_file_error(src->file), "cannot be read"));
	write_file(src->path, TWO);
	run_until(src, 2, 3000);
	assert_string_equal(src->keys, "b ");
	assert_null(cv_local_file_error(src->file));
}

/* A Kubernetes volume: the file is a link into a directory that is swapped by renaming a link. */
static void test_source_configmap(void **state)
{
	struct source *src = *state;
	char path[128], link[128];

	for (int v = 1; v <= 2; v++) {
		snprintf(path, sizeof(path), "%s/v%d", src->dir, v);
		assert_int_equal(mkdir(path, 0700), 0);
		snprintf(path, sizeof(path), "%s/v%d/mesh.yaml", src->dir, v);
		write_file(path, v == 1 ? ONE : TWO);
	}
	snprintf(path, sizeof(path), "%s/..data", src->dir);
	assert_int_equal(symlink("v1", path), 0);
	assert_int_equal(symlink("..data/mesh.yaml", src->path), 0);
	start(src);
	snprintf(link, sizeof(link), "%s/..data_tmp", src->dir);
	assert_int_equal(symlink("v2", link), 0);
	assert_int_equal(rename(link, path), 0);
	run_until(src, 2, 3000);
	assert_string_equal(src->keys, "b ");
}

/* At start a bad or missing file is fatal. */
static void test_source_bad_start(void **state)
{
	struct source *src = *state;
	char error[512] = "";

	assert_int_equal(cv_local_file_start(&src->file, src->control, src->store, src->path, error,
					     sizeof(error)),
			 -ENOENT);
	write_file(src->path, "x: 1\n");
	assert_int_equal(cv_local_file_start(&src->file, src->control, src->store, src->path, error,
					     sizeof(error)),
			 -EINVAL);
	assert_non_null(strstr(error, "mesh.yaml:1: x: unknown key"));
	assert_null(src->file);
	assert_int_equal(cv_local_inline(src->store, "x: 1", error, sizeof(error)), -EINVAL);
	assert_string_equal(error, "LOCAL_XDS:1: x: unknown key");
	assert_int_equal(cv_local_inline(src->store, ONE, error, sizeof(error)), 0);
	assert_string_equal(src->keys, "a ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_every_difference_is_seen),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_aliases),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_alias_bomb),
		cmocka_unit_test_setup_teardown(test_source_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source_bad_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source_configmap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source_bad_start, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
