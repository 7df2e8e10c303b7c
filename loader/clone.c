// SPDX-License-Identifier: Apache-2.0
/*
 * Templates and instances: copies a loaded program's instructions, gives them map fds that
 * outlive libbpf's object, and loads them again with another .data.pod.
 *
 * Loading by hand needs nothing but the instructions as long as a program has no subprograms
 * (those want BTF function records), which is why the programs concerned inline everything.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/clone.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

static const char pod_section[] = ".data.pod";

static bool is_wide_load(const struct bpf_insn *insn)
{
	return insn->code == (BPF_LD | BPF_IMM | BPF_DW);
}

static bool is_map_load(const struct bpf_insn *insn)
{
	return is_wide_load(insn) &&
	       (insn->src_reg == BPF_PSEUDO_MAP_FD || insn->src_reg == BPF_PSEUDO_MAP_VALUE);
}

static bool has_subprogram(const struct bpf_insn *insn)
{
	if (insn->code == (BPF_JMP | BPF_CALL))
		return insn->src_reg == BPF_PSEUDO_CALL;
	return is_wide_load(insn) && insn->src_reg == BPF_PSEUDO_FUNC;
}

static const struct bpf_map *find_map(const struct bpf_object *obj, int fd)
{
	const struct bpf_map *map;

	bpf_object__for_each_map(map, obj) {
		if (bpf_map__fd(map) == fd)
			return map;
	}
	return NULL;
}

/* Our own fd for the map that libbpf's object knows by obj_fd; seen remembers the pairs. */
static int own_fd(struct cv_template *t, int obj_fd, int seen[CV_TEMPLATE_MAPS])
{
	int fd;

	for (size_t i = 0; i < t->nr_fds; i++) {
		if (seen[i] == obj_fd)
			return t->fds[i];
	}
	if (t->nr_fds == CV_TEMPLATE_MAPS)
		return -E2BIG;
	fd = fcntl(obj_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	seen[t->nr_fds] = obj_fd;
	t->fds[t->nr_fds++] = fd;
	return fd;
}

static int take_maps(struct cv_template *t, const struct bpf_object *obj)
{
	int seen[CV_TEMPLATE_MAPS];

	for (size_t i = 0; i < t->nr_insns; i++) {
		struct bpf_insn *insn = &t->insns[i];
		const struct bpf_map *map;
		int fd;

		if (has_subprogram(insn))
			return -EOPNOTSUPP;
		if (!is_map_load(insn))
			continue;
		map = find_map(obj, insn->imm);
		if (!map)
			return -EINVAL;
		fd = own_fd(t, insn->imm, seen);
		if (fd < 0)
			return fd;
		insn->imm = fd;
		if (strstr(bpf_map__name(map), pod_section))
			t->pod_refs[t->nr_pod_refs++] = i;
		i++; /* the second half of a wide load */
	}
	return 0;
}

int cv_template_init(struct cv_template *t, const struct bpf_object *obj,
		     const struct bpf_program *prog)
{
	size_t n = bpf_program__insn_cnt(prog);
	int r;

	memset(t, 0, sizeof(*t));
	strncpy(t->name, bpf_program__name(prog), sizeof(t->name) - 1);
	t->prog_type = bpf_program__type(prog);
	t->attach_type = bpf_program__expected_attach_type(prog);
	t->nr_insns = n;
	t->insns = malloc(n * sizeof(*t->insns));
	t->pod_refs = malloc(n * sizeof(*t->pod_refs));
	if (!t->insns || !t->pod_refs) {
		cv_template_fini(t);
		return -ENOMEM;
	}
	memcpy(t->insns, bpf_program__insns(prog), n * sizeof(*t->insns));
	r = take_maps(t, obj);
	if (r < 0) {
		cv_debug("template of %s: %s", t->name, cv_strerror(-r));
		cv_template_fini(t);
		return r;
	}
	return 0;
}

void cv_template_fini(struct cv_template *t)
{
	for (size_t i = 0; i < t->nr_fds; i++)
		close(t->fds[i]);
	free(t->insns);
	free(t->pod_refs);
	memset(t, 0, sizeof(*t));
}

static int new_pod_map(const struct cv_pod_data *pod)
{
	uint32_t zero = 0;
	int fd =
		bpf_map_create(BPF_MAP_TYPE_ARRAY, "pod_data", sizeof(zero), sizeof(*pod), 1, NULL);
	int r;

	if (fd < 0)
		return -errno;
	r = bpf_map_update_elem(fd, &zero, pod, BPF_ANY);
	if (r < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

int cv_template_load(const struct cv_template *t, const struct cv_pod_data *pod, int *ret_data)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = t->attach_type);
	_cleanup_close_ int data = -1;
	_cleanup_free_ struct bpf_insn *insns = NULL;
	int fd;

	data = new_pod_map(pod);
	if (data < 0)
		return data;
	insns = malloc(t->nr_insns * sizeof(*insns));
	if (!insns)
		return -ENOMEM;
	memcpy(insns, t->insns, t->nr_insns * sizeof(*insns));
	for (size_t i = 0; i < t->nr_pod_refs; i++)
		insns[t->pod_refs[i]].imm = data;
	fd = bpf_prog_load(t->prog_type, t->name, "GPL", insns, t->nr_insns, &opts);
	if (fd < 0)
		return -errno;
	*ret_data = cv_take_fd(data);
	return fd;
}
