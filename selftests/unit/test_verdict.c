// SPDX-License-Identifier: Apache-2.0
/*
 * The verdicts that the kernel looks up, against the evaluator that the daemon asks: random
 * policies, ports and address pairs, and the cases in which the kernel must not decide.
 *
 * A verdict is read as the kernel reads it: the port's own entry if policies name the port, else
 * the entry for all others.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maps/reasons.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/mesh/local_file.h"
#include "userspace/mesh/policy.h"
#include "userspace/node/compile.h"

/* The pair: each end has two IPv4 addresses and one IPv6 address. */
struct fixture {
	struct cv_workload *src, *dst;
	struct cv_addr src_addrs[3], dst_addrs[3];
	struct cv_mesh_file file;
	struct cv_policy_set policies;
	struct cv_verdict_in in;
};

static struct cv_workload *make_workload(const char *name, const char *sa)
{
	struct cv_workload *w = cv_workload_new();

	assert_non_null(w);
	w->group->trust_domain = cv_str_new("cluster.local");
	w->group->ns = cv_str_new("shop");
	w->group->name = cv_str_new(name);
	w->group->service_account = cv_str_new(sa);
	return w;
}

static struct cv_addr ip(const char *text)
{
	struct cv_addr addr;

	assert_int_equal(cv_addr_parse(text, &addr), 0);
	return addr;
}

static void fill(struct fixture *f)
{
	static const char *const texts[2][3] = {
		{ "10.0.1.1", "10.0.2.1", "fd00:1::1" },
		{ "10.0.1.2", "10.0.2.2", "fd00:1::2" },
	};

	*f = (struct fixture){ .src = make_workload("web", "web"),
			       .dst = make_workload("db", "db") };
	for (int i = 0; i < 3; i++) {
		f->src_addrs[i] = ip(texts[0][i]);
		f->dst_addrs[i] = ip(texts[1][i]);
	}
	f->in = (struct cv_verdict_in){
		.src = f->src,
		.dst = f->dst,
		.src_addrs = f->src_addrs,
		.dst_addrs = f->dst_addrs,
		.nr_src_addrs = 3,
		.nr_dst_addrs = 3,
		.policies = &f->policies,
	};
}

static void set_policies(struct fixture *f, const char *yaml)
{
	char error[512] = "";

	cv_mesh_file_fini(&f->file);
	if (cv_mesh_file_parse("test", yaml, strlen(yaml), &f->file, error, sizeof(error)) < 0)
		fail_msg("%s\n%s", error, yaml);
	f->policies =
		(struct cv_policy_set){ .policies = f->file.policies, .n = f->file.nr_policies };
}

static int set_up(void **state)
{
	static struct fixture f;

	fill(&f);
	set_policies(&f, "policies: []");
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	cv_mesh_file_fini(&f->file);
	cv_workload_put(&f->src);
	cv_workload_put(&f->dst);
	return cv_str_count() != 0;
}

static struct cv_verdict_entry ask(const struct fixture *f, uint16_t port)
{
	uint16_t named[CV_LIMIT_POLICY_PORTS];
	int n = cv_policy_set_ports(&f->policies, named, CV_LIMIT_POLICY_PORTS);
	struct cv_verdict_entry v;
	uint16_t entry = 0;

	for (int i = 0; i < n; i++)
		entry = named[i] == port ? port : entry;
	cv_compile_verdict(&f->in, entry, &v);
	return v;
}

static void expect(const struct fixture *f, uint16_t port, enum cv_answer answer, enum cv_tier tier,
		   enum cv_reason reason)
{
	struct cv_verdict_entry v = ask(f, port);

	assert_int_equal(v.answer, answer);
	assert_int_equal(v.tier, tier);
	assert_int_equal(v.reason, reason);
}

#define POLICY(action, rules)                                                                 \
	"policies: [{name: p, namespace: shop, scope: Global, dryRun: false, action: " action \
	", rules: " rules "}]"

/* --- single cases --------------------------------------------------------------------------- */

static void test_no_policy_is_direct(void **state)
{
	expect(*state, 80, CV_ANSWER_ALLOW, CV_TIER_DIRECT, CV_REASON_NONE);
}

