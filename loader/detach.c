// SPDX-License-Identifier: Apache-2.0
/*
 * Taking hooks off: of a pod, of all pods below a directory, and of what is gone already. Works
 * on pins alone, so it needs no memory of who attached them.
 */
#define CV_LOG_TARGET "bpf"
#include <bpf/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "loader/attach.h"
#include "loader/internal.h"
#include "loader/links.h"
#include "loader/netns.h"
#include "loader/pin.h"
#include "loader/routes.h"
#include "loader/tc.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

int cv_bpf_pod_netns(const struct cv_bpf *bpf, uint32_t pod)
{
	char dir[CV_PIN_PATH / 2];
	int r = cv_pods_dir(bpf->dir, pod, dir, sizeof(dir));

	return r < 0 ? r : cv_link_open_netns(dir);
}

/* Detaches at once: unpinning alone would leave that to a kernel thread, and a pod that is
 * enrolled again meanwhile would have two programs. */
static int detach_pin(const char *dir, const char *name, void *arg)
{
	_cleanup_close_ int fd = -1;
	char path[CV_PIN_PATH];

	(void)arg;
	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	if (!strcmp(name, CV_PIN_ACCEPT_LOCAL)) {
		cv_accept_local_clear();
		return cv_pin_remove_tree(path);
	}
	if (!strncmp(name, "tc-", 3)) {
		cv_tc_detach(name + 3);
	} else {
		fd = bpf_obj_get(path);
		if (fd >= 0 && bpf_link_detach(fd) < 0 && errno != ENOLINK)
			cv_debug("detach %s: %s", path, cv_strerror(errno));
	}
	return cv_pin_unlink(path);
}

static int remove_pod(const char *dir, bool keep_routes)
{
	_cleanup_close_ int netns = cv_link_open_netns(dir);
	int back = -1;
	int r;

	/* Filters and routes can only be taken away from inside; without a namespace they are gone. */
	if (netns >= 0 && cv_netns_visit(netns, &back) < 0)
		back = -1;
	if (back >= 0 && !keep_routes)
		cv_routes_remove();
	r = cv_pin_each(dir, detach_pin, NULL);
	cv_netns_visit_end(&back);
	if (r < 0)
		return r;
	return cv_pin_remove_tree(dir);
}

int cv_bpf_pod_detach(struct cv_bpf *bpf, uint32_t pod)
{
	char dir[CV_PIN_PATH / 2];
	struct stat st;
	int r = cv_pods_dir(bpf->dir, pod, dir, sizeof(dir));

	if (r < 0)
		return r;
	if (stat(dir, &st) < 0)
		return -errno;
	return remove_pod(dir, false);
}

/* A search among the pods of another directory for one in the same namespace. */
struct heir {
	uint32_t inode;
	char dir[CV_PIN_PATH / 2]; /* empty = none found */
};

static int match_heir(const char *pods, const char *name, void *arg)
{
	struct heir *heir = arg;
	char dir[CV_PIN_PATH / 2];

	if (snprintf(dir, sizeof(dir), "%s/%s", pods, name) >= (int)sizeof(dir))
		return -ENAMETOOLONG;
	if (cv_link_netns_inode(dir) == heir->inode)
		snprintf(heir->dir, sizeof(heir->dir), "%s", dir);
	return 0;
}

/* Routes are the namespace's: a pod that is attached from another directory too keeps them, and
 * that directory inherits the note about the sysctl. */
static int inherit(const char *dir, const char *heirs, bool *ret_found)
{
	struct heir heir = { .inode = cv_link_netns_inode(dir) };
	char mark[CV_PIN_PATH];
	int r;

	*ret_found = false;
	if (!heirs || !heir.inode)
		return 0;
	r = cv_pin_each(heirs, match_heir, &heir);
	if (r < 0 || !heir.dir[0])
		return r;
	*ret_found = true;
	snprintf(mark, sizeof(mark), "%s/%s", dir, CV_PIN_ACCEPT_LOCAL);
	if (rmdir(mark) < 0)
		return errno == ENOENT ? 0 : -errno;
	snprintf(mark, sizeof(mark), "%s/%s", heir.dir, CV_PIN_ACCEPT_LOCAL);
	return cv_pin_mkdir(mark);
}

static int remove_named_pod(const char *pods, const char *name, void *arg)
{
	const char *heirs = arg;
	char dir[CV_PIN_PATH / 2];
	bool found;
	int r;

	if (snprintf(dir, sizeof(dir), "%s/%s", pods, name) >= (int)sizeof(dir))
		return -ENAMETOOLONG;
	r = inherit(dir, heirs, &found);
	return r < 0 ? r : remove_pod(dir, found);
}

int cv_attach_remove_pods(const char *dir, const char *heir_dir)
{
	char pods[CV_PIN_PATH / 2], heirs[CV_PIN_PATH / 2];

	if (snprintf(pods, sizeof(pods), "%s/pods", dir) >= (int)sizeof(pods) ||
	    snprintf(heirs, sizeof(heirs), "%s/pods", heir_dir ? heir_dir : "") >=
		    (int)sizeof(heirs))
		return -ENAMETOOLONG;
	return cv_pin_each(pods, remove_named_pod, heir_dir ? heirs : NULL);
}

static int prune_pin(const char *dir, const char *name, void *arg)
{
	_cleanup_close_ int fd = -1;
	struct bpf_link_info info;
	char path[CV_PIN_PATH];
	size_t *live = arg;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = bpf_obj_get(path);
	if (fd >= 0 && strncmp(name, "tc-", 3) &&
	    (cv_link_info(fd, &info) < 0 || !cv_link_target(&info))) {
		cv_debug("unpin %s: its target is gone", path);
		return cv_pin_unlink(path);
	}
	*live += fd >= 0 && strncmp(name, "tc-", 3) != 0;
	return 0;
}

static int prune_pod(const char *pods, const char *name, void *arg)
{
	char dir[CV_PIN_PATH / 2];
	size_t live = 0;
	int r;

	(void)arg;
	if (snprintf(dir, sizeof(dir), "%s/%s", pods, name) >= (int)sizeof(dir))
		return -ENAMETOOLONG;
	r = cv_pin_each(dir, prune_pin, &live);
	if (r < 0 || live)
		return r;
	return cv_pin_remove_tree(dir);
}

int cv_attach_prune(struct cv_bpf *bpf)
{
	char pods[CV_PIN_PATH / 2];

	if (snprintf(pods, sizeof(pods), "%s/pods", bpf->dir) >= (int)sizeof(pods))
		return -ENAMETOOLONG;
	return cv_pin_each(pods, prune_pod, NULL);
}
