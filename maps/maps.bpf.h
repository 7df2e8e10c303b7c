/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map of the kernel plane, BPF side only: bpf/maps.bpf.c defines what is declared here, and
 * the BPF linker joins all programs on it. loader/tables.c is the only user-space reader and
 * writer. Hashes are not preallocated: their capacity is a bound, not a cost. All maps are pinned
 * below the bpffs directory under their own names, and adopted by the next daemon.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "maps/reasons.h"
#include "maps/types.h"

/* cv_control: the daemon's run-time switches; one entry.
 *   written by  the daemon at start, on a new policy generation and before a sweep
 *   read by     pod_connect4/6, node_sockops, sweep_attested
 *   full        cannot be
 *   lifetime    as long as the pins */
struct cv_control_def {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cv_control_entry);
};
extern struct cv_control_def cv_control SEC(".maps");

/* cv_pods: enrolled pods, by the cookie of their network namespace.
 *   written by  enrolment and removal
 *   read by     every program
 *   full        -E2BIG: the enrolment fails and is undone
 *   lifetime    of the enrolment */
struct cv_pods_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_PODS);
	__type(key, __u64);
	__type(value, struct cv_pod);
};
extern struct cv_pods_def cv_pods SEC(".maps");

/* cv_workloads: which enrolled pod owns an address; every address of the pod's devices is here,
 * for what is not here counts as forged.
 *   written by  enrolment, and when a pod's addresses change
 *   read by     every program
 *   full        -E2BIG: the enrolment fails and is undone
 *   lifetime    of the enrolment */
struct cv_workloads_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_WORKLOADS);
	__type(key, struct cv_addr);
	__type(value, struct cv_workload_entry);
};
extern struct cv_workloads_def cv_workloads SEC(".maps");

/* cv_services: service VIPs and ports that connect() may resolve.
 *   written by  the verdict compiler, after the endpoints
 *   read by     pod_connect4/6
 *   full        -E2BIG: the VIP stays the daemon's to resolve
 *   lifetime    of the service */
struct cv_services_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_SERVICES);
	__type(key, struct cv_service_key);
	__type(value, struct cv_service_entry);
};
extern struct cv_services_def cv_services SEC(".maps");

/* cv_endpoints: the slots of a service, healthy endpoints only, each as often as its weight.
 *   written by  the verdict compiler, before the service
 *   read by     pod_connect4/6
 *   full        -E2BIG: the service gets no slots and stays the daemon's to resolve
 *   lifetime    of the service */
struct cv_endpoints_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_ENDPOINTS);
	__type(key, struct cv_endpoint_key);
	__type(value, struct cv_endpoint_entry);
};
extern struct cv_endpoints_def cv_endpoints SEC(".maps");

/* cv_verdicts: policy's answer for each pair of local pods. No entry means that the daemon
 * decides, so an incomplete table costs speed and admits nothing.
 *   written by  the verdict compiler
 *   read by     pod_connect4/6, node_sockops, pod_lookup
 *   full        -E2BIG: the pair stays without an entry
 *   lifetime    of the pair */
struct cv_verdicts_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_VERDICTS);
	__type(key, struct cv_verdict_key);
	__type(value, struct cv_verdict_entry);
};
extern struct cv_verdicts_def cv_verdicts SEC(".maps");

/* cv_attested: who opened a live connection. A plain hash: an entry that the kernel evicted by
 * itself would turn an admitted connection into an unknown one.
 *   written by  node_sockops at TCP_CONNECT_CB, before the SYN leaves
 *   read by     pod_lookup, pod_ingress, pod_egress; the daemon at accept()
 *   full        counted attested_full: the connection goes to the daemon, unattested
 *   lifetime    of the initiator's socket; a sweep removes what a lost CLOSE left */
struct cv_attested_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_ATTESTED);
	__type(key, struct cv_tuple);
	__type(value, struct cv_attested_entry);
};
extern struct cv_attested_def cv_attested SEC(".maps");

/* cv_usage: what each pod holds of the shared tables, so that no pod can fill them.
 *   written by  node_sockops; a sweep corrects it
 *   read by     node_sockops
 *   full        cannot be
 *   lifetime    as long as the pins; the slot is zeroed with the pod's enrolment */
struct cv_usage_def {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CV_MAX_PODS);
	__type(key, __u32);
	__type(value, struct cv_usage_entry);
};
extern struct cv_usage_def cv_usage SEC(".maps");

/* cv_flows: records of connections that no proxy sees, by the initiator's socket cookie.
 *   written by  node_sockops, sweep_attested
 *   read by     the daemon, which removes a record once it has reported its end
 *   full        counted flows_full: the flow lives and is not reported
 *   lifetime    until the daemon has read the closed record */
struct cv_flows_def {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CV_MAX_FLOWS);
	__type(key, __u64);
	__type(value, struct cv_flow_entry);
};
extern struct cv_flows_def cv_flows SEC(".maps");

/* cv_listeners: the daemon's listening sockets, CV_LISTENER_NR slots a pod.
 *   written by  the daemon; the kernel clears a slot when its socket closes
 *   read by     pod_lookup (steers to it), pod_connect4/6 and pod_egress (is the daemon there?)
 *   full        cannot be
 *   lifetime    of the listening socket */
struct cv_listeners_def {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, CV_MAX_PODS *CV_LISTENER_NR);
	__type(key, __u32);
	__type(value, __u64);
};
extern struct cv_listeners_def cv_listeners SEC(".maps");

/* cv_dns: the daemon's DNS sockets, CV_DNS_NR slots a pod. An empty slot means that the daemon does
 * not serve DNS there: TCP goes the way of any other connection, UDP passes.
 *   written by  the daemon; the kernel clears a slot when its socket closes
 *   read by     pod_lookup (steers to it), pod_connect4/6, node_sockops and pod_egress (is it there?)
 *   full        cannot be
 *   lifetime    of the socket */
struct cv_dns_def {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, CV_MAX_PODS *CV_DNS_NR);
	__type(key, __u32);
	__type(value, __u64);
};
extern struct cv_dns_def cv_dns SEC(".maps");

/* cv_sk: what one socket is to us.
 *   written by  pod_connect4/6, node_sockops, mark_older; the daemon through its own sockets' fds
 *   read by     pod_connect4/6, pod_peername4/6, node_sockops, pod_egress, sweep_attested
 *   full        no memory, counted storage_full: pod_egress captures what has no storage
 *   lifetime    of the socket */
struct cv_sk_def {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct cv_sk_entry);
};
extern struct cv_sk_def cv_sk SEC(".maps");

/* cv_reasons: how often a program left early: one entry of named counters.
 *   written by  every program, through bpf/lib/verdict.h
 *   read by     status, metrics, bpftool
 *   full        cannot be
 *   lifetime    as long as the pins: counters only grow */
struct cv_reasons_def {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cv_reasons_entry);
};
extern struct cv_reasons_def cv_reasons SEC(".maps");

/* cv_events: nudges to look at cv_flows.
 *   written by  node_sockops
 *   read by     the daemon
 *   full        counted events_full: the record is found by the next walk
 *   lifetime    until consumed */
struct cv_events_def {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, CV_EVENTS_BYTES);
};
extern struct cv_events_def cv_events SEC(".maps");
