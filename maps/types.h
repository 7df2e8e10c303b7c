/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every key and value that crosses the kernel boundary, declared once.
 *
 * Compiled as BPF (after vmlinux.h) and as C (after <linux/types.h>). Members are
 * naturally aligned, padding is spelled out and must be zero. Addresses are 16 bytes
 * in network order, IPv4 as ::ffff:a.b.c.d. Ports are __be16 in network order unless
 * the name ends in _host. Times are CLOCK_MONOTONIC nanoseconds.
 */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#include "maps/abi.h"

/* An IP address; IPv4 is kept v4-mapped so that one code path serves both families. */
struct cv_addr {
	__u8 b[16] __attribute__((aligned(4)));
};

/* A connection as its initiator sees it, whichever side looks it up. */
struct cv_tuple {
	struct cv_addr src;
	struct cv_addr dst;
	__be16 sport;
	__be16 dport;
	__u32 pad;
};

/* How a connection travels. Values are exported (metrics, CLI): never renumber. */
enum cv_tier {
	CV_TIER_NONE = 0, /* not decided yet */
	CV_TIER_TLS = 1, /* through the daemon in HBONE */
	CV_TIER_RELAY =
		2, /* through the daemon without TLS; reserved for waypoints and rules that BPF cannot answer */
	CV_TIER_DIRECT = 3, /* plain TCP, pod to pod, admitted by the kernel */
	CV_TIER_ACCELERATED = 4, /* direct, payload redirected socket to socket; reserved */
	CV_TIER_PASSTHROUGH = 5, /* through the daemon as plain TCP */
	CV_TIER_NR,
};

/* The daemon's answer for a pair of local pods. */
enum cv_answer {
	CV_ANSWER_NONE = 0, /* no entry: the daemon decides */
	CV_ANSWER_ALLOW = 1, /* policy allows; `tier` says how it travels */
	CV_ANSWER_DENY = 2, /* policy denies; the daemon refuses it in ztunnel's shape */
	CV_ANSWER_DAEMON = 3, /* the kernel cannot answer (waypoint, source-address rules, …) */
};

/* What a socket, or the connection that a tuple names, is to us. */
enum cv_kind {
	CV_KIND_NONE = 0,
	CV_KIND_OLDER = 1, /* was open when the pod was enrolled: passes untouched */
	CV_KIND_CAPTURED = 2, /* goes to the daemon's 15001 */
	CV_KIND_DIRECT = 3, /* attested, pod to pod */
	CV_KIND_PROBE = 4, /* host process outside the pods' cgroups -> local pod */
	CV_KIND_DAEMON = 5, /* the daemon's own leg that leaves the pod (HBONE, passthrough) */
	CV_KIND_DAEMON_LEG = 6, /* the daemon's own leg towards the pod's application */
	CV_KIND_LEG_PEER = 7, /* application side of a CV_KIND_DAEMON_LEG */
	CV_KIND_SELF = 8, /* loopback, or the pod to its own address: not ours to judge */
	CV_KIND_ACCEPTED = 9, /* passive side of any other connection of an enrolled pod */
	CV_KIND_NR,
};

/* cv_pods: an enrolled pod, keyed by the netns cookie of its sockets. */
struct cv_pod {
	__u32 pod; /* number, 1 … CV_MAX_PODS-1; index of cv_listeners; 0 is never used */
	__u32 flags; /* CV_POD_* */
	__u32 pad[2];
	__u64 netns_cookie;
	char name[64]; /* "namespace/name", NUL-terminated, cut when longer; for the reader of a dump */
};

/* While CV_POD_CAPTURE is off everything passes, and what connects or is accepted is marked
 * CV_KIND_OLDER. So an enrolment that adds the entry without the flag, runs mark_older and then
 * sets the flag leaves no connection unmarked in between. */
enum cv_pod_flags {
	CV_POD_CAPTURE = 1 << 0, /* capture is on; off while the pod is being enrolled or removed */
};

/* .data.pod: the pod that one instance of pod_egress or pod_lookup works for. pod 0, or a cookie
 * that cv_pods does not know, passes everything. */
struct cv_pod_data {
	__u32 pod; /* number, as in struct cv_pod */
	__u32 pad;
	__u64 netns_cookie; /* key of cv_pods */
};

/* cv_usage: what a pod holds now, by pod number; slot 0 is the node's own namespace. */
struct cv_usage_entry {
	__u32 attested; /* live entries of cv_attested with this src_pod */
	__u32 pad;
};

/* cv_workloads: which enrolled pod owns an address. */
struct cv_workload_entry {
	__u32 pod;
	__u32 flags; /* CV_WL_* */
};

enum cv_workload_flags {
	CV_WL_WAYPOINT = 1 << 0, /* has a waypoint: never direct */
};

/* cv_services: what the kernel knows about a service VIP and port. */
struct cv_service_key {
	struct cv_addr vip;
	__be16 port;
	__u16 pad[3];
};

struct cv_service_entry {
	__u32 id; /* first half of struct cv_endpoint_key */
	__u32 nr_slots; /* slots 0 … nr_slots-1 exist; 0 = the daemon chooses */
	__u32 flags; /* CV_SVC_* */
	__u32 generation;
};

enum cv_service_flags {
	CV_SVC_WAYPOINT = 1 << 0, /* has a waypoint: the daemon decides */
};

/* cv_endpoints: one slot of a service; an endpoint of weight w has w slots. */
struct cv_endpoint_key {
	__u32 service;
	__u32 slot;
};

struct cv_endpoint_entry {
	struct cv_addr addr;
	__be16 port; /* target port */
	__u16 pad;
	__u32 pod; /* enrolled pod of this node that owns addr, else 0 */
};

