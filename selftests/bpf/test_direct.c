// SPDX-License-Identifier: Apache-2.0
/*
 * Connections that need no proxy, and who receives what comes in: attestation, verdicts, service
 * addresses, flow records, steering. Real sockets between real namespaces; see
 * selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"

enum { SERVICE_ID = 7, SERVICE_PORT = 80 };

static struct lab lab;
#define A    (&lab.host[LAB_A])
#define B    (&lab.host[LAB_B])
#define W    (&lab.host[LAB_WIRE])
#define NODE (&lab.host[LAB_NODE])

/* The only flow record there is; takes it out. */
struct found_flow {
	uint64_t cookie;
	struct cv_flow_entry flow;
	int count;
};

static int on_flow(uint64_t cookie, const struct cv_flow_entry *flow, void *arg)
{
	struct found_flow *found = arg;

	found->cookie = cookie;
	found->flow = *flow;
	found->count++;
	return 0;
}

static struct cv_flow_entry take_flow(void)
{
	struct found_flow found = {};

	assert_int_equal(cv_table_flow_each(lab.bpf, on_flow, &found), 0);
	assert_int_equal(found.count, 1);
	assert_int_equal(cv_table_flow_del(lab.bpf, found.cookie), 0);
	return found.flow;
}

static int drop_flow(uint64_t cookie, const struct cv_flow_entry *flow, void *arg)
{
	(void)flow;
	(void)arg;
	return cv_table_flow_del(lab.bpf, cookie);
}

static int tear_down(void **state)
{
	(void)state;
	return cv_table_flow_each(lab.bpf, drop_flow, NULL);
}

static int count_live(uint64_t cookie, const struct cv_flow_entry *flow, void *arg)
{
	(void)cookie;
	*(int *)arg += flow->state != CV_FLOW_CLOSED;
	return 0;
}

/* Closes the initiator first, and waits until the kernel plane has seen both ends go: no record is of a live
 * flow, and the attested entry of this one is no more. */
static void finish(int *client, int *server)
{
	const struct cv_tuple t = lab_tuple(*client);
	struct cv_attested_entry e;
	int live = 1;

	cv_close(client);
	assert_int_equal(lab_read(*server, LAB_WAIT_MS), 0);
	cv_close(server);
	for (int i = 0; i < LAB_WAIT_MS / 2; i++) {
		live = 0;
		assert_int_equal(cv_table_flow_each(lab.bpf, count_live, &live), 0);
		if (!live && cv_table_attested_get(lab.bpf, &t, &e) == -ENOENT)
			return;
		usleep(2000);
	}
	fail_msg("%d flows are live after both ends have been closed", live);
}

/* Allowed by policy: pod to pod, attested while it lives, and on record with its payload's bytes. */
static void test_direct(void **state)
{
	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		int client = lab_connect(A, &B->ip[f], LAB_PORT), app = -1;
		struct cv_attested_entry e;
		struct cv_flow_entry flow;
		struct cv_tuple t;

		assert_true(client >= 0);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_is(lab_peer(app), &A->ip[f], lab_local(client).port));
		t = lab_tuple(client);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.kind, CV_KIND_DIRECT);
		assert_int_equal(e.src_pod, A->pod);
		assert_int_equal(e.dst_pod, B->pod);
		assert_true(lab_says(client, app, "twelve bytes"));
		assert_true(lab_says(app, client, "seven b"));
		finish(&client, &app);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), -ENOENT);
		flow = take_flow();
		assert_memory_equal(&flow.tuple, &t, sizeof(t));
		assert_int_equal(flow.state, CV_FLOW_CLOSED);
		assert_int_equal(flow.kind, CV_KIND_DIRECT);
		assert_int_equal(flow.tier, CV_TIER_DIRECT);
		assert_int_equal(flow.sent_bytes, 12);
		assert_int_equal(flow.received_bytes, 7);
		assert_true(flow.opened_ns && flow.established_ns >= flow.opened_ns);
		assert_true(flow.closed_ns > flow.established_ns);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 0);
	}
}

static void count_event(const struct cv_event *event, void *arg)
{
	int *counts = arg;

	counts[event->type]++;
}

