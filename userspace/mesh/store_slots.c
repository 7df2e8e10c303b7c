/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What services are made of: slots, and the workloads that join them. Control thread only.
 *
 * A join holds one member per membership of its workload; the members of a slot are linked, so
 * a workload joins and leaves in time proportional to its own memberships, and a service is
 * rebuilt once per batch however many of its members changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/store_slots.h"

struct slot {
	cv_str ns, host; /* the index entry's */
	struct cv_service *own; /* the source's resource, NULL = not known */
	struct cds_list_head members; /* struct member.link */
	struct cds_list_head dirty; /* in the store's dirty list, or empty */
};

struct member {
	struct cds_list_head link;
	struct slot *slot;
	const struct join *join;
	const struct cv_membership *membership; /* in join->workload */
};

struct join {
	struct cv_workload *workload; /* a reference */
	struct member members[]; /* one per workload->services */
};

static void no_ref(void *object)
{
	(void)object; /* slots and joins are in one index entry each, which owns them */
}

static void free_slot(void *object)
{
	struct slot *slot = object;

	cv_service_put(&slot->own);
	free(slot);
}

static void free_join(void *object)
{
	struct join *join = object;

	cv_workload_put(&join->workload);
	free(join);
}

static const struct cv_index_ops slot_ops = { no_ref, free_slot };
static const struct cv_index_ops join_ops = { no_ref, free_join };

int cv_store_slots_init(struct cv_store *s)
{
	int r = cv_index_init(&s->slots, &slot_ops);

	return r < 0 ? r : cv_index_init(&s->joins, &join_ops);
}

void cv_store_slots_fini(struct cv_store *s)
{
	cv_index_fini(&s->joins);
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
	CDS_INIT_LIST_HEAD(&slot->members);
	CDS_INIT_LIST_HEAD(&slot->dirty);
	slot->ns = ns;
	slot->host = host;
	cv_index_change(&s->slots, &key, NULL, slot);
	return slot;
}

static void set_dirty(struct cv_store *s, struct slot *slot)
{
	if (cds_list_empty(&slot->dirty))
		cds_list_add_tail(&slot->dirty, &s->dirty);
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
	for (size_t i = 0; w && i < w->nr_services; i++)
		if (w->services[i].service.ns == slot->ns &&
		    w->services[i].service.host == slot->host)
			return &w->services[i];
	return NULL;
}

/* Takes the old join's members out; slots whose endpoint stays as it was are not dirty. */
static void leave_slots(struct cv_store *s, struct join *old, const struct cv_workload *new)
{
	for (size_t i = 0; i < old->workload->nr_services; i++) {
		struct member *m = &old->members[i];
		const struct cv_membership *now = find_membership(new, m->slot);

		cds_list_del(&m->link);
		if (!now || !is_same_endpoint(old->workload, m->membership, new, now))
			set_dirty(s, m->slot);
	}
}

static struct join *new_join(struct cv_store *s, struct cv_workload *w,
			     const struct cv_workload *old)
{
	struct join *join = calloc(1, sizeof(*join) + w->nr_services * sizeof(join->members[0]));

	if (!join)
		abort();
	join->workload = cv_workload_ref(w);
	for (size_t i = 0; i < w->nr_services; i++) {
		const struct cv_membership *ms = &w->services[i];
		struct member *m = &join->members[i];

		m->slot = get_slot(s, ms->service.ns, ms->service.host);
		m->join = join;
		m->membership = ms;
		cds_list_add_tail(&m->link, &m->slot->members);
		if (!find_membership(old, m->slot))
			set_dirty(s, m->slot);
	}
	return join;
}

void cv_store_join(struct cv_store *s, cv_str uid, struct cv_workload *w)
{
	struct cv_index_key key = { .a = uid };
	struct join *old = cv_index_first(&s->joins, &key), *new = NULL;

	if (old)
		leave_slots(s, old, w);
	if (w && w->nr_services)
		new = new_join(s, w, old ? old->workload : NULL);
	if (old || new)
		cv_index_change(&s->joins, &key, old, new);
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

static size_t count_sources(const struct slot *slot)
{
	struct cds_list_head *pos;
	size_t n = slot->own->nr_endpoints;

	cds_list_for_each(pos, &slot->members) n++;
	return n;
}

static struct source *collect_sources(const struct slot *slot, size_t *ret_n)
{
	const struct cv_service *own = slot->own;
	struct source *sources = calloc(count_sources(slot) + 1, sizeof(*sources));
	struct member *m;
	size_t n = 0;

	if (!sources)
		abort();
	for (size_t i = 0; i < own->nr_endpoints; i++)
		sources[n++] = (struct source){ own->endpoints[i].workload_uid,
						&own->endpoints[i].ports, own->endpoints[i].status,
						false };
	cds_list_for_each_entry(m, &slot->members, link)
		sources[n++] = (struct source){ m->join->workload->uid, &m->membership->ports,
						m->join->workload->status, true };
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
	cv_service_put(&svc);
	if (!slot->own && cds_list_empty(&slot->members))
		cv_index_change(&s->slots, &(struct cv_index_key){ .a = slot->ns, .b = slot->host },
				slot, NULL);
}

void cv_store_services_publish(struct cv_store *s)
{
	struct slot *slot, *next;

	cds_list_for_each_entry_safe(slot, next, &s->dirty, dirty) {
		cds_list_del(&slot->dirty);
		CDS_INIT_LIST_HEAD(&slot->dirty);
		publish_slot(s, slot);
	}
}

/* ---- own resources ---- */

void cv_store_service_set(struct cv_store *s, struct cv_service *svc)
{
	struct slot *slot = get_slot(s, svc->ns, svc->hostname);

	cv_service_put(&slot->own);
	slot->own = svc;
	set_dirty(s, slot);
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
	set_dirty(s, slot);
}

const struct cv_service *cv_store_service_own(const struct cv_store *s, cv_str key)
{
	const struct slot *slot = find_slot(s, key);

	return slot ? slot->own : NULL;
}

int cv_store_staged_each(struct cv_store *s,
			 int (*fn)(const struct cv_ns_host *svc,
				   const struct cv_service_endpoint *e, void *arg),
			 void *arg)
{
	struct cds_lfht_iter iter;
	struct cv_index_entry *e;
	struct slot *slot;
	struct member *m;
	int r = 0;

	rcu_read_lock();
	cds_lfht_for_each_entry(s->slots.table, &iter, e, node) {
		slot = e->items[0];
		if (slot->own || r)
			continue;
		cds_list_for_each_entry(m, &slot->members, link) {
			r = fn(&m->membership->service,
			       &(struct cv_service_endpoint){ m->join->workload->uid,
							      m->membership->ports,
							      m->join->workload->status },
			       arg);
			if (r)
				break;
		}
	}
	rcu_read_unlock();
	return r;
}
