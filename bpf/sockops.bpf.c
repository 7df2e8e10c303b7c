// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attestation, and the records of the connections that no proxy sees.
 *
 * TCP_CONNECT_CB runs after the local address and port are chosen and before the SYN leaves, so
 * what it writes is there when the SYN arrives. attest() inserts first and reads the verdict then;
 * the daemon writes verdicts first and walks the connections then: no order lets a connection
 * live that policy forbids. Whatever fails here leaves the connection to pod_egress, which
 * captures it. cb_flags and `reply` belong to everybody on the hook: one is ORed, the other left.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/ask.h"
#include "bpf/lib/attest.h"
#include "bpf/lib/verdict.h"

/* Local and remote address as source and destination; the reverse of it for accepted sockets. */
static __always_inline bool read_tuple(struct bpf_sock_ops *ctx, struct cv_tuple *t)
{
	if (ctx->family == AF_INET) {
		addr_from_v4(&t->src, ctx->local_ip4);
		addr_from_v4(&t->dst, ctx->remote_ip4);
	} else if (ctx->family == AF_INET6) {
		addr_from_words(&t->src, ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
				ctx->local_ip6[3]);
		addr_from_words(&t->dst, ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
				ctx->remote_ip6[3]);
	} else {
		return false;
	}
	t->sport = bpf_htons(ctx->local_port);
	t->dport = bpf_htons(bpf_ntohl(ctx->remote_port));
	return true;
}

static __always_inline struct cv_tuple reverse(const struct cv_tuple *t)
{
	return (struct cv_tuple){
		.src = t->dst, .dst = t->src, .sport = t->dport, .dport = t->sport
	};
}

static __always_inline struct cv_sk_entry *storage(struct bpf_sock *sk, __u64 flags)
{
	struct cv_sk_entry *st = bpf_sk_storage_get(&cv_sk, sk, 0, flags);

	if (!st && flags)
		count(CV_REASON_STORAGE_FULL);
	return st;
}

/* Sequence number that the SYN will carry. */
static __always_inline __u32 initial_sequence(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp ? tp->write_seq : 0;
}

static __always_inline void nudge(__u32 type, __u64 cookie)
{
	struct cv_event event = { .type = type, .cookie = cookie };

	if (bpf_ringbuf_output(&cv_events, &event, sizeof(event), 0))
		count(CV_REASON_EVENTS_FULL);
}

static __noinline void flow_open(const struct cv_tuple *t, const struct cv_attested_entry *e)
{
	const struct cv_control_entry *c = control();
	struct cv_flow_entry flow = {};

	if (!t || !e)
		return;
	flow.tuple = *t;
	flow.vip = e->vip;
	flow.vip_port = e->vip_port;
	flow.src_pod = e->src_pod;
	flow.dst_pod = e->dst_pod;
	flow.kind = e->kind;
	flow.tier = e->tier;
	flow.generation = e->generation;
	flow.swept = c ? c->sweep : 0;
	flow.opened_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&cv_flows, &e->cookie, &flow, BPF_ANY))
		count(CV_REASON_FLOWS_FULL);
}

/* What the socket of a pod's application is about to do. False: nothing to attest. */
static __always_inline bool judge_pod(const struct cv_tuple *t, struct cv_sk_entry *st,
				      struct cv_attested_entry *e)
{
	struct cv_question q = ask(e->src_pod, t);
	struct cv_decision d = decide(&q);

	if (d.kind == CV_KIND_SELF) {
		st->kind = CV_KIND_SELF;
		return false;
	}
	e->dst_pod = addr_pod(&t->dst);
	e->answer = d.answer;
	e->generation = d.generation;
	/* connect() has already chosen the route to the daemon, and told why. */
	if (st->kind != CV_KIND_CAPTURED) {
		st->kind = d.kind;
		st->tier = d.tier;
		st->reason = d.reason;
	}
	e->kind = st->kind;
	e->tier = st->tier;
	e->reason = st->reason;
	e->vip = st->vip;
	e->vip_port = st->vip_port;
	e->endpoint = st->endpoint;
	e->endpoint_port = st->endpoint_port;
	if (!addr_is_any(&e->endpoint)) {
		e->vip = t->dst;
		e->vip_port = t->dport;
	}
	return q.src_own;
}

/* False: the socket is not ours to attest. */
static __always_inline bool judge(const struct cv_tuple *t, struct cv_sk_entry *st,
				  struct cv_attested_entry *e)
{
	switch (st->kind) {
	case CV_KIND_DAEMON:
		return false;
	case CV_KIND_DAEMON_LEG:
		e->kind = CV_KIND_DAEMON_LEG;
		e->dst_pod = e->src_pod;
		return true;
	case CV_KIND_PROBE:
		e->kind = CV_KIND_PROBE;
		e->reason = CV_REASON_PROBE;
		e->dst_pod = addr_pod(&t->dst);
		return e->dst_pod;
	default:
		return e->src_pod && judge_pod(t, st, e);
	}
}

