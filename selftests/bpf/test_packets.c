// SPDX-License-Identifier: Apache-2.0
/*
 * pod_egress and pod_ingress on crafted packets, through BPF_PROG_RUN: what each does with every
 * shape, and the reason that it counts. Nothing is attached.
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
#include <netinet/in.h>
#include <stdbool.h>

#include "selftests/lib/progrun.h"
#include "userspace/base/cleanup.h"

enum { ISN = 1000, SPORT = 4000, DPORT = 8080 };
enum { NEXT = -1, DROP = 2, REDIRECT = 7 }; /* of TC */
enum { F_SYN = 0x02, F_RST = 0x04, F_PSH_ACK = 0x18, F_ACK = 0x10 };

/* ---- packets ----------------------------------------------------------------------------------- */

struct packet {
	uint8_t b[512];
	size_t len;
	size_t tcp; /* offset of the TCP header */
};

static void put(struct packet *p, const void *data, size_t len)
{
	memcpy(p->b + p->len, data, len);
	p->len += len;
}

static void put8(struct packet *p, uint8_t v)
{
	put(p, &v, 1);
}

static void put16(struct packet *p, uint16_t v)
{
	v = htons(v);
	put(p, &v, 2);
}

static void put32(struct packet *p, uint32_t v)
{
	v = htonl(v);
	put(p, &v, 4);
}

static void put_eth(struct packet *p, int vlan_tags, uint16_t type)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };

	put(p, macs, sizeof(macs));
	for (int i = 0; i < vlan_tags; i++)
		put32(p, 0x81000000);
	put16(p, type);
}

