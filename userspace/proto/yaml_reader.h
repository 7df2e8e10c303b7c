/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading YAML files into structs by tables, with errors that name file, line, what and why.
 *
 * cv_yaml_parse() turns a text into a tree (libyaml; depth, nodes and aliases bounded by
 * limits.h, an alias counts as often as it is used). Decoders then turn nodes into values:
 * cv_yaml_struct() walks a mapping by a table of fields, refuses unknown, repeated and missing
 * keys, and calls the decoder of each field. A decoder that fails says why with cv_yaml_fail()
 * and the reader adds where: `mesh.yaml:12: workloads[3].waypoint.hboneMtlsPort: not a number …`.
 *
 *	static const struct cv_yaml_field limits[] = {
 *		{ "connections", cv_yaml_u32, NULL, offsetof(struct limits, connections), 0 },
 *		{ "mode", cv_yaml_enum, &modes, offsetof(struct limits, mode), CV_YAML_REQUIRED },
 *	};
 *	r = cv_yaml_struct(y, cv_yaml_root(y), CV_YAML_FIELDS(limits), &out);
 *
 * A plain null (nothing, `~`, `null`) as the value of a field that is not required leaves the
 * field as it was; as a list or mapping it is an empty one. Numbers and booleans are plain
 * scalars, strings are any scalar without a tag. One thread a document.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "userspace/base/cleanup.h"

struct cv_yaml; /* a document, and the place in it that is being decoded */

enum cv_yaml_kind { CV_YAML_SCALAR, CV_YAML_LIST, CV_YAML_MAP };

struct cv_yaml_node {
	enum cv_yaml_kind kind;
	bool plain; /* scalar without quotes */
	unsigned line; /* from 1 */
	const char *tag; /* local tag without its `!`, NULL = none */
	const char *text; /* scalar, NUL-terminated, holds no other NUL */
	struct cv_yaml_node **children; /* list: items; mapping: key, value, key, value, … */
	size_t nr; /* of children */
	size_t weight; /* nodes of this subtree, itself included, aliases expanded */
	struct cv_yaml_node *next; /* of the document's nodes */
};

/* Parses one document; an empty text is a null root. name is for messages. 0, -EINVAL with the
 * message in error, or -ENOMEM. */
int cv_yaml_parse(struct cv_yaml **ret, const char *name, const char *text, size_t len, char *error,
		  size_t error_size);
void cv_yaml_free(struct cv_yaml **y);
#define _cleanup_yaml_ _cleanup_(cv_yaml_free)
const struct cv_yaml_node *cv_yaml_root(const struct cv_yaml *y);

/* Returns -EINVAL after writing "name:line: path: why" into the error buffer of cv_yaml_parse
 * (which must live as long as decoding goes on). The first failure is kept. */
int cv_yaml_fail(struct cv_yaml *y, const struct cv_yaml_node *n, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
bool cv_yaml_is_null(const struct cv_yaml_node *n);

/* Decodes n into *out; arg comes from the field's table. 0 or -EINVAL by cv_yaml_fail. What was
 * written before a failure stays in *out, so that the owner's destructor frees it. */
typedef int (*cv_yaml_decode)(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			      void *out);

enum cv_yaml_flags {
	CV_YAML_REQUIRED = 1 << 0, /* the key must be there, and not null for a scalar */
};

struct cv_yaml_field {
	const char *key;
	cv_yaml_decode decode;
	const void *arg; /* for decode */
	size_t offset; /* of the member in the struct */
	unsigned flags; /* enum cv_yaml_flags */
};
#define CV_YAML_FIELDS(table) (table), CV_ARRAY_SIZE(table)

/* At most 64 fields. */
int cv_yaml_struct(struct cv_yaml *y, const struct cv_yaml_node *n,
		   const struct cv_yaml_field *fields, size_t nr, void *out);

/* Mapping with free keys: fn per entry, in the order of the file; repeated keys are refused. */
typedef int (*cv_yaml_entry)(struct cv_yaml *y, const struct cv_yaml_node *key,
			     const struct cv_yaml_node *value, void *arg);
int cv_yaml_entries(struct cv_yaml *y, const struct cv_yaml_node *n, cv_yaml_entry fn, void *arg);

/* List into a calloc'ed array of zeroed elements. *ret_items and *ret_nr are set as the list is
 * read, also on failure: the owner frees the elements that are there. */
int cv_yaml_list(struct cv_yaml *y, const struct cv_yaml_node *n, size_t size,
		 cv_yaml_decode decode, const void *arg, void **ret_items, size_t *ret_nr);

/* --- decoders of scalars; out points to the type that the name says (str: a cv_str) --- */
int cv_yaml_str(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_yaml_bool(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_yaml_u16(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_yaml_u32(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_yaml_u64(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);

/* Words of an enum: arg points to this; out is the enum (an unsigned int). Case matters. */
struct cv_yaml_words {
	const char *const *words;
	size_t nr;
};
int cv_yaml_enum(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
/* Text of a scalar without a tag; NULL after cv_yaml_fail. */
const char *cv_yaml_text(struct cv_yaml *y, const struct cv_yaml_node *n);
