/* SPDX-License-Identifier: Apache-2.0 */
/* The file format's workloads and services: one table of keys each. */
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/file_decode.h"

#define WORDS(name, ...)                                           \
	static const char *const name##_words[] = { __VA_ARGS__ }; \
	static const struct cv_yaml_words name = { name##_words, CV_ARRAY_SIZE(name##_words) }

WORDS(protocols, [CV_PROTOCOL_TCP] = "TCP", [CV_PROTOCOL_HBONE] = "HBONE");
WORDS(network_modes, [CV_NETWORK_STANDARD] = "Standard", [CV_NETWORK_HOST] = "HostNetwork");
WORDS(tunnel_protocols, "NONE", "PROXY");
WORDS(lb_modes, [CV_LB_STANDARD] = "Standard", [CV_LB_STRICT] = "Strict",
      [CV_LB_FAILOVER] = "Failover", [CV_LB_PASSTHROUGH] = "Passthrough");
WORDS(lb_scopes, [CV_SCOPE_REGION] = "Region", [CV_SCOPE_ZONE] = "Zone",
      [CV_SCOPE_SUBZONE] = "Subzone", [CV_SCOPE_NODE] = "Node", [CV_SCOPE_CLUSTER] = "Cluster",
      [CV_SCOPE_NETWORK] = "Network");
WORDS(health_policies, "OnlyHealthy", "AllowAll");
WORDS(ip_families, "IPv4", "IPv6", "Dual");
WORDS(visibilities, "Public", "Namespace");

/* ---- workloads ---- */

/* A workload while it is read: the parts that the format does not tell apart. */
struct draft {
	struct cv_group group;
	struct cv_place place;
	cv_str uid;
	enum cv_health status;
	struct cv_addr *ips;
	size_t nr_ips;
};

static int decode_ips(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct draft *d = out;

	return cv_yaml_list(y, n, sizeof(*d->ips), cv_file_addr, arg, (void **)&d->ips, &d->nr_ips);
}

static int decode_membership(struct cv_yaml *y, const struct cv_yaml_node *key,
			     const struct cv_yaml_node *value, void *arg)
{
	struct cv_group *g = arg;
	struct cv_membership *m = &g->services[g->nr_services];
	int r = cv_file_ns_host(y, key, &m->service);

	if (r < 0)
		return r;
	g->nr_services++;
	return cv_file_ports(y, value, NULL, &m->ports);
}

static int decode_memberships(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			      void *out)
{
	struct draft *d = out;

	(void)arg; /* no table */
	if (n->nr) {
		d->group.services = calloc(n->nr / 2 + 1, sizeof(*d->group.services));
		if (!d->group.services)
			return -ENOMEM;
	}
	return cv_yaml_entries(y, n, decode_membership, &d->group);
}

static int decode_policy_names(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			       void *out)
{
	struct draft *d = out;

	return cv_yaml_list(y, n, sizeof(*d->group.policies), cv_yaml_str, arg,
			    (void **)&d->group.policies, &d->group.nr_policies);
}

static const struct cv_yaml_field locality_fields[] = {
	{ "region", cv_yaml_str, NULL, offsetof(struct cv_locality, region), CV_YAML_REQUIRED },
	{ "zone", cv_yaml_str, NULL, offsetof(struct cv_locality, zone), CV_YAML_REQUIRED },
	{ "subzone", cv_yaml_str, NULL, offsetof(struct cv_locality, subzone), CV_YAML_REQUIRED },
};

static int decode_locality(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			   void *out)
{
	struct draft *d = out;

	(void)arg; /* no table */
	d->place.has_locality = true;
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(locality_fields), &d->place.locality);
}

struct app_tunnel {
	unsigned protocol; /* index of tunnel_protocols */
	uint16_t port;
};

static const struct cv_yaml_field app_tunnel_fields[] = {
	{ "protocol", cv_yaml_enum, &tunnel_protocols, offsetof(struct app_tunnel, protocol),
	  CV_YAML_REQUIRED },
	{ "port", cv_yaml_u16, NULL, offsetof(struct app_tunnel, port), 0 },
};

