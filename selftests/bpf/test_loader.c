// SPDX-License-Identifier: Apache-2.0
/*
 * The pin protocol and the links of a pod: who may have the directory, what a restart adopts,
 * what an upgrade replaces, what removal leaves. Each test has a bpffs directory of its own
 * and attaches to a cgroup of its own; the pod is a namespace with two devices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loader/loader.h"
#include "loader/pin.h"
#include "loader/tables.h"
#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/netns.h"

enum { POD = 7, PATH = 512 };

static char bpffs[CV_PIN_DIR], cgroup[CV_PIN_DIR];
/* A pod: namespace, two devices, an address. */
struct pod {
	struct cv_netns ns;
	uint32_t ifindexes[2];
	struct cv_addr addr;
	struct cv_bpf_pod hooks;
};

/* What a test opened and made; closed for it. */
static struct cv_bpf *bpf;
static struct pod p = { .ns = { .fd = -1 } };

/* --- helpers -------------------------------------------------------------------------------- */

static const char *run_id(void)
{
	const char *id = getenv("CV_RUN");

	return id ? id : "loader";
}

/* Runs a program in a namespace (NULL = own); its exit status. */
static int run(const struct cv_netns *ns, const char *script)
{
	int status = -1;
	pid_t pid;

	assert_int_equal(cv_netns_enter(ns), 0);
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", script, NULL);
		_exit(127);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	assert_int_equal(cv_netns_enter(NULL), 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

__attribute__((format(printf, 1, 2))) static bool exists(const char *fmt, ...)
{
	char path[PATH];
	struct stat st;
	va_list args;
	int n;

	va_start(args, fmt);
	n = snprintf(path, sizeof(path), "%s", bpffs);
	vsnprintf(path + n, sizeof(path) - (size_t)n, fmt, args);
	va_end(args);
	return stat(path, &st) == 0;
}

/* The inode of a pin: another one means that it was pinned anew. */
static ino_t inode(const char *name)
{
	char path[PATH];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", bpffs, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static void open_bpf(bool no_tcx)
{
	const struct cv_bpf_opts opts = {
		.bpffs_dir = bpffs,
		.cgroup_dir = cgroup,
		.no_tcx = no_tcx,
	};
	cv_bpf_close(&bpf);
	assert_int_equal(cv_bpf_open(&bpf, &opts), 0);
}

static int try_open(struct cv_bpf **ret, bool adopt_only)
{
	const struct cv_bpf_opts opts = {
		.bpffs_dir = bpffs,
		.cgroup_dir = cgroup,
		.adopt_only = adopt_only,
	};

	return cv_bpf_open(ret, &opts);
}

static void make_pod(void)
{
	char script[PATH], path[PATH];
	int fd;

	snprintf(script, sizeof(script), "ip netns add cv-%s-pod", run_id());
	assert_int_equal(run(NULL, script), 0);
	snprintf(path, sizeof(path), "/run/netns/cv-%s-pod", run_id());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(cv_netns_init(&p.ns, fd), 0);
	assert_int_equal(run(&p.ns, "ip link set lo up && ip link add a0 type veth peer name a1 && "
				    "ip link set a0 up && "
				    "ip addr add 10.7.0.1/24 dev a0"),
			 0);
	assert_int_equal(cv_netns_enter(&p.ns), 0);
	p.ifindexes[0] = if_nametoindex("a0");
	p.ifindexes[1] = if_nametoindex("a1");
	assert_int_equal(cv_netns_enter(NULL), 0);
	assert_int_equal(cv_addr_parse("10.7.0.1", &p.addr), 0);
	p.hooks = (struct cv_bpf_pod){
		.pod = POD, .netns_fd = p.ns.fd, .ifindexes = p.ifindexes, .nr_ifindexes = 2
	};
}

/* Takes the name away; a process or an fd may hold the namespace longer. */
static void unname_pod(void)
{
	char script[PATH];

	snprintf(script, sizeof(script), "ip netns del cv-%s-pod 2>/dev/null", run_id());
	(void)run(NULL, script); /* most tests have none */
}

static void attach(void)
{
	assert_int_equal(cv_bpf_pod_route(bpf, &p.hooks, &p.addr, 1), 0);
	assert_int_equal(cv_bpf_pod_attach(bpf, &p.hooks), 0);
}

static bool has_routes(void)
{
	return run(&p.ns, "ip rule | grep -q 'fwmark 0x20000000' && "
			  "ip route show table 15001 | grep -q 'local default.*src 10.7.0.1' && "
			  "grep -q 1 /proc/sys/net/ipv4/conf/lo/accept_local") == 0;
}

static bool has_nothing(void)
{
	return run(&p.ns, "! ip rule | grep -q 15001 && ! ip -6 rule | grep -q 15001 && "
			  "! ip route show table all | grep -q 15001 && "
			  "grep -q 0 /proc/sys/net/ipv4/conf/lo/accept_local && "
			  "! tc filter show dev a0 egress 2>/dev/null | grep -q pod_egress && "
			  "! tc filter show dev a0 ingress 2>/dev/null | grep -q pod_ingress") == 0;
}

static uint32_t prog_id(struct cv_bpf *of, const char *name)
{
	struct cv_bpf_prog_info progs[32];
	int n = cv_bpf_progs(of, progs, CV_ARRAY_SIZE(progs));

	for (int i = 0; i < n; i++) {
		if (!strcmp(progs[i].name, name))
			return progs[i].id;
	}
	fail_msg("no program %s", name);
	return 0;
}

/* Pretends that another build made what is pinned. */
static void change_stamp(uint32_t version, uint64_t object)
{
	struct cv_stamp stamp;

	assert_int_equal(cv_pin_stamp_read(bpffs, &stamp), 0);
	stamp.version += version;
	stamp.object += object;
	assert_int_equal(cv_pin_stamp_write(bpffs, &stamp), 0);
}

static void find_cgroup2(char *ret, size_t size)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], dir[200], type[64];

	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %199s %63s", dir, type) == 2 && !strcmp(type, "cgroup2"))
			snprintf(ret, size, "%s", dir);
	}
	if (f)
		fclose(f);
}

