// SPDX-License-Identifier: Apache-2.0
/*
 * Direct flows: what telemetry hears of them, what a policy change does to them, and the sweep.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "selftests/lib/nodelab.h"

enum { APP_PORT = 8080 };

/* --- flows ---------------------------------------------------------------------------------- */

/* Nothing waits for ever; accepted sockets inherit the limits of their listener. */
static int make_socket(const char *name, bool listen_too)
{
	const struct timeval limit = { .tv_sec = NODE_WAIT_MS / 1000 };
	const struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(APP_PORT) };
	int fd;

	assert_int_equal(cv_netns_enter(node_view(name)->netns), 0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(cv_netns_enter(NULL), 0);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
	if (listen_too) {
		assert_int_equal(bind(fd, (const struct sockaddr *)&any, sizeof(any)), 0);
		assert_int_equal(listen(fd, 8), 0);
	}
	return fd;
}

static int dial(const char *ip, uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = make_socket("a", false);

	assert_int_equal(inet_pton(AF_INET, ip, &to.sin_addr), 1);
	if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
		cv_close(&fd);
	return fd;
}

static const char *text_of(const json_t *flow, const char *key)
{
	const char *text = json_string_value(json_object_get(flow, key));

	return text ? text : "";
}

/* The flow record of one direction. */
static json_t *find_flow(json_t *flows, const char *direction)
{
	json_t *flow;
	size_t i;

	json_array_foreach(flows, i, flow) {
		if (!strcmp(text_of(flow, "direction"), direction))
			return flow;
	}
	return NULL;
}

static void expect_flow(const char *direction, const char *state, const char *result,
			json_int_t bytes)
{
	json_t *flows, *flow;

	cv_flows_sync(node.flows);
	flows = cv_flows_json(node.telemetry);
	flow = find_flow(flows, direction);
	assert_non_null(flow);
	assert_string_equal(text_of(flow, "tier"), "direct");
	assert_string_equal(text_of(flow, "state"), state);
	if (result)
		assert_string_equal(text_of(flow, "result"), result);
	assert_string_equal(text_of(flow, "sourceIdentity"),
			    "spiffe://cluster.local/ns/shop/sa/web");
	assert_int_equal(json_integer_value(json_object_get(flow, "sent")), bytes);
	json_decref(flows);
}

static void wait_for_no_records(void)
{
	for (int i = 0; i < NODE_WAIT_MS / 10 && node_entries("cv_flows"); i++) {
		node_turn();
		usleep(10000);
	}
	assert_int_equal(node_entries("cv_flows"), 0);
}

/* Told by both reporters while it lives, with bytes, and when it ends; then the record goes. */
static void test_flow_is_told(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;

	(void)state;
	node_add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	assert_int_equal(send(client, "0123456789", 10, 0), 10);
	expect_flow("outbound", "open", NULL, 10);
	expect_flow("inbound", "open", NULL, 10);
	cv_close(&client);
	cv_close(&server);
	wait_for_no_records();
	expect_flow("outbound", "closed", "-", 10);
	expect_flow("inbound", "closed", "-", 10);
}

/* The VIP is resolved at connect(), and told as what was dialled. */
static void test_flow_by_vip(void **state)
{
	_cleanup_close_ int listener = -1, client = -1;
	json_t *flows, *flow;

	(void)state;
	cv_fixture_remove(node.store, CV_DELTA_WORKLOAD, "far");
	node_add_both();
	listener = make_socket("b", true);
	client = dial("10.96.0.1", 80);
	assert_true(client >= 0);
	cv_flows_sync(node.flows);
	flows = cv_flows_json(node.telemetry);
	flow = find_flow(flows, "outbound");
	assert_non_null(flow);
	assert_string_equal(text_of(flow, "originalDst"), "10.96.0.1:80");
	assert_string_equal(text_of(flow, "dst"), "10.7.0.2:8080");
	json_decref(flows);
}

/* A policy that forbids it closes the connection at both ends, and that is how it is told. */
static void test_policy_change_closes_flow(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	node_add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	cv_fixture_apply(node.store, NODE_DENY("[[[{destinationPorts: [9]}]]]"));
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(send(client, "x", 1, 0), 1); /* another port: it lives on */
	assert_int_equal(recv(server, &byte, 1, 0), 1);
	cv_fixture_apply(node.store, NODE_DENY("[[[{destinationPorts: [8080]}]]]"));
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_true(recv(client, &byte, 1, 0) < 0);
	assert_int_equal(errno, ECONNABORTED);
	assert_true(recv(server, &byte, 1, 0) < 0);
	assert_int_equal(errno, ECONNRESET);
	wait_for_no_records();
	expect_flow("outbound", "closed", "DENY", 1);
}

/* A daemon that comes back knows the flow, and counts only the bytes since. */
static void test_flow_outlives_the_daemon(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	node_add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	assert_int_equal(send(client, "0123456789", 10, 0), 10);
	cv_flows_sync(node.flows);
	node_stop();
	node_start();
	assert_int_equal(cv_pods_adopt(node.pods), 2);
	assert_int_equal(cv_compile_run(node.compile), 0);
	assert_int_equal(send(client, "x", 1, 0), 1);
	for (int i = 0; i < 11; i++)
		assert_int_equal(recv(server, &byte, 1, 0), 1);
	expect_flow("outbound", "open", NULL, 1);
}

/* Connections that are older than the enrolment go on, and are nobody's flow. */
static void test_older_connection(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	node_add_both();
	assert_int_equal(node_del("a"), 0);
	listener = make_socket("b", true);
	assert_int_equal(node_del("b"), 0);
	assert_int_equal(node_add("a", "a", NULL), 0);
	client = make_socket("a", false);
	assert_int_equal(node_del("a"), 0);
	assert_int_equal(connect(client,
				 (const struct sockaddr *)&(struct sockaddr_in){
					 .sin_family = AF_INET,
					 .sin_port = htons(APP_PORT),
					 .sin_addr.s_addr = htonl(0x0a070002) },
				 sizeof(struct sockaddr_in)),
			 0);
	server = accept(listener, NULL, NULL);
	node_add_both();
	assert_int_equal(send(client, "x", 1, 0), 1);
	assert_int_equal(recv(server, &byte, 1, 0), 1);
	assert_int_equal(send(server, "y", 1, 0), 1);
	assert_int_equal(recv(client, &byte, 1, 0), 1);
	assert_int_equal(node_entries("cv_flows"), 0);
}

/* Entries that belong to no socket go after two sweeps; those of a live one stay. */
static void test_sweep(void **state)
{
	_cleanup_close_ int listener = -1, client = -1;

	(void)state;
	node_add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	for (int i = 0; i < 5; i++)
		cv_flows_sync(node.flows);
	assert_int_equal(node_entries("cv_attested"), 1);
	/* The initiator is no pod any more: nobody sees its socket. */
	assert_int_equal(node_del("a"), 0);
	for (int i = 0; i < 3; i++)
		cv_flows_sync(node.flows);
	assert_int_equal(node_entries("cv_attested"), 0);
	assert_int_equal(node_entries("cv_flows"), 0);
}

/* --- main ----------------------------------------------------------------------------------- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		NODE_TEST(test_flow_is_told),
		NODE_TEST(test_flow_by_vip),
		NODE_TEST(test_policy_change_closes_flow),
		NODE_TEST(test_flow_outlives_the_daemon),
		NODE_TEST(test_older_connection),
		NODE_TEST(test_sweep),
	};

	return cmocka_run_group_tests_name("flows", tests, node_begin, node_end);
}
