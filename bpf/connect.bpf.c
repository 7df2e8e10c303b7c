// SPDX-License-Identifier: GPL-2.0-only
/*
 * connect() and getpeername() of every process of the node, told apart by network namespace.
 *
 * connect() of an enrolled pod: a service VIP gets its endpoint, chosen once; what may go direct
 * is left alone; what must go to the daemon gets one bit in SO_MARK, with which policy routing
 * sends it to lo, so that no TC program touches its packets. Fails closed: a socket that slips
 * through without storage is captured by pod_egress. The node's own connections to local pods
 * are noted as probes. What is settled here is attested in node_sockops, before the SYN leaves.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/ask.h"
#include "bpf/lib/verdict.h"

/* Written by the loader before it loads the programs. */
const volatile struct cv_config cv_config = {};

/* One connect() call. */
struct cv_dial {
	struct cv_tuple tuple; /* dst and dport as dialled, then as rewritten */
	struct cv_addr endpoint; /* chosen and not dialled: the daemon honours it */
	__be16 endpoint_port;
	struct cv_addr vip; /* dialled and rewritten */
	__be16 vip_port;
	__u32 pod;
};

static __always_inline bool is_daemons(const struct cv_sk_entry *st)
{
	return st && (st->kind == CV_KIND_DAEMON || st->kind == CV_KIND_DAEMON_LEG);
}

/* Sets SO_MARK to the application's bits, with ours or without. */
static __always_inline bool set_mark(struct bpf_sock_addr *ctx, __u32 mark)
{
	return !bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

/* A socket may connect again after a failure or a disconnect: nothing of the last time stays. */
static __always_inline void forget_last(struct bpf_sock_addr *ctx, struct cv_sk_entry *st)
{
	if (st->flags & CV_SK_MARKED)
		set_mark(ctx, ctx->sk->mark & ~CV_FASTPATH_MARK);
	__builtin_memset(st, 0, sizeof(*st));
}

/* The endpoint for a service VIP: true when the daemon has compiled one. */
static __always_inline bool choose_endpoint(struct cv_dial *d, struct cv_endpoint_entry *ret)
{
	struct cv_service_key key = { .vip = d->tuple.dst, .port = d->tuple.dport };
	const struct cv_service_entry *svc = bpf_map_lookup_elem(&cv_services, &key);
	struct cv_endpoint_key slot = {};
	const struct cv_endpoint_entry *ep;

	if (!svc || !svc->nr_slots || (svc->flags & CV_SVC_WAYPOINT))
		return false;
	slot.service = svc->id;
	slot.slot = bpf_get_prandom_u32() % svc->nr_slots;
	ep = bpf_map_lookup_elem(&cv_endpoints, &slot);
	if (!ep)
		return false;
	*ret = *ep;
	return true;
}

/* Resolves a VIP. The endpoint is dialled in place when it may be reached directly; else the
 * VIP stays and the choice is noted, so that the spread over the endpoints is the same. */
static __always_inline struct cv_decision resolve(struct cv_dial *d)
{
	bool dns = dns_is_served(d->pod, &d->tuple.dst, d->tuple.dport, true);
	struct cv_endpoint_entry ep = {};
	struct cv_tuple direct = d->tuple;
	struct cv_decision decision;
	struct cv_question q;
	bool chosen;

	chosen = !dns && choose_endpoint(d, &ep);
	if (chosen) {
		direct.dst = ep.addr;
		direct.dport = ep.port;
	}
	q = ask(d->pod, &direct);
	q.dns = dns;
	if (!chosen)
		return decide(&q);
	q.loopback = 0; /* a service that leads back to the pod is judged like any other */
	q.endpoint = !q.dst_local;
	decision = decide(&q);
	if (decision.kind == CV_KIND_DIRECT && addr_is_v4(&ep.addr) == addr_is_v4(&d->tuple.dst)) {
		d->vip = d->tuple.dst;
		d->vip_port = d->tuple.dport;
		d->tuple = direct;
		return decision;
	}
	d->endpoint = ep.addr;
	d->endpoint_port = ep.port;
	/* A socket of one family cannot dial the other. */
	if (decision.kind == CV_KIND_DIRECT)
		decision = (struct cv_decision){ .kind = CV_KIND_CAPTURED,
						 .reason = CV_REASON_NEEDS_DAEMON };
	return decision;
}

static __always_inline int capture(struct bpf_sock_addr *ctx, struct cv_sk_entry *st, __u32 pod)
{
	__u32 mark = ctx->sk->mark;

	/* A forged source is pod_egress's to drop. */
	if (!control_fastpath() || st->reason == CV_REASON_FORGED_SOURCE)
		return call_pass(st->reason);
	if (!listener_is_up(pod, CV_LISTENER_OUTBOUND)) {
		/* Without bpf_set_retval connect() would say EPERM: pod_egress refuses instead. */
		if (!cv_config.set_retval)
			return call_pass(st->reason);
		bpf_set_retval(-ECONNREFUSED);
		return call_refuse(CV_REASON_NO_LISTENER);
	}
	/* On a socket that is bound to another device than lo the mark routes nothing, and pod_egress
	 * takes over. */
	if (!(mark & CV_FASTPATH_MARK) && set_mark(ctx, mark | CV_FASTPATH_MARK))
		st->flags |= CV_SK_MARKED;
	return call_pass(st->reason);
}

static __always_inline int dial_from_pod(struct bpf_sock_addr *ctx, struct cv_dial *d)
{
	struct cv_decision decision = resolve(d);
	struct cv_sk_entry *st;

	if (decision.kind == CV_KIND_SELF)
		return call_pass(decision.reason);
	st = bpf_sk_storage_get(&cv_sk, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st) {
		/* What was dialled stays, and goes to the daemon by way of pod_egress. */
		d->vip = (struct cv_addr){};
		return call_pass(CV_REASON_STORAGE_FULL);
	}
	st->kind = decision.kind;
	st->tier = decision.tier;
	st->reason = decision.reason;
	st->generation = decision.generation;
	st->vip = d->vip;
	st->vip_port = d->vip_port;
	st->endpoint = d->endpoint;
	st->endpoint_port = d->endpoint_port;
	if (decision.kind == CV_KIND_DIRECT)
		return call_pass(CV_REASON_DIRECT);
	return capture(ctx, st, d->pod);
}

/* The node's own processes outside the pods' cgroups may reach local pods: probes. */
static __always_inline int dial_from_host(struct bpf_sock_addr *ctx, struct cv_dial *d,
					  __u64 netns_cookie)
{
	const struct cv_control_entry *c = control();
	struct cv_sk_entry *st;

	if (!c || c->host_netns_cookie != netns_cookie || !addr_pod(&d->tuple.dst))
		return call_pass(CV_REASON_NOT_ENROLLED);
	if (c->pods_cgroup &&
	    bpf_get_current_ancestor_cgroup_id(c->pods_cgroup_level) == c->pods_cgroup)
		return call_pass(CV_REASON_NOT_ENROLLED);
	st = bpf_sk_storage_get(&cv_sk, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return call_pass(CV_REASON_STORAGE_FULL);
	st->kind = CV_KIND_PROBE;
	st->reason = CV_REASON_PROBE;
	return call_pass(CV_REASON_PROBE);
}

static __always_inline int dial(struct bpf_sock_addr *ctx, struct cv_dial *d)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	const struct cv_pod *pod;
	struct cv_sk_entry *st;

	if (ctx->protocol != IPPROTO_TCP)
		return call_pass(CV_REASON_NOT_TCP);
	st = bpf_sk_storage_get(&cv_sk, ctx->sk, 0, 0);
	if (is_daemons(st))
		return call_pass(CV_REASON_DAEMON_SOCKET);
	if (st)
		forget_last(ctx, st);
	pod = bpf_map_lookup_elem(&cv_pods, &cookie);
	if (!pod)
		return dial_from_host(ctx, d, cookie);
	if (!(pod->flags & CV_POD_CAPTURE))
		return call_pass(CV_REASON_NOT_ENROLLED);
	d->pod = pod->pod;
	return dial_from_pod(ctx, d);
}

SEC("cgroup/connect4")
int pod_connect4(struct bpf_sock_addr *ctx)
{
	struct cv_dial d = { .tuple.dport = ctx->user_port };
	int verdict;

	addr_from_v4(&d.tuple.dst, ctx->user_ip4);
	addr_from_v4(&d.tuple.src, ctx->sk->src_ip4);
	verdict = dial(ctx, &d);
	if (!addr_is_any(&d.vip)) {
		ctx->user_ip4 = addr_word(&d.tuple.dst, 3);
		ctx->user_port = d.tuple.dport;
	}
	return verdict;
}

SEC("cgroup/connect6")
int pod_connect6(struct bpf_sock_addr *ctx)
{
	struct cv_dial d = { .tuple.dport = ctx->user_port };
	struct bpf_sock *sk = ctx->sk;
	int verdict;

	addr_from_words(&d.tuple.dst, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
			ctx->user_ip6[3]);
	addr_from_words(&d.tuple.src, sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2],
			sk->src_ip6[3]);
	verdict = dial(ctx, &d);
	if (!addr_is_any(&d.vip)) {
		ctx->user_ip6[0] = addr_word(&d.tuple.dst, 0);
		ctx->user_ip6[1] = addr_word(&d.tuple.dst, 1);
		ctx->user_ip6[2] = addr_word(&d.tuple.dst, 2);
		ctx->user_ip6[3] = addr_word(&d.tuple.dst, 3);
		ctx->user_port = d.tuple.dport;
	}
	return verdict;
}