static void test_deny_names_policy(void **state)
{
	set_policies(*state, POLICY("Deny", "[[[{destinationPorts: [80]}]]]"));
	expect(*state, 80, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
	expect(*state, 81, CV_ANSWER_ALLOW, CV_TIER_DIRECT, CV_REASON_NONE);
}

/* The identity that is asked about is the source record's. */
static void test_identity_is_the_sources(void **state)
{
	set_policies(*state, POLICY("Allow", "[[[{principals: [!Exact "
					     "cluster.local/ns/shop/sa/web]}]]]"));
	expect(*state, 80, CV_ANSWER_ALLOW, CV_TIER_DIRECT, CV_REASON_NONE);
	set_policies(*state, POLICY("Allow", "[[[{principals: [!Exact "
					     "cluster.local/ns/shop/sa/db]}]]]"));
	expect(*state, 80, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
}

/* Never direct to what has a waypoint, whatever policy says. */
static void test_waypoint_is_never_direct(void **state)
{
	struct fixture *f = *state;

	f->dst->group->waypoint = calloc(1, sizeof(*f->dst->group->waypoint));
	expect(f, 80, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_WAYPOINT);
	set_policies(f, POLICY("Deny", "[[]]"));
	expect(f, 80, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_WAYPOINT);
}

/* The stricter end asks for tls; a deny stays a deny. */
static void test_same_node_tls(void **state)
{
	struct fixture *f = *state;

	f->in.same_node = CV_SAME_NODE_TLS;
	expect(f, 80, CV_ANSWER_ALLOW, CV_TIER_TLS, CV_REASON_SAME_NODE_TLS);
	f->in.same_node = CV_SAME_NODE_RELAY; /* not there yet: the next stricter one */
	expect(f, 80, CV_ANSWER_ALLOW, CV_TIER_TLS, CV_REASON_SAME_NODE_TLS);
	set_policies(f, POLICY("Deny", "[[]]"));
	expect(f, 80, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
}

/* The kernel asks by pod: a rule that tells a pod's addresses apart is not its to answer. */
static void test_addresses_that_disagree(void **state)
{
	set_policies(*state, POLICY("Deny", "[[[{sourceIps: [10.0.1.0/24]}]]]"));
	expect(*state, 80, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_NEEDS_DAEMON);
	set_policies(*state, POLICY("Deny", "[[[{destinationIps: ['fd00:1::2/128']}]]]"));
	expect(*state, 80, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_NEEDS_DAEMON);
	set_policies(*state, POLICY("Deny", "[[[{sourceIps: [10.0.0.0/16, 'fd00::/16']}]]]"));
	expect(*state, 80, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
	set_policies(*state, POLICY("Deny", "[[[{sourceIps: [10.9.0.0/16]}]]]"));
	expect(*state, 80, CV_ANSWER_ALLOW, CV_TIER_DIRECT, CV_REASON_NONE);
}

/* Without addresses nothing can be said about a policy that looks at them. */
static void test_no_addresses(void **state)
{
	struct fixture *f = *state;

	f->in.nr_src_addrs = 0;
	set_policies(f, POLICY("Deny", "[[[{sourceIps: [10.9.0.0/16]}]]]"));
	expect(f, 80, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_NEEDS_DAEMON);
}

/* A listed policy that is not there closes the destination. */
static void test_missing_policy_denies(void **state)
{
	struct fixture *f = *state;

	f->policies.missing = true;
	expect(f, 80, CV_ANSWER_DENY, CV_TIER_NONE, CV_REASON_POLICY);
}

static void test_own_ports(void **state)
{
	static const uint16_t ports[] = { CV_PORT_OUTBOUND, CV_PORT_INBOUND, CV_PORT_HBONE };
	struct fixture *f = *state;

	for (size_t i = 0; i < CV_ARRAY_SIZE(ports); i++) {
		struct cv_verdict_entry v;

		cv_compile_verdict(&f->in, ports[i], &v);
		assert_int_equal(v.answer, CV_ANSWER_DAEMON);
	}
}

static void test_too_many_ports(void **state)
{
	char yaml[16384] =
		"policies: [{name: p, namespace: shop, scope: Global, dryRun: false, action: Deny,"
		" rules: [[[{destinationPorts: [1";
	size_t len = strlen(yaml);

	for (int i = 2; i <= CV_LIMIT_POLICY_PORTS + 1; i++)
		len += (size_t)snprintf(yaml + len, sizeof(yaml) - len, ",%d", i);
	snprintf(yaml + len, sizeof(yaml) - len, "]}]]]}]");
	set_policies(*state, yaml);
	expect(*state, 9999, CV_ANSWER_DAEMON, CV_TIER_NONE, CV_REASON_NEEDS_DAEMON);
}

/* --- random policies ------------------------------------------------------------------------ */

enum { ROUNDS = 1500, QUESTIONS = 12 };

static const char *pick(const char *const *from, size_t n)
{
	return from[(size_t)rand() % n];
}

static size_t random_match(char *out, size_t size)
{
	static const char *const attributes[] = {
		"destinationPorts: [1]",
		"destinationPorts: [80, 443]",
		"notDestinationPorts: [1, 80]",
		"notDestinationPorts: [8080]",
		"sourceIps: [10.0.0.0/8]",
		"sourceIps: [10.0.1.0/24]",
		"notSourceIps: [10.0.2.1/32]",
		"destinationIps: ['fd00::/16']",
		"notDestinationIps: [10.0.0.0/16, 'fd00::/16']",
		"namespaces: [!Exact shop]",
		"notNamespaces: [!Prefix sh]",
		"principals: [!Suffix sa/web]",
		"notPrincipals: [!Presence []]",
	};
	const char *first = pick(attributes, CV_ARRAY_SIZE(attributes));
	const char *second = pick(attributes, CV_ARRAY_SIZE(attributes));
	size_t key = strcspn(first, ":");

	/* A key may stand once in a match. */
	if (rand() % 2 || (key == strcspn(second, ":") && !strncmp(first, second, key)))
		return (size_t)snprintf(out, size, "[[[{%s}]]]", first);
	return (size_t)snprintf(out, size, "[[[{%s, %s}]]]", first, second);
}

static void random_policies(struct fixture *f)
{
	char yaml[8192] = "policies:\n";
	size_t len = strlen(yaml);
	int n = 1 + rand() % 4;

	for (int i = 0; i < n; i++) {
		len += (size_t)snprintf(
			yaml + len, sizeof(yaml) - len,
			"- {name: p%d, namespace: shop, scope: Global, dryRun: false, action: %s, "
			"rules: ",
			i, rand() % 2 ? "Allow" : "Deny");
		len += random_match(yaml + len, sizeof(yaml) - len);
		len += (size_t)snprintf(yaml + len, sizeof(yaml) - len, "}\n");
	}
	set_policies(f, yaml);
}

/* What the evaluator says for the pair's addresses: bit 0 = some allowed, bit 1 = some denied. */
static unsigned evaluate_all(const struct fixture *f, uint16_t port)
{
	const struct cv_identity id = { f->src->group->trust_domain, f->src->group->ns,
					f->src->group->service_account };
	unsigned seen = 0;

	for (size_t i = 0; i < 9; i++) {
		struct cv_authz_conn conn = {
			.src = f->src_addrs[i / 3],
			.dst = f->dst_addrs[i % 3],
			.dst_port = port,
			.src_identity = &id,
			.silent = true,
		};
		struct cv_authz_result result;

		if (cv_addr_is_v4(&conn.src) != cv_addr_is_v4(&conn.dst))
			continue;
		cv_policy_evaluate(&f->policies, &conn, &result);
		seen |= result.allow ? 1 : 2;
	}
	return seen;
}

static void test_random_against_evaluator(void **state)
{
	static const uint16_t ports[] = { 1, 2, 80, 81, 443, 8080, 65535 };
	static const enum cv_answer expected[4] = {
		[1] = CV_ANSWER_ALLOW,
		[2] = CV_ANSWER_DENY,
		[3] = CV_ANSWER_DAEMON,
	};
	unsigned answers[CV_ANSWER_DAEMON + 1] = {};
	const char *seed = getenv("CV_SEED");

	srand(seed ? (unsigned)strtoul(seed, NULL, 10) : 1);
	for (int round = 0; round < ROUNDS; round++) {
		random_policies(*state);
		for (int i = 0; i < QUESTIONS; i++) {
			uint16_t port = i < 7 ? ports[i] : (uint16_t)(1 + rand() % 15000);
			struct cv_verdict_entry v = ask(*state, port);

			assert_int_equal(v.answer, expected[evaluate_all(*state, port)]);
			answers[v.answer]++;
		}
	}
	/* The policies were of a kind that asks for every answer. */
	for (enum cv_answer a = CV_ANSWER_ALLOW; a <= CV_ANSWER_DAEMON; a++)
		assert_true(answers[a] > ROUNDS / 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_no_policy_is_direct),
		TEST(test_deny_names_policy),
		TEST(test_identity_is_the_sources),
		TEST(test_waypoint_is_never_direct),
		TEST(test_same_node_tls),
		TEST(test_addresses_that_disagree),
		TEST(test_no_addresses),
		TEST(test_missing_policy_denies),
		TEST(test_own_ports),
		TEST(test_too_many_ports),
		TEST(test_random_against_evaluator),
	};

	return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