/* The ring buffer says that a flow began and ended. */
static void test_flow_events(void **state)
{
	int client, app = -1, counts[3] = {};

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	cv_events_consume(lab.bpf, count_event, counts);
	memset(counts, 0, sizeof(counts));
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	finish(&client, &app);
	assert_int_equal(cv_events_consume(lab.bpf, count_event, counts), 2);
	assert_int_equal(counts[CV_EVENT_FLOW_ESTABLISHED], 1);
	assert_int_equal(counts[CV_EVENT_FLOW_CLOSED], 1);
}

/* Nobody listens: the application gets the other kernel's RST, and the record says never. */
static void test_direct_refused_by_application(void **state)
{
	struct cv_flow_entry flow;

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		assert_int_equal(lab_connect(A, &B->ip[f], LAB_PORT + 1), -ECONNREFUSED);
		flow = take_flow();
		assert_int_equal(flow.state, CV_FLOW_CLOSED);
		assert_int_equal(flow.established_ns, 0);
	}
}

static void expect_captured_from_a(int f, enum cv_reason reason)
{
	_cleanup_close_ int client = lab_connect(A, &B->ip[f], LAB_PORT), server = -1;
	struct cv_attested_entry e;
	struct cv_tuple t;

	assert_true(client >= 0);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &server), LAB_OUTBOUND);
	t = lab_tuple(client);
	assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
	assert_int_equal(e.kind, CV_KIND_CAPTURED);
	assert_int_equal(e.reason, reason);
	assert_int_equal(e.dst_pod, B->pod);
	assert_true(lab_count(&lab, reason) > 0);
}

/* Whatever is not a clear yes goes to the daemon, with the reason. */
static void test_not_direct(void **state)
{
	const struct cv_workload_entry plain = { .pod = 2 };
	const struct cv_workload_entry waypoint = { .pod = 2, .flags = CV_WL_WAYPOINT };
	const struct cv_verdict_key key = { .src_pod = 1, .dst_pod = 2 };
	const struct cv_verdict_entry tls = { .answer = CV_ANSWER_ALLOW, .tier = CV_TIER_TLS };

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_NONE);
		expect_captured_from_a(f, CV_REASON_NO_VERDICT);
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_DENY);
		expect_captured_from_a(f, CV_REASON_POLICY);
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_DAEMON);
		expect_captured_from_a(f, CV_REASON_NEEDS_DAEMON);
		cv_table_verdict_set(lab.bpf, &key, &tls);
		expect_captured_from_a(f, CV_REASON_SAME_NODE_TLS);
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
		cv_table_workload_set(lab.bpf, &B->ip[f], &waypoint);
		expect_captured_from_a(f, CV_REASON_WAYPOINT);
		cv_table_workload_set(lab.bpf, &B->ip[f], &plain);
	}
}

/* An entry for a port wins over the pair's. */
static void test_verdict_of_a_port(void **state)
{
	struct cv_verdict_key key = { .src_pod = 1, .dst_pod = 2, .port = htons(LAB_PORT) };
	const struct cv_verdict_entry deny = { .answer = CV_ANSWER_DENY };

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	cv_table_verdict_set(lab.bpf, &key, &deny);
	expect_captured_from_a(V4, CV_REASON_POLICY);
	cv_table_verdict_del(lab.bpf, &key);
}

/* An allowed pair reaches the daemon's own ports by way of the daemon. */
static void test_daemon_ports_are_captured(void **state)
{
	_cleanup_close_ int client = -1, server = -1;

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], CV_PORT_HBONE);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &server), LAB_OUTBOUND);
}

/* The verdict goes while the SYN is under way: the SYN that arrives is judged by the new one. */
static void test_verdict_read_again_at_arrival(void **state)
{
	static const char block[] =
		"nft 'table inet lost { chain in { type filter hook prerouting priority 0; "
		"tcp flags & (syn | ack) == syn drop; }; }'";
	_cleanup_close_ int client = lab_socket(A, AF_INET, SOCK_STREAM), server = -1;

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	assert_int_equal(lab_sh(B, block), 0);
	lab_connect_start(client, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_QUIET_MS), -ETIMEDOUT);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_DENY);
	assert_int_equal(lab_sh(B, "nft delete table inet lost"), 0);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &server), LAB_INBOUND);
}

