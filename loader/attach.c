// SPDX-License-Identifier: Apache-2.0
/*
 * Attaching one pod and the node. A link is pinned as soon as it exists; whether a pinned link
 * still does anything is asked of the kernel (its device or namespace is 0 once that is gone).
 *
 * TCX hooks take one RCU grace period each under the kernel's RTNL lock, so attaching them from
 * two threads gains nothing.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "loader/features.h"
#include "loader/internal.h"
#include "loader/links.h"
#include "loader/netns.h"
#include "loader/pin.h"
#include "loader/routes.h"
#include "loader/tc.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

/* A pod while its hooks are attached or updated. */
struct visit {
	struct cv_bpf *bpf;
	struct cv_pod_data data;
	uint64_t inode; /* of its namespace */
	char dir[CV_PIN_PATH / 2]; /* its pins */
	int instances[CV_PROG_NR]; /* made on demand; -1 = not yet */
	bool update; /* pinned links get the present program */
};

/* --- the node's own cgroup ------------------------------------------------------------------ */

static int attach_cgroup_prog(struct cv_bpf *bpf, enum cv_prog_id id, const char *base, bool update)
{
	const struct cv_prog_desc *desc = &cv_progs[id];
	_cleanup_close_ int link = -1;
	char path[CV_PIN_PATH];

	if (snprintf(path, sizeof(path), "%s/links/%s", base, desc->name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	link = bpf_obj_get(path);
	if (link >= 0) {
		if (!update)
			return 0;
		return bpf_link_update(link, bpf->progs[id], NULL) < 0 ? -errno : 0;
	}
	link = bpf_link_create(bpf->progs[id], bpf->cgroup_fd, desc->attach_type, NULL);
	if (link < 0)
		return -errno;
	return cv_pin_put(link, path);
}

int cv_attach_cgroup(struct cv_bpf *bpf, const char *base, bool update)
{
	for (enum cv_prog_id id = 0; id < CV_PROG_NR; id++) {
		int r;

		if (cv_progs[id].place != CV_PLACE_CGROUP)
			continue;
		r = attach_cgroup_prog(bpf, id, base, update);
		if (r < 0) {
			cv_debug("attach %s: %s", cv_progs[id].name, cv_strerror(-r));
			return r;
		}
	}
	return 0;
}

/* --- one pod -------------------------------------------------------------------------------- */

static void visit_init(struct visit *v, struct cv_bpf *bpf)
{
	*v = (struct visit){ .bpf = bpf };
	for (size_t i = 0; i < CV_ARRAY_SIZE(v->instances); i++)
		v->instances[i] = -1;
}

static void visit_fini(struct visit *v)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(v->instances); i++)
		cv_close(&v->instances[i]);
}

/* The fd (borrowed) of this pod's instance of a program, or the one that all pods share. */
static int instance_fd(struct visit *v, enum cv_prog_id id)
{
	const struct cv_template *t = &v->bpf->templates[id];

	if (!t->nr_pod_refs)
		return v->bpf->progs[id];
	if (v->instances[id] < 0)
		v->instances[id] = cv_pool_take(v->bpf->pool, id, &v->data);
	return v->instances[id];
}

/* Keeps a pinned link that still has its target (0 = keep), else unpins it (-ENOENT). */
static int keep_link(struct visit *v, enum cv_prog_id id, const char *path, uint32_t target)
{
	_cleanup_close_ int link = bpf_obj_get(path);
	struct bpf_link_info info;
	int prog;

	if (link < 0)
		return -errno;
	if (cv_link_info(link, &info) < 0 || cv_link_target(&info) != target) {
		int r = cv_pin_unlink(path);

		return r < 0 ? r : -ENOENT;
	}
	if (!v->update)
		return 0;
	prog = instance_fd(v, id);
	if (prog < 0)
		return prog;
	return bpf_link_update(link, prog, NULL) < 0 ? -errno : 0;
}

