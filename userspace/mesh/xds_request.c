/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DeltaDiscoveryRequest by hand: the first one lists everything that we hold, which as protobuf-c's
 * structures would take several times its size.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/xds_private.h"
#include "userspace/proto/pb/discovery.pb-c.h"

enum {
	NODE = 1,
	TYPE_URL = 2,
	SUBSCRIBE = 3,
	UNSUBSCRIBE = 4,
	INITIAL_VERSIONS = 5,
	RESPONSE_NONCE = 6,
	ERROR_DETAIL = 7
};
enum { ENTRY_KEY = 1, ENTRY_VALUE = 2, STATUS_CODE = 1, STATUS_MESSAGE = 2 };
enum { MAX_VARINT = 10, CODE_INVALID_ARGUMENT = 3, REQUEST_ROOM = 64 << 10 };

static size_t varint_len(uint64_t v)
{
	size_t n = 1;

	for (; v > 0x7f; v >>= 7)
		n++;
	return n;
}

static int put_varint(struct cv_buf *to, uint64_t v)
{
	uint8_t *p = cv_buf_reserve(to, MAX_VARINT);
	size_t n = 0;

	if (!p)
		return -ENOBUFS;
	for (; v > 0x7f; v >>= 7)
		p[n++] = (uint8_t)(v | 0x80);
	p[n++] = (uint8_t)v;
	cv_buf_commit(to, n);
	return 0;
}

static int put_tag(struct cv_buf *to, unsigned field, size_t len)
{
	int r = put_varint(to, field << 3 | 2);

	return r ? r : put_varint(to, len);
}

static int put_bytes(struct cv_buf *to, unsigned field, const void *data, size_t len)
{
	int r = put_tag(to, field, len);

	return r || !len ? r : cv_buf_append(to, data, len);
}

static size_t bytes_len(size_t len)
{
	return 1 + varint_len(len) + len;
}

/* ---- requests ------------------------------------------------------------------------------- */

/* What the names alone take; versions are left out where istiod would not take the request: it
 * sends such resources again, which is better than nothing at all. */
static size_t version_budget(const struct xds_names *names)
{
	char buf[XDS_VERSION_TEXT];
	const char *version;
	size_t at = 0, total = REQUEST_ROOM;
	cv_str name;

	while ((name = xds_names_next(names, &at, &version, buf)))
		total += bytes_len(bytes_len(strlen(name)) + 2);
	return total < CV_LIMIT_XDS_REQUEST ? CV_LIMIT_XDS_REQUEST - total : 0;
}

static int put_versions(struct cv_buf *to, const struct xds_names *names)
{
	size_t budget = version_budget(names), at = 0;
	char buf[XDS_VERSION_TEXT];
	const char *version;
	cv_str name;
	int r = 0;

	while (r == 0 && (name = xds_names_next(names, &at, &version, buf))) {
		size_t name_len = strlen(name), version_len = strlen(version);

		if (version_len > budget)
			version_len = 0;
		budget -= version_len;
		r = put_tag(to, INITIAL_VERSIONS, bytes_len(name_len) + bytes_len(version_len));
		r = r ? r : put_bytes(to, ENTRY_KEY, name, name_len);
		r = r ? r : put_bytes(to, ENTRY_VALUE, version, version_len);
	}
	return r;
}

int xds_request_first(struct cv_buf *to, const struct cv_xds *x, enum cv_xds_type type)
{
	const struct cv_span node = cv_buf_peek(&x->node);
	const char *url = cv_xds_type_urls[type];
	int r = put_bytes(to, NODE, node.data, node.len);

	r = r ? r : put_bytes(to, TYPE_URL, url, strlen(url));
	/* A first request without names asks for all; both of these together ask for nothing. */
	if (r == 0 && type == CV_XDS_ADDRESS && x->demand.on) {
		r = put_bytes(to, SUBSCRIBE, "*", 1);
		r = r ? r : put_bytes(to, UNSUBSCRIBE, "*", 1);
	}
	return r ? r : put_versions(to, &x->types[type].names);
}

static int put_names(struct cv_buf *to, unsigned field, const struct xds_name_list *list)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->n; i++)
		r = put_bytes(to, field, list->names[i], strlen(list->names[i]));
	return r;
}

int xds_request_names(struct cv_buf *to, const char *type_url, const struct xds_name_list *add,
		      const struct xds_name_list *drop)
{
	int r = put_bytes(to, TYPE_URL, type_url, strlen(type_url));

	r = r ? r : put_names(to, SUBSCRIBE, add);
	return r ? r : put_names(to, UNSUBSCRIBE, drop);
}

int xds_request_ack(struct cv_buf *to, const char *type_url, const char *nonce,
		    struct cv_span refusals)
{
	int r = put_bytes(to, TYPE_URL, type_url, strlen(type_url));

