// SPDX-License-Identifier: GPL-2.0-only
/*
 * Walks over the TCP sockets of the network namespace in which the iterator is read.
 *
 * mark_older writes one byte to the reader for each socket that it marked. sweep_attested writes
 * nothing: it stamps what belongs to a live socket with cv_control.sweep. An attested entry or an
 * open flow whose stamp is two sweeps old belongs to no socket, and is the daemon's to remove.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/flow.h"
#include "bpf/lib/verdict.h"

/* Only a connection can be older; a listener's children are judged when they are accepted. */
static __always_inline bool is_connection(const struct sock_common *sk)
{
	return sk->skc_state != BPF_TCP_LISTEN && sk->skc_state != BPF_TCP_CLOSE;
}

SEC("iter/tcp")
int mark_older(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct cv_sk_entry *st;
	__u8 marked = 1;

	if (!sk || !is_connection(sk))
		return iter_next();
	st = bpf_sk_storage_get(&cv_sk, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st || st->kind)
		return iter_next();
	st->kind = CV_KIND_OLDER;
	st->reason = CV_REASON_OLDER;
	bpf_seq_write(ctx->meta->seq, &marked, sizeof(marked));
	return iter_next();
}

static __always_inline void read_tuple(const struct sock_common *sk, struct cv_tuple *t)
{
	if (sk->skc_family == AF_INET) {
		addr_from_v4(&t->src, sk->skc_rcv_saddr);
		addr_from_v4(&t->dst, sk->skc_daddr);
	} else {
		addr_from_words(&t->src, sk->skc_v6_rcv_saddr.in6_u.u6_addr32[0],
				sk->skc_v6_rcv_saddr.in6_u.u6_addr32[1],
				sk->skc_v6_rcv_saddr.in6_u.u6_addr32[2],
				sk->skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
		addr_from_words(&t->dst, sk->skc_v6_daddr.in6_u.u6_addr32[0],
				sk->skc_v6_daddr.in6_u.u6_addr32[1],
				sk->skc_v6_daddr.in6_u.u6_addr32[2],
				sk->skc_v6_daddr.in6_u.u6_addr32[3]);
	}
	t->sport = bpf_htons(sk->skc_num);
	t->dport = sk->skc_dport;
}

static __always_inline void stamp_flow(struct sock_common *sk, __u64 cookie, __u32 sweep)
{
	struct cv_flow_entry *flow = bpf_map_lookup_elem(&cv_flows, &cookie);
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!flow || !tp || flow->state == CV_FLOW_CLOSED)
		return;
	flow->swept = sweep;
	flow->sent_bytes = tp->bytes_sent - tp->bytes_retrans;
	flow->received_bytes = tp->bytes_received;
}

SEC("iter/tcp")
int sweep_attested(struct bpf_iter__tcp *ctx)
{
	const struct cv_control_entry *c = control();
	struct sock_common *sk = ctx->sk_common;
	struct cv_attested_entry *e;
	struct cv_sk_entry *st;
	struct cv_tuple t = {};
	__u64 cookie;

	if (!sk || !c || !is_connection(sk))
		return iter_next();
	st = bpf_sk_storage_get(&cv_sk, sk, 0, 0);
	if (!st || !(st->flags & CV_SK_ATTESTED))
		return iter_next();
	cookie = bpf_get_socket_cookie(sk);
	read_tuple(sk, &t);
	e = bpf_map_lookup_elem(&cv_attested, &t);
	if (e && e->cookie == cookie)
		e->swept = c->sweep;
	stamp_flow(sk, cookie, c->sweep);
	return iter_next();
}
