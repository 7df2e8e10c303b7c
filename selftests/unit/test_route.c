/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing: a table of outbound vectors over one mesh, the endpoint choice (locality, weights,
 * the kernel's own choice), the kernel's candidates, and the checks of an inbound request.
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
#include <urcu.h>

#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/mesh/route.h"
#include "userspace/proto/hbone.h"

#define POD(uid, ip, rest)                                                        \
	"- {uid: " uid ", name: " uid ", workloadIps: [" ip "], namespace: shop," \
	" trustDomain: td, serviceAccount: " uid ", " rest "}\n"
#define SVC(name, vip, rest)                                                                     \
	"- {name: " name ", namespace: shop, hostname: " name ".example, vips: [" vip "], " rest \
	"}\n"

static const char mesh[] = "workloads:\n" POD(
	"client", "10.0.0.1", "node: n1, locality: {region: r, zone: z, subzone: s}, services: {}")
	/* plain and HBONE pods */
	POD("plain", "10.0.0.2", "services: {shop/web.example: {}}") POD(
		"hbone", "10.0.0.3", "protocol: HBONE, services: {shop/tls.example: {80: 8443}}")
		POD("six", "'2001:db8::3', 10.0.0.33",
		    "protocol: HBONE, services: {shop/dual.example: {},"
		    " shop/only4.example: {}, shop/only6.example: {}}")
			POD("named", "10.0.0.4", "services: {shop/named.example: {80: 1234}}")
				POD("unnamed", "10.0.0.5", "services: {shop/named.example: {}}")
	/* waypoints */
	POD("wp", "10.0.0.6", "protocol: HBONE, services: {shop/wp.example: {15008: 15008}}") POD(
		"behind", "10.0.0.7",
		"protocol: HBONE, services: {shop/behind.example: {}},"
		" waypoint: {destination: /10.0.0.6, hboneMtlsPort: 15008}")
		POD("behindsvc", "10.0.0.8",
		    "services: {}, waypoint: {destination: shop/wp.example, hboneMtlsPort: 15008}")
	/* a waypoint of two families, one behind an application tunnel, one that is a name */
	POD("wp6", "10.0.0.61, '2001:db8::61'", "protocol: HBONE, services: {shop/wp6.example: {}}") POD(
		"sandwich", "10.0.0.62",
		"applicationTunnel: {protocol: PROXY, port: 15088},"
		" services: {shop/sandwich.example: {}}") POD("bare", "10.0.0.63",
							      "services: {shop/sandwich.example: {}}")
		POD("extwp", "", "hostname: wp.ext.org, services: {}") POD(
			"farwp", "10.0.0.64",
			"network: far, protocol: HBONE, services: {shop/farwp.example: {}},"
			" networkGateway: {destination: /10.0.0.3, hboneMtlsPort: 15009}")
			POD("six6", "'2001:db8::7', 10.0.0.71",
			    "services: {},"
			    " waypoint: {destination: shop/wp6.example, hboneMtlsPort: 15008}")
				POD("six4", "'2001:db8::8', 10.0.0.72",
				    "services: {},"
				    " waypoint: {destination: /10.0.0.6, hboneMtlsPort: 15008}")
					POD("sixby", "'2001:db8::9', 10.0.0.77",
					    "services: {},"
					    " waypoint: {destination: /10.0.0.61, hboneMtlsPort: 15008}")
						POD("lost", "10.0.0.73",
						    "services: {},"
						    " waypoint: {destination: shop/gone.example, hboneMtlsPort: 15008}")
							POD("lostip", "10.0.0.74",
							    "services: {},"
							    " waypoint: {destination: /10.0.0.250, hboneMtlsPort: 15008}")
								POD("lostep", "10.0.0.75",
								    "services: {},"
								    " waypoint: {destination: shop/empty.example, hboneMtlsPort: 80}")
									POD("named2", "10.0.0.76",
									    "services: {},"
									    " waypoint: {destination: shop/wp.ext.org, hboneMtlsPort: 15009}")
	/* other networks, names for addresses, the host's network */
	POD("remote", "10.0.0.9", "network: far, services: {shop/far.example: {}}") POD(
		"gated", "",
		"network: far, services: {shop/gated.example: {}},"
		" networkGateway: {destination: /10.0.0.3, hboneMtlsPort: 15009}") POD("ext", "",
										       "hostname: ext.org, services: {shop/ext.example: {}}")
		POD("noaddr", "", "services: {shop/noaddr.example: {}}") POD("host1", "10.0.0.10", "networkMode: HostNetwork, services: {shop/host.example: {}}") POD(
			"host2", "10.0.0.10",
			"networkMode: HostNetwork, services: {}") "services:\n" SVC("web",
										    "/10.9.0.1",
										    "ports: {80: 8080}") SVC("tls",
													     "/10.9.0.2",
													     "ports: {80: 80}, subjectAltNames: ['spiffe://td/ns/x/sa/alt']")
			SVC("dual", "/10.9.0.3, '/2001:db8:9::3'", "ports: {80: 80}, ipFamilies: Dual") SVC(
				"only4", "/10.9.0.4, '/2001:db8:9::4'",
				"ports: {80: 80}, ipFamilies: IPv4") SVC("only6", "/10.9.0.5, '/2001:db8:9::5'",
									 "ports: {80: 80}, ipFamilies: IPv6")
				SVC("named", "/10.9.0.6", "ports: {80: 0}") SVC("empty", "/10.9.0.7", "ports: {80: 80}") SVC(
					"pass",
					"/10.9.0.8",
					"ports: {80: 80}, loadBalancer: {mode: Passthrough}") SVC("passwp", "/10.9.0.9",
												  "ports: {80: 80}, loadBalancer: {mode: Passthrough},"
												  " waypoint: {destination: /10.0.0.6, hboneMtlsPort: 15008}")
					SVC("waypointed", "/10.9.0.10",
					    "ports: {80: 80},"
					    " waypoint: {destination: shop/wp.example, hboneMtlsPort: 15008}") SVC("weighted",
														   "/10.9.0.11",
														   "ports: {80: 80}, weightedWaypoints: [{weight: 1,"
														   " destination: {destination: /10.0.0.6, hboneMtlsPort: 15008}}]")
						SVC("zero", "/10.9.0.12",
						    "ports: {80: 80}, endpoints: {plain: {workloadUid: plain,"
						    " port: {80: 81}, status: Healthy}}, weightedWaypoints: [{weight: 0,"
						    " destination: {destination: /10.0.0.6, hboneMtlsPort: 15008}}]")
							SVC("far", "/10.9.0.13", "ports: {80: 80}") SVC(
								"gated", "/10.9.0.14",
								"ports: {80: 80}") SVC("ext", "/10.9.0.15",
										       "ports: {80: 80}") SVC("noaddr", "/10.9.0.16", "ports: {80: 80}")
								SVC("host", "/10.9.0.17", "ports: {80: 80}") SVC(
									"behind", "/10.9.0.18",
									"ports: {80: 80}") SVC("wp",
											       "/10.9.0.19",
											       "ports: {15008: 15008},"
											       " subjectAltNames: ['spiffe://td/ns/x/sa/wpalt']")
									SVC("wp6", "/10.9.0.20", "ports: {15008: 15008}, ipFamilies: Dual") SVC(
										"sandwich",
										"/10.9.0.21",
										"ports: {}") SVC("behindsandwich",
												 "/10.9.0.22",
												 "ports: {80: 80},"
												 " waypoint: {destination: shop/sandwich.example, hboneMtlsPort: 15008}")
										SVC("farwp", "/10.9.0.23", "ports: {15008: 15008}") SVC(
											"behindfar",
											"/10.9.0.24",
											"ports: {80: 80},"
											" waypoint: {destination: shop/farwp.example, hboneMtlsPort: 15008}")
											SVC("mixed",
											    "/10.9.0.25",
											    "ports: {80: 80}, endpoints: {"
											    "remote: {workloadUid: remote, port: {80: 81}, status: Healthy},"
											    "plain: {workloadUid: plain, port: {80: 82}, status: Healthy}}")
												SVC("overlap",
												    "/10.0.0.2",
												    "ports: {80: 9999}");

struct vector {
	const char *dst;
	const char *want; /* kind, next hop, authority, or the error */
	const char *sans;
};

static const struct vector vectors[] = {
	{ "1.2.3.4:80", "passthrough 1.2.3.4:80", "" },
	/* pods by address */
	{ "10.0.0.4:80", "tcp 10.0.0.4:80", "" },
	{ "10.0.0.3:80", "hbone 10.0.0.3:15008 for 10.0.0.3:80", "spiffe://td/ns/shop/sa/hbone" },
	{ "[2001:db8::3]:80", "hbone [2001:db8::3]:15008 for [2001:db8::3]:80",
	  "spiffe://td/ns/shop/sa/six" },
	{ "10.0.0.10:80", "passthrough 10.0.0.10:80", "" }, /* the host's address */
	/* services */
	{ "10.9.0.1:80", "tcp 10.0.0.2:8080", "" },
	{ "10.9.0.1:81", "no healthy upstream: 10.9.0.1:81", "" },
	{ "10.9.0.2:80", "hbone 10.0.0.3:15008 for 10.0.0.3:8443",
	  "spiffe://td/ns/x/sa/alt,spiffe://td/ns/shop/sa/hbone" },
	{ "10.9.0.6:80", "tcp 10.0.0.4:1234", "" }, /* never the one without the named port */
	{ "10.9.0.7:80", "no healthy upstream: 10.9.0.7:80", "" },
	{ "10.9.0.17:80", "tcp 10.0.0.10:80", "" },
	/* a pod's address that is an empty service's VIP as well: see test_lookup_orders */
	{ "10.0.0.2:80", "passthrough 10.0.0.2:80", "" },
	/* families */
	{ "10.9.0.3:80", "hbone 10.0.0.33:15008 for 10.0.0.33:80", "spiffe://td/ns/shop/sa/six" },
	{ "[2001:db8:9::3]:80", "hbone [2001:db8::3]:15008 for [2001:db8::3]:80",
	  "spiffe://td/ns/shop/sa/six" },
	{ "[2001:db8:9::4]:80", "hbone 10.0.0.33:15008 for 10.0.0.33:80",
	  "spiffe://td/ns/shop/sa/six" },
	{ "10.9.0.5:80", "hbone [2001:db8::3]:15008 for [2001:db8::3]:80",
	  "spiffe://td/ns/shop/sa/six" },
	/* passthrough services */
	{ "10.9.0.8:80", "passthrough 10.9.0.8:80", "" },
	/* waypoints of services: whatever the mode, with what was dialled as the authority */
	{ "10.9.0.9:80", "hbone 10.0.0.6:15008 for 10.9.0.9:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp" },
	{ "10.9.0.10:80", "hbone 10.0.0.6:15008 for 10.9.0.10:80 via waypoint",
	  "spiffe://td/ns/x/sa/wpalt,spiffe://td/ns/shop/sa/wp" },
	{ "10.9.0.11:80", "hbone 10.0.0.6:15008 for 10.9.0.11:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp" },
	{ "10.9.0.12:80", "tcp 10.0.0.2:81", "" }, /* a weight of zero is none */
	/* the tunnel's endpoint takes a port that the service lacks, the bare one does not */
	{ "10.9.0.22:80", "hbone 10.0.0.62:15008 for 10.9.0.22:80 via waypoint",
	  "spiffe://td/ns/shop/sa/sandwich" },
	{ "10.9.0.24:80", "unsupported feature: gateway to network far", "" },
	/* waypoints of workloads, by address and by service */
	{ "10.0.0.7:80", "hbone 10.0.0.6:15008 for 10.0.0.7:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp" },
	{ "10.0.0.8:80", "hbone 10.0.0.6:15008 for 10.0.0.8:80 via waypoint",
	  "spiffe://td/ns/x/sa/wpalt,spiffe://td/ns/shop/sa/wp" },
	/* by service the client's family counts, by address the waypoint's own */
	{ "[2001:db8::7]:80", "hbone [2001:db8::61]:15008 for [2001:db8::7]:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp6" },
	{ "10.0.0.71:80", "hbone 10.0.0.61:15008 for 10.0.0.71:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp6" },
	{ "[2001:db8::8]:80", "hbone 10.0.0.6:15008 for [2001:db8::8]:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp" },
	{ "[2001:db8::9]:80", "hbone 10.0.0.61:15008 for [2001:db8::9]:80 via waypoint",
	  "spiffe://td/ns/shop/sa/wp6" },
	/* never past a waypoint that cannot be found */
	{ "10.0.0.73:80", "unknown waypoint: waypoint shop/gone.example not found", "" },
	{ "10.0.0.74:80", "unknown waypoint: waypoint /10.0.0.250 not found", "" },
	{ "10.0.0.75:80",
	  "unknown waypoint: waypoint shop/empty.example has no endpoint that can be used", "" },
	{ "10.0.0.76:80", "hbone 0.0.0.0:15009 for 10.0.0.76:80 via waypoint wp.ext.org",
	  "spiffe://td/ns/shop/sa/extwp" },
	/* the workload's waypoint is for those that dial the workload */
	{ "10.9.0.18:80", "hbone 10.0.0.7:15008 for 10.0.0.7:80", "spiffe://td/ns/shop/sa/behind" },
	/* what is on another network is skipped while there is something else */
	{ "10.9.0.25:80", "tcp 10.0.0.2:82", "" },
	/* addresses that DNS knows */
	{ "10.9.0.15:80", "tcp 0.0.0.0:80 ext.org", "" },
	/* what this version does not reach */
	{ "10.9.0.13:80", "no valid routing destination for workload: remote", "" },
	{ "10.9.0.14:80", "unsupported feature: gateway to network far", "" },
	{ "10.9.0.16:80", "no healthy upstream: 10.9.0.16:80", "" },
};

static struct cv_workload *workload(struct cv_store *s, const char *uid)
{
	cv_str key = cv_str_new(uid);
	struct cv_workload *w = cv_store_workload_by_uid(s, key);

	cv_str_put(&key);
	assert_non_null(w);
	return w;
}

static void describe(const struct cv_route *r, char text[512])
{
	char next[CV_SOCKADDR_TEXT], target[CV_SOCKADDR_TEXT];

	cv_sockaddr_text(&r->next_hop, next);
	cv_sockaddr_text(&r->target, target);
	if (r->hostname) { /* has only a family yet */
		bool v4 = cv_addr_is_v4(&r->next_hop.ip);

		snprintf(next, sizeof(next), "%s:%u", v4 ? "0.0.0.0" : "[::]", r->next_hop.port);
	}
	if (r->kind == CV_ROUTE_HBONE)
		snprintf(text, 512, "hbone %s for %s%s%s%s", next, target,
			 r->waypoint ? " via waypoint" : "", r->hostname ? " " : "",
			 cv_str_text(r->hostname));
	else if (r->kind == CV_ROUTE_REFUSE)
		snprintf(text, 512, "%s", r->error);
	else
		snprintf(text, 512, "%s %s%s%s", r->kind == CV_ROUTE_TCP ? "tcp" : "passthrough",
			 next, r->hostname ? " " : "", cv_str_text(r->hostname));
}

static void route(struct cv_store *s, const char *src, const char *dst, uint64_t random,
		  struct cv_route *ret)
{
	struct cv_workload *w = workload(s, src);
	struct cv_route_in in = { .src = w, .src_ip = w->ips[0], .random = random };

	assert_int_equal(cv_sockaddr_parse(dst, &in.dst), 0);
	cv_route_outbound(s, &in, ret);
	cv_workload_put(&w);
}

static void test_vectors(void **state)
{
	char text[512], sans[512];
	struct cv_route r;

	cv_fixture_apply(*state, mesh);
	for (size_t i = 0; i < CV_ARRAY_SIZE(vectors); i++) {
		const struct vector *v = &vectors[i];
		size_t len = 0;

		route(*state, "client", v->dst, i, &r);
		describe(&r, text);
		sans[0] = '\0';
		for (size_t j = 0; j < r.nr_sans; j++)
			len += (size_t)snprintf(sans + len, sizeof(sans) - len, "%s%s",
						j ? "," : "", r.sans[j]);
		if (strcmp(text, v->want) || strcmp(sans, v->sans))
			fail_msg("%s: got %s (%s), want %s (%s)", v->dst, text, sans, v->want,
				 v->sans);
		cv_route_fini(&r);
	}
}

/* A pod's address that is also a service's VIP: whether it is a service's traffic is asked of the
 * workloads first, so the empty service does not refuse it; the upstream is looked up among the
 * services first, so there is none. Without the service the pod is the upstream. */
static void test_lookup_orders(void **state)
{
	struct cv_route r;

	cv_fixture_apply(*state, mesh);
	cv_fixture_remove(*state, CV_DELTA_SERVICE, "shop/overlap.example");
	route(*state, "client", "10.0.0.2:80", 0, &r);
	assert_int_equal(r.kind, CV_ROUTE_TCP);
	assert_null(r.service);
	assert_string_equal(r.dst->uid, "plain");
	cv_route_fini(&r);
}

/* A waypoint's own connections to its workloads are not sent to the waypoint; the waypoint's
 * identity on another address does not help. */
static void test_from_waypoint(void **state)
{
	struct cv_workload *wp;
	struct cv_route_in in = {};
	struct cv_route r;

	cv_fixture_apply(*state, mesh);
	route(*state, "wp", "10.0.0.7:80", 0, &r);
	assert_int_equal(r.kind, CV_ROUTE_HBONE);
	cv_route_fini(&r);
	route(*state, "wp", "10.0.0.8:80", 0, &r); /* named by service */
	assert_int_equal(r.kind, CV_ROUTE_TCP);
	cv_route_fini(&r);
	/* A workload that has a waypoint dials one that has none: its own waypoint is no matter. */
	route(*state, "behind", "10.0.0.3:80", 0, &r);
	assert_int_equal(r.kind, CV_ROUTE_HBONE);
	cv_route_fini(&r);
	wp = workload(*state, "wp");
	in = (struct cv_route_in){ .src = wp, .src_ip = cv_fixture_ip("10.0.0.1") };
	assert_int_equal(cv_sockaddr_parse("10.0.0.7:80", &in.dst), 0);
	cv_route_outbound(*state, &in, &r);
	assert_true(r.waypoint);
	assert_int_equal(r.kind, CV_ROUTE_HBONE);
	cv_route_fini(&r);
	cv_workload_put(&wp);
}

/* A waypoint that dials a service of its own is refused: it would get the connection back. */
static void test_waypoint_loop(void **state)
{
	static const char *const own[] = { "10.9.0.10:80", "10.9.0.11:80", "10.9.0.9:80" };
	struct cv_route r;

	cv_fixture_apply(*state, mesh);
	for (size_t i = 0; i < CV_ARRAY_SIZE(own); i++) {
		route(*state, "wp", own[i], i, &r);
		assert_int_equal(r.kind, CV_ROUTE_REFUSE);
		assert_true(r.waypoint);
		assert_true(strstr(r.error, "recursive call") != NULL);
		assert_non_null(r.service);
		cv_route_fini(&r);
	}
	/* Another waypoint's service is no loop. */
	route(*state, "wp6", "10.9.0.10:80", 0, &r);
	assert_int_equal(r.kind, CV_ROUTE_HBONE);
	cv_route_fini(&r);
}

/* Of several waypoints each gets its share, one of weight 0 nothing; all of 0: the single one. */
static void test_weighted_waypoints(void **state)
{
	static const char *const weights[] = {
		"[{weight: 30, destination: {destination: /10.0.0.6, hboneMtlsPort: 15008}},"
		" {weight: 0, destination: {destination: /10.0.0.2, hboneMtlsPort: 15008}},"
		" {weight: 20, destination: {destination: /10.0.0.3, hboneMtlsPort: 15008}},"
		" {weight: 10, destination: {destination: shop/wp6.example, hboneMtlsPort: 15008}}]",
		"[{weight: 0, destination: {destination: /10.0.0.6, hboneMtlsPort: 15008}}]"
	};
	unsigned wp = 0, hbone = 0, wp6 = 0;
	struct cv_route r;
	char yaml[1024];

	cv_fixture_apply(*state, mesh);
	for (unsigned i = 0; i < 4000; i++) {
		if (i % 2000 == 0) {
			snprintf(
				yaml, sizeof(yaml),
				"services: [{name: w, namespace: shop, hostname: w.example,"
				" vips: [/10.9.1.1], ports: {80: 80}, weightedWaypoints: %s,"
				" waypoint: {destination: shop/wp6.example, hboneMtlsPort: 15008}}]",
				weights[i / 2000]);
			cv_fixture_apply(*state, yaml);
		}
		route(*state, "client", "10.9.1.1:80", i * UINT64_C(0x9e3779b97f4a7c15) >> 3, &r);
		assert_true(r.waypoint);
		assert_string_equal(r.service->name, "w");
		wp += !strcmp(r.dst->uid, "wp");
		hbone += !strcmp(r.dst->uid, "hbone");
		wp6 += !strcmp(r.dst->uid, "wp6");
		cv_route_fini(&r);
	}
	/* 3 : 2 : 1 of the first half, the second is all the single one's */
	assert_int_equal(wp + hbone + wp6, 4000);
	assert_in_range(wp, 850, 1150);
	assert_in_range(hbone, 530, 800);
}

/* DNS's answer goes where the name was; a waypoint's authority stays what was dialled. */
static void test_resolved(void **state)
{
	const struct cv_addr ip = cv_fixture_ip("10.7.7.7");
	char text[512];
	struct cv_route r;

	cv_fixture_apply(*state, mesh);
	route(*state, "client", "10.9.0.15:80", 0, &r);
	cv_route_resolved(&r, &ip);
	describe(&r, text);
	assert_string_equal(text, "tcp 10.7.7.7:80");
	cv_route_fini(&r);
	route(*state, "client", "10.0.0.76:80", 0, &r);
	cv_route_resolved(&r, &ip);
	describe(&r, text);
	assert_string_equal(text, "hbone 10.7.7.7:15009 for 10.0.0.76:80 via waypoint");
	cv_route_fini(&r);
	cv_fixture_apply(*state, "workloads:\n" POD("ext", "",
						    "hostname: ext.org, protocol: HBONE,"
						    " services: {shop/ext.example: {}}"));
	route(*state, "client", "10.9.0.15:80", 0, &r);
	cv_route_resolved(&r, &ip);
	describe(&r, text);
	assert_string_equal(text, "hbone 10.7.7.7:15008 for 10.7.7.7:80");
	cv_route_fini(&r);
}

static size_t choices(struct cv_store *s, const char *dst, struct cv_route_choice *ret, size_t max)
{
	struct cv_workload *w = workload(s, "client");
	struct cv_route_in in = { .src = w, .src_ip = w->ips[0] };
	size_t n;

	assert_int_equal(cv_sockaddr_parse(dst, &in.dst), 0);
	n = cv_route_choices(s, &in, ret, max);
	cv_workload_put(&w);
	return n;
}

static void fini_choices(struct cv_route_choice *c, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cv_route_fini(&c[i].route);
}

/* ---- endpoint choice ---- */

static const char lb_mesh[] = "workloads:\n" POD(
	"client", "10.0.0.1",
	"node: n1, clusterId: c, locality: {region: r, zone: z, subzone: s},"
	" services: {}") POD("node", "10.0.1.1",
			     "node: n1, clusterId: c, locality: {region: r, zone: z, subzone: s},"
			     " services: {shop/lb.example: {}}")
	POD("zone", "10.0.1.2",
	    "node: n2, clusterId: c, locality: {region: r, zone: z, subzone: t},"
	    " services: {shop/lb.example: {}}, capacity: 3")
		POD("region", "10.0.1.3",
		    "node: n3, clusterId: c, locality: {region: r, zone: y, subzone: s},"
		    " services: {shop/lb.example: {}}")
			POD("none", "10.0.1.4",
			    "node: n4, clusterId: d, locality: {region: q, zone: z, subzone: s},"
			    " services: {shop/lb.example: {}}, capacity: 0") "services:\n";

/* How often each of the four endpoints is chosen in 4000 routes. */
static void count_choices(struct cv_store *s, const char *lb, unsigned ret[5])
{
	char yaml[512];
	struct cv_route r;

	snprintf(yaml, sizeof(yaml),
		 "services: [{name: lb, namespace: shop, hostname: lb.example, vips: [/10.9.0.1],"
		 " ports: {80: 80}, %s}]",
		 lb);
	cv_fixture_apply(s, yaml);
	memset(ret, 0, 5 * sizeof(*ret));
	for (unsigned i = 0; i < 4000; i++) {
		route(s, "client", "10.9.0.1:80", i * UINT64_C(0x9e3779b97f4a7c15), &r);
		ret[r.kind == CV_ROUTE_TCP ? r.next_hop.ip.b[15] : 0]++;
		cv_route_fini(&r);
	}
}

static void test_weights(void **state)
{
	unsigned n[5];

	cv_fixture_apply(*state, lb_mesh);
	count_choices(*state, "", n);
	/* 1 : 3 : 1 : never */
	assert_in_range(n[1], 700, 900);
	assert_in_range(n[2], 2300, 2500);
	assert_in_range(n[3], 700, 900);
	assert_int_equal(n[4], 0);
	assert_int_equal(n[0], 0);
}

static void test_failover(void **state)
{
	unsigned n[5];

	cv_fixture_apply(*state, lb_mesh);
	count_choices(*state,
		      "loadBalancer: {mode: Failover, routingPreferences: [Region, Zone, Node]}",
		      n);
	assert_int_equal(n[1], 4000); /* the nearest alone */
	cv_fixture_remove(*state, CV_DELTA_WORKLOAD, "node");
	count_choices(*state,
		      "loadBalancer: {mode: Failover, routingPreferences: [Region, Zone, Node]}",
		      n);
	assert_int_equal(n[2], 4000);
	/* The count ends at the first preference that differs: its later ones do not help. */
	count_choices(*state,
		      "loadBalancer: {mode: Failover, routingPreferences: [Node, Zone, Region]}",
		      n);
	assert_in_range(n[2], 2800, 3200);
	assert_in_range(n[3], 800, 1200);
	/* Strict wants all of them. */
	count_choices(*state, "loadBalancer: {mode: Strict, routingPreferences: [Region, Zone]}",
		      n);
	assert_int_equal(n[2], 4000);
	count_choices(*state,
		      "loadBalancer: {mode: Strict, routingPreferences: [Region, Zone, Node]}", n);
	assert_int_equal(n[0], 4000);
	/* Network first: a mismatch is skipped, not the end. */
	count_choices(*state,
		      "loadBalancer: {mode: Failover, routingPreferences: [Network, Region, Zone]}",
		      n);
	assert_int_equal(n[2], 4000);
}

/* All that may be chosen, with weights; what is out of the ranking is not among them. */
static void test_choices(void **state)
{
	struct cv_route_choice c[4];

	cv_fixture_apply(*state, mesh);
	assert_int_equal(choices(*state, "10.9.0.25:80", c, 4), 1);
	assert_string_equal(c[0].route.dst->uid, "plain");
	fini_choices(c, 1);
	assert_int_equal(choices(*state, "1.2.3.4:80", c, 4), 1);
	assert_int_equal(c[0].route.kind, CV_ROUTE_PASSTHROUGH);
	fini_choices(c, 1);
	assert_int_equal(choices(*state, "10.9.0.7:80", c, 4), 1);
	assert_int_equal(c[0].route.kind, CV_ROUTE_REFUSE);
	fini_choices(c, 1);
	assert_int_equal(choices(*state, "10.9.0.10:80", c, 4), 1);
	assert_true(c[0].route.waypoint);
	fini_choices(c, 1);
}

static void test_ranked_choices(void **state)
{
	struct cv_route_choice c[4];
	unsigned n[5];

	cv_fixture_apply(*state, lb_mesh);
	count_choices(*state, "", n);
	assert_int_equal(choices(*state, "10.9.0.1:80", c, 4), 3);
	assert_int_equal(c[0].weight + c[1].weight + c[2].weight, 5);
	assert_int_equal(c[1].route.kind, CV_ROUTE_TCP);
	assert_string_equal(c[1].route.service->name, "lb");
	fini_choices(c, 3);
	assert_int_equal(choices(*state, "10.9.0.1:80", c, 1), 3);
	fini_choices(c, 1);
	count_choices(*state, "loadBalancer: {mode: Failover, routingPreferences: [Region, Zone]}",
		      n);
	assert_int_equal(choices(*state, "10.9.0.1:80", c, 4), 2);
	fini_choices(c, 2);
	/* A nearer one takes the place of what was found before it. */
	cv_fixture_remove(*state, CV_DELTA_WORKLOAD, "node");
	assert_int_equal(choices(*state, "10.9.0.1:80", c, 4), 1);
	assert_string_equal(c[0].route.dst->uid, "zone");
	fini_choices(c, 1);
}

/* What connect() chose is taken while it is an endpoint on that port, else chosen anew. */
static void test_kernel_choice(void **state)
{
	struct cv_sockaddr choice;
	struct cv_workload *w;
	struct cv_route r;
	unsigned n[5], taken = 0;

	cv_fixture_apply(*state, lb_mesh);
	count_choices(*state, "", n);
	w = workload(*state, "client");
	for (unsigned i = 0; i < 100; i++) {
		struct cv_route_in in = {
			.src = w, .src_ip = w->ips[0], .choice = &choice, .random = i
		};

		assert_int_equal(cv_sockaddr_parse("10.0.1.3:80", &choice), 0);
		assert_int_equal(cv_sockaddr_parse("10.9.0.1:80", &in.dst), 0);
		cv_route_outbound(*state, &in, &r);
		assert_string_equal(r.dst->uid, "region");
		cv_route_fini(&r);
		choice.port = 81; /* not its port any more */
		cv_route_outbound(*state, &in, &r);
		taken += !strcmp(r.dst->uid, "region");
		cv_route_fini(&r);
	}
	assert_in_range(taken, 1, 60);
	cv_workload_put(&w);
}

static int candidates(struct cv_store *s, const char *host, const char *vip, uint16_t port,
		      struct cv_candidate *ret, size_t max)
{
	cv_str ns = cv_str_new("shop"), h = cv_str_new(host);
	struct cv_service *svc = cv_store_service_by_host(s, ns, h);
	struct cv_addr addr = cv_fixture_ip(vip);
	int n;

	assert_non_null(svc);
	rcu_read_lock();
	n = cv_route_candidates(s, svc, port, &addr, ret, max);
	rcu_read_unlock();
	cv_service_put(&svc);
	cv_str_put(&ns);
	cv_str_put(&h);
	return n;
}

static void test_candidates(void **state)
{
	static const char *const daemon_only[] = { "passwp", "waypointed", "weighted", "pass",
						   "ext" };
	struct cv_candidate c[8];
	char host[64];
	unsigned n[5];

	cv_fixture_apply(*state, mesh);
	assert_int_equal(candidates(*state, "web.example", "10.9.0.1", 80, c, 8), 1);
	assert_string_equal(c[0].workload->uid, "plain");
	assert_int_equal(c[0].addr.port, 8080);
	assert_int_equal(candidates(*state, "web.example", "10.9.0.1", 81, c, 8), 0);
	assert_int_equal(candidates(*state, "named.example", "10.9.0.6", 80, c, 8), 1);
	assert_int_equal(candidates(*state, "empty.example", "10.9.0.7", 80, c, 8), 0);
	/* what is on another network is left out, as the daemon leaves it out */
	assert_int_equal(candidates(*state, "far.example", "10.9.0.13", 80, c, 8), 0);
	assert_int_equal(candidates(*state, "mixed.example", "10.9.0.25", 80, c, 8), 1);
	assert_int_equal(c[0].addr.port, 82);
	assert_int_equal(candidates(*state, "only6.example", "10.9.0.5", 80, c, 8), -EOPNOTSUPP);
	assert_int_equal(candidates(*state, "dual.example", "2001:db8:9::3", 80, c, 8), 1);
	for (size_t i = 0; i < CV_ARRAY_SIZE(daemon_only); i++) {
		snprintf(host, sizeof(host), "%s.example", daemon_only[i]);
		assert_int_equal(candidates(*state, host, "10.9.0.1", 80, c, 8), -EOPNOTSUPP);
	}
	cv_fixture_apply(*state, lb_mesh);
	count_choices(*state, "", n);
	c[1].weight = 77;
	assert_int_equal(candidates(*state, "lb.example", "10.9.0.1", 80, c, 1), 3);
	assert_int_equal(c[1].weight, 77); /* not written past max */
	count_choices(*state, "loadBalancer: {mode: Failover, routingPreferences: [Node]}", n);
	assert_int_equal(candidates(*state, "lb.example", "10.9.0.1", 80, c, 8), -EOPNOTSUPP);
}

/* ---- inbound ---- */

struct inbound_row {
	const char *local, *local_ip, *authority;
	int status;
	const char *want; /* destination or error */
	const char *tunnel_target; /* of the PROXY header, NULL = none is sent */
};

static const struct inbound_row inbound_rows[] = {
	{ "hbone", "10.0.0.3", "10.0.0.3:80", 0, "10.0.0.3:80", NULL },
	{ "hbone", "10.0.0.3", "10.0.0.4:80", 400, "ip mismatch: 10.0.0.3 != 10.0.0.4", NULL },
	{ "hbone", "10.0.0.3", "10.0.0.3:15008", 503, "attempted recursive call to ourselves",
	  NULL },
	{ "hbone", "10.0.0.3", "10.0.0.3:15001", 503, "attempted recursive call to ourselves",
	  NULL },
	{ "hbone", "10.0.0.3", "10.0.0.3:15006", 503, "attempted recursive call to ourselves",
	  NULL },
	{ "hbone", "10.0.0.3", "tls.example:80", 0, "10.0.0.3:8443", NULL },
	{ "hbone", "10.0.0.3", "tls.example:81", 503,
	  "requested service tls.example:81 found, but cannot resolve port", NULL },
	{ "hbone", "10.0.0.3", "nobody.example:80", 503,
	  "no service or workload for hostname: nobody.example", NULL },
	{ "plain", "10.0.0.2", "web.example:80", 0, "10.0.0.2:8080", NULL },
	/* The waypoint of what the authority names, by its address or its service. */
	{ "wp", "10.0.0.6", "10.0.0.7:80", 0, "10.0.0.6:80", NULL },
	{ "wp", "10.0.0.6", "10.0.0.8:80", 0, "10.0.0.6:80", NULL },
	{ "wp", "10.0.0.6", "10.9.0.10:80", 0, "10.0.0.6:80", NULL },
	{ "wp", "10.0.0.6", "10.9.0.11:80", 0, "10.0.0.6:80", NULL },
	{ "wp", "10.0.0.6", "10.9.0.1:80", 400, "ip mismatch: 10.0.0.6 != 10.9.0.1", NULL },
	{ "plain", "10.0.0.2", "10.0.0.7:80", 400, "ip mismatch: 10.0.0.2 != 10.0.0.7", NULL },
	/* An application tunnel takes any authority, and its own port. */
	{ "tunnel", "10.0.0.20", "10.0.0.3:80", 0, "10.0.0.20:15088", "10.0.0.3:80" },
	{ "tunnel", "10.0.0.20", "10.0.0.20:15006", 503, "attempted recursive call to ourselves",
	  NULL },
	/* A service by name is its address in the header: ours first, then IPv4. */
	{ "tunnel", "10.0.0.20", "dual.example:80", 0, "10.0.0.20:15088", "10.9.0.3:80" },
	{ "tunnel", "10.0.0.20", "abroad.example:80", 0, "10.0.0.20:15088", "10.9.3.1:80" },
	{ "tunnel", "10.0.0.20", "noip.example:80", 503,
	  "requested service noip.example found, but has no IP addresses", NULL },
	{ "plain", "10.0.0.2", "noip.example:80", 0, "10.0.0.2:81", NULL },
	/* A tunnel without the header, on the port that was asked for. */
	{ "portless", "10.0.0.21", "10.0.0.3:80", 0, "10.0.0.21:80", NULL },
};

static void test_inbound(void **state)
{
	struct cv_inbound_route to;
	char text[CV_SOCKADDR_TEXT];

	cv_fixture_apply(*state, mesh);
	cv_fixture_apply(
		*state,
		"workloads:\n" POD("tunnel", "10.0.0.20",
				   "applicationTunnel: {protocol: PROXY, port: 15088},"
				   " services: {}")
			POD("portless", "10.0.0.21",
			    "applicationTunnel: {protocol: NONE, port: 80},"
			    " services: {}") "services:\n" SVC("noip", "", "ports: {80: 81}")
				SVC("abroad", "far/10.9.3.9, /10.9.3.1", "ports: {80: 81}"));
	for (size_t i = 0; i < CV_ARRAY_SIZE(inbound_rows); i++) {
		const struct inbound_row *row = &inbound_rows[i];
		struct cv_workload *local = workload(*state, row->local);
		struct cv_sockaddr at = { cv_fixture_ip(row->local_ip), 15008 };
		struct cv_authority a = {};
		int status;

		a.is_addr = cv_sockaddr_parse(row->authority, &a.addr) == 0;
		if (!a.is_addr) {
			a.host = cv_str_new_len(row->authority, strcspn(row->authority, ":"));
			a.port = (uint16_t)strtoul(strchr(row->authority, ':') + 1, NULL, 10);
		}
		status = cv_route_inbound(*state, local, &at, &a, &to);
		assert_int_equal(status, row->status);
		assert_string_equal(status ? to.error : cv_sockaddr_text(&to.dst, text), row->want);
		assert_int_equal(!status && to.proxy_header, row->tunnel_target != NULL);
		if (row->tunnel_target)
			assert_string_equal(cv_sockaddr_text(&to.tunnel_target, text),
					    row->tunnel_target);
		cv_str_put(&a.host);
		cv_workload_put(&local);
	}
}

static const char *inbound_service(struct cv_store *s, const char *local, const char *host,
				   uint16_t port)
{
	static char text[64];
	struct cv_workload *w = workload(s, local);
	cv_str forwarded = cv_str_new(host);
	struct cv_service *svc = cv_route_inbound_service(s, w, forwarded, port);

	snprintf(text, sizeof(text), "%s", svc ? svc->name : "none");
	cv_service_put(&svc);
	cv_str_put(&forwarded);
	cv_workload_put(&w);
	return text;
}

static void test_inbound_service(void **state)
{
	cv_fixture_apply(*state, mesh);
	assert_string_equal(inbound_service(*state, "plain", NULL, 8080), "web");
	assert_string_equal(inbound_service(*state, "plain", NULL, 8081), "none");
	assert_string_equal(inbound_service(*state, "plain", "web.example", 8081), "web");
	assert_string_equal(inbound_service(*state, "hbone", NULL, 8443), "tls");
	assert_string_equal(inbound_service(*state, "six", "only6.example", 80), "only6");
	assert_string_equal(inbound_service(*state, "six", "web.example", 80),
			    "dual"); /* not its */
	assert_string_equal(inbound_service(*state, "client", "web.example", 80), "none");
}

static int setup(void **state)
{
	*state = cv_fixture_store("", "n1");
	return 0;
}

static int teardown(void **state)
{
	struct cv_store *s = *state;

	cv_store_free(&s);
	return cv_str_count() != 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vectors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lookup_orders, setup, teardown),
		cmocka_unit_test_setup_teardown(test_from_waypoint, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waypoint_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_weighted_waypoints, setup, teardown),
		cmocka_unit_test_setup_teardown(test_resolved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_choices, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ranked_choices, setup, teardown),
		cmocka_unit_test_setup_teardown(test_weights, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failover, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kernel_choice, setup, teardown),
		cmocka_unit_test_setup_teardown(test_candidates, setup, teardown),
		cmocka_unit_test_setup_teardown(test_inbound, setup, teardown),
		cmocka_unit_test_setup_teardown(test_inbound_service, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
