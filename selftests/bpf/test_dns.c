// SPDX-License-Identifier: Apache-2.0
/*
 * DNS in the kernel, through BPF_PROG_RUN: which datagrams of a pod pod_egress takes to the daemon,
 * and which queries pod_lookup gives to which of its sockets. What is no query of the pod, and every
 * query while the daemon serves none, is left alone.
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
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stdbool.h>

#include "selftests/lib/progrun.h"
#include "userspace/base/cleanup.h"

enum { SPORT = 4000 };
enum { NEXT = -1, REDIRECT = 7 }; /* of TC */
enum { NOBODY = -1, DEFAULT = -2, OUTBOUND = -3 }; /* else a slot of cv_dns */

#define OWN4   "10.88.0.1"
#define OWN6   "fd88::1"
#define OTHER4 "10.99.0.1"
#define OTHER6 "fd99::1"

static void serve(bool up)
{
	for (int slot = 0; slot < CV_DNS_NR; slot++)
		progrun_dns((enum cv_dns_slot)slot, up);
}

/* ---- pod_egress -------------------------------------------------------------------------------- */

struct datagram {
	const char *name, *src, *dst;
	uint16_t dport;
	uint8_t proto; /* 0 = UDP */
	uint8_t options; /* bytes of IPv4 options */
	uint16_t fragment; /* of the IPv4 header, host order */
	bool cut; /* ends within the UDP header */
	int want;
	enum cv_reason reason;
};

static size_t put_ip(uint8_t *p, const struct datagram *d, size_t payload)
{
	const struct cv_addr src = progrun_ip(d->src), dst = progrun_ip(d->dst);
	uint8_t proto = d->proto ? d->proto : IPPROTO_UDP;

	if (cv_addr_is_v4(&src)) {
		size_t len = sizeof(struct iphdr) + d->options;
		struct iphdr ip = { .version = 4,
				    .ihl = (unsigned)(len / 4) & 15,
				    .tot_len = htons((uint16_t)(len + payload)),
				    .frag_off = htons(d->fragment),
				    .ttl = 64,
				    .protocol = proto };

		memcpy(&ip.saddr, src.b + 12, 4);
		memcpy(&ip.daddr, dst.b + 12, 4);
		memset(p, IPOPT_NOOP, len);
		memcpy(p, &ip, sizeof(ip));
		return len;
	} else {
		struct ip6_hdr ip = { .ip6_flow = htonl(0x60000000),
				      .ip6_plen = htons((uint16_t)payload),
				      .ip6_nxt = proto,
				      .ip6_hlim = 64 };

		memcpy(&ip.ip6_src, src.b, 16);
		memcpy(&ip.ip6_dst, dst.b, 16);
		memcpy(p, &ip, sizeof(ip));
		return sizeof(ip);
	}
}

static int run_egress(const struct datagram *d, uint8_t *out, size_t size)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
	const struct cv_addr src = progrun_ip(d->src);
	struct udphdr udp = { .source = htons(SPORT), .dest = htons(d->dport), .len = htons(16) };
	uint8_t p[256] = { 0 };
	size_t len = ETH_HLEN, udp_len = d->cut ? 6 : sizeof(udp) + 8;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = p, .data_out = out,
		    .data_size_out = (uint32_t)size);

	memcpy(p, macs, sizeof(macs));
	p[12] = cv_addr_is_v4(&src) ? 0x08 : 0x86;
	p[13] = cv_addr_is_v4(&src) ? 0x00 : 0xdd;
	len += put_ip(p + len, d, udp_len);
	memcpy(p + len, &udp, d->cut ? 6 : sizeof(udp));
	opts.data_size_in = (uint32_t)(len + udp_len);
	assert_int_equal(bpf_prog_test_run_opts(progrun_fd(PROGRUN_EGRESS), &opts), 0);
	return (int)opts.retval;
}

static void check_egress(const struct datagram *rows, size_t n)
{
	uint8_t out[256];

	for (size_t i = 0; i < n; i++) {
		int got;

		progrun_clear(NULL);
		got = run_egress(&rows[i], out, sizeof(out));
		if (got != rows[i].want || progrun_count(rows[i].reason) != 1)
			fail_msg("%s: %d, want %d", rows[i].name, got, rows[i].want);
	}
}

