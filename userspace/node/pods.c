// SPDX-License-Identifier: Apache-2.0
/*
 * The set of enrolled pods: who may be added, numbers, removal, and adoption after a restart.
 */
#define CV_LOG_TARGET "node"
#include "userspace/node/pods.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/node/pods_private.h"

/* Tells the programs which namespace is the node's own: its processes are the pods' kubelet. */
static int tell_host(struct cv_pods *p)
{
	struct cv_control_entry control;
	int r = cv_table_control_get(p->opts.bpf, &control);

	if (r < 0)
		return r;
	control.host_netns_cookie = p->own.cookie;
	return cv_table_control_set(p->opts.bpf, &control);
}

int cv_pods_new(struct cv_pods **ret, const struct cv_pods_opts *opts)
{
	_cleanup_(cv_pods_free) struct cv_pods *p = calloc(1, sizeof(*p));
	struct stat st;
	int r;

	if (!p)
		return -ENOMEM;
	p->opts = *opts;
	p->own.fd = -1;
	r = cv_netns_self(&p->own);
	if (r < 0)
		return r;
	if (stat("/proc/1/ns/net", &st) == 0)
		p->host_inode = st.st_ino;
	r = tell_host(p);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(p);
	return 0;
}

void cv_pods_free(struct cv_pods **pp)
{
	struct cv_pods *p = *pp;

	if (!p)
		return;
	for (size_t i = 0; i < CV_MAX_PODS; i++) {
		cv_node_pod_free(p->by_number[i]);
		cv_node_pod_free(p->leaving[i]);
	}
	cv_netns_fini(&p->own);
	free(p);
	*pp = NULL;
}

/* --- looking up ----------------------------------------------------------------------------- */

static struct cv_node_pod *find_by_name(struct cv_pods *p, const char *ns, const char *name)
{
	for (size_t i = 0; i < CV_MAX_PODS; i++) {
		struct cv_node_pod *pod = p->by_number[i];

		if (pod && !strcmp(pod->name, name) && !strcmp(pod->ns, ns))
			return pod;
	}
	return NULL;
}

static struct cv_node_pod *find_by_cookie(struct cv_pods *p, uint64_t cookie)
{
	for (size_t i = 0; i < CV_MAX_PODS; i++) {
		if (p->by_number[i] && p->by_number[i]->netns.cookie == cookie)
			return p->by_number[i];
	}
	return NULL;
}

int cv_pods_each(struct cv_pods *p, int (*fn)(const struct cv_pod_view *pod, void *arg), void *arg)
{
	for (size_t i = 0; i < CV_MAX_PODS; i++) {
		int r = p->by_number[i] ? fn(&p->by_number[i]->view, arg) : 0;

		if (r)
			return r;
	}
	return 0;
}

const struct cv_pod_view *cv_pods_by_number(struct cv_pods *p, uint32_t number)
{
	if (number >= CV_MAX_PODS || !p->by_number[number])
		return NULL;
	return &p->by_number[number]->view;
}

size_t cv_pods_count(const struct cv_pods *p)
{
	return p->count;
}

/* --- adding --------------------------------------------------------------------------------- */

static bool is_free(const struct cv_pods *p, uint32_t number)
{
	return !p->by_number[number] && !p->leaving[number];
}

/* The wanted number if it is free, else the next after the one given out last; 0 = none. A
 * number that was just given up may still stand in flow records. */
static uint32_t choose_number(struct cv_pods *p, uint32_t wanted)
{
	if (wanted && wanted < CV_MAX_PODS && is_free(p, wanted))
		return wanted;
	for (uint32_t i = 1; i < CV_MAX_PODS; i++) {
		uint32_t number = (p->last_number + i - 1) % (CV_MAX_PODS - 1) + 1;

		if (is_free(p, number))
			return number;
	}
	return 0;
}

/* What the kernel has for this namespace from an earlier daemon, if it is whole. */
static bool is_captured(struct cv_pods *p, uint64_t cookie, uint32_t *ret_number)
{
	struct cv_pod entry;

	if (cv_table_pod_get(p->opts.bpf, cookie, &entry) < 0)
		return false;
	*ret_number = entry.pod;
	return entry.flags & CV_POD_CAPTURE;
}

static void save(struct cv_pods *p)
{
	int r = cv_pods_state_save(p);

	if (r < 0)
		cv_warn("%s/pods.json is not up to date: %s", p->opts.run_dir, cv_strerror(-r));
}

static void tell_changed(struct cv_pods *p)
{
	if (p->opts.changed)
		p->opts.changed(p->opts.arg);
}

