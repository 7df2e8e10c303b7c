// SPDX-License-Identifier: GPL-2.0-only
/*
 * The devices of a pod. pod_egress is the enforcement behind the fast path: nothing of TCP leaves
 * the pod that is not a known socket's, and what should have gone to the daemon goes there now. It
 * is also what brings DNS by UDP to the daemon; without a daemon that passes.
 * pod_ingress guards attested tuples against whoever else sends on them. Both fail closed for
 * TCP and leave everything else alone.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/instance.h"
#include "bpf/lib/parse.h"
#include "bpf/lib/verdict.h"

/* Offsets that are rewritten when a SYN becomes its own refusal. */
enum {
	ETH_SRC_OFF = ETH_ALEN_BYTES,
	IP4_SRC_OFF = 12,
	IP4_DST_OFF = 16,
	IP6_SRC_OFF = 8,
	IP6_DST_OFF = 24,
	TCP_SEQ_OFF = 4,
	TCP_FLAGS_OFF = 12,
	TCP_CHECK_OFF = 16,
};

static __always_inline enum cv_kind socket_kind(struct bpf_sock *sk)
{
	const struct cv_sk_entry *st = sk ? bpf_sk_storage_get(&cv_sk, sk, 0, 0) : 0;

	return st ? st->kind : CV_KIND_NONE;
}

/* Into lo, as if it came from there; routing by mark makes any address local. */
static __always_inline int to_daemon(struct __sk_buff *skb, const struct cv_segment *s,
				     enum cv_reason reason)
{
	__u8 no_mac[ETH_ALEN_BYTES] = {};
	__be16 proto = s->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);

	if (!s->l3) {
		if (bpf_skb_change_head(skb, ETH_HLEN_BYTES, 0) ||
		    bpf_skb_store_bytes(skb, 2 * ETH_ALEN_BYTES, &proto, sizeof(proto), 0))
			return tc_drop(CV_REASON_MALFORMED);
	}
	/* With the gateway's address it would be another host's packet. */
	if (bpf_skb_store_bytes(skb, 0, no_mac, sizeof(no_mac), 0))
		return tc_drop(CV_REASON_MALFORMED);
	skb->mark |= CV_FASTPATH_MARK;
	return tc_redirect(LOOPBACK_IFINDEX, reason);
}

static __always_inline void swap_macs(struct __sk_buff *skb)
{
	struct eth_wire eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return;
	bpf_skb_store_bytes(skb, 0, eth.src, sizeof(eth.src), 0);
	bpf_skb_store_bytes(skb, ETH_SRC_OFF, eth.dst, sizeof(eth.dst), 0);
}

/* Swapping addresses and ports leaves every checksum as it is. */
static __always_inline void swap_ends(struct __sk_buff *skb, const struct cv_segment *s)
{
	__be16 ports[2] = { s->tuple.dport, s->tuple.sport };
	struct cv_addr addrs[2] = { s->tuple.dst, s->tuple.src };

	if (s->v6) {
		bpf_skb_store_bytes(skb, s->l3 + IP6_SRC_OFF, addrs, sizeof(addrs), 0);
	} else {
		__be32 v4[2] = { addr_word(&addrs[0], 3), addr_word(&addrs[1], 3) };

		bpf_skb_store_bytes(skb, s->l3 + IP4_SRC_OFF, v4, sizeof(v4), 0);
	}
	bpf_skb_store_bytes(skb, s->l4, ports, sizeof(ports), 0);
}

/* Turns a SYN into the RST|ACK that answers it, received on the same device: the kernel would
 * send none from an address that is not local, and connect() would hang. */
static __always_inline int refuse(struct __sk_buff *skb, const struct cv_segment *s,
				  enum cv_reason reason)
{
	__be32 seq_ack[2] = { 0, bpf_htonl(s->seq + 1) };
	__be16 flags = (s->offset_flags & bpf_htons(0xf000)) | bpf_htons(CV_TCP_RST | CV_TCP_ACK);
	__u32 check = s->l4 + TCP_CHECK_OFF;

