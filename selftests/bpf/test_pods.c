// SPDX-License-Identifier: Apache-2.0
/*
 * Enrolment of pods, what is refused, and adoption after a restart, on a real kernel.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "selftests/lib/nodelab.h"

static bool owns(const char *name, const char *ip)
{
	const struct cv_addr addr = cv_fixture_ip(ip);
	struct cv_workload_entry entry;

	return cv_table_workload_get(node.bpf, &addr, &entry) == 0 &&
	       entry.pod == node_view(name)->number;
}

static bool is_capturing(uint64_t cookie)
{
	struct cv_pod pod;

	return cv_table_pod_get(node.bpf, cookie, &pod) == 0 && (pod.flags & CV_POD_CAPTURE);
}

/* --- enrolment ------------------------------------------------------------------------------ */

static void test_add_and_del(void **state)
{
	uint64_t cookie;

	(void)state;
	assert_int_equal(node_add("a", "a", NULL), 0);
	cookie = node_view("a")->netns->cookie;
	assert_true(is_capturing(cookie));
	assert_true(owns("a", "10.7.0.1"));
	assert_int_equal(cv_pods_count(node.pods), 1);
	assert_int_equal(node.changes, 1);
	assert_int_equal(node_add("a", "a", NULL), 0); /* idempotent */
	assert_int_equal(cv_pods_count(node.pods), 1);
	assert_int_equal(node_del("a"), 0);
	assert_int_equal(node_del("a"), -ENOENT);
	assert_int_equal(cv_pods_count(node.pods), 0);
	assert_int_equal(node_entries("cv_pods") + node_entries("cv_workloads"), 0);
	assert_int_equal(node_sh("test -z \"$(ls -A %s/pods)\"", node.bpffs), 0);
	assert_int_equal(node_sh("ip -n cv-$0-a rule | grep -q 15001"), 1);
}

static void expect_refused(int r, const char *text)
{
	assert_true(r < 0);
	if (!strstr(node.error, text))
		fail_msg("`%s` does not say `%s`", node.error, text);
}

static void test_refusals(void **state)
{
	struct cv_pod_spec spec = { .ns = "shop", .name = "x", .netns_path = "/dev/null" };

	(void)state;
	spec.netns_fd = open("/dev/null", O_RDONLY);
	expect_refused(cv_pods_add(node.pods, &spec, node.error, sizeof(node.error)),
		       "is no network namespace");
	spec.netns_fd = open("/proc/self/ns/net", O_RDONLY);
	expect_refused(cv_pods_add(node.pods, &spec, node.error, sizeof(node.error)),
		       "culvertd itself");
	expect_refused(node_add("a", "a", "db"),
		       "contradicts the workload's record, which says web");
	assert_int_equal(node_add("a", "a", "web"), 0);
	expect_refused(node_add("x", "a", NULL), "is enrolled as shop/a");
	expect_refused(node_add("a", "b", NULL), "another network namespace");
	expect_refused(node_add("a", "a", "other"), "service account web, not other");
	assert_int_equal(cv_pods_count(node.pods), 1);
}

/* What fails half way is undone. */
static void test_failed_add_leaves_nothing(void **state)
{
	(void)state;
	node.start_result = -EADDRINUSE;
	expect_refused(node_add("a", "a", NULL), "could not be enrolled");
	assert_int_equal(cv_pods_count(node.pods), 0);
	assert_int_equal(node_entries("cv_pods") + node_entries("cv_workloads"), 0);
	assert_int_equal(node_sh("test -z \"$(ls -A %s/pods)\"", node.bpffs), 0);
	assert_int_equal(node_sh("ip -n cv-$0-a rule | grep -q 15001"), 1);
	node.start_result = 0;
	assert_int_equal(node_add("a", "a", NULL), 0);
}

static void test_numbers_are_not_used_again_at_once(void **state)
{
	uint32_t first;

	(void)state;
	assert_int_equal(node_add("a", "a", NULL), 0);
	first = node_view("a")->number;
	assert_int_equal(node_del("a"), 0);
	assert_int_equal(node_add("a", "a", NULL), 0);
	assert_int_not_equal(node_view("a")->number, first);
}

