// SPDX-License-Identifier: Apache-2.0
/*
 * Enrolment, the verdict compiler and flow records on a real kernel, without a proxy.
 *
 *	pod a ── a0 ──────── b0 ── pod b
 *	10.7.0.1              10.7.0.2, application on 8080
 *
 * Both are namespaces of this run; the test process plays the applications, in a cgroup of its
 * own, and is the daemon's control thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <urcu.h>

#include "loader/tables.h"
#include "maps/reasons.h"
#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/node/compile.h"
#include "userspace/node/flows.h"
#include "userspace/node/pods.h"

enum { PATH = 400, APP_PORT = 8080, WAIT_MS = 5000 };

static struct {
	char bpffs[128], cgroup[256], cgroup_root[128], run_dir[128];
	struct cv_worker *control;
	struct cv_bpf *bpf;
	struct cv_store *store;
	struct cv_telemetry *telemetry;
	struct cv_pods *pods;
	struct cv_flows *flows;
	struct cv_compile *compile;
	enum cv_same_node same_node;
	int start_result; /* of opts.start */
	unsigned changes; /* calls of opts.changed */
} t;

/* --- helpers -------------------------------------------------------------------------------- */

static const char *run_id(void)
{
	const char *id = getenv("CV_RUN");

	return id ? id : "node";
}

static int sh(const char *fmt, ...)
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
	assert_int_equal(sh("echo %d > %s/cgroup.procs", (int)getpid(), dir), 0);
}

static void netns_path(const char *name, char path[PATH])
{
	snprintf(path, PATH, "/run/netns/cv-%s-%s", run_id(), name);
}

