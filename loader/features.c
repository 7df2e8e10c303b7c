// SPDX-License-Identifier: Apache-2.0
/*
 * The probe tables. Helpers are probed by libbpf with a throw-away program, TCX by attaching to
 * a device that cannot exist, kernel functions by their name in the kernel's type data.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

static bool has_set_retval(void)
{
	return libbpf_probe_bpf_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval, NULL) ==
	       1;
}

static bool has_tc_netns_cookie(void)
{
	return libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_get_netns_cookie, NULL) ==
	       1;
}

/* A kernel with TCX looks for the device (-ENODEV); one without knows no such attach type. */
static bool has_tcx(void)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	_cleanup_close_ int prog = -1;
	_cleanup_close_ int link = -1;

	prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "cv_probe_tcx", "GPL", insns,
			     CV_ARRAY_SIZE(insns), NULL);
	if (prog < 0)
		return false;
	link = bpf_link_create(prog, INT_MAX, (enum bpf_attach_type)CV_BPF_TCX_EGRESS, NULL);
	return link < 0 && errno == ENODEV;
}

/* Names in BTF are NUL-terminated strings; a match may straddle two reads, so the end of each
 * block is kept in front of the next. */
static bool kernel_knows(const char *name)
{
	_cleanup_close_ int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
	size_t len = strlen(name) + 1, kept = 0;
	char block[65536];
	ssize_t n;

	if (fd < 0)
		return false;
	while ((n = read(fd, block + kept, sizeof(block) - kept)) > 0) {
		size_t have = kept + (size_t)n;

		if (memmem(block, have, name, len))
			return true;
		kept = have < len - 1 ? have : len - 1;
		memmove(block, block + have - kept, kept);
	}
	return false;
}

static bool has_sock_destroy(void)
{
	return kernel_knows("bpf_sock_destroy");
}

static const struct probe {
	const char *name;
	bool (*fn)(void);
	size_t offset;
} probes[] = {
	{ "tcx", has_tcx, offsetof(struct cv_bpf_features, tcx) },
	{ "set_retval", has_set_retval, offsetof(struct cv_bpf_features, set_retval) },
	{ "sock_destroy", has_sock_destroy, offsetof(struct cv_bpf_features, sock_destroy) },
	{ "tc_netns_cookie", has_tc_netns_cookie,
	  offsetof(struct cv_bpf_features, tc_netns_cookie) },
};

void cv_features_probe(struct cv_bpf_features *ret)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(probes); i++) {
		bool *answer = (bool *)((char *)ret + probes[i].offset);

		*answer = probes[i].fn();
		cv_debug("feature %s: %s", probes[i].name, *answer ? "yes" : "no");
	}
}

static const struct requirement {
	const char *name;
	enum bpf_prog_type prog;
	enum bpf_func_id helper; /* BPF_FUNC_unspec = the program type itself */
} requirements[] = {
	{ "sk_lookup programs (Linux 5.9)", BPF_PROG_TYPE_SK_LOOKUP, BPF_FUNC_unspec },
	{ "sockops programs", BPF_PROG_TYPE_SOCK_OPS, BPF_FUNC_unspec },
	{ "cgroup setsockopt programs", BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_FUNC_unspec },
	{ "socket storage in cgroup/connect", BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
	  BPF_FUNC_sk_storage_get },
	{ "socket storage in TC", BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_sk_storage_get },
	{ "bpf_get_netns_cookie in sockops (Linux 5.15)", BPF_PROG_TYPE_SOCK_OPS,
	  BPF_FUNC_get_netns_cookie },
};

const char *cv_features_missing(void)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(requirements); i++) {
		const struct requirement *r = &requirements[i];
		int has = r->helper ? libbpf_probe_bpf_helper(r->prog, r->helper, NULL) :
				      libbpf_probe_bpf_prog_type(r->prog, NULL);

		if (has == 0)
			return r->name;
	}
	return NULL;
}