/* A pod that holds its share of cv_attested gets no more: what was to be direct goes to the daemon
 * by TC, unattested; the share comes back with the connections. */
static void test_attested_full(void **state)
{
	_cleanup_close_ int map = -1, client = -1, server = -1;
	struct cv_usage_entry usage, full = { .attested = CV_MAX_ATTESTED_POD };
	struct cv_attested_entry e;
	struct cv_tuple t;
	char path[160];

	(void)state;
	snprintf(path, sizeof(path), "%s/maps/cv_usage", lab.bpffs);
	map = bpf_obj_get(path);
	assert_true(map >= 0);
	assert_int_equal(bpf_map_lookup_elem(map, &A->pod, &usage), 0);
	assert_int_equal(usage.attested, 0);
	assert_int_equal(bpf_map_update_elem(map, &A->pod, &full, BPF_ANY), 0);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	bpf_map_update_elem(map, &A->pod, &usage, BPF_ANY);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &server), LAB_OUTBOUND);
	assert_int_equal(lab_count(&lab, CV_REASON_ATTESTED_FULL), 1);
	assert_true(lab_count(&lab, CV_REASON_REDIRECTED) > 0);
	t = lab_tuple(client);
	assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), -ENOENT);
	assert_true(lab_talks(client, server));
}

static struct cv_addr vip_of(int f)
{
	struct cv_addr vip;

	assert_int_equal(cv_addr_parse(f ? "fd77::1" : "10.77.0.1", &vip), 0);
	return vip;
}

static void add_service(const struct cv_addr *vip, const struct cv_addr *endpoint, uint32_t pod,
			uint32_t flags)
{
	const struct cv_service_key key = { .vip = *vip, .port = htons(SERVICE_PORT) };
	const struct cv_service_entry svc = { .id = SERVICE_ID, .nr_slots = 1, .flags = flags };
	const struct cv_endpoint_key slot = { .service = SERVICE_ID };
	const struct cv_endpoint_entry ep = { .addr = *endpoint,
					      .port = htons(LAB_PORT),
					      .pod = pod };

	assert_int_equal(cv_table_endpoint_set(lab.bpf, &slot, &ep), 0);
	assert_int_equal(cv_table_service_set(lab.bpf, &key, &svc), 0);
}

/* A local endpoint is dialled in place, and the application does not see it. */
static void test_vip_rewrite_getpeername(void **state)
{
	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		const struct cv_addr vip = vip_of(f);
		int client, app = -1;
		struct cv_flow_entry flow;

		add_service(&vip, &B->ip[f], B->pod, 0);
		client = lab_connect(A, &vip, SERVICE_PORT);
		assert_true(client >= 0);
		assert_true(lab_is(lab_peer(client), &vip, SERVICE_PORT));
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_is(lab_local(app), &B->ip[f], LAB_PORT));
		assert_true(lab_talks(client, app));
		finish(&client, &app);
		flow = take_flow();
		assert_true(cv_addr_eq(&flow.vip, &vip));
		assert_int_equal(flow.vip_port, htons(SERVICE_PORT));
	}
}

/* AF_INET6 sockets may dial an IPv4 VIP; getpeername() answers in their family. */
static void test_vip_v4_mapped(void **state)
{
	_cleanup_close_ int client = lab_socket(A, AF_INET6, SOCK_STREAM), app = -1;
	const struct cv_addr vip = vip_of(V4);

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	add_service(&vip, &B->ip[V4], B->pod, 0);
	lab_connect_start(client, &vip, SERVICE_PORT);
	assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
	assert_true(lab_is(lab_peer(client), &vip, SERVICE_PORT));
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	assert_true(lab_talks(client, app));
}

/* The VIP stays, the daemon gets the connection and the choice. */
static void expect_vip_captured(const struct cv_addr *vip, const struct cv_addr *endpoint,
				enum cv_reason reason)
{
	_cleanup_close_ int client = lab_connect(A, vip, SERVICE_PORT), server = -1;
	const struct cv_addr none = {};
	struct cv_attested_entry e;
	struct cv_tuple t;

