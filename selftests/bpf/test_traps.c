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

enum { V4, V6, FAMILIES };
enum { TCP_SYN_FLAG = 0x02, TCP_PSH_ACK_FLAGS = 0x18, TCP_ACK_FLAG = 0x10 };

/* Values of enum bpf_attach_type that Debian 12's headers lack. */
#define TCX_INGRESS ((enum bpf_attach_type)46)
#define TCX_EGRESS  ((enum bpf_attach_type)47)

enum { LEG_PORT = 61001 };

static struct lab lab;
#define A    (&lab.host[LAB_A])
#define B    (&lab.host[LAB_B])
#define C    (&lab.host[LAB_C])
#define W    (&lab.host[LAB_WIRE])
#define NODE (&lab.host[LAB_NODE])

static int set_up(void **state)
{
	(void)state;
	lab_reset(&lab);
	return 0;
}

static int drop_flow(uint64_t cookie, const struct cv_flow_entry *flow, void *arg)
{
	(void)flow;
	(void)arg;
	return cv_table_flow_del(lab.bpf, cookie);
}

static int drop_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	(void)e;
	(void)arg;
	return cv_table_attested_del(lab.bpf, tuple);
}

static int tear_down(void **state)
{
	(void)state;
	cv_table_flow_each(lab.bpf, drop_flow, NULL);
	cv_table_attested_each(lab.bpf, drop_attested, NULL);
	return 0;
}

static int family_of(int f)
{
	return f == V6 ? AF_INET6 : AF_INET;
}

static struct cv_tuple tuple(const struct cv_addr *src, uint16_t sport, const struct cv_addr *dst,
			     uint16_t dport)
{
	return (struct cv_tuple){
		.src = *src, .dst = *dst, .sport = htons(sport), .dport = htons(dport)
	};
}

static void send_segment(const struct lab_host *from, const struct cv_tuple *t, uint8_t flags,
			 size_t payload)
{
	uint8_t buf[LAB_SEGMENT_MAX + 64];
	size_t len = lab_segment(buf, t, flags, 12345, payload);
	int r = lab_send_packet(&lab, from, ETH_P_IP, buf, len);

	/* What TC drops is ENOBUFS to the packet socket that sent it. */
	assert_true(r == 0 || r == -ENOBUFS);
}

/* A segment routing header: first to `ip`, then to the destination. */
static void by_way_of(uint8_t rthdr[40], const struct cv_addr *ip)
{
	static const uint8_t header[8] = { 0, 4, 4, 1, 1 }; /* 40 bytes, type 4, segments 1 and 0 */

	memset(rthdr, 0, 40);
	memcpy(rthdr, header, sizeof(header));
	memcpy(rthdr + 24, ip->b, 16);
}

/* A source route needs no privilege. It hides TCP behind another header, and would carry the
 * connection's packets to another machine than policy has admitted. */
static void test_ipv6_rthdr(void **state)
{
	_cleanup_close_ int tap = lab_tap(W), client = lab_socket(A, AF_INET6, SOCK_STREAM);
	uint8_t rthdr[40];

	(void)state;
	by_way_of(rthdr, &W->ip[V6]);
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
	by_way_of(rthdr, &W->ip[V6]);
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
		struct cv_tuple t = tuple(&C->ip[f], 4000, &W->ip[f], LAB_PORT);

		send_segment(A, &t, TCP_SYN_FLAG, 0);
		send_segment(A, &t, TCP_PSH_ACK_FLAGS, 10);
		send_segment(A, &t, TCP_ACK_FLAG, 0);
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
		struct cv_tuple t = tuple(&A->ip[f], 4001, &W->ip[f], LAB_PORT);

		send_segment(A, &t, TCP_SYN_FLAG, 0);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 1);
		t.sport = htons(4002);
		send_segment(A, &t, TCP_PSH_ACK_FLAGS, 10);
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
		struct cv_tuple t = tuple(&A->ip[f], 4003, &W->ip[f], LAB_PORT);
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

