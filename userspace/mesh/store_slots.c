/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What services are made of: slots, and the workloads that join them. Control thread only.
 *
 * A slot lists its members, sorted by uid, in one array: there is an entry for each membership of
 * the mesh. A workload that joins is appended, one that leaves is only told of; at the end of the
 * batch each slot that was touched drops the members that are no longer, sorts the rest, and is
 * published once if an endpoint of it changed, however many did.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/store_slots.h"

struct slot {
	cv_str ns, host;
	/* The source's resource, NULL = not known. One without endpoints of its own is not kept beside
	 * what is published of it. */
	struct cv_service *own;
	bool is_published; /* own is what is published: its endpoints are the members */
	struct cv_workload **members; /* references */
	uint32_t nr_members, room;
	bool publish; /* of a touched one: what is published changes */
	struct cds_list_head touched; /* in the store's list, or empty */
};

static void no_ref(void *object)
{
	(void)object; /* a slot is in one index entry, which owns it */
}

static void free_slot(void *object)
{
	struct slot *slot = object;

	cv_service_put(&slot->own);
	for (size_t i = 0; i < slot->nr_members; i++)
		cv_workload_put(&slot->members[i]);
	free(slot->members);
	cv_str_put(&slot->ns);
	cv_str_put(&slot->host);
	free(slot);
}

static bool has_name(const void *object, const struct cv_index_key *key)
{
	const struct slot *slot = object;

	return slot->ns == key->a && slot->host == key->b;
}

static const struct cv_index_ops slot_ops = { no_ref, free_slot, has_name };

int cv_store_slots_init(struct cv_store *s)
{
	return cv_index_init(&s->slots, &slot_ops);
}

void cv_store_slots_fini(struct cv_store *s)
{
	cv_index_fini(&s->slots);
}

static struct slot *get_slot(struct cv_store *s, cv_str ns, cv_str host)
{
	struct cv_index_key key = { .a = ns, .b = host };
	struct slot *slot = cv_index_first(&s->slots, &key);

	if (slot)
		return slot;
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		abort();
	CDS_INIT_LIST_HEAD(&slot->touched);
	slot->ns = cv_str_ref(ns);
	slot->host = cv_str_ref(host);
	cv_index_change(&s->slots, &key, NULL, slot);
	return slot;
}

static void touch(struct cv_store *s, struct slot *slot, bool publish)
{
	slot->publish |= publish;
	if (cds_list_empty(&slot->touched))
		cds_list_add_tail(&slot->touched, &s->touched);
}

/* ---- joining ---- */

static bool is_same_endpoint(const struct cv_workload *a, const struct cv_membership *ma,
			     const struct cv_workload *b, const struct cv_membership *mb)
{
	return a->status == b->status && cv_port_map_eq(&ma->ports, &mb->ports);
}

/* The membership of w in the slot, NULL = none. */
static const struct cv_membership *find_membership(const struct cv_workload *w,
						   const struct slot *slot)
{
	for (size_t i = 0; w && i < w->group->nr_services; i++)
		if (w->group->services[i].service.ns == slot->ns &&
		    w->group->services[i].service.host == slot->host)
			return &w->group->services[i];
	return NULL;
}

static void add_member(struct slot *slot, struct cv_workload *w)
{
	if (slot->nr_members == slot->room) {
		slot->room += slot->room / 2 + 4;
		slot->members = reallocarray(slot->members, slot->room, sizeof(*slot->members));
		if (!slot->members)
			abort(); /* as the objects themselves */
	}
	slot->members[slot->nr_members++] = cv_workload_ref(w);
}

static void join(struct cv_store *s, struct cv_workload *w, const struct cv_membership *ms,
		 const struct cv_workload *old)
{
	struct slot *slot = get_slot(s, ms->service.ns, ms->service.host);
	const struct cv_membership *was = find_membership(old, slot);

	add_member(slot, w);
	touch(s, slot, !was || !is_same_endpoint(old, was, w, ms));
}

