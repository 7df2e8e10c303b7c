// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who in the pod receives a new connection: the application or one of the daemon's listeners.
 *
 * Runs again for a retransmitted SYN, for the ACK that answers a SYN cookie, and inside look-up
 * helpers; so it changes nothing, and gives the same answer each time. A missing listener is a
 * refusal, never a reason to try the application.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/flow.h"
#include "bpf/lib/instance.h"
#include "bpf/lib/verdict.h"

static __always_inline bool read_tuple(struct bpf_sk_lookup *ctx, struct cv_tuple *t)
{
	if (ctx->family == AF_INET) {
		addr_from_v4(&t->src, ctx->remote_ip4);
		addr_from_v4(&t->dst, ctx->local_ip4);
	} else if (ctx->family == AF_INET6) {
		addr_from_words(&t->src, ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
				ctx->remote_ip6[3]);
		addr_from_words(&t->dst, ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
				ctx->local_ip6[3]);
	} else {
		return false;
	}
	t->sport = ctx->remote_port;
	t->dport = bpf_htons(ctx->local_port);
	return true;
}

/* True: the socket in this slot of a map receives it. */
static __always_inline bool assign(struct bpf_sk_lookup *ctx, void *map, __u32 key)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(map, &key);
	long err;

	if (!sk)
		return false;
	/* Another program of the pod may have chosen before us. */
	err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(sk);
	return !err;
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 pod, enum cv_listener slot,
				 enum cv_reason reason)
{
	if (!assign(ctx, &cv_listeners, pod * CV_LISTENER_NR + slot))
		return lookup_drop(CV_REASON_NO_LISTENER);
	return lookup_pass(reason);
}

/* What left the pod for another address and came back by lo: TCP to a listener, or to nobody; DNS to
 * the daemon's resolver while that is there. */
static __always_inline bool steer_dns(struct bpf_sk_lookup *ctx, __u32 pod,
				      const struct cv_tuple *t, bool tcp)
{
	return t->dport == bpf_htons(CV_PORT_DNS) &&
	       assign(ctx, &cv_dns, dns_slot(pod, &t->dst, tcp));
}

/* Of UDP only the queries that pod_egress brought back are ours. Whoever else has a socket for such a
 * packet may have it. */
static __always_inline int lookup_udp(struct bpf_sk_lookup *ctx, __u32 pod)
{
	struct cv_tuple t = {};

	if (ctx->local_port != CV_PORT_DNS || !read_tuple(ctx, &t))
		return lookup_pass(CV_REASON_NOT_TCP);
	if (addr_pod(&t.src) != pod || addr_pod(&t.dst) == pod || addr_is_loopback(&t.dst))
		return lookup_pass(CV_REASON_NOT_TCP);
	return lookup_pass(steer_dns(ctx, pod, &t, false) ? CV_REASON_DNS : CV_REASON_DNS_UNSERVED);
}

/* Reason to let a connection through to the application; NONE = there is no such reason. */
static __always_inline enum cv_reason admit(const struct cv_tuple *t, __u32 pod)
{
	const struct cv_attested_entry *e = bpf_map_lookup_elem(&cv_attested, t);

	if (!e || e->dst_pod != pod)
		return CV_REASON_NONE;
	switch (e->kind) {
	case CV_KIND_DIRECT:
		return verdict_is_direct(e->src_pod, pod, t->dport) ? CV_REASON_DIRECT :
								      CV_REASON_NONE;
	case CV_KIND_PROBE:
		return CV_REASON_PROBE;
	case CV_KIND_DAEMON_LEG:
		return CV_REASON_DAEMON_SOCKET;
	default:
		return CV_REASON_NONE;
	}
}

SEC("sk_lookup")
int pod_lookup(struct bpf_sk_lookup *ctx)
{
	__u32 pod = instance_pod();
	struct cv_tuple t = {};
	enum cv_reason admitted;
	bool src_own, dst_own;

	if (!pod)
		return lookup_pass(CV_REASON_NOT_ENROLLED);
	if (ctx->protocol == IPPROTO_UDP)
		return lookup_udp(ctx, pod);
	if (ctx->protocol != IPPROTO_TCP || !read_tuple(ctx, &t))
		return lookup_pass(CV_REASON_NOT_TCP);
	src_own = addr_pod(&t.src) == pod;
	dst_own = addr_pod(&t.dst) == pod;
	if (addr_is_loopback(&t.dst) || (src_own && dst_own))
		return lookup_pass(CV_REASON_LOOPBACK);
	/* Neither end is the pod's: not captured by us, and nobody's to receive. */
	if (!src_own && !dst_own)
		return lookup_drop(CV_REASON_FORGED_SOURCE);
	if (!dst_own && steer_dns(ctx, pod, &t, true))
		return lookup_pass(CV_REASON_DNS);
	if (!dst_own)
		return steer(ctx, pod, CV_LISTENER_OUTBOUND, CV_REASON_CAPTURED);
	if (ctx->local_port == CV_PORT_HBONE)
		return steer(ctx, pod, CV_LISTENER_HBONE, CV_REASON_HBONE);
	admitted = admit(&t, pod);
	if (admitted)
		return lookup_pass(admitted);
	return steer(ctx, pod, CV_LISTENER_INBOUND, CV_REASON_INBOUND);
}
