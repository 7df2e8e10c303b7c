// SPDX-License-Identifier: Apache-2.0
/*
 * Tables of what the daemon knows about the mesh: columns, order and wording are those of
 * `istioctl ztunnel-config`, so that people and scripts read them without a new dictionary.
 */
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"
#include "userspace/ctl/table.h"

enum { PADDING = 1, CERTIFICATES_PADDING = 5 };

static bool is_shown(const json_t *object, const char *ns)
{
	return !ns || !strcmp(cv_field_text(object, "namespace"), ns);
}

/* Joins an array of strings by commas; the part up to `cut` is left out of each (0 = none).
 * The text is the caller's. */
static char *join(const json_t *array, char cut)
{
	char *text = NULL;
	size_t size, i;
	json_t *item;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		abort();
	json_array_foreach(array, i, item) {
		const char *s = json_string_value(item) ? json_string_value(item) : "";
		const char *after = cut ? strchr(s, cut) : NULL;

		fprintf(out, "%s%s", i ? "," : "", after ? after + 1 : s);
	}
	fclose(out);
	return text;
}

/* What a waypoint's `destination` may say ("namespace/host", "network/address") to the name of
 * the service. */
static json_t *names_by_destination(const json_t *services)
{
	json_t *names = json_object(), *svc, *vip;
	size_t i, j;

	json_array_foreach(services, i, svc) {
		json_t *name = json_object_get(svc, "name");
		json_t *host = json_sprintf("%s/%s", cv_field_text(svc, "namespace"),
					    cv_field_text(svc, "hostname"));

		json_object_set(names, json_string_value(host), name);
		json_decref(host);
		json_array_foreach(json_object_get(svc, "vips"), j, vip)
			json_object_set(names, json_string_value(vip), name);
	}
	return names;
}

/* The waypoint's service by name; None when there is no waypoint, NA when nobody knows it. */
static const char *waypoint(const json_t *object, const json_t *names)
{
	const json_t *gateway = json_object_get(object, "waypoint");
	const char *destination = cv_field_text(gateway, "destination");
	const char *name = json_string_value(json_object_get(names, destination));

	return !gateway ? "None" : name ? name : "NA";
}

void cv_ctl_table_workloads(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "NAMESPACE", "POD NAME", "ADDRESS", "NODE",
					      "WAYPOINT",  "PROTOCOL", NULL };
	json_t *names = names_by_destination(d->services);
	struct cv_table t;
	json_t *w;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, w) {
		_cleanup_free_ char *ips = join(json_object_get(w, "workloadIps"), 0);

		if (!is_shown(w, d->ns))
			continue;
		cv_table_row(&t, (const char *[]){ cv_field_text(w, "namespace"),
						   cv_field_text(w, "name"),
						   *ips ? ips : cv_field_text(w, "hostname"),
						   cv_field_text(w, "node"), waypoint(w, names),
						   cv_field_text(w, "protocol") });
	}
	cv_table_sort(&t, 0, 1, 3);
	cv_table_print(&t, out);
	cv_table_fini(&t);
	json_decref(names);
}

/* --- services --- */

static json_t *status_by_uid(const json_t *workloads)
{
	json_t *statuses = json_object(), *w;
	size_t i;

	json_array_foreach(workloads, i, w)
		json_object_set(statuses, cv_field_text(w, "uid"), json_object_get(w, "status"));
	return statuses;
}

static void count_endpoints(json_t *svc, const json_t *statuses, char *text, size_t size)
{
	json_t *endpoints = json_object_get(svc, "endpoints"), *e;
	unsigned healthy = 0;
	const char *key;

	json_object_foreach(endpoints, key, e)
		healthy += !strcmp(cv_field_text(statuses, cv_field_text(e, "workloadUid")),
				   "Healthy");
	snprintf(text, size, "%u/%zu", healthy, json_object_size(endpoints));
}

void cv_ctl_table_services(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "NAMESPACE", "SERVICE NAME", "SERVICE VIP",
					      "WAYPOINT",  "ENDPOINTS",	   NULL };
	json_t *names = names_by_destination(d->list);
	json_t *statuses = status_by_uid(d->workloads), *svc;
	struct cv_table t;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, svc) {
		_cleanup_free_ char *vips = join(json_object_get(svc, "vips"), '/');
		char endpoints[32];

		if (!is_shown(svc, d->ns))
			continue;
		count_endpoints(svc, statuses, endpoints, sizeof(endpoints));
		cv_table_row(&t, (const char *[]){ cv_field_text(svc, "namespace"),
						   cv_field_text(svc, "name"), vips,
						   waypoint(svc, names), endpoints });
	}
	cv_table_sort(&t, 0, 1, 2);
	cv_table_print(&t, out);
	cv_table_fini(&t);
	json_decref(names);
	json_decref(statuses);
}

