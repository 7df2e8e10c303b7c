/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files behind pods.h share: the pod object, its enrolment, and the state file.
 */
#pragma once

#include "loader/tables.h"
#include "userspace/node/netdev.h"
#include "userspace/node/pods.h"

struct cv_node_pod {
	struct cv_pods *pods;
	struct cv_pod_view view; /* its strings and addresses are owned here */
	char *ns, *name, *service_account, *uid, *netns_path;
	struct cv_netns netns;
	struct cv_netdevs devs;
	struct cv_netdev_watch *watch;
	void *proxy; /* handle of opts.start; NULL = not started */
	bool hooked; /* something is pinned for it */
	bool in_kernel; /* cv_pods has its entry */
	void (*done)(void *arg); /* of the removal under way */
	void *done_arg;
};

struct cv_pods {
	struct cv_pods_opts opts;
	struct cv_netns own; /* the daemon's */
	uint64_t host_inode; /* the namespace of process 1 */
	struct cv_node_pod *by_number[CV_MAX_PODS]; /* enrolled */
	struct cv_node_pod *leaving[CV_MAX_PODS]; /* released, sockets still closing */
	uint32_t last_epoch;
	uint32_t last_number; /* numbers are not used again at once */
	size_t count;
};

/* --- enrol.c: one pod --- */
/* A pod that owns netns and copies the rest; NULL = no memory, or no netns (it is closed). */
struct cv_node_pod *cv_node_pod_new(struct cv_pods *p, const struct cv_pod_spec *spec,
				    struct cv_netns *netns);
void cv_node_pod_free(struct cv_node_pod *pod);
/* The steps of pods.h's header comment. `captured` = the kernel's state is that of an earlier
 * daemon and in force: it is completed, never switched off. When it fails it undoes what it did
 * (captured: leaves the kernel's state, which refuses, alone) and frees the pod. */
int cv_node_pod_enrol(struct cv_node_pod *pod, bool captured);
/* Capture off, hooks, routes and map entries removed. */
void cv_node_pod_release(struct cv_node_pod *pod);
/* Stops the pod's part of the proxy; done(arg) when no socket is left, maybe at once. */
void cv_node_pod_stop(struct cv_node_pod *pod, void (*done)(void *arg), void *arg);
/* Removes hooks and map entries of a pod that has no object. */
void cv_node_forget(struct cv_bpf *bpf, uint32_t number, uint64_t cookie);

/* --- pods_state.c: pods.json --- */
int cv_pods_state_save(struct cv_pods *p);
/* fn for each pod of the file; netns_fd is opened (-1: path is no more); 0 when there is no file
 * or it is of another boot. */
struct cv_pods_saved {
	struct cv_pod_spec spec;
	uint32_t number;
	uint64_t cookie;
};
int cv_pods_state_load(const char *run_dir, void (*fn)(struct cv_pods_saved *saved, void *arg),
		       void *arg);
