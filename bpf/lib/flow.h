/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Addresses and tuples. IPv4 is kept v4-mapped, so that one code path serves both families, and
 * AF_INET6 sockets that talk IPv4 need no case of their own.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "bpf/lib/consts.h"
#include "maps/maps.bpf.h"

/* The barriers keep clang from merging the loads of two address families into one load through
 * a computed context pointer, which the verifier refuses. */
static __always_inline void addr_from_words(struct cv_addr *a, __u32 w0, __u32 w1, __u32 w2,
					    __u32 w3)
{
	__u32 *w = (__u32 *)a->b;

	barrier_var(w0);
	barrier_var(w1);
	barrier_var(w2);
	barrier_var(w3);
	w[0] = w0;
	w[1] = w1;
	w[2] = w2;
	w[3] = w3;
}

static __always_inline void addr_from_v4(struct cv_addr *a, __u32 v4)
{
	__u32 *w = (__u32 *)a->b;

	barrier_var(v4);
	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = v4;
}

static __always_inline __u32 addr_word(const struct cv_addr *a, int i)
{
	return ((const __u32 *)a->b)[i];
}

static __always_inline bool addr_equal(const struct cv_addr *a, const struct cv_addr *b)
{
	return addr_word(a, 0) == addr_word(b, 0) && addr_word(a, 1) == addr_word(b, 1) &&
	       addr_word(a, 2) == addr_word(b, 2) && addr_word(a, 3) == addr_word(b, 3);
}

static __always_inline bool addr_is_v4(const struct cv_addr *a)
{
	return !addr_word(a, 0) && !addr_word(a, 1) && addr_word(a, 2) == bpf_htonl(0xffff);
}

/* :: and 0.0.0.0. */
static __always_inline bool addr_is_any(const struct cv_addr *a)
{
	return !addr_word(a, 0) && !addr_word(a, 1) && !addr_word(a, 3) &&
	       (!addr_word(a, 2) || addr_word(a, 2) == bpf_htonl(0xffff));
}

/* 127.0.0.0/8 and ::1. */
static __always_inline bool addr_is_loopback(const struct cv_addr *a)
{
	if (addr_is_v4(a))
		return a->b[12] == 127;
	return !addr_word(a, 0) && !addr_word(a, 1) && !addr_word(a, 2) &&
	       addr_word(a, 3) == bpf_htonl(1);
}

/* Number of the enrolled pod that owns an address; 0 = none. */
static __always_inline __u32 addr_pod(const struct cv_addr *a)
{
	const struct cv_workload_entry *w = bpf_map_lookup_elem(&cv_workloads, a);

	return w ? w->pod : 0;
}

static __always_inline bool port_is_daemons(__be16 port)
{
	return port == bpf_htons(CV_PORT_OUTBOUND) || port == bpf_htons(CV_PORT_INBOUND) ||
	       port == bpf_htons(CV_PORT_HBONE);
}

/* Policy's answer for a pair: the port's own entry, else the pair's. The daemon's own ports have
 * none: what the mesh sends there is the daemon's to refuse. */
static __always_inline const struct cv_verdict_entry *verdict_find(__u32 src_pod, __u32 dst_pod,
								   __be16 port)
{
	struct cv_verdict_key key = { .src_pod = src_pod, .dst_pod = dst_pod, .port = port };
	const struct cv_verdict_entry *v;

	if (port_is_daemons(port))
		return 0;
	v = bpf_map_lookup_elem(&cv_verdicts, &key);
	if (v)
		return v;
	key.port = 0;
	return bpf_map_lookup_elem(&cv_verdicts, &key);
}

/* May this pair go without a proxy, now? */
static __always_inline bool verdict_is_direct(__u32 src_pod, __u32 dst_pod, __be16 port)
{
	const struct cv_verdict_entry *v = verdict_find(src_pod, dst_pod, port);

	return v && v->answer == CV_ANSWER_ALLOW && v->tier == CV_TIER_DIRECT;
}

static __always_inline const struct cv_control_entry *control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cv_control, &zero);
}

static __always_inline bool control_fastpath(void)
{
	const struct cv_control_entry *c = control();

	return c && (c->flags & CV_CONTROL_FASTPATH);
}

/* Is there a socket in this slot of a map of the daemon's sockets? */
static __always_inline bool has_socket(void *map, __u32 key)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(map, &key);

	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/* Does the daemon listen? Asks the slot that pod_lookup steers to: the kernel empties it when
 * the socket closes, and nobody else's listener on that port can stand in for it. */
static __always_inline bool listener_is_up(__u32 pod, enum cv_listener slot)
{
	return has_socket(&cv_listeners, pod * CV_LISTENER_NR + slot);
}

/* Slot of cv_dns for packets of the destination's family. */
static __always_inline __u32 dns_slot(__u32 pod, const struct cv_addr *dst, bool tcp)
{
	__u32 first = tcp ? CV_DNS_TCP4 : CV_DNS_UDP4;

	return pod * CV_DNS_NR + first + !addr_is_v4(dst);
}

/* Is it for port 53, and does the daemon serve DNS to this pod? */
static __always_inline bool dns_is_served(__u32 pod, const struct cv_addr *dst, __be16 dport,
					  bool tcp)
{
	return dport == bpf_htons(CV_PORT_DNS) && has_socket(&cv_dns, dns_slot(pod, dst, tcp));
}