	bpf_l4_csum_replace(skb, check, bpf_htonl(s->seq), seq_ack[0], sizeof(__be32));
	bpf_l4_csum_replace(skb, check, s->ack, seq_ack[1], sizeof(__be32));
	bpf_l4_csum_replace(skb, check, s->offset_flags, flags, sizeof(__be16));
	bpf_skb_store_bytes(skb, s->l4 + TCP_SEQ_OFF, seq_ack, sizeof(seq_ack), 0);
	bpf_skb_store_bytes(skb, s->l4 + TCP_FLAGS_OFF, &flags, sizeof(flags), 0);
	swap_ends(skb, s);
	if (s->l3)
		swap_macs(skb);
	return tc_redirect(skb->ifindex, reason);
}

/* Does the IP header that a walk finds name the peer of the socket? */
static __always_inline bool walk_names_peer(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct cv_segment s = {};
	__be16 proto = 0;
	__be32 dst[4];

	if (parse_link(skb, &s, &proto))
		return false;
	if (proto == bpf_htons(ETH_P_IP))
		return !bpf_skb_load_bytes(skb, s.l3 + IP4_DST_OFF, dst, sizeof(dst[0])) &&
		       dst[0] == sk->dst_ip4;
	return proto == bpf_htons(ETH_P_IPV6) &&
	       !bpf_skb_load_bytes(skb, s.l3 + IP6_DST_OFF, dst, sizeof(dst)) &&
	       dst[0] == sk->dst_ip6[0] && dst[1] == sk->dst_ip6[1] && dst[2] == sk->dst_ip6[2] &&
	       dst[3] == sk->dst_ip6[3];
}

/* Does the IP header name the peer of the socket that sent it? A source route, which needs no
 * privilege, would carry an admitted connection's payload elsewhere. */
static __always_inline bool names_peer(struct __sk_buff *skb, struct bpf_sock *sk)
{
	const void *data = (const void *)(long)skb->data;
	const void *end = (const void *)(long)skb->data_end;
	const struct eth_wire *eth = data;
	const struct ip4_wire *ip4 = data + sizeof(*eth);
	const struct ip6_wire *ip6 = data + sizeof(*eth);

	if ((const void *)(ip4 + 1) > end || !is_framed(skb, eth))
		return walk_names_peer(skb, sk);
	/* dst_ip4 is right in AF_INET6 sockets that talk IPv4, too. */
	if (eth->proto == bpf_htons(ETH_P_IP))
		return ip4->dst == sk->dst_ip4;
	if ((const void *)(ip6 + 1) > end || eth->proto != bpf_htons(ETH_P_IPV6))
		return walk_names_peer(skb, sk);
	return ip6->dst[0] == sk->dst_ip6[0] && ip6->dst[1] == sk->dst_ip6[1] &&
	       ip6->dst[2] == sk->dst_ip6[2] && ip6->dst[3] == sk->dst_ip6[3];
}

/* No storage and no SYN: RSTs and TIME_WAIT ACKs have no full socket, and so has what a packet
 * socket sends. If somebody in this namespace would receive it, it is the daemon. */
static __always_inline int stray(struct __sk_buff *skb, const struct cv_segment *s)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	__u32 size, state;

	if (s->v6) {
		size = sizeof(t.ipv6);
		__builtin_memcpy(t.ipv6.saddr, &s->tuple.src, sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, &s->tuple.dst, sizeof(t.ipv6.daddr));
		t.ipv6.sport = s->tuple.sport;
		t.ipv6.dport = s->tuple.dport;
	} else {
		size = sizeof(t.ipv4);
		t.ipv4.saddr = addr_word(&s->tuple.src, 3);
		t.ipv4.daddr = addr_word(&s->tuple.dst, 3);
		t.ipv4.sport = s->tuple.sport;
		t.ipv4.dport = s->tuple.dport;
	}
	sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		state = sk->state;
		bpf_sk_release(sk);
		if (state != BPF_TCP_LISTEN)
			return to_daemon(skb, s, CV_REASON_LEG_ANSWER);
	}
	return s->has_payload ? tc_drop(CV_REASON_NO_SOCKET) : tc_next(CV_REASON_NO_PAYLOAD);
}

