// SPDX-License-Identifier: Apache-2.0
/*
 * tcxattach: what a pod's two TCX attaches cost on this machine, for the bench.
 *
 *	tcxattach DEVICE COUNT		attaches a program that passes everything to ingress and then to
 *					egress, and detaches it, COUNT times: prints the milliseconds of
 *					each pair of attaches, a line each
 *
 * An attach waits for an RCU grace period, whose length is the machine's and not culvert's.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "loader/features.h"

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int sys_bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* r0 = TCX_NEXT; exit */
static int load(void)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SCHED_CLS,
		.insns = (uintptr_t)insns,
		.insn_cnt = sizeof(insns) / sizeof(*insns),
		.license = (uintptr_t) "GPL",
	};

	return sys_bpf(BPF_PROG_LOAD, &attr);
}

static int attach(int prog, unsigned ifindex, unsigned type)
{
	union bpf_attr attr = {
		.link_create = {
			.prog_fd = (unsigned)prog,
			.target_fd = ifindex,
			.attach_type = type,
		},
	};

	return sys_bpf(BPF_LINK_CREATE, &attr);
}

int main(int argc, char **argv)
{
	unsigned ifindex = argc == 3 ? if_nametoindex(argv[1]) : 0;
	int prog = load();

	if (!ifindex || prog < 0) {
		fprintf(stderr, "usage: tcxattach DEVICE COUNT (%s)\n", strerror(errno));
		return 2;
	}
	for (long left = strtol(argv[2], NULL, 10); left > 0; left--) {
		double start = now_ms();
		int ingress = attach(prog, ifindex, CV_BPF_TCX_INGRESS);
		int egress = attach(prog, ifindex, CV_BPF_TCX_EGRESS);

		if (ingress < 0 || egress < 0) {
			fprintf(stderr, "tcxattach: %s: %s\n", argv[1], strerror(errno));
			return 1;
		}
		printf("%.3f\n", now_ms() - start);
		close(ingress);
		close(egress);
	}
	return 0;
}
