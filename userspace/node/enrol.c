// SPDX-License-Identifier: Apache-2.0
/*
 * One pod: the steps of its enrolment and removal.
 *
 * While its cv_pods entry is there without CV_POD_CAPTURE, the programs pass everything and mark
 * what connects or is accepted as older. So the entry comes first, then the sockets that exist are
 * marked, then all hooks are attached, then one map update switches capture on: no connection is
 * left unmarked and none is half captured. Removal is the same backwards.
 */
#define CV_LOG_TARGET "node"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/node/flows.h"
#include "userspace/node/pods_private.h"

static char *copy_text(const char *text)
{
	return text && text[0] ? strdup(text) : NULL;
}

struct cv_node_pod *cv_node_pod_new(struct cv_pods *p, const struct cv_pod_spec *spec,
				    struct cv_netns *netns)
{
	struct cv_node_pod *pod = calloc(1, sizeof(*pod));

	if (!pod) {
		cv_netns_fini(netns);
		return NULL;
	}
	pod->pods = p;
	pod->netns = *netns;
	*netns = (struct cv_netns){ .fd = -1 };
	pod->ns = copy_text(spec->ns);
	pod->name = copy_text(spec->name);
	pod->service_account = copy_text(spec->service_account);
	pod->netns_path = copy_text(spec->netns_path ? spec->netns_path : "-");
	if (spec->uid && spec->uid[0])
		pod->uid = strdup(spec->uid);
	else if (asprintf(&pod->uid, "%s/%s", spec->ns, spec->name) < 0)
		pod->uid = NULL;
	if (!pod->ns || !pod->name || !pod->netns_path || !pod->uid ||
	    (spec->service_account && spec->service_account[0] && !pod->service_account)) {
		cv_node_pod_free(pod);
		return NULL;
	}
	pod->view = (struct cv_pod_view){
		.ns = pod->ns,
		.name = pod->name,
		.service_account = pod->service_account,
		.uid = pod->uid,
		.netns = &pod->netns,
		.netns_path = pod->netns_path,
	};
	return pod;
}

void cv_node_pod_free(struct cv_node_pod *pod)
{
	if (!pod)
		return;
	cv_netdev_watch_free(&pod->watch);
	cv_netdevs_fini(&pod->devs);
	cv_netns_fini(&pod->netns);
	free(pod->ns);
	free(pod->name);
	free(pod->service_account);
	free(pod->uid);
	free(pod->netns_path);
	free(pod);
}

static struct cv_bpf_pod hooks_of(const struct cv_node_pod *pod)
{
	return (struct cv_bpf_pod){
		.pod = pod->view.number,
		.netns_fd = pod->netns.fd,
		.ifindexes = pod->devs.ifindexes,
		.nr_ifindexes = pod->devs.nr_ifindexes,
	};
}

static void show_devs(struct cv_node_pod *pod)
{
	pod->view.addrs = pod->devs.addrs;
	pod->view.nr_addrs = pod->devs.nr_addrs;
}

/* --- addresses ------------------------------------------------------------------------------ */

static bool has_addr(const struct cv_netdevs *devs, const struct cv_addr *addr)
{
	for (size_t i = 0; i < devs->nr_addrs; i++) {
		if (cv_addr_eq(&devs->addrs[i], addr))
			return true;
	}
	return false;
}

/* An address that another pod has as well (link-local ones may repeat) stays the other's. */
static int own_addr(struct cv_node_pod *pod, const struct cv_addr *addr)
{
	const struct cv_workload_entry entry = { .pod = pod->view.number };
	struct cv_bpf *bpf = pod->pods->opts.bpf;
	struct cv_workload_entry present;
	char text[CV_ADDR_TEXT];

	if (cv_table_workload_get(bpf, addr, &present) == 0) {
		if (present.pod == entry.pod)
			return 0;
		if (present.pod < CV_MAX_PODS && pod->pods->by_number[present.pod]) {
			cv_warn("%s/%s: address %s is pod number %u's already", pod->ns, pod->name,
				cv_addr_text(addr, text), present.pod);
			return 0;
		}
	}
	return cv_table_workload_set(bpf, addr, &entry);
}