static int ensure_link(struct visit *v, enum cv_prog_id id, const char *name, int target_fd,
		       uint32_t target)
{
	enum bpf_attach_type type = cv_progs[id].attach_type;
	LIBBPF_OPTS(bpf_link_create_opts, opts);
	_cleanup_close_ int link = -1;
	char path[CV_PIN_PATH];
	int prog, r;

	snprintf(path, sizeof(path), "%s/%s", v->dir, name);
	r = keep_link(v, id, path, target);
	if (r != -ENOENT)
		return r;
	prog = instance_fd(v, id);
	if (prog < 0)
		return prog;
	if (!type) {
		type = (enum bpf_attach_type)(id == CV_PROG_POD_EGRESS ? CV_BPF_TCX_EGRESS :
									 CV_BPF_TCX_INGRESS);
		/* A program before ours that ends the chain would open a way around it. */
		opts.flags = CV_BPF_F_BEFORE;
	}
	link = bpf_link_create(prog, target_fd, type, &opts);
	if (link < 0)
		return -errno;
	return cv_pin_put(link, path);
}

static int ensure_filter(struct visit *v, enum cv_prog_id id, const char *name, uint32_t ifindex)
{
	bool egress = id == CV_PROG_POD_EGRESS;
	char path[CV_PIN_PATH];
	int prog;

	if (!v->update && cv_tc_is_attached(ifindex, egress))
		return 0;
	snprintf(path, sizeof(path), "%s/tc-%s", v->dir, name);
	prog = instance_fd(v, id);
	return prog < 0 ? prog : cv_tc_attach(ifindex, egress, prog, path);
}

/* The calling thread is in the pod's namespace. */
static int attach_device(struct visit *v, uint32_t ifindex)
{
	static const struct {
		enum cv_prog_id id;
		const char *name;
	} hooks[] = {
		{ CV_PROG_POD_EGRESS, "egress" },
		{ CV_PROG_POD_INGRESS, "ingress" },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(hooks); i++) {
		char name[40];
		int r;

		snprintf(name, sizeof(name), "%s-%u", hooks[i].name, ifindex);
		if (v->bpf->features.tcx)
			r = ensure_link(v, hooks[i].id, name, (int)ifindex, ifindex);
		else
			r = ensure_filter(v, hooks[i].id, name, ifindex);
		if (r < 0) {
			cv_debug("attach %s: %s", name, cv_strerror(-r));
			return r;
		}
	}
	return 0;
}

static int visit_open(struct visit *v, struct cv_bpf *bpf, const struct cv_bpf_pod *p,
		      int *ret_back)
{
	struct stat st;
	int r;

	if (!p->pod || p->pod >= CV_MAX_PODS)
		return -EINVAL;
	if (fstat(p->netns_fd, &st) < 0)
		return -errno;
	visit_init(v, bpf);
	v->inode = st.st_ino;
	v->data.pod = p->pod;
	r = cv_pods_dir(bpf->dir, p->pod, v->dir, sizeof(v->dir));
	if (r < 0)
		return r;
	r = cv_pin_mkdir(v->dir);
	if (r < 0)
		return r;
	r = cv_netns_visit(p->netns_fd, ret_back);
	if (r < 0)
		return r;
	return cv_netns_visit_cookie(&v->data.netns_cookie);
}

static int attach_pod(struct visit *v, const struct cv_bpf_pod *p)
{
	int r = ensure_link(v, CV_PROG_POD_LOOKUP, "lookup", p->netns_fd, (uint32_t)v->inode);

	for (size_t i = 0; r >= 0 && i < p->nr_ifindexes; i++)
		r = attach_device(v, p->ifindexes[i]);
	return r;
}

int cv_bpf_pod_attach(struct cv_bpf *bpf, const struct cv_bpf_pod *p)
{
	struct visit v;
	int back = -1;
	int r = visit_open(&v, bpf, p, &back);

	if (r >= 0) {
		r = attach_pod(&v, p);
		visit_fini(&v);
	}
	cv_netns_visit_end(&back);
	if (r < 0)
		(void)cv_bpf_pod_detach(bpf, p->pod); /* the first error is the one to tell */
	return r;
}

