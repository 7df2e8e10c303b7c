/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services of the store: look-ups, and making the published service out of its own resource and
 * its members.
 *
 *   source's service ──► slot.own ─┐
 *                                  ├─► published service (endpoints joined, healthy or AllowAll)
 *   workloads' memberships ─► slot.members
 *
 * A slot lives as long as it has one of the two, so members of a service that comes later, or
 * comes back, are there when it does. An endpoint's health is its workload's at publication.
 */
#include "userspace/base/cleanup.h"
#include "userspace/mesh/store_slots.h"

static void ref_service(void *object)
{
	cv_service_ref(object);
}

static void put_service(void *object)
{
	struct cv_service *svc = object;

	cv_service_put(&svc);
}

static bool has_name(const void *object, const struct cv_index_key *key)
{
	const struct cv_service *svc = object;

	return svc->ns == key->a && svc->hostname == key->b;
}

static bool has_host(const void *object, const struct cv_index_key *key)
{
	return ((const struct cv_service *)object)->hostname == key->a;
}

static bool has_vip(const void *object, const struct cv_index_key *key)
{
	const struct cv_service *svc = object;

	for (size_t i = 0; svc && i < svc->nr_vips; i++)
		if (svc->vips[i].network == key->a && cv_addr_eq(&svc->vips[i].ip, &key->ip))
			return true;
	return false;
}

static const struct cv_index_ops by_name = { ref_service, put_service, has_name };
static const struct cv_index_ops by_host = { ref_service, put_service, has_host };
static const struct cv_index_ops by_vip = { ref_service, put_service, has_vip };
static const struct cv_index_ops by_cidr = { ref_service, put_service, NULL };

int cv_store_services_init(struct cv_store *s)
{
	int r = cv_store_slots_init(s);

	r = r ? r : cv_index_init(&s->services, &by_name);
	r = r ? r : cv_index_init(&s->services_by_host, &by_host);
	r = r ? r : cv_index_init(&s->services_by_vip, &by_vip);
	return r ? r : cv_index_init(&s->services_by_cidr, &by_cidr);
}

void cv_store_services_fini(struct cv_store *s)
{
	cv_store_slots_fini(s);
	cv_index_fini(&s->services);
	cv_index_fini(&s->services_by_host);
	cv_index_fini(&s->services_by_vip);
	cv_index_fini(&s->services_by_cidr);
}

/* ---- look-ups ---- */

struct cv_service *cv_store_peek_service(const struct cv_store *s, cv_str ns, cv_str host)
{
	return cv_index_first(&s->services, &(struct cv_index_key){ .a = ns, .b = host });
}

/* The service that a client's namespace means: its own, else the canonical one (the last of
 * them), else the first; only visible ones. Without a namespace all are visible. */
static struct cv_service *pick_service(const struct cv_index *ix, const struct cv_index_key *key,
				       cv_str client_ns)
{
	struct cv_service *canonical = NULL, *first = NULL;
	struct cv_index_entry e;

	cv_index_find(ix, key, &e);
	for (size_t i = 0; i < e.n; i++) {
		struct cv_service *svc = e.items[i];

		if (client_ns && svc->ns == client_ns)
			return svc;
		if (client_ns && svc->ns_visible_only)
			continue;
		if (svc->canonical)
			canonical = svc;
		if (!first)
			first = svc;
	}
	return canonical ? canonical : first;
}

struct cv_service *cv_store_peek_best_by_host(const struct cv_store *s, cv_str client_ns,
					      cv_str host)
{
	return pick_service(&s->services_by_host, &(struct cv_index_key){ .a = host }, client_ns);
}

static unsigned max_length(const struct cv_addr *ip)
{
	return cv_addr_is_v4(ip) ? 32 : 128;
}

/* Key of the CIDR VIP of that length that has the address. */
static struct cv_index_key cidr_key(cv_str network, const struct cv_addr *ip, unsigned len)
{
	struct cv_index_key key = { .a = network, .ip = *ip, .len = len + 1 };
	unsigned bits = 128 - max_length(ip) + len;

	for (unsigned i = 0; i < 16; i++) {
		unsigned keep = bits > 8 * i ? bits - 8 * i : 0;

		if (keep < 8)
			key.ip.b[i] &= (uint8_t)(0xff00 >> keep);
	}
	return key;
}

/* Among CIDR VIPs the client's own namespace comes first, then the longest prefix. */
static struct cv_service *peek_cidr(const struct cv_store *s, cv_str client_ns, cv_str network,
				    const struct cv_addr *vip)
{
	const atomic_uint *lengths = s->cidr_lengths[!cv_addr_is_v4(vip)];
	struct cv_service *best = NULL;

	for (int len = (int)max_length(vip); len >= 0; len--) {
		struct cv_index_key key;
		struct cv_service *svc;

		if (!atomic_load_explicit(&lengths[len], memory_order_relaxed))
			continue;
		key = cidr_key(network, vip, (unsigned)len);
		svc = pick_service(&s->services_by_cidr, &key, client_ns);
		if (svc && client_ns && svc->ns == client_ns)
			return svc;
		if (!best)
			best = svc;
	}
	return best;
}