static uint32_t add16(uint32_t sum, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	if (len & 1)
		sum += (uint32_t)data[len - 1] << 8;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Sum over pseudo-header and segment: 0 when the checksum in it is right. */
static uint16_t tcp_sum(const struct packet *p, bool v6)
{
	size_t len = p->len - p->tcp;
	const uint8_t *addrs = v6 ? p->b + 14 + 8 : p->b + 14 + 12;
	uint32_t sum = add16(IPPROTO_TCP + (uint32_t)len, addrs, v6 ? 32 : 8);

	return fold(add16(sum, p->b + p->tcp, len));
}

/* One row of a table of packets. */
struct shape {
	const char *name;
	bool v6;
	int vlan_tags;
	uint16_t ethertype; /* 0 = of the family */
	uint8_t proto; /* 0 = TCP */
	uint8_t options; /* IPv4: bytes of padding options */
	uint16_t frag; /* IPv4: frag_off in host order; IPv6: a fragment header with it when set */
	bool atomic; /* IPv6: a fragment header that fragments nothing */
	uint8_t nr_ext; /* IPv6: extension headers, 8 bytes each */
	uint8_t ext[12];
	bool decoy; /* what follows the IP header would be an ACK's header, if it were TCP */
	const char *src; /* NULL = the pod's own */
	uint8_t flags; /* 0 = SYN */
	uint8_t doff; /* 0 = 5 */
	uint8_t ihl; /* 0 = right */
	size_t payload;
	size_t cut; /* bytes missing at the end */
	uint32_t seq; /* 0 = ISN */
	int want;
	enum cv_reason reason;
};

static void put_ip4(struct packet *p, const struct shape *s, const struct cv_addr *src)
{
	const struct cv_addr dst = progrun_ip("10.99.0.1");
	size_t start = p->len;
	uint16_t sum;

	put8(p, 0x40 | (s->ihl ? s->ihl : (uint8_t)(5 + s->options / 4)));
	put8(p, 0);
	put16(p, (uint16_t)(20 + s->options + 20 + s->payload));
	put16(p, 1);
	put16(p, s->frag);
	put8(p, 64);
	put8(p, s->proto ? s->proto : IPPROTO_TCP);
	put16(p, 0);
	put(p, src->b + 12, 4);
	put(p, dst.b + 12, 4);
	memset(p->b + p->len, 1, s->options);
	p->len += s->options;
	sum = htons(fold(add16(0, p->b + start, p->len - start)));
	memcpy(p->b + start + 10, &sum, 2);
}

static void put_ext(struct packet *p, uint8_t next)
{
	put8(p, next);
	put8(p, 0);
	put16(p, 0);
	put32(p, 0);
}

static void put_ip6(struct packet *p, const struct shape *s, const struct cv_addr *src)
{
	const struct cv_addr dst = progrun_ip("fd99::1");
	uint8_t proto = s->proto ? s->proto : IPPROTO_TCP;
	bool fragment = s->frag || s->atomic;
	uint8_t chain[14];
	size_t n = s->nr_ext;

	memcpy(chain, s->ext, n);
	if (fragment)
		chain[n++] = IPPROTO_FRAGMENT;
	chain[n] = proto;
	put32(p, 0x60000000);
	put16(p, (uint16_t)(n * 8 + 20 + s->payload));
	put8(p, chain[0]);
	put8(p, 64);
	put(p, src->b, 16);
	put(p, dst.b, 16);
	for (size_t i = 0; i < n; i++) {
		put_ext(p, chain[i + 1]);
		if (chain[i] == IPPROTO_FRAGMENT) {
			uint16_t frag = htons(s->frag);

			memcpy(p->b + p->len - 6, &frag, 2);
		}
	}
}

static void put_tcp(struct packet *p, const struct shape *s)
{
	uint16_t sum;

	p->tcp = p->len;
	put16(p, SPORT);
	put16(p, DPORT);
	put32(p, s->seq ? s->seq : ISN);
	put32(p, 0x01020304); /* meaningless in a SYN, and part of the checksum */
	put8(p, (uint8_t)((s->doff ? s->doff : 5) << 4));
	put8(p, s->flags ? s->flags : F_SYN);
	put16(p, 1024);
	put16(p, 0);
	put16(p, 0);
	memset(p->b + p->len, 'p', s->payload);
	p->len += s->payload;
	sum = htons(tcp_sum(p, s->v6));
	memcpy(p->b + p->tcp + 16, &sum, 2);
}

/* 16 bytes of options or extension headers, with a data offset and flags where TCP has them. */
static void put_decoy(struct packet *p, const struct shape *s)
{
	size_t at = 14 + (s->v6 ? 40 : 20) + 12;

	p->b[at] = 5 << 4;
	p->b[at + 1] = F_ACK;
}

static struct packet build(const struct shape *s)
{
	const char *own = s->v6 ? "fd88::1" : "10.88.0.1";
	struct cv_addr src = progrun_ip(s->src ? s->src : own);
	struct packet p = {};

	put_eth(&p, s->vlan_tags, s->ethertype ? s->ethertype : s->v6 ? 0x86dd : 0x0800);
	if (s->v6)
		put_ip6(&p, s, &src);
	else
		put_ip4(&p, s, &src);
	if (s->decoy)
		put_decoy(&p, s);
	put_tcp(&p, s);
	p.len -= s->cut;
	return p;
}

/* ---- running ----------------------------------------------------------------------------------- */

/* Runs a TC program; *p becomes what it made of the packet. */
static int run_tc(enum progrun_prog prog, struct packet *p)
{
	struct packet out = { .tcp = p->tcp };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = p->b, .data_size_in = (uint32_t)p->len,
		    .data_out = out.b, .data_size_out = sizeof(out.b));

	assert_int_equal(bpf_prog_test_run_opts(progrun_fd(prog), &opts), 0);
	out.len = opts.data_size_out;
	*p = out;
	return (int)opts.retval;
}

static void run_rows(enum progrun_prog prog, const struct shape *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct packet p = build(&rows[i]);
		int verdict;

		progrun_clear(NULL);
		verdict = run_tc(prog, &p);
		if (verdict != rows[i].want || progrun_count(rows[i].reason) != 1)
			fail_msg("%s: verdict %d, want %d because of %d", rows[i].name, verdict,
				 rows[i].want, (int)rows[i].reason);
	}
}

