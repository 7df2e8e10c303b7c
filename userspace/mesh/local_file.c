/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file as a source of the store: what changed between two readings becomes deltas.
 *
 * The source keeps the objects that it gave, sorted by kind and key; a new reading is sorted
 * the same way and both are walked side by side.
 */
#include "userspace/mesh/local_file.h"

#define CV_LOG_TARGET "file"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/filewatch.h"
#include "userspace/mesh/file_decode.h"
#include "userspace/mesh/mesh_file.h"

enum { ERROR_TEXT = 1024 };

/* An object that the source gave to the store. */
struct item {
	enum cv_delta_kind kind;
	cv_str key;
	void *object; /* a reference */
};

struct item_list {
	struct item *items; /* sorted */
	size_t n;
};

struct cv_local_file {
	struct cv_store *store;
	struct cv_filewatch *watch;
	char *path;
	struct item_list given;
	uint64_t hash; /* of the bytes that were read last */
	bool failed;
	char error[ERROR_TEXT]; /* why, when failed */
};

static void put_object(enum cv_delta_kind kind, void *object)
{
	if (kind == CV_DELTA_WORKLOAD)
		cv_workload_put(&(struct cv_workload *){ object });
	else if (kind == CV_DELTA_SERVICE)
		cv_service_put(&(struct cv_service *){ object });
	else
		cv_policy_put(&(struct cv_policy *){ object });
}

static void *ref_object(enum cv_delta_kind kind, void *object)
{
	if (kind == CV_DELTA_WORKLOAD)
		return cv_workload_ref(object);
	return kind == CV_DELTA_SERVICE ? (void *)cv_service_ref(object) :
					  (void *)cv_policy_ref(object);
}

static bool is_object_eq(enum cv_delta_kind kind, const void *a, const void *b)
{
	if (kind == CV_DELTA_WORKLOAD)
		return cv_workload_eq(a, b);
	return kind == CV_DELTA_SERVICE ? cv_service_eq(a, b) : cv_policy_eq(a, b);
}

static void fini_items(struct item_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		put_object(l->items[i].kind, l->items[i].object);
		cv_str_put(&l->items[i].key);
	}
	free(l->items);
	*l = (struct item_list){};
}

static int compare_items(const void *a, const void *b)
{
	const struct item *ia = a, *ib = b;

	if (ia->kind != ib->kind)
		return (int)ia->kind - (int)ib->kind;
	return (ia->key > ib->key) - (ia->key < ib->key);
}

static void list_items(const struct cv_mesh_file *f, struct item_list *ret)
{
	size_t n = f->nr_workloads + f->nr_services + f->nr_policies;
	struct item *items = calloc(n + 1, sizeof(*items)), *item = items;

	if (!items)
		abort();
	for (size_t i = 0; i < f->nr_workloads; i++)
		*item++ = (struct item){ CV_DELTA_WORKLOAD, cv_str_ref(f->workloads[i]->uid),
					 cv_workload_ref(f->workloads[i]) };
	for (size_t i = 0; i < f->nr_services; i++)
		*item++ = (struct item){ CV_DELTA_SERVICE,
					 cv_file_key(f->services[i]->ns, f->services[i]->hostname),
					 cv_service_ref(f->services[i]) };
	for (size_t i = 0; i < f->nr_policies; i++)
		*item++ = (struct item){ CV_DELTA_POLICY,
					 cv_file_key(f->policies[i]->ns, f->policies[i]->name),
					 cv_policy_ref(f->policies[i]) };
	qsort(items, n, sizeof(*items), compare_items);
	*ret = (struct item_list){ items, n };
}

/* Deltas from `was` to `now`; at most one per item of either. Keys are borrowed. */
static size_t diff_items(const struct item_list *was, const struct item_list *now,
			 struct cv_delta *deltas)
{
	size_t n = 0, i = 0, j = 0;

	while (i < was->n || j < now->n) {
		const struct item *a = i < was->n ? &was->items[i] : NULL;
		const struct item *b = j < now->n ? &now->items[j] : NULL;
		int order = !a ? 1 : !b ? -1 : compare_items(a, b);

		i += order <= 0;
		j += order >= 0;
		if (order < 0)
			deltas[n++] = (struct cv_delta){ .kind = a->kind, .key = a->key };
		else if (order > 0 || !is_object_eq(a->kind, a->object, b->object))
			deltas[n++] = (struct cv_delta){ b->kind, b->key,
							 .object = ref_object(b->kind, b->object) };
	}
	return n;
}