static int foreign_source(const struct lab_host *h, int f, const struct cv_addr *ip, uint16_t port)
{
	int fd = lab_socket(h, family_of(f), SOCK_STREAM), on = 1;

	/* IPv6 needs no privilege for it; IPv4 does. */
	if (f == V6)
		assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on)), 0);
	else
		assert_int_equal(setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)), 0);
	assert_int_equal(lab_bind(fd, ip, port), 0);
	return fd;
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
		thief = foreign_source(C, f, &A->ip[f], ntohs(t.sport));
		lab_connect_start(thief, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(thief, LAB_QUIET_MS), -ETIMEDOUT);
		assert_int_equal(lab_accept(B, 0, &got), LAB_NOBODY);
		assert_true(lab_count(&lab, CV_REASON_FORGED_SOURCE) > 0);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 1);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), -ENOENT);
		assert_true(lab_talks(owner, app));
	}
}

/* Attaches somebody else's sockops program where it runs before culvert's: in a cgroup below. */
struct neighbour {
	struct foreign_bpf *skel;
	struct bpf_link *link;
	char cgroup[160];
};

static void move_to(const char *cgroup)
{
	char path[192];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0 && dprintf(fd, "%d", (int)getpid()) > 0);
}

static void neighbour_up(struct neighbour *n)
{
	_cleanup_close_ int fd = -1;

	n->skel = foreign_bpf__open_and_load();
	assert_non_null(n->skel);
	snprintf(n->cgroup, sizeof(n->cgroup), "%s/below", lab.cgroup);
	assert_int_equal(mkdir(n->cgroup, 0755), 0);
	fd = open(n->cgroup, O_RDONLY | O_CLOEXEC);
	n->link = bpf_program__attach_cgroup(n->skel->progs.foreign_sockops, fd);
	assert_non_null(n->link);
	move_to(n->cgroup);
}

static void neighbour_down(struct neighbour *n)
{
	move_to(lab.cgroup);
	bpf_link__destroy(n->link);
	foreign_bpf__destroy(n->skel);
	rmdir(n->cgroup);
}

static void count_attested(const struct cv_tuple *t, uint32_t *ret_swept)
{
	struct cv_attested_entry e;

	assert_int_equal(cv_table_attested_get(lab.bpf, t, &e), 0);
	*ret_swept = e.swept;
}

static void sweep(uint32_t number)
{
	struct cv_control_entry control;

	assert_int_equal(cv_table_control_get(lab.bpf, &control), 0);
	control.sweep = number;
	assert_int_equal(cv_table_control_set(lab.bpf, &control), 0);
	assert_int_equal(cv_netns_enter(&A->ns), 0);
	assert_int_equal(cv_bpf_sweep(lab.bpf), 0);
	assert_int_equal(cv_netns_enter(NULL), 0);
}

/* Leaves an attested entry of A -> B behind, whose socket is gone: a neighbour erases our
 * callback flags, so that CLOSE is never told. */
static struct cv_tuple lose_close(int f)
{
	struct neighbour n = {};
	struct cv_tuple t;
	int client, app = -1;

	neighbour_up(&n);
	n.skel->bss->erase_flags = true;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	t = lab_tuple(client);
	cv_sock_abort(&client);
	lab_read(app, LAB_WAIT_MS);
	close(app);
	neighbour_down(&n);
	return t;
}

/* We add to a neighbour's callback flags; a neighbour that erases ours leaves entries behind, which
 * a sweep tells from those of live sockets. */
static void test_foreign_cb_flags(void **state)
{
	struct neighbour n = {};
	int client, app = -1;
	struct cv_tuple live, lost;
	struct cv_attested_entry e;
	uint32_t swept;

	(void)state;
	neighbour_up(&n);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	assert_true(lab_talks(client, app));
	assert_true(n.skel->bss->rtt_calls > 0);
	neighbour_down(&n);
	live = lab_tuple(client);
	lost = lose_close(V4);
	sweep(5);
	sweep(6);
	count_attested(&live, &swept);
	assert_int_equal(swept, 6);
	count_attested(&lost, &swept);
	assert_true(swept < 5);
	cv_sock_abort(&client);
	cv_close(&app);
	assert_int_equal(cv_table_attested_get(lab.bpf, &live, &e), -ENOENT);
}

/* A machine on the wire sends a SYN on a tuple that an ended connection left attested: its sequence
 * number is not the attested one, and B does not even answer. */
static void test_stale_tuple(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lose_close(f);
		_cleanup_close_ int tap = lab_tap(B), got = -1;

		lab_mark(&lab);
		send_segment(W, &t, TCP_SYN_FLAG, 0);
		assert_true(lab_counts(&lab, CV_REASON_STALE_TUPLE));
		assert_int_equal(lab_accept(B, LAB_QUIET_MS, &got), LAB_NOBODY);
		assert_int_equal(lab_tap_answers(tap, &t), 0);
	}
}