static const struct shape egress_shapes[] = {
	{ .name = "plain IPv4", .want = REDIRECT, .reason = CV_REASON_REDIRECTED },
	{ .name = "plain IPv6", .v6 = 1, .want = REDIRECT, .reason = CV_REASON_REDIRECTED },
	{ .name = "IPv4 options", .options = 40, .want = REDIRECT, .reason = CV_REASON_REDIRECTED },
	{ .name = "hop-by-hop, destination options, routing",
	  .v6 = 1,
	  .nr_ext = 3,
	  .ext = { 0, 60, 43 },
	  .want = REDIRECT,
	  .reason = CV_REASON_REDIRECTED },
	{ .name = "as many extension headers as we walk",
	  .v6 = 1,
	  .nr_ext = 8,
	  .ext = { 60, 60, 60, 60, 60, 60, 60, 60 },
	  .want = REDIRECT,
	  .reason = CV_REASON_REDIRECTED },
	{ .name = "one more",
	  .v6 = 1,
	  .nr_ext = 9,
	  .ext = { 60, 60, 60, 60, 60, 60, 60, 60, 60 },
	  .want = DROP,
	  .reason = CV_REASON_MALFORMED },
	{ .name = "atomic fragment",
	  .v6 = 1,

	  .atomic = 1,
	  .want = REDIRECT,
	  .reason = CV_REASON_REDIRECTED },
	{ .name = "IPv6 first fragment",
	  .v6 = 1,

	  .frag = 1,
	  .want = DROP,
	  .reason = CV_REASON_FRAGMENT },
	{ .name = "IPv6 later fragment",
	  .v6 = 1,

	  .frag = 8 << 3,
	  .want = DROP,
	  .reason = CV_REASON_FRAGMENT },
	{ .name = "IPv6 later fragment of options",
	  .v6 = 1,

	  .proto = 60,
	  .frag = 8 << 3,
	  .want = DROP,
	  .reason = CV_REASON_FRAGMENT },
	{ .name = "IPv6 later fragment of UDP",
	  .v6 = 1,

	  .proto = IPPROTO_UDP,
	  .frag = 8 << 3,
	  .want = NEXT,
	  .reason = CV_REASON_NOT_TCP },
	{ .name = "IPv4 first fragment",
	  .frag = 0x2000,
	  .want = DROP,
	  .reason = CV_REASON_FRAGMENT },
	{ .name = "IPv4 later fragment", .frag = 8, .want = DROP, .reason = CV_REASON_FRAGMENT },
	{ .name = "IPv4 later fragment of UDP",
	  .proto = IPPROTO_UDP,
	  .frag = 8,
	  .want = NEXT,
	  .reason = CV_REASON_NOT_TCP },
	{ .name = "IPv4 header too short", .ihl = 4, .want = DROP, .reason = CV_REASON_MALFORMED },
	{ .name = "TCP header cut", .cut = 1, .want = DROP, .reason = CV_REASON_MALFORMED },
	{ .name = "TCP header too short", .doff = 4, .want = DROP, .reason = CV_REASON_MALFORMED },
	{ .name = "TCP header longer than the packet",
	  .doff = 6,
	  .want = DROP,
	  .reason = CV_REASON_MALFORMED },
	{ .name = "extension header cut",
	  .v6 = 1,
	  .nr_ext = 1,
	  .ext = { 60 },
	  .cut = 24,
	  .want = DROP,
	  .reason = CV_REASON_MALFORMED },
	{ .name = "one VLAN tag", .vlan_tags = 1, .want = REDIRECT, .reason = CV_REASON_REDIRECTED },
	{ .name = "two VLAN tags",
	  .v6 = 1,
	  .vlan_tags = 2,
	  .want = REDIRECT,
	  .reason = CV_REASON_REDIRECTED },
	{ .name = "three VLAN tags", .vlan_tags = 3, .want = DROP, .reason = CV_REASON_MALFORMED },
	{ .name = "ARP", .ethertype = 0x0806, .want = NEXT, .reason = CV_REASON_NOT_TCP },
	{ .name = "UDP", .proto = IPPROTO_UDP, .want = NEXT, .reason = CV_REASON_NOT_TCP },
	{ .name = "ICMP", .proto = IPPROTO_ICMP, .want = NEXT, .reason = CV_REASON_NOT_TCP },
	{ .name = "neighbour discovery",
	  .v6 = 1,
	  .proto = IPPROTO_ICMPV6,
	  .want = NEXT,
	  .reason = CV_REASON_NOT_TCP },
	{ .name = "forged IPv4 source",
	  .src = "10.88.0.2",
	  .want = DROP,
	  .reason = CV_REASON_FORGED_SOURCE },
	{ .name = "forged IPv6 source",
	  .v6 = 1,
	  .src = "fd88::2",
	  .want = DROP,
	  .reason = CV_REASON_FORGED_SOURCE },
	{ .name = "forged source, no SYN",
	  .flags = F_RST,
	  .src = "10.88.0.2",
	  .want = DROP,
	  .reason = CV_REASON_FORGED_SOURCE },
	{ .name = "payload without a socket",
	  .flags = F_PSH_ACK,
	  .payload = 1,
	  .want = DROP,
	  .reason = CV_REASON_NO_SOCKET },
	{ .name = "no payload, no socket",
	  .flags = F_ACK,
	  .want = NEXT,
	  .reason = CV_REASON_NO_PAYLOAD },
	{ .name = "RST", .v6 = 1, .flags = F_RST, .want = NEXT, .reason = CV_REASON_NO_PAYLOAD },
};

