/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A response's parts become deltas. Workloads and services are applied in batches while the rest
 * still arrives, so that neither the memory nor the time of one step grows with the mesh; policies
 * and removals when the response is whole.
 */
#define CV_LOG_TARGET "xds"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/xds_private.h"
#include "userspace/proto/pb/discovery.pb-c.h"
#include "userspace/proto/utf8.h"

int xds_type_find(const char *url)
{
	for (int i = 0; i < CV_XDS_TYPE_NR; i++)
		if (strcmp(url, cv_xds_type_urls[i]) == 0)
			return i;
	return -ENOENT;
}

/* ---- batches -------------------------------------------------------------------------------- */

static void put_delta(struct cv_delta *d)
{
	if (d->kind == CV_DELTA_WORKLOAD)
		cv_workload_put(&d->workload);
	else if (d->kind == CV_DELTA_SERVICE)
		cv_service_put(&d->service);
	else
		cv_policy_put(&d->policy);
	cv_str_put(&d->key);
}

void xds_batch_add(struct xds_batch *b, struct cv_delta d)
{
	if (b->n == b->room) {
		b->room = b->room ? 2 * b->room : CV_LIMIT_XDS_BATCH;
		b->deltas = reallocarray(b->deltas, b->room, sizeof(*b->deltas));
		if (!b->deltas)
			abort(); /* as the objects themselves */
	}
	b->deltas[b->n++] = d;
}

void xds_batch_fini(struct xds_batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		put_delta(&b->deltas[i]);
	free(b->deltas);
	*b = (struct xds_batch){};
}

static bool is_repeated(const struct xds_batch *b, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (b->deltas[i].key == b->deltas[at].key &&
		    b->deltas[i].kind == b->deltas[at].kind)
			return true;
	return false;
}

/* What says nothing new goes: a control plane that repeats itself changes nothing. */
static void drop_known(struct cv_xds *x)
{
	struct xds_batch *b = &x->batch;
	size_t kept = 0;

	for (size_t i = 0; i < b->n; i++) {
		struct cv_delta d = b->deltas[i];

		b->deltas[kept] = d;
		if (cv_store_is_current(x->store, &d) && !is_repeated(b, kept))
			put_delta(&d);
		else
			kept++;
	}
	b->n = kept;
}

void xds_batch_apply(struct cv_xds *x)
{
	struct xds_batch *b = &x->batch;

	if (!b->n)
		return;
	drop_known(x);
	if (b->n)
		cv_store_apply(x->store, b->deltas, b->n);
	for (size_t i = 0; i < b->n; i++)
		put_delta(&b->deltas[i]);
	b->n = 0;
	if (b->room > CV_LIMIT_XDS_BATCH)
		xds_batch_fini(b);
}

/* ---- resources ------------------------------------------------------------------------------ */

/* A control plane that repeats itself is answered each time and told of in the log once. */
static bool is_told(struct cv_xds *x, const char *name, const char *why)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (const char *c = name; *c; c++)
		hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
	for (const char *c = why; *c; c++)
		hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
	for (unsigned i = 0; i < XDS_TOLD; i++)
		if (x->told[i] == hash)
			return true;
	x->told[x->next_told++ % XDS_TOLD] = hash;
	return false;
}

static void refuse(struct cv_xds *x, const char *name, const char *why)
{
	x->refused++;
	/* What does not fit is told by the log. */
	(void)cv_buf_printf(&x->refusals, "%s%.256s: %s", cv_buf_len(&x->refusals) ? "; " : "",
			    name, why);
	if (!is_told(x, name, why))
		cv_warn("%.256s is refused: %s", name, why);
}

static void take_address(struct cv_xds *x, struct cv_delta *d)
{
	if (d->kind == CV_DELTA_WORKLOAD) {
		xds_hold_forget(x, d->key);
		if (xds_hold_workload(x, d))
			return;
	}
	xds_batch_add(&x->batch, *d);
	if (x->batch.n >= CV_LIMIT_XDS_BATCH)
		xds_batch_apply(x);
}

/* A refused policy keeps its last good version; without one its scope is denied. */
static void take_refused_policy(struct cv_xds *x, struct cv_delta *d)
{
	struct cv_policy *last = cv_store_policy_by_key(x->store, d->key);

	if (last)
		put_delta(d);
	else
		xds_batch_add(&x->batch, *d);
	cv_policy_put(&last);
}

static void hear(struct cv_xds *x, cv_str name, const Envoy__Service__Discovery__V3__Resource *res)
{
	xds_demand_heard(x, name);
	for (size_t i = 0; x->demand.nr_pending && i < res->n_aliases; i++) {
		cv_str alias = cv_str_new(res->aliases[i]);

		xds_demand_heard(x, alias);
		cv_str_put(&alias);
	}
}

