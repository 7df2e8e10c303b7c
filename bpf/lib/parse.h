/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a frame to its TCP header. What decides is the frame that the next hop will see: neither
 * skb->protocol, which a packet socket may choose, nor a fixed header length, which an
 * unprivileged IP_OPTIONS or IPV6_RTHDR changes, is taken at its word. Whether there is an Ethernet
 * header at all is the device's matter, and no bytes of the packet say it.
 */
#pragma once

#include "bpf/lib/flow.h"

enum cv_parse_limit {
	CV_MAX_VLAN_TAGS = 2,
	CV_MAX_EXT_HEADERS = 8,
};

enum tcp_flag {
	CV_TCP_SYN = 0x02,
	CV_TCP_RST = 0x04,
	CV_TCP_ACK = 0x10,
};

/* One TCP segment; offsets count from the start of the frame. */
struct cv_segment {
	struct cv_tuple tuple; /* as the header has it: src is the sender */
	__u32 l3; /* 0 on devices without link-layer header */
	__u32 l4;
	__u32 seq; /* host order */
	__be32 ack; /* network order */
	__be16 offset_flags; /* bytes 12 and 13 of the TCP header, network order */
	__u8 flags; /* CV_TCP_* */
	bool has_payload;
	bool v6;
	__u16 fragment; /* not 0: the first of several */
};

struct eth_wire {
	__u8 dst[ETH_ALEN_BYTES];
	__u8 src[ETH_ALEN_BYTES];
	__be16 proto;
};

struct vlan_wire {
	__be16 tci;
	__be16 proto;
};

struct ip4_wire {
	__u8 version_ihl;
	__u8 tos;
	__be16 len;
	__be16 id;
	__be16 frag;
	__u8 ttl;
	__u8 proto;
	__be16 check;
	__be32 src;
	__be32 dst;
};

struct ip6_wire {
	__be32 version_flow;
	__be16 len;
	__u8 next;
	__u8 hops;
	__be32 src[4];
	__be32 dst[4];
};

/* Common start of hop-by-hop, routing and destination options; a fragment header has `off`. */
struct ext_wire {
	__u8 next;
	__u8 len; /* in 8 bytes, without the first 8 */
	__be16 off;
	__be32 id;
};

struct tcp_wire {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__be16 offset_flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
};

struct udp_wire {
	__be16 sport;
	__be16 dport;
	__be16 len;
	__be16 check;
};

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/* How much of the packet lies in one piece. In assembler, since clang would subtract half of each pointer
 * or load both by a computed context pointer, which the verifier refuses. */