static int netns_fd(const char *name)
{
	char path[PATH];

	netns_path(name, path);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void turn_loop(void)
{
	event_base_loop(cv_worker_base(t.control), EVLOOP_NONBLOCK);
}

static void on_changed(void *arg)
{
	(void)arg;
	t.changes++;
}

static int on_start(const struct cv_pod_view *pod, void **ret_handle, void *arg)
{
	(void)pod;
	(void)ret_handle; /* no proxy: nothing is to be stopped */
	(void)arg;
	return t.start_result;
}

static enum cv_same_node same_node_of(const char *ns, const char *name, void *arg)
{
	(void)ns;
	(void)name;
	(void)arg;
	return t.same_node;
}

static void on_denied(uint64_t cookie, void *arg)
{
	(void)arg;
	cv_flows_deny(t.flows, cookie);
}

/* --- the daemon ----------------------------------------------------------------------------- */

static void start_daemon(void)
{
	const struct cv_bpf_opts bpf = { .bpffs_dir = t.bpffs, .cgroup_dir = t.cgroup };

	assert_int_equal(cv_bpf_open(&t.bpf, &bpf), 0);
	assert_int_equal(cv_telemetry_new(&t.telemetry, &(struct cv_telemetry_opts){ 0 }), 0);
	assert_int_equal(cv_pods_new(&t.pods, &(struct cv_pods_opts){ .control = t.control,
								      .bpf = t.bpf,
								      .store = t.store,
								      .run_dir = t.run_dir,
								      .start = on_start,
								      .changed = on_changed }),
			 0);
	assert_int_equal(cv_flows_new(&t.flows,
				      &(struct cv_flows_opts){ .control = t.control,
							       .bpf = t.bpf,
							       .store = t.store,
							       .pods = t.pods,
							       .telemetry = t.telemetry }),
			 0);
	assert_int_equal(cv_compile_new(&t.compile,
					&(struct cv_compile_opts){ .bpf = t.bpf,
								   .store = t.store,
								   .pods = t.pods,
								   .same_node = same_node_of,
								   .denied = on_denied }),
			 0);
}

/* As kill -9 does: nothing is taken back. */
static void stop_daemon(void)
{
	cv_compile_free(&t.compile);
	cv_flows_free(&t.flows);
	cv_pods_free(&t.pods);
	cv_telemetry_free(&t.telemetry);
	cv_bpf_close(&t.bpf);
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

static int set_up(void **state)
{
	(void)state;
	snprintf(t.run_dir, sizeof(t.run_dir), "/tmp/cv-%s-node-XXXXXX", run_id());
	assert_non_null(mkdtemp(t.run_dir));
	assert_int_equal(sh("for n in a b; do ip netns add cv-$0-$n; done; "
			    "ip link add a0 netns cv-$0-a type veth peer name b0 netns cv-$0-b && "
			    "ip -n cv-$0-a addr add 10.7.0.1/24 dev a0 && "
			    "ip -n cv-$0-b addr add 10.7.0.2/24 dev b0 && "
			    "for n in a b; do ip -n cv-$0-$n link set lo up && "
			    "ip -n cv-$0-$n link set ${n}0 up; done"),
			 0);
	t.same_node = CV_SAME_NODE_DIRECT;
	t.start_result = 0;
	t.changes = 0;
	t.store = cv_fixture_store("", "n");
	cv_fixture_apply(t.store, mesh);
	cv_store_set_warm(t.store);
	start_daemon();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	stop_daemon();
	cv_store_free(&t.store);
	(void)cv_bpf_unload(t.bpffs); /* some tests have done it */
	(void)sh("ip netns del cv-$0-a 2>/dev/null; ip netns del cv-$0-b 2>/dev/null; rm -r %s",
		 t.run_dir);
	return access(t.bpffs, F_OK) == 0;
}

/* Adds a pod; its error text is in `error`. */
static char error[512];

static int add(const char *name, const char *netns, const char *sa)
{
	char path[PATH];
	const struct cv_pod_spec spec = {
		.ns = "shop",
		.name = name,
		.service_account = sa,
		.netns_path = path,
		.netns_fd = netns_fd(netns),
	};

	netns_path(netns, path);
	error[0] = '\0';
	return cv_pods_add(t.pods, &spec, error, sizeof(error));
}

static void add_both(void)
{
	assert_int_equal(add("a", "a", NULL), 0);
	assert_int_equal(add("b", "b", NULL), 0);
	assert_int_equal(cv_compile_run(t.compile), 0);
}

static int find_view(const struct cv_pod_view *pod, void *arg)
{
	const struct cv_pod_view **found = arg;

	if (strcmp(pod->name, *(const char **)arg))
		return 0;
	*found = pod;
	return 1;
}

static const struct cv_pod_view *view_of(const char *name)
{
	const void *found = name;

	return cv_pods_each(t.pods, find_view, &found) ? found : NULL;
}

static bool owns(const char *name, const char *ip)
{
	const struct cv_addr addr = cv_fixture_ip(ip);
	struct cv_workload_entry entry;

	return cv_table_workload_get(t.bpf, &addr, &entry) == 0 &&
	       entry.pod == view_of(name)->number;
}

static bool is_capturing(uint64_t cookie)
{
	struct cv_pod pod;

	return cv_table_pod_get(t.bpf, cookie, &pod) == 0 && (pod.flags & CV_POD_CAPTURE);
}

static unsigned count_entries(const char *map)
{
	struct cv_table_info info[32];
	int n = cv_table_info(t.bpf, info, CV_ARRAY_SIZE(info));

	for (int i = 0; i < n; i++) {
		if (!strcmp(info[i].name, map))
			return info[i].entries;
	}
	fail_msg("no map %s", map);
	return 0;
}

/* --- enrolment ------------------------------------------------------------------------------ */

static void test_add_and_del(void **state)
{
	uint64_t cookie;

	(void)state;
	assert_int_equal(add("a", "a", NULL), 0);
	cookie = view_of("a")->netns->cookie;
	assert_true(is_capturing(cookie));
	assert_true(owns("a", "10.7.0.1"));
	assert_int_equal(cv_pods_count(t.pods), 1);
	assert_int_equal(t.changes, 1);
	assert_int_equal(add("a", "a", NULL), 0); /* idempotent */
	assert_int_equal(cv_pods_count(t.pods), 1);
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), 0);
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), -ENOENT);
	assert_int_equal(cv_pods_count(t.pods), 0);
	assert_int_equal(count_entries("cv_pods") + count_entries("cv_workloads"), 0);
	assert_int_equal(sh("test -z \"$(ls -A %s/pods)\"", t.bpffs), 0);
	assert_int_equal(sh("ip -n cv-$0-a rule | grep -q 15001"), 1);
}

