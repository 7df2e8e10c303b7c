/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML text to a tree of nodes, by libyaml's events.
 *
 * Aliases share the node they name, so a tree is a graph without cycles: an anchor can be used
 * only once its node is complete. Depth and weight are checked while the tree grows, so that a
 * hostile file costs no more memory than its bytes account for. Decoding is in yaml_decode.c.
 */
#include "userspace/proto/yaml_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "userspace/limits.h"
#include "userspace/proto/yaml_private.h"

/* An anchor and its finished node; the last one of a name counts. */
struct anchor {
	struct anchor *next;
	struct cv_yaml_node *node;
	char name[];
};

struct tree_builder {
	struct cv_yaml *y;
	yaml_parser_t parser;
	struct anchor *anchors;
	size_t weight;
};

static int parse_node(struct tree_builder *b, const yaml_event_t *event, unsigned depth,
		      struct cv_yaml_node **ret);

int cv_yaml_fail_line(struct cv_yaml *y, unsigned line, const char *fmt, ...)
{
	va_list ap;
	int len;

	if (y->failed)
		return -EINVAL;
	y->failed = true;
	len = snprintf(y->error, y->error_size, "%s:%u: ", y->name, line);
	if (len < 0 || (size_t)len >= y->error_size)
		return -EINVAL;
	va_start(ap, fmt);
	vsnprintf(y->error + len, y->error_size - (size_t)len, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static unsigned event_line(const yaml_event_t *event)
{
	return (unsigned)event->start_mark.line + 1;
}

static int next_event(struct tree_builder *b, yaml_event_t *ret)
{
	const yaml_parser_t *p = &b->parser;

	if (yaml_parser_parse(&b->parser, ret))
		return 0;
	if (p->error == YAML_MEMORY_ERROR)
		return -ENOMEM;
	return cv_yaml_fail_line(b->y, (unsigned)p->problem_mark.line + 1, "not YAML: %s%s%s",
				 p->context ? p->context : "", p->context ? ": " : "",
				 p->problem ? p->problem : "unreadable");
}

static struct cv_yaml_node *new_node(struct tree_builder *b, enum cv_yaml_kind kind,
				     const yaml_event_t *event)
{
	struct cv_yaml_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->kind = kind;
	n->line = event_line(event);
	n->weight = 1;
	n->next = b->y->nodes;
	b->y->nodes = n;
	return n;
}

static int count_nodes(struct tree_builder *b, const yaml_event_t *event, size_t weight)
{
	b->weight += weight;
	if (b->weight > CV_LIMIT_YAML_NODES)
		return cv_yaml_fail_line(b->y, event_line(event), "file: more than %d nodes",
					 CV_LIMIT_YAML_NODES);
	return 0;
}

/* A local tag (`!Exact`) is kept, YAML's own (`!!str`) say nothing new. */
static int set_tag(struct cv_yaml_node *n, const yaml_char_t *tag)
{
	const char *text = (const char *)tag;

	if (!text || text[0] != '!' || !text[1])
		return 0;
	n->tag = strdup(text + 1);
	return n->tag ? 0 : -ENOMEM;
}

static int add_anchor(struct tree_builder *b, const yaml_char_t *name, struct cv_yaml_node *n)
{
	size_t len;
	struct anchor *a;

	if (!name)
		return 0;
	len = strlen((const char *)name) + 1;
	a = malloc(sizeof(*a) + len);
	if (!a)
		return -ENOMEM;
	memcpy(a->name, name, len);
	a->node = n;
	a->next = b->anchors;
	b->anchors = a;
	return 0;
}

static int use_alias(struct tree_builder *b, const yaml_event_t *event, struct cv_yaml_node **ret)
{
	const char *name = (const char *)event->data.alias.anchor;
	int r;

	for (struct anchor *a = b->anchors; a; a = a->next) {
		if (strcmp(a->name, name))
			continue;
		r = count_nodes(b, event, a->node->weight);
		if (r < 0)
			return r;
		*ret = a->node;
		return 0;
	}
	return cv_yaml_fail_line(b->y, event_line(event), "*%s: no such anchor before this line",
				 name);
}

static int parse_scalar(struct tree_builder *b, const yaml_event_t *event,
			struct cv_yaml_node **ret)
{
	const char *value = (const char *)event->data.scalar.value;
	size_t len = event->data.scalar.length;
	struct cv_yaml_node *n = new_node(b, CV_YAML_SCALAR, event);

	if (!n)
		return -ENOMEM;
	if (memchr(value, '\0', len))
		return cv_yaml_fail_line(b->y, n->line, "text: holds a NUL character");
	n->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	n->text = strndup(value, len);
	if (!n->text || set_tag(n, event->data.scalar.tag) < 0)
		return -ENOMEM;
	*ret = n;
	return add_anchor(b, event->data.scalar.anchor, n);
}

static int add_child(struct cv_yaml_node *n, struct cv_yaml_node *child)
{
	/* Grows by doubling: the capacity is the next power of two of nr. */
	if (!(n->nr & (n->nr - 1))) {
		size_t cap = n->nr ? 2 * n->nr : 1;
		struct cv_yaml_node **grown = reallocarray(n->children, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		n->children = grown;
	}
	n->children[n->nr++] = child;
	n->weight += child->weight;
	return 0;
}

static int parse_children(struct tree_builder *b, struct cv_yaml_node *n, yaml_event_type_t end,
			  unsigned depth)
{
	yaml_event_t event;
	struct cv_yaml_node *child;
	bool done;
	int r;

	for (;;) {
		r = next_event(b, &event);
		if (r < 0)
			return r;
		done = event.type == end;
		r = done ? 0 : parse_node(b, &event, depth + 1, &child);
		yaml_event_delete(&event);
		if (r < 0 || done)
			return r;
		r = add_child(n, child);
		if (r < 0)
			return r;
	}
}

static int parse_collection(struct tree_builder *b, const yaml_event_t *event, unsigned depth,
			    struct cv_yaml_node **ret)
{
	bool map = event->type == YAML_MAPPING_START_EVENT;
	const yaml_char_t *tag = map ? event->data.mapping_start.tag :
				       event->data.sequence_start.tag;
	const yaml_char_t *anchor = map ? event->data.mapping_start.anchor :
					  event->data.sequence_start.anchor;
	struct cv_yaml_node *n;
	int r;

	if (depth >= CV_LIMIT_YAML_DEPTH)
		return cv_yaml_fail_line(b->y, event_line(event), "file: nested deeper than %d",
					 CV_LIMIT_YAML_DEPTH);
	n = new_node(b, map ? CV_YAML_MAP : CV_YAML_LIST, event);
	if (!n || set_tag(n, tag) < 0)
		return -ENOMEM;
	r = parse_children(b, n, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth);
	if (r < 0)
		return r;
	*ret = n;
	return add_anchor(b, anchor, n);
}

static int parse_node(struct tree_builder *b, const yaml_event_t *event, unsigned depth,
		      struct cv_yaml_node **ret)
{
	int r;

	if (event->type == YAML_ALIAS_EVENT)
		return use_alias(b, event, ret);
	r = count_nodes(b, event, 1);
	if (r < 0)
		return r;
	if (event->type == YAML_SCALAR_EVENT)
		return parse_scalar(b, event, ret);
	return parse_collection(b, event, depth, ret);
}

/* Stream: start, then at most one document, then end. */
static int parse_stream(struct tree_builder *b)
{
	yaml_event_t event;
	yaml_event_type_t type;
	int r;

	do {
		r = next_event(b, &event);
		if (r < 0)
			return r;
		type = event.type;
		if (type == YAML_DOCUMENT_START_EVENT && b->y->root)
			r = cv_yaml_fail_line(b->y, event_line(&event),
					      "file: more than one document");
		else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
			 type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT)
			r = parse_node(b, &event, 0, &b->y->root);
		yaml_event_delete(&event);
	} while (r == 0 && type != YAML_STREAM_END_EVENT);
	return r;
}

/* An empty stream has no document: its root is a null. */
static int need_root(struct cv_yaml *y)
{
	struct cv_yaml_node *n;

	if (y->root)
		return 0;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	*n = (struct cv_yaml_node){ .plain = true, .line = 1, .weight = 1, .next = y->nodes };
	y->nodes = y->root = n;
	n->text = strdup("");
	return n->text ? 0 : -ENOMEM;
}

static int build_tree(struct cv_yaml *y, const char *text, size_t len)
{
	struct tree_builder b = { .y = y };
	struct anchor *next;
	int r;

	if (!yaml_parser_initialize(&b.parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, len);
	r = parse_stream(&b);
	yaml_parser_delete(&b.parser);
	for (struct anchor *a = b.anchors; a; a = next) {
		next = a->next;
		free(a);
	}
	return r < 0 ? r : need_root(y);
}

int cv_yaml_parse(struct cv_yaml **ret, const char *name, const char *text, size_t len, char *error,
		  size_t error_size)
{
	_cleanup_yaml_ struct cv_yaml *y = calloc(1, sizeof(*y));
	int r;

	if (!y)
		return -ENOMEM;
	y->error = error;
	y->error_size = error_size;
	y->name = strdup(name);
	if (!y->name)
		return -ENOMEM;
	r = build_tree(y, text, len);
	if (r == -ENOMEM)
		snprintf(error, error_size, "%s: out of memory", name);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(y);
	return 0;
}

void cv_yaml_free(struct cv_yaml **yp)
{
	struct cv_yaml *y = cv_take_ptr(*yp);
	struct cv_yaml_node *next;

	if (!y)
		return;
	for (struct cv_yaml_node *n = y->nodes; n; n = next) {
		next = n->next;
		free((char *)n->tag);
		free((char *)n->text);
		free(n->children);
		free(n);
	}
	free(y->name);
	free(y);
}

const struct cv_yaml_node *cv_yaml_root(const struct cv_yaml *y)
{
	return y->root;
}
