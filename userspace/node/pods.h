/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolled pods: from a network namespace to a captured pod, and back.
 *
 * Order of enrolment: identify the netns → number → routes and rules → addresses → entry with
 * capture off → older sockets marked → listeners → lookup and TC programs → capture on. Removal
 * runs it backwards. A failure undoes what was done, so a pod is never half captured. Control
 * thread only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loader/loader.h"
#include "userspace/base/addr.h"
#include "userspace/io/sock.h"
#include "userspace/io/worker.h"
#include "userspace/mesh/store.h"

struct cv_pods;

enum cv_same_node { CV_SAME_NODE_DIRECT, CV_SAME_NODE_RELAY, CV_SAME_NODE_TLS }; /* lax to strict */

/* An enrolled pod, as its readers see it. */
struct cv_pod_view {
	uint32_t number;
	uint32_t epoch; /* counts enrolments: the same number and epoch are the same enrolment */
	const char *ns, *name, *service_account, *uid; /* service_account NULL = the record's */
	const struct cv_netns *netns;
	const char *netns_path; /* as given, for the re-adoption after a restart */
	const struct cv_addr *addrs; /* of the pod's devices but lo, kernel's word */
	size_t nr_addrs;
	bool pending; /* its proxy could not be started yet */
};

struct cv_pods_opts {
	struct cv_worker *control;
	struct cv_bpf *bpf;
	struct cv_store *store;
	const char *run_dir; /* state file pods.json lives here */
	/* The proxy's part, wired by the daemon. start opens the listeners. stop calls done when no
	 * socket is left. changed is told after every add, del and address change. */
	int (*start)(const struct cv_pod_view *pod, void **ret_handle, void *arg);
	void (*stop)(void *handle, void (*done)(void *done_arg), void *done_arg, void *arg);
	void (*changed)(void *arg);
	void *arg;
};
int cv_pods_new(struct cv_pods **ret, const struct cv_pods_opts *opts);
/* Pods stay enrolled in the kernel (pins); only memory and fds go. */
void cv_pods_free(struct cv_pods **p);
/* After a start: enrol again what the state file and the pinned maps name and still exists;
 * forget the rest. Returns the number of pods. */
int cv_pods_adopt(struct cv_pods *p);

/* Takes netns_fd in any case. 0; or -errno with one line in error that says what was wrong and
 * what to do: no netns, host's or daemon's own, enrolled under another name, a service account
 * that contradicts the workload's record, too many pods. Idempotent. */
struct cv_pod_spec {
	const char *ns, *name, *service_account, *uid, *netns_path;
	int netns_fd;
};
int cv_pods_add(struct cv_pods *p, const struct cv_pod_spec *spec, char *error, size_t size);
/* -ENOENT when there is no such pod. Returns when capture is off; sockets close soon after,
 * `done` (may be NULL) is called when all is gone. */
int cv_pods_del(struct cv_pods *p, const char *ns, const char *name, void (*done)(void *arg),
		void *arg);

int cv_pods_each(struct cv_pods *p, int (*fn)(const struct cv_pod_view *pod, void *arg), void *arg);
const struct cv_pod_view *cv_pods_by_number(struct cv_pods *p, uint32_t number);
size_t cv_pods_count(const struct cv_pods *p);
