// SPDX-License-Identifier: Apache-2.0
/*
 * What a pod, a peer or a neighbour on the hooks can try. Each test is one way around capture,
 * attestation or steering that works when the rule it is named after is missing. Real sockets
 * between real namespaces; see selftests/lib/podlab.h for the topology.
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
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "foreign.skel.h"
#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

/* Values of enum bpf_attach_type that Debian 12's headers lack. */
#define TCX_INGRESS ((enum bpf_attach_type)46)
#define TCX_EGRESS  ((enum bpf_attach_type)47)

static struct lab lab;
#define A (&lab.host[LAB_A])
#define B (&lab.host[LAB_B])
#define C (&lab.host[LAB_C])
#define W (&lab.host[LAB_WIRE])

/* A source route needs no privilege. It hides TCP behind another header, and would carry the
 * connection's packets to another machine than policy has admitted. */
static void test_ipv6_rthdr(void **state)
{
	_cleanup_close_ int tap = lab_tap(W), client = lab_socket(A, AF_INET6, SOCK_STREAM);
	uint8_t rthdr[40];

	(void)state;
	lab_source_route(rthdr, &W->ip[V6]);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	assert_int_equal(setsockopt(client, IPPROTO_IPV6, IPV6_RTHDR, rthdr, sizeof(rthdr)), 0);
	lab_connect_start(client, &B->ip[V6], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_QUIET_MS), -ETIMEDOUT);
	assert_true(lab_count(&lab, CV_REASON_SOURCE_ROUTED) > 0);
	assert_int_equal(lab_tap_count(tap, &A->ip[V6]), 0);
}

/* The same, on a captured connection: it is captured for all that. */
static void test_ipv6_rthdr_captured(void **state)
{
	_cleanup_close_ int tap = lab_tap(W), client = lab_socket(A, AF_INET6, SOCK_STREAM);
	uint8_t rthdr[40];

	(void)state;
	lab_control(&lab, 0, false);
	lab_source_route(rthdr, &W->ip[V6]);
	assert_int_equal(setsockopt(client, IPPROTO_IPV6, IPV6_RTHDR, rthdr, sizeof(rthdr)), 0);
	lab_connect_start(client, &W->ip[V6], LAB_PORT);
	lab_connect_end(client, LAB_QUIET_MS);
	assert_true(lab_count(&lab, CV_REASON_REDIRECTED) > 0);
	assert_int_equal(lab_tap_count(tap, &A->ip[V6]), 0);
}

/* IPv4's loose source route, on an established direct connection. */
static void test_ip_options_source_route(void **state)
{
	_cleanup_close_ int tap = lab_tap(W), client = -1, app = -1;
	uint8_t lsrr[8] = { 1, 131, 7, 4 };
	int tos = 0x10;

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	assert_true(lab_talks(client, app));
	memcpy(lsrr + 4, W->ip[V4].b + 12, 4);
	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_OPTIONS, lsrr, sizeof(lsrr)), 0);
	/* Makes the socket look for its route again. */
	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)), 0);
	assert_int_equal(write(client, "secret", 6), 6);
	assert_true(lab_counts(&lab, CV_REASON_SOURCE_ROUTED));
	assert_int_equal(lab_tap_count(tap, &A->ip[V4]), 0);
}

/* Harmless options leave a direct connection direct. */
static void test_ip_options_harmless(void **state)
{
	_cleanup_close_ int client = -1, app = -1;
	uint8_t padding[4] = { 1, 1, 1, 0 };

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_OPTIONS, padding, sizeof(padding)), 0);
	assert_true(lab_talks(client, app));
}