static int decode_app_tunnel(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			     void *out)
{
	struct draft *d = out;
	struct app_tunnel t = {};
	int r = cv_yaml_struct(y, n, CV_YAML_FIELDS(app_tunnel_fields), &t);

	(void)arg; /* no table */
	d->group.has_app_tunnel = t.protocol || t.port;
	d->group.app_tunnel_proxy = t.protocol;
	d->group.app_tunnel_port = t.port;
	return r;
}

#define D(member) offsetof(struct draft, member)

static const struct cv_yaml_field workload_fields[] = {
	{ "workloadIps", decode_ips, NULL, 0, CV_YAML_REQUIRED },
	{ "namespace", cv_yaml_str, NULL, D(group.ns), CV_YAML_REQUIRED },
	{ "services", decode_memberships, NULL, 0, CV_YAML_REQUIRED },
	{ "uid", cv_yaml_str, NULL, D(uid), 0 },
	{ "name", cv_yaml_str, NULL, D(group.name), 0 },
	{ "trustDomain", cv_yaml_str, NULL, D(group.trust_domain), 0 },
	{ "serviceAccount", cv_yaml_str, NULL, D(group.service_account), 0 },
	{ "network", cv_yaml_str, NULL, D(group.network), 0 },
	{ "workloadName", cv_yaml_str, NULL, D(group.workload_name), 0 },
	{ "workloadType", cv_yaml_str, NULL, D(group.workload_type), 0 },
	{ "canonicalName", cv_yaml_str, NULL, D(group.canonical_name), 0 },
	{ "canonicalRevision", cv_yaml_str, NULL, D(group.canonical_revision), 0 },
	{ "hostname", cv_yaml_str, NULL, D(group.hostname), 0 },
	{ "node", cv_yaml_str, NULL, D(place.node), 0 },
	{ "protocol", cv_yaml_enum, &protocols, D(group.protocol), 0 },
	{ "networkMode", cv_yaml_enum, &network_modes, D(group.network_mode), 0 },
	{ "nativeTunnel", cv_yaml_bool, NULL, D(group.native_tunnel), 0 },
	{ "applicationTunnel", decode_app_tunnel, NULL, 0, 0 },
	{ "waypoint", cv_file_gateway_ptr, NULL, D(group.waypoint), 0 },
	{ "networkGateway", cv_file_gateway_ptr, NULL, D(group.network_gateway), 0 },
	{ "authorizationPolicies", decode_policy_names, NULL, 0, 0 },
	{ "status", cv_yaml_enum, &cv_file_health, D(status), 0 },
	{ "clusterId", cv_yaml_str, NULL, D(group.cluster_id), 0 },
	{ "locality", decode_locality, NULL, 0, 0 },
	{ "capacity", cv_yaml_u32, NULL, D(group.capacity), 0 },
};

/* The draft's parts go to a workload of their own. */
static struct cv_workload *finish(struct draft *d)
{
	struct cv_workload *w = cv_workload_new();

	d->group.shared = w->group->shared;
	d->place.shared = w->place->shared;
	*w->group = d->group;
	*w->place = d->place;
	w->uid = d->uid;
	w->status = (uint8_t)d->status;
	cv_workload_set_ips(w, d->ips, d->nr_ips);
	cv_workload_seal(w);
	free(d->ips);
	return w;
}

static int decode_workload(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			   void *out)
{
	struct draft d = { .group.capacity = 1 };
	struct cv_workload **w = out;
	int r = cv_yaml_struct(y, n, CV_YAML_FIELDS(workload_fields), &d);

	(void)arg; /* no table */
	if (r == 0 && d.nr_ips > UINT16_MAX) {
		r = cv_yaml_fail(y, n, "has more than %d addresses", UINT16_MAX);
		d.nr_ips = 0;
	}
	*w = finish(&d);
	return r;
}

