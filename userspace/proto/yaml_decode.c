/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML nodes to values: structs by tables of fields, lists, free mappings and scalars.
 *
 * The document keeps the path to the node in hand, so that every failure says where it is
 * without its decoder knowing.
 */
#include "userspace/proto/yaml_reader.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "userspace/base/strs.h"
#include "userspace/proto/yaml_private.h"

enum { MAX_FIELDS = 64, PATH_TEXT = 512 };

static void push_key(struct cv_yaml *y, const char *key)
{
	assert(y->depth < CV_ARRAY_SIZE(y->path));
	y->path[y->depth++] = (struct cv_yaml_step){ .key = key };
}

static void push_index(struct cv_yaml *y, size_t index)
{
	assert(y->depth < CV_ARRAY_SIZE(y->path));
	y->path[y->depth++] = (struct cv_yaml_step){ .index = index };
}

static void pop(struct cv_yaml *y)
{
	y->depth--;
}

static const char *path_text(const struct cv_yaml *y, char buf[PATH_TEXT])
{
	size_t len = 0;
	int n;

	buf[0] = '\0';
	for (size_t i = 0; i < y->depth && len < PATH_TEXT; i++) {
		const struct cv_yaml_step *s = &y->path[i];

		if (s->key)
			n = snprintf(buf + len, PATH_TEXT - len, "%s%s", i ? "." : "", s->key);
		else
			n = snprintf(buf + len, PATH_TEXT - len, "[%zu]", s->index);
		len += n > 0 ? (size_t)n : 0;
	}
	return y->depth ? buf : "file";
}

int cv_yaml_fail(struct cv_yaml *y, const struct cv_yaml_node *n, const char *fmt, ...)
{
	char path[PATH_TEXT], why[PATH_TEXT];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return cv_yaml_fail_line(y, n->line, "%s: %s", path_text(y, path), why);
}

bool cv_yaml_is_null(const struct cv_yaml_node *n)
{
	if (n->kind != CV_YAML_SCALAR || !n->plain || n->tag)
		return false;
	return !*n->text || !strcmp(n->text, "~") || !strcmp(n->text, "null") ||
	       !strcmp(n->text, "Null") || !strcmp(n->text, "NULL");
}

static const char *kind_text(const struct cv_yaml_node *n)
{
	static const char *const text[] = { "a scalar", "a list", "a mapping" };

	return text[n->kind];
}

static int need_collection(struct cv_yaml *y, const struct cv_yaml_node *n, enum cv_yaml_kind kind)
{
	if (n->tag)
		return cv_yaml_fail(y, n, "unexpected tag !%s", n->tag);
	if (n->kind == kind || cv_yaml_is_null(n))
		return 0;
	return cv_yaml_fail(y, n, "must be %s, is %s",
			    kind == CV_YAML_LIST ? "a list" : "a mapping", kind_text(n));
}

const char *cv_yaml_text(struct cv_yaml *y, const struct cv_yaml_node *n)
{
	if (n->tag)
		(void)cv_yaml_fail(y, n, "unexpected tag !%s", n->tag); /* NULL says it failed */
	else if (n->kind != CV_YAML_SCALAR)
		(void)cv_yaml_fail(y, n, "must be a scalar, is %s", kind_text(n));
	else
		return n->text;
	return NULL;
}

/* ---- mappings and lists ---- */

static const struct cv_yaml_field *find_field(const struct cv_yaml_field *fields, size_t nr,
					      const char *key)
{
	for (size_t i = 0; i < nr; i++)
		if (!strcmp(fields[i].key, key))
			return &fields[i];
	return NULL;
}

struct struct_reader {
	const struct cv_yaml_field *fields;
	size_t nr;
	void *out;
	uint64_t seen; /* bit per field */
};

static int decode_field(struct cv_yaml *y, const struct cv_yaml_node *key,
			const struct cv_yaml_node *value, void *arg)
{
	struct struct_reader *s = arg;
	const struct cv_yaml_field *f = find_field(s->fields, s->nr, key->text);
	bool null = cv_yaml_is_null(value);

	if (!f)
		return cv_yaml_fail(y, key, "unknown key");
	s->seen |= UINT64_C(1) << (f - s->fields);
	if (null && !(f->flags & CV_YAML_REQUIRED))
		return 0;
	return f->decode(y, value, f->arg, (char *)s->out + f->offset);
}

int cv_yaml_struct(struct cv_yaml *y, const struct cv_yaml_node *n,
		   const struct cv_yaml_field *fields, size_t nr, void *out)
{
	struct struct_reader s = { .fields = fields, .nr = nr, .out = out };
	int r;

	assert(nr <= MAX_FIELDS);
	r = cv_yaml_entries(y, n, decode_field, &s);
	if (r < 0)
		return r;
	for (size_t i = 0; i < nr; i++)
		if ((fields[i].flags & CV_YAML_REQUIRED) && !(s.seen >> i & 1))
			return cv_yaml_fail(y, n, "key %s is missing", fields[i].key);
	return 0;
}

static int compare_keys(const void *a, const void *b)
{
	const struct cv_yaml_node *const *ka = a, *const *kb = b;

	return strcmp((*ka)->text, (*kb)->text);
}