static void expect_refused(int r, const char *text)
{
	assert_true(r < 0);
	if (!strstr(error, text))
		fail_msg("`%s` does not say `%s`", error, text);
}

static void test_refusals(void **state)
{
	struct cv_pod_spec spec = { .ns = "shop", .name = "x", .netns_path = "/dev/null" };

	(void)state;
	spec.netns_fd = open("/dev/null", O_RDONLY);
	expect_refused(cv_pods_add(t.pods, &spec, error, sizeof(error)), "is no network namespace");
	spec.netns_fd = open("/proc/self/ns/net", O_RDONLY);
	expect_refused(cv_pods_add(t.pods, &spec, error, sizeof(error)), "culvertd itself");
	expect_refused(add("a", "a", "db"), "contradicts the workload's record, which says web");
	assert_int_equal(add("a", "a", "web"), 0);
	expect_refused(add("x", "a", NULL), "is enrolled as shop/a");
	expect_refused(add("a", "b", NULL), "another network namespace");
	expect_refused(add("a", "a", "other"), "service account web, not other");
	assert_int_equal(cv_pods_count(t.pods), 1);
}

/* What fails half way is undone. */
static void test_failed_add_leaves_nothing(void **state)
{
	(void)state;
	t.start_result = -EADDRINUSE;
	expect_refused(add("a", "a", NULL), "could not be enrolled");
	assert_int_equal(cv_pods_count(t.pods), 0);
	assert_int_equal(count_entries("cv_pods") + count_entries("cv_workloads"), 0);
	assert_int_equal(sh("test -z \"$(ls -A %s/pods)\"", t.bpffs), 0);
	assert_int_equal(sh("ip -n cv-$0-a rule | grep -q 15001"), 1);
	t.start_result = 0;
	assert_int_equal(add("a", "a", NULL), 0);
}

static void test_numbers_are_not_used_again_at_once(void **state)
{
	uint32_t first;

	(void)state;
	assert_int_equal(add("a", "a", NULL), 0);
	first = view_of("a")->number;
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), 0);
	assert_int_equal(add("a", "a", NULL), 0);
	assert_int_not_equal(view_of("a")->number, first);
}

static void wait_for_changes(unsigned more_than)
{
	for (int i = 0; i < WAIT_MS / 10 && t.changes <= more_than; i++) {
		turn_loop();
		usleep(10000);
	}
	turn_loop();
}

/* Devices and addresses that come later are hooked and known; those that go are forgotten. */
static void test_later_devices(void **state)
{
	char pin[PATH];
	unsigned before;

	(void)state;
	assert_int_equal(add("a", "a", NULL), 0);
	before = t.changes;
	assert_int_equal(sh("ip -n cv-$0-a link add late0 type veth peer name late1 && "
			    "ip -n cv-$0-a addr add 10.8.0.1/24 dev late0"),
			 0);
	wait_for_changes(before);
	assert_true(owns("a", "10.8.0.1"));
	snprintf(pin, sizeof(pin), "%s/pods/%u", t.bpffs, view_of("a")->number);
	assert_int_equal(sh("test $(ls %s | grep -c gress-) = 6", pin), 0);
	before = t.changes;
	assert_int_equal(sh("ip -n cv-$0-a addr del 10.8.0.1/24 dev late0"), 0);
	wait_for_changes(before);
	assert_false(owns("a", "10.8.0.1"));
	assert_true(owns("a", "10.7.0.1"));
}

/* --- adoption ------------------------------------------------------------------------------- */

