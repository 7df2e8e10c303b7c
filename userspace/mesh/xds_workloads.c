/* SPDX-License-Identifier: Apache-2.0 */
/* istio.workload.Address as workloads and services, with the defaults that istiod leaves out. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/xds_decode.h"
#include "userspace/proto/pb/workload.pb-c.h"
#include "userspace/proto/utf8.h"

__attribute__((format(printf, 2, 3))) static int refuse(char error[CV_XDS_ERROR], const char *fmt,
							...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, CV_XDS_ERROR, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static cv_str str_or(const char *text, const char *def)
{
	return cv_str_new(text && *text ? text : def);
}

/* calloc that cannot fail; NULL for none. */
static void *new_array(size_t n, size_t size)
{
	void *p = n ? calloc(n, size) : NULL;

	if (n && !p)
		abort(); /* as the constructors of the objects */
	return p;
}

/* ---- parts ---------------------------------------------------------------------------------- */

static int decode_ip(const ProtobufCBinaryData *b, struct cv_addr *ret, char error[CV_XDS_ERROR])
{
	if (b->len != 4 && b->len != 16)
		return refuse(error, "an address of %zu bytes", b->len);
	*ret = cv_addr_from_bytes(b->data, b->len);
	return 0;
}

/* Of two entries for a port the last one is taken, as in a map. */
static int decode_ports(size_t n, Istio__Workload__Port *const *ports, struct cv_port_map *ret,
			char error[CV_XDS_ERROR])
{
	_cleanup_free_ struct cv_port_map_entry *entries = new_array(n, sizeof(*entries));

	for (size_t i = 0; i < n; i++) {
		if (ports[i]->service_port > UINT16_MAX || ports[i]->target_port > UINT16_MAX)
			return refuse(error, "port %u to %u", ports[i]->service_port,
				      ports[i]->target_port);
		entries[i].service_port = (uint16_t)ports[i]->service_port;
		entries[i].target_port = (uint16_t)ports[i]->target_port;
	}
	cv_port_map_init(ret, entries, n);
	return 0;
}

static int decode_gateway(const Istio__Workload__GatewayAddress *from, struct cv_gateway *ret,
			  char error[CV_XDS_ERROR])
{
	if (!from)
		return refuse(error, "a gateway without a destination");
	if (from->hbone_mtls_port > UINT16_MAX)
		return refuse(error, "a gateway's port %u", from->hbone_mtls_port);
	ret->hbone_port = (uint16_t)from->hbone_mtls_port;
	switch (from->destination_case) {
	case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME:
		ret->by_host = true;
		ret->host.ns = cv_str_new(from->hostname->namespace_);
		ret->host.host = cv_str_new(from->hostname->hostname);
		return 0;
	case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS:
		ret->addr.network = cv_str_new(from->address->network);
		return decode_ip(&from->address->address, &ret->addr.ip, error);
	default:
		return refuse(error, "a gateway without a destination");
	}
}

static int decode_gateway_ptr(const Istio__Workload__GatewayAddress *from, struct cv_gateway **ret,
			      char error[CV_XDS_ERROR])
{
	if (!from)
		return 0;
	*ret = new_array(1, sizeof(**ret));
	return decode_gateway(from, *ret, error);
}

/* ---- workloads ------------------------------------------------------------------------------ */

static int compare_memberships(const void *a, const void *b)
{
	const struct cv_membership *ma = a, *mb = b;
	int r = strcmp(cv_str_text(ma->service.ns), cv_str_text(mb->service.ns));

	return r ? r : strcmp(cv_str_text(ma->service.host), cv_str_text(mb->service.host));
}

