// SPDX-License-Identifier: GPL-2.0-only
/*
 * Somebody else's programs on the hooks that culvert uses: a sockops program with callback flags
 * of its own, and a TC program behind culvert's.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

/* At ESTABLISHED: erase all callback flags, ours included. */
bool erase_flags = false;

/* End the chain, so that no program behind this one runs. */
bool end_chain = false;

__u64 rtt_calls = 0;
__u64 packets = 0;

SEC("sockops")
int foreign_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (!erase_flags)
			bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (erase_flags)
			bpf_sock_ops_cb_flags_set(ctx, 0);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		__sync_fetch_and_add(&rtt_calls, 1);
		break;
	}
	return 1;
}

SEC("tc")
int foreign_tc(struct __sk_buff *skb)
{
	if (skb->len)
		__sync_fetch_and_add(&packets, 1);
	return end_chain ? TCX_PASS : TCX_NEXT;
}

char _license[] SEC("license") = "GPL";