	r = r ? r : put_bytes(to, RESPONSE_NONCE, nonce, strlen(nonce));
	if (r || !refusals.len)
		return r;
	r = put_tag(to, ERROR_DETAIL, 2 + bytes_len(refusals.len));
	r = r ? r : put_varint(to, STATUS_CODE << 3);
	r = r ? r : put_varint(to, CODE_INVALID_ARGUMENT);
	return r ? r : put_bytes(to, STATUS_MESSAGE, refusals.data, refusals.len);
}

/* ---- the node ------------------------------------------------------------------------------- */

/* JSON as google.protobuf.Value, without copying texts. What was made is freed as one arena: the
 * pieces are small and live for one packing. */
struct arena {
	void **pieces;
	size_t n, room;
};

static void *arena_get(struct arena *a, size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	if (a->n == a->room) {
		a->room = a->room ? 2 * a->room : 64;
		a->pieces = reallocarray(a->pieces, a->room, sizeof(*a->pieces));
	}
	if (!p || !a->pieces)
		abort(); /* once, at start */
	a->pieces[a->n++] = p;
	return p;
}

static void arena_fini(struct arena *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->pieces[i]);
	free(a->pieces);
}

static Google__Protobuf__Value *make_value(struct arena *a, const json_t *j);

static Google__Protobuf__Struct *make_struct(struct arena *a, const json_t *object)
{
	Google__Protobuf__Struct *s = arena_get(a, 1, sizeof(*s));
	const char *key;
	json_t *value;

	google__protobuf__struct__init(s);
	s->fields = arena_get(a, json_object_size(object), sizeof(*s->fields));
	json_object_foreach((json_t *)object, key, value) {
		Google__Protobuf__Struct__FieldsEntry *e = arena_get(a, 1, sizeof(*e));

		google__protobuf__struct__fields_entry__init(e);
		e->key = (char *)key;
		e->value = make_value(a, value);
		s->fields[s->n_fields++] = e;
	}
	return s;
}

static Google__Protobuf__ListValue *make_list(struct arena *a, const json_t *array)
{
	Google__Protobuf__ListValue *l = arena_get(a, 1, sizeof(*l));

	google__protobuf__list_value__init(l);
	l->values = arena_get(a, json_array_size(array), sizeof(*l->values));
	for (; l->n_values < json_array_size(array); l->n_values++)
		l->values[l->n_values] = make_value(a, json_array_get(array, l->n_values));
	return l;
}

static Google__Protobuf__Value *make_value(struct arena *a, const json_t *j)
{
	Google__Protobuf__Value *v = arena_get(a, 1, sizeof(*v));

	google__protobuf__value__init(v);
	if (json_is_string(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
		v->string_value = (char *)json_string_value(j);
	} else if (json_is_object(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
		v->struct_value = make_struct(a, j);
	} else if (json_is_array(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
		v->list_value = make_list(a, j);
	} else if (json_is_boolean(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
		v->bool_value = json_is_true(j);
	} else if (json_is_number(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
		v->number_value = json_number_value(j);
	} else {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
	}
	return v;
}

static json_t *node_metadata(const struct cv_xds_opts *o)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:s}", "NAME", o->pod_name ? o->pod_name : "",
			      "NAMESPACE", o->pod_namespace ? o->pod_namespace : "", "INSTANCE_IPS",
			      o->instance_ip ? o->instance_ip : "", "NODE_NAME",
			      o->node_name ? o->node_name : "");

	if (!j)
		abort(); /* once, at start */
	if (o->metadata)
		json_object_update(j, (json_t *)o->metadata);
	return j;
}

int xds_node_encode(struct cv_buf *to, const struct cv_xds_opts *o)
{
	Envoy__Service__Discovery__V3__Node node = ENVOY__SERVICE__DISCOVERY__V3__NODE__INIT;
	const char *name = o->pod_name ? o->pod_name : "";
	const char *ns = o->pod_namespace ? o->pod_namespace : "";
	json_t *metadata = node_metadata(o);
	_cleanup_free_ char *id = NULL;
	struct arena a = {};
	uint8_t *p;
	size_t len;

	if (asprintf(&id, "ztunnel~%s~%s.%s~%s.svc.cluster.local",
		     o->instance_ip ? o->instance_ip : "", name, ns, ns) < 0)
		abort(); /* once, at start */
	node.id = id;
	node.metadata = make_struct(&a, metadata);
	len = envoy__service__discovery__v3__node__get_packed_size(&node);
	p = cv_buf_reserve(to, len);
	if (p)
		cv_buf_commit(to, envoy__service__discovery__v3__node__pack(&node, p));
	arena_fini(&a);
	json_decref(metadata);
	return p ? 0 : -ENOBUFS;
}
