// SPDX-License-Identifier: Apache-2.0
/*
 * Devices without link-layer header: pod A has a tun device, and this process is what is behind it. Whatever
 * the packets' first bytes look like, pod_egress and pod_ingress find the IP header where it is. Real
 * sockets between real namespaces; see selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/in6.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"

static struct lab lab;
static int tun = -1; /* of A; -1: this machine has none */
#define A (&lab.host[LAB_A])
#define B (&lab.host[LAB_B])
#define C (&lab.host[LAB_C])

/* Attaches the hooks to eth0 and to t0, which has routes to the other pods and to another machine. */
static void attach(void)
{
	struct cv_bpf_pod p = { .pod = A->pod, .netns_fd = A->ns.fd };
	uint32_t ifindexes[2];

	assert_int_equal(cv_netns_enter(&A->ns), 0);
	ifindexes[0] = if_nametoindex("eth0");
	ifindexes[1] = if_nametoindex("t0");
	assert_int_equal(cv_netns_enter(NULL), 0);
	p.ifindexes = ifindexes;
	p.nr_ifindexes = CV_ARRAY_SIZE(ifindexes);
	assert_int_equal(cv_bpf_pod_attach(lab.bpf, &p), 0);
	assert_int_equal(
		lab_sh(A, "ip link set t0 up && ip route add 10.88.0.2 dev t0 src 10.88.0.1 && "
			  "ip route add 10.99.0.1 dev t0 src 10.88.0.1 && "
			  "ip -6 route add fd99::1 dev t0 src fd88::1 && "
			  "ip -6 route add fd88::2 dev t0 src fd88::1 && "
			  "ip -6 route add fd88::3 dev t0 src fd88::1"),
		0);
}

/* Makes A's tun device; false where there is none to be had. */
static bool open_tun(void)
{
	struct ifreq ifr = { .ifr_name = "t0", .ifr_flags = IFF_TUN | IFF_NO_PI };
	int r;

	assert_int_equal(cv_netns_enter(&A->ns), 0);
	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	r = tun < 0 ? -1 : ioctl(tun, TUNSETIFF, &ifr);
	assert_int_equal(cv_netns_enter(NULL), 0);
	if (r < 0)
		cv_close(&tun);
	else
		attach();
	return tun >= 0;
}

static bool is_tcp_from(const uint8_t *packet, const struct cv_addr *src)
{
	if (packet[0] >> 4 == 4)
		return packet[9] == IPPROTO_TCP && !memcmp(packet + 12, src->b + 12, 4);
	return (packet[6] == IPPROTO_TCP || packet[6] == IPPROTO_ROUTING) &&
	       !memcmp(packet + 8, src->b, sizeof(src->b));
}

/* TCP packets from this address that have left by the tun since the last call, with a routing header or
 * without. */
static int read_tcp(const struct cv_addr *src)
{
	uint8_t packet[2048];
	int count = 0;

	while (read(tun, packet, sizeof(packet)) > 0)
		count += is_tcp_from(packet, src);
	return count;
}

static bool sends_tcp(const struct cv_addr *src)
{
	for (int i = 0; i < LAB_WAIT_MS / 10; i++) {
		if (read_tcp(src))
			return true;
		usleep(10000);
	}
	return false;
}

/* An address of A's beside its own, which begins as a frame does that has an ethertype where IPv4 and
 * IPv6 have their source address. */
static struct cv_addr add_address(const char *text)
{
	const struct cv_workload_entry workload = { .pod = A->pod };
	struct cv_addr ip;
	char script[128];

	assert_int_equal(cv_addr_parse(text, &ip), 0);
	assert_int_equal(cv_table_workload_set(lab.bpf, &ip, &workload), 0);
	snprintf(script, sizeof(script), "ip addr add %s/%s dev lo", text,
		 cv_addr_is_v4(&ip) ? "32" : "128 nodad");
	assert_int_equal(lab_sh(A, script), 0);
	return ip;
}

