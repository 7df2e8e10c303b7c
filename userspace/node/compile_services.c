// SPDX-License-Identifier: Apache-2.0
/*
 * Service VIPs that connect() may resolve: those whose endpoint the kernel can choose as the
 * daemon would, and of which at least one endpoint is an enrolled pod. All others have no entry:
 * the daemon chooses, and nothing is lost, since no endpoint is local.
 *
 * A changed set of endpoints gets an id of its own: endpoints first, then the service's entry
 * that points to them, then the old endpoints go. connect() sees one whole set or the other.
 */
#define CV_LOG_TARGET "node"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/route.h"
#include "userspace/node/compile_private.h"

enum { CANDIDATES = CV_MAX_SERVICE_SLOTS };

struct owner { /* of an address */
	struct cv_addr addr;
	uint32_t pod;
};

struct build {
	struct cv_compile *c;
	struct cv_sorted *rows;
	struct cv_sorted owners;
	struct cv_candidate candidates[CANDIDATES];
};

void cv_compile_services_fini(struct cv_sorted *services)
{
	for (size_t i = 0; i < services->n; i++)
		free(((struct cv_service_row *)cv_sorted_at(services, i))->slots);
	cv_sorted_fini(services);
}

/* --- what should be there ------------------------------------------------------------------- */

static uint32_t gcd(uint32_t a, uint32_t b)
{
	return b ? gcd(b, a % b) : a;
}

static int compare_candidates(const void *a, const void *b)
{
	const struct cv_candidate *x = a, *y = b;
	int r = cv_addr_cmp(&x->addr.ip, &y->addr.ip);

	return r ? r : (int)x->addr.port - (int)y->addr.port;
}

/* Number of the enrolled pod that has this address; 0 = none. */
static uint32_t pod_of(const struct build *b, const struct cv_addr *addr)
{
	const struct owner *owner = cv_sorted_find(&b->owners, addr);

	return owner ? owner->pod : 0;
}

/* Slots by weight, in the smallest whole numbers. Sorted, so that the same endpoints give the
 * same slots. Returns 0 and no slots when only the daemon can choose. */
