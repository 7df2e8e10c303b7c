/* SPDX-License-Identifier: Apache-2.0 */
/* The node of nodelab.h: namespaces, daemon, and short ways to ask. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <urcu.h>

#include "selftests/lib/nodelab.h"
#include "selftests/lib/scratch.h"

struct node node;

/* --- helpers -------------------------------------------------------------------------------- */

static const char *run_id(void)
{
	const char *id = getenv("CV_RUN");

	return id ? id : "node";
}

int node_sh(const char *fmt, ...)
{
	char script[1024];
	va_list args;
	int status = -1;
	pid_t pid;

	va_start(args, fmt);
	vsnprintf(script, sizeof(script), fmt, args);
	va_end(args);
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", script, run_id(), NULL);
		_exit(127);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void find_cgroup2(char *ret, size_t size)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], dir[128], type[64];

	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %127s %63s", dir, type) == 2 && !strcmp(type, "cgroup2"))
			snprintf(ret, size, "%s", dir);
	}
	if (f)
		fclose(f);
}

static void join_cgroup(const char *dir)
{
	assert_int_equal(node_sh("echo %d > %s/cgroup.procs", (int)getpid(), dir), 0);
}

static void netns_path(const char *name, char path[NODE_PATH])
{
	snprintf(path, NODE_PATH, "/run/netns/cv-%s-%s", run_id(), name);
}

static int netns_fd(const char *name)
{
	char path[NODE_PATH];

	netns_path(name, path);
	return open(path, O_RDONLY | O_CLOEXEC);
}

void node_turn(void)
{
	event_base_loop(cv_worker_base(node.control), EVLOOP_NONBLOCK);
}

static void on_changed(void *arg)
{
	(void)arg;
	node.changes++;
}

static int on_start(const struct cv_pod_view *pod, void **ret_handle, void *arg)
{
	(void)pod;
	(void)ret_handle; /* no proxy: nothing is to be stopped */
	(void)arg;
	return node.start_result;
}

static enum cv_same_node same_node_of(const char *ns, const char *name, void *arg)
{
	(void)ns;
	(void)name;
	(void)arg;
	return node.same_node;
}

static void on_denied(uint64_t cookie, void *arg)
{
	(void)arg;
	cv_flows_deny(node.flows, cookie);
}

/* --- the daemon ----------------------------------------------------------------------------- */

void node_start(void)
{
	const struct cv_bpf_opts bpf = { .bpffs_dir = node.bpffs, .cgroup_dir = node.cgroup };

	assert_int_equal(cv_bpf_open(&node.bpf, &bpf), 0);
	assert_int_equal(cv_telemetry_new(&node.telemetry, &(struct cv_telemetry_opts){ 0 }), 0);
	assert_int_equal(cv_pods_new(&node.pods, &(struct cv_pods_opts){ .control = node.control,
									 .bpf = node.bpf,
									 .store = node.store,
									 .run_dir = node.run_dir,
									 .start = on_start,
									 .changed = on_changed }),
			 0);
	assert_int_equal(cv_flows_new(&node.flows,
				      &(struct cv_flows_opts){ .control = node.control,
							       .bpf = node.bpf,
							       .store = node.store,
							       .pods = node.pods,
							       .telemetry = node.telemetry }),
			 0);
	assert_int_equal(cv_compile_new(&node.compile,
					&(struct cv_compile_opts){ .bpf = node.bpf,
								   .store = node.store,
								   .pods = node.pods,
								   .same_node = same_node_of,
								   .denied = on_denied }),
			 0);
}

void node_stop(void)
{
	cv_compile_free(&node.compile);
	cv_flows_free(&node.flows);
	cv_pods_free(&node.pods);
	cv_telemetry_free(&node.telemetry);
	cv_bpf_close(&node.bpf);
}

