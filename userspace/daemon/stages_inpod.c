/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of the mode in ztunnel's place: pods come from istio-cni over ZDS, with its redirection in
 * their namespaces; neither BPF nor cgroups nor anything below /sys is touched.
 */
#include "userspace/daemon/stages.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/daemon/wiring.h"

enum { ANY_MARK = 1337 };

/* Early, rather than with the first pod. */
int cv_start_privileges(struct cv_daemon *d)
{
	_cleanup_close_ int ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int mark = d->env.packet_mark ? (int)d->env.packet_mark : ANY_MARK;
	int r;

	if (ns < 0 || fd < 0)
		return -errno;
	if (setns(ns, CLONE_NEWNET) < 0) {
		r = -errno;
		cv_error("network namespaces cannot be entered: %s; give the container "
			 "CAP_SYS_ADMIN",
			 cv_strerror(-r));
		return r;
	}
	if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0) {
		r = -errno;
		cv_error("sockets cannot be marked: %s; give the container CAP_NET_ADMIN",
			 cv_strerror(-r));
		return r;
	}
	return 0;
}

static void on_ready(bool ready, void *arg)
{
	struct cv_daemon *d = arg;

	if (ready) {
		cv_ready_done(d->telemetry, "workload proxy manager");
		/* Until here no pod's traffic could suffer from us, and everyone waited for us. */
		(void)cv_start_batch(d);
	} else {
		cv_ready_add(d->telemetry, "workload proxy manager");
	}
}

/* Our own pod, if the environment names it: who scrapes our metrics may do so over HBONE. */
static int start_self(struct cv_daemon *d)
{
	const struct cv_env *env = &d->env;
	const struct cv_proxy_pod_info info = {
		.ns = env->pod_namespace,
		.name = env->pod_name,
		.service_account = env->service_account,
		.uid = env->pod_name,
		.netns = &d->own_netns,
		.self = true,
	};

	if (!info.ns || !info.name || !info.service_account)
		return 0;
	return cv_proxy_pod_start(d->proxy, &info, &d->self);
}

int cv_start_inpod(struct cv_daemon *d)
{
	const struct cv_zds_opts opts = {
		.control = d->control,
		.path = d->env.inpod_uds,
		.start = cv_start_pod_proxy,
		.stop = cv_stop_pod_proxy,
		.changed = cv_on_pods_changed,
		.ready = on_ready,
		.arg = d,
	};
	int r = cv_netns_self(&d->own_netns);

	if (r == 0)
		r = cv_zds_new(&d->zds, &opts);
	return r < 0 ? r : start_self(d);
}

/* After the proxy: it is in the pods' namespaces until then. */
void cv_stop_inpod(struct cv_daemon *d)
{
	cv_zds_free(&d->zds);
	cv_netns_fini(&d->own_netns);
	cv_identities_fini(&d->identities);
}

int cv_start_inpod_pods(struct cv_daemon *d)
{
	cv_info("in ztunnel's place: no BPF; pods and their redirection come from istio-cni at %s, "
		"traffic between pods of this node goes by mutual TLS",
		d->env.inpod_uds);
	cv_ready_done(d->telemetry, "proxy");
	d->pods_started = true;
	cv_let_in(d);
	return 0;
}
