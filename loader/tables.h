/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One typed accessor per map; the only callers of bpf_map_*_elem.
 *
 * Maps are thread-safe in the kernel, so any thread may call these. -ENOENT means that
 * there is no such entry, -E2BIG that the map is full; other values are the kernel's.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "loader/loader.h"
#include "maps/reasons.h"
#include "maps/types.h"

/* cv_control */
int cv_table_control_get(struct cv_bpf *bpf, struct cv_control_entry *ret);
int cv_table_control_set(struct cv_bpf *bpf, const struct cv_control_entry *entry);

/* cv_pods: netns cookie -> pod */
int cv_table_pod_get(struct cv_bpf *bpf, uint64_t netns_cookie, struct cv_pod *ret);
int cv_table_pod_set(struct cv_bpf *bpf, uint64_t netns_cookie, const struct cv_pod *pod);
int cv_table_pod_del(struct cv_bpf *bpf, uint64_t netns_cookie);
int cv_table_pod_each(struct cv_bpf *bpf,
		      int (*fn)(uint64_t cookie, const struct cv_pod *pod, void *arg), void *arg);

/* cv_usage: what a pod holds of the shared tables, by pod number */
int cv_table_usage_get(struct cv_bpf *bpf, uint32_t pod, struct cv_usage_entry *ret);
int cv_table_usage_set(struct cv_bpf *bpf, uint32_t pod, const struct cv_usage_entry *entry);

/* cv_workloads: address -> enrolled pod */
int cv_table_workload_set(struct cv_bpf *bpf, const struct cv_addr *addr,
			  const struct cv_workload_entry *entry);
int cv_table_workload_get(struct cv_bpf *bpf, const struct cv_addr *addr,
			  struct cv_workload_entry *ret);
int cv_table_workload_del(struct cv_bpf *bpf, const struct cv_addr *addr);
int cv_table_workload_each(struct cv_bpf *bpf,
			   int (*fn)(const struct cv_addr *addr,
				     const struct cv_workload_entry *entry, void *arg),
			   void *arg);

/* cv_services and cv_endpoints */
int cv_table_service_set(struct cv_bpf *bpf, const struct cv_service_key *key,
			 const struct cv_service_entry *entry);
int cv_table_service_del(struct cv_bpf *bpf, const struct cv_service_key *key);
int cv_table_service_get(struct cv_bpf *bpf, const struct cv_service_key *key,
			 struct cv_service_entry *ret);
int cv_table_service_each(struct cv_bpf *bpf,
			  int (*fn)(const struct cv_service_key *key,
				    const struct cv_service_entry *entry, void *arg),
			  void *arg);
int cv_table_endpoint_set(struct cv_bpf *bpf, const struct cv_endpoint_key *key,
			  const struct cv_endpoint_entry *entry);
int cv_table_endpoint_del(struct cv_bpf *bpf, const struct cv_endpoint_key *key);
int cv_table_endpoint_each(struct cv_bpf *bpf,
			   int (*fn)(const struct cv_endpoint_key *key,
				     const struct cv_endpoint_entry *entry, void *arg),
			   void *arg);

/* cv_verdicts */
int cv_table_verdict_set(struct cv_bpf *bpf, const struct cv_verdict_key *key,
			 const struct cv_verdict_entry *entry);
int cv_table_verdict_get(struct cv_bpf *bpf, const struct cv_verdict_key *key,
			 struct cv_verdict_entry *ret);
int cv_table_verdict_del(struct cv_bpf *bpf, const struct cv_verdict_key *key);
int cv_table_verdict_each(struct cv_bpf *bpf,
			  int (*fn)(const struct cv_verdict_key *key,
				    const struct cv_verdict_entry *entry, void *arg),
			  void *arg);

/* cv_attested: what the kernel decided about a live connection */
int cv_table_attested_get(struct cv_bpf *bpf, const struct cv_tuple *tuple,
			  struct cv_attested_entry *ret);
int cv_table_attested_del(struct cv_bpf *bpf, const struct cv_tuple *tuple);
int cv_table_attested_each(struct cv_bpf *bpf,
			   int (*fn)(const struct cv_tuple *tuple,
				     const struct cv_attested_entry *entry, void *arg),
			   void *arg);

/* cv_flows: records of direct flows, keyed by the initiator's socket cookie */
int cv_table_flow_get(struct cv_bpf *bpf, uint64_t cookie, struct cv_flow_entry *ret);
int cv_table_flow_del(struct cv_bpf *bpf, uint64_t cookie);
int cv_table_flow_each(struct cv_bpf *bpf,
		       int (*fn)(uint64_t cookie, const struct cv_flow_entry *flow, void *arg),
		       void *arg);

/* cv_listeners: sockets that pod_lookup steers to. fd is a listening TCP socket; with
 * SO_REUSEPORT one member of the group is enough. Cleared by itself when the socket closes. */
int cv_table_listener_set(struct cv_bpf *bpf, uint32_t pod, enum cv_listener slot, int fd);

/* cv_dns: sockets that DNS of a pod is steered to. fd is a listening TCP socket or a bound UDP
 * socket, as the slot says; with SO_REUSEPORT one member of the group is enough. */
int cv_table_dns_set(struct cv_bpf *bpf, uint32_t pod, enum cv_dns_slot slot, int fd);

/* cv_sk: say what one of the daemon's own sockets is, before connect(). kind is
 * CV_KIND_DAEMON or CV_KIND_DAEMON_LEG. */
int cv_table_sk_set_kind(struct cv_bpf *bpf, int fd, enum cv_kind kind);

/* cv_reasons: sum over CPUs. ret has CV_REASON_NR members. */
int cv_table_reasons_get(struct cv_bpf *bpf, uint64_t *ret);
const char *cv_reason_name(uint32_t reason); /* "unknown" beyond the table */
const char *cv_reason_action(uint32_t reason);
const char *cv_reason_text(uint32_t reason);

/* cv_events: an fd that polls readable when there are records, and their consumer.
 * fn is called for each record, a bounded number of them; returns how many. */
int cv_events_fd(struct cv_bpf *bpf);
int cv_events_consume(struct cv_bpf *bpf, void (*fn)(const struct cv_event *event, void *arg),
		      void *arg);

/* A map's name, capacity and entry count, for status. */
struct cv_table_info {
	char name[16];
	uint32_t max_entries;
	uint32_t entries; /* counted by walking; 0 for types that cannot be walked */
};
int cv_table_info(struct cv_bpf *bpf, struct cv_table_info *ret, size_t max);