/* Keys are scalars without a tag, each once. Sorting finds repeated ones in large mappings. */
static int check_keys(struct cv_yaml *y, const struct cv_yaml_node *n)
{
	_cleanup_free_ const struct cv_yaml_node **keys = calloc(n->nr / 2 + 1, sizeof(*keys));
	const struct cv_yaml_node *later;

	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < n->nr / 2; i++) {
		keys[i] = n->children[2 * i];
		if (keys[i]->kind != CV_YAML_SCALAR || keys[i]->tag)
			return cv_yaml_fail(y, keys[i], "a key must be a plain word");
	}
	qsort(keys, n->nr / 2, sizeof(*keys), compare_keys);
	for (size_t i = 1; i < n->nr / 2; i++) {
		if (compare_keys(&keys[i - 1], &keys[i]))
			continue;
		later = keys[i]->line > keys[i - 1]->line ? keys[i] : keys[i - 1];
		return cv_yaml_fail(y, later, "key %s is there twice", later->text);
	}
	return 0;
}

int cv_yaml_entries(struct cv_yaml *y, const struct cv_yaml_node *n, cv_yaml_entry fn, void *arg)
{
	int r = need_collection(y, n, CV_YAML_MAP);

	if (r < 0)
		return r;
	r = check_keys(y, n);
	for (size_t i = 0; r == 0 && i < n->nr; i += 2) {
		push_key(y, n->children[i]->text);
		r = fn(y, n->children[i], n->children[i + 1], arg);
		pop(y);
	}
	return r;
}

int cv_yaml_list(struct cv_yaml *y, const struct cv_yaml_node *n, size_t size,
		 cv_yaml_decode decode, const void *arg, void **ret_items, size_t *ret_nr)
{
	char *items;
	int r = need_collection(y, n, CV_YAML_LIST);

	if (r < 0 || !n->nr)
		return r;
	items = calloc(n->nr, size);
	if (!items)
		return -ENOMEM;
	*ret_items = items;
	*ret_nr = 0;
	for (size_t i = 0; r == 0 && i < n->nr; i++) {
		push_index(y, i);
		*ret_nr = i + 1;
		r = decode(y, n->children[i], arg, items + i * size);
		pop(y);
	}
	return r;
}

/* ---- scalars ---- */

int cv_yaml_str(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const char *text = cv_yaml_text(y, n);
	cv_str *ret = out;

	(void)arg; /* strings need no table */
	if (!text)
		return -EINVAL;
	if (cv_yaml_is_null(n))
		return cv_yaml_fail(y, n, "must be a string, is null");
	cv_str_put(ret);
	*ret = cv_str_new(text);
	return 0;
}

int cv_yaml_bool(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	static const char *const words[] = { "false", "true", "False", "True", "FALSE", "TRUE" };
	const char *text = cv_yaml_text(y, n);

	(void)arg; /* booleans need no table */
	if (!text)
		return -EINVAL;
	for (size_t i = 0; n->plain && i < CV_ARRAY_SIZE(words); i++) {
		if (strcmp(text, words[i]))
			continue;
		*(bool *)out = i & 1;
		return 0;
	}
	return cv_yaml_fail(y, n, "must be true or false, is `%s`", text);
}

/* Decimal, 0x… or 0o…, as YAML's core schema has them. */
static int parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	int base = 10;
	char *end;
	unsigned long long v;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
		base = text[1] == 'x' ? 16 : 8;
		text += 2;
	} else if (text[0] == '+') {
		text++;
	}
	if (!strchr("0123456789abcdefABCDEF", text[0]) || !text[0])
		return -EINVAL;
	errno = 0;
	v = strtoull(text, &end, base);
	if (errno || *end || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

static int decode_number(struct cv_yaml *y, const struct cv_yaml_node *n, uint64_t max,
			 uint64_t *ret)
{
	const char *text = cv_yaml_text(y, n);

	if (!text)
		return -EINVAL;
	if (!n->plain || parse_number(text, max, ret) < 0)
		return cv_yaml_fail(y, n, "must be a number from 0 to %ju, is `%s`", (uintmax_t)max,
				    text);
	return 0;
}

int cv_yaml_u16(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	uint64_t v;
	int r = decode_number(y, n, UINT16_MAX, &v);

	(void)arg; /* numbers need no table */
	if (r == 0)
		*(uint16_t *)out = (uint16_t)v;
	return r;
}

int cv_yaml_u32(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	uint64_t v;
	int r = decode_number(y, n, UINT32_MAX, &v);

	(void)arg; /* numbers need no table */
	if (r == 0)
		*(uint32_t *)out = (uint32_t)v;
	return r;
}

int cv_yaml_u64(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	uint64_t v;
	int r = decode_number(y, n, UINT64_MAX, &v);

	(void)arg; /* numbers need no table */
	if (r == 0)
		*(uint64_t *)out = v;
	return r;
}

int cv_yaml_enum(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	const struct cv_yaml_words *w = arg;
	const char *text = cv_yaml_text(y, n);
	char all[256] = "";
	size_t len = 0;

	if (!text)
		return -EINVAL;
	for (size_t i = 0; i < w->nr; i++) {
		if (!strcmp(text, w->words[i])) {
			*(unsigned int *)out = (unsigned int)i;
			return 0;
		}
		len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s", i ? ", " : "",
					w->words[i]);
		if (len >= sizeof(all))
			len = sizeof(all) - 1;
	}
	return cv_yaml_fail(y, n, "must be one of %s; is `%s`", all, text);
}