void cv_store_join(struct cv_store *s, const struct cv_workload *old, struct cv_workload *new)
{
	size_t nr_left = old ? old->group->nr_services : 0,
	       nr_joined = new ? new->group->nr_services : 0;

	if (old == new)
		return;
	for (size_t i = 0; i < nr_left; i++) {
		const struct cv_ns_host *name = &old->group->services[i].service;
		struct slot *slot = get_slot(s, name->ns, name->host);

		touch(s, slot, !find_membership(new, slot));
	}
	for (size_t i = 0; i < nr_joined; i++)
		join(s, new, &new->group->services[i], old);
}

/* ---- members ---- */

static int compare_members(const void *a, const void *b)
{
	const struct cv_workload *const *wa = a, *const *wb = b;

	return strcmp(cv_str_text((*wa)->uid), cv_str_text((*wb)->uid));
}

/* Keeps the members that are the workload of their uid, each once. */
static void drop_old_members(struct cv_store *s, struct slot *slot)
{
	size_t kept = 0;

	if (slot->nr_members)
		qsort(slot->members, slot->nr_members, sizeof(*slot->members), compare_members);
	for (size_t i = 0; i < slot->nr_members; i++) {
		struct cv_workload *w = slot->members[i];

		if (cv_store_peek_workload(s, w->uid) == w && find_membership(w, slot) &&
		    (!kept || slot->members[kept - 1] != w))
			slot->members[kept++] = w;
		else
			cv_workload_put(&w);
	}
	slot->nr_members = (uint32_t)kept;
}

/* Between batches a slot has no more room than it needs. */
static void trim_members(struct slot *slot)
{
	struct cv_workload **fit;

	if (!slot->nr_members) {
		free(slot->members);
		slot->members = NULL;
	} else if (slot->room > slot->nr_members) {
		fit = realloc(slot->members, slot->nr_members * sizeof(*fit)); /* NOLINT */
		slot->members = fit ? fit : slot->members;
	}
	slot->room = slot->nr_members;
}

/* ---- the published service ---- */

/* Where an endpoint comes from while endpoints are collected; the last source wins. */
struct source {
	cv_str uid;
	const struct cv_port_map *ports;
	enum cv_health status;
	bool member; /* a workload's own membership, rather than the service's list */
};

static int compare_sources(const void *a, const void *b)
{
	const struct source *sa = a, *sb = b;
	int r = strcmp(cv_str_text(sa->uid), cv_str_text(sb->uid));

	return r ? r : (int)sb->member - (int)sa->member;
}

static struct source *collect_sources(const struct slot *slot, size_t *ret_n)
{
	const struct cv_service *own = slot->own;
	size_t nr_listed = slot->is_published ? 0 : own->nr_endpoints;
	struct source *sources = calloc(nr_listed + slot->nr_members + 1, sizeof(*sources));
	size_t n = 0;

	if (!sources)
		abort();
	for (size_t i = 0; i < nr_listed; i++)
		sources[n++] = (struct source){ own->endpoints[i].workload_uid,
						&own->endpoints[i].ports, own->endpoints[i].status,
						false };
	for (size_t i = 0; i < slot->nr_members; i++) {
		const struct cv_workload *w = slot->members[i];

		sources[n++] = (struct source){ w->uid, &find_membership(w, slot)->ports,
						(enum cv_health)w->status, true };
	}
	if (nr_listed)
		qsort(sources, n, sizeof(*sources), compare_sources);
	*ret_n = n;
	return sources;
}

static struct cv_service *build_service(const struct slot *slot)
{
	struct cv_service *svc = cv_service_copy_bare(slot->own);
	size_t n;
	_cleanup_free_ struct source *sources = collect_sources(slot, &n);

	svc->endpoints = calloc(n + 1, sizeof(*svc->endpoints));
	if (!svc->endpoints)
		abort();
	for (size_t i = 0; i < n; i++) {
		const struct source *src = &sources[i];
		struct cv_service_endpoint *e = &svc->endpoints[svc->nr_endpoints];

		if (i && sources[i - 1].uid == src->uid)
			continue;
		if (src->status != CV_HEALTHY && !svc->allow_unhealthy)
			continue;
		e->workload_uid = cv_str_ref(src->uid);
		e->status = src->status;
		cv_port_map_copy(&e->ports, src->ports);
		svc->nr_endpoints++;
	}
	return svc;
}