/* Gives the store what differs; `given` becomes the content of f. */
static void apply_file(struct cv_store *store, struct item_list *given,
		       const struct cv_mesh_file *f)
{
	_cleanup_free_ struct cv_delta *deltas = NULL;
	struct item_list now;
	size_t n;

	list_items(f, &now);
	deltas = calloc(given->n + now.n + 1, sizeof(*deltas));
	if (!deltas)
		abort();
	n = diff_items(given, &now, deltas);
	if (n)
		cv_store_apply(store, deltas, n);
	fini_items(given);
	*given = now;
}

static uint64_t hash_text(const char *text, size_t len)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
	return h;
}

/* Reads and applies. Returns 0, 1 when the content is what it was last time, or -errno. */
static int reload(struct cv_local_file *f, char error[ERROR_TEXT])
{
	_cleanup_(cv_mesh_file_fini) struct cv_mesh_file parsed = {};
	_cleanup_free_ char *text = NULL;
	size_t len;
	uint64_t hash;
	int r = cv_mesh_file_load(f->path, &text, &len, error, ERROR_TEXT);

	if (r < 0)
		return r;
	hash = hash_text(text, len);
	if (hash == f->hash)
		return 1;
	f->hash = hash;
	r = cv_mesh_file_parse(f->path, text, len, &parsed, error, ERROR_TEXT);
	if (r < 0)
		return r;
	apply_file(f->store, &f->given, &parsed);
	return 0;
}

static void on_changed(void *arg)
{
	struct cv_local_file *f = arg;
	char error[ERROR_TEXT] = "";
	int r = reload(f, error);

	if (r == 1)
		return;
	if (r == 0) {
		f->failed = false;
		cv_info("%s: applied, it holds %zu objects", f->path, f->given.n);
		return;
	}
	f->hash = r == -EINVAL ? f->hash : 0; /* unreadable: the next reading counts as new */
	if (f->failed && !strcmp(f->error, error))
		return;
	f->failed = true;
	memcpy(f->error, error, sizeof(f->error));
	cv_error("%s; the last good state stays", error);
}

int cv_local_file_start(struct cv_local_file **ret, struct cv_worker *control,
			struct cv_store *store, const char *path, char *error, size_t error_size)
{
	_cleanup_(cv_local_file_stop) struct cv_local_file *f = calloc(1, sizeof(*f));
	char why[ERROR_TEXT] = "out of memory";
	int r = -ENOMEM;

	if (f)
		f->path = strdup(path);
	if (f && f->path) {
		f->store = store;
		/* Watch first: a change between reading and watching would go unseen. */
		r = cv_filewatch_start(&f->watch, control, path, on_changed, f);
		if (r < 0)
			snprintf(why, sizeof(why), "%s: cannot be watched: %s", path,
				 cv_strerror(-r));
		else
			r = reload(f, why);
	}
	if (r < 0) {
		snprintf(error, error_size, "%s", why);
		return r;
	}
	*ret = cv_take_ptr(f);
	return 0;
}

int cv_local_inline(struct cv_store *store, const char *yaml, char *error, size_t error_size)
{
	_cleanup_(cv_mesh_file_fini) struct cv_mesh_file parsed = {};
	struct item_list given = {};
	int r = cv_mesh_file_parse("LOCAL_XDS", yaml, strlen(yaml), &parsed, error, error_size);

	if (r < 0)
		return r;
	apply_file(store, &given, &parsed);
	fini_items(&given);
	return 0;
}

void cv_local_file_stop(struct cv_local_file **fp)
{
	struct cv_local_file *f = cv_take_ptr(*fp);

	if (!f)
		return;
	cv_filewatch_stop(&f->watch);
	fini_items(&f->given);
	free(f->path);
	free(f);
}

const char *cv_local_file_error(const struct cv_local_file *f)
{
	return f->failed ? f->error : NULL;
}