static void test_restart_adopts(void **state)
{
	uint32_t number;
	uint64_t cookie;

	(void)state;
	assert_int_equal(add("a", "a", "web"), 0);
	number = view_of("a")->number;
	cookie = view_of("a")->netns->cookie;
	stop_daemon();
	start_daemon();
	assert_true(is_capturing(cookie));
	assert_int_equal(cv_pods_count(t.pods), 0);
	assert_int_equal(cv_pods_adopt(t.pods), 1);
	assert_int_equal(view_of("a")->number, number);
	assert_string_equal(view_of("a")->service_account, "web");
	assert_true(is_capturing(cookie));
	/* The runtime may well add it once more. */
	assert_int_equal(add("a", "a", "web"), 0);
}

static void test_restart_without_the_state_file(void **state)
{
	uint32_t number;

	(void)state;
	assert_int_equal(add("a", "a", NULL), 0);
	number = view_of("a")->number;
	stop_daemon();
	assert_int_equal(sh("rm %s/pods.json", t.run_dir), 0);
	start_daemon();
	assert_int_equal(cv_pods_adopt(t.pods), 1);
	assert_int_equal(view_of("a")->number, number);
}

static void test_restart_forgets_the_dead(void **state)
{
	(void)state;
	add_both();
	assert_true(count_entries("cv_verdicts") > 0);
	stop_daemon();
	assert_int_equal(sh("ip netns del cv-$0-a"), 0);
	start_daemon();
	assert_int_equal(cv_pods_adopt(t.pods), 1);
	assert_null(view_of("a"));
	assert_non_null(view_of("b"));
	assert_int_equal(count_entries("cv_pods"), 1);
	assert_int_equal(count_entries("cv_verdicts"), 0);
}

/* A name that is another namespace now is another pod. */
static void test_restart_notices_another_namespace(void **state)
{
	(void)state;
	assert_int_equal(add("a", "a", NULL), 0);
	stop_daemon();
	assert_int_equal(sh("ip netns del cv-$0-a && ip netns add cv-$0-a"), 0);
	start_daemon();
	assert_int_equal(cv_pods_adopt(t.pods), 0);
	assert_int_equal(count_entries("cv_pods"), 0);
}

/* --- the compiler --------------------------------------------------------------------------- */

static struct cv_verdict_entry verdict(const char *src, const char *dst, uint16_t port)
{
	const struct cv_verdict_key key = {
		.src_pod = view_of(src)->number,
		.dst_pod = view_of(dst)->number,
		.port = htons(port),
	};
	struct cv_verdict_entry v;

	if (cv_table_verdict_get(t.bpf, &key, &v) < 0)
		v = (struct cv_verdict_entry){};
	return v;
}

#define DENY(rules)                                                                            \
	"policies: [{name: p, namespace: shop, scope: Namespace, dryRun: false, action: Deny," \
	" rules: " rules "}]"

static void test_verdicts_follow_policies(void **state)
{
	uint32_t generation;

	(void)state;
	add_both();
	assert_int_equal(verdict("a", "b", 0).answer, CV_ANSWER_ALLOW);
	assert_int_equal(verdict("a", "b", 0).tier, CV_TIER_DIRECT);
	assert_int_equal(verdict("b", "a", 0).answer, CV_ANSWER_ALLOW);
	generation = verdict("a", "b", 0).generation;
	cv_fixture_apply(t.store, DENY("[[[{destinationPorts: [8080]}]]]"));
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(verdict("a", "b", 8080).answer, CV_ANSWER_DENY);
	assert_int_equal(verdict("a", "b", 0).answer, CV_ANSWER_ALLOW);
	assert_int_equal(verdict("a", "b", 0).generation, generation); /* untouched */
	cv_fixture_remove(t.store, CV_DELTA_POLICY, "shop/p");
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(verdict("a", "b", 8080).answer, CV_ANSWER_NONE);
	cv_fixture_remove(t.store, CV_DELTA_WORKLOAD, "a");
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(count_entries("cv_verdicts"), 0);
}