/* --- policies --- */

void cv_ctl_table_policies(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "NAMESPACE", "POLICY NAME", "ACTION", "SCOPE", NULL };
	struct cv_table t;
	json_t *p;
	size_t i;

	cv_table_init(&t, PADDING, header);
	json_array_foreach(d->list, i, p)
		if (is_shown(p, d->ns))
			cv_table_row(&t, (const char *[]){ cv_field_text(p, "namespace"),
							   cv_field_text(p, "name"),
							   cv_field_text(p, "action"),
							   cv_field_text(p, "scope") });
	cv_table_sort(&t, 0, 1, 2);
	cv_table_print(&t, out);
	cv_table_fini(&t);
}

/* --- certificates --- */

/* Decimal text to hexadecimal text, of any length up to X.509's 160 bits. */
static void hex_of_decimal(const char *decimal, char *hex, size_t size)
{
	uint8_t number[24] = {}; /* big-endian */
	size_t n = 0;

	for (; *decimal >= '0' && *decimal <= '9'; decimal++) {
		unsigned carry = *decimal - '0';

		for (size_t i = sizeof(number); i-- > 0;) {
			carry += number[i] * 10u;
			number[i] = carry & 0xff;
			carry >>= 8;
		}
	}
	while (n < sizeof(number) - 1 && !number[n])
		n++;
	snprintf(hex, size, "%x", number[n]);
	while (++n < sizeof(number))
		snprintf(hex + strlen(hex), size - strlen(hex), "%02x", number[n]);
}

/* RFC 3339 in UTC orders like text. */
static const char *is_valid(const json_t *cert, const char *now)
{
	return strcmp(cv_field_text(cert, "validFrom"), now) <= 0 &&
			       strcmp(now, cv_field_text(cert, "expirationTime")) <= 0 ?
		       "true" :
		       "false";
}

static void add_certificate(struct cv_table *t, const json_t *identity, const json_t *cert,
			    const char *type, const char *now)
{
	const char *state = cv_field_text(identity, "state");
	char serial[64] = "NA";

	if (cert)
		hex_of_decimal(cv_field_text(cert, "serialNumber"), serial, sizeof(serial));
	cv_table_row(t, (const char *[]){
				cv_field_text(identity, "identity"),
				type,
				strstr(state, "Unavailable") ? "Unavailable" : state,
				cert ? is_valid(cert, now) : "false",
				serial,
				cert ? cv_field_text(cert, "expirationTime") : "NA",
				cert ? cv_field_text(cert, "validFrom") : "NA",
			});
}

static void add_identity(struct cv_table *t, const json_t *identity, const char *now)
{
	const json_t *chain = json_object_get(identity, "certChain");
	const json_t *roots = json_object_get(identity, "rootCerts");
	bool has_roots = json_array_size(roots), last;
	json_t *cert;
	size_t i;

	if (!json_array_size(chain))
		return add_certificate(t, identity, NULL, "NA", now);
	json_array_foreach(chain, i, cert) {
		last = i + 1 == json_array_size(chain);
		add_certificate(t, identity, cert,
				i == 0		   ? "Leaf" :
				last && !has_roots ? "Root" :
						     "Intermediate",
				now);
	}
	json_array_foreach(roots, i, cert)
		add_certificate(t, identity, cert, "Root", now);
}

void cv_ctl_table_certificates(FILE *out, const struct cv_ctl_data *d)
{
	static const char *const header[] = { "CERTIFICATE NAME", "TYPE",
					      "STATUS",		  "VALID CERT",
					      "SERIAL NUMBER",	  "NOT AFTER",
					      "NOT BEFORE",	  NULL };
	struct cv_table t;
	json_t *identity;
	size_t i;

	cv_table_init(&t, CERTIFICATES_PADDING, header);
	json_array_foreach(d->list, i, identity)
		add_identity(&t, identity, d->now);
	cv_table_print(&t, out);
	cv_table_fini(&t);
}