static __always_inline void attest_socket(struct bpf_sock_ops *ctx, const struct cv_tuple *t,
					  struct cv_sk_entry *st, __u32 pod)
{
	const struct cv_control_entry *c = control();
	struct bpf_sock *sk = ctx->sk;
	struct cv_attested_entry e = { .src_pod = pod };

	if (!sk || !judge(t, st, &e))
		return;
	e.cookie = bpf_get_socket_cookie(ctx);
	e.isn = initial_sequence(sk);
	e.swept = c ? c->sweep : 0;
	if (!attest(t, &e)) {
		count(CV_REASON_ATTESTED_FULL);
		if (st->kind == CV_KIND_DIRECT)
			st->kind = CV_KIND_CAPTURED;
		return;
	}
	if (st->kind != e.kind) { /* the verdict has changed */
		st->kind = e.kind;
		st->tier = e.tier;
		st->reason = e.reason;
	}
	st->flags |= CV_SK_ATTESTED;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	if (e.kind == CV_KIND_DIRECT || e.kind == CV_KIND_PROBE)
		flow_open(t, &e);
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	const struct cv_pod *pod = bpf_map_lookup_elem(&cv_pods, &cookie);
	struct bpf_sock *sk = ctx->sk;
	struct cv_sk_entry *st;
	struct cv_tuple t = {};

	if (!sk || !read_tuple(ctx, &t))
		return;
	attest_clear(&t, pod ? pod->pod : 0);
	/* Of sockets outside the pods only those count that connect() has noted as probes. */
	st = storage(sk, pod ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!st)
		return;
	if (!pod)
		attest_socket(ctx, &t, st, 0);
	else if (pod->flags & CV_POD_CAPTURE)
		attest_socket(ctx, &t, st, pod->pod);
	else if (st->kind != CV_KIND_DAEMON && st->kind != CV_KIND_DAEMON_LEG)
		st->kind = CV_KIND_OLDER;
}

static __always_inline void on_established(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct cv_flow_entry *flow = bpf_map_lookup_elem(&cv_flows, &cookie);

	if (!flow)
		return;
	flow->state = CV_FLOW_ESTABLISHED;
	flow->established_ns = bpf_ktime_get_ns();
	nudge(CV_EVENT_FLOW_ESTABLISHED, cookie);
}

/* The answers of an application on a leg of the daemon's go back to the daemon: by route, with
 * the mark, else by pod_egress. */
static __always_inline void mark_leg(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
				     struct cv_sk_entry *st)
{
	__u32 mark = sk->mark;

	if ((mark & CV_FASTPATH_MARK) || !control_fastpath())
		return;
	mark |= CV_FASTPATH_MARK;
	if (!bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		st->flags |= CV_SK_MARKED;
}

static __always_inline void on_accepted(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	const struct cv_pod *pod = bpf_map_lookup_elem(&cv_pods, &cookie);
	const struct cv_attested_entry *e;
	struct cv_tuple t = {}, initiator;
	struct bpf_sock *sk = ctx->sk;
	struct cv_sk_entry *st;

	if (!pod || !sk || !read_tuple(ctx, &t) || addr_pod(&t.src) != pod->pod)
		return;
	st = storage(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return;
	if (!(pod->flags & CV_POD_CAPTURE)) {
		st->kind = CV_KIND_OLDER;
		return;
	}
	initiator = reverse(&t);
	e = bpf_map_lookup_elem(&cv_attested, &initiator);
	if (!e || e->kind != CV_KIND_DAEMON_LEG || e->dst_pod != pod->pod) {
		st->kind = CV_KIND_ACCEPTED;
		return;
	}
	st->kind = CV_KIND_LEG_PEER;
	mark_leg(ctx, sk, st);
}

/* Payload both ways. A received FIN counts as one byte in bytes_received. */
static __always_inline void flow_bytes(struct bpf_sock *sk, struct cv_flow_entry *flow)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	unsigned long sk_flags;

	if (!tp)
		return;
	sk_flags = tp->inet_conn.icsk_inet.sk.__sk_common.skc_flags;
	flow->sent_bytes = tp->bytes_sent - tp->bytes_retrans;
	flow->received_bytes = tp->bytes_received;
	if (flow->received_bytes && (sk_flags & (1UL << SOCK_DONE)))
		flow->received_bytes--;
}

static __always_inline void on_close(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct cv_flow_entry *flow;
	struct cv_sk_entry *st;
	struct cv_tuple t = {};

	st = sk ? storage(sk, 0) : 0;
	if (!st || !(st->flags & CV_SK_ATTESTED) || !read_tuple(ctx, &t))
		return;
	st->flags &= ~CV_SK_ATTESTED;
	attest_end(&t, cookie);
	flow = bpf_map_lookup_elem(&cv_flows, &cookie);
	if (!flow || flow->state == CV_FLOW_CLOSED)
		return;
	flow_bytes(sk, flow);
	flow->closed_ns = bpf_ktime_get_ns();
	flow->state = CV_FLOW_CLOSED;
	nudge(CV_EVENT_FLOW_CLOSED, cookie);
}

SEC("sockops")
int node_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_established(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			on_close(ctx);
		break;
	}
	return ops_done();
}