int cv_file_workloads(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_mesh_file *f = out;
	int r = cv_yaml_list(y, n, sizeof(*f->workloads), decode_workload, arg,
			     (void **)&f->workloads, &f->nr_workloads);
	_cleanup_free_ cv_str *keys = r < 0 ? NULL : calloc(n->nr + 1, sizeof(*keys));

	if (r < 0 || !keys)
		return r < 0 ? r : -ENOMEM;
	for (size_t i = 0; i < f->nr_workloads; i++)
		keys[i] = f->workloads[i]->uid;
	return cv_file_check_unique(y, n, keys, "uid");
}

/* ---- services ---- */

#define S(member) offsetof(struct cv_service, member)

static int decode_vips(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_service *s = out;

	return cv_yaml_list(y, n, sizeof(*s->vips), cv_file_network_addr, arg, (void **)&s->vips,
			    &s->nr_vips);
}

static const struct cv_yaml_field cidr_vip_fields[] = {
	{ "network", cv_yaml_str, NULL, offsetof(struct cv_network_cidr, network),
	  CV_YAML_REQUIRED },
	{ "cidr", cv_file_cidr, NULL, offsetof(struct cv_network_cidr, cidr), CV_YAML_REQUIRED },
};

static int decode_cidr_vip(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			   void *out)
{
	(void)arg; /* no table */
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(cidr_vip_fields), out);
}

static int decode_cidr_vips(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			    void *out)
{
	struct cv_service *s = out;

	return cv_yaml_list(y, n, sizeof(*s->cidr_vips), decode_cidr_vip, arg,
			    (void **)&s->cidr_vips, &s->nr_cidr_vips);
}

static const struct cv_yaml_field endpoint_fields[] = {
	{ "workloadUid", cv_yaml_str, NULL, offsetof(struct cv_service_endpoint, workload_uid),
	  CV_YAML_REQUIRED },
	{ "port", cv_file_ports, NULL, offsetof(struct cv_service_endpoint, ports),
	  CV_YAML_REQUIRED },
	{ "status", cv_yaml_enum, &cv_file_health, offsetof(struct cv_service_endpoint, status),
	  0 },
};

static int decode_endpoint(struct cv_yaml *y, const struct cv_yaml_node *key,
			   const struct cv_yaml_node *value, void *arg)
{
	struct cv_service *s = arg;

	(void)key; /* the endpoint says its workload itself */
	return cv_yaml_struct(y, value, CV_YAML_FIELDS(endpoint_fields),
			      &s->endpoints[s->nr_endpoints++]);
}

static int decode_endpoints(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			    void *out)
{
	struct cv_service *s = out;

	(void)arg; /* no table */
	if (n->nr) {
		s->endpoints = calloc(n->nr / 2 + 1, sizeof(*s->endpoints));
		if (!s->endpoints)
			return -ENOMEM;
	}
	return cv_yaml_entries(y, n, decode_endpoint, s);
}

static int decode_sans(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_service *s = out;

	return cv_yaml_list(y, n, sizeof(*s->sans), cv_yaml_str, arg, (void **)&s->sans,
			    &s->nr_sans);
}

static const struct cv_yaml_field weighted_waypoint_fields[] = {
	{ "destination", cv_file_gateway, NULL, offsetof(struct cv_weighted_waypoint, gateway),
	  CV_YAML_REQUIRED },
	{ "weight", cv_yaml_u32, NULL, offsetof(struct cv_weighted_waypoint, weight),
	  CV_YAML_REQUIRED },
};

static int decode_weighted_waypoint(struct cv_yaml *y, const struct cv_yaml_node *n,
				    const void *arg, void *out)
{
	(void)arg; /* no table */
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(weighted_waypoint_fields), out);
}

static int decode_weighted_waypoints(struct cv_yaml *y, const struct cv_yaml_node *n,
				     const void *arg, void *out)
{
	struct cv_service *s = out;

	return cv_yaml_list(y, n, sizeof(*s->weighted_waypoints), decode_weighted_waypoint, arg,
			    (void **)&s->weighted_waypoints, &s->nr_weighted_waypoints);
}