/* A map has no order on the wire: sorted, so that the same workload is equal to itself. */
static int decode_memberships(const Istio__Workload__Workload *from, struct cv_group *g,
			      char error[CV_XDS_ERROR])
{
	g->services = new_array(from->n_services, sizeof(*g->services));
	for (size_t i = 0; i < from->n_services; i++) {
		const Istio__Workload__Workload__ServicesEntry *e = from->services[i];
		struct cv_membership *m = &g->services[g->nr_services++];
		const char *slash = strchr(e->key, '/');
		int r = 0;

		if (!slash)
			return refuse(error, "service \"%.100s\" is not namespace/hostname",
				      e->key);
		m->service.ns = cv_str_new_len(e->key, (size_t)(slash - e->key));
		m->service.host = cv_str_new(slash + 1);
		if (e->value)
			r = decode_ports(e->value->n_ports, e->value->ports, &m->ports, error);
		if (r < 0)
			return r;
	}
	if (g->nr_services)
		qsort(g->services, g->nr_services, sizeof(*g->services), compare_memberships);
	return 0;
}

static int decode_enums(const Istio__Workload__Workload *from, struct cv_workload *w,
			char error[CV_XDS_ERROR])
{
	struct cv_group *g = w->group;
	static const char *const types[] = { "deployment", "cronjob", "pod", "job" };

	if (from->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__LEGACY_ISTIO_MTLS)
		return refuse(error, "tunnel protocol LEGACY_ISTIO_MTLS is not supported");
	if (from->tunnel_protocol != ISTIO__WORKLOAD__TUNNEL_PROTOCOL__NONE &&
	    from->tunnel_protocol != ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE)
		return refuse(error, "unknown tunnel protocol %d", (int)from->tunnel_protocol);
	if ((unsigned)from->network_mode > ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK)
		return refuse(error, "unknown network mode %d", (int)from->network_mode);
	if ((unsigned)from->status > ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY)
		return refuse(error, "unknown status %d", (int)from->status);
	g->protocol = from->tunnel_protocol ? CV_PROTOCOL_HBONE : CV_PROTOCOL_TCP;
	g->network_mode = from->network_mode ? CV_NETWORK_HOST : CV_NETWORK_STANDARD;
	w->status = from->status ? CV_UNHEALTHY : CV_HEALTHY;
	/* What a workload was made of decides nothing: one that we do not know is a deployment. */
	g->workload_type = cv_str_new((unsigned)from->workload_type < CV_ARRAY_SIZE(types) ?
					      types[from->workload_type] :
					      types[0]);
	return 0;
}

static int decode_tunnel(const Istio__Workload__ApplicationTunnel *from, struct cv_group *g,
			 char error[CV_XDS_ERROR])
{
	if (!from)
		return 0;
	if ((unsigned)from->protocol > ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__PROXY ||
	    from->port > UINT16_MAX)
		return refuse(error, "unknown application tunnel %d, port %u", (int)from->protocol,
			      from->port);
	g->has_app_tunnel = from->protocol || from->port;
	g->app_tunnel_proxy = from->protocol;
	g->app_tunnel_port = (uint16_t)from->port;
	return 0;
}

static void decode_names(const Istio__Workload__Workload *from, struct cv_workload *w)
{
	struct cv_group *g = w->group;

	w->uid = cv_str_new(from->uid);
	g->name = cv_str_new(from->name);
	g->ns = cv_str_new(from->namespace_);
	g->trust_domain = str_or(from->trust_domain, "cluster.local");
	g->service_account = str_or(from->service_account, "default");
	g->network = cv_str_new(from->network);
	g->workload_name = cv_str_new(from->workload_name);
	g->canonical_name = cv_str_new(from->canonical_name);
	g->canonical_revision = cv_str_new(from->canonical_revision);
	g->hostname = cv_str_new(from->hostname);
	w->place->node = cv_str_new(from->node);
	g->cluster_id = str_or(from->cluster_id, "Kubernetes");
	if (from->locality) {
		w->place->has_locality = true;
		w->place->locality.region = cv_str_new(from->locality->region);
		w->place->locality.zone = cv_str_new(from->locality->zone);
		w->place->locality.subzone = cv_str_new(from->locality->subzone);
	}
	g->native_tunnel = from->native_tunnel;
	g->capacity = from->capacity ? from->capacity->value : 1;
	g->policies = new_array(from->n_authorization_policies, sizeof(*g->policies));
	for (; g->nr_policies < from->n_authorization_policies; g->nr_policies++)
		g->policies[g->nr_policies] =
			cv_str_new(from->authorization_policies[g->nr_policies]);
}

