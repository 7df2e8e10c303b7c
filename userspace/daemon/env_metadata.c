/* SPDX-License-Identifier: Apache-2.0 */
/* The environment's ISTIO_META_* and ISTIO_METAJSON_* as one JSON object. */
#include "userspace/daemon/env_metadata.h"

#define CV_LOG_TARGET "config"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

#define META	  "ISTIO_META_"
#define META_JSON "ISTIO_METAJSON_"

/* What follows the prefix in "PREFIXname=value", NULL when it is another variable. */
static const char *after(const char *entry, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(entry, prefix, len) == 0 && strchr("=", entry[len]) == NULL ? entry + len :
										     NULL;
}

static void add(json_t *to, const char *entry, const char *name, bool is_json)
{
	const char *equals = strchr(name, '=');
	_cleanup_free_ char *key = equals ? strndup(name, (size_t)(equals - name)) : NULL;
	json_error_t error;
	json_t *value;

	if (!key)
		return;
	value = is_json ? json_loads(equals + 1, JSON_DECODE_ANY, &error) : json_string(equals + 1);
	if (value)
		json_object_set_new(to, key, value);
	else
		cv_warn("%.*s: %s; it is left out", (int)(equals - entry), entry,
			is_json ? error.text : "not UTF-8");
}

json_t *cv_env_metadata(void)
{
	json_t *j = json_object();

	for (char **e = environ; j && *e; e++) {
		const char *plain = after(*e, META), *json = after(*e, META_JSON);

		if (plain)
			add(j, *e, plain, false);
		else if (json)
			add(j, *e, json, true);
	}
	return j;
}