static void disown_addr(struct cv_bpf *bpf, uint32_t number, const struct cv_addr *addr)
{
	struct cv_workload_entry present;

	if (cv_table_workload_get(bpf, addr, &present) == 0 && present.pod == number)
		(void)cv_table_workload_del(bpf, addr); /* gone already is as good */
}

static int own_addrs(struct cv_node_pod *pod)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < pod->devs.nr_addrs; i++)
		r = own_addr(pod, &pod->devs.addrs[i]);
	return r;
}

/* --- later changes -------------------------------------------------------------------------- */

/* Devices that are hooked already are found so, at the price of one look-up each. */
static void hook_devices(struct cv_node_pod *pod)
{
	const struct cv_bpf_pod hooks = hooks_of(pod);

	for (size_t i = 0; i < pod->devs.nr_ifindexes; i++) {
		uint32_t ifindex = pod->devs.ifindexes[i];
		int r = cv_bpf_pod_attach_device(pod->pods->opts.bpf, &hooks, ifindex);

		if (r < 0)
			cv_error("%s/%s: device %u is not hooked: %s", pod->ns, pod->name, ifindex,
				 cv_strerror(-r));
	}
}

static void on_devices_changed(void *arg)
{
	struct cv_node_pod *pod = arg;
	struct cv_pods *p = pod->pods;
	struct cv_netdevs old = pod->devs, fresh;
	struct cv_bpf_pod hooks;
	int r = cv_netdevs_read(&pod->netns, &fresh);

	if (r < 0) {
		cv_warn("%s/%s: devices: %s", pod->ns, pod->name, cv_strerror(-r));
		return;
	}
	pod->devs = fresh;
	show_devs(pod);
	hook_devices(pod);
	for (size_t i = 0; i < old.nr_addrs; i++) {
		if (!has_addr(&fresh, &old.addrs[i]))
			disown_addr(p->opts.bpf, pod->view.number, &old.addrs[i]);
	}
	cv_netdevs_fini(&old);
	hooks = hooks_of(pod);
	r = own_addrs(pod);
	if (r >= 0)
		r = cv_bpf_pod_route(p->opts.bpf, &hooks, fresh.addrs, fresh.nr_addrs);
	if (r < 0)
		cv_error("%s/%s: addresses: %s", pod->ns, pod->name, cv_strerror(-r));
	if (p->opts.changed)
		p->opts.changed(p->opts.arg);
}

/* --- enrolment ------------------------------------------------------------------------------ */

static int set_entry(struct cv_node_pod *pod, uint32_t flags)
{
	struct cv_pod entry = {
		.pod = pod->view.number,
		.flags = flags,
		.netns_cookie = pod->netns.cookie,
	};
	int r;

	snprintf(entry.name, sizeof(entry.name), "%s/%s", pod->ns, pod->name);
	r = cv_table_pod_set(pod->pods->opts.bpf, pod->netns.cookie, &entry);
	if (r == 0)
		pod->in_kernel = true;
	return r;
}

static int read_devices(struct cv_node_pod *pod)
{
	int r = cv_netdev_watch_new(&pod->watch, pod->pods->opts.control, &pod->netns,
				    on_devices_changed, pod);

	if (r < 0)
		return r;
	r = cv_netdevs_read(&pod->netns, &pod->devs);
	if (r == 0)
		show_devs(pod);
	return r;
}

static int start_listeners(struct cv_node_pod *pod)
{
	const struct cv_pods_opts *opts = &pod->pods->opts;

	return opts->start ? opts->start(&pod->view, &pod->proxy, opts->arg) : 0;
}

