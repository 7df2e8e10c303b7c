/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compiler: from the store, the enrolled pods and the sameNode settings to the maps
 * cv_workloads, cv_verdicts, cv_services and cv_endpoints. Control thread only.
 *
 * A verdict is written before the flows are walked, and an attested flow that is no longer
 * allowed is destroyed, so no order of events lets a forbidden flow live (ARCHITECTURE.md).
 */
#pragma once

#include "loader/loader.h"
#include "userspace/mesh/store.h"
#include "userspace/node/pods.h"

struct cv_compile;

struct cv_compile_opts {
	struct cv_bpf *bpf;
	struct cv_store *store;
	struct cv_pods *pods;
	/* Same-node tier of a pod, from culvert.yaml; the stricter end of a pair wins. */
	enum cv_same_node (*same_node)(const char *ns, const char *name, void *arg);
	/* A flow is about to be destroyed because it is no longer allowed to be direct; may be NULL. */
	void (*denied)(uint64_t cookie, void *arg);
	void *arg;
};
int cv_compile_new(struct cv_compile **ret, const struct cv_compile_opts *opts);
void cv_compile_free(struct cv_compile **c);
/* Everything again, written as differences. Called (batched) after store, pod or settings changes.
 * Does nothing before the store is warm. */
int cv_compile_run(struct cv_compile *c);

/* One verdict as the compiler computes it; exposed for the test against the evaluator. */
struct cv_verdict_in {
	const struct cv_workload *src, *dst;
	const struct cv_addr *src_addrs, *dst_addrs;
	size_t nr_src_addrs, nr_dst_addrs;
	const struct cv_policy_set *policies; /* of dst */
	enum cv_same_node same_node; /* stricter end */
};
struct cv_verdict_entry;
/* port 0 = ports that no policy names. */
void cv_compile_verdict(const struct cv_verdict_in *in, uint16_t port,
			struct cv_verdict_entry *ret);
