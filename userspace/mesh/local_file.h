/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file source: ztunnel's LOCAL_XDS_PATH format, to the letter, as deltas to the store.
 *
 * A file is parsed whole, validated, compared with what the source gave last time, and only the
 * differences are applied. A bad file changes nothing: the error names file, line, what, why.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "userspace/io/worker.h"
#include "userspace/mesh/store.h"

struct cv_mesh_file { /* a parsed file; arrays of references */
	struct cv_workload **workloads;
	size_t nr_workloads;
	struct cv_service **services;
	size_t nr_services;
	struct cv_policy **policies;
	size_t nr_policies;
};
/* Parse text (name is for messages). 0 or -EINVAL with "name:line: what: why" in error. */
int cv_mesh_file_parse(const char *name, const char *text, size_t len, struct cv_mesh_file *ret,
		       char *error, size_t error_size);
int cv_mesh_file_read(const char *path, struct cv_mesh_file *ret, char *error, size_t error_size);
void cv_mesh_file_fini(struct cv_mesh_file *f);

/* The source: loads at start (fatal when bad), watches the file's directory by inotify and
 * re-applies within a second of a change (rename, in-place write, ConfigMap symlink swap). */
struct cv_local_file;
int cv_local_file_start(struct cv_local_file **ret, struct cv_worker *control,
			struct cv_store *store, const char *path, char *error, size_t error_size);
/* Inline YAML (LOCAL_XDS): applied once. */
int cv_local_inline(struct cv_store *store, const char *yaml, char *error, size_t error_size);
void cv_local_file_stop(struct cv_local_file **f);
/* Why the last change was refused, NULL = it was not; for metrics and status. */
const char *cv_local_file_error(const struct cv_local_file *f);
