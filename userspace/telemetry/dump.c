// SPDX-License-Identifier: Apache-2.0
/*
 * config_dump: workloads and services in ztunnel's JSON. istioctl decodes it with fixed types,
 * so key names, which keys are always there, and the JSON type of each are a contract.
 */
#include "userspace/telemetry/dump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/telemetry/telemetry.h"

/* --- pieces --- */

void cv_dump_set(json_t *object, const char *key, cv_str text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

/* Always there, even when empty. */
static void set_always(json_t *object, const char *key, cv_str text)
{
	json_object_set_new(object, key, json_string(cv_str_text(text)));
}

json_t *cv_dump_pair(cv_str first, const char *second)
{
	return json_sprintf("%s/%s", cv_str_text(first), second);
}

static json_t *network_address(const struct cv_network_addr *a)
{
	char text[CV_ADDR_TEXT];

	return cv_dump_pair(a->network, cv_addr_text(&a->ip, text));
}

static json_t *ns_host(const struct cv_ns_host *h)
{
	return cv_dump_pair(h->ns, cv_str_text(h->host));
}

static json_t *gateway(const struct cv_gateway *g)
{
	return json_pack("{s:o s:i}", "destination",
			 g->by_host ? ns_host(&g->host) : network_address(&g->addr),
			 "hboneMtlsPort", (int)g->hbone_port);
}

static json_t *strings(const cv_str *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_string(cv_str_text(list[i])));
	return array;
}

json_t *cv_dump_port_map(const struct cv_port_map *m)
{
	json_t *ports = json_object();
	char key[8];

	for (size_t i = 0; i < m->n; i++) {
		snprintf(key, sizeof(key), "%u", m->entries[i].service_port);
		json_object_set_new(ports, key, json_integer(m->entries[i].target_port));
	}
	return ports;
}

static const char *health(enum cv_health h)
{
	return h == CV_HEALTHY ? "Healthy" : "Unhealthy";
}

struct sort_item {
	json_t *object;
	const char *const *keys;
};

static int compare_items(const void *a, const void *b)
{
	const struct sort_item *x = a, *y = b;
	int r = 0;

	for (const char *const *key = x->keys; !r && *key; key++) {
		const char *xs = json_string_value(json_object_get(x->object, *key));
		const char *ys = json_string_value(json_object_get(y->object, *key));

		r = strcmp(xs ? xs : "", ys ? ys : "");
	}
	return r;
}

void cv_dump_sort(json_t *array, const char *const *keys)
{
	size_t n = json_array_size(array);
	_cleanup_free_ struct sort_item *items = calloc(n ? n : 1, sizeof(*items));

	if (!items)
		return; /* unsorted is better than nothing */
	for (size_t i = 0; i < n; i++)
		items[i] = (struct sort_item){ json_incref(json_array_get(array, i)), keys };
	qsort(items, n, sizeof(*items), compare_items);
	json_array_clear(array);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, items[i].object);
}

/* --- workloads --- */

static json_t *addresses(const struct cv_workload *w)
{
	json_t *array = json_array();
	char text[CV_ADDR_TEXT];

	for (size_t i = 0; i < w->nr_ips; i++)
		json_array_append_new(array, json_string(cv_addr_text(&w->ips[i], text)));
	return array;
}

static json_t *app_tunnel(const struct cv_workload *w)
{
	return json_pack(
		"{s:s s:o}", "protocol", w->group->app_tunnel_proxy ? "PROXY" : "NONE", "port",
		w->group->app_tunnel_port ? json_integer(w->group->app_tunnel_port) : json_null());
}

static json_t *locality(const struct cv_locality *l)
{
	return json_pack("{s:s s:s s:s}", "region", cv_str_text(l->region), "zone",
			 cv_str_text(l->zone), "subzone", cv_str_text(l->subzone));
}

static json_t *memberships(const struct cv_workload *w)
{
	json_t *array = json_array();

	for (size_t i = 0; i < w->group->nr_services; i++)
		json_array_append_new(array, ns_host(&w->group->services[i].service));
	return array;
}