/* A new pod gets the address of a pod that is gone, and its connection the tuple: it is judged as
 * the new pod, not as what the old entry says. */
static void test_reused_address(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lose_close(f);
		struct cv_workload_entry owner = { .pod = C->pod };
		_cleanup_close_ int client = -1, got = -1;
		struct cv_attested_entry e;

		lab_mark(&lab);
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
		client = foreign_source(C, f, &A->ip[f], ntohs(t.sport));
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.src_pod, C->pod);
		assert_int_equal(e.kind, CV_KIND_CAPTURED);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 1);
		assert_int_equal(lab_accept(B, LAB_QUIET_MS, &got), LAB_NOBODY);
		owner.pod = A->pod;
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
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

/* A leg of the daemon's to B's application, with the address of a client on the wire. */
static int leg_from(int f, uint16_t port)
{
	int leg = foreign_source(B, f, &W->ip[f], port), on = 1;

	if (f == V6)
		assert_int_equal(setsockopt(leg, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof(on)),
				 0);
	assert_int_equal(cv_table_sk_set_kind(lab.bpf, leg, CV_KIND_DAEMON_LEG), 0);
	lab_connect_start(leg, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_connect_end(leg, LAB_WAIT_MS), 0);
	return leg;
}

/* The application sees the client's address, and its answers come back to the leg: by route on the
 * fast path, by TC without it. */
static void test_source_preserving_leg(void **state)
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		for (uint16_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			_cleanup_close_ int leg = -1, app = -1, tap = lab_tap(W);

			lab_control(&lab, flags[i], false);
			lab_mark(&lab);
			leg = leg_from(f, LEG_PORT + i);
			assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
			assert_true(lab_is(lab_peer(app), &W->ip[f], LEG_PORT + i));
			assert_true(lab_talks(leg, app));
			assert_int_equal(!lab_count(&lab, CV_REASON_REDIRECTED), !!flags[i]);
			assert_int_equal(lab_tap_count(tap, &B->ip[f]), 0);
		}
	}
}

/* A socket of this machine that is no enrolled pod's dials on the tuple of a leg: the leg's entry
 * stays, and so the SYN does not get past it. */
static void dial_on_leg(int f, const struct cv_tuple *t)
{
	_cleanup_close_ int client = lab_socket(W, family_of(f), SOCK_STREAM);
	struct cv_attested_entry e;

	assert_int_equal(lab_bind(client, &W->ip[f], ntohs(t->sport)), 0);
	lab_connect_start(client, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_QUIET_MS), -ETIMEDOUT);
	assert_int_equal(cv_table_attested_get(lab.bpf, t, &e), 0);
	assert_int_equal(e.kind, CV_KIND_DAEMON_LEG);
	assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 0);
}

/* The client itself dials on the tuple of a leg: its SYN does not reach the leg's peer. Once the
 * leg is gone the port is free again. */
static void test_same_port_upstream_leg(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int leg = leg_from(f, LEG_PORT + 10), app = -1, got = -1;
		_cleanup_close_ int client = lab_socket(W, family_of(f), SOCK_STREAM);
		struct cv_tuple t = tuple(&W->ip[f], LEG_PORT + 10, &B->ip[f], LAB_PORT);

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		lab_mark(&lab);
		dial_on_leg(f, &t);
		assert_true(lab_talks(leg, app));
		lab_mark(&lab);
		send_segment(W, &t, TCP_SYN_FLAG, 0);
		assert_true(lab_counts(&lab, CV_REASON_DAEMON_TUPLE));
		assert_true(lab_talks(leg, app));
		cv_sock_abort(&leg);
		assert_int_equal(lab_read(app, LAB_WAIT_MS), -ECONNRESET);
		assert_int_equal(lab_bind(client, &W->ip[f], LEG_PORT + 10), 0);
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &got), LAB_INBOUND);
	}
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
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
		TEST(test_foreign_cb_flags),
		TEST(test_stale_tuple),
		TEST(test_reused_address),
		TEST(test_rst_of_captured_flow),
		TEST(test_time_wait_ack),
		TEST(test_source_preserving_leg),
		TEST(test_same_port_upstream_leg),
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
