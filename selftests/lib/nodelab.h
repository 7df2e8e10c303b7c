/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node without a proxy, for tests of enrolment, the verdict compiler and flow records.
 *
 *	pod a ── a0 ──────── b0 ── pod b
 *	10.7.0.1              10.7.0.2
 *
 * Both are namespaces of this run; the test process plays the applications, in a cgroup of its
 * own, and is the daemon's control thread. Whatever fails here fails the running cmocka test.
 * Include after cmocka.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "loader/tables.h"
#include "maps/reasons.h"
#include "selftests/lib/mesh_fixture.h"
#include "userspace/base/cleanup.h"
#include "userspace/node/compile.h"
#include "userspace/node/flows.h"
#include "userspace/node/pods.h"

enum { NODE_PATH = 400, NODE_WAIT_MS = 5000 };

struct node {
	char bpffs[128], cgroup[256], cgroup_root[128], run_dir[128];
	struct cv_worker *control;
	struct cv_bpf *bpf;
	struct cv_store *store;
	struct cv_telemetry *telemetry;
	struct cv_pods *pods;
	struct cv_flows *flows;
	struct cv_compile *compile;
	enum cv_same_node same_node; /* of every pod */
	int start_result; /* of opts.start */
	unsigned changes; /* calls of opts.changed */
	char error[512]; /* of the last node_add */
};
extern struct node node;

/* Group and test fixtures. */
int node_begin(void **state);
int node_end(void **state);
int node_set_up(void **state);
int node_tear_down(void **state);
#define NODE_TEST(name) cmocka_unit_test_setup_teardown(name, node_set_up, node_tear_down)

void node_start(void);
void node_stop(void); /* as kill -9 does: nothing is taken back */
/* Runs the events that are due. */
void node_turn(void);

/* Runs a shell script, $0 is the run's id; its exit status. */
int node_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Enrols shop/NAME with the namespace of pod NETNS. */
int node_add(const char *name, const char *netns, const char *service_account);
void node_add_both(void); /* and compiles */
int node_del(const char *name);
const struct cv_pod_view *node_view(const char *name); /* NULL = not enrolled */
unsigned node_entries(const char *map);

/* A policy that denies in namespace shop, as a YAML file. */
#define NODE_DENY(rules)                                                                       \
	"policies: [{name: p, namespace: shop, scope: Namespace, dryRun: false, action: Deny," \
	" rules: " rules "}]"
