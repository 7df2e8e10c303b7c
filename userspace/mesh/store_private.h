/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's inside, shared by store*.c and, for look-ups without references, route.c.
 *
 * Two halves. What readers see: indexes, changed by publication only. What the writer alone
 * sees: slots (a service's own resource and who is a member of it), from which the published
 * services are made.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <urcu/list.h>

#include "userspace/mesh/index.h"
#include "userspace/mesh/store.h"

enum { CV_STORE_SUBSCRIBERS = 16 };

struct cv_store {
	cv_str network, node;
	/* Read by anybody, changed by the control thread. */
	struct cv_index workloads; /* uid -> one */
	struct cv_index workloads_by_addr; /* network, address -> some */
	struct cv_index workloads_local; /* namespace, name -> some; this node's */
	struct cv_index workloads_by_host; /* namespace, hostname -> some */
	struct cv_index services; /* namespace, hostname -> one */
	struct cv_index services_by_host; /* hostname -> some */
	struct cv_index services_by_vip; /* network, address -> some */
	struct cv_index services_by_cidr; /* network, masked address, length -> some */
	atomic_uint cidr_lengths[2][129]; /* CIDR VIPs per family (v4, v6) and length */
	struct cv_index policies; /* "namespace/name" -> one */
	struct cv_index policies_by_ns; /* namespace, "" = global -> all of that scope */
	atomic_bool warm;
	atomic_uint_fast64_t version, policy_version;
	/* The control thread's. */
	struct cv_index slots; /* namespace, hostname -> struct cv_slot */
	struct cds_list_head touched; /* slots to look at at the end of this apply */
	struct cv_store_change change; /* being collected */
	size_t change_room;
	size_t nr_garbage; /* changes since old objects were waited for */
	bool policy_lists_changed;
	struct {
		cv_store_fn fn;
		void *arg;
	} subscribers[CV_STORE_SUBSCRIBERS];
	size_t nr_subscribers;
	/* Connections that wait for a local workload; under the lock. */
	pthread_mutex_t wait_lock;
	struct cds_list_head waiters;
};

/* --- store.c --- */
/* Notes that an object changed, for the subscribers. */
void cv_store_note(struct cv_store *s, enum cv_delta_kind kind, cv_str key);

/* --- store_workloads.c: w takes the place of the workload of its uid --- */
int cv_store_workloads_init(struct cv_store *s);
void cv_store_workloads_fini(struct cv_store *s);
void cv_store_workload_set(struct cv_store *s, struct cv_workload *w); /* takes the reference */
void cv_store_workload_remove(struct cv_store *s, cv_str uid);
/* Look-ups inside an RCU read section; borrowed. */
struct cv_workload *cv_store_peek_workload(const struct cv_store *s, cv_str uid);
struct cv_workload *cv_store_peek_addr(const struct cv_store *s, cv_str network,
				       const struct cv_addr *ip);
struct cv_workload *cv_store_peek_host(const struct cv_store *s, cv_str ns, cv_str host);

/* --- store_services.c --- */
int cv_store_services_init(struct cv_store *s);
void cv_store_services_fini(struct cv_store *s);
void cv_store_service_set(struct cv_store *s, struct cv_service *svc); /* takes the reference */
void cv_store_service_remove(struct cv_store *s, cv_str key);
/* Is that what the source said last, without the members that joined it? NULL = nothing. */
bool cv_store_service_is_own(const struct cv_store *s, cv_str key, const struct cv_service *svc);
/* A workload has taken the place of `old` (either NULL = none): it joins the services that it names
 * and leaves those it does not name any more. */
void cv_store_join(struct cv_store *s, const struct cv_workload *old, struct cv_workload *new);
/* Publishes the services whose own resource or members changed. */
void cv_store_services_publish(struct cv_store *s);
struct cv_service *cv_store_peek_service(const struct cv_store *s, cv_str ns, cv_str host);
struct cv_service *cv_store_peek_vip(const struct cv_store *s, cv_str client_ns, cv_str network,
				     const struct cv_addr *vip);
struct cv_service *cv_store_peek_best_by_host(const struct cv_store *s, cv_str client_ns,
					      cv_str host);

/* --- store_policies.c --- */
int cv_store_policies_init(struct cv_store *s);
void cv_store_policies_fini(struct cv_store *s);
/* The batch's additions and updates before, its removals after everything else of the batch: in
 * between a workload never lists a policy that is not there. */
struct cv_policy_batch;
struct cv_policy_batch *cv_store_policies_add(struct cv_store *s, struct cv_delta *deltas,
					      size_t n);
void cv_store_policies_finish(struct cv_store *s, struct cv_policy_batch *b);

/* --- store_wait.c --- */
void cv_store_wait_init(struct cv_store *s);
void cv_store_wait_fini(struct cv_store *s);
/* Local workloads may have appeared: wakes whoever waited for them. */
void cv_store_wake(struct cv_store *s);
