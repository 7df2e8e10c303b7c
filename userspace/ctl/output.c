// SPDX-License-Identifier: Apache-2.0
/* Answers as JSON or YAML. YAML strings are quoted unless they cannot be anything else. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"

int cv_ctl_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("culvertctl: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return CV_CTL_FAILED;
}

/* Words that some YAML reader takes for null or a truth value. */
static bool is_reserved(const char *text)
{
	static const char *const words[] = { "null", "true", "false", "yes", "no",
					     "on",   "off",  "y",     "n" };

	for (size_t i = 0; i < CV_ARRAY_SIZE(words); i++)
		if (!strcasecmp(text, words[i]))
			return true;
	return false;
}

static bool is_plain(const char *text)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	static const char others[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./";

	return *text && strchr(letters, *text) && !text[strspn(text, others)] && !is_reserved(text);
}

static int emit(yaml_emitter_t *e, yaml_event_t *event, int made)
{
	return made && yaml_emitter_emit(e, event) ? 0 : -EIO;
}

static int emit_scalar(yaml_emitter_t *e, const char *text, bool plain)
{
	yaml_event_t event;

	return emit(e, &event,
		    yaml_scalar_event_initialize(
			    &event, NULL, NULL, (yaml_char_t *)text, (int)strlen(text), 1, 1,
			    plain ? YAML_PLAIN_SCALAR_STYLE : YAML_DOUBLE_QUOTED_SCALAR_STYLE));
}

static int emit_value(yaml_emitter_t *e, const json_t *value);

static int emit_array(yaml_emitter_t *e, const json_t *array)
{
	yaml_event_t event;
	int r = emit(e, &event,
		     yaml_sequence_start_event_initialize(&event, NULL, NULL, 1,
							  json_array_size(array) ?
								  YAML_BLOCK_SEQUENCE_STYLE :
								  YAML_FLOW_SEQUENCE_STYLE));

	for (size_t i = 0; !r && i < json_array_size(array); i++)
		r = emit_value(e, json_array_get(array, i));
	return r ? r : emit(e, &event, yaml_sequence_end_event_initialize(&event));
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Keys in order, as the JSON output has them. */
static int emit_members(yaml_emitter_t *e, json_t *object)
{
	size_t n = 0;
	_cleanup_free_ const char **keys = calloc(json_object_size(object) + 1, sizeof(*keys));
	const char *key;
	json_t *value;
	int r = 0;

	if (!keys)
		return -ENOMEM;
	json_object_foreach(object, key, value)
		keys[n++] = key;
	qsort(keys, n, sizeof(*keys), compare_keys);
	for (size_t i = 0; !r && i < n; i++) {
		r = emit_scalar(e, keys[i], is_plain(keys[i]));
		if (!r)
			r = emit_value(e, json_object_get(object, keys[i]));
	}
	return r;
}

static int emit_object(yaml_emitter_t *e, const json_t *object)
{
	yaml_event_t event;
	int r = emit(e, &event,
		     yaml_mapping_start_event_initialize(&event, NULL, NULL, 1,
							 json_object_size(object) ?
								 YAML_BLOCK_MAPPING_STYLE :
								 YAML_FLOW_MAPPING_STYLE));

	if (!r)
		r = emit_members(e, (json_t *)object);
	return r ? r : emit(e, &event, yaml_mapping_end_event_initialize(&event));
}

static int emit_value(yaml_emitter_t *e, const json_t *value)
{
	_cleanup_free_ char *text = NULL;

	if (json_is_object(value))
		return emit_object(e, value);
	if (json_is_array(value))
		return emit_array(e, value);
	if (json_is_string(value))
		return emit_scalar(e, json_string_value(value), is_plain(json_string_value(value)));
	/* Numbers, truth values and null read the same in YAML. */
	text = json_dumps(value, JSON_ENCODE_ANY);
	return text ? emit_scalar(e, text, true) : -ENOMEM;
}

int cv_ctl_print_yaml(FILE *out, const json_t *data)
{
	yaml_emitter_t e;
	yaml_event_t event;
	int r;

	if (!yaml_emitter_initialize(&e))
		return -ENOMEM;
	yaml_emitter_set_output_file(&e, out);
	yaml_emitter_set_unicode(&e, 1);
	yaml_emitter_set_width(&e, -1);
	r = emit(&e, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
	if (!r)
		r = emit(&e, &event,
			 yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1));
	if (!r)
		r = emit_value(&e, data);
	if (!r)
		r = emit(&e, &event, yaml_document_end_event_initialize(&event, 1));
	if (!r)
		r = emit(&e, &event, yaml_stream_end_event_initialize(&event));
	yaml_emitter_delete(&e);
	return r;
}

int cv_ctl_print(const struct cv_ctl *ctl, json_t *data)
{
	int r;

	if (ctl->format == CV_CTL_YAML) {
		r = cv_ctl_print_yaml(ctl->out, data);
	} else {
		r = json_dumpf(data, ctl->out, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENCODE_ANY);
		fputc('\n', ctl->out);
	}
	json_decref(data);
	return r ? cv_ctl_fail("the answer cannot be printed") : CV_CTL_OK;
}
