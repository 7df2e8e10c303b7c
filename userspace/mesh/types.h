/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh's objects: workload, service, policy; as Istio's workload API has them.
 *
 * Objects are immutable once published in the store and reference-counted, so any thread may
 * keep one; a change is a new object. Field names follow istio.workload / istio.security.
 * Strings are interned; NULL is the empty string.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/addr.h"
#include "userspace/base/shared.h"
#include "userspace/base/strs.h"

enum cv_protocol { CV_PROTOCOL_TCP, CV_PROTOCOL_HBONE };
enum cv_network_mode { CV_NETWORK_STANDARD, CV_NETWORK_HOST };
enum cv_health { CV_HEALTHY, CV_UNHEALTHY };

/* service port -> target port; target 0 = a named port: ask the endpoint. */
struct cv_port_map_entry {
	uint16_t service_port, target_port;
};
struct cv_port_map {
	const struct cv_port_map_entry *entries; /* sorted by service_port; equal ones are one */
	uint32_t n;
} __attribute__((packed, aligned(4))); /* without padding: there is one for each endpoint */
/* Sorts `entries`, which stay the caller's; of two for a port the last one counts. */
void cv_port_map_init(struct cv_port_map *ret, struct cv_port_map_entry *entries, size_t n);
void cv_port_map_fini(struct cv_port_map *m);
/* Returns the target port, -ENOENT when service_port is not in the map. */
int cv_port_map_find(const struct cv_port_map *m, uint16_t service_port);
bool cv_port_map_eq(const struct cv_port_map *a, const struct cv_port_map *b);
void cv_port_map_copy(struct cv_port_map *ret, const struct cv_port_map *from);

struct cv_network_addr {
	cv_str network;
	struct cv_addr ip;
};

struct cv_network_cidr {
	cv_str network;
	struct cv_cidr cidr;
};

/* A service's name. */
struct cv_ns_host {
	cv_str ns, host;
};

/* Waypoint or network gateway. */
struct cv_gateway {
	bool by_host;
	struct cv_network_addr addr; /* when not by_host */
	struct cv_ns_host host; /* when by_host */
	uint16_t hbone_port;
};
void cv_gateway_fini(struct cv_gateway *g);

struct cv_locality {
	cv_str region, zone, subzone;
};

/* A workload's membership in a service. */
struct cv_membership {
	struct cv_ns_host service;
	struct cv_port_map ports;
};

/* What all pods of a deployment have in common. Equal ones are one. */
struct cv_group {
	struct cv_shared shared;
	cv_str name; /* see cv_workload_name() */
	cv_str ns, trust_domain, service_account, network;
	cv_str workload_name, workload_type, canonical_name, canonical_revision;
	cv_str hostname, cluster_id;
	enum cv_protocol protocol;
	enum cv_network_mode network_mode;
	bool native_tunnel;
	bool has_app_tunnel; /* application_tunnel present and not the default */
	bool app_tunnel_proxy; /* protocol PROXY, else NONE */
	uint16_t app_tunnel_port; /* 0 = unset */
	uint32_t capacity; /* default 1 */
	struct cv_membership *services;
	size_t nr_services;
	cv_str *policies; /* "ns/name" of selector policies */
	size_t nr_policies;
	struct cv_gateway *waypoint, *network_gateway; /* NULL = none */
};

/* Where a workload runs. Equal ones are one. */
struct cv_place {
	struct cv_shared shared;
	cv_str node;
	struct cv_locality locality;
	bool has_locality;
};

/* Small, because there is one for each pod of the mesh. */
struct cv_workload {
	int ref; /* atomic; cv_workload_ref / cv_workload_put */
	uint16_t nr_ips;
	uint8_t status; /* enum cv_health */
	bool name_in_uid;
	cv_str uid;
	struct cv_group *group;
	struct cv_place *place;
	struct cv_addr *ips; /* &ip when there is one */
	struct cv_addr ip;
};
/* Group and place are its own, to be filled, until it is sealed: then they are shared and constant. */
void cv_workload_seal(struct cv_workload *w);
void cv_workload_set_ips(struct cv_workload *w, const struct cv_addr *ips, size_t n);
/* NULL = none. A pod's name is the end of its uid, and is not held twice. */
const char *cv_workload_name(const struct cv_workload *w);

enum cv_lb_mode { CV_LB_STANDARD, CV_LB_STRICT, CV_LB_FAILOVER, CV_LB_PASSTHROUGH };
enum cv_lb_scope {
	CV_SCOPE_REGION,
	CV_SCOPE_ZONE,
	CV_SCOPE_SUBZONE,
	CV_SCOPE_NODE,
	CV_SCOPE_CLUSTER,
	CV_SCOPE_NETWORK,
};
enum cv_ip_families { CV_FAMILIES_ANY, CV_FAMILIES_V4, CV_FAMILIES_V6, CV_FAMILIES_DUAL };

