/* SPDX-License-Identifier: Apache-2.0 */
/* What `explain` answers, over a small mesh and a kernel's table made up by the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <urcu.h>

#include <cmocka.h>

#include "maps/reasons.h"
#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/node/explain.h"

static const char mesh[] =
	"workloads:\n"
	"- {uid: client, name: client, namespace: shop, trustDomain: td, serviceAccount: client,"
	" workloadIps: [10.0.0.1], node: n1, protocol: HBONE, services: {}}\n"
	"- {uid: near, name: near, namespace: shop, trustDomain: td, serviceAccount: near,"
	" workloadIps: [10.0.0.2], node: n1, protocol: HBONE, services: {shop/web: {}},"
	" authorizationPolicies: [shop/only-near]}\n"
	"- {uid: far, name: far, namespace: shop, trustDomain: td, serviceAccount: far,"
	" workloadIps: [10.0.1.2], node: n2, protocol: HBONE, capacity: 3, services: {shop/web: {}}}\n"
	"- {uid: plain, name: plain, namespace: shop, workloadIps: [10.0.0.4], services: {}}\n"
	"- {uid: named, name: named, namespace: shop, workloadIps: [], hostname: ext.org,"
	" services: {shop/ext: {}}}\n"
	"- {uid: behind, name: behind, namespace: shop, workloadIps: [10.0.0.5], protocol: HBONE,"
	" services: {}, waypoint: {destination: /10.0.1.2, hboneMtlsPort: 15008}}\n"
	"services:\n"
	"- {name: web, namespace: shop, hostname: web, vips: [/10.9.0.1], ports: {80: 8080}}\n"
	"- {name: ext, namespace: shop, hostname: ext, vips: [/10.9.0.2], ports: {80: 80}}\n"
	"- {name: empty, namespace: shop, hostname: empty, vips: [/10.9.0.3], ports: {80: 80}}\n"
	"policies:\n"
	"- {name: only-near, namespace: shop, scope: WorkloadSelector, action: Allow, dryRun: false,"
	" rules: [[[{serviceAccounts: [{namespace: shop, serviceAccount: client}]}]]]}\n"
	"- {name: no-9000, namespace: shop, scope: Namespace, action: Deny, dryRun: false,"
	" rules: [[[{destinationPorts: [9000]}]]]}\n";

/* What the kernel has: near is a pod of this node; connect() chooses for web's address. */
static struct {
	bool plain_is_pod, resolves;
	enum cv_answer answer;
} kernel;

static bool verdict(const struct cv_addr *dst, uint16_t port, struct cv_verdict_entry *ret,
		    void *arg)
{
	const struct cv_addr near = cv_fixture_ip("10.0.0.2"), plain = cv_fixture_ip("10.0.0.4");

	(void)port;
	(void)arg;
	*ret = (struct cv_verdict_entry){ .answer = kernel.answer, .tier = CV_TIER_DIRECT };
	return cv_addr_eq(dst, &near) || (kernel.plain_is_pod && cv_addr_eq(dst, &plain));
}

static bool resolves(const struct cv_sockaddr *vip, void *arg)
{
	(void)vip;
	(void)arg;
	return kernel.resolves;
}

static json_t *explain(struct cv_store *s, const char *to, bool with_kernel)
{
	cv_str uid = cv_str_new("client");
	struct cv_workload *src = cv_store_workload_by_uid(s, uid);
	struct cv_explain_in in = {
		.store = s,
		.src = src,
		.src_ip = src->ips[0],
		.verdict = with_kernel ? verdict : NULL,
		.resolves = with_kernel ? resolves : NULL,
	};
	json_t *j;

	assert_int_equal(cv_sockaddr_parse(to, &in.dst), 0);
	j = cv_explain(&in);
	cv_workload_put(&src);
	cv_str_put(&uid);
	return j;
}

struct row {
	const char *to, *verdict, *tier, *why;
};

static void check(struct cv_store *s, const struct row *row, bool with_kernel)
{
	json_t *j = explain(s, row->to, with_kernel);
	json_t *path = json_array_get(json_object_get(j, "paths"), 0);
	const char *tier = json_string_value(json_object_get(path, "tier"));

	assert_string_equal(json_string_value(json_object_get(j, "verdict")), row->verdict);
	assert_string_equal(tier ? tier : "-", row->tier);
	assert_string_equal(json_string_value(json_object_get(path, "why")), row->why);
	json_decref(j);
}