static int set_up(void **state)
{
	char root[200];

	(void)state;
	find_cgroup2(root, sizeof(root));
	snprintf(bpffs, sizeof(bpffs), "/sys/fs/bpf/cv-%s-loader", run_id());
	snprintf(cgroup, sizeof(cgroup), "%s/cv-%s-loader", root, run_id());
	return mkdir(cgroup, 0755) < 0 && errno != EEXIST;
}

static int tear_down(void **state)
{
	(void)state;
	cv_bpf_close(&bpf);
	cv_netns_fini(&p.ns);
	unname_pod();
	(void)cv_bpf_unload(bpffs);
	rmdir(cgroup);
	/* Whatever a test did: nothing of it may be left. */
	return exists("%s", "") || exists("-next");
}

/* --- the directory -------------------------------------------------------------------------- */

static void test_one_daemon_a_directory(void **state)
{
	struct cv_bpf *other = NULL;

	(void)state;
	open_bpf(false);
	assert_int_equal(try_open(&other, false), -EBUSY);
	assert_int_equal(cv_bpf_unload(bpffs), -EBUSY);
	cv_bpf_close(&bpf);
	open_bpf(false);
	cv_bpf_close(&bpf);
}

static void test_directory_must_be_bpffs(void **state)
{
	const struct cv_bpf_opts opts = { .bpffs_dir = "/tmp", .cgroup_dir = cgroup };

	(void)state;
	assert_int_equal(cv_bpf_open(&bpf, &opts), -EOPNOTSUPP);
}

static void test_unload_without_anything(void **state)
{
	(void)state;
	assert_int_equal(cv_bpf_unload(bpffs), -ENOENT);
}

/* status reads beside a running daemon, and loads nothing. */
static void test_adopt_only(void **state)
{
	struct cv_bpf *reader = NULL;

	(void)state;
	assert_int_equal(try_open(&reader, true), -ENOENT);
	assert_false(exists("%s", ""));
	open_bpf(false);
	assert_int_equal(try_open(&reader, true), 0);
	assert_int_equal(prog_id(reader, "node_sockops"), prog_id(bpf, "node_sockops"));
	cv_bpf_close(&reader);
	cv_bpf_close(&bpf);
}

/* --- restarts ------------------------------------------------------------------------------- */

static void set_generation(uint32_t generation)
{
	struct cv_control_entry control;

	assert_int_equal(cv_table_control_get(bpf, &control), 0);
	control.generation = generation;
	assert_int_equal(cv_table_control_set(bpf, &control), 0);
}

static uint32_t get_generation(void)
{
	struct cv_control_entry control;

	assert_int_equal(cv_table_control_get(bpf, &control), 0);
	return control.generation;
}