static int add_routes(struct cv_node_pod *pod)
{
	const struct cv_bpf_pod hooks = hooks_of(pod);

	pod->hooked = true;
	return cv_bpf_pod_route(pod->pods->opts.bpf, &hooks, pod->devs.addrs, pod->devs.nr_addrs);
}

static int add_addresses(struct cv_node_pod *pod)
{
	return own_addrs(pod);
}

/* Switched off: from here on the programs mark new connections as older. */
static int add_entry(struct cv_node_pod *pod)
{
	const struct cv_usage_entry none = {};
	int r = cv_table_usage_set(pod->pods->opts.bpf, pod->view.number, &none);

	return r < 0 ? r : set_entry(pod, 0);
}

static int attach_hooks(struct cv_node_pod *pod)
{
	const struct cv_bpf_pod hooks = hooks_of(pod);

	return cv_bpf_pod_attach(pod->pods->opts.bpf, &hooks);
}

/* Number after a prefix in a file of /proc; 1 when it cannot be told, 0 when there is no file. */
static unsigned read_number(const char *path, const char *prefix)
{
	FILE *f = fopen(path, "re");
	char line[256];
	unsigned n = 1;

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, prefix, strlen(prefix)))
			continue;
		n = (unsigned)strtoul(line + strlen(prefix), NULL, 10);
		break;
	}
	fclose(f);
	return n;
}

/* Does the calling thread's namespace hold TCP sockets? To look through all sockets of the machine
 * takes the kernel milliseconds, and a pod that is just being made has none. */
static bool has_sockets(void)
{
	return read_number("/proc/thread-self/net/sockstat", "TCP: inuse ") ||
	       read_number("/proc/thread-self/net/sockstat6", "TCP6: inuse ");
}

static int mark_older(struct cv_node_pod *pod)
{
	int r = cv_netns_enter(&pod->netns);

	if (r < 0)
		return r;
	r = has_sockets() ? cv_bpf_mark_older(pod->pods->opts.bpf) : 0;
	cv_netns_leave(&pod->netns);
	if (r > 0)
		cv_debug("%s/%s: %d older sockets go on untouched", pod->ns, pod->name, r);
	return r < 0 ? r : 0;
}

static int switch_on(struct cv_node_pod *pod)
{
	return set_entry(pod, CV_POD_CAPTURE);
}

static const struct step {
	const char *name;
	int (*fn)(struct cv_node_pod *pod);
	bool fresh_only; /* not for a pod whose capture is on already */
} steps[] = {
	{ "devices", read_devices, false },    { "routes", add_routes, false },
	{ "addresses", add_addresses, false }, { "entry", add_entry, true },
	{ "older sockets", mark_older, true }, { "listeners", start_listeners, false },
	{ "hooks", attach_hooks, false },      { "capture", switch_on, true },
};

void cv_node_pod_stop(struct cv_node_pod *pod, void (*done)(void *arg), void *arg)
{
	const struct cv_pods_opts *opts = &pod->pods->opts;
	void *handle = cv_take_ptr(pod->proxy);

	if (handle && opts->stop)
		opts->stop(handle, done, arg, opts->arg);
	else
		done(arg);
}

static void free_pod(void *arg)
{
	cv_node_pod_free(arg);
}

int cv_node_pod_enrol(struct cv_node_pod *pod, bool captured)
{
	uint64_t start = cv_now_ns(), before = start;

	pod->in_kernel = captured;
	for (size_t i = 0; i < CV_ARRAY_SIZE(steps); i++) {
		uint64_t now;
		int r = captured && steps[i].fresh_only ? 0 : steps[i].fn(pod);

		if (r < 0) {
			cv_debug("%s/%s: %s: %s", pod->ns, pod->name, steps[i].name,
				 cv_strerror(-r));
			if (!captured)
				cv_node_pod_release(pod);
			cv_netdev_watch_free(&pod->watch);
			cv_node_pod_stop(pod, free_pod, pod);
			return r;
		}
		now = cv_now_ns();
		cv_debug("%s/%s: %s: %u us", pod->ns, pod->name, steps[i].name,
			 (unsigned)((now - before) / 1000));
		before = now;
	}
	cv_debug("%s/%s: %s in %u us", pod->ns, pod->name, captured ? "adopted" : "enrolled",
		 (unsigned)((before - start) / 1000));
	return 0;
}

