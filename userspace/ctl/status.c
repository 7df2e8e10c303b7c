// SPDX-License-Identifier: Apache-2.0
/* `culvertctl status`: the daemon's state in one page, troubles first. */
#include <stdlib.h>
#include <string.h>

#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"
#include "userspace/ctl/table.h"

enum { PADDING = 2 };

static void print_warnings(FILE *out, const json_t *status)
{
	const char *ca = cv_field_text(status, "developmentCa");
	const char *file = cv_field_text(status, "fileError");
	json_t *pending = json_object_get(status, "pending"), *task;
	size_t i;

	if (*ca)
		fprintf(out, "WARNING: certificates come from the development CA in %s\n", ca);
	if (*file)
		fprintf(out, "WARNING: the last change of the local file is refused: %s\n", file);
	if (cv_field_is(status, "draining"))
		fprintf(out, "WARNING: the daemon is shutting down\n");
	json_array_foreach(pending, i, task)
		fprintf(out, "WARNING: not ready, pending: %s\n", json_string_value(task));
}

static void print_uptime(FILE *out, json_int_t ms)
{
	long long s = ms / 1000;

	fprintf(out, "uptime      %lldd %02lld:%02lld:%02lld\n", s / 86400, s / 3600 % 24,
		s / 60 % 60, s % 60);
}

/* The names of an object's members that are true, or of those that are false. */
static void print_members(FILE *out, const char *label, json_t *object, bool which)
{
	bool any = false;
	const char *key;
	json_t *value;

	fprintf(out, "%-11s", label);
	json_object_foreach(object, key, value) {
		if (json_is_true(value) != which)
			continue;
		fprintf(out, " %s", key);
		any = true;
	}
	fputs(any ? "\n" : " none\n", out);
}

static void print_kernel(FILE *out, json_t *status)
{
	json_t *features = json_object_get(status, "features");

	if (!cv_field_is(status, "kernelPlane")) {
		fprintf(out,
			"kernel      not used: in ztunnel's place, pods come from istio-cni\n");
		return;
	}
	fprintf(out, "generation  %lld\n", (long long)cv_field_int(status, "generation"));
	fprintf(out, "kernel      %s\n",
		cv_field_is(status, "adopted") ? "adopted from an earlier daemon" : "loaded anew");
	fprintf(out, "fast path   %s\n", cv_field_is(features, "fastPath") ? "on" : "off");
	print_members(out, "features", features, true);
	print_members(out, "missing", features, false);
}

static void print_head(FILE *out, json_t *status)
{
	json_t *proxy = json_object_get(status, "proxy");
	const char *node = cv_field_text(status, "node");

	fprintf(out, "version     %s\n", cv_field_text(status, "version"));
	fprintf(out, "node        %s\n", *node ? node : "(none: every workload counts as local)");
	fprintf(out, "pid         %lld\n", (long long)cv_field_int(status, "pid"));
	print_uptime(out, cv_field_int(status, "uptimeMs"));
	fprintf(out, "workers     %lld\n", (long long)cv_field_int(status, "workers"));
	fprintf(out, "pods        %lld\n", (long long)cv_field_int(status, "pods"));
	print_kernel(out, status);
	fprintf(out, "proxy       %lld connections, %lld HBONE in, %lld HBONE out, %lld waiting\n",
		(long long)cv_field_int(proxy, "connections"),
		(long long)cv_field_int(proxy, "hboneInbound"),
		(long long)cv_field_int(proxy, "hbonePooled"),
		(long long)cv_field_int(proxy, "waiting"));
}

/* A table of an array's objects; the keys are in the order of the header. Rows whose `count`
 * is 0 are left out. */
static void print_list(FILE *out, const json_t *list, const char *const *header,
		       const char *const *keys)
{
	struct cv_table t;
	json_t *o;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(list, i, o) {
		const char *cells[CV_TABLE_COLUMNS] = {};
		char numbers[CV_TABLE_COLUMNS][24];
		json_t *count = json_object_get(o, "count");

		if (count && !json_integer_value(count))
			continue;
		for (unsigned k = 0; keys[k]; k++) {
			json_t *value = json_object_get(o, keys[k]);

			snprintf(numbers[k], sizeof(numbers[k]), "%lld",
				 (long long)json_integer_value(value));
			cells[k] = json_is_integer(value) ? numbers[k] : json_string_value(value);
		}
		cv_table_row(&t, cells);
	}
	fputc('\n', out);
	cv_table_print(&t, out);
	cv_table_fini(&t);
}

void cv_ctl_print_status(FILE *out, json_t *status)
{
	static const struct {
		const char *member;
		const char *header[6], *keys[6];
	} lists[] = {
		{ "reasons",
		  { "REASON", "ACTION", "COUNT", "MEANING" },
		  { "name", "action", "count", "meaning" } },
		{ "maps", { "MAP", "ENTRIES", "CAPACITY" }, { "name", "entries", "maxEntries" } },
		{ "programs",
		  { "PROGRAM", "ID", "VERIFIED INSNS", "XLATED BYTES", "JITED BYTES" },
		  { "name", "id", "verifiedInsns", "xlatedBytes", "jitedBytes" } },
	};

	print_warnings(out, status);
	print_head(out, status);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		if (!json_object_get(status, lists[i].member))
			continue;
		print_list(out, json_object_get(status, lists[i].member), lists[i].header,
			   lists[i].keys);
	}
}
