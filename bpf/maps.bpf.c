// SPDX-License-Identifier: GPL-2.0-only
/*
 * The one definition of every map that maps/maps.bpf.h declares, of the data that the loader
 * fills in, and of the licence that the kernel asks for.
 */
#include "vmlinux.h"

#include "bpf/lib/instance.h"
#include "maps/maps.bpf.h"

struct cv_control_def cv_control SEC(".maps");
struct cv_pods_def cv_pods SEC(".maps");
struct cv_workloads_def cv_workloads SEC(".maps");
struct cv_services_def cv_services SEC(".maps");
struct cv_endpoints_def cv_endpoints SEC(".maps");
struct cv_verdicts_def cv_verdicts SEC(".maps");
struct cv_attested_def cv_attested SEC(".maps");
struct cv_usage_def cv_usage SEC(".maps");
struct cv_flows_def cv_flows SEC(".maps");
struct cv_listeners_def cv_listeners SEC(".maps");
struct cv_dns_def cv_dns SEC(".maps");
struct cv_sk_def cv_sk SEC(".maps");
struct cv_reasons_def cv_reasons SEC(".maps");
struct cv_events_def cv_events SEC(".maps");

volatile struct cv_pod_data pod_data SEC(".data.pod") = {};

char _license[] SEC("license") = "GPL";