/* The address that the application dialled, when connect() exchanged it; else NULL. */
static __always_inline const struct cv_sk_entry *rewritten(struct bpf_sock_addr *ctx)
{
	const struct cv_sk_entry *st = bpf_sk_storage_get(&cv_sk, ctx->sk, 0, 0);

	return st && !addr_is_any(&st->vip) ? st : 0;
}

SEC("cgroup/getpeername4")
int pod_peername4(struct bpf_sock_addr *ctx)
{
	const struct cv_sk_entry *st = rewritten(ctx);

	if (!st)
		return call_pass(CV_REASON_NOT_REWRITTEN);
	ctx->user_ip4 = addr_word(&st->vip, 3);
	ctx->user_port = st->vip_port;
	return call_pass(CV_REASON_REWRITTEN);
}

SEC("cgroup/getpeername6")
int pod_peername6(struct bpf_sock_addr *ctx)
{
	const struct cv_sk_entry *st = rewritten(ctx);

	if (!st)
		return call_pass(CV_REASON_NOT_REWRITTEN);
	ctx->user_ip6[0] = addr_word(&st->vip, 0);
	ctx->user_ip6[1] = addr_word(&st->vip, 1);
	ctx->user_ip6[2] = addr_word(&st->vip, 2);
	ctx->user_ip6[3] = addr_word(&st->vip, 3);
	ctx->user_port = st->vip_port;
	return call_pass(CV_REASON_REWRITTEN);
}