static void wait_for_changes(unsigned more_than)
{
	for (int i = 0; i < NODE_WAIT_MS / 10 && node.changes <= more_than; i++) {
		node_turn();
		usleep(10000);
	}
	node_turn();
}

/* Devices and addresses that come later are hooked and known; those that go are forgotten. */
static void test_later_devices(void **state)
{
	char pin[NODE_PATH];
	unsigned before;

	(void)state;
	assert_int_equal(node_add("a", "a", NULL), 0);
	before = node.changes;
	assert_int_equal(node_sh("ip -n cv-$0-a link add late0 type veth peer name late1 && "
				 "ip -n cv-$0-a addr add 10.8.0.1/24 dev late0"),
			 0);
	wait_for_changes(before);
	assert_true(owns("a", "10.8.0.1"));
	snprintf(pin, sizeof(pin), "%s/pods/%u", node.bpffs, node_view("a")->number);
	assert_int_equal(node_sh("test $(ls %s | grep -c gress-) = 6", pin), 0);
	before = node.changes;
	assert_int_equal(node_sh("ip -n cv-$0-a addr del 10.8.0.1/24 dev late0"), 0);
	wait_for_changes(before);
	assert_false(owns("a", "10.8.0.1"));
	assert_true(owns("a", "10.7.0.1"));
}

/* --- adoption ------------------------------------------------------------------------------- */

static void test_restart_adopts(void **state)
{
	uint32_t number;
	uint64_t cookie;

	(void)state;
	assert_int_equal(node_add("a", "a", "web"), 0);
	number = node_view("a")->number;
	cookie = node_view("a")->netns->cookie;
	node_stop();
	node_start();
	assert_true(is_capturing(cookie));
	assert_int_equal(cv_pods_count(node.pods), 0);
	assert_int_equal(cv_pods_adopt(node.pods), 1);
	assert_int_equal(node_view("a")->number, number);
	assert_string_equal(node_view("a")->service_account, "web");
	assert_true(is_capturing(cookie));
	/* The runtime may well add it once more. */
	assert_int_equal(node_add("a", "a", "web"), 0);
}

static void test_restart_without_the_state_file(void **state)
{
	uint32_t number;

	(void)state;
	assert_int_equal(node_add("a", "a", NULL), 0);
	number = node_view("a")->number;
	node_stop();
	assert_int_equal(node_sh("rm %s/pods.json", node.run_dir), 0);
	node_start();
	assert_int_equal(cv_pods_adopt(node.pods), 1);
	assert_int_equal(node_view("a")->number, number);
}

static void test_restart_forgets_the_dead(void **state)
{
	(void)state;
	node_add_both();
	assert_true(node_entries("cv_verdicts") > 0);
	node_stop();
	assert_int_equal(node_sh("ip netns del cv-$0-a"), 0);
	node_start();
	assert_int_equal(cv_pods_adopt(node.pods), 1);
	assert_null(node_view("a"));
	assert_non_null(node_view("b"));
	assert_int_equal(node_entries("cv_pods"), 1);
	assert_int_equal(node_entries("cv_verdicts"), 0);
}

/* A name that is another namespace now is another pod. */
static void test_restart_notices_another_namespace(void **state)
{
	(void)state;
	assert_int_equal(node_add("a", "a", NULL), 0);
	node_stop();
	assert_int_equal(node_sh("ip netns del cv-$0-a && ip netns add cv-$0-a"), 0);
	node_start();
	assert_int_equal(cv_pods_adopt(node.pods), 0);
	assert_int_equal(node_entries("cv_pods"), 0);
}

/* --- main ----------------------------------------------------------------------------------- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		NODE_TEST(test_add_and_del),
		NODE_TEST(test_refusals),
		NODE_TEST(test_failed_add_leaves_nothing),
		NODE_TEST(test_numbers_are_not_used_again_at_once),
		NODE_TEST(test_later_devices),
		NODE_TEST(test_restart_adopts),
		NODE_TEST(test_restart_without_the_state_file),
		NODE_TEST(test_restart_forgets_the_dead),
		NODE_TEST(test_restart_notices_another_namespace),
	};

	return cmocka_run_group_tests_name("pods", tests, node_begin, node_end);
}