/* Takes netns. wanted = the number it had, 0 = none. */
static int add_pod(struct cv_pods *p, const struct cv_pod_spec *spec, struct cv_netns *netns,
		   uint32_t wanted)
{
	bool captured = is_captured(p, netns->cookie, &wanted);
	struct cv_node_pod *pod = cv_node_pod_new(p, spec, netns);
	uint32_t number;
	int r;

	if (!pod)
		return -ENOMEM;
	number = choose_number(p, wanted);
	if (!number) {
		cv_node_pod_free(pod);
		return -ENOSPC;
	}
	pod->view.number = number;
	pod->view.epoch = ++p->last_epoch;
	if (captured && number != wanted) { /* what it had cannot be completed: begin again */
		cv_node_forget(p->opts.bpf, wanted, pod->netns.cookie);
		captured = false;
	}
	r = cv_node_pod_enrol(pod, captured);
	if (r < 0)
		return r;
	p->by_number[number] = pod;
	p->last_number = number;
	p->count++;
	return 0;
}

/* The service account that the workload's record says, when the given one contradicts it. */
static struct cv_workload *find_contradiction(struct cv_pods *p, const struct cv_pod_spec *spec)
{
	struct cv_workload *w;

	if (!spec->service_account || !spec->service_account[0])
		return NULL;
	w = cv_store_workload_local(p->opts.store, spec->ns, spec->service_account, spec->name);
	if (w) {
		cv_workload_put(&w);
		return NULL;
	}
	return cv_store_workload_local(p->opts.store, spec->ns, NULL, spec->name);
}

static int refuse_netns(struct cv_pods *p, const struct cv_netns *netns, char *error, size_t size)
{
	if (netns->cookie != p->own.cookie && netns->inode != p->host_inode)
		return 0;
	snprintf(error, size,
		 "this is the network namespace of %s, not a pod's; pods in the host's network "
		 "cannot be enrolled",
		 netns->cookie == p->own.cookie ? "culvertd itself" : "the host");
	return -EINVAL;
}

/* Is it enrolled already? 1 = the very same, 0 = no, else refused. */
static int compare_enrolled(struct cv_pods *p, const struct cv_pod_spec *spec,
			    const struct cv_netns *netns, char *error, size_t size)
{
	const struct cv_node_pod *same_name = find_by_name(p, spec->ns, spec->name);
	const struct cv_node_pod *same_netns = find_by_cookie(p, netns->cookie);
	const char *sa = spec->service_account;

	if (same_netns && same_netns != same_name) {
		snprintf(error, size,
			 "this network namespace is enrolled as %s/%s; remove that first "
			 "(culvertctl pod del %s/%s)",
			 same_netns->ns, same_netns->name, same_netns->ns, same_netns->name);
		return -EEXIST;
	}
	if (!same_name)
		return 0;
	if (!same_netns) {
		snprintf(error, size,
			 "%s/%s is enrolled with another network namespace; remove it first "
			 "(culvertctl pod del %s/%s)",
			 spec->ns, spec->name, spec->ns, spec->name);
		return -EEXIST;
	}
	if (sa && sa[0] && same_name->service_account && strcmp(sa, same_name->service_account)) {
		snprintf(error, size, "%s/%s is enrolled with service account %s, not %s", spec->ns,
			 spec->name, same_name->service_account, sa);
		return -EEXIST;
	}
	return 1;
}

static int refuse_account(struct cv_pods *p, const struct cv_pod_spec *spec, char *error,
			  size_t size)
{
	struct cv_workload *w = find_contradiction(p, spec);

	if (!w)
		return 0;
	snprintf(error, size,
		 "service account %s contradicts the workload's record, which says %s; leave "
		 "--service-account out to use the record's",
		 spec->service_account, cv_str_text(w->group->service_account));
	cv_workload_put(&w);
	return -EINVAL;
}

int cv_pods_add(struct cv_pods *p, const struct cv_pod_spec *spec, char *error, size_t size)
{
	_cleanup_(cv_netns_fini) struct cv_netns netns = { .fd = -1 };
	int fd = spec->netns_fd;
	int r = cv_netns_init(&netns, fd);

	if (r < 0) {
		netns.fd = -1;
		cv_close(&fd);
		snprintf(error, size,
			 "%s is no network namespace; give the pod's, such as /run/netns/NAME or "
			 "/proc/PID/ns/net",
			 spec->netns_path ? spec->netns_path : "the file");
		return r;
	}
	r = refuse_netns(p, &netns, error, size);
	if (r < 0)
		return r;
	r = compare_enrolled(p, spec, &netns, error, size);
	if (r != 0)
		return r < 0 ? r : 0;
	r = refuse_account(p, spec, error, size);
	if (r < 0)
		return r;
	r = add_pod(p, spec, &netns, 0);
	if (r == -ENOSPC)
		snprintf(error, size, "%d pods are enrolled: no more fit", CV_MAX_PODS - 1);
	else if (r < 0)
		snprintf(error, size, "%s/%s could not be enrolled: %s", spec->ns, spec->name,
			 cv_strerror(-r));
	if (r < 0)
		return r;
	save(p);
	cv_info("pod %s/%s enrolled", spec->ns, spec->name);
	tell_changed(p);
	return 0;
}