static const char mesh[] =
	"workloads:\n"
	"- {uid: a, name: a, namespace: shop, trustDomain: cluster.local, serviceAccount: web, workloadIps: [10.7.0.1],"
	" node: n, protocol: HBONE, services: {}}\n"
	"- {uid: b, name: b, namespace: shop, trustDomain: cluster.local, serviceAccount: db, workloadIps: [10.7.0.2],"
	" node: n, protocol: HBONE, services: {shop/db.example: {80: 8080}}}\n"
	"- {uid: far, name: far, namespace: shop, trustDomain: cluster.local, serviceAccount: db, workloadIps: [10.9.0.2],"
	" node: m, protocol: HBONE, capacity: 3, services: {shop/db.example: {80: 8080}}}\n"
	"services:\n"
	"- {name: db, namespace: shop, hostname: db.example, vips: ['/10.96.0.1'],"
	" ports: {80: 8080}}\n"
	"- {name: out, namespace: shop, hostname: out.example, vips: ['/10.96.0.2'],"
	" ports: {80: 8080}}\n";

int node_set_up(void **state)
{
	(void)state;
	assert_int_equal(scratch_dir(node.run_dir, sizeof(node.run_dir)), 0);
	assert_int_equal(
		node_sh("for n in a b; do ip netns add cv-$0-$n; done; "
			"ip link add a0 netns cv-$0-a type veth peer name b0 netns cv-$0-b && "
			"ip -n cv-$0-a addr add 10.7.0.1/24 dev a0 && "
			"ip -n cv-$0-b addr add 10.7.0.2/24 dev b0 && "
			"for n in a b; do ip -n cv-$0-$n link set lo up && "
			"ip -n cv-$0-$n link set ${n}0 up; done"),
		0);
	node.same_node = CV_SAME_NODE_DIRECT;
	node.start_result = 0;
	node.changes = 0;
	node.store = cv_fixture_store("", "n");
	cv_fixture_apply(node.store, mesh);
	cv_store_set_warm(node.store);
	node_start();
	return 0;
}

int node_tear_down(void **state)
{
	(void)state;
	node_stop();
	cv_store_free(&node.store);
	(void)cv_bpf_unload(node.bpffs); /* some tests have done it */
	(void)node_sh(
		"ip netns del cv-$0-a 2>/dev/null; ip netns del cv-$0-b 2>/dev/null; rm -r %s",
		node.run_dir);
	return access(node.bpffs, F_OK) == 0;
}

int node_add(const char *name, const char *netns, const char *sa)
{
	char path[NODE_PATH];
	const struct cv_pod_spec spec = {
		.ns = "shop",
		.name = name,
		.service_account = sa,
		.netns_path = path,
		.netns_fd = netns_fd(netns),
	};

	netns_path(netns, path);
	node.error[0] = '\0';
	return cv_pods_add(node.pods, &spec, node.error, sizeof(node.error));
}

void node_add_both(void)
{
	assert_int_equal(node_add("a", "a", NULL), 0);
	assert_int_equal(node_add("b", "b", NULL), 0);
	assert_int_equal(cv_compile_run(node.compile), 0);
}

static int find_view(const struct cv_pod_view *pod, void *arg)
{
	const struct cv_pod_view **found = arg;

	if (strcmp(pod->name, *(const char **)arg))
		return 0;
	*found = pod;
	return 1;
}

int node_del(const char *name)
{
	return cv_pods_del(node.pods, "shop", name, NULL, NULL);
}

const struct cv_pod_view *node_view(const char *name)
{
	const void *found = name;

	return cv_pods_each(node.pods, find_view, &found) ? found : NULL;
}

unsigned node_entries(const char *map)
{
	struct cv_table_info info[32];
	int n = cv_table_info(node.bpf, info, CV_ARRAY_SIZE(info));

	for (int i = 0; i < n; i++) {
		if (!strcmp(info[i].name, map))
			return info[i].entries;
	}
	fail_msg("no map %s", map);
	return 0;
}

int node_begin(void **state)
{
	(void)state;
	rcu_register_thread();
	find_cgroup2(node.cgroup_root, sizeof(node.cgroup_root));
	snprintf(node.cgroup, sizeof(node.cgroup), "%s/cv-%s-node", node.cgroup_root, run_id());
	snprintf(node.bpffs, sizeof(node.bpffs), "/sys/fs/bpf/cv-%s-nodetest", run_id());
	if (mkdir(node.cgroup, 0755) < 0 && errno != EEXIST)
		return -1;
	join_cgroup(node.cgroup);
	return cv_worker_control(&node.control);
}

int node_end(void **state)
{
	(void)state;
	cv_worker_free(&node.control);
	join_cgroup(node.cgroup_root);
	rmdir(node.cgroup);
	rcu_unregister_thread();
	return 0;
}