/* A packet socket that bypasses the queueing layer bypasses TC; elsewhere it is nobody's matter. */
static void test_qdisc_bypass(void **state)
{
	_cleanup_close_ int inside = lab_socket(A, AF_PACKET, SOCK_RAW);
	_cleanup_close_ int outside = lab_socket(W, AF_PACKET, SOCK_RAW);
	int on = 1;

	(void)state;
	assert_int_equal(setsockopt(inside, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(lab_count(&lab, CV_REASON_QDISC_BYPASS), 1);
	assert_int_equal(setsockopt(outside, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)), 0);
}

static void test_af_xdp(void **state)
{
	_cleanup_close_ int inside = lab_socket(A, AF_XDP, SOCK_RAW);
	_cleanup_close_ int outside = lab_socket(W, AF_XDP, SOCK_RAW);
	int entries = 64;

	(void)state;
	if (inside < 0)
		skip();
	assert_int_equal(setsockopt(inside, SOL_XDP, XDP_TX_RING, &entries, sizeof(entries)), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(setsockopt(inside, SOL_XDP, XDP_RX_RING, &entries, sizeof(entries)), -1);
	assert_int_equal(lab_count(&lab, CV_REASON_AF_XDP), 2);
	assert_int_equal(setsockopt(outside, SOL_XDP, XDP_TX_RING, &entries, sizeof(entries)), 0);
}

/* A setsockopt() of more than a page, which the hook cannot copy, still works. */
static void test_large_sockopt(void **state)
{
	_cleanup_close_ int fd = lab_socket(A, AF_INET, SOCK_STREAM);
	_cleanup_free_ char *big = calloc(1, 1 << 16);
	int keepalive;
	socklen_t len = sizeof(keepalive);

	(void)state;
	*(int *)big = 1;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, big, 1 << 16), 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive, &len), 0);
	assert_int_equal(keepalive, 1);
}

/* A packet socket with somebody else's address: dropped, whatever the segment. */
static void test_forged_source(void **state)
{
	_cleanup_close_ int tap = lab_tap(W);

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lab_make_tuple(&C->ip[f], 4000, &W->ip[f], LAB_PORT);

		lab_send_segment(&lab, A, &t, TCP_SYN_FLAG, 0);
		lab_send_segment(&lab, A, &t, TCP_PSH_ACK_FLAGS, 10);
		lab_send_segment(&lab, A, &t, TCP_ACK_FLAG, 0);
		assert_int_equal(lab_count(&lab, CV_REASON_FORGED_SOURCE), 3);
		assert_int_equal(lab_tap_count(tap, &C->ip[f]), 0);
		lab_mark(&lab);
	}
}

/* The pod's own address in a packet socket's SYN: captured. Payload without a socket: dropped. */
static void test_packet_socket(void **state)
{
	_cleanup_close_ int tap = lab_tap(W);

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lab_make_tuple(&A->ip[f], 4001, &W->ip[f], LAB_PORT);

		lab_send_segment(&lab, A, &t, TCP_SYN_FLAG, 0);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 1);
		t.sport = htons(4002);
		lab_send_segment(&lab, A, &t, TCP_PSH_ACK_FLAGS, 10);
		assert_int_equal(lab_count(&lab, CV_REASON_NO_SOCKET), 1);
		assert_int_equal(lab_tap_count(tap, &A->ip[f]), 0);
		lab_mark(&lab);
	}
}

/* The frame counts, not what the packet socket says of it; and a priority tag, which the next
 * hop takes off, hides nothing. */
static void test_packet_socket_lies(void **state)
{
	static const uint8_t priority_tag[4] = { 0x81, 0x00, 0x00, 0x00 };
	uint8_t packet[4 + LAB_SEGMENT_MAX];
	_cleanup_close_ int tap = lab_tap(W);

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lab_make_tuple(&A->ip[f], 4003, &W->ip[f], LAB_PORT);
		size_t len = lab_segment(packet, &t, TCP_SYN_FLAG, 1, 0);

		assert_int_equal(lab_send_packet(&lab, A, ETH_P_ARP, packet, len), 0);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 1);
		memcpy(packet, priority_tag, sizeof(priority_tag));
		len = lab_segment(packet + 4, &t, TCP_SYN_FLAG, 1, 0);
		assert_int_equal(lab_send_packet(&lab, A, ETH_P_8021Q, packet, len + 4), 0);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 2);
		assert_int_equal(lab_tap_count(tap, &A->ip[f]), 0);
		lab_mark(&lab);
	}
}

/* Another pod binds to an address whose owner is allowed, on a tuple that is attested: nothing
 * gets through, the entry is gone, and the owner's connection does not notice. */
