// SPDX-License-Identifier: Apache-2.0
/*
 * RUN_DIR/pods.json: what a restarted daemon needs to enrol the same pods again, above all the
 * path of each namespace and the cookie by which it is known to be the same one still. The
 * file is written aside and renamed. Cookies start again at each boot, hence the boot's id.
 */
#define CV_LOG_TARGET "node"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/node/pods_private.h"

enum { STATE_PATH = 512, BOOT_ID = 64 };

static void put_json(json_t **j)
{
	json_decref(*j);
	*j = NULL;
}

static void read_boot_id(char id[BOOT_ID])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, BOOT_ID - 1);

	id[n > 0 ? n : 0] = '\0';
	id[strcspn(id, "\n")] = '\0';
}

static int state_path(const char *run_dir, const char *suffix, char path[STATE_PATH])
{
	int n = snprintf(path, STATE_PATH, "%s/pods.json%s", run_dir, suffix);

	return n < STATE_PATH ? 0 : -ENAMETOOLONG;
}

static json_t *pod_json(const struct cv_node_pod *pod)
{
	return json_pack("{s:s, s:s, s:s?, s:s, s:s, s:I, s:I}", "namespace", pod->ns, "name",
			 pod->name, "serviceAccount", pod->service_account, "uid", pod->uid,
			 "netns", pod->netns_path, "number", (json_int_t)pod->view.number, "cookie",
			 (json_int_t)pod->netns.cookie);
}

static json_t *state_json(const struct cv_pods *p)
{
	_cleanup_(put_json) json_t *pods = json_array();
	char boot[BOOT_ID];

	for (size_t i = 0; pods && i < CV_MAX_PODS; i++) {
		if (p->by_number[i] && json_array_append_new(pods, pod_json(p->by_number[i])) < 0)
			return NULL;
	}
	read_boot_id(boot);
	return pods ? json_pack("{s:s, s:O}", "boot", boot, "pods", pods) : NULL;
}

/* In one piece: json_dumpfd() would make a system call of each token. */
static int write_state(const json_t *state, int fd)
{
	_cleanup_free_ char *text = json_dumps(state, JSON_COMPACT);
	size_t size = text ? strlen(text) : 0;
	ssize_t n;

	if (!text)
		return -ENOMEM;
	n = write(fd, text, size);
	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -ENOSPC; /* a file takes less only when the disk is full */
}

int cv_pods_state_save(struct cv_pods *p)
{
	_cleanup_(put_json) json_t *state = state_json(p);
	char path[STATE_PATH], tmp[STATE_PATH];
	_cleanup_close_ int fd = -1;
	int r;

	if (!state)
		return -ENOMEM;
	if (state_path(p->opts.run_dir, "", path) < 0 ||
	    state_path(p->opts.run_dir, ".new", tmp) < 0)
		return -ENAMETOOLONG;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_state(state, fd);
	if (r < 0)
		return r;
	return rename(tmp, path) < 0 ? -errno : 0;
}

static const char *text_of(const json_t *item, const char *key)
{
	return json_string_value(json_object_get(item, key));
}

static void load_pod(const json_t *item, void (*fn)(struct cv_pods_saved *saved, void *arg),
		     void *arg)
{
	json_int_t number = json_integer_value(json_object_get(item, "number"));
	struct cv_pods_saved saved = {
		.spec = {
			.ns = text_of(item, "namespace"),
			.name = text_of(item, "name"),
			.service_account = text_of(item, "serviceAccount"),
			.uid = text_of(item, "uid"),
			.netns_path = text_of(item, "netns"),
		},
		.number = (uint32_t)number,
		.cookie = (uint64_t)json_integer_value(json_object_get(item, "cookie")),
	};

	if (!saved.spec.ns || !saved.spec.name || !saved.spec.netns_path || number <= 0 ||
	    number >= CV_MAX_PODS)
		return;
	saved.spec.netns_fd = open(saved.spec.netns_path, O_RDONLY | O_CLOEXEC);
	fn(&saved, arg);
}

int cv_pods_state_load(const char *run_dir, void (*fn)(struct cv_pods_saved *saved, void *arg),
		       void *arg)
{
	_cleanup_(put_json) json_t *state = NULL;
	const char *boot = "";
	json_t *pods = NULL, *item;
	char path[STATE_PATH], now[BOOT_ID];
	struct stat st;
	size_t i;

	if (state_path(run_dir, "", path) < 0)
		return -ENAMETOOLONG;
	if (stat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (st.st_size > CV_LIMIT_STATE_BYTES)
		return -EFBIG;
	state = json_load_file(path, 0, NULL);
	if (!state || json_unpack(state, "{s:s, s:o}", "boot", &boot, "pods", &pods) < 0)
		return -EBADMSG;
	read_boot_id(now);
	if (strcmp(boot, now))
		return 0;
	json_array_foreach(pods, i, item)
		load_pod(item, fn, arg);
	return 0;
}