struct cv_service *cv_store_peek_vip(const struct cv_store *s, cv_str client_ns, cv_str network,
				     const struct cv_addr *vip)
{
	struct cv_index_key key = { .a = network, .ip = *vip };
	struct cv_service *svc = pick_service(&s->services_by_vip, &key, client_ns);

	return svc ? svc : peek_cidr(s, client_ns, network, vip);
}

struct cv_service *cv_store_service_by_host(struct cv_store *s, cv_str ns, cv_str host)
{
	struct cv_service *svc;

	rcu_read_lock();
	svc = cv_service_ref(cv_store_peek_service(s, ns, host));
	rcu_read_unlock();
	return svc;
}

struct cv_service *cv_store_service_best_by_host(struct cv_store *s, cv_str client_ns, cv_str host)
{
	struct cv_service *svc;

	rcu_read_lock();
	svc = cv_service_ref(cv_store_peek_best_by_host(s, client_ns, host));
	rcu_read_unlock();
	return svc;
}

struct cv_service *cv_store_service_by_vip(struct cv_store *s, cv_str client_ns, cv_str network,
					   const struct cv_addr *vip)
{
	struct cv_service *svc;

	rcu_read_lock();
	svc = cv_service_ref(cv_store_peek_vip(s, client_ns, network, vip));
	rcu_read_unlock();
	return svc;
}

size_t cv_store_services_at_vip(struct cv_store *s, cv_str network, const struct cv_addr *vip,
				struct cv_service **ret, size_t max)
{
	struct cv_index_key key = { .a = network, .ip = *vip };
	struct cv_index_entry e;
	size_t n;

	rcu_read_lock();
	cv_index_find(&s->services_by_vip, &key, &e);
	for (n = 0; n < e.n; n++)
		if (n < max)
			ret[n] = cv_service_ref(e.items[n]);
	rcu_read_unlock();
	return n;
}

int cv_store_service_each(struct cv_store *s, int (*fn)(struct cv_service *svc, void *arg),
			  void *arg)
{
	struct cv_index_walk walk;
	struct cv_index_entry e;
	int r = 0;

	rcu_read_lock();
	cv_index_walk_init(&walk, &s->services);
	while (!r && cv_index_walk_next(&walk, &e))
		r = fn(e.items[0], arg);
	rcu_read_unlock();
	return r;
}

/* ---- publication ---- */

static bool has_cidr(const struct cv_service *svc, const struct cv_index_key *key)
{
	for (size_t i = 0; svc && i < svc->nr_cidr_vips; i++) {
		const struct cv_network_cidr *c = &svc->cidr_vips[i];
		struct cv_index_key k = cidr_key(c->network, &c->cidr.ip, c->cidr.len);

		if (k.a == key->a && k.len == key->len && cv_addr_eq(&k.ip, &key->ip))
			return true;
	}
	return false;
}

/* `at` is old or new, and the one whose VIPs are walked. A VIP of both changes in place. */
static void index_vips(struct cv_store *s, struct cv_service *at, struct cv_service *old,
		       struct cv_service *new)
{
	for (size_t i = 0; at && i < at->nr_vips; i++) {
		const struct cv_network_addr *vip = &at->vips[i];
		struct cv_index_key key = { .a = vip->network, .ip = vip->ip };

		if (at == old || !has_vip(old, &key))
			cv_index_change(&s->services_by_vip, &key, old,
					has_vip(new, &key) ? new : NULL);
	}
}

static void count_length(struct cv_store *s, const struct cv_service *svc, int by)
{
	for (size_t i = 0; svc && i < svc->nr_cidr_vips; i++) {
		const struct cv_cidr *c = &svc->cidr_vips[i].cidr;

		atomic_fetch_add(&s->cidr_lengths[!cv_addr_is_v4(&c->ip)][c->len], (unsigned)by);
	}
}

static void index_cidrs(struct cv_store *s, struct cv_service *at, struct cv_service *old,
			struct cv_service *new)
{
	for (size_t i = 0; at && i < at->nr_cidr_vips; i++) {
		const struct cv_network_cidr *c = &at->cidr_vips[i];
		struct cv_index_key key = cidr_key(c->network, &c->cidr.ip, c->cidr.len);

		if (at == old || !has_cidr(old, &key))
			cv_index_change(&s->services_by_cidr, &key, old,
					has_cidr(new, &key) ? new : NULL);
	}
}

void cv_store_service_publish(struct cv_store *s, cv_str ns, cv_str host, struct cv_service *new)
{
	struct cv_service *old = cv_store_service_by_host(s, ns, host);
	struct cv_index_key name = { .a = ns, .b = host }, host_key = { .a = host };

	if (!old && !new)
		return;
	cv_index_change(&s->services, &name, old, new);
	cv_index_change(&s->services_by_host, &host_key, old, new);
	index_vips(s, old, old, new);
	index_vips(s, new, old, new);
	count_length(s, new, 1);
	index_cidrs(s, old, old, new);
	index_cidrs(s, new, old, new);
	count_length(s, old, -1);
	cv_service_put(&old);
}