static int make_slots(struct build *b, size_t n, struct cv_endpoint_entry **ret, uint32_t *ret_nr)
{
	struct cv_endpoint_entry *slots;
	uint32_t divisor = 0, at = 0;
	uint64_t sum = 0;
	bool local = false;

	for (size_t i = 0; i < n; i++)
		divisor = gcd(b->candidates[i].weight, divisor);
	for (size_t i = 0; divisor && i < n; i++)
		sum += b->candidates[i].weight / divisor;
	if (!sum || sum > CV_MAX_SERVICE_SLOTS)
		return 0;
	slots = calloc(sum, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	qsort(b->candidates, n, sizeof(*b->candidates), compare_candidates);
	for (size_t i = 0; i < n; i++) {
		const struct cv_candidate *c = &b->candidates[i];
		uint32_t pod = pod_of(b, &c->addr.ip);

		local = local || pod;
		for (uint32_t k = 0; k < c->weight / divisor; k++)
			slots[at++] = (struct cv_endpoint_entry){ .addr = c->addr.ip,
								  .port = htons(c->addr.port),
								  .pod = pod };
	}
	if (!local) {
		free(slots);
		return 0;
	}
	*ret = slots;
	*ret_nr = at;
	return 0;
}

static int build_port(struct build *b, const struct cv_service *svc, const struct cv_addr *vip,
		      uint16_t port)
{
	struct cv_endpoint_entry *slots = NULL;
	struct cv_service_row *row;
	uint32_t nr = 0;
	int n = cv_route_candidates(b->c->opts.store, svc, port, vip, b->candidates, CANDIDATES);
	int r;

	if (n <= 0 || n > CANDIDATES)
		return 0;
	r = make_slots(b, (size_t)n, &slots, &nr);
	if (r < 0 || !nr)
		return r;
	row = cv_sorted_add(b->rows);
	if (!row) {
		free(slots);
		return -ENOMEM;
	}
	row->key.vip = *vip;
	row->key.port = htons(port);
	row->value.nr_slots = nr;
	row->slots = slots;
	return 0;
}

/* Does a VIP mean this service to every client? */
static bool is_unambiguous(struct cv_store *store, const struct cv_service *svc,
			   const struct cv_network_addr *vip)
{
	struct cv_service *found = NULL;
	size_t n;

	if (svc->ns_visible_only || vip->network != cv_store_network(store))
		return false;
	n = cv_store_services_at_vip(store, vip->network, &vip->ip, &found, 1);
	cv_service_put(&found);
	return n == 1;
}

static bool is_repeated(const struct cv_service *svc, size_t vip)
{
	for (size_t i = 0; i < vip; i++) {
		if (cv_addr_eq(&svc->vips[i].ip, &svc->vips[vip].ip))
			return true;
	}
	return false;
}

static int build_service(struct cv_service *svc, void *arg)
{
	struct build *b = arg;

	for (size_t i = 0; i < svc->nr_vips; i++) {
		if (is_repeated(svc, i) || !is_unambiguous(b->c->opts.store, svc, &svc->vips[i]))
			continue;
		for (size_t k = 0; k < svc->ports.n; k++) {
			int r = build_port(b, svc, &svc->vips[i].ip,
					   svc->ports.entries[k].service_port);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int add_owners(const struct cv_pod_view *pod, void *arg)
{
	struct build *b = arg;

	for (size_t i = 0; i < pod->nr_addrs; i++) {
		struct owner *owner = cv_sorted_add(&b->owners);

		if (!owner)
			return -ENOMEM;
		owner->addr = pod->addrs[i];
		owner->pod = pod->number;
	}
	return 0;
}

static int build_all(struct cv_compile *c, struct cv_sorted *rows)
{
	struct build *b = malloc(sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	b->c = c;
	b->rows = rows;
	cv_sorted_init(&b->owners, sizeof(struct owner), sizeof(struct cv_addr));
	r = cv_pods_each(c->opts.pods, add_owners, b);
	cv_sorted_done(&b->owners);
	if (r == 0 && b->owners.n)
		r = cv_store_service_each(c->opts.store, build_service, b);
	cv_sorted_fini(&b->owners);
	free(b);
	cv_sorted_done(rows);
	return r;
}

/* --- writing -------------------------------------------------------------------------------- */

static void remove_endpoints(struct cv_compile *c, uint32_t service, uint32_t nr)
{
	struct cv_endpoint_key key = { .service = service };

	for (key.slot = 0; key.slot < nr; key.slot++)
		(void)cv_table_endpoint_del(c->opts.bpf, &key); /* gone already is as good */
}

static int write_endpoints(struct cv_compile *c, const struct cv_service_row *row)
{
	struct cv_endpoint_key key = { .service = row->value.id };

	for (key.slot = 0; key.slot < row->value.nr_slots; key.slot++) {
		int r = cv_table_endpoint_set(c->opts.bpf, &key, &row->slots[key.slot]);

		if (r < 0) {
			remove_endpoints(c, row->value.id, key.slot);
			return r;
		}
	}
	return 0;
}

static bool is_same_set(const struct cv_service_row *a, const struct cv_service_row *b)
{
	return a->slots && b->slots && a->value.nr_slots == b->value.nr_slots &&
	       !memcmp(a->slots, b->slots, a->value.nr_slots * sizeof(*a->slots));
}

/* A full map takes the VIP out of the kernel's hands altogether. */
static int write_service(struct cv_compile *c, struct cv_service_row *row,
			 const struct cv_service_row *old)
{
	int r;

	row->value.id = ++c->last_service;
	row->value.generation = c->generation;
	c->changed = true;
	r = write_endpoints(c, row);
	if (r == 0) {
		r = cv_table_service_set(c->opts.bpf, &row->key, &row->value);
		if (r < 0)
			remove_endpoints(c, row->value.id, row->value.nr_slots);
	}
	if (r == -E2BIG) {
		cv_warn("the service maps are full: the daemon chooses the endpoints");
		if (old)
			(void)cv_table_service_del(c->opts.bpf, &row->key); /* was there */
		row->value.nr_slots = 0;
		c->full = true;
		r = 0;
	}
	if (r == 0 && old)
		remove_endpoints(c, old->value.id, old->value.nr_slots);
	return r;
}

static int write_services(struct cv_compile *c, struct cv_sorted *fresh)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < fresh->n; i++) {
		struct cv_service_row *row = cv_sorted_at(fresh, i);
		const struct cv_service_row *old = cv_sorted_find(&c->services, &row->key);

		if (old && is_same_set(old, row))
			row->value = old->value;
		else
			r = write_service(c, row, old);
	}
	for (size_t i = 0; r == 0 && i < c->services.n; i++) {
		const struct cv_service_row *old = cv_sorted_at(&c->services, i);

		if (cv_sorted_find(fresh, &old->key))
			continue;
		c->changed = true;
		(void)cv_table_service_del(c->opts.bpf, &old->key); /* gone already is as good */
		remove_endpoints(c, old->value.id, old->value.nr_slots);
	}
	return r;
}

int cv_compile_services(struct cv_compile *c)
{
	struct cv_sorted fresh;
	int r;

	cv_sorted_init(&fresh, sizeof(struct cv_service_row), sizeof(struct cv_service_key));
	r = build_all(c, &fresh);
	if (r == 0)
		r = write_services(c, &fresh);
	if (r < 0) {
		cv_compile_services_fini(&fresh);
		return r;
	}
	cv_compile_services_fini(&c->services);
	c->services = fresh;
	return 0;
}

static int load_service(const struct cv_service_key *key, const struct cv_service_entry *entry,
			void *arg)
{
	struct cv_compile *c = arg;
	struct cv_service_row *row = cv_sorted_add(&c->services);

	if (!row)
		return -ENOMEM;
	row->key = *key;
	row->value = *entry;
	if (entry->id > c->last_service)
		c->last_service = entry->id;
	return 0;
}

/* Endpoints that no service points to: an interrupted write left them. */
static int drop_orphan(const struct cv_endpoint_key *key, const struct cv_endpoint_entry *entry,
		       void *arg)
{
	struct cv_compile *c = arg;

	(void)entry;
	for (size_t i = 0; i < c->services.n; i++) {
		const struct cv_service_row *row = cv_sorted_at(&c->services, i);

		if (row->value.id == key->service)
			return 0;
	}
	(void)cv_table_endpoint_del(c->opts.bpf, key); /* gone already is as good */
	return 0;
}

int cv_compile_services_load(struct cv_compile *c)
{
	int r;

	cv_compile_services_fini(&c->services);
	cv_sorted_init(&c->services, sizeof(struct cv_service_row), sizeof(struct cv_service_key));
	r = cv_table_service_each(c->opts.bpf, load_service, c);
	if (r < 0)
		return r;
	cv_sorted_done(&c->services);
	return cv_table_endpoint_each(c->opts.bpf, drop_orphan, c);
}
