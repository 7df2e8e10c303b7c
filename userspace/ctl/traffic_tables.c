// SPDX-License-Identifier: Apache-2.0
/*
 * Tables of connections: the daemon's live ones as `istioctl ztunnel-config connections` prints
 * them, and flows on every path, with what only this project has: tier and kernel's proof.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"
#include "userspace/ctl/table.h"

enum { PADDING = 1, NAME = 600 };

/* --- names for addresses --- */

/* Map from an address's text to the name of who has it. */
static json_t *names_by_address(const json_t *services, const json_t *workloads)
{
	json_t *names = json_object(), *object, *item;
	size_t i, j;

	json_array_foreach(workloads, i, object)
		json_array_foreach(json_object_get(object, "workloadIps"), j, item)
			json_object_set_new(names, json_string_value(item),
					    json_sprintf("%s.%s", cv_field_text(object, "name"),
							 cv_field_text(object, "namespace")));
	/* A service is the better name, so it comes last. */
	json_array_foreach(services, i, object)
		json_array_foreach(json_object_get(object, "vips"), j, item) {
			const char *vip = strchr(json_string_value(item), '/');

			json_object_set(names, vip ? vip + 1 : json_string_value(item),
					json_object_get(object, "hostname"));
		}
	return names;
}

/* "ip:port" with the ip's name in its place, when names has one. */
static const char *named(const json_t *names, const char *address, char *buf)
{
	struct cv_sockaddr a;
	char ip[CV_ADDR_TEXT];
	const char *name;

	if (cv_sockaddr_parse(address, &a) < 0)
		return address;
	name = json_string_value(json_object_get(names, cv_addr_text(&a.ip, ip)));
	if (!name)
		return address;
	snprintf(buf, NAME, "%s:%u", name, a.port);
	return buf;
}

static void add_connection(struct cv_table *t, const json_t *c, const json_t *names)
{
	bool inbound = !strcmp(cv_field_text(c, "direction"), "inbound");
	char workload[NAME], local[NAME], remote[NAME], target[NAME];

	snprintf(workload, sizeof(workload), "%s.%s", cv_field_text(c, "pod"),
		 cv_field_text(c, "namespace"));
	cv_table_row(t, (const char *[]){
				workload,
				inbound ? "Inbound" : "Outbound",
				named(names, cv_field_text(c, inbound ? "target" : "src"), local),
				named(names, cv_field_text(c, inbound ? "src" : "dst"), remote),
				inbound ? cv_field_text(c, "service") :
					  named(names, cv_field_text(c, "originalDst"), target),
				cv_field_text(c, "protocol"),
			});
}

void cv_ctl_table_connections(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "WORKLOAD",      "DIRECTION", "LOCAL", "REMOTE",
					      "REMOTE TARGET", "PROTOCOL",  NULL };
	json_t *names = names_by_address(d->services, d->workloads), *c;
	struct cv_table t;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, c)
		add_connection(&t, c, names);
	cv_table_sort(&t, 0, 1, 2);
	cv_table_print(&t, out);
	cv_table_fini(&t);
	json_decref(names);
}

/* --- flows --- */

/* An end by pod name, else by address. */
static const char *end_name(const json_t *flow, const char *end, const char *address, char *buf)
{
	const json_t *w = json_object_get(flow, end);
	const char *pod = cv_field_text(w, "pod");

	if (!*pod)
		return cv_field_text(flow, address);
	snprintf(buf, NAME, "%s/%s", cv_field_text(w, "namespace"), pod);
	return buf;
}

static const char *or_dash(const char *text)
{
	return *text ? text : "-";
}

static const char *age(json_int_t ms, char *buf, size_t size)
{
	long long s = ms / 1000;

	if (s < 60)
		snprintf(buf, size, "%lld.%llds", s, ms % 1000 / 100);
	else if (s < 3600)
		snprintf(buf, size, "%lldm%llds", s / 60, s % 60);
	else
		snprintf(buf, size, "%lldh%lldm", s / 3600, s % 3600 / 60);
	return buf;
}

static void add_flow(struct cv_table *t, const json_t *f)
{
	bool open = !strcmp(cv_field_text(f, "state"), "open");
	const char *error = cv_field_text(f, "error");
	char source[NAME], destination[NAME], sent[24], received[24], state[64], result[1024];
	char took[24], ago[24];

	snprintf(sent, sizeof(sent), "%lld", (long long)cv_field_int(f, "sent"));
	snprintf(received, sizeof(received), "%lld", (long long)cv_field_int(f, "received"));
	age(cv_field_int(f, "durationMs"), took, sizeof(took));
	age(cv_field_int(f, "closedMsAgo"), ago, sizeof(ago));
	snprintf(state, sizeof(state), open ? "open %s" : "closed %s ago", open ? took : ago);
	snprintf(result, sizeof(result), "%s%s%s", or_dash(cv_field_text(f, "result")),
		 *error ? " " : "", error);
	cv_table_row(t, (const char *[]){
				cv_field_text(f, "tier"),
				cv_field_text(f, "direction"),
				end_name(f, "source", "src", source),
				or_dash(cv_field_text(f, "sourceIdentity")),
				end_name(f, "destination", "target", destination),
				or_dash(cv_field_text(f, "destinationIdentity")),
				or_dash(cv_field_text(f, "service")),
				sent,
				received,
				state,
				result,
			});
}

void cv_ctl_table_flows(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "TIER",	     "DIRECTION",
					      "SOURCE",	     "SOURCE IDENTITY",
					      "DESTINATION", "DESTINATION IDENTITY",
					      "SERVICE",     "SENT",
					      "RECEIVED",    "STATE",
					      "RESULT",	     NULL };
	struct cv_table t;
	json_t *f;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, f)
		add_flow(&t, f);
	cv_table_print(&t, out);
	cv_table_fini(&t);
}