static void test_ipv6_freebind(void **state)
{
	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int owner = lab_connect(A, &B->ip[f], LAB_PORT), app = -1;
		_cleanup_close_ int thief = -1, got = -1;
		struct cv_tuple t = lab_tuple(owner);
		struct cv_attested_entry e;

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		lab_mark(&lab);
		thief = lab_foreign_socket(C, &A->ip[f], ntohs(t.sport));
		lab_connect_start(thief, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(thief, LAB_QUIET_MS), -ETIMEDOUT);
		assert_int_equal(lab_accept(B, 0, &got), LAB_NOBODY);
		assert_true(lab_count(&lab, CV_REASON_FORGED_SOURCE) > 0);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 1);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), -ENOENT);
		assert_true(lab_talks(owner, app));
	}
}

/* Runs a check on captured connections of both families and both paths. */
static void on_both_paths(void (*check)(int *client, int *daemon))
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };

	for (int f = 0; f < FAMILIES; f++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			_cleanup_close_ int client = -1, daemon = -1, tap = lab_tap(W);

			lab_control(&lab, flags[i], false);
			client = lab_connect(A, &W->ip[f], LAB_PORT);
			assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
			assert_true(lab_talks(client, daemon));
			check(&client, &daemon);
			assert_int_equal(lab_tap_count(tap, &A->ip[f]), 0);
		}
	}
}

static bool reaches_state(int fd, int state)
{
	for (int i = 0; i < LAB_WAIT_MS / 10; i++) {
		if (lab_tcp_state(fd) == state)
			return true;
		usleep(10000);
	}
	return false;
}

/* The socket's own RST. */
static void check_abort(int *client, int *daemon)
{
	cv_sock_abort(client);
	assert_int_equal(lab_read(*daemon, LAB_WAIT_MS), -ECONNRESET);
}

/* Closes the client in FIN_WAIT2, where the kernel keeps a TIME_WAIT bucket and no socket. */
static void become_time_wait(int *client, int *daemon)
{
	assert_int_equal(shutdown(*client, SHUT_WR), 0);
	assert_int_equal(lab_read(*daemon, LAB_WAIT_MS), 0);
	assert_true(reaches_state(*client, TCP_FIN_WAIT2));
	cv_close(client);
}

/* The RST of a socket that is no more, which has neither storage nor mark. */
static void check_reset_without_socket(int *client, int *daemon)
{
	become_time_wait(client, daemon);
	assert_int_equal(send(*daemon, "late", 4, MSG_NOSIGNAL), 4);
	assert_true(reaches_state(*daemon, TCP_CLOSE));
}

static void test_rst_of_captured_flow(void **state)
{
	(void)state;
	on_both_paths(check_abort);
	on_both_paths(check_reset_without_socket);
	assert_true(lab_count(&lab, CV_REASON_LEG_ANSWER) > 0);
}

/* The last ACK comes from a TIME_WAIT bucket. */
static void check_last_ack(int *client, int *daemon)
{
	become_time_wait(client, daemon);
	assert_int_equal(shutdown(*daemon, SHUT_WR), 0);
	assert_true(reaches_state(*daemon, TCP_CLOSE));
}

static void test_time_wait_ack(void **state)
{
	(void)state;
	on_both_paths(check_last_ack);
	assert_true(lab_count(&lab, CV_REASON_LEG_ANSWER) > 0);
}

/* Puts somebody else's TC program on A's device; false where there is no TCX. */
static bool attach_foreign_tc(struct foreign_bpf *skel, int *ret_egress, int *ret_ingress)
{
	int prog = bpf_program__fd(skel->progs.foreign_tc);
	int ifindex;

	assert_int_equal(cv_netns_enter(&A->ns), 0);
	ifindex = (int)if_nametoindex("eth0");
	*ret_egress = bpf_link_create(prog, ifindex, TCX_EGRESS, NULL);
	*ret_ingress = bpf_link_create(prog, ifindex, TCX_INGRESS, NULL);
	assert_int_equal(cv_netns_enter(NULL), 0);
	return *ret_egress >= 0 && *ret_ingress >= 0;
}

