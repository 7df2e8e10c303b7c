/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose instance of a program runs. TC and sk_lookup programs cannot ask which network namespace
 * they run in, and eth0 has the same ifindex in every pod, so pod_egress and pod_lookup are
 * loaded once a pod, each copy with a .data.pod of its own. The loader copies the loaded
 * instructions and exchanges that one map; so these programs call no BPF subprograms.
 */
#pragma once

#include "maps/maps.bpf.h"

extern volatile struct cv_pod_data pod_data SEC(".data.pod");

/* The pod of this instance while its capture is on, else 0. */
static __always_inline __u32 instance_pod(void)
{
	__u64 cookie = pod_data.netns_cookie;
	const struct cv_pod *pod = bpf_map_lookup_elem(&cv_pods, &cookie);

	if (!pod || !(pod->flags & CV_POD_CAPTURE))
		return 0;
	return pod_data.pod;
}