int cv_bpf_pod_attach_device(struct cv_bpf *bpf, const struct cv_bpf_pod *p, uint32_t ifindex)
{
	struct visit v;
	int back = -1;
	int r = visit_open(&v, bpf, p, &back);

	if (r >= 0) {
		r = attach_device(&v, ifindex);
		visit_fini(&v);
	}
	cv_netns_visit_end(&back);
	return r;
}

static int ensure_routes(struct visit *v, const struct cv_addr *addrs, size_t n)
{
	char path[CV_PIN_PATH];
	int r = cv_accept_local_set();

	if (r == 1) {
		snprintf(path, sizeof(path), "%s/%s", v->dir, CV_PIN_ACCEPT_LOCAL);
		r = cv_pin_mkdir(path);
	}
	return r < 0 ? r : cv_routes_ensure(addrs, n);
}

int cv_bpf_pod_route(struct cv_bpf *bpf, const struct cv_bpf_pod *p, const struct cv_addr *addrs,
		     size_t n)
{
	struct visit v;
	int back = -1;
	int r = visit_open(&v, bpf, p, &back);

	if (r >= 0)
		r = ensure_routes(&v, addrs, n);
	cv_netns_visit_end(&back);
	return r;
}

int cv_bpf_pod_unroute(struct cv_bpf *bpf, const struct cv_bpf_pod *p)
{
	struct visit v;
	char path[CV_PIN_PATH];
	int back = -1;
	int r = visit_open(&v, bpf, p, &back);

	if (r >= 0) {
		cv_routes_remove();
		snprintf(path, sizeof(path), "%s/%s", v.dir, CV_PIN_ACCEPT_LOCAL);
		if (rmdir(path) == 0)
			cv_accept_local_clear();
	}
	cv_netns_visit_end(&back);
	return r;
}

/* --- other programs in links that stay --------------------------------------------------------- */

static int update_pin(const char *dir, const char *name, void *arg)
{
	struct visit *v = arg;
	enum cv_prog_id id = CV_PROG_POD_LOOKUP;
	char path[CV_PIN_PATH];
	_cleanup_close_ int link = -1;
	struct bpf_link_info info;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	if (strstr(name, "egress-"))
		id = CV_PROG_POD_EGRESS;
	else if (strstr(name, "ingress-"))
		id = CV_PROG_POD_INGRESS;
	if (!strncmp(name, "tc-", 3))
		return ensure_filter(v, id, name + 3,
				     (uint32_t)strtoul(strrchr(name, '-') + 1, NULL, 10));
	link = bpf_obj_get(path);
	if (link < 0 || cv_link_info(link, &info) < 0)
		return 0;
	return keep_link(v, id, path, cv_link_target(&info));
}

static int update_pod(const char *pods, const char *name, void *arg)
{
	struct cv_bpf *bpf = arg;
	_cleanup_close_ int netns = -1;
	struct visit v;
	int back = -1;
	int r;

	visit_init(&v, bpf);
	v.update = true;
	v.data.pod = (uint32_t)strtoul(name, NULL, 10);
	if (snprintf(v.dir, sizeof(v.dir), "%s/%s", pods, name) >= (int)sizeof(v.dir))
		return -ENAMETOOLONG;
	netns = cv_link_open_netns(v.dir);
	if (netns < 0) /* alive, but only its own sockets hold it: the old programs serve it */
		return 0;
	r = cv_netns_visit(netns, &back);
	if (r < 0)
		return r;
	r = cv_netns_visit_cookie(&v.data.netns_cookie);
	if (r >= 0)
		r = cv_pin_each(v.dir, update_pin, &v);
	visit_fini(&v);
	cv_netns_visit_end(&back);
	return r;
}

int cv_attach_update_pods(struct cv_bpf *bpf)
{
	char pods[CV_PIN_PATH / 2];

	if (snprintf(pods, sizeof(pods), "%s/pods", bpf->dir) >= (int)sizeof(pods))
		return -ENAMETOOLONG;
	return cv_pin_each(pods, update_pod, bpf);
}
