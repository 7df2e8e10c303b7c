// SPDX-License-Identifier: Apache-2.0
/*
 * The compiler's tables as the kernel finds them: verdicts, services and endpoints, and that only
 * differences are written. What a single verdict says is tested in unit/test_verdict.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <string.h>

#include "selftests/lib/nodelab.h"

/* --- the compiler --------------------------------------------------------------------------- */

static struct cv_verdict_entry verdict(const char *src, const char *dst, uint16_t port)
{
	const struct cv_verdict_key key = {
		.src_pod = node_view(src)->number,
		.dst_pod = node_view(dst)->number,
		.port = htons(port),
	};
	struct cv_verdict_entry v;

	if (cv_table_verdict_get(node.bpf, &key, &v) < 0)
		v = (struct cv_verdict_entry){};
	return v;
}

static void test_verdicts_follow_policies(void **state)
{
	uint32_t generation;

	(void)state;
	node_add_both();
	assert_int_equal(verdict("a", "b", 0).answer, CV_ANSWER_ALLOW);
	assert_int_equal(verdict("a", "b", 0).tier, CV_TIER_DIRECT);
	assert_int_equal(verdict("b", "a", 0).answer, CV_ANSWER_ALLOW);
	generation = verdict("a", "b", 0).generation;
	cv_fixture_apply(node.store, NODE_DENY("[[[{destinationPorts: [8080]}]]]"));
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(verdict("a", "b", 8080).answer, CV_ANSWER_DENY);
	assert_int_equal(verdict("a", "b", 0).answer, CV_ANSWER_ALLOW);
	assert_int_equal(verdict("a", "b", 0).generation, generation); /* untouched */
	cv_fixture_remove(node.store, CV_DELTA_POLICY, "shop/p");
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(verdict("a", "b", 8080).answer, CV_ANSWER_NONE);
	cv_fixture_remove(node.store, CV_DELTA_WORKLOAD, "a");
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(node_entries("cv_verdicts"), 0);
}

static void test_stricter_end_wins(void **state)
{
	(void)state;
	node.same_node = CV_SAME_NODE_TLS;
	node_add_both();
	assert_int_equal(verdict("a", "b", 0).tier, CV_TIER_TLS);
	assert_int_equal(verdict("a", "b", 0).reason, CV_REASON_SAME_NODE_TLS);
}

struct found_service {
	unsigned n;
	struct cv_service_key key;
	struct cv_service_entry entry;
};

static int note_service(const struct cv_service_key *key, const struct cv_service_entry *entry,
			void *arg)
{
	struct found_service *found = arg;

	found->n++;
	found->key = *key;
	found->entry = *entry;
	return 0;
}

static int count_local(const struct cv_endpoint_key *key, const struct cv_endpoint_entry *entry,
		       void *arg)
{
	unsigned *local = arg;

	(void)key;
	*local += entry->pod != 0;
	return 0;
}

/* One slot for the local endpoint, three for the remote one of that weight; and only the VIPs
 * that have a local endpoint. A changed set has another id, and the old one's slots are gone. */
static void test_services_become_slots(void **state)
{
	const struct cv_addr vip = cv_fixture_ip("10.96.0.1");
	struct found_service found = {}, later = {};
	unsigned local = 0;

	(void)state;
	node_add_both();
	assert_int_equal(cv_table_service_each(node.bpf, note_service, &found), 0);
	assert_int_equal(found.n, 1);
	assert_memory_equal(&found.key.vip, &vip, sizeof(vip));
	assert_int_equal(found.entry.nr_slots, 4);
	assert_int_equal(node_entries("cv_endpoints"), 4);
	assert_int_equal(cv_table_endpoint_each(node.bpf, count_local, &local), 0);
	assert_int_equal(local, 1);
	assert_int_equal(cv_compile_run(node.compile), 0); /* nothing changed, nothing written */
	assert_int_equal(cv_table_service_each(node.bpf, note_service, &later), 0);
	assert_int_equal(later.entry.id, found.entry.id);
	cv_fixture_remove(node.store, CV_DELTA_WORKLOAD, "far");
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(cv_table_service_each(node.bpf, note_service, &later), 0);
	assert_int_not_equal(later.entry.id, found.entry.id);
	assert_int_equal(node_entries("cv_endpoints"), 1);
	assert_int_equal(node_del("b"), 0);
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(node_entries("cv_services") + node_entries("cv_endpoints"), 0);
}

/* An earlier daemon's entries are taken over, not added to. */
static void test_services_after_a_restart(void **state)
{
	(void)state;
	node_add_both();
	node_stop();
	node_start();
	assert_int_equal(cv_pods_adopt(node.pods), 2);
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(node_entries("cv_services"), 1);
	assert_int_equal(node_entries("cv_endpoints"), 4);
}

/* --- main ----------------------------------------------------------------------------------- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		NODE_TEST(test_verdicts_follow_policies),
		NODE_TEST(test_stricter_end_wins),
		NODE_TEST(test_services_become_slots),
		NODE_TEST(test_services_after_a_restart),
	};

	return cmocka_run_group_tests_name("compile", tests, node_begin, node_end);
}