static void test_egress(void **state)
{
	static const struct datagram rows[] = {
		{ "IPv4", OWN4, OTHER4, .dport = 53, .want = REDIRECT, .reason = CV_REASON_DNS },
		{ "IPv6", OWN6, OTHER6, .dport = 53, .want = REDIRECT, .reason = CV_REASON_DNS },
		{ "IPv4 options", OWN4, OTHER4, .dport = 53, .options = 12, .want = REDIRECT,
		  .reason = CV_REASON_DNS },
		{ "another port", OWN4, OTHER4, .dport = 5353, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
		{ "IPv6, another port", OWN6, OTHER6, .dport = 443, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
		{ "not from the pod", OTHER4, "10.99.0.2", .dport = 53, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
		{ "another protocol", OWN4, OTHER4, .dport = 53, .proto = IPPROTO_SCTP,
		  .want = NEXT, .reason = CV_REASON_NOT_TCP },
		{ "first fragment", OWN4, OTHER4, .dport = 53, .fragment = IP_MF, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
		{ "later fragment", OWN4, OTHER4, .dport = 53, .fragment = 8, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
		{ "cut short", OWN4, OTHER4, .dport = 53, .cut = true, .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
	};

	(void)state;
	serve(true);
	check_egress(rows, CV_ARRAY_SIZE(rows));
}

/* Redirected into lo, a frame must not look like another host's. */
static void test_egress_clears_the_mac(void **state)
{
	static const struct datagram query = { .src = OWN4, .dst = OTHER4, .dport = 53 };
	static const uint8_t none[ETH_ALEN];
	uint8_t out[256];

	(void)state;
	serve(true);
	assert_int_equal(run_egress(&query, out, sizeof(out)), REDIRECT);
	assert_memory_equal(out, none, sizeof(none));
}

static void test_egress_unserved(void **state)
{
	static const struct datagram four = { "IPv4",	    OWN4,
					      OTHER4,	    .dport = 53,
					      .want = NEXT, .reason = CV_REASON_DNS_UNSERVED };
	static const struct datagram six = { "IPv6",	   OWN6,
					     OTHER6,	   .dport = 53,
					     .want = NEXT, .reason = CV_REASON_DNS_UNSERVED };

	(void)state;
	serve(false);
	check_egress(&four, 1);
	check_egress(&six, 1);
	/* Each family for itself; and a socket for TCP serves no UDP. */
	progrun_dns(CV_DNS_UDP6, true);
	progrun_dns(CV_DNS_TCP4, true);
	check_egress(&four, 1);
}

/* ---- pod_lookup -------------------------------------------------------------------------------- */

struct query {
	const char *name, *src, *dst;
	uint16_t dport;
	bool tcp;
	int want;
	enum cv_reason reason;
};

static int run_lookup(const struct query *q)
{
	const struct cv_addr src = progrun_ip(q->src), dst = progrun_ip(q->dst);
	struct bpf_sk_lookup ctx = { .family = AF_INET6 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .ctx_out = &ctx, .ctx_size_out = sizeof(ctx));

	ctx.protocol = q->tcp ? IPPROTO_TCP : IPPROTO_UDP;
	ctx.remote_port = htons(SPORT);
	ctx.local_port = q->dport;
	if (cv_addr_is_v4(&src)) {
		ctx.family = AF_INET;
		memcpy(&ctx.remote_ip4, src.b + 12, 4);
		memcpy(&ctx.local_ip4, dst.b + 12, 4);
	} else {
		memcpy(ctx.remote_ip6, src.b, 16);
		memcpy(ctx.local_ip6, dst.b, 16);
	}
	assert_int_equal(bpf_prog_test_run_opts(progrun_fd(PROGRUN_LOOKUP), &opts), 0);
	if (!opts.retval)
		return NOBODY;
	for (int slot = 0; slot < CV_DNS_NR; slot++)
		if (ctx.cookie && ctx.cookie == progrun_dns_cookie((enum cv_dns_slot)slot))
			return slot;
	return ctx.cookie && ctx.cookie == progrun_listener_cookie(CV_LISTENER_OUTBOUND) ?
		       OUTBOUND :
		       DEFAULT;
}

static void check_lookup(const struct query *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		progrun_clear(NULL);
		for (uint64_t run = 1; run <= 2; run++) {
			int got = run_lookup(&rows[i]);

			if (got != rows[i].want || progrun_count(rows[i].reason) != run)
				fail_msg("%s: %d, want %d", rows[i].name, got, rows[i].want);
		}
	}
}

static void test_lookup(void **state)
{
	static const struct query rows[] = {
		{ "UDP", OWN4, OTHER4, 53, .want = CV_DNS_UDP4, .reason = CV_REASON_DNS },
		{ "UDP, IPv6", OWN6, OTHER6, 53, .want = CV_DNS_UDP6, .reason = CV_REASON_DNS },
		{ "TCP", OWN4, OTHER4, 53, .tcp = true, .want = CV_DNS_TCP4,
		  .reason = CV_REASON_DNS },
		{ "TCP, IPv6", OWN6, OTHER6, 53, .tcp = true, .want = CV_DNS_TCP6,
		  .reason = CV_REASON_DNS },
		{ "another port", OWN4, OTHER4, 5353, .want = DEFAULT,
		  .reason = CV_REASON_NOT_TCP },
		{ "the pod's own DNS server", OTHER4, OWN4, 53, .want = DEFAULT,
		  .reason = CV_REASON_NOT_TCP },
		{ "own address", OWN4, OWN4, 53, .want = DEFAULT, .reason = CV_REASON_NOT_TCP },
		{ "loopback", OWN4, "127.0.0.53", 53, .want = DEFAULT,
		  .reason = CV_REASON_NOT_TCP },
		{ "neither end is the pod's", OTHER4, "10.99.0.2", 53, .want = DEFAULT,
		  .reason = CV_REASON_NOT_TCP },
		{ "TCP to another port", OWN4, OTHER4, 5353, .tcp = true, .want = OUTBOUND,
		  .reason = CV_REASON_CAPTURED },
	};

	(void)state;
	serve(true);
	check_lookup(rows, CV_ARRAY_SIZE(rows));
}

static void test_lookup_unserved(void **state)
{
	static const struct query rows[] = {
		{ "UDP", OWN4, OTHER4, 53, .want = DEFAULT, .reason = CV_REASON_DNS_UNSERVED },
		{ "UDP, IPv6", OWN6, OTHER6, 53, .want = DEFAULT,
		  .reason = CV_REASON_DNS_UNSERVED },
		{ "TCP", OWN4, OTHER4, 53, .tcp = true, .want = OUTBOUND,
		  .reason = CV_REASON_CAPTURED },
	};

	(void)state;
	serve(false);
	check_lookup(rows, CV_ARRAY_SIZE(rows));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_egress),
		cmocka_unit_test(test_egress_clears_the_mac),
		cmocka_unit_test(test_egress_unserved),
		cmocka_unit_test(test_lookup),
		cmocka_unit_test(test_lookup_unserved),
	};

	return cmocka_run_group_tests(tests, progrun_up, progrun_down);
}