static int decode_preferences(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			      void *out)
{
	struct cv_service *s = out;

	(void)arg; /* no table */
	return cv_yaml_list(y, n, sizeof(*s->lb_preferences), cv_yaml_enum, &lb_scopes,
			    (void **)&s->lb_preferences, &s->nr_lb_preferences);
}

static int decode_health_policy(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
				void *out)
{
	struct cv_service *s = out;
	unsigned policy = 0;
	int r = cv_yaml_enum(y, n, arg, &policy);

	s->allow_unhealthy = policy == 1;
	return r;
}

static const struct cv_yaml_field lb_fields[] = {
	{ "routingPreferences", decode_preferences, NULL, 0, 0 },
	{ "mode", cv_yaml_enum, &lb_modes, S(lb_mode), 0 },
	{ "healthPolicy", decode_health_policy, &health_policies, 0, 0 },
};

static int decode_lb(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_service *s = out;

	(void)arg; /* no table */
	s->has_lb = true;
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(lb_fields), s);
}

static int decode_families(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			   void *out)
{
	static const enum cv_ip_families families[] = { CV_FAMILIES_V4, CV_FAMILIES_V6,
							CV_FAMILIES_DUAL };
	struct cv_service *s = out;
	unsigned word = 0;
	int r = cv_yaml_enum(y, n, arg, &word);

	s->has_families = true;
	s->families = families[word];
	return r;
}

static int decode_visibility(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			     void *out)
{
	struct cv_service *s = out;
	unsigned word = 0;
	int r = cv_yaml_enum(y, n, arg, &word);

	s->ns_visible_only = word == 1;
	return r;
}

static const struct cv_yaml_field service_fields[] = {
	{ "name", cv_yaml_str, NULL, S(name), CV_YAML_REQUIRED },
	{ "namespace", cv_yaml_str, NULL, S(ns), CV_YAML_REQUIRED },
	{ "hostname", cv_yaml_str, NULL, S(hostname), CV_YAML_REQUIRED },
	{ "vips", decode_vips, NULL, 0, CV_YAML_REQUIRED },
	{ "ports", cv_file_ports, NULL, S(ports), CV_YAML_REQUIRED },
	{ "cidrVips", decode_cidr_vips, NULL, 0, 0 },
	{ "endpoints", decode_endpoints, NULL, 0, 0 },
	{ "subjectAltNames", decode_sans, NULL, 0, 0 },
	{ "waypoint", cv_file_gateway_ptr, NULL, S(waypoint), 0 },
	{ "weightedWaypoints", decode_weighted_waypoints, NULL, 0, 0 },
	{ "loadBalancer", decode_lb, NULL, 0, 0 },
	{ "ipFamilies", decode_families, &ip_families, 0, 0 },
	{ "canonical", cv_yaml_bool, NULL, S(canonical), 0 },
	{ "visibility", decode_visibility, &visibilities, 0, 0 },
};

static int decode_service(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			  void *out)
{
	struct cv_service **s = out;

	(void)arg; /* no table */
	*s = cv_service_new();
	return cv_yaml_struct(y, n, CV_YAML_FIELDS(service_fields), *s);
}

int cv_file_services(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out)
{
	struct cv_mesh_file *f = out;
	int r = cv_yaml_list(y, n, sizeof(*f->services), decode_service, arg, (void **)&f->services,
			     &f->nr_services);
	_cleanup_free_ cv_str *keys = r < 0 ? NULL : calloc(n->nr + 1, sizeof(*keys));

	if (r < 0 || !keys)
		return r < 0 ? r : -ENOMEM;
	for (size_t i = 0; i < f->nr_services; i++)
		keys[i] = cv_file_key(f->services[i]->ns, f->services[i]->hostname);
	r = cv_file_check_unique(y, n, keys, "namespace and hostname");
	for (size_t i = 0; i < f->nr_services; i++)
		cv_str_put(&keys[i]);
	return r;
}