static void publish_slot(struct cv_store *s, struct slot *slot)
{
	struct cv_service *svc = slot->own ? build_service(slot) : NULL;
	bool was = cv_store_peek_service(s, slot->ns, slot->host);
	char key[640];
	cv_str name;

	cv_store_service_publish(s, slot->ns, slot->host, svc);
	if (was || svc) {
		snprintf(key, sizeof(key), "%s/%s", cv_str_text(slot->ns), cv_str_text(slot->host));
		name = cv_str_new(key);
		cv_store_note(s, CV_DELTA_SERVICE, name);
		cv_str_put(&name);
	}
	if (svc && (slot->is_published || !slot->own->nr_endpoints)) {
		cv_service_put(&slot->own);
		slot->own = cv_service_ref(svc);
		slot->is_published = true;
	}
	cv_service_put(&svc);
	if (!slot->own && !slot->nr_members)
		cv_index_change(&s->slots, &(struct cv_index_key){ .a = slot->ns, .b = slot->host },
				slot, NULL);
}

void cv_store_services_publish(struct cv_store *s)
{
	struct slot *slot, *next;

	cds_list_for_each_entry_safe(slot, next, &s->touched, touched) {
		bool publish = slot->publish;

		cds_list_del(&slot->touched);
		CDS_INIT_LIST_HEAD(&slot->touched);
		slot->publish = false;
		drop_old_members(s, slot);
		trim_members(slot);
		if (publish)
			publish_slot(s, slot);
	}
}

/* ---- own resources ---- */

void cv_store_service_set(struct cv_store *s, struct cv_service *svc)
{
	struct slot *slot = get_slot(s, svc->ns, svc->hostname);

	cv_service_put(&slot->own);
	slot->own = svc;
	slot->is_published = false;
	touch(s, slot, true);
}

/* The slot of "namespace/hostname", NULL = none. */
static struct slot *find_slot(const struct cv_store *s, cv_str key)
{
	const char *slash = strchr(cv_str_text(key), '/');
	struct cv_index_key name = {};
	struct slot *slot;

	if (!slash)
		return NULL;
	name.a = cv_str_new_len(key, (size_t)(slash - key));
	name.b = cv_str_new(slash + 1);
	slot = cv_index_first(&s->slots, &name);
	cv_str_put(&name.a);
	cv_str_put(&name.b);
	return slot;
}

void cv_store_service_remove(struct cv_store *s, cv_str key)
{
	struct slot *slot = find_slot(s, key);

	if (!slot || !slot->own)
		return;
	cv_service_put(&slot->own);
	touch(s, slot, true);
}

bool cv_store_service_is_own(const struct cv_store *s, cv_str key, const struct cv_service *svc)
{
	const struct slot *slot = find_slot(s, key);
	const struct cv_service *own = slot ? slot->own : NULL;

	if (!own || !svc)
		return own == svc;
	if (slot->is_published)
		return !svc->nr_endpoints && cv_service_eq_bare(svc, own);
	return cv_service_eq(svc, own);
}

int cv_store_staged_each(struct cv_store *s,
			 int (*fn)(const struct cv_ns_host *svc,
				   const struct cv_service_endpoint *e, void *arg),
			 void *arg)
{
	struct cv_index_walk walk;
	struct cv_index_entry e;
	int r = 0;

	rcu_read_lock();
	cv_index_walk_init(&walk, &s->slots);
	while (!r && cv_index_walk_next(&walk, &e)) {
		const struct slot *slot = e.items[0];

		for (size_t i = 0; i < slot->nr_members && !slot->own && !r; i++) {
			const struct cv_workload *w = slot->members[i];
			const struct cv_membership *m = find_membership(w, slot);

			r = fn(&m->service,
			       &(struct cv_service_endpoint){ w->uid, m->ports,
							      (enum cv_health)w->status },
			       arg);
		}
	}
	rcu_read_unlock();
	return r;
}
