/* SPDX-License-Identifier: Apache-2.0 */
/* Short ways to what a table's cell needs from JSON; what is missing reads as empty. */
#pragma once

#include <jansson.h>
#include <stdint.h>

static inline const char *cv_field_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static inline json_int_t cv_field_int(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static inline int cv_field_is(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}