static void set_optional(json_t *o, const struct cv_workload *w)
{
	if (w->group->waypoint)
		json_object_set_new(o, "waypoint", gateway(w->group->waypoint));
	if (w->group->network_gateway)
		json_object_set_new(o, "networkGateway", gateway(w->group->network_gateway));
	if (w->group->native_tunnel)
		json_object_set_new(o, "nativeTunnel", json_true());
	if (w->group->has_app_tunnel)
		json_object_set_new(o, "applicationTunnel", app_tunnel(w));
	if (w->group->nr_policies)
		json_object_set_new(o, "authorizationPolicies",
				    strings(w->group->policies, w->group->nr_policies));
	if (w->place->has_locality)
		json_object_set_new(o, "locality", locality(&w->place->locality));
	if (w->group->nr_services)
		json_object_set_new(o, "services", memberships(w));
}

json_t *cv_dump_workload(const struct cv_workload *w)
{
	json_t *o = json_object();

	json_object_set_new(o, "workloadIps", addresses(w));
	json_object_set_new(o, "protocol",
			    json_string(w->group->protocol == CV_PROTOCOL_HBONE ? "HBONE" : "TCP"));
	json_object_set_new(o, "networkMode",
			    json_string(w->group->network_mode == CV_NETWORK_HOST ? "HostNetwork" :
										    "Standard"));
	json_object_set_new(o, "status", json_string(health(w->status)));
	json_object_set_new(o, "capacity", json_integer(w->group->capacity));
	set_always(o, "name", cv_workload_name(w));
	set_always(o, "namespace", w->group->ns);
	set_always(o, "clusterId", w->group->cluster_id);
	cv_dump_set(o, "uid", w->uid);
	cv_dump_set(o, "trustDomain", w->group->trust_domain);
	cv_dump_set(o, "serviceAccount", w->group->service_account);
	cv_dump_set(o, "network", w->group->network);
	cv_dump_set(o, "workloadName", w->group->workload_name);
	cv_dump_set(o, "workloadType", w->group->workload_type);
	cv_dump_set(o, "canonicalName", w->group->canonical_name);
	cv_dump_set(o, "canonicalRevision", w->group->canonical_revision);
	cv_dump_set(o, "hostname", w->group->hostname);
	cv_dump_set(o, "node", w->place->node);
	set_optional(o, w);
	return o;
}

static int append_workload(struct cv_workload *w, void *arg)
{
	json_array_append_new(arg, cv_dump_workload(w));
	return 0;
}

json_t *cv_dump_workloads(struct cv_store *s)
{
	static const char *const keys[] = { "uid", NULL };
	json_t *array = json_array();

	cv_store_workload_each(s, append_workload, array);
	cv_dump_sort(array, keys);
	return array;
}

/* --- services --- */

static json_t *endpoint(const struct cv_service_endpoint *e)
{
	return json_pack("{s:s s:o s:s}", "workloadUid", cv_str_text(e->workload_uid), "port",
			 cv_dump_port_map(&e->ports), "status", health(e->status));
}

static json_t *endpoints(const struct cv_service *svc)
{
	json_t *map = json_object();

	for (size_t i = 0; i < svc->nr_endpoints; i++)
		json_object_set_new(map, cv_str_text(svc->endpoints[i].workload_uid),
				    endpoint(&svc->endpoints[i]));
	return map;
}

static json_t *vips(const struct cv_service *svc)
{
	json_t *array = json_array();

	for (size_t i = 0; i < svc->nr_vips; i++)
		json_array_append_new(array, network_address(&svc->vips[i]));
	return array;
}

static json_t *cidr_vips(const struct cv_service *svc)
{
	json_t *array = json_array();
	char text[CV_SOCKADDR_TEXT];

	for (size_t i = 0; i < svc->nr_cidr_vips; i++)
		json_array_append_new(array,
				      json_pack("{s:s s:s}", "network",
						cv_str_text(svc->cidr_vips[i].network), "cidr",
						cv_cidr_text(&svc->cidr_vips[i].cidr, text)));
	return array;
}

