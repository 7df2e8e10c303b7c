/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded object during a start: open, compare with what is pinned, configure, load. Nothing
 * of it stays when the start is over.
 */
#pragma once

#include <stdbool.h>

#include "loader/loader.h"
#include "loader/pin.h"

struct culvert_bpf;

/* A start in progress. */
struct cv_start {
	struct cv_bpf *bpf;
	const struct cv_bpf_opts *opts;
	struct culvert_bpf *skel;
	struct cv_stamp stamp; /* of this binary */
	char base[CV_PIN_DIR + 8]; /* where it pins: DIR, or DIR-next */
	bool same_abi; /* maps in DIR are adopted */
	bool same_object; /* and so are programs and links */
};

/* Opens the object, configures it for this kernel, and makes its stamp. */
int cv_object_open(struct cv_start *s);
/* Sets same_abi and same_object from the stamp in DIR. */
int cv_object_compare(struct cv_start *s);
/* Loads what is not adopted, pins it below base, and fills bpf's maps, programs and templates.
 * -EOPNOTSUPP when the kernel lacks something, which is logged. */
int cv_object_load(struct cv_start *s);
void cv_object_close(struct cv_start *s);