	assert_true(client >= 0);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &server), LAB_OUTBOUND);
	assert_true(lab_is(lab_local(server), vip, SERVICE_PORT));
	assert_true(lab_talks(client, server));
	t = lab_tuple(client);
	assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
	assert_int_equal(e.reason, reason);
	assert_true(cv_addr_eq(&e.endpoint, endpoint ? endpoint : &none));
	assert_int_equal(e.endpoint_port, endpoint ? htons(LAB_PORT) : 0);
	if (endpoint)
		assert_true(cv_addr_eq(&e.vip, vip) && e.vip_port == htons(SERVICE_PORT));
}

static void test_vip_remote_endpoint_is_noted(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		const struct cv_addr vip = vip_of(f);

		add_service(&vip, &W->ip[f], 0, 0);
		expect_vip_captured(&vip, &W->ip[f], CV_REASON_REMOTE_ENDPOINT);
		/* Local, but not to be reached directly. */
		add_service(&vip, &B->ip[f], B->pod, 0);
		expect_vip_captured(&vip, &B->ip[f], CV_REASON_NO_VERDICT);
		/* Of the other family: the socket cannot dial it. */
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
		add_service(&vip, &B->ip[!f], B->pod, 0);
		expect_vip_captured(&vip, &B->ip[!f], CV_REASON_NEEDS_DAEMON);
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_NONE);
		/* With a waypoint the daemon decides alone. */
		add_service(&vip, &B->ip[f], B->pod, CV_SVC_WAYPOINT);
		expect_vip_captured(&vip, NULL, CV_REASON_NOT_LOCAL);
	}
}

/* A socket that dialled a VIP and is used again tells the truth about its next peer. */
static void test_vip_forgotten_when_reused(void **state)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	_cleanup_close_ int client = -1;
	const struct cv_addr vip = vip_of(V4);

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	add_service(&vip, &B->ip[V4], B->pod, 0);
	client = lab_connect(A, &vip, SERVICE_PORT);
	assert_true(client >= 0);
	assert_int_equal(connect(client, &unspec, sizeof(unspec)), 0);
	lab_connect_start(client, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
	assert_true(lab_is(lab_peer(client), &B->ip[V4], LAB_PORT));
	assert_int_equal(connect(client, &unspec, sizeof(unspec)), 0);
	lab_connect_start(client, &vip, SERVICE_PORT);
	assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
	assert_int_equal(connect(client, &unspec, sizeof(unspec)), 0);
	lab_connect_start(client, &A->ip[V4], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
	assert_true(lab_is(lab_peer(client), &A->ip[V4], LAB_PORT));
}

/* From the wire: plain TCP to the inbound listener, HBONE to its own, whatever the port's owner. */
static void test_inbound(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int plain = lab_connect(W, &B->ip[f], LAB_PORT), got_plain = -1;
		_cleanup_close_ int hbone = -1, got_hbone = -1;

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &got_plain), LAB_INBOUND);
		assert_true(lab_is(lab_local(got_plain), &B->ip[f], LAB_PORT));
		assert_true(lab_talks(plain, got_plain));
		hbone = lab_connect(W, &B->ip[f], CV_PORT_HBONE);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &got_hbone), LAB_HBONE);
		assert_true(lab_talks(hbone, got_hbone));
	}
}

/* A missing listener is a refusal, never the application. */
static void test_inbound_without_listener(void **state)
{
	(void)state;
	lab_unlisten(&lab, LAB_B, CV_LISTENER_INBOUND);
	for (int f = 0; f < FAMILIES; f++)
		assert_int_equal(lab_connect(W, &B->ip[f], LAB_PORT), -ECONNREFUSED);
	assert_int_equal(lab_count(&lab, CV_REASON_NO_LISTENER), 2);
}