/* TC programs behind ours see what we pass. */
static void test_neighbour_tcx_program(void **state)
{
	_cleanup_close_ int egress = -1, ingress = -1, client = -1, app = -1;
	struct foreign_bpf *skel = foreign_bpf__open_and_load();
	struct cv_bpf_features features;
	uint64_t before;

	(void)state;
	cv_bpf_features(lab.bpf, &features);
	if (!features.tcx) {
		foreign_bpf__destroy(skel);
		skip();
	}
	assert_true(attach_foreign_tc(skel, &egress, &ingress));
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	before = skel->bss->packets;
	assert_true(before >= 3); /* SYN, SYN+ACK, ACK */
	assert_true(lab_talks(client, app));
	assert_true(skel->bss->packets >= before + 2);
	foreign_bpf__destroy(skel);
}

/* One that was there first and ends the chain does not take our place. */
static void test_neighbour_tcx_program_first(void **state)
{
	_cleanup_close_ int egress = -1, ingress = -1, client = -1, daemon = -1;
	struct foreign_bpf *skel = foreign_bpf__open_and_load();
	struct cv_bpf_features features;

	(void)state;
	cv_bpf_features(lab.bpf, &features);
	if (!features.tcx) {
		foreign_bpf__destroy(skel);
		skip();
	}
	skel->bss->end_chain = true;
	assert_int_equal(cv_bpf_pod_detach(lab.bpf, A->pod), 0);
	assert_true(attach_foreign_tc(skel, &egress, &ingress));
	lab_enrol(&lab, LAB_A);
	lab_control(&lab, 0, false);
	client = lab_connect(A, &W->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
	assert_true(lab_talks(client, daemon));
	foreign_bpf__destroy(skel);
}

/* A namespace behind the pod, with the pod's address or its own: refused, not carried. */
static void test_forwarded(void **state)
{
	static const char nested[] =
		"ip netns add cv-$1-nested\n"
		"ip link add n0 type veth peer name eth0 netns cv-$1-nested\n"
		"ip addr add 10.66.0.1/24 dev n0; ip link set n0 up\n"
		"ip -n cv-$1-nested addr add 10.66.0.2/24 dev eth0\n"
		"ip -n cv-$1-nested link set eth0 up\n"
		"ip -n cv-$1-nested route add default via 10.66.0.1\n"
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0\n"
		"nft 'table ip masq { chain post { type nat hook postrouting priority 100; "
		"oifname \"eth0\" masquerade; }; }'\n";
	static const char undo[] = "nft delete table ip masq; ip netns del cv-$1-nested; "
				   "sysctl -qw net.ipv4.ip_forward=0";
	struct lab_host inner = {};
	_cleanup_close_ int tap = lab_tap(W);
	char path[80];
	int r, fd;

	(void)state;
	assert_int_equal(lab_sh(A, nested), 0);
	snprintf(path, sizeof(path), "/run/netns/%.*s-nested", (int)strlen(A->netns_name) - 2,
		 A->netns_name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && cv_netns_init(&inner.ns, fd) == 0);
	r = lab_connect(&inner, &W->ip[V4], LAB_PORT);
	cv_netns_fini(&inner.ns);
	lab_sh(A, undo);
	assert_int_equal(r, -ECONNREFUSED);
	assert_true(lab_count(&lab, CV_REASON_FORWARDED) > 0);
	assert_int_equal(lab_tap_count(tap, &A->ip[V4]), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, lab_tear_down, &lab)
	const struct CMUnitTest tests[] = {
		TEST(test_ipv6_rthdr),
		TEST(test_ipv6_rthdr_captured),
		TEST(test_ip_options_source_route),
		TEST(test_ip_options_harmless),
		TEST(test_qdisc_bypass),
		TEST(test_af_xdp),
		TEST(test_large_sockopt),
		TEST(test_forged_source),
		TEST(test_packet_socket),
		TEST(test_packet_socket_lies),
		TEST(test_ipv6_freebind),
		TEST(test_rst_of_captured_flow),
		TEST(test_time_wait_ack),
		TEST(test_neighbour_tcx_program),
		TEST(test_neighbour_tcx_program_first),
		TEST(test_forwarded),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
