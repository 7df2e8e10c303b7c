/* SPDX-License-Identifier: Apache-2.0 */
/* A pod's proxy on loopback, driven by a test's thread. */
#define CV_LOG_TARGET "test"
#include "selftests/lib/proxylab.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <urcu.h>

#include <cmocka.h>

#include "selftests/lib/scratch.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/proxy/inbound.h"
#include "userspace/proxy/outbound.h"

/* ---- namespace ---------------------------------------------------------------------------------- */

static int write_text(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, text, strlen(text)) > 0 ? 0 : -errno;
}

static int become_root_of_own(void)
{
	char map[64];
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (unshare(CLONE_NEWUSER))
		return -errno;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	if (write_text("/proc/self/setgroups", "deny") || write_text("/proc/self/uid_map", map))
		return -EPERM;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return write_text("/proc/self/gid_map", map);
}

int proxylab_unshare(void)
{
	struct ifreq lo = { .ifr_name = "lo" };
	_cleanup_close_ int fd = -1;
	int r = geteuid() ? become_root_of_own() : 0;

	if (r)
		return r;
	if (unshare(CLONE_NEWNET))
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &lo))
		return -errno;
	lo.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &lo) ? -errno : 0;
}

/* ---- threads -------------------------------------------------------------------------------------- */

struct call {
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

static void run_call(void *arg)
{
	struct call *call = arg;

	call->fn(call->arg);
	sem_post(&call->done);
}

void proxylab_run(struct cv_worker *w, void (*fn)(void *arg), void *arg)
{
	struct call call = { .fn = fn, .arg = arg };

	sem_init(&call.done, 0, 0);
	cv_worker_post(w, run_call, &call);
	while (sem_wait(&call.done) && errno == EINTR)
		;
	sem_destroy(&call.done);
}

/* ---- store ------------------------------------------------------------------------------------------ */

static struct cv_workload *make_workload(void)
{
	struct cv_workload *w = cv_workload_new();

	assert_non_null(w);
	w->uid = cv_str_new("cluster1//v1/Pod/ns/app");
	w->group->name = cv_str_new("app");
	w->group->ns = cv_str_new("ns");
	w->group->trust_domain = cv_str_new("cluster.local");
	w->group->service_account = cv_str_new("sa");
	w->group->workload_name = cv_str_new("app");
	w->group->workload_type = cv_str_new("deployment");
	w->group->canonical_name = cv_str_new("app");
	w->group->canonical_revision = cv_str_new("v1");
	w->place->node = cv_str_new("node1");
	w->group->cluster_id = cv_str_new("cluster1");
	w->group->protocol = CV_PROTOCOL_HBONE;
	w->group->capacity = 1;
	w->nr_ips = 2;
	w->ips = calloc(2, sizeof(*w->ips));
	assert_non_null(w->ips);
	w->ips[0] = cv_addr_v4(0x7f000001);
	w->ips[1] = cv_addr_v4(0x7f000002);
	return w;
}

static void apply_workload(void *arg)
{
	struct proxylab *lab = arg;
	struct cv_delta delta = { .kind = CV_DELTA_WORKLOAD };

	lab->workload = make_workload();
	lab->workload->group->has_app_tunnel = lab->workload->group->app_tunnel_proxy =
		lab->app_tunnel;
	delta.key = cv_str_ref(lab->workload->uid);
	delta.workload = cv_workload_ref(lab->workload);
	cv_store_apply(lab->store, &delta, 1);
	cv_str_put(&delta.key);
}

void proxylab_add_workload(struct proxylab *lab)
{
	proxylab_run(lab->control, apply_workload, lab);
}

struct deny {
	struct proxylab *lab;
	const char *principal;
	uint16_t port;
	bool remove;
};

static void fill_match(struct cv_match *m, const struct deny *d)
{
	if (d->principal) {
		m->principals = calloc(1, sizeof(*m->principals));
		m->nr_principals = 1;
		m->principals[0].text = cv_str_new(d->principal);
	}
	if (d->port) {
		m->destination_ports = calloc(1, sizeof(*m->destination_ports));
		m->nr_destination_ports = 1;
		m->destination_ports[0] = d->port;
	}
}

static struct cv_policy *make_deny(const struct deny *d)
{
	struct cv_policy *p = cv_policy_new();