/* What is not TCP passes, but for the pod's own DNS queries while the daemon answers them. */
static __always_inline int judge_other(struct __sk_buff *skb, __u32 pod)
{
	struct cv_segment s = {};

	if (!parse_udp(skb, &s) || s.tuple.dport != bpf_htons(CV_PORT_DNS) ||
	    skb->ingress_ifindex || addr_pod(&s.tuple.src) != pod)
		return tc_next(CV_REASON_NOT_TCP);
	if (!dns_is_served(pod, &s.tuple.dst, s.tuple.dport, false))
		return tc_next(CV_REASON_DNS_UNSERVED);
	return to_daemon(skb, &s, CV_REASON_DNS);
}

static __always_inline int judge_segment(struct __sk_buff *skb, enum cv_kind kind, __u32 pod)
{
	struct cv_segment s = {};
	enum cv_reason why = parse_segment(skb, &s);

	if (why == CV_REASON_NOT_TCP)
		return judge_other(skb, pod);
	if (why)
		return tc_drop(why);
	if (s.fragment)
		return tc_drop(CV_REASON_FRAGMENT);
	if (skb->ingress_ifindex)
		return segment_is_syn(&s) ? refuse(skb, &s, CV_REASON_FORWARDED) :
					    tc_drop(CV_REASON_FORWARDED);
	if (addr_pod(&s.tuple.src) != pod)
		return tc_drop(CV_REASON_FORGED_SOURCE);
	if (segment_is_syn(&s))
		return listener_is_up(pod, CV_LISTENER_OUTBOUND) ?
			       to_daemon(skb, &s, CV_REASON_REDIRECTED) :
			       refuse(skb, &s, CV_REASON_NO_LISTENER);
	if (kind == CV_KIND_CAPTURED || kind == CV_KIND_LEG_PEER)
		return to_daemon(skb, &s, CV_REASON_REDIRECTED);
	return stray(skb, &s);
}

/* What a socket that needs no daemon sends: known by its storage alone, for each pod's capture was on
 * when that was written. NONE: not such a socket, or not what it should send. */
static __always_inline enum cv_reason known_sender(struct __sk_buff *skb, struct bpf_sock *sk,
						   enum cv_kind kind)
{
	switch (kind) {
	case CV_KIND_OLDER:
		return CV_REASON_OLDER;
	case CV_KIND_DAEMON:
		return CV_REASON_DAEMON_SOCKET;
	case CV_KIND_DIRECT:
		return sk && names_peer(skb, sk) ? CV_REASON_DIRECT : CV_REASON_NONE;
	case CV_KIND_ACCEPTED:
		return sk && names_peer(skb, sk) ? CV_REASON_ACCEPTED : CV_REASON_NONE;
	default:
		return CV_REASON_NONE;
	}
}

SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	enum cv_reason known;
	enum cv_kind kind;
	__u32 pod;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	kind = socket_kind(sk);
	known = known_sender(skb, sk, kind);
	if (known)
		return tc_next(known);
	pod = instance_pod();
	if (!pod)
		return tc_next(CV_REASON_NOT_ENROLLED);
	if (kind == CV_KIND_DIRECT || kind == CV_KIND_ACCEPTED)
		return tc_drop(CV_REASON_SOURCE_ROUTED);
	return judge_segment(skb, kind, pod);
}

SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	const struct cv_attested_entry *e;
	struct cv_segment s = {};
	enum cv_reason why;

	if (opens_nothing(skb))
		return tc_next(CV_REASON_NOT_SYN);
	why = parse_segment(skb, &s);
	if (why == CV_REASON_MALFORMED)
		return tc_drop(why);
	if (why == CV_REASON_NOT_TCP)
		return tc_next(why);
	/* Later fragments carry no header, and are nothing without the first. */
	if (why || !segment_is_syn(&s))
		return tc_next(CV_REASON_NOT_SYN);
	e = bpf_map_lookup_elem(&cv_attested, &s.tuple);
	if (!e)
		return tc_next(CV_REASON_NOT_ATTESTED);
	if (e->kind == CV_KIND_DAEMON_LEG)
		return tc_drop(CV_REASON_DAEMON_TUPLE);
	if (e->isn != s.seq)
		return tc_drop(CV_REASON_STALE_TUPLE);
	return tc_next(e->reason);
}