/* --- removal -------------------------------------------------------------------------------- */

struct purge {
	struct cv_bpf *bpf;
	uint32_t number;
};

static int purge_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e,
			  void *arg)
{
	const struct purge *purge = arg;

	if (e->src_pod == purge->number || e->dst_pod == purge->number)
		(void)cv_table_attested_del(purge->bpf, tuple); /* closed meanwhile is as good */
	return 0;
}

static int purge_address(const struct cv_addr *addr, const struct cv_workload_entry *e, void *arg)
{
	const struct purge *purge = arg;

	if (e->pod == purge->number)
		(void)cv_table_workload_del(purge->bpf, addr); /* gone already is as good */
	return 0;
}

static int purge_verdict(const struct cv_verdict_key *key, const struct cv_verdict_entry *e,
			 void *arg)
{
	const struct purge *purge = arg;

	(void)e;
	if (key->src_pod == purge->number || key->dst_pod == purge->number)
		(void)cv_table_verdict_del(purge->bpf, key); /* gone already is as good */
	return 0;
}

void cv_node_forget(struct cv_bpf *bpf, uint32_t number, uint64_t cookie)
{
	struct purge purge = { bpf, number };
	int r = cv_bpf_pod_detach(bpf, number);

	if (r < 0 && r != -ENOENT)
		cv_error("pod number %u: hooks: %s", number, cv_strerror(-r));
	(void)cv_table_pod_del(bpf, cookie); /* gone already is as good */
	r = cv_table_workload_each(bpf, purge_address, &purge);
	if (r == 0)
		r = cv_table_verdict_each(bpf, purge_verdict, &purge);
	if (r == 0)
		r = cv_table_attested_each(bpf, purge_attested, &purge);
	if (r < 0)
		cv_error("pod number %u: maps: %s", number, cv_strerror(-r));
}

static int close_proxied(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	const struct cv_node_pod *pod = arg;

	if (e->src_pod == pod->view.number &&
	    (e->kind == CV_KIND_CAPTURED || e->kind == CV_KIND_DAEMON_LEG))
		(void)cv_sock_destroy(&pod->netns, tuple, e->cookie); /* gone already is as good */
	return 0;
}

/* What goes through the daemon must end before capture does: the application would go on to send,
 * and nothing would keep it from the wire. */
static void end_capture(struct cv_node_pod *pod)
{
	struct cv_bpf *bpf = pod->pods->opts.bpf;
	int r = cv_table_attested_each(bpf, close_proxied, pod);

	(void)set_entry(pod, 0); /* if that fails, taking the hooks off does the same */
	if (r == 0) /* and what connected meanwhile */
		r = cv_table_attested_each(bpf, close_proxied, pod);
	if (r < 0)
		cv_error("%s/%s: connections could not be closed: %s", pod->ns, pod->name,
			 cv_strerror(-r));
}

void cv_node_pod_release(struct cv_node_pod *pod)
{
	const struct cv_bpf_pod hooks = hooks_of(pod);
	struct cv_bpf *bpf = pod->pods->opts.bpf;

	cv_netdev_watch_free(&pod->watch);
	if (pod->in_kernel)
		end_capture(pod);
	if (pod->hooked)
		(void)cv_bpf_pod_unroute(bpf, &hooks); /* the hooks still go */
	if (pod->hooked || pod->in_kernel)
		cv_node_forget(bpf, pod->view.number, pod->netns.cookie);
	pod->hooked = pod->in_kernel = false;
}