static int decode_ips(const Istio__Workload__Workload *from, struct cv_workload *w,
		      char error[CV_XDS_ERROR])
{
	_cleanup_free_ struct cv_addr *ips = new_array(from->n_addresses, sizeof(*ips));
	int r = 0;

	if (from->n_addresses > UINT16_MAX)
		return refuse(error, "%zu addresses", from->n_addresses);
	for (size_t i = 0; r == 0 && i < from->n_addresses; i++)
		r = decode_ip(&from->addresses[i], &ips[i], error);
	if (r == 0)
		cv_workload_set_ips(w, ips, from->n_addresses);
	return r;
}

static int decode_workload(const Istio__Workload__Workload *from, struct cv_workload *w,
			   char error[CV_XDS_ERROR])
{
	struct cv_group *g = w->group;
	int r;

	decode_names(from, w);
	if (!w->uid)
		return refuse(error, "a workload without a uid");
	r = decode_enums(from, w, error);
	r = r ? r : decode_ips(from, w, error);
	r = r ? r : decode_tunnel(from->application_tunnel, g, error);
	r = r ? r : decode_gateway_ptr(from->waypoint, &g->waypoint, error);
	r = r ? r : decode_gateway_ptr(from->network_gateway, &g->network_gateway, error);
	r = r ? r : decode_memberships(from, g, error);
	cv_workload_seal(w);
	return r;
}

/* ---- services ------------------------------------------------------------------------------- */

static int decode_vips(const Istio__Workload__Service *from, struct cv_service *s,
		       char error[CV_XDS_ERROR])
{
	s->vips = new_array(from->n_addresses, sizeof(*s->vips));
	s->cidr_vips = new_array(from->n_addresses, sizeof(*s->cidr_vips));
	for (size_t i = 0; i < from->n_addresses; i++) {
		const Istio__Workload__NetworkAddress *a = from->addresses[i];
		struct cv_addr ip;
		unsigned full;
		int r = decode_ip(&a->address, &ip, error);

		if (r < 0)
			return r;
		full = cv_addr_is_v4(&ip) ? 32 : 128;
		if (a->prefix_case != ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH ||
		    a->length == full) {
			s->vips[s->nr_vips++] =
				(struct cv_network_addr){ cv_str_new(a->network), ip };
			continue;
		}
		if (a->length > full)
			return refuse(error, "a prefix of %u bits", a->length);
		s->cidr_vips[s->nr_cidr_vips++] =
			(struct cv_network_cidr){ cv_str_new(a->network),
						  { ip, (uint8_t)a->length } };
	}
	return 0;
}

static int decode_balancing(const Istio__Workload__LoadBalancing *from, struct cv_service *s,
			    char error[CV_XDS_ERROR])
{
	if (!from)
		return 0;
	s->has_lb = true;
	if ((unsigned)from->mode > ISTIO__WORKLOAD__LOAD_BALANCING__MODE__PASSTHROUGH)
		return refuse(error, "unknown load-balancing mode %d", (int)from->mode);
	if ((unsigned)from->health_policy >
	    ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL)
		return refuse(error, "unknown health policy %d", (int)from->health_policy);
	/* Both enums have the same order. */
	s->lb_mode = (enum cv_lb_mode)from->mode;
	s->allow_unhealthy = from->health_policy;
	s->lb_preferences = new_array(from->n_routing_preference, sizeof(*s->lb_preferences));
	for (size_t i = 0; i < from->n_routing_preference; i++) {
		unsigned scope = (unsigned)from->routing_preference[i];

		if (scope == ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__UNSPECIFIED_SCOPE ||
		    scope > ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NETWORK)
			return refuse(error, "unknown load-balancing scope %u", scope);
		s->lb_preferences[s->nr_lb_preferences++] = (enum cv_lb_scope)(scope - 1);
	}
	return 0;
}

