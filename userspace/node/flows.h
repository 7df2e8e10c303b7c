/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct flows as the kernel records them: read from cv_flows (the truth; cv_events only
 * nudges), reported as metrics, access log and connections of both reporters, removed when told.
 * Destroying one enters its pod's namespace and kills the socket by cookie.
 */
#pragma once

#include "loader/loader.h"
#include "userspace/io/worker.h"
#include "userspace/mesh/store.h"
#include "userspace/node/pods.h"
#include "userspace/telemetry/telemetry.h"

struct cv_flows;
struct cv_flows_opts {
	struct cv_worker *control;
	struct cv_bpf *bpf;
	struct cv_store *store;
	struct cv_pods *pods;
	struct cv_telemetry *telemetry;
};
int cv_flows_new(struct cv_flows **ret, const struct cv_flows_opts *opts);
void cv_flows_free(struct cv_flows **f);
/* Read everything now (also runs by itself: on events, and every few seconds as a sweep). */
void cv_flows_sync(struct cv_flows *f);

/* This flow is being destroyed by a policy change: that is how its end is reported. */
void cv_flows_deny(struct cv_flows *f, uint64_t cookie);

/* Kill one TCP socket of a namespace by its cookie (SOCK_DESTROY); both ends get an error.
 * 0, -ENOENT when it is gone already. */
struct cv_tuple;
int cv_sock_destroy(const struct cv_netns *ns, const struct cv_tuple *tuple, uint64_t cookie);