	p->name = cv_str_new("deny");
	p->ns = cv_str_new("ns");
	p->scope = CV_POLICY_NAMESPACE;
	p->action = CV_POLICY_DENY;
	p->n = 1;
	p->rules = calloc(1, sizeof(*p->rules));
	p->rules->n = 1;
	p->rules->clauses = calloc(1, sizeof(*p->rules->clauses));
	p->rules->clauses->n = 1;
	p->rules->clauses->matches = calloc(1, sizeof(*p->rules->clauses->matches));
	fill_match(p->rules->clauses->matches, d);
	return p;
}

static void apply_policy(void *arg)
{
	const struct deny *d = arg;
	struct cv_delta delta = { .kind = CV_DELTA_POLICY, .key = cv_str_new("ns/deny") };

	if (!d->remove)
		delta.policy = make_deny(d);
	cv_store_apply(d->lab->store, &delta, 1);
	cv_str_put(&delta.key);
	cv_proxy_policy_changed(d->lab->proxy);
}

void proxylab_deny(struct proxylab *lab, const char *principal, uint16_t port)
{
	struct deny d = { lab, principal, port, false };

	proxylab_run(lab->control, apply_policy, &d);
}

void proxylab_allow_all(struct proxylab *lab)
{
	struct deny d = { .lab = lab, .remove = true };

	proxylab_run(lab->control, apply_policy, &d);
}

/* ---- start and stop ----------------------------------------------------------------------------------- */

struct start {
	struct proxylab *lab;
	const struct proxylab_opts *opts;
};

static void start_mesh(struct proxylab *lab)
{
	const struct cv_store_opts store = { .network = "", .node = "node1" };
	const struct cv_telemetry_opts telemetry = { .istio_version = "test" };
	struct cv_certs_opts certs = { .control = lab->control, .ttl_s = 3600 };
	char error[256] = "";

	assert_int_equal(cv_telemetry_new(&lab->telemetry, &telemetry), 0);
	assert_int_equal(cv_store_new(&lab->store, &store), 0);
	assert_int_equal(cv_devca_open(&certs.ca, lab->ca_dir, error), 0);
	assert_int_equal(cv_certs_new(&lab->certs, &certs), 0);
}

static void start_on_control(void *arg)
{
	struct start *start = arg;
	struct proxylab *lab = start->lab;
	const struct proxylab_opts *opts = start->opts;
	struct cv_proxy_opts proxy = {
		.control = lab->control,
		.workers = lab->workers,
		.nr_workers = LAB_WORKERS,
		.store = lab->store,
		.certs = lab->certs,
		.telemetry = lab->telemetry,
		.ipv6 = true,
		.original_src = 1,
		.port_reuse = true,
		.response_baggage = true,
		.localhost_app_tunnel = opts->localhost_app_tunnel,
		.pool_max_streams = opts->pool_max_streams ? opts->pool_max_streams : 100,
		.pool_idle_ms = opts->pool_idle_ms ? opts->pool_idle_ms : 3600000,
		.max_connections = opts->max_connections,
		.network = "",
		.cluster_id = "cluster1",
	};
	const struct cv_proxy_pod_info pod = {
		.ns = "ns",
		.name = "app",
		.service_account = "sa",
		.uid = "cluster1//v1/Pod/ns/app",
		.netns = &lab->netns,
	};

	proxy.dns = (struct cv_proxy_dns){
		.addrs[0] = { .ip = cv_addr_v4(INADDR_LOOPBACK), .port = CV_PORT_DNS_PROXY },
		.nr_addrs = opts->dns,
		.zone = { .domain = "cluster.local", .ipv6 = true },
	};
	assert_int_equal(cv_proxy_new(&lab->proxy, &proxy), 0);
	cv_store_set_warm(lab->store);
	assert_int_equal(cv_proxy_pod_start(lab->proxy, &pod, &lab->pod), 0);
}

static void do_nothing(void *arg)
{
	(void)arg;
}

void proxylab_start(struct proxylab *lab, const struct proxylab_opts *opts)
{
	struct start start = { lab, opts };

	if (!getenv("CULVERT_TEST_LOG"))
		(void)cv_log_filter_add("off", false); /* what is refused on purpose is no news */
	*lab = (struct proxylab){ .app_tunnel = opts->app_tunnel };
	assert_int_equal(scratch_dir(lab->ca_dir, sizeof(lab->ca_dir)), 0);
	assert_int_equal(cv_netns_self(&lab->netns), 0);
	assert_int_equal(cv_worker_start(&lab->control, LAB_WORKERS), 0);
	for (unsigned i = 0; i < LAB_WORKERS; i++)
		assert_int_equal(cv_worker_start(&lab->workers[i], i), 0);
	start_mesh(lab);
	if (!opts->no_workload)
		proxylab_add_workload(lab);
	proxylab_run(lab->control, start_on_control, &start);
	for (unsigned i = 0; i < LAB_WORKERS; i++)
		proxylab_run(lab->workers[i], do_nothing, NULL); /* the pod has arrived there */
}

static void post_done(void *arg)
{
	sem_post(arg);
}

struct stop {
	struct proxylab *lab;
	sem_t done;
};

static void stop_on_control(void *arg)
{
	struct stop *stop = arg;

	cv_proxy_pod_stop(&stop->lab->pod, post_done, &stop->done);
}

void proxylab_stop_pod(struct proxylab *lab)
{
	struct stop stop = { .lab = lab };

	sem_init(&stop.done, 0, 0);
	proxylab_run(lab->control, stop_on_control, &stop);
	while (sem_wait(&stop.done) && errno == EINTR)
		;
	sem_destroy(&stop.done);
}

static void close_listeners(void *arg)
{
	cv_listener_close(arg);
}

void proxylab_close_listeners(struct proxylab *lab)
{
	for (unsigned i = 0; i < LAB_WORKERS; i++)
		proxylab_run(lab->workers[i], close_listeners, lab->pod->lanes[i]);
}

struct drain {
	struct proxylab *lab;
	unsigned deadline_ms;
	sem_t *done;
};

static void drain_on_control(void *arg)
{
	struct drain *drain = arg;

	cv_proxy_drain(drain->lab->proxy, drain->deadline_ms, post_done, drain->done);
}

void proxylab_drain(struct proxylab *lab, unsigned deadline_ms, sem_t *done)
{
	struct drain drain = { lab, deadline_ms, done };

	proxylab_run(lab->control, drain_on_control, &drain);
	for (unsigned i = 0; i < LAB_WORKERS; i++)
		proxylab_run(lab->workers[i], do_nothing, NULL); /* it has arrived there */
}

int proxylab_sem_wait(sem_t *done)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	while (sem_timedwait(done, &until))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void remove_ca(const char *dir)
{
	static const char *const files[] = { "root-key.pem", "root-cert.pem", ".lock" };
	char path[128];

	for (size_t i = 0; i < CV_ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(dir), 0);
}

void proxylab_stop(struct proxylab *lab)
{
	struct cv_proxy_stats stats;

	if (lab->pod)
		proxylab_stop_pod(lab);
	stats = proxylab_stats(lab);
	for (unsigned i = 0; i < LAB_WORKERS; i++)
		cv_worker_stop(&lab->workers[i]);
	cv_proxy_free(&lab->proxy);
	cv_workload_put(&lab->workload);
	cv_certs_free(&lab->certs);
	cv_store_free(&lab->store);
	cv_worker_stop(&lab->control);
	cv_telemetry_free(&lab->telemetry);
	cv_netns_fini(&lab->netns);
	remove_ca(lab->ca_dir);
	rcu_barrier();
	assert_int_equal(stats.connections, 0);
	assert_int_equal(stats.hbone_pooled, 0);
	assert_int_equal(stats.hbone_inbound, 0);
}

/* ---- sockets --------------------------------------------------------------------------------------------- */

static struct cv_sockaddr address(const char *ip, uint16_t port)
{
	struct cv_sockaddr a = { .port = port };

