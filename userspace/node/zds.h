/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pods from istio-cni, in ztunnel's place: a connection to the node agent's ZDS socket, and the
 * pods that it has handed over. Nothing of the kernel plane is touched: istio-cni has put its
 * redirection into a pod before it hands the pod over.
 *
 * The connection is made again for ever; pods outlive it. What the next snapshot does not name is
 * stopped at its end. A pod that cannot be started is refused to the agent and tried again. Control
 * thread only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/io/worker.h"
#include "userspace/node/pods.h"

struct cv_zds;

struct cv_zds_opts {
	struct cv_worker *control;
	const char *path; /* INPOD_UDS; borrowed */
	/* The proxy's part, as in cv_pods_opts. */
	int (*start)(const struct cv_pod_view *pod, void **ret_handle, void *arg);
	void (*stop)(void *handle, void (*done)(void *done_arg), void *done_arg, void *arg);
	void (*changed)(void *arg); /* after every add and del */
	/* Ready: connected, the snapshot is whole, and every pod of it runs. Told when it changes;
	 * it begins as false. */
	void (*ready)(bool ready, void *arg);
	void *arg;
};
int cv_zds_new(struct cv_zds **ret, const struct cv_zds_opts *opts);
/* Begins to connect. */
void cv_zds_start(struct cv_zds *z);
/* Leaves the agent for good, before a drain: another proxy of the node gets the next pods. Pods
 * and readiness stay as they are. */
void cv_zds_stop(struct cv_zds *z);
/* When nothing can touch a pod's namespace any more: after the proxy. */
void cv_zds_free(struct cv_zds **z);

/* Every pod; those that wait for another try have view.pending set. fn's non-zero result ends it
 * and is returned. */
int cv_zds_each(struct cv_zds *z, int (*fn)(const struct cv_pod_view *pod, void *arg), void *arg);

struct cv_zds_counts {
	size_t active, pending; /* pods */
	bool connected, snapshot; /* to the agent; the snapshot is whole */
};
void cv_zds_counts(const struct cv_zds *z, struct cv_zds_counts *ret);