static void remove_address(const char *text, const struct cv_addr *ip)
{
	char script[128];

	snprintf(script, sizeof(script), "ip addr del %s/%s dev lo", text,
		 cv_addr_is_v4(ip) ? "32" : "128");
	assert_int_equal(lab_sh(A, script), 0);
	assert_int_equal(cv_table_workload_del(lab.bpf, ip), 0);
}

/* Ethertypes of IPv4, IPv6 and both VLAN tags. */
static const char *const own_addresses[] = {
	"10.88.0.9",	       "8.0.69.1",
	"134.221.96.1",	       "129.0.69.1",
	"136.168.69.1",	       "fd88::1:9",
	"fd88:0:800:4500::6",  "fd88:0:86dd:6000::6",
	"fd88:0:8100:4500::6", "fd88:0:88a8:4500::6",
};

static int bound_socket(const struct cv_addr *src)
{
	int fd = lab_socket(A, cv_addr_is_v4(src) ? AF_INET : AF_INET6, SOCK_STREAM);

	assert_int_equal(lab_bind(fd, src, 0), 0);
	return fd;
}

/* First to C, then to the destination. */
static void lead_to_c(int fd)
{
	uint8_t rthdr[LAB_SOURCE_ROUTE];

	lab_source_route(rthdr, &C->ip[V6]);
	assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, rthdr, sizeof(rthdr)), 0);
}

/* What names its socket's peer leaves by the tun, and what a routing header leads elsewhere does not. */
static void expect_direct(const struct cv_addr *src)
{
	int f = cv_addr_is_v4(src) ? V4 : V6;
	_cleanup_close_ int client = bound_socket(src), routed = -1;

	lab_mark(&lab);
	lab_connect_start(client, &B->ip[f], LAB_PORT);
	assert_true(sends_tcp(src));
	assert_int_equal(lab_count(&lab, CV_REASON_SOURCE_ROUTED), 0);
	assert_true(lab_count(&lab, CV_REASON_DIRECT) > 0);
	cv_close(&client);
	if (f == V4)
		return;
	routed = bound_socket(src);
	lead_to_c(routed);
	read_tcp(src);
	lab_connect_start(routed, &B->ip[f], LAB_PORT);
	assert_true(lab_counts(&lab, CV_REASON_SOURCE_ROUTED));
	assert_int_equal(read_tcp(src), 0);
}

static void test_direct(void **state)
{
	(void)state;
	if (tun < 0)
		skip();
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (size_t i = 0; i < CV_ARRAY_SIZE(own_addresses); i++) {
		struct cv_addr src = add_address(own_addresses[i]);

		expect_direct(&src);
		remove_address(own_addresses[i], &src);
	}
}

