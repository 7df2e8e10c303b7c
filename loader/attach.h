/* SPDX-License-Identifier: Apache-2.0 */
/* Links: to the root cgroup at start, inside a pod at enrolment. See also loader.h's pod calls. */
#pragma once

#include <stdbool.h>

struct cv_bpf;

/* Attaches the node-wide programs and pins their links below base (DIR or DIR-next). Links that
 * are pinned there already are kept; with update they get the present programs. */
int cv_attach_cgroup(struct cv_bpf *bpf, const char *base, bool update);
/* Gives every pod's links the present programs. */
int cv_attach_update_pods(struct cv_bpf *bpf);
/* Unpins the links whose device or network namespace is gone, and the pods that have none left. */
int cv_attach_prune(struct cv_bpf *bpf);
/* Takes down what is attached in the pods below a directory, before its pins are removed:
 * clsact filters and routes are no links and would stay. heir_dir (may be NULL) is a directory
 * whose pods in the same namespaces go on using the routes. */
int cv_attach_remove_pods(const char *dir, const char *heir_dir);