/* Whatever hides a TCP header is walked through, or dropped; what is not TCP passes. */
static void test_egress_shapes(void **state)
{
	(void)state;
	run_rows(PROGRUN_EGRESS, egress_shapes, CV_ARRAY_SIZE(egress_shapes));
}

/* A redirected packet is lo's: no MAC address of a gateway. */
static void test_redirect_clears_mac(void **state)
{
	static const uint8_t none[6];
	struct packet p = build(&(struct shape){ 0 });

	(void)state;
	assert_int_equal(run_tc(PROGRUN_EGRESS, &p), REDIRECT);
	assert_memory_equal(p.b, none, sizeof(none));
}

static uint32_t get32(const struct packet *p, size_t at)
{
	uint32_t v;

	memcpy(&v, p->b + at, 4);
	return ntohl(v);
}

/* Refusing at the source: the SYN comes back as the RST|ACK that answers it, checksums right. */
static void test_refusal(void **state)
{
	static const struct shape rows[] = {
		{ .name = "IPv4" },
		{ .name = "IPv4, options", .options = 8 },
		{ .name = "IPv4, data in the SYN", .payload = 9 },
		{ .name = "IPv6", .v6 = 1 },
		{ .name = "IPv6, options", .v6 = 1, .nr_ext = 1, .ext = { 60 } },
	};

	(void)state;
	progrun_listen(CV_LISTENER_OUTBOUND, false);
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct packet syn = build(&rows[i]), rst = syn;
		size_t addr = rows[i].v6 ? 16 : 4, src = 14 + (rows[i].v6 ? 8 : 12);

		assert_int_equal(tcp_sum(&syn, rows[i].v6), 0);
		progrun_clear(NULL);
		assert_int_equal(run_tc(PROGRUN_EGRESS, &rst), REDIRECT);
		assert_int_equal(progrun_count(CV_REASON_NO_LISTENER), 1);
		assert_memory_equal(rst.b, syn.b + 6, 6);
		assert_memory_equal(rst.b + 6, syn.b, 6);
		assert_memory_equal(rst.b + src, syn.b + src + addr, addr);
		assert_memory_equal(rst.b + src + addr, syn.b + src, addr);
		assert_int_equal(get32(&rst, rst.tcp), (uint32_t)DPORT << 16 | SPORT);
		assert_int_equal(get32(&rst, rst.tcp + 4), 0);
		assert_int_equal(get32(&rst, rst.tcp + 8), ISN + 1);
		assert_int_equal(rst.b[rst.tcp + 13], F_RST | F_ACK);
		assert_int_equal(tcp_sum(&rst, rows[i].v6), 0);
	}
	progrun_listen(CV_LISTENER_OUTBOUND, true);
}

/* Before and after an enrolment everything passes. */
static void test_capture_off(void **state)
{
	struct packet p = build(&(struct shape){ .src = "10.88.0.2" });

	(void)state;
	progrun_capture(false);
	assert_int_equal(run_tc(PROGRUN_EGRESS, &p), NEXT);
	assert_int_equal(progrun_count(CV_REASON_NOT_ENROLLED), 1);
	progrun_capture(true);
}

/* ---- ingress ----------------------------------------------------------------------------------- */

static struct cv_tuple tuple_of(bool v6)
{
	return (struct cv_tuple){ .src = progrun_ip(v6 ? "fd88::1" : "10.88.0.1"),
				  .dst = progrun_ip(v6 ? "fd99::1" : "10.99.0.1"),
				  .sport = htons(SPORT),
				  .dport = htons(DPORT) };
}

static void attest(enum cv_kind kind)
{
	struct cv_attested_entry e = { .src_pod = PROGRUN_PEER,
				       .dst_pod = PROGRUN_POD,
				       .isn = ISN,
				       .kind = kind,
				       .reason = CV_REASON_DIRECT };

	for (int v6 = 0; v6 < 2; v6++) {
		const struct cv_tuple t = tuple_of(v6);

		progrun_attest(&t, &e);
	}
}

