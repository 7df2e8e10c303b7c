/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells when a file's content may have changed: written in place, replaced by rename, removed
 * and made again, or reached through a symlink that was swapped (a ConfigMap volume). The
 * directory is watched by inotify; bursts are told once, CV_FILEWATCH_SETTLE_MS after the last event.
 * What the file holds is the caller's to read and compare.
 */
#pragma once

#include "userspace/io/worker.h"

enum { CV_FILEWATCH_SETTLE_MS = 100 };

struct cv_filewatch;

/* fn(arg) runs on worker w. path is copied; its directory must exist. -errno of inotify. */
int cv_filewatch_start(struct cv_filewatch **ret, struct cv_worker *w, const char *path,
		       void (*fn)(void *arg), void *arg);
void cv_filewatch_stop(struct cv_filewatch **f);