static void test_paths(void **state)
{
	static const struct row rows[] = {
		{ "10.0.0.2:80", "allow", "direct", "allowed by: shop/only-near" },
		{ "10.0.0.2:9000", "deny", "direct", "explicitly denied by: shop/no-9000" },
		{ "10.0.1.2:80", "allow", "tls", "no policy denies it" },
		{ "10.0.1.2:9000", "deny", "tls", "explicitly denied by: shop/no-9000" },
		{ "10.0.0.4:9000", "allow", "passthrough",
		  "plain speaks plain TCP: no policy is in force there" },
		{ "10.0.0.5:80", "allow", "tls", "the waypoint far decides" },
		{ "1.2.3.4:80", "allow", "passthrough",
		  "not a destination of the mesh: passed on as it is" },
		{ "10.9.0.3:80", "refuse", "-", "no healthy upstream: 10.9.0.3:80" },
		{ "10.0.0.1:80", "allow", "-", "the pod's own address: culvert does not judge it" },
		{ "127.0.0.1:80", "allow", "-",
		  "the pod's own address: culvert does not judge it" },
		{ "10.9.0.2:80", "allow", "passthrough",
		  "named speaks plain TCP: no policy is in force there" },
	};

	cv_fixture_apply(*state, mesh);
	kernel.answer = CV_ANSWER_ALLOW;
	kernel.plain_is_pod = false;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		check(*state, &rows[i], true);
	/* Without the kernel plane, or when the kernel sends it to the daemon, nothing is direct. */
	check(*state, &(struct row){ "10.0.0.2:80", "allow", "tls", "allowed by: shop/only-near" },
	      false);
	kernel.answer = CV_ANSWER_DAEMON;
	check(*state, &(struct row){ "10.0.0.2:80", "allow", "tls", "allowed by: shop/only-near" },
	      true);
	/* An enrolled pod is judged, plain TCP or not. */
	kernel.plain_is_pod = true;
	check(*state,
	      &(struct row){ "10.0.0.4:9000", "deny", "passthrough",
			     "explicitly denied by: shop/no-9000" },
	      true);
}

static const char *text_of(const json_t *j, const char *path, const char *key)
{
	return json_string_value(json_object_get(path ? json_object_get(j, path) : j, key));
}

/* Each endpoint is a path of its own, with its share. */
static void test_service(void **state)
{
	json_t *j, *paths, *near, *far;

	cv_fixture_apply(*state, mesh);
	kernel.answer = CV_ANSWER_ALLOW;
	kernel.resolves = true;
	j = explain(*state, "10.9.0.1:80", true);
	paths = json_object_get(j, "paths");
	assert_string_equal(text_of(j, NULL, "service"), "shop/web");
	assert_int_equal(json_array_size(paths), 2);
	far = json_array_get(paths, 0);
	near = json_array_get(paths, 1);
	assert_string_equal(text_of(far, "destination", "name"), "far");
	assert_string_equal(text_of(far, NULL, "tier"), "tls");
	assert_string_equal(text_of(far, NULL, "nextHop"), "10.0.1.2:15008");
	assert_int_equal(json_integer_value(json_object_get(far, "weight")), 3);
	assert_string_equal(text_of(near, NULL, "tier"), "direct");
	assert_string_equal(text_of(near, NULL, "address"), "10.0.0.2:8080");
	assert_string_equal(text_of(near, NULL, "nextHop"), "10.0.0.2:8080");
	assert_string_equal(text_of(near, NULL, "policy"), "shop/only-near");
	assert_string_equal(text_of(near, "kernel", "answer"), "allow");
	json_decref(j);
	/* Where the daemon chooses the endpoint, none is direct. */
	kernel.resolves = false;
	j = explain(*state, "10.9.0.1:80", true);
	near = json_array_get(json_object_get(j, "paths"), 1);
	assert_string_equal(text_of(near, NULL, "tier"), "tls");
	json_decref(j);
	/* Endpoints of which only one is allowed. */
	cv_fixture_apply(*state,
			 "policies: [{name: only-near, namespace: shop, scope: WorkloadSelector,"
			 " action: Allow, dryRun: false, rules: [[[{destinationPorts: [1]}]]]}]");
	j = explain(*state, "10.9.0.1:80", true);
	assert_string_equal(text_of(j, NULL, "verdict"), "mixed");
	json_decref(j);
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
		cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_service, setup, teardown),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
