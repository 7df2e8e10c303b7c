// SPDX-License-Identifier: Apache-2.0
/*
 * The sub-commands that change something: pod add, pod del, unload. The namespace is opened here,
 * with the caller's rights and in the caller's mount namespace, and its fd goes to the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loader/loader.h"
#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"
#include "userspace/ctl/table.h"

enum { PADDING = 1 };

/* {"namespace": …, "name": …} from NAMESPACE/NAME; NULL when it is not one. */
static json_t *pod_args(const char *operand)
{
	const char *slash = strchr(operand, '/');

	if (!slash || slash == operand || !slash[1] || strchr(slash + 1, '/'))
		return NULL;
	return json_pack("{s:s% s:s}", "namespace", operand, (size_t)(slash - operand), "name",
			 slash + 1);
}

static int bad_operand(const struct cv_ctl *ctl)
{
	cv_ctl_fail("\"%s\" is not NAMESPACE/NAME", ctl->operand);
	return CV_CTL_USAGE;
}

/* The daemon opens the path again after a restart, so it must not depend on our directory.
 * Links stay: /proc/PID/ns/net resolves to no path at all. */
static int absolute_path(const char *path, char ret[PATH_MAX])
{
	_cleanup_free_ char *cwd = *path == '/' ? NULL : getcwd(NULL, 0);
	int n;

	if (*path != '/' && !cwd)
		return -errno;
	n = snprintf(ret, PATH_MAX, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int cv_ctl_pod_add(struct cv_ctl *ctl)
{
	_cleanup_close_ int fd = -1;
	json_t *args = pod_args(ctl->operand), *pod;
	char path[PATH_MAX];

	if (!args)
		return bad_operand(ctl);
	if (!ctl->netns || absolute_path(ctl->netns, path) < 0) {
		json_decref(args);
		cv_ctl_fail("pod add needs --netns PATH");
		return CV_CTL_USAGE;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		json_decref(args);
		return cv_ctl_fail("%s: %s", path, strerror(errno));
	}
	json_object_set_new(args, "netnsPath", json_string(path));
	if (ctl->service_account)
		json_object_set_new(args, "serviceAccount", json_string(ctl->service_account));
	if (ctl->uid)
		json_object_set_new(args, "uid", json_string(ctl->uid));
	pod = cv_ctl_ask(ctl, "pod-add", args, fd);
	if (!pod)
		return CV_CTL_FAILED;
	if (ctl->format != CV_CTL_TABLE)
		return cv_ctl_print(ctl, pod);
	fprintf(ctl->out, "%s enrolled as pod %lld\n", ctl->operand,
		(long long)cv_field_int(pod, "number"));
	json_decref(pod);
	return CV_CTL_OK;
}

int cv_ctl_pod_del(struct cv_ctl *ctl)
{
	json_t *args = pod_args(ctl->operand), *answer;

	if (!args)
		return bad_operand(ctl);
	answer = cv_ctl_ask(ctl, "pod-del", args, -1);
	if (!answer)
		return CV_CTL_FAILED;
	if (ctl->format != CV_CTL_TABLE)
		return cv_ctl_print(ctl, answer);
	json_decref(answer);
	fprintf(ctl->out, "%s removed\n", ctl->operand);
	return CV_CTL_OK;
}

void cv_ctl_table_pods(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "NAMESPACE", "POD NAME", "SERVICE ACCOUNT",
					      "ADDRESS",   "NUMBER",   "NETNS",
					      NULL };
	struct cv_table t;
	json_t *pod, *address;
	size_t i, j;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, pod) {
		char addresses[512] = "", number[24];
		size_t len = 0;

		if (d->ns && strcmp(d->ns, cv_field_text(pod, "namespace")))
			continue;
		json_array_foreach(json_object_get(pod, "addresses"), j, address)
			if (len < sizeof(addresses))
				len += snprintf(addresses + len, sizeof(addresses) - len, "%s%s",
						j ? "," : "", json_string_value(address));
		snprintf(number, sizeof(number), "%lld", (long long)cv_field_int(pod, "number"));
		cv_table_row(&t, (const char *[]){ cv_field_text(pod, "namespace"),
						   cv_field_text(pod, "name"),
						   cv_field_text(pod, "serviceAccount"), addresses,
						   number, cv_field_text(pod, "netns") });
	}
	cv_table_sort(&t, 0, 1, 4);
	cv_table_print(&t, out);
	cv_table_fini(&t);
}

/* Or the next daemon would enrol again what was unloaded. */
static int forget_pods(const struct cv_ctl *ctl)
{
	char path[512];

	if (snprintf(path, sizeof(path), "%s/pods.json", ctl->run_dir) >= (int)sizeof(path))
		return cv_ctl_fail("%s: too long", ctl->run_dir);
	if (unlink(path) < 0 && errno != ENOENT)
		return cv_ctl_fail("%s: %s", path, strerror(errno));
	return CV_CTL_OK;
}

/* The loader's lock is what protects a live daemon; asking first gives the better text. */
int cv_ctl_unload(struct cv_ctl *ctl)
{
	_cleanup_close_ int fd = cv_ctl_connect(ctl->run_dir);
	int r;

	if (fd >= 0)
		return cv_ctl_fail("a culvertd runs with %s: stop it first", ctl->run_dir);
	r = cv_bpf_unload(ctl->bpffs);
	if (r == -EBUSY)
		return cv_ctl_fail("a culvertd holds %s: stop it first", ctl->bpffs);
	if (r == -ENOENT) {
		fprintf(ctl->out, "nothing is loaded at %s\n", ctl->bpffs);
		return forget_pods(ctl);
	}
	if (r < 0)
		return cv_ctl_fail("%s: %s", ctl->bpffs, strerror(-r));
	fprintf(ctl->out, "%s unloaded\n", ctl->bpffs);
	return forget_pods(ctl);
}
