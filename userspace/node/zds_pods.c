/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pods that the node agent has handed over. A pod is running (it has a handle), pending (its
 * start failed; it is tried again), or leaving (stopped; its last sockets close).
 */
#define CV_LOG_TARGET "node"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/node/zds_private.h"

static void free_pod(struct zds_pod *pod)
{
	cv_netns_fini(&pod->netns);
	free(pod->uid);
	free(pod->name);
	free(pod->ns);
	free(pod->service_account);
	free(pod);
}

static struct zds_pod *find(struct cv_zds *z, const char *uid)
{
	struct zds_pod *pod;

	TAILQ_FOREACH(pod, &z->pods, node)
	if (!strcmp(pod->uid, uid))
		return pod;
	return NULL;
}

/* Takes netns. NULL = no memory. An account that is not given is the record's. */
static struct zds_pod *make_pod(struct cv_zds *z, const struct cv_zds_request *r,
				struct cv_netns *netns)
{
	struct zds_pod *pod = calloc(1, sizeof(*pod));

	if (!pod)
		return NULL;
	pod->zds = z;
	pod->netns = *netns;
	*netns = (struct cv_netns){ .fd = -1 };
	pod->uid = strdup(r->uid);
	pod->name = strdup(r->name);
	pod->ns = strdup(r->ns);
	pod->service_account = *r->service_account ? strdup(r->service_account) : NULL;
	if (!pod->uid || !pod->name || !pod->ns || (*r->service_account && !pod->service_account)) {
		free_pod(pod);
		return NULL;
	}
	pod->view = (struct cv_pod_view){
		.uid = pod->uid,
		.name = pod->name,
		.ns = pod->ns,
		.service_account = pod->service_account,
		.netns = &pod->netns,
		.pending = true,
	};
	return pod;
}

/* ---- starting and stopping -------------------------------------------------------------------- */

static int start_pod(struct zds_pod *pod)
{
	struct cv_zds *z = pod->zds;
	int r = z->opts.start(&pod->view, &pod->handle, z->opts.arg);

	if (r < 0)
		return r;
	pod->view.pending = false;
	z->counts.pending--;
	z->counts.active++;
	z->opts.changed(z->opts.arg);
	return 0;
}

static void on_stopped(void *arg)
{
	struct zds_pod *pod = arg;

	TAILQ_REMOVE(&pod->zds->leaving, pod, node);
	free_pod(pod);
}

static void drop_pod(struct zds_pod *pod)
{
	struct cv_zds *z = pod->zds;

	TAILQ_REMOVE(&z->pods, pod, node);
	if (pod->view.pending) {
		z->counts.pending--;
		free_pod(pod);
		return;
	}
	z->counts.active--;
	TAILQ_INSERT_TAIL(&z->leaving, pod, node);
	cv_info("pod %s/%s removed", pod->ns, pod->name);
	z->opts.stop(pod->handle, on_stopped, pod, z->opts.arg);
	z->opts.changed(z->opts.arg);
}

/* ---- add -------------------------------------------------------------------------------------- */

static enum zds_verdict refuse(char error[CV_ZDS_ERROR], const char *ns, const char *name,
			       const char *why)
{
	snprintf(error, CV_ZDS_ERROR, "failure to start proxy: %.64s/%.256s: %s", ns, name, why);
	return ZDS_TRY_AGAIN;
}

/* Takes the descriptor. */
static int open_netns(struct cv_zds *z, int fd, struct cv_netns *ret)
{
	int r = cv_netns_init(ret, fd);

	if (r < 0) {
		ret->fd = -1;
		cv_close(&fd);
	} else if (ret->cookie == z->own.cookie) {
		r = -EINVAL;
	}
	return r;
}

static enum zds_verdict add_new(struct cv_zds *z, const struct cv_zds_request *request,
				struct cv_netns *netns, char error[CV_ZDS_ERROR])
{
	struct zds_pod *pod;
	int r;

	if (z->counts.active + z->counts.pending >= CV_LIMIT_ZDS_PODS)
		return refuse(error, request->ns, request->name, "no more pods fit on this node");
	pod = make_pod(z, request, netns);
	if (!pod)
		return refuse(error, request->ns, request->name, cv_strerror(ENOMEM));
	pod->named = !z->counts.snapshot;
	TAILQ_INSERT_TAIL(&z->pods, pod, node);
	z->counts.pending++;
	r = start_pod(pod);
	if (r < 0)
		return refuse(error, pod->ns, pod->name, cv_strerror(-r));
	cv_info("pod %s/%s added", pod->ns, pod->name);
	return ZDS_OK;
}