/* --- removing ------------------------------------------------------------------------------- */

static void on_stopped(void *arg)
{
	struct cv_node_pod *pod = arg;

	pod->pods->leaving[pod->view.number] = NULL;
	if (pod->done)
		pod->done(pod->done_arg);
	cv_node_pod_free(pod);
}

int cv_pods_del(struct cv_pods *p, const char *ns, const char *name, void (*done)(void *arg),
		void *arg)
{
	struct cv_node_pod *pod = find_by_name(p, ns, name);

	if (!pod)
		return -ENOENT;
	cv_node_pod_release(pod);
	p->by_number[pod->view.number] = NULL;
	p->leaving[pod->view.number] = pod;
	p->count--;
	save(p);
	cv_info("pod %s/%s removed", ns, name);
	tell_changed(p);
	pod->done = done;
	pod->done_arg = arg;
	cv_node_pod_stop(pod, on_stopped, pod);
	return 0;
}

/* --- adoption ------------------------------------------------------------------------------- */

/* The namespace with this cookie: at fd (taken), else where the pod's pinned links are. */
static int open_netns(struct cv_pods *p, int fd, uint32_t number, uint64_t cookie,
		      struct cv_netns *ret)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		if (attempt)
			fd = cv_bpf_pod_netns(p->opts.bpf, number);
		if (fd < 0)
			continue;
		if (cv_netns_init(ret, fd) < 0) {
			cv_close(&fd);
			continue;
		}
		if (ret->cookie == cookie)
			return 0;
		cv_netns_fini(ret);
	}
	return -ENOENT;
}

static void adopt(struct cv_pods *p, const struct cv_pod_spec *spec, uint32_t number,
		  uint64_t cookie)
{
	_cleanup_(cv_netns_fini) struct cv_netns netns = { .fd = -1 };
	int r = open_netns(p, spec->netns_fd, number, cookie, &netns);

	if (r < 0) {
		cv_info("pod %s/%s is gone: forgotten", spec->ns, spec->name);
		cv_node_forget(p->opts.bpf, number, cookie);
		return;
	}
	if (find_by_name(p, spec->ns, spec->name))
		return;
	r = add_pod(p, spec, &netns, number);
	if (r < 0)
		cv_error("pod %s/%s could not be adopted, it is refused what needs the daemon: %s",
			 spec->ns, spec->name, cv_strerror(-r));
	else
		cv_info("pod %s/%s adopted", spec->ns, spec->name);
}

static void adopt_saved(struct cv_pods_saved *saved, void *arg)
{
	adopt(arg, &saved->spec, saved->number, saved->cookie);
}

/* An entry of cv_pods that the state file did not name. */
static int adopt_entry(uint64_t cookie, const struct cv_pod *entry, void *arg)
{
	struct cv_pods *p = arg;
	struct cv_pod_spec spec = { .netns_fd = -1 };
	char ns[sizeof(entry->name)];
	char *slash;

	if (find_by_cookie(p, cookie))
		return 0;
	snprintf(ns, sizeof(ns), "%s", entry->name);
	slash = strchr(ns, '/');
	if (!slash || strlen(ns) == sizeof(ns) - 1) {
		cv_warn("pod number %u has no usable name: forgotten", entry->pod);
		cv_node_forget(p->opts.bpf, entry->pod, cookie);
		return 0;
	}
	*slash = '\0';
	spec.ns = ns;
	spec.name = slash + 1;
	adopt(p, &spec, entry->pod, cookie);
	return 0;
}

int cv_pods_adopt(struct cv_pods *p)
{
	int r = cv_pods_state_load(p->opts.run_dir, adopt_saved, p);

	if (r < 0)
		cv_warn("%s/pods.json cannot be read, the pinned state alone counts: %s",
			p->opts.run_dir, cv_strerror(-r));
	r = cv_table_pod_each(p->opts.bpf, adopt_entry, p);
	if (r < 0)
		return r;
	r = cv_bpf_retire(p->opts.bpf);
	if (r < 0)
		cv_warn("what an older version left attached stays: %s", cv_strerror(-r));
	save(p);
	if (p->count)
		tell_changed(p);
	return (int)p->count;
}