static __always_inline __u32 linear_len(const struct __sk_buff *skb)
{
	__u64 start, end;

	asm volatile("%[start] = *(u32 *)(%[skb] + %[start_off])\n"
		     "%[end] = *(u32 *)(%[skb] + %[end_off])\n"
		     "%[end] -= %[start]\n"
		     : [start] "=&r"(start), [end] "=&r"(end)
		     : [skb] "r"(skb), [start_off] "i"(__builtin_offsetof(struct __sk_buff, data)),
		       [end_off] "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return (__u32)end;
}

/* Does the packet start with its network header, as on a device without link-layer header? The last byte
 * of the packet is found at its own offset from the network header only then; where anything precedes
 * that header, the offset leads behind the end. */
static __always_inline bool starts_at_network(struct __sk_buff *skb)
{
	__u8 byte;

	return !bpf_skb_load_bytes_relative(skb, linear_len(skb) - 1, &byte, sizeof(byte),
					    BPF_HDR_START_NET);
}

/* Ethertype of the IP version that this byte starts; 0: of none. */
static __always_inline __be16 ip_proto(__u8 version_byte)
{
	if (version_byte >> 4 == 4)
		return bpf_htons(ETH_P_IP);
	return version_byte >> 4 == 6 ? bpf_htons(ETH_P_IPV6) : 0;
}

/* Finds the network header: its offset in s->l3, its protocol in ret_proto. */
static __always_inline enum cv_reason parse_link(struct __sk_buff *skb, struct cv_segment *s,
						 __be16 *ret_proto)
{
	struct eth_wire eth;
	struct vlan_wire vlan;

	if (starts_at_network(skb)) {
		s->l3 = 0;
		if (bpf_skb_load_bytes(skb, 0, eth.dst, 1))
			return CV_REASON_NOT_TCP;
		*ret_proto = ip_proto(eth.dst[0]);
		return CV_REASON_NONE;
	}
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return CV_REASON_NOT_TCP;
	s->l3 = sizeof(eth);
	for (int i = 0; i < CV_MAX_VLAN_TAGS && is_vlan(eth.proto); i++) {
		if (bpf_skb_load_bytes(skb, s->l3, &vlan, sizeof(vlan)))
			return CV_REASON_NOT_TCP;
		s->l3 += sizeof(vlan);
		eth.proto = vlan.proto;
	}
	if (is_vlan(eth.proto))
		return CV_REASON_MALFORMED;
	*ret_proto = eth.proto;
	return CV_REASON_NONE;
}

static __always_inline enum cv_reason parse_ip4(struct __sk_buff *skb, struct cv_segment *s)
{
	struct ip4_wire ip;
	__u32 header;

	if (bpf_skb_load_bytes(skb, s->l3, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return CV_REASON_NOT_TCP;
	if (ip.proto != IPPROTO_TCP)
		return CV_REASON_NOT_TCP;
	if (ip.frag & bpf_htons(0x1fff))
		return CV_REASON_FRAGMENT;
	header = (ip.version_ihl & 0x0f) * 4;
	if (header < sizeof(ip))
		return CV_REASON_MALFORMED;
	s->fragment = ip.frag & bpf_htons(0x2000);
	s->l4 = s->l3 + header;
	addr_from_v4(&s->tuple.src, ip.src);
	addr_from_v4(&s->tuple.dst, ip.dst);
	return CV_REASON_NONE;
}

/* A mask and not four comparisons: each would be a fork of the verifier's in every round of the
 * loop below. */
static __always_inline bool is_extension(__u8 next)
{
	const __u64 extensions = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
				 1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS;

	return next < 64 && (extensions >> next & 1);
}

/* Walks the extension headers; s->l4 comes in as the offset of the first. */
static __always_inline enum cv_reason skip_extensions(struct __sk_buff *skb, struct cv_segment *s,
						      __u8 next)
{
	struct ext_wire ext;

	for (int i = 0; i < CV_MAX_EXT_HEADERS && is_extension(next); i++) {
		if (bpf_skb_load_bytes(skb, s->l4, &ext, sizeof(ext)))
			return CV_REASON_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			s->fragment = ext.off & bpf_htons(0xfff9);
			ext.len = 0; /* reserved there */
		}
		s->l4 += (ext.len + 1) * 8;
		next = ext.next;
		if (s->fragment & bpf_htons(0xfff8))
			return next == IPPROTO_TCP || is_extension(next) ? CV_REASON_FRAGMENT :
									   CV_REASON_NOT_TCP;
	}
	if (is_extension(next))
		return CV_REASON_MALFORMED;
	return next == IPPROTO_TCP ? CV_REASON_NONE : CV_REASON_NOT_TCP;
}

static __always_inline enum cv_reason parse_ip6(struct __sk_buff *skb, struct cv_segment *s)
{
	struct ip6_wire ip;

	if (bpf_skb_load_bytes(skb, s->l3, &ip, sizeof(ip)) ||
	    (ip.version_flow & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return CV_REASON_NOT_TCP;
	s->v6 = true;
	s->l4 = s->l3 + sizeof(ip);
	addr_from_words(&s->tuple.src, ip.src[0], ip.src[1], ip.src[2], ip.src[3]);
	addr_from_words(&s->tuple.dst, ip.dst[0], ip.dst[1], ip.dst[2], ip.dst[3]);
	return skip_extensions(skb, s, ip.next);
}

static __always_inline enum cv_reason parse_tcp(struct __sk_buff *skb, struct cv_segment *s)
{
	struct tcp_wire tcp;
	__u32 header;

	if (bpf_skb_load_bytes(skb, s->l4, &tcp, sizeof(tcp)))
		return CV_REASON_MALFORMED;
	header = (bpf_ntohs(tcp.offset_flags) >> 12) * 4;
	if (header < sizeof(tcp) || s->l4 + header > skb->len)
		return CV_REASON_MALFORMED;
	s->tuple.sport = tcp.sport;
	s->tuple.dport = tcp.dport;
	s->seq = bpf_ntohl(tcp.seq);
	s->ack = tcp.ack;
	s->offset_flags = tcp.offset_flags;
	s->flags = bpf_ntohs(tcp.offset_flags) & 0xff;
	s->has_payload = skb->len > s->l4 + header;
	return CV_REASON_NONE;
}

/* CV_REASON_NONE and a filled *s, or why there is none: NOT_TCP, MALFORMED, or FRAGMENT for the
 * second and later fragments. *s comes in zeroed. */
static __always_inline enum cv_reason parse_segment(struct __sk_buff *skb, struct cv_segment *s)
{
	enum cv_reason why;
	__be16 proto;

	why = parse_link(skb, s, &proto);
	if (why)
		return why;
	if (proto == bpf_htons(ETH_P_IP))
		why = parse_ip4(skb, s);
	else if (proto == bpf_htons(ETH_P_IPV6))
		why = parse_ip6(skb, s);
	else
		why = CV_REASON_NOT_TCP;
	if (why)
		return why;
	return parse_tcp(skb, s);
}

/* Is it a whole header that opens no connection? */
static __always_inline bool tcp_opens_nothing(const struct tcp_wire *tcp, __u32 room)
{
	__u16 offset_flags = bpf_ntohs(tcp->offset_flags);
	__u32 header = (offset_flags >> 12) * 4;

	return header >= sizeof(*tcp) && header <= room &&
	       (offset_flags & (CV_TCP_SYN | CV_TCP_ACK | CV_TCP_RST)) != CV_TCP_SYN;
}

/* For looks at a frame where it lies, with fixed offsets behind Ethernet: true when there is Ethernet.
 * Most frames' first byte says so, for no IP version starts with it. */
static __always_inline bool is_framed(struct __sk_buff *skb, const struct eth_wire *eth)
{
	return !ip_proto(eth->dst[0]) || !starts_at_network(skb);
}

/* A look at the frame where it lies, without the walk of parse_segment: true when that would find a
 * segment that is no SYN, in IP without options or extensions straight behind Ethernet. False says
 * nothing. */
static __always_inline bool opens_nothing(struct __sk_buff *skb)
{
	enum {
		IP_OFF = sizeof(struct eth_wire),
		TCP4_OFF = IP_OFF + sizeof(struct ip4_wire),
		TCP6_OFF = IP_OFF + sizeof(struct ip6_wire),
		TCP_LEN = sizeof(struct tcp_wire),
	};
	const void *data = (const void *)(long)skb->data;
	const void *end = (const void *)(long)skb->data_end;
	const struct eth_wire *eth = data;
	const struct ip4_wire *ip4 = data + IP_OFF;
	const struct ip6_wire *ip6 = data + IP_OFF;

	if (data + TCP4_OFF + TCP_LEN > end || !is_framed(skb, eth))
		return false;
	if (eth->proto == bpf_htons(ETH_P_IP))
		return ip4->version_ihl == 0x45 && ip4->proto == IPPROTO_TCP &&
		       !(ip4->frag & bpf_htons(0x3fff)) &&
		       tcp_opens_nothing(data + TCP4_OFF, skb->len - TCP4_OFF);
	if (data + TCP6_OFF + TCP_LEN > end || eth->proto != bpf_htons(ETH_P_IPV6))
		return false;
	return (ip6->version_flow & bpf_htonl(0xf0000000)) == bpf_htonl(0x60000000) &&
	       ip6->next == IPPROTO_TCP && tcp_opens_nothing(data + TCP6_OFF, skb->len - TCP6_OFF);
}

/* Fills the tuple of a plain UDP datagram: true. Neither fragments nor extension headers are followed,
 * for nothing is enforced on UDP: what hides from here passes. *s comes in zeroed. */
static __always_inline bool parse_udp(struct __sk_buff *skb, struct cv_segment *s)
{
	struct ip4_wire ip4;
	struct ip6_wire ip6;
	struct udp_wire udp;
	__be16 proto;

	if (parse_link(skb, s, &proto))
		return false;
	if (proto == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, s->l3, &ip4, sizeof(ip4)) || ip4.proto != IPPROTO_UDP ||
		    (ip4.frag & bpf_htons(0x3fff)))
			return false;
		s->l4 = s->l3 + (ip4.version_ihl & 0x0f) * 4;
		addr_from_v4(&s->tuple.src, ip4.src);
		addr_from_v4(&s->tuple.dst, ip4.dst);
	} else {
		if (proto != bpf_htons(ETH_P_IPV6) ||
		    bpf_skb_load_bytes(skb, s->l3, &ip6, sizeof(ip6)) || ip6.next != IPPROTO_UDP)
			return false;
		s->v6 = true;
		s->l4 = s->l3 + sizeof(ip6);
		addr_from_words(&s->tuple.src, ip6.src[0], ip6.src[1], ip6.src[2], ip6.src[3]);
		addr_from_words(&s->tuple.dst, ip6.dst[0], ip6.dst[1], ip6.dst[2], ip6.dst[3]);
	}
	if (bpf_skb_load_bytes(skb, s->l4, &udp, sizeof(udp)))
		return false;
	s->tuple.sport = udp.sport;
	s->tuple.dport = udp.dport;
	return true;
}

/* Does it open a connection? */
static __always_inline bool segment_is_syn(const struct cv_segment *s)
{
	return (s->flags & (CV_TCP_SYN | CV_TCP_ACK | CV_TCP_RST)) == CV_TCP_SYN;
}
