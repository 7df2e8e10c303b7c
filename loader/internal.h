/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the loader share: the tables of maps and programs, and struct cv_bpf.
 *
 * The object is loaded once per start. Nothing of libbpf's stays behind: cv_bpf keeps the maps'
 * and programs' fds, and of each program that is loaded once a pod a template (clone.h).
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <stdint.h>

#include "loader/clone.h"
#include "loader/loader.h"
#include "loader/pool.h"

/* Every pinned map. The pin, the object's name and the enum come from here. */
#define CV_MAPS(X)                 \
	X(CONTROL, cv_control)     \
	X(PODS, cv_pods)           \
	X(WORKLOADS, cv_workloads) \
	X(SERVICES, cv_services)   \
	X(ENDPOINTS, cv_endpoints) \
	X(VERDICTS, cv_verdicts)   \
	X(ATTESTED, cv_attested)   \
	X(USAGE, cv_usage)         \
	X(FLOWS, cv_flows)         \
	X(LISTENERS, cv_listeners) \
	X(DNS, cv_dns)             \
	X(SK, cv_sk)               \
	X(REASONS, cv_reasons)     \
	X(EVENTS, cv_events)

enum cv_map_id {
#define CV_MAP_ENUM(sym, name) CV_MAP_##sym,
	CV_MAPS(CV_MAP_ENUM)
#undef CV_MAP_ENUM
		CV_MAP_NR,
};
extern const char *const cv_map_names[CV_MAP_NR];

/* Where a program goes. */
enum cv_place {
	CV_PLACE_CGROUP, /* link to the root cgroup, at start */
	CV_PLACE_POD, /* link inside a pod, at enrolment */
	CV_PLACE_ITER, /* run on demand */
};

#define CV_PROGS(X)                                                           \
	X(POD_CONNECT4, pod_connect4, CGROUP, BPF_CGROUP_INET4_CONNECT)       \
	X(POD_CONNECT6, pod_connect6, CGROUP, BPF_CGROUP_INET6_CONNECT)       \
	X(POD_PEERNAME4, pod_peername4, CGROUP, BPF_CGROUP_INET4_GETPEERNAME) \
	X(POD_PEERNAME6, pod_peername6, CGROUP, BPF_CGROUP_INET6_GETPEERNAME) \
	X(POD_SOCKOPT, pod_sockopt, CGROUP, BPF_CGROUP_SETSOCKOPT)            \
	X(NODE_SOCKOPS, node_sockops, CGROUP, BPF_CGROUP_SOCK_OPS)            \
	X(POD_EGRESS, pod_egress, POD, 0)                                     \
	X(POD_INGRESS, pod_ingress, POD, 0)                                   \
	X(POD_LOOKUP, pod_lookup, POD, BPF_SK_LOOKUP)                         \
	X(MARK_OLDER, mark_older, ITER, BPF_TRACE_ITER)                       \
	X(SWEEP_ATTESTED, sweep_attested, ITER, BPF_TRACE_ITER)

enum cv_prog_id {
#define CV_PROG_ENUM(sym, name, place, type) CV_PROG_##sym,
	CV_PROGS(CV_PROG_ENUM)
#undef CV_PROG_ENUM
		CV_PROG_NR,
};

struct cv_prog_desc {
	const char *name;
	enum cv_place place;
	enum bpf_attach_type attach_type; /* 0 for TC: TCX or clsact decides */
};
extern const struct cv_prog_desc cv_progs[CV_PROG_NR];

struct cv_bpf {
	char *dir; /* of the pins */
	int lock_fd; /* the directory, locked; -1 when it was opened only to read */
	int cgroup_fd;
	bool adopted;
	int maps[CV_MAP_NR];
	int progs[CV_PROG_NR];
	struct cv_template templates[CV_PROG_NR]; /* of CV_PLACE_POD programs */
	struct cv_pool *pool; /* their instances */
	struct cv_bpf_features features;
	struct ring_buffer *ring; /* made by the first use of cv_events_* */
	void (*event_fn)(const struct cv_event *event, void *arg); /* during a consume */
	void *event_arg;
	int events; /* shown during this consume */
};