/* Without the fast path pod_egress alone brings a connection from the device to the daemon. */
static void test_captured(void **state)
{
	(void)state;
	if (tun < 0)
		skip();
	lab_control(&lab, 0, false);
	for (size_t i = 0; i < CV_ARRAY_SIZE(own_addresses); i++) {
		struct cv_addr src = add_address(own_addresses[i]);
		_cleanup_close_ int client = bound_socket(&src), daemon = -1;
		const struct lab_host *w = &lab.host[LAB_WIRE];

		lab_connect_start(client, &w->ip[cv_addr_is_v4(&src) ? V4 : V6], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
		assert_true(lab_talks(client, daemon));
		assert_int_equal(read_tcp(&src), 0);
		cv_sock_abort(&client); /* sends nothing later from an address that is gone */
		remove_address(own_addresses[i], &src);
	}
}

/* Sends what a packet socket of the pod claims to be of this protocol. */
static void send_from_pod(uint16_t claimed, const uint8_t *packet, size_t len)
{
	struct sockaddr_ll sll = { .sll_family = AF_PACKET, .sll_protocol = htons(claimed) };
	_cleanup_close_ int fd = lab_socket(A, AF_PACKET, SOCK_RAW);

	assert_int_equal(cv_netns_enter(&A->ns), 0);
	sll.sll_ifindex = (int)if_nametoindex("t0");
	assert_int_equal(cv_netns_enter(NULL), 0);
	/* What TC drops is ENOBUFS to the packet socket that sent it. */
	if (sendto(fd, packet, len, 0, (struct sockaddr *)&sll, sizeof(sll)) < 0)
		assert_int_equal(errno, ENOBUFS);
}

/* A packet socket with an address that is not the pod's: dropped, whatever its bytes look like and
 * whatever the socket says that it sends. */
static void test_forged_source(void **state)
{
	static const uint16_t claims[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_ARP, ETH_P_8021Q };

	(void)state;
	if (tun < 0)
		skip();
	for (size_t i = 0; i < CV_ARRAY_SIZE(own_addresses); i++) {
		uint8_t segment[LAB_SEGMENT_MAX + 40];
		struct cv_tuple t;
		struct cv_addr src;
		size_t len;

		cv_addr_parse(own_addresses[i], &src);
		t = lab_make_tuple(&src, 4000, &B->ip[cv_addr_is_v4(&src) ? V4 : V6], LAB_PORT);
		lab_mark(&lab);
		for (size_t k = 0; k < CV_ARRAY_SIZE(claims); k++) {
			len = lab_segment(segment, &t, TCP_SYN_FLAG, 1, 0);
			send_from_pod(claims[k], segment + 2, len - 2);
			len = lab_segment(segment, &t, TCP_PSH_ACK_FLAGS, 0x5010, 40);
			send_from_pod(claims[k], segment + 2, len - 2);
		}
		assert_int_equal(lab_count(&lab, CV_REASON_FORGED_SOURCE),
				 2 * CV_ARRAY_SIZE(claims));
		assert_int_equal(read_tcp(&src), 0);
	}
}

/* A segment that comes in by the tun, of a payload that makes of an IPv4 header without its first 14 bytes
 * one of a segment with ACK. */
static void receive_syn(const struct cv_tuple *t, uint32_t seq)
{
	uint8_t segment[LAB_SEGMENT_MAX + 40];
	size_t len = lab_segment(segment, t, TCP_SYN_FLAG, seq, 40);

	if (cv_addr_is_v4(&t->src)) {
		segment[2 + 40 + 6] = 0x50;
		segment[2 + 40 + 7] = 0x10;
	}
	assert_int_equal(write(tun, segment + 2, len - 2), len - 2);
}

/* The tuple is attested as B's, whose address it is, and somebody behind the tun sends a SYN on it. If 14
 * bytes of it were Ethernet, it would be no SYN. */
static void test_stale_tuple(void **state)
{
	static const char *const addresses[] = { "8.0.69.3", "fd88:0:800:4500::6" };
	const struct cv_workload_entry workload = { .pod = B->pod };

	(void)state;
	if (tun < 0)
		skip();
	lab_verdict(&lab, LAB_B, LAB_A, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int owner = -1;
		struct cv_attested_entry e;
		struct cv_addr src;
		struct cv_tuple t;

		cv_addr_parse(addresses[f], &src);
		assert_int_equal(cv_table_workload_set(lab.bpf, &src, &workload), 0);
		t = lab_make_tuple(&src, 0x8000, &A->ip[f], 0x1f06);
		owner = lab_foreign_socket(B, &src, 0x8000);
		lab_connect_start(owner, &A->ip[f], 0x1f06);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.kind, CV_KIND_DIRECT);
		lab_mark(&lab);
		receive_syn(&t, 0x5010);
		assert_int_equal(lab_count(&lab, CV_REASON_STALE_TUPLE), 1);
		assert_int_equal(cv_table_workload_del(lab.bpf, &src), 0);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, lab_tear_down, &lab)
	const struct CMUnitTest tests[] = {
		TEST(test_direct),
		TEST(test_captured),
		TEST(test_forged_source),
		TEST(test_stale_tuple),
	};
	int failed;

	lab_up(&lab);
	open_tun();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	cv_close(&tun);
	lab_down(&lab);
	return failed;
}