/* A process of the node reaches the application; one inside the pods' cgroups does not. */
static void test_probe(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		int probe = lab_connect(NODE, &B->ip[f], LAB_PORT), app = -1;
		struct cv_flow_entry flow;

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(probe, app));
		assert_true(lab_count(&lab, CV_REASON_PROBE) > 0);
		finish(&probe, &app);
		flow = take_flow();
		assert_int_equal(flow.kind, CV_KIND_PROBE);
		assert_int_equal(flow.src_pod, 0);
		assert_int_equal(flow.dst_pod, B->pod);
		lab_control(&lab, CV_CONTROL_FASTPATH, true);
		probe = lab_connect(NODE, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_INBOUND);
		finish(&probe, &app);
		lab_control(&lab, CV_CONTROL_FASTPATH, false);
	}
}

/* A sidecar that listens on loopback is the application's own affair, daemon or not. */
static void test_sidecar_on_127_0_0_1(void **state)
{
	static const char *const loopback[] = { "127.0.0.1", "::1", "0.0.0.0", "::" };

	(void)state;
	lab_unlisten(&lab, LAB_A, CV_LISTENER_OUTBOUND);
	for (size_t i = 0; i < CV_ARRAY_SIZE(loopback); i++) {
		_cleanup_close_ int client = -1, app = -1;
		struct cv_addr ip;

		assert_int_equal(cv_addr_parse(loopback[i], &ip), 0);
		client = lab_connect(A, &ip, LAB_PORT);
		assert_int_equal(lab_accept(A, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(client, app));
	}
}

/* So is the pod's own address. */
static void test_pod_to_own_address(void **state)
{
	(void)state;
	lab_unlisten(&lab, LAB_A, CV_LISTENER_OUTBOUND);
	lab_unlisten(&lab, LAB_A, CV_LISTENER_INBOUND);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_connect(A, &A->ip[f], LAB_PORT), app = -1;

		assert_int_equal(lab_accept(A, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(client, app));
	}
}

/* UDP passes, to a server that answers whoever asks and between connected sockets. */
static void test_udp_server(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		int family = f ? AF_INET6 : AF_INET;
		_cleanup_close_ int server = lab_socket(A, family, SOCK_DGRAM);
		_cleanup_close_ int client = lab_socket(W, family, SOCK_DGRAM);

		assert_int_equal(lab_bind(server, &A->ip[f], LAB_PORT), 0);
		assert_int_equal(lab_bind(client, &W->ip[f], LAB_PORT), 0);
		assert_int_equal(lab_connect_start(client, &A->ip[f], LAB_PORT), 0);
		assert_true(lab_says(client, server, "to a server"));
		assert_int_equal(lab_connect_start(server, &W->ip[f], LAB_PORT), 0);
		assert_true(lab_talks(client, server));
	}
}

/* With SYN cookies the listener is looked up again for the ACK: same answer. */
static void test_syncookies(void **state)
{
	(void)state;
	assert_int_equal(lab_sh(B, "sysctl -qw net.ipv4.tcp_syncookies=2"), 0);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int direct = lab_connect(A, &B->ip[f], LAB_PORT), app = -1;
		_cleanup_close_ int plain = -1, inbound = -1;

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(direct, app));
		plain = lab_connect(W, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &inbound), LAB_INBOUND);
		assert_true(lab_talks(plain, inbound));
	}
	lab_sh(B, "sysctl -qw net.ipv4.tcp_syncookies=1");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, tear_down, &lab)
	const struct CMUnitTest tests[] = {
		TEST(test_direct),
		TEST(test_flow_events),
		TEST(test_direct_refused_by_application),
		TEST(test_not_direct),
		TEST(test_verdict_of_a_port),
		TEST(test_daemon_ports_are_captured),
		TEST(test_verdict_read_again_at_arrival),
		TEST(test_attested_full),
		TEST(test_vip_rewrite_getpeername),
		TEST(test_vip_v4_mapped),
		TEST(test_vip_remote_endpoint_is_noted),
		TEST(test_vip_forgotten_when_reused),
		TEST(test_inbound),
		TEST(test_inbound_without_listener),
		TEST(test_probe),
		TEST(test_sidecar_on_127_0_0_1),
		TEST(test_pod_to_own_address),
		TEST(test_udp_server),
		TEST(test_syncookies),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