static void test_restart_adopts(void **state)
{
	uint32_t sockops, lookup;
	ino_t link;

	(void)state;
	open_bpf(false);
	sockops = prog_id(bpf, "node_sockops");
	lookup = prog_id(bpf, "pod_lookup");
	link = inode("links/node_sockops");
	assert_false(cv_bpf_adopted(bpf));
	set_generation(42);
	cv_bpf_close(&bpf);
	open_bpf(false);
	assert_true(cv_bpf_adopted(bpf));
	assert_int_equal(get_generation(), 42);
	assert_int_equal(prog_id(bpf, "node_sockops"), sockops);
	assert_int_equal(prog_id(bpf, "pod_lookup"), lookup);
	assert_int_equal(inode("links/node_sockops"), link);
	cv_bpf_close(&bpf);
}

/* Another build of the same ABI keeps maps and links and brings its own programs. */
static void test_new_programs_in_old_links(void **state)
{
	uint32_t sockops;
	ino_t link, lookup;

	(void)state;
	open_bpf(false);
	sockops = prog_id(bpf, "node_sockops");
	link = inode("links/node_sockops");
	make_pod();
	attach();
	lookup = inode("pods/7/lookup");
	set_generation(43);
	cv_bpf_close(&bpf);
	change_stamp(0, 1);
	open_bpf(false);
	assert_true(cv_bpf_adopted(bpf));
	assert_int_equal(get_generation(), 43);
	assert_int_not_equal(prog_id(bpf, "node_sockops"), sockops);
	assert_int_equal(inode("links/node_sockops"), link);
	assert_int_equal(inode("pods/7/lookup"), lookup);
	/* And the next start finds it all as it should be. */
	sockops = prog_id(bpf, "node_sockops");
	cv_bpf_close(&bpf);
	open_bpf(false);
	assert_int_equal(prog_id(bpf, "node_sockops"), sockops);
	cv_bpf_close(&bpf);
	assert_int_equal(cv_bpf_unload(bpffs), 0);
	assert_true(has_nothing());
}

/* Another ABI is built aside and exchanged; the old hooks stay until the pods have new ones, and
 * then the routes, which both use, stay for the new. */
static void test_another_abi_is_replaced(void **state)
{
	(void)state;
	open_bpf(false);
	make_pod();
	attach();
	set_generation(44);
	cv_bpf_close(&bpf);
	change_stamp(1, 0);
	open_bpf(false);
	assert_false(cv_bpf_adopted(bpf));
	assert_int_equal(get_generation(), 0);
	assert_true(exists("-next/pods/7/lookup"));
	assert_false(exists("/pods/7"));
	attach();
	assert_int_equal(cv_bpf_retire(bpf), 0);
	assert_false(exists("-next"));
	assert_true(has_routes());
	assert_int_equal(cv_bpf_pod_detach(bpf, POD), 0);
	assert_true(has_nothing()); /* the note about the sysctl was inherited */
	cv_bpf_close(&bpf);
}

/* A start that died while it built aside is no trouble for the next. */
static void test_half_made_directory(void **state)
{
	char path[PATH];

	(void)state;
	snprintf(path, sizeof(path), "%s-next", bpffs);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s-next/maps", bpffs);
	assert_int_equal(mkdir(path, 0700), 0);
	open_bpf(false);
	assert_false(exists("-next"));
	cv_bpf_close(&bpf);
}

/* --- pods ----------------------------------------------------------------------------------- */

static void expect_pins(const char *prefix)
{
	assert_true(exists("/pods/7/lookup"));
	for (int i = 0; i < 2; i++) {
		assert_true(exists("/pods/7/%segress-%u", prefix, p.ifindexes[i]));
		assert_true(exists("/pods/7/%singress-%u", prefix, p.ifindexes[i]));
	}
}

static void test_pod_attach_and_detach(void **state)
{
	struct cv_bpf_features features;
	ino_t lookup;

	(void)state;
	open_bpf(false);
	cv_bpf_features(bpf, &features);
	make_pod();
	assert_true(has_nothing());
	assert_int_equal(cv_bpf_pod_detach(bpf, POD), -ENOENT);
	attach();
	expect_pins(features.tcx ? "" : "tc-");
	assert_true(has_routes());
	lookup = inode("pods/7/lookup");
	attach();
	assert_int_equal(inode("pods/7/lookup"), lookup);
	assert_int_equal(cv_bpf_pod_detach(bpf, POD), 0);
	assert_false(exists("/pods/7"));
	assert_true(has_nothing());
	cv_bpf_close(&bpf);
}