static json_t *weighted_waypoints(const struct cv_service *svc)
{
	json_t *array = json_array();

	for (size_t i = 0; i < svc->nr_weighted_waypoints; i++)
		json_array_append_new(
			array, json_pack("{s:o s:I}", "destination",
					 gateway(&svc->weighted_waypoints[i].gateway), "weight",
					 (json_int_t)svc->weighted_waypoints[i].weight));
	return array;
}

static json_t *load_balancer(const struct cv_service *svc)
{
	static const char *const modes[] = {
		[CV_LB_STANDARD] = "Standard",
		[CV_LB_STRICT] = "Strict",
		[CV_LB_FAILOVER] = "Failover",
		[CV_LB_PASSTHROUGH] = "Passthrough",
	};
	static const char *const scopes[] = {
		[CV_SCOPE_REGION] = "Region",	[CV_SCOPE_ZONE] = "Zone",
		[CV_SCOPE_SUBZONE] = "Subzone", [CV_SCOPE_NODE] = "Node",
		[CV_SCOPE_CLUSTER] = "Cluster", [CV_SCOPE_NETWORK] = "Network",
	};
	json_t *preferences = json_array();

	for (size_t i = 0; i < svc->nr_lb_preferences; i++)
		json_array_append_new(preferences, json_string(scopes[svc->lb_preferences[i]]));
	return json_pack("{s:o s:s s:s}", "routingPreferences", preferences, "mode",
			 modes[svc->lb_mode], "healthPolicy",
			 svc->allow_unhealthy ? "AllowAll" : "OnlyHealthy");
}

static const char *ip_families(enum cv_ip_families f)
{
	static const char *const names[] = {
		[CV_FAMILIES_V4] = "IPv4",
		[CV_FAMILIES_V6] = "IPv6",
		[CV_FAMILIES_DUAL] = "Dual",
	};

	return f == CV_FAMILIES_ANY ? NULL : names[f];
}

json_t *cv_dump_service(const struct cv_service *svc)
{
	const char *families = ip_families(svc->families);
	json_t *o = json_object();

	set_always(o, "name", svc->name);
	set_always(o, "namespace", svc->ns);
	set_always(o, "hostname", svc->hostname);
	json_object_set_new(o, "vips", vips(svc));
	json_object_set_new(o, "ports", cv_dump_port_map(&svc->ports));
	json_object_set_new(o, "endpoints", endpoints(svc));
	json_object_set_new(o, "subjectAltNames", strings(svc->sans, svc->nr_sans));
	json_object_set_new(o, "canonical", json_boolean(svc->canonical));
	json_object_set_new(o, "visibility",
			    json_string(svc->ns_visible_only ? "Namespace" : "Public"));
	if (svc->nr_cidr_vips)
		json_object_set_new(o, "cidrVips", cidr_vips(svc));
	if (svc->waypoint)
		json_object_set_new(o, "waypoint", gateway(svc->waypoint));
	if (svc->nr_weighted_waypoints)
		json_object_set_new(o, "weightedWaypoints", weighted_waypoints(svc));
	if (svc->has_lb)
		json_object_set_new(o, "loadBalancer", load_balancer(svc));
	if (families)
		json_object_set_new(o, "ipFamilies", json_string(families));
	return o;
}

static int append_service(struct cv_service *svc, void *arg)
{
	json_array_append_new(arg, cv_dump_service(svc));
	return 0;
}

json_t *cv_dump_services(struct cv_store *s)
{
	static const char *const keys[] = { "hostname", "namespace", NULL };
	json_t *array = json_array();

	cv_store_service_each(s, append_service, array);
	cv_dump_sort(array, keys);
	return array;
}

static int set_staged(const struct cv_ns_host *svc, const struct cv_service_endpoint *e, void *arg)
{
	json_t *name = ns_host(svc);
	const char *key = json_string_value(name);
	json_t *of_service = json_object_get(arg, key);

	if (!of_service) {
		of_service = json_object();
		json_object_set_new(arg, key, of_service);
	}
	json_object_set_new(of_service, cv_str_text(e->workload_uid), endpoint(e));
	json_decref(name);
	return 0;
}

json_t *cv_dump_staged_services(struct cv_store *s)
{
	json_t *map = json_object();

	cv_store_staged_each(s, set_staged, map);
	return map;
}