static void test_stricter_end_wins(void **state)
{
	(void)state;
	t.same_node = CV_SAME_NODE_TLS;
	add_both();
	assert_int_equal(verdict("a", "b", 0).tier, CV_TIER_TLS);
	assert_int_equal(verdict("a", "b", 0).reason, CV_REASON_SAME_NODE_TLS);
}

struct found_service {
	unsigned n;
	struct cv_service_key key;
	struct cv_service_entry entry;
};

static int note_service(const struct cv_service_key *key, const struct cv_service_entry *entry,
			void *arg)
{
	struct found_service *found = arg;

	found->n++;
	found->key = *key;
	found->entry = *entry;
	return 0;
}

static int count_local(const struct cv_endpoint_key *key, const struct cv_endpoint_entry *entry,
		       void *arg)
{
	unsigned *local = arg;

	(void)key;
	*local += entry->pod != 0;
	return 0;
}

/* One slot for the local endpoint, three for the remote one of that weight; and only the VIPs
 * that have a local endpoint. A changed set has another id, and the old one's slots are gone. */
static void test_services_become_slots(void **state)
{
	const struct cv_addr vip = cv_fixture_ip("10.96.0.1");
	struct found_service found = {}, later = {};
	unsigned local = 0;

	(void)state;
	add_both();
	assert_int_equal(cv_table_service_each(t.bpf, note_service, &found), 0);
	assert_int_equal(found.n, 1);
	assert_memory_equal(&found.key.vip, &vip, sizeof(vip));
	assert_int_equal(found.entry.nr_slots, 4);
	assert_int_equal(count_entries("cv_endpoints"), 4);
	assert_int_equal(cv_table_endpoint_each(t.bpf, count_local, &local), 0);
	assert_int_equal(local, 1);
	assert_int_equal(cv_compile_run(t.compile), 0); /* nothing changed, nothing written */
	assert_int_equal(cv_table_service_each(t.bpf, note_service, &later), 0);
	assert_int_equal(later.entry.id, found.entry.id);
	cv_fixture_remove(t.store, CV_DELTA_WORKLOAD, "far");
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(cv_table_service_each(t.bpf, note_service, &later), 0);
	assert_int_not_equal(later.entry.id, found.entry.id);
	assert_int_equal(count_entries("cv_endpoints"), 1);
	assert_int_equal(cv_pods_del(t.pods, "shop", "b", NULL, NULL), 0);
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(count_entries("cv_services") + count_entries("cv_endpoints"), 0);
}

/* An earlier daemon's entries are taken over, not added to. */
static void test_services_after_a_restart(void **state)
{
	(void)state;
	add_both();
	stop_daemon();
	start_daemon();
	assert_int_equal(cv_pods_adopt(t.pods), 2);
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(count_entries("cv_services"), 1);
	assert_int_equal(count_entries("cv_endpoints"), 4);
}

/* --- flows ---------------------------------------------------------------------------------- */

static int make_socket(const char *name, bool listen_too)
{
	const struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(APP_PORT) };
	int fd;

	assert_int_equal(cv_netns_enter(view_of(name)->netns), 0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(cv_netns_enter(NULL), 0);
	assert_true(fd >= 0);
	if (listen_too) {
		assert_int_equal(bind(fd, (const struct sockaddr *)&any, sizeof(any)), 0);
		assert_int_equal(listen(fd, 8), 0);
	}
	return fd;
}