static void take_resource(struct cv_xds *x, const Envoy__Service__Discovery__V3__Resource *res)
{
	const Google__Protobuf__Any *any = res->resource;
	int type = any ? xds_type_find(any->type_url) : -ENOENT;
	cv_str name = cv_str_new(res->name);
	struct cv_delta d = {};
	char error[CV_XDS_ERROR];
	int r;

	hear(x, name, res);
	if (type < 0 || !name) {
		refuse(x, res->name, name ? "unknown type" : "no name");
		cv_str_put(&name);
		return;
	}
	if (type == CV_XDS_ADDRESS)
		r = cv_xds_decode_address(any->value.data, any->value.len, &d, error);
	else
		r = cv_xds_decode_policy(name, any->value.data, any->value.len, &d, error);
	if (r == 0 && x->types[type].names.n >= CV_LIMIT_XDS_RESOURCES &&
	    !xds_names_has(&x->types[type].names, name)) {
		put_delta(&d);
		snprintf(error, sizeof(error), "more than %d resources", CV_LIMIT_XDS_RESOURCES);
		r = -ENOBUFS;
	}
	if (r < 0)
		refuse(x, name, error);
	else
		xds_names_set(&x->types[type].names, name, res->version);
	if (r < 0 && d.key)
		take_refused_policy(x, &d);
	else if (r == 0 && type == CV_XDS_ADDRESS)
		take_address(x, &d);
	else if (r == 0)
		xds_batch_add(&x->batch, d);
	cv_str_put(&name);
}

static void on_resource(void *arg, const uint8_t *data, size_t len)
{
	Envoy__Service__Discovery__V3__Resource *res =
		envoy__service__discovery__v3__resource__unpack(NULL, len, data);

	if (!res || !cv_utf8_is_valid(res->name))
		refuse(arg, "(a resource without a name)", "not a Resource");
	else
		take_resource(arg, res);
	if (res)
		envoy__service__discovery__v3__resource__free_unpacked(res, NULL);
}

static void on_too_long(void *arg, size_t len)
{
	char why[64];

	snprintf(why, sizeof(why), "%zu bytes, more than %d", len, CV_LIMIT_XDS_RESOURCE);
	refuse(arg, "(a resource)", why);
}

/* ---- the rest of a response ----------------------------------------------------------------- */

static void on_removed(void *arg, const char *name, size_t len)
{
	struct cv_xds *x = arg;

	if (x->nr_removed == x->removed_room) {
		x->removed_room = x->removed_room ? 2 * x->removed_room : 64;
		x->removed = reallocarray(x->removed, x->removed_room, sizeof(*x->removed));
		if (!x->removed)
			abort(); /* as the objects themselves */
	}
	x->removed[x->nr_removed++] = cv_str_new_len(name, len);
}

static void set_text(char *to, size_t size, const char *text, size_t len)
{
	len = len < size ? len : size - 1;
	memcpy(to, text, len);
	to[len] = '\0';
}

static void on_type_url(void *arg, const char *text, size_t len)
{
	struct cv_xds *x = arg;

	set_text(x->type_url, sizeof(x->type_url), text, len);
}

static void on_nonce(void *arg, const char *text, size_t len)
{
	struct cv_xds *x = arg;

	set_text(x->nonce, sizeof(x->nonce), text, len);
}

const struct cv_xds_response_ops xds_response_ops = {
	.on_resource = on_resource,
	.on_removed = on_removed,
	.on_type_url = on_type_url,
	.on_nonce = on_nonce,
	.on_too_long = on_too_long,
};

/* A name is a workload's uid, else a service's namespace/hostname. */
static void remove_address(struct cv_xds *x, cv_str name)
{
	struct cv_workload *w = cv_store_workload_by_uid(x->store, name);
	bool held = xds_hold_forget(x, name);
	struct cv_delta d = { .kind = CV_DELTA_SERVICE, .key = cv_str_ref(name) };

	if (w || held)
		d.kind = CV_DELTA_WORKLOAD;
	cv_workload_put(&w);
	xds_batch_add(&x->batch, d);
	if (x->batch.n >= CV_LIMIT_XDS_BATCH)
		xds_batch_apply(x);
}

/* What we were never given is not ours to remove: another source may have it. */
static void remove_resource(struct cv_xds *x, int type, cv_str name)
{
	struct cv_delta policy = { .kind = CV_DELTA_POLICY };

	if (!xds_names_has(&x->types[type].names, name))
		return;
	xds_names_remove(&x->types[type].names, name);
	if (type == CV_XDS_ADDRESS) {
		remove_address(x, name);
		return;
	}
	policy.key = cv_str_ref(name);
	xds_batch_add(&x->batch, policy);
}

void xds_apply_end(struct cv_xds *x, int type)
{
	/* A workload that came in this response is known before its removal is looked up. */
	if (type == CV_XDS_ADDRESS && x->nr_removed)
		xds_batch_apply(x);
	for (size_t i = 0; type >= 0 && i < x->nr_removed; i++) {
		xds_demand_heard(x, x->removed[i]);
		remove_resource(x, type, x->removed[i]);
	}
	xds_hold_policies(x, &x->batch);
	if (type == CV_XDS_ADDRESS)
		xds_batch_apply(x); /* then it shows which policies nobody lists any more */
	xds_hold_release(x);
	xds_batch_apply(x);
	if (type == CV_XDS_ADDRESS)
		xds_demand_answer(x);
}

void xds_response_clear(struct cv_xds *x)
{
	for (size_t i = 0; i < x->nr_removed; i++)
		cv_str_put(&x->removed[i]);
	free(x->removed);
	x->removed = NULL;
	x->nr_removed = x->removed_room = 0;
	cv_buf_fini(&x->refusals);
	x->type_url[0] = x->nonce[0] = '\0';
	cv_xds_response_reset(&x->splitter);
}
