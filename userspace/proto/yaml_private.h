/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of the YAML reader share: yaml_reader.c builds the tree, yaml_decode.c
 * reads it. Nobody else includes this. */
#pragma once

#include "userspace/limits.h"
#include "userspace/proto/yaml_reader.h"

/* One step of the path to the node that is being decoded: a key, or an index when key is NULL. */
struct cv_yaml_step {
	const char *key;
	size_t index;
};

struct cv_yaml {
	char *name;
	struct cv_yaml_node *nodes; /* all, linked by next */
	struct cv_yaml_node *root;
	char *error; /* the caller's */
	size_t error_size;
	bool failed; /* error is written */
	struct cv_yaml_step path[CV_LIMIT_YAML_DEPTH + 1];
	size_t depth; /* of path */
};

/* As cv_yaml_fail, without the path. */
int cv_yaml_fail_line(struct cv_yaml *y, unsigned line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
