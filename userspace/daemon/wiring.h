/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the daemon are told of each other: the callbacks that the stages hand to the
 * modules. `arg` and `d` are the daemon. All on the control thread.
 */
#pragma once

#include "userspace/daemon/daemon.h"

/* Writes the verdicts and services of the store, the pods and the settings into the maps now. */
void cv_run_compile(void *arg);

void cv_on_store_changed(const struct cv_store_change *change, void *arg);
void cv_on_pods_changed(void *arg);
void cv_on_settings_changed(void *arg);
void cv_on_revocations_changed(void *arg);
/* The compiler has found that a live direct flow is no longer allowed. */
void cv_on_flow_denied(uint64_t cookie, void *arg);

/* The proxy's part of a pod: cv_pods_opts and cv_zds_opts. */
int cv_start_pod_proxy(const struct cv_pod_view *pod, void **ret_handle, void *arg);
void cv_stop_pod_proxy(void *handle, void (*done)(void *done_arg), void *done_arg, void *arg);

/* The first whole state is in the store. */
void cv_on_warm(struct cv_daemon *d);
/* Lets connections in, and in ztunnel's place the pods before them, once both the store is warm and
 * the daemon has taken up its pods. */
void cv_let_in(struct cv_daemon *d);

/* The tier that the settings want for a pod. */
enum cv_same_node cv_same_node_of(const char *ns, const char *name, void *arg);
/* Tells the programs where the pods' cgroup is. It may not exist yet, or no longer: then the
 * settings file is what to look at, so a failure is a warning. */
void cv_tell_pods_cgroup(struct cv_daemon *d);
