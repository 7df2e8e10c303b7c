/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one store of workloads, services and policies.
 *
 * Written by the control thread alone, by deltas; read by any registered RCU thread without
 * locks. Look-ups return a new reference (put it back) or NULL. A source (file, xDS) removes
 * only what it added; when two give an object of one key, the later one counts.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/mesh/types.h"

struct cv_store;

struct cv_store_opts {
	const char *network; /* NETWORK of this node */
	const char *node; /* NODE_NAME; NULL = every workload counts as local */
};
int cv_store_new(struct cv_store **ret, const struct cv_store_opts *opts);
/* After the workers have ended. */
void cv_store_free(struct cv_store **s);

enum cv_delta_kind { CV_DELTA_WORKLOAD, CV_DELTA_SERVICE, CV_DELTA_POLICY };
/* Add or update (object set; the store takes the reference) or remove (object NULL, key names
 * it: workload uid, "ns/hostname", policy "ns/name"). */
struct cv_delta {
	enum cv_delta_kind kind;
	cv_str key; /* set for every delta; for add/update the object's own key */
	union {
		struct cv_workload *workload;
		struct cv_service *service;
		struct cv_policy *policy;
		void *object;
	};
};
/* Control thread. Applies a batch as one change: removals before additions (of policies: after),
 * endpoints joined once per service, then the subscribers are called once. Takes the objects
 * (and clears them), the keys stay the caller's. Never fails: objects were validated. */
void cv_store_apply(struct cv_store *s, struct cv_delta *deltas, size_t n);

/* Control thread. Does the store hold this already: the same object, or none for a removal? */
bool cv_store_is_current(struct cv_store *s, const struct cv_delta *d);

/* The first whole state is in (file loaded, xDS warm): listeners may accept. */
void cv_store_set_warm(struct cv_store *s);
bool cv_store_is_warm(const struct cv_store *s);

/* Called on the control thread after each apply. */
struct cv_store_change {
	bool workloads, services, policies;
	cv_str *keys; /* of everything that changed, valid during the call */
	enum cv_delta_kind *kinds;
	size_t n;
};
typedef void (*cv_store_fn)(const struct cv_store_change *change, void *arg);
void cv_store_subscribe(struct cv_store *s, cv_store_fn fn, void *arg);
uint64_t cv_store_version(const struct cv_store *s); /* counts applies */
uint64_t cv_store_policy_version(
	const struct cv_store
		*s); /* counts applies that touched policies or local workloads' policy lists */

cv_str cv_store_network(const struct cv_store *s);
cv_str cv_store_node(const struct cv_store *s);

/* --- look-ups, any RCU-registered thread --- */
struct cv_workload *cv_store_workload_by_uid(struct cv_store *s, cv_str uid);
/* network NULL = "". Host-network workloads are not found by address. */
struct cv_workload *cv_store_workload_by_addr(struct cv_store *s, cv_str network,
					      const struct cv_addr *ip);
/* This node's workload of a pod, as ztunnel finds it: by (namespace, service account) among
 * local workloads, then name. sa NULL = any. */
struct cv_workload *cv_store_workload_local(struct cv_store *s, const char *ns, const char *sa,
					    const char *name);
struct cv_workload *cv_store_workload_by_host(struct cv_store *s, cv_str ns, cv_str host);
struct cv_service *cv_store_service_by_host(struct cv_store *s, cv_str ns, cv_str host);
/* Best service of a host name for a client namespace (visibility, own namespace, canonical,
 * first). client_ns NULL = visibility is not enforced. */
struct cv_service *cv_store_service_best_by_host(struct cv_store *s, cv_str client_ns, cv_str host);
/* Best service of a VIP: exact match first, then CIDR VIPs by (client namespace, length, canonical). */
struct cv_service *cv_store_service_by_vip(struct cv_store *s, cv_str client_ns, cv_str network,
					   const struct cv_addr *vip);
/* All services that have this exact VIP, at most max; returns how many there are. */
size_t cv_store_services_at_vip(struct cv_store *s, cv_str network, const struct cv_addr *vip,
				struct cv_service **ret, size_t max);
struct cv_policy *cv_store_policy_by_key(struct cv_store *s, cv_str key);

/* Policies that apply to a destination workload: global, its namespace's, its own list; each
 * once. References. The workload's current record counts when there is one, so that an older
 * snapshot of it may be asked about. */
struct cv_policy_set {
	struct cv_policy **policies;
	size_t n;
	bool missing; /* the workload lists a policy that is not in the store: closed */
	cv_str missing_key; /* the first such policy */
};
void cv_store_policies_for(struct cv_store *s, const struct cv_workload *w,
			   struct cv_policy_set *ret);
void cv_policy_set_fini(struct cv_policy_set *set);

/* Walks; fn returns non-zero to stop (the walk returns it). Objects are borrowed. */
int cv_store_workload_each(struct cv_store *s, int (*fn)(struct cv_workload *w, void *arg),
			   void *arg);
int cv_store_service_each(struct cv_store *s, int (*fn)(struct cv_service *svc, void *arg),
			  void *arg);
int cv_store_policy_each(struct cv_store *s, int (*fn)(cv_str key, struct cv_policy *p, void *arg),
			 void *arg);
/* Control thread: endpoints of services that do not exist yet: fn per (service, endpoint). */
int cv_store_staged_each(struct cv_store *s,
			 int (*fn)(const struct cv_ns_host *svc,
				   const struct cv_service_endpoint *e, void *arg),
			 void *arg);

/* Wait for a local workload: fn runs once, on worker `w`, when a workload of this namespace/name
 * appears or after timeout_ms (workload NULL then; else a new reference). Any thread. */
struct cv_worker;
typedef void (*cv_store_wait_fn)(struct cv_workload *w, void *arg);
void cv_store_wait_local(struct cv_store *s, struct cv_worker *w, const char *ns, const char *sa,
			 const char *name, unsigned timeout_ms, cv_store_wait_fn fn, void *arg);
