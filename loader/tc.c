// SPDX-License-Identifier: Apache-2.0
/*
 * The clsact fallback. Our filter has a handle and priority of its own beside other programs.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/tc.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/pin.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

/* "cv", as both. Lower priorities run first; programs that pass with -1 let ours run. */
enum { FILTER_HANDLE = 0x6376, FILTER_PRIORITY = 0x6376 };

/* By LIBBPF_OPTS where it is used, since libbpf refuses padding that is not zero, which neither a
 * compound literal nor a copy of one promises. */
#define TC_HOOK(name, device, is_egress)                         \
	LIBBPF_OPTS(bpf_tc_hook, name, .ifindex = (int)(device), \
		    .attach_point = (is_egress) ? BPF_TC_EGRESS : BPF_TC_INGRESS)

/* Is there a filter at our handle and priority (1), ours (0) or none (-ENOENT)? */
static int query_foreign(const struct bpf_tc_hook *hook, const char *prog_name)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = FILTER_HANDLE, .priority = FILTER_PRIORITY);
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);
	_cleanup_close_ int fd = -1;

	if (bpf_tc_query(hook, &opts) < 0)
		return -ENOENT;
	fd = bpf_prog_get_fd_by_id(opts.prog_id);
	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return 1;
	return strcmp(info.name, prog_name) != 0;
}

static const char *prog_name(bool egress)
{
	return egress ? "pod_egress" : "pod_ingress";
}

bool cv_tc_is_attached(uint32_t ifindex, bool egress)
{
	TC_HOOK(hook, ifindex, egress);

	return query_foreign(&hook, prog_name(egress)) == 0;
}

int cv_tc_attach(uint32_t ifindex, bool egress, int prog, const char *path)
{
	TC_HOOK(hook, ifindex, egress);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = FILTER_HANDLE, .priority = FILTER_PRIORITY,
		    .prog_fd = prog, .flags = BPF_TC_F_REPLACE);
	int r = query_foreign(&hook, prog_name(egress));

	if (r > 0)
		return -EEXIST;
	r = bpf_tc_hook_create(&hook);
	if (r < 0 && r != -EEXIST)
		return r;
	/* Pinned first: removal looks for pins. */
	r = cv_pin_put(prog, path);
	return r < 0 ? r : bpf_tc_attach(&hook, &opts);
}

void cv_tc_detach(const char *name)
{
	bool egress = !strncmp(name, "egress", 6);
	TC_HOOK(hook, strtoul(strrchr(name, '-') + 1, NULL, 10), egress);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = FILTER_HANDLE, .priority = FILTER_PRIORITY);
	int r;

	if (query_foreign(&hook, prog_name(egress)) != 0)
		return;
	r = bpf_tc_detach(&hook, &opts);
	if (r < 0)
		cv_debug("detach the filter %s: %s", name, cv_strerror(-r));
}