/* cv_verdicts: policy's answer for a pair of local pods. */
struct cv_verdict_key {
	__u32 src_pod;
	__u32 dst_pod;
	__be16 port; /* destination port; 0 = every port without an entry of its own */
	__u16 pad[3];
};

struct cv_verdict_entry {
	__u32 answer; /* enum cv_answer */
	__u32 tier; /* enum cv_tier when answer is CV_ANSWER_ALLOW */
	__u32 reason; /* enum cv_reason, why not direct */
	__u32 generation; /* cv_control.generation when it was written */
};

/* cv_attested: who opened a live connection, written before its SYN leaves.
 * The daemon reads it at accept() to learn what the kernel decided. */
struct cv_attested_entry {
	__u64 cookie; /* socket cookie of the initiator */
	__u32 src_pod; /* 0 = a process of the node's own network namespace */
	__u32 dst_pod; /* 0 = not an enrolled pod of this node */
	__u32 isn; /* sequence number that its SYN must carry, host order */
	__u32 kind; /* enum cv_kind */
	__u32 tier; /* enum cv_tier */
	__u32 answer; /* enum cv_answer at connect() */
	__u32 reason; /* enum cv_reason, why not direct */
	__u32 generation;
	struct cv_addr vip; /* what the application dialled, when a service VIP; else zero */
	struct cv_addr endpoint; /* endpoint that connect() chose; zero = none */
	__be16 vip_port;
	__be16 endpoint_port;
	__u32 swept; /* cv_control.sweep when its socket was last seen alive */
};

/* cv_flows: record of a direct (or probe) connection, keyed by the initiator's socket
 * cookie. It outlives the socket until the daemon has read and removed it. */
struct cv_flow_entry {
	struct cv_tuple tuple;
	struct cv_addr vip;
	__be16 vip_port;
	__u16 state; /* enum cv_flow_state */
	__u32 src_pod;
	__u32 dst_pod;
	__u32 kind;
	__u32 tier;
	__u32 generation;
	__u32 swept; /* cv_control.sweep when its socket was last seen alive */
	__u64 opened_ns; /* CONNECT_CB */
	__u64 established_ns; /* 0 = never */
	__u64 closed_ns; /* 0 = still open */
	__u64 sent_bytes; /* initiator -> responder, payload; of the last sweep until closed */
	__u64 received_bytes; /* responder -> initiator, payload; of the last sweep until closed */
};

enum cv_flow_state {
	CV_FLOW_CONNECTING = 0,
	CV_FLOW_ESTABLISHED = 1,
	CV_FLOW_CLOSED = 2,
};

/* cv_sk: storage of one socket (BPF_MAP_TYPE_SK_STORAGE); dies with the socket.
 * The daemon writes kind through the socket's fd before connect(). */
struct cv_sk_entry {
	__u32 kind; /* enum cv_kind */
	__u32 tier; /* enum cv_tier */
	__u32 reason; /* enum cv_reason */
	__u32 generation;
	struct cv_addr vip; /* original destination, for getpeername; zero = not rewritten */
	struct cv_addr endpoint; /* chosen endpoint; zero = none */
	__be16 vip_port;
	__be16 endpoint_port;
	__u32 flags; /* CV_SK_* */
};

enum cv_sk_flags {
	CV_SK_ATTESTED = 1 << 0, /* an entry of cv_attested is ours and is removed at close */
	CV_SK_MARKED = 1 << 1, /* CV_FASTPATH_MARK in SO_MARK is ours, not the application's */
};

/* cv_control: one entry, the daemon's run-time switches. */
struct cv_control_entry {
	__u64 host_netns_cookie; /* the node's own network namespace */
	__u64 pods_cgroup; /* cgroup v2 id below which every pod process lives; 0 = unknown */
	__u32 pods_cgroup_level; /* its ancestor level for bpf_get_current_ancestor_cgroup_id */
	__u32 generation; /* counts compiled policy generations */
	__u32 flags; /* CV_CONTROL_* */
	__u32 sweep; /* number of the sweep that runs or ran last, see sweep_attested */
};

enum cv_control_flags {
	CV_CONTROL_FASTPATH = 1 << 0, /* mark at connect(); off = TC alone captures */
};

/* cv_events: nudges; the maps are the truth. */
enum cv_event_type {
	CV_EVENT_FLOW_ESTABLISHED = 1,
	CV_EVENT_FLOW_CLOSED = 2,
};

struct cv_event {
	__u32 type; /* enum cv_event_type */
	__u32 pad;
	__u64 cookie; /* key of cv_flows */
};

/* .rodata of the programs: what the loader found out about this kernel before it loaded them. */
struct cv_config {
	__u8 set_retval; /* bpf_set_retval may be called in cgroup/connect4 and connect6 */
	__u8 pad[7];
};

_Static_assert(sizeof(struct cv_tuple) == 40, "cv_tuple has holes");
_Static_assert(sizeof(struct cv_pod) == 88, "cv_pod has holes");
_Static_assert(sizeof(struct cv_pod_data) == 16, "cv_pod_data has holes");
_Static_assert(sizeof(struct cv_service_key) == 24, "cv_service_key has holes");
_Static_assert(sizeof(struct cv_endpoint_entry) == 24, "cv_endpoint_entry has holes");
_Static_assert(sizeof(struct cv_verdict_key) == 16, "cv_verdict_key has holes");
_Static_assert(sizeof(struct cv_attested_entry) == 80, "cv_attested_entry has holes");
_Static_assert(sizeof(struct cv_flow_entry) == 128, "cv_flow_entry has holes");
_Static_assert(sizeof(struct cv_sk_entry) == 56, "cv_sk_entry has holes");
_Static_assert(sizeof(struct cv_control_entry) == 32, "cv_control_entry has holes");