static int dial(const char *ip, uint16_t port)
{
	const struct timeval limit = { .tv_sec = WAIT_MS / 1000 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = make_socket("a", false);

	assert_int_equal(inet_pton(AF_INET, ip, &to.sin_addr), 1);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
	if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
		cv_close(&fd);
	return fd;
}

static const char *text_of(const json_t *flow, const char *key)
{
	const char *text = json_string_value(json_object_get(flow, key));

	return text ? text : "";
}

/* The flow record of one direction. */
static json_t *find_flow(json_t *flows, const char *direction)
{
	json_t *flow;
	size_t i;

	json_array_foreach(flows, i, flow) {
		if (!strcmp(text_of(flow, "direction"), direction))
			return flow;
	}
	return NULL;
}

static void expect_flow(const char *direction, const char *state, const char *result,
			json_int_t bytes)
{
	json_t *flows, *flow;

	cv_flows_sync(t.flows);
	flows = cv_flows_json(t.telemetry);
	flow = find_flow(flows, direction);
	assert_non_null(flow);
	assert_string_equal(text_of(flow, "tier"), "direct");
	assert_string_equal(text_of(flow, "state"), state);
	if (result)
		assert_string_equal(text_of(flow, "result"), result);
	assert_string_equal(text_of(flow, "sourceIdentity"),
			    "spiffe://cluster.local/ns/shop/sa/web");
	assert_int_equal(json_integer_value(json_object_get(flow, "sent")), bytes);
	json_decref(flows);
}

static void wait_for_no_records(void)
{
	for (int i = 0; i < WAIT_MS / 10 && count_entries("cv_flows"); i++) {
		turn_loop();
		usleep(10000);
	}
	assert_int_equal(count_entries("cv_flows"), 0);
}

/* Told by both reporters while it lives, with bytes, and when it ends; then the record goes. */
static void test_flow_is_told(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;

	(void)state;
	add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	assert_int_equal(send(client, "0123456789", 10, 0), 10);
	expect_flow("outbound", "open", NULL, 10);
	expect_flow("inbound", "open", NULL, 10);
	cv_close(&client);
	cv_close(&server);
	wait_for_no_records();
	expect_flow("outbound", "closed", "-", 10);
	expect_flow("inbound", "closed", "-", 10);
}

/* The VIP is resolved at connect(), and told as what was dialled. */
static void test_flow_by_vip(void **state)
{
	_cleanup_close_ int listener = -1, client = -1;
	json_t *flows, *flow;

	(void)state;
	cv_fixture_remove(t.store, CV_DELTA_WORKLOAD, "far");
	add_both();
	listener = make_socket("b", true);
	client = dial("10.96.0.1", 80);
	assert_true(client >= 0);
	cv_flows_sync(t.flows);
	flows = cv_flows_json(t.telemetry);
	flow = find_flow(flows, "outbound");
	assert_non_null(flow);
	assert_string_equal(text_of(flow, "originalDst"), "10.96.0.1:80");
	assert_string_equal(text_of(flow, "dst"), "10.7.0.2:8080");
	json_decref(flows);
}

/* A policy that forbids it closes the connection at both ends, and that is how it is told. */
static void test_policy_change_closes_flow(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	cv_fixture_apply(t.store, DENY("[[[{destinationPorts: [9]}]]]"));
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(send(client, "x", 1, 0), 1); /* another port: it lives on */
	assert_int_equal(recv(server, &byte, 1, 0), 1);
	cv_fixture_apply(t.store, DENY("[[[{destinationPorts: [8080]}]]]"));
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_true(recv(client, &byte, 1, 0) < 0);
	assert_int_equal(errno, ECONNABORTED);
	assert_true(recv(server, &byte, 1, 0) < 0);
	assert_int_equal(errno, ECONNRESET);
	wait_for_no_records();
	expect_flow("outbound", "closed", "DENY", 1);
}

/* A daemon that comes back knows the flow, and counts only the bytes since. */
static void test_flow_outlives_the_daemon(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	server = accept(listener, NULL, NULL);
	assert_int_equal(send(client, "0123456789", 10, 0), 10);
	cv_flows_sync(t.flows);
	stop_daemon();
	start_daemon();
	assert_int_equal(cv_pods_adopt(t.pods), 2);
	assert_int_equal(cv_compile_run(t.compile), 0);
	assert_int_equal(send(client, "x", 1, 0), 1);
	for (int i = 0; i < 11; i++)
		assert_int_equal(recv(server, &byte, 1, 0), 1);
	expect_flow("outbound", "open", NULL, 1);
}

/* Connections that are older than the enrolment go on, and are nobody's flow. */
static void test_older_connection(void **state)
{
	_cleanup_close_ int listener = -1, client = -1, server = -1;
	char byte;

	(void)state;
	add_both();
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), 0);
	listener = make_socket("b", true);
	assert_int_equal(cv_pods_del(t.pods, "shop", "b", NULL, NULL), 0);
	assert_int_equal(add("a", "a", NULL), 0);
	client = make_socket("a", false);
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), 0);
	assert_int_equal(connect(client,
				 (const struct sockaddr *)&(struct sockaddr_in){
					 .sin_family = AF_INET,
					 .sin_port = htons(APP_PORT),
					 .sin_addr.s_addr = htonl(0x0a070002) },
				 sizeof(struct sockaddr_in)),
			 0);
	server = accept(listener, NULL, NULL);
	add_both();
	assert_int_equal(send(client, "x", 1, 0), 1);
	assert_int_equal(recv(server, &byte, 1, 0), 1);
	assert_int_equal(send(server, "y", 1, 0), 1);
	assert_int_equal(recv(client, &byte, 1, 0), 1);
	assert_int_equal(count_entries("cv_flows"), 0);
}

