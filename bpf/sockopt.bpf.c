// SPDX-License-Identifier: GPL-2.0-only
/*
 * Socket options with which a pod's packets would skip the TC hook: refused in enrolled pods.
 * Sockets that had them before the enrolment are not undone by this.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/verdict.h"
#include "maps/maps.bpf.h"

enum { CV_SOCKOPT_COPIED_BYTES = 4096 };

static __always_inline enum cv_reason skips_tc(struct bpf_sockopt *ctx)
{
	if (ctx->level == SOL_PACKET && ctx->optname == PACKET_QDISC_BYPASS)
		return CV_REASON_QDISC_BYPASS;
	if (ctx->level == SOL_XDP && (ctx->optname == XDP_RX_RING || ctx->optname == XDP_TX_RING))
		return CV_REASON_AF_XDP;
	return CV_REASON_NONE;
}

SEC("cgroup/setsockopt")
int pod_sockopt(struct bpf_sockopt *ctx)
{
	enum cv_reason reason = skips_tc(ctx);
	__u64 cookie;

	/* The kernel copies a page for us; 0 says to use the caller's whole buffer as it is. */
	if (ctx->optlen > CV_SOCKOPT_COPIED_BYTES)
		ctx->optlen = 0;
	if (!reason)
		return call_pass(CV_REASON_SOCKOPT);
	cookie = bpf_get_netns_cookie(ctx);
	if (!bpf_map_lookup_elem(&cv_pods, &cookie))
		return call_pass(CV_REASON_NOT_ENROLLED);
	return call_refuse(reason);
}