	assert_int_equal(cv_addr_parse(ip, &a.ip), 0);
	return a;
}

static int make_socket(const struct cv_sockaddr *bind_to)
{
	static const struct timeval patience = { .tv_sec = 10 };
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(bind_to, &ss);
	int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	return fd;
}

int proxylab_listen(const char *ip, uint16_t port)
{
	struct cv_sockaddr a = address(ip, port);
	int fd = make_socket(&a);

	assert_int_equal(listen(fd, 1024), 0);
	return fd;
}

int proxylab_accept(int fd, struct cv_sockaddr *ret_peer)
{
	static const struct timeval patience = { .tv_sec = 10 };
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int conn = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC);

	assert_true(conn >= 0);
	setsockopt(conn, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(conn, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (ret_peer)
		assert_int_equal(cv_sockaddr_from_native((struct sockaddr *)&ss, ret_peer), 0);
	return conn;
}

int proxylab_try_connect(const char *ip, uint16_t port)
{
	struct cv_sockaddr any = address("127.0.0.1", 0), to = address(ip, port);
	_cleanup_close_ int fd = make_socket(&any);
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(&to, &ss);

	return connect(fd, (struct sockaddr *)&ss, len) ? -errno : 0;
}

struct inject {
	struct cv_lane *lane;
	int fd;
	struct cv_sockaddr client, dst;
	bool plain;
};

static void inject(void *arg)
{
	struct inject *in = arg;

	if (in->plain)
		cv_plain_start(in->lane, in->fd, &in->client, &in->dst);
	else
		cv_outbound_start(in->lane, in->fd, &in->client, &in->dst);
}

/* A loopback connection: returns the client's end, the other one goes to the worker. */
static int capture(struct proxylab *lab, unsigned w, const struct cv_sockaddr *client,
		   struct inject *in)
{
	struct cv_sockaddr at = address("127.0.0.1", 0);
	_cleanup_close_ int listener = make_socket(&at);
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd = make_socket(client), r;

	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&ss, &len), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	in->fd = cv_sock_accept(listener, NULL, &in->client);
	assert_true(in->fd >= 0);
	r = fcntl(in->fd, F_SETFL, O_NONBLOCK);
	assert_int_equal(r, 0);
	in->lane = lab->pod->lanes[w];
	proxylab_run(lab->workers[w], inject, in);
	return fd;
}

int proxylab_outbound(struct proxylab *lab, unsigned w, const char *ip, uint16_t port)
{
	struct cv_sockaddr client = address("127.0.0.1", 0);
	struct inject in = { .dst = address(ip, port) };

	return capture(lab, w, &client, &in);
}

int proxylab_plain_from(struct proxylab *lab, unsigned w, const char *client_ip,
			uint16_t client_port, const char *ip, uint16_t port)
{
	struct cv_sockaddr client = address(client_ip, client_port);
	struct inject in = { .dst = address(ip, port), .plain = true };

	return capture(lab, w, &client, &in);
}

int proxylab_plain(struct proxylab *lab, unsigned w, const char *client_ip, const char *ip,
		   uint16_t port)
{
	return proxylab_plain_from(lab, w, client_ip, 0, ip, port);
}

struct cv_proxy_stats proxylab_stats(struct proxylab *lab)
{
	struct cv_proxy_stats stats;

	cv_proxy_stats(lab->proxy, &stats);
	return stats;
}

bool proxylab_wait(bool (*is_true)(void *arg), void *arg)
{
	for (int i = 0; i < 500; i++) {
		if (is_true(arg))
			return true;
		usleep(10000);
	}
	return false;
}

unsigned proxylab_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