static int decode_waypoints(const Istio__Workload__Service *from, struct cv_service *s,
			    char error[CV_XDS_ERROR])
{
	int r = decode_gateway_ptr(from->waypoint, &s->waypoint, error);

	s->weighted_waypoints =
		new_array(from->n_weighted_waypoints, sizeof(*s->weighted_waypoints));
	for (size_t i = 0; r == 0 && i < from->n_weighted_waypoints; i++) {
		struct cv_weighted_waypoint *w = &s->weighted_waypoints[s->nr_weighted_waypoints++];

		w->weight = from->weighted_waypoints[i]->weight;
		r = decode_gateway(from->weighted_waypoints[i]->destination, &w->gateway, error);
	}
	return r;
}

static int decode_families(const Istio__Workload__Service *from, struct cv_service *s,
			   char error[CV_XDS_ERROR])
{
	static const enum cv_ip_families families[] = { CV_FAMILIES_ANY, CV_FAMILIES_V4,
							CV_FAMILIES_V6, CV_FAMILIES_DUAL };

	if ((unsigned)from->ip_families >= CV_ARRAY_SIZE(families))
		return refuse(error, "unknown address families %d", (int)from->ip_families);
	s->has_families = from->ip_families != ISTIO__WORKLOAD__IPFAMILIES__AUTOMATIC;
	s->families = families[from->ip_families];
	return 0;
}

static int decode_service(const Istio__Workload__Service *from, struct cv_service *s,
			  char error[CV_XDS_ERROR])
{
	int r;

	s->name = cv_str_new(from->name);
	s->ns = cv_str_new(from->namespace_);
	s->hostname = cv_str_new(from->hostname);
	s->canonical = from->canonical;
	/* One that we do not know hides nothing. */
	s->ns_visible_only = from->visibility == ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE;
	if (!s->hostname)
		return refuse(error, "a service without a hostname");
	s->sans = new_array(from->n_subject_alt_names, sizeof(*s->sans));
	for (; s->nr_sans < from->n_subject_alt_names; s->nr_sans++)
		s->sans[s->nr_sans] = cv_str_new(from->subject_alt_names[s->nr_sans]);
	r = decode_vips(from, s, error);
	r = r ? r : decode_ports(from->n_ports, from->ports, &s->ports, error);
	r = r ? r : decode_waypoints(from, s, error);
	r = r ? r : decode_balancing(from->load_balancing, s, error);
	return r ? r : decode_families(from, s, error);
}

static cv_str service_key(const struct cv_service *s)
{
	_cleanup_free_ char *text = NULL;

	if (asprintf(&text, "%s/%s", cv_str_text(s->ns), cv_str_text(s->hostname)) < 0)
		abort(); /* as the constructors of the objects */
	return cv_str_new(text);
}

/* ---- addresses ------------------------------------------------------------------------------ */

static int decode_type(const Istio__Workload__Address *a, struct cv_delta *ret,
		       char error[CV_XDS_ERROR])
{
	const char *bad = cv_utf8_bad_field(&a->base);
	int r;

	if (bad)
		return refuse(error, "%s is not UTF-8", bad);
	switch (a->type_case) {
	case ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD:
		ret->kind = CV_DELTA_WORKLOAD;
		ret->workload = cv_workload_new();
		r = decode_workload(a->workload, ret->workload, error);
		if (r < 0)
			cv_workload_put(&ret->workload);
		else
			ret->key = cv_str_ref(ret->workload->uid);
		return r;
	case ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE:
		ret->kind = CV_DELTA_SERVICE;
		ret->service = cv_service_new();
		r = decode_service(a->service, ret->service, error);
		if (r < 0)
			cv_service_put(&ret->service);
		else
			ret->key = service_key(ret->service);
		return r;
	default:
		return refuse(error, "neither a workload nor a service");
	}
}

int cv_xds_decode_address(const uint8_t *data, size_t len, struct cv_delta *ret,
			  char error[CV_XDS_ERROR])
{
	Istio__Workload__Address *a = istio__workload__address__unpack(NULL, len, data);
	int r;

	*ret = (struct cv_delta){};
	if (!a)
		return refuse(error, "not an istio.workload.Address");
	r = decode_type(a, ret, error);
	istio__workload__address__free_unpacked(a, NULL);
	return r;
}
