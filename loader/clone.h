/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that are loaded once a pod. sk_lookup cannot ask which network namespace it runs in,
 * so each pod gets an instance whose `.data.pod` (struct cv_pod_data) names the pod.
 *
 * A template is the program as libbpf last gave it to the kernel: relocated, with map fds in
 * its instructions. An instance is the same instructions with a fresh .data.pod map.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "maps/types.h"

struct bpf_insn;
struct bpf_object;
struct bpf_program;

enum {
	CV_TEMPLATE_MAPS = 24, /* distinct maps that one program uses */
};

struct cv_template {
	char name[16];
	uint32_t prog_type, attach_type;
	struct bpf_insn *insns; /* owned; NULL = empty template */
	size_t nr_insns;
	size_t *pod_refs; /* owned; instructions that load .data.pod */
	size_t nr_pod_refs; /* 0 = every pod can share one program */
	int fds[CV_TEMPLATE_MAPS]; /* owned; the maps that insns name */
	size_t nr_fds;
};

/* Takes the template of a program of a loaded object. -EOPNOTSUPP: it has subprograms. */
int cv_template_init(struct cv_template *t, const struct bpf_object *obj,
		     const struct bpf_program *prog);
void cv_template_fini(struct cv_template *t);
/* Loads an instance for a pod; returns its fd, and that of its .data.pod map. */
int cv_template_load(const struct cv_template *t, const struct cv_pod_data *pod, int *ret_data);
