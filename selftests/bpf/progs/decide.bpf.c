// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs bpf/lib/decide.h on a question from user space: BPF_PROG_RUN refuses cgroup/connect
 * programs, and takes this one.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/lib/decide.h"

struct decide_args {
	struct cv_question question;
	struct cv_decision decision;
};

SEC("syscall")
int run_decide(struct decide_args *args)
{
	struct cv_question q = args->question;

	args->decision = decide(&q);
	return 0;
}

char _license[] SEC("license") = "GPL";