static void test_device_added_later(void **state)
{
	struct cv_bpf_features features;
	char name[64];

	(void)state;
	open_bpf(false);
	cv_bpf_features(bpf, &features);
	make_pod();
	p.hooks.nr_ifindexes = 1;
	attach();
	snprintf(name, sizeof(name), "/pods/7/%segress-%u", features.tcx ? "" : "tc-",
		 p.ifindexes[1]);
	assert_false(exists("%s", name));
	assert_int_equal(cv_bpf_pod_attach_device(bpf, &p.hooks, p.ifindexes[1]), 0);
	assert_true(exists("%s", name));
	cv_bpf_close(&bpf);
}

/* All or nothing: a device that does not exist takes the others' hooks with it. */
static void test_failed_attach_leaves_nothing(void **state)
{
	(void)state;
	open_bpf(false);
	make_pod();
	p.ifindexes[1] = 9999;
	assert_int_equal(cv_bpf_pod_route(bpf, &p.hooks, &p.addr, 1), 0);
	assert_true(cv_bpf_pod_attach(bpf, &p.hooks) < 0);
	assert_false(exists("/pods/7"));
	assert_true(has_nothing());
	cv_bpf_close(&bpf);
}

/* Pins outlive the namespace; the next start removes them. */
static void test_pins_of_a_dead_pod(void **state)
{
	(void)state;
	open_bpf(false);
	make_pod();
	attach();
	cv_bpf_close(&bpf);
	cv_netns_fini(&p.ns);
	unname_pod();
	for (int i = 0; i < 100 && exists("/pods/7"); i++) {
		usleep(50000); /* the kernel takes namespaces down in the background */
		open_bpf(false);
		cv_bpf_close(&bpf);
	}
	assert_false(exists("/pods/7"));
}

static void test_namespace_is_found_again(void **state)
{
	struct cv_netns found;
	int fd;

	(void)state;
	open_bpf(false);
	make_pod();
	attach();
	fd = cv_bpf_pod_netns(bpf, POD);
	assert_true(fd >= 0);
	assert_int_equal(cv_netns_init(&found, fd), 0);
	assert_true(found.cookie == p.ns.cookie);
	unname_pod();
	cv_netns_fini(&found);
	/* Nothing but an fd of ours holds it: there is no path to find it by. */
	assert_int_equal(cv_bpf_pod_netns(bpf, POD), -ENOENT);
	cv_bpf_close(&bpf);
}

/* --- clsact --------------------------------------------------------------------------------- */

static const char count_filters[] =
	"tc filter show dev a0 egress | grep -c 'pod_egress'; "
	"test $(tc filter show dev a0 egress | grep -c pod_egress) = 1 && "
	"test $(tc filter show dev a0 ingress | grep -c pod_ingress) = 1";

static void test_clsact_fallback(void **state)
{
	char script[PATH + 128];

	(void)state;
	open_bpf(true);
	make_pod();
	/* A neighbour's filter, and the qdisc that is its own. */
	snprintf(script, sizeof(script),
		 "tc qdisc add dev a0 clsact && tc filter add dev a0 egress pref 1 bpf "
		 "direct-action object-pinned %s/progs/pod_ingress",
		 bpffs);
	assert_int_equal(run(&p.ns, script), 0);
	attach();
	expect_pins("tc-");
	assert_int_equal(run(&p.ns, count_filters), 0);
	attach();
	assert_int_equal(run(&p.ns, count_filters), 0);
	cv_bpf_close(&bpf);
	change_stamp(0, 1);
	open_bpf(true); /* replaces the programs of the filters */
	assert_int_equal(run(&p.ns, count_filters), 0);
	assert_int_equal(cv_bpf_pod_detach(bpf, POD), 0);
	assert_true(has_nothing());
	assert_int_equal(run(&p.ns, "tc filter show dev a0 egress | grep -q pod_ingress"), 0);
	cv_bpf_close(&bpf);
}

/* --- main ----------------------------------------------------------------------------------- */

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_daemon_a_directory),
		TEST(test_directory_must_be_bpffs),
		TEST(test_unload_without_anything),
		TEST(test_adopt_only),
		TEST(test_restart_adopts),
		TEST(test_new_programs_in_old_links),
		TEST(test_another_abi_is_replaced),
		TEST(test_half_made_directory),
		TEST(test_pod_attach_and_detach),
		TEST(test_device_added_later),
		TEST(test_failed_attach_leaves_nothing),
		TEST(test_pins_of_a_dead_pod),
		TEST(test_namespace_is_found_again),
		TEST(test_clsact_fallback),
	};

	return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
