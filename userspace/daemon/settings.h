/* SPDX-License-Identifier: Apache-2.0 */
/*
 * culvert.yaml: settings that neither xDS nor ztunnel's file can carry. See culvert.yaml(5).
 *
 * Parsed whole into a new struct, validated, then swapped: a bad file at start is fatal, a bad
 * file later is logged once and the last good settings stay.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "userspace/base/strs.h"
#include "userspace/io/worker.h"
#include "userspace/node/pods.h"

/* One `sameNode.namespaces` or `sameNode.pods` entry; key is "ns" or "ns/name". */
struct cv_same_node_rule {
	cv_str key;
	enum cv_same_node tier;
};

struct cv_settings {
	enum cv_same_node same_node; /* sameNode.mesh */
	struct cv_same_node_rule *namespaces, *pods;
	size_t nr_namespaces, nr_pods;
	unsigned max_connections; /* limits.connections, per worker */
	unsigned max_connections_pod; /* limits.connectionsPerPod, per worker */
	unsigned max_series; /* limits.metricSeries */
	bool fast_path; /* capture.fastPath; takes effect at start */
	cv_str pods_cgroup; /* capture.podsCgroup, relative to the cgroup v2 root; NULL = unknown */
};

void cv_settings_init(struct cv_settings *s); /* the defaults */
void cv_settings_fini(struct cv_settings *s);
/* 0 or -EINVAL with "name:line: what: why" in error; *ret is untouched on failure. */
/* *ret must be initialised; what it held is freed on success. */
int cv_settings_parse(const char *name, const char *text, size_t len, struct cv_settings *ret,
		      char *error, size_t size);
int cv_settings_read(const char *path, struct cv_settings *ret, char *error, size_t size);
/* The tier that one pod asks for: its own entry, else its namespace's, else the mesh's. */
enum cv_same_node cv_settings_same_node(const struct cv_settings *s, const char *ns,
					const char *name);

/* Calls changed(arg) on the control worker when the file was changed and is good; *s holds the
 * new settings then. */
struct cv_settings_watch;
int cv_settings_watch(struct cv_settings_watch **ret, struct cv_worker *control, const char *path,
		      struct cv_settings *s, void (*changed)(void *arg), void *arg);
void cv_settings_unwatch(struct cv_settings_watch **w);