/* An endpoint that the store has joined to a service (healthy, or health policy AllowAll). */
struct cv_service_endpoint {
	cv_str workload_uid;
	struct cv_port_map ports;
	enum cv_health status;
};

struct cv_weighted_waypoint {
	struct cv_gateway gateway;
	uint32_t weight;
};

struct cv_service {
	int ref;
	cv_str name, ns, hostname;
	struct cv_network_addr *vips;
	size_t nr_vips;
	struct cv_network_cidr *cidr_vips;
	size_t nr_cidr_vips;
	struct cv_port_map ports;
	/* Own endpoints of the resource (file format's `endpoints`) and those joined by the store. */
	struct cv_service_endpoint *endpoints; /* sorted by workload_uid */
	size_t nr_endpoints;
	cv_str *sans;
	size_t nr_sans;
	struct cv_gateway *waypoint;
	struct cv_weighted_waypoint *weighted_waypoints;
	size_t nr_weighted_waypoints;
	bool has_lb;
	enum cv_lb_mode lb_mode;
	enum cv_lb_scope *lb_preferences;
	size_t nr_lb_preferences;
	bool allow_unhealthy; /* health policy AllowAll */
	enum cv_ip_families families;
	bool has_families;
	bool canonical;
	bool ns_visible_only; /* visibility Namespace */
};

enum cv_policy_scope { CV_POLICY_GLOBAL, CV_POLICY_NAMESPACE, CV_POLICY_SELECTOR };
enum cv_policy_action { CV_POLICY_ALLOW, CV_POLICY_DENY };
enum cv_match_kind { CV_MATCH_EXACT, CV_MATCH_PREFIX, CV_MATCH_SUFFIX, CV_MATCH_PRESENCE };

struct cv_string_match {
	enum cv_match_kind kind;
	cv_str text;
};
struct cv_sa_match {
	cv_str ns, sa;
};

/* One match object: AND over attributes; each attribute is a positive and a negative list.
 * `unclear` = some entry could not be understood: true in a DENY, false in an ALLOW. */
struct cv_match {
	struct cv_string_match *namespaces, *not_namespaces, *principals, *not_principals;
	size_t nr_namespaces, nr_not_namespaces, nr_principals, nr_not_principals;
	struct cv_sa_match *service_accounts, *not_service_accounts;
	size_t nr_service_accounts, nr_not_service_accounts;
	struct cv_cidr *source_ips, *not_source_ips, *destination_ips, *not_destination_ips;
	size_t nr_source_ips, nr_not_source_ips, nr_destination_ips, nr_not_destination_ips;
	uint16_t *destination_ports, *not_destination_ports;
	size_t nr_destination_ports, nr_not_destination_ports;
	bool unclear;
};
/* No list holds anything: such a match never matches. */
bool cv_match_is_empty(const struct cv_match *m);

struct cv_clause { /* OR of matches; none = matches */
	struct cv_match *matches;
	size_t n;
};
struct cv_rule { /* AND of clauses; none = matches */
	struct cv_clause *clauses;
	size_t n;
};
struct cv_policy { /* OR of rules; none = never */
	int ref;
	cv_str name, ns;
	enum cv_policy_scope scope;
	enum cv_policy_action action;
	struct cv_rule *rules;
	size_t n;
	bool dry_run;
};

/* Objects under construction are plain calloc'ed structs with ref 1 (a workload: with a group and a
 * place); the put of the last reference frees every member. NULL is fine. */
struct cv_workload *cv_workload_new(void);
struct cv_workload *cv_workload_ref(struct cv_workload *w);
void cv_workload_put(struct cv_workload **w);
struct cv_service *cv_service_new(void);
struct cv_service *cv_service_ref(struct cv_service *s);
void cv_service_put(struct cv_service **s);
/* A new service like `from`, without endpoints. */
struct cv_service *cv_service_copy_bare(const struct cv_service *from);
struct cv_policy *cv_policy_new(void);
struct cv_policy *cv_policy_ref(struct cv_policy *p);
void cv_policy_put(struct cv_policy **p);

/* Same content? (the file source sends only what changed) */
bool cv_workload_eq(const struct cv_workload *a, const struct cv_workload *b);
bool cv_service_eq(const struct cv_service *a, const struct cv_service *b);
/* The same but for endpoints? */
bool cv_service_eq_bare(const struct cv_service *a, const struct cv_service *b);
bool cv_policy_eq(const struct cv_policy *a, const struct cv_policy *b);