static enum zds_verdict add(struct cv_zds *z, const struct cv_zds_request *request, int netns_fd,
			    char error[CV_ZDS_ERROR])
{
	_cleanup_(cv_netns_fini) struct cv_netns netns = { .fd = -1 };
	struct zds_pod *known;

	if (!request->name) {
		cv_close(&netns_fd);
		snprintf(error, CV_ZDS_ERROR,
			 "failure to process message: an add without workload_info");
		return ZDS_MISMATCH;
	}
	if (open_netns(z, netns_fd, &netns) < 0)
		return refuse(error, request->ns, request->name,
			      "the descriptor is not of a pod's network namespace");
	known = find(z, request->uid);
	if (known && !known->view.pending && known->netns.cookie == netns.cookie) {
		known->named = !z->counts.snapshot;
		return ZDS_OK;
	}
	/* The sandbox was made again, or another try of what failed. */
	if (known)
		drop_pod(known);
	return add_new(z, request, &netns, error);
}

/* ---- the other messages ------------------------------------------------------------------------ */

static enum zds_verdict keep(struct cv_zds *z, const char *uid, char error[CV_ZDS_ERROR])
{
	struct zds_pod *pod = find(z, uid);

	if (z->counts.snapshot) {
		snprintf(error, CV_ZDS_ERROR,
			 "failure to process message: a keep after the snapshot");
		return ZDS_MISMATCH;
	}
	if (pod)
		pod->named = true;
	return ZDS_OK;
}

/* Before the end of the snapshot a running pod is only unnamed: the end stops it. */
static void del(struct cv_zds *z, const char *uid)
{
	struct zds_pod *pod = find(z, uid);

	if (!pod)
		return;
	if (z->counts.snapshot || pod->view.pending)
		drop_pod(pod);
	else
		pod->named = false;
}

static enum zds_verdict end_snapshot(struct cv_zds *z, char error[CV_ZDS_ERROR])
{
	struct zds_pod *pod, *next;

	if (z->counts.snapshot) {
		snprintf(error, CV_ZDS_ERROR, "failure to process message: a second snapshot");
		return ZDS_MISMATCH;
	}
	for (pod = TAILQ_FIRST(&z->pods); pod; pod = next) {
		next = TAILQ_NEXT(pod, node);
		if (!pod->named && !pod->view.pending)
			drop_pod(pod);
		else
			pod->named = false;
	}
	z->counts.snapshot = true;
	cv_info("snapshot received: %zu pods, %zu of them could not be started yet",
		z->counts.active + z->counts.pending, z->counts.pending);
	return ZDS_OK;
}

enum zds_verdict zds_pods_process(struct cv_zds *z, const struct cv_zds_request *request,
				  int netns_fd, char error[CV_ZDS_ERROR])
{
	switch (request->kind) {
	case CV_ZDS_ADD:
		return add(z, request, netns_fd, error);
	case CV_ZDS_KEEP:
		return keep(z, request->uid, error);
	case CV_ZDS_DEL:
		del(z, request->uid);
		return ZDS_OK;
	case CV_ZDS_SNAPSHOT:
		return end_snapshot(z, error);
	}
	return ZDS_MISMATCH;
}

void zds_pods_begin(struct cv_zds *z)
{
	struct zds_pod *pod, *next;

	z->counts.snapshot = false;
	for (pod = TAILQ_FIRST(&z->pods); pod; pod = next) {
		next = TAILQ_NEXT(pod, node);
		pod->named = false;
		if (pod->view.pending)
			drop_pod(pod);
	}
}

void zds_pods_retry(struct cv_zds *z)
{
	struct zds_pod *pod;

	TAILQ_FOREACH(pod, &z->pods, node)
	{
		int r = pod->view.pending ? start_pod(pod) : 0;

		if (r < 0)
			cv_info("pod %s/%s still cannot be started: %s", pod->ns, pod->name,
				cv_strerror(-r));
	}
}

void zds_pods_free(struct cv_zds *z)
{
	struct zds_pods *lists[] = { &z->pods, &z->leaving };
	struct zds_pod *pod;

	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++) {
		while ((pod = TAILQ_FIRST(lists[i]))) {
			TAILQ_REMOVE(lists[i], pod, node);
			free_pod(pod);
		}
	}
}