/* Entries that belong to no socket go after two sweeps; those of a live one stay. */
static void test_sweep(void **state)
{
	_cleanup_close_ int listener = -1, client = -1;

	(void)state;
	add_both();
	listener = make_socket("b", true);
	client = dial("10.7.0.2", APP_PORT);
	assert_true(client >= 0);
	for (int i = 0; i < 5; i++)
		cv_flows_sync(t.flows);
	assert_int_equal(count_entries("cv_attested"), 1);
	/* The initiator is no pod any more: nobody sees its socket. */
	assert_int_equal(cv_pods_del(t.pods, "shop", "a", NULL, NULL), 0);
	for (int i = 0; i < 3; i++)
		cv_flows_sync(t.flows);
	assert_int_equal(count_entries("cv_attested"), 0);
	assert_int_equal(count_entries("cv_flows"), 0);
}

/* --- main ----------------------------------------------------------------------------------- */

static int begin(void **state)
{
	(void)state;
	rcu_register_thread();
	find_cgroup2(t.cgroup_root, sizeof(t.cgroup_root));
	snprintf(t.cgroup, sizeof(t.cgroup), "%s/cv-%s-node", t.cgroup_root, run_id());
	snprintf(t.bpffs, sizeof(t.bpffs), "/sys/fs/bpf/cv-%s-nodetest", run_id());
	if (mkdir(t.cgroup, 0755) < 0 && errno != EEXIST)
		return -1;
	join_cgroup(t.cgroup);
	return cv_worker_control(&t.control);
}

static int end(void **state)
{
	(void)state;
	cv_worker_free(&t.control);
	join_cgroup(t.cgroup_root);
	rmdir(t.cgroup);
	rcu_unregister_thread();
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_add_and_del),
		TEST(test_refusals),
		TEST(test_failed_add_leaves_nothing),
		TEST(test_numbers_are_not_used_again_at_once),
		TEST(test_later_devices),
		TEST(test_restart_adopts),
		TEST(test_restart_without_the_state_file),
		TEST(test_restart_forgets_the_dead),
		TEST(test_restart_notices_another_namespace),
		TEST(test_verdicts_follow_policies),
		TEST(test_stricter_end_wins),
		TEST(test_services_become_slots),
		TEST(test_services_after_a_restart),
		TEST(test_flow_is_told),
		TEST(test_flow_by_vip),
		TEST(test_policy_change_closes_flow),
		TEST(test_flow_outlives_the_daemon),
		TEST(test_older_connection),
		TEST(test_sweep),
	};

	return cmocka_run_group_tests_name("node", tests, begin, end);
}
