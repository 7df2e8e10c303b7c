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
/* The compiler has found that a live direct flow is no longer allowed. */
void cv_on_flow_denied(uint64_t cookie, void *arg);

/* The tier that the settings want for a pod. */
enum cv_same_node cv_same_node_of(const char *ns, const char *name, void *arg);
/* Tells the programs where the pods' cgroup is. It may not exist yet, or no longer: then the
 * settings file is what to look at, so a failure is a warning. */
void cv_tell_pods_cgroup(struct cv_daemon *d);