static void unattest(void)
{
	for (int v6 = 0; v6 < 2; v6++) {
		const struct cv_tuple t = tuple_of(v6);

		progrun_attest(&t, NULL);
	}
}

/* A SYN on an attested tuple needs the attested sequence number, however it is wrapped. */
static void test_ingress_attested(void **state)
{
	static const struct shape rows[] = {
		{ .name = "right", .want = NEXT, .reason = CV_REASON_DIRECT },
		{ .name = "right, IPv6", .v6 = 1, .want = NEXT, .reason = CV_REASON_DIRECT },
		{ .name = "wrong", .seq = 7, .want = DROP, .reason = CV_REASON_STALE_TUPLE },
		{ .name = "wrong, IPv4 options",
		  .options = 4,
		  .seq = 7,
		  .want = DROP,
		  .reason = CV_REASON_STALE_TUPLE },
		{ .name = "wrong, first fragment",
		  .frag = 0x2000,
		  .seq = 7,
		  .want = DROP,
		  .reason = CV_REASON_STALE_TUPLE },
		{ .name = "wrong, IPv6 extension headers",
		  .v6 = 1,
		  .nr_ext = 2,
		  .ext = { 0, 60 },
		  .seq = 7,
		  .want = DROP,
		  .reason = CV_REASON_STALE_TUPLE },
		{ .name = "not a SYN",
		  .flags = F_ACK,
		  .seq = 7,
		  .want = NEXT,
		  .reason = CV_REASON_NOT_SYN },
		{ .name = "wrong, IPv4 options like an ACK",
		  .options = 16,
		  .decoy = true,
		  .seq = 7,
		  .want = DROP,
		  .reason = CV_REASON_STALE_TUPLE },
		{ .name = "wrong, IPv6 extension headers like an ACK",
		  .v6 = 1,
		  .nr_ext = 2,
		  .ext = { 0, 60 },
		  .decoy = true,
		  .seq = 7,
		  .want = DROP,
		  .reason = CV_REASON_STALE_TUPLE },
		{ .name = "cut", .cut = 1, .want = DROP, .reason = CV_REASON_MALFORMED },
		{ .name = "ACK, header beyond the packet",
		  .flags = F_ACK,
		  .doff = 6,
		  .want = DROP,
		  .reason = CV_REASON_MALFORMED },
		{ .name = "ACK, header too short, IPv6",
		  .v6 = 1,
		  .flags = F_ACK,
		  .doff = 4,
		  .want = DROP,
		  .reason = CV_REASON_MALFORMED },
		{ .name = "UDP", .proto = IPPROTO_UDP, .want = NEXT, .reason = CV_REASON_NOT_TCP },
		{ .name = "UDP like an ACK",
		  .flags = F_ACK,
		  .proto = IPPROTO_UDP,
		  .want = NEXT,
		  .reason = CV_REASON_NOT_TCP },
	};

	(void)state;
	attest(CV_KIND_DIRECT);
	run_rows(PROGRUN_INGRESS, rows, CV_ARRAY_SIZE(rows));
	unattest();
}

static void test_ingress_other(void **state)
{
	static const struct shape unknown = { .name = "unknown tuple",
					      .want = NEXT,
					      .reason = CV_REASON_NOT_ATTESTED };
	static const struct shape leg = { .name = "the daemon's own tuple",
					  .want = DROP,
					  .reason = CV_REASON_DAEMON_TUPLE };

	(void)state;
	run_rows(PROGRUN_INGRESS, &unknown, 1);
	attest(CV_KIND_DAEMON_LEG);
	run_rows(PROGRUN_INGRESS, &leg, 1);
	unattest();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_egress_shapes, progrun_clear),
		cmocka_unit_test_setup(test_redirect_clears_mac, progrun_clear),
		cmocka_unit_test_setup(test_refusal, progrun_clear),
		cmocka_unit_test_setup(test_capture_off, progrun_clear),
		cmocka_unit_test_setup(test_ingress_attested, progrun_clear),
		cmocka_unit_test_setup(test_ingress_other, progrun_clear),
	};

	return cmocka_run_group_tests(tests, progrun_up, progrun_down);
}
