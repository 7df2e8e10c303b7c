/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel plane as one object: open, configure, load, pin, attach; and the reverse.
 *
 * One struct cv_bpf a process. All pins live below opts.bpffs_dir; a second daemon uses
 * another directory and has maps and programs of its own. The pin protocol (lock file,
 * ABI stamp, stage and rename, adoption after a restart) is written in ARCHITECTURE.md.
 * Control thread only, except where a function says that any thread may call it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "maps/types.h"

struct cv_bpf;

struct cv_bpf_opts {
	const char *bpffs_dir; /* absolute; made if missing; must be on a bpf file system */
	const char *cgroup_dir; /* root of cgroup v2; NULL = found in /proc/self/mounts */
	bool no_fastpath; /* capture by TC alone */
	bool adopt_only; /* fail with -ENOENT rather than load (culvertctl status) */
	bool no_tcx; /* clsact filters although the kernel has TCX */
	bool debug; /* libbpf's own messages at debug level */
};

/* Opens what is pinned (same ABI, same programs), or loads, pins and attaches the node-wide
 * programs (pod_connect4/6, getpeername, node_sockops, pod_sockopt). Links of pods whose
 * network namespace is gone are unpinned. Errors: -EBUSY another daemon holds the directory's
 * lock; -EPERM; -EOPNOTSUPP with the missing feature logged; -errno of the kernel otherwise. */
int cv_bpf_open(struct cv_bpf **ret, const struct cv_bpf_opts *opts);

/* Releases fds and memory. Pins, links and maps stay: direct flows go on. NULL is fine. */
void cv_bpf_close(struct cv_bpf **bpf);

/* Removes every pin, link, program and map below the directory, and the directory.
 * Works without a daemon; -EBUSY while one holds the lock. */
int cv_bpf_unload(const char *bpffs_dir);

/* Was the state adopted from an earlier daemon (true) or made anew? */
bool cv_bpf_adopted(const struct cv_bpf *bpf);

/* Says below which cgroup the pods' processes live, relative to the root of cgroup v2; NULL =
 * unknown: every process of the node's own namespace counts as the node's. -ENOENT. */
int cv_bpf_set_pods_cgroup(struct cv_bpf *bpf, const char *path);

/* Attach the programs of one pod. netns_fd and ifindexes are the pod's; every device of the
 * pod but lo is in ifindexes. Idempotent for the same pod number and netns: links that are
 * already pinned and live are kept. Nothing stays attached when it fails. */
struct cv_bpf_pod {
	uint32_t pod; /* 1 … CV_MAX_PODS-1 */
	int netns_fd;
	const uint32_t *ifindexes;
	size_t nr_ifindexes;
};
int cv_bpf_pod_attach(struct cv_bpf *bpf, const struct cv_bpf_pod *p);
/* The routes of captured packets inside the pod (routes.h), for its present addresses. Before the
 * first attach, and again when the addresses change. Undone by cv_bpf_pod_unroute, and by
 * cv_bpf_pod_detach when the namespace has a process or a name. */
int cv_bpf_pod_route(struct cv_bpf *bpf, const struct cv_bpf_pod *p, const struct cv_addr *addrs,
		     size_t n);
int cv_bpf_pod_unroute(struct cv_bpf *bpf, const struct cv_bpf_pod *p);
/* Hook one more device of an attached pod (found later by netlink). */
int cv_bpf_pod_attach_device(struct cv_bpf *bpf, const struct cv_bpf_pod *p, uint32_t ifindex);
/* Detach and unpin all links of a pod, remove its routes. -ENOENT when there are none. */
int cv_bpf_pod_detach(struct cv_bpf *bpf, uint32_t pod);
/* The namespace that a pod's pinned links are attached to, as a new fd; -ENOENT when it is gone
 * or only its own sockets keep it alive. */
int cv_bpf_pod_netns(const struct cv_bpf *bpf, uint32_t pod);
/* Every pod that this start adopts is attached: what an older ABI left attached may go. */
int cv_bpf_retire(struct cv_bpf *bpf);

/* Mark every TCP socket that exists in the *calling thread's* network namespace as
 * CV_KIND_OLDER, except those that carry storage already. Returns how many were marked. */
int cv_bpf_mark_older(struct cv_bpf *bpf);

/* One step of a sweep: sees every TCP socket of the calling thread's namespace and stamps its
 * attested entry and flow record with cv_control.sweep; bytes of live flows are brought up to date. */
int cv_bpf_sweep(struct cv_bpf *bpf);

/* One loaded program, for status and for the instruction-count record. */
struct cv_bpf_prog_info {
	char name[32];
	uint32_t id;
	uint32_t verified_insns; /* bpf_prog_info.verified_insns; 0 = kernel does not say */
	uint32_t xlated_bytes;
	uint32_t jited_bytes;
};
/* Fills up to max entries; returns the number of programs there are. */
int cv_bpf_progs(const struct cv_bpf *bpf, struct cv_bpf_prog_info *ret, size_t max);

/* Which optional kernel features are in use, for logs, status and metrics. */
struct cv_bpf_features {
	bool tcx; /* else clsact */
	bool set_retval; /* bpf_set_retval in cgroup/connect: ECONNREFUSED instead of EPERM */
	bool sock_destroy; /* kfunc bpf_sock_destroy is there; connections are closed by netlink */
	bool tc_netns_cookie; /* bpf_get_netns_cookie in TC */
	bool fastpath;
};
void cv_bpf_features(const struct cv_bpf *bpf, struct cv_bpf_features *ret);
