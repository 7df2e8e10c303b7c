/* SPDX-License-Identifier: Apache-2.0 */
/* The control plane's resources on their way into the store: what each field becomes, what is
 * refused and what is not for its sake, removals, and the order between workloads and the policies
 * that they list. Responses are fed as bytes, without a connection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/xds_private.h"
#include "userspace/proto/pb/discovery.pb-c.h"
#include "userspace/proto/pb/security.pb-c.h"
#include "userspace/proto/pb/workload.pb-c.h"

static struct cv_xds *x;
static struct cv_buf message;
static unsigned applies;
static bool closed_for_a_moment; /* a workload listed a policy that was not there */

static int look_for_missing(struct cv_workload *w, void *arg)
{
	struct cv_policy_set set;

	(void)arg;
	cv_store_policies_for(x->store, w, &set);
	closed_for_a_moment |= set.missing;
	cv_policy_set_fini(&set);
	return 0;
}

static void on_change(const struct cv_store_change *change, void *arg)
{
	(void)change;
	(void)arg;
	applies++;
	cv_store_workload_each(x->store, look_for_missing, NULL);
}

static int setup(void **state)
{
	const struct cv_store_opts opts = { .network = "", .node = "node-1" };

	(void)state;
	x = calloc(1, sizeof(*x));
	assert_int_equal(cv_worker_control(&x->control), 0);
	assert_int_equal(cv_store_new(&x->store, &opts), 0);
	cv_store_subscribe(x->store, on_change, NULL);
	cv_xds_response_init(&x->splitter, &xds_response_ops, x);
	cv_buf_init(&x->refusals, CV_LIMIT_XDS_REFUSALS);
	cv_buf_init(&message, 64 << 20);
	assert_int_equal(xds_hold_init(x), 0);
	assert_int_equal(xds_demand_init(x, false), 0);
	applies = 0;
	closed_for_a_moment = false;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	xds_demand_fini(x);
	xds_hold_fini(x);
	xds_response_clear(x);
	cv_xds_response_fini(&x->splitter);
	xds_batch_fini(&x->batch);
	for (int i = 0; i < CV_XDS_TYPE_NR; i++)
		xds_names_fini(&x->types[i].names);
	cv_store_free(&x->store);
	cv_worker_free(&x->control);
	free(x);
	cv_buf_fini(&message);
	assert_int_equal(cv_str_count(), 0);
	return 0;
}

/* ---- making responses ---- */

static void put(unsigned field, const void *data, size_t len)
{
	uint8_t head[11];
	size_t n = 0;

	head[n++] = (uint8_t)(field << 3 | 2);
	for (size_t v = len;; v >>= 7) {
		head[n++] = (uint8_t)(v > 0x7f ? v | 0x80 : v);
		if (v <= 0x7f)
			break;
	}
	assert_int_equal(cv_buf_append(&message, head, n), 0);
	assert_int_equal(cv_buf_append(&message, data, len), 0);
}

static void add_bytes(const char *name, const char *url, const void *data, size_t len)
{
	Envoy__Service__Discovery__V3__Resource r = ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	uint8_t buf[8192];

	any.type_url = (char *)url;
	any.value = (ProtobufCBinaryData){ len, (uint8_t *)data };
	r.name = (char *)name;
	r.version = (char *)"1f";
	r.resource = &any;
	assert_true(envoy__service__discovery__v3__resource__get_packed_size(&r) < sizeof(buf));
	put(2, buf, envoy__service__discovery__v3__resource__pack(&r, buf));
}

static void add_workload(Istio__Workload__Workload *w)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	uint8_t buf[4096];

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	a.workload = w;
	add_bytes(w->uid, CV_XDS_TYPE_ADDRESS, buf, istio__workload__address__pack(&a, buf));
}

static void add_service(const char *name, Istio__Workload__Service *s)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	uint8_t buf[4096];

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	a.service = s;
	add_bytes(name, CV_XDS_TYPE_ADDRESS, buf, istio__workload__address__pack(&a, buf));
}

static void add_policy(const char *name, const Istio__Security__Authorization *p)
{
	uint8_t buf[4096];

	add_bytes(name, CV_XDS_TYPE_AUTHORIZATION, buf,
		  istio__security__authorization__pack(p, buf));
}

static void remove_name(const char *name)
{
	put(6, name, strlen(name));
}

/* The response is whole: as the stream would, byte by byte when `slowly`. Refusals stay to be
 * looked at. */
static void deliver(enum cv_xds_type type, bool slowly)
{
	struct cv_span s;

	put(4, cv_xds_type_urls[type], strlen(cv_xds_type_urls[type]));
	put(5, "n1", 2);
	xds_response_clear(x);
	s = cv_buf_peek(&message);
	for (size_t at = 0; at < s.len; at += slowly ? 1 : s.len)
		assert_int_equal(
			cv_xds_response_feed(&x->splitter, s.data + at, slowly ? 1 : s.len), 0);
	assert_int_equal(cv_xds_response_end(&x->splitter), 0);
	assert_int_equal(xds_type_find(x->type_url), type);
	assert_string_equal(x->nonce, "n1");
	xds_apply_end(x, type);
	cv_buf_consume(&message, cv_buf_len(&message));
}

static const char *refusals(void)
{
	static char text[CV_LIMIT_XDS_REFUSALS + 1];
	struct cv_span s = cv_buf_peek(&x->refusals);

	snprintf(text, sizeof(text), "%.*s", (int)s.len, s.len ? (const char *)s.data : "");
	return text;
}

static Istio__Workload__Workload simple(const char *uid)
{
	Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;

	w.uid = (char *)uid;
	w.name = (char *)uid;
	w.namespace_ = (char *)"ns";
	w.node = (char *)"node-1";
	return w;
}

static struct cv_workload *find(const char *uid)
{
	cv_str key = cv_str_new(uid);
	struct cv_workload *w = cv_store_workload_by_uid(x->store, key);

	cv_str_put(&key);
	return w;
}

static bool is_there(const char *uid)
{
	struct cv_workload *w = find(uid);
	bool there = w;

	cv_workload_put(&w);
	return there;
}

static struct cv_policy *find_policy(const char *name)
{
	cv_str key = cv_str_new(name);
	struct cv_policy *p = cv_store_policy_by_key(x->store, key);

	cv_str_put(&key);
	return p;
}

static bool is_policy_there(const char *name)
{
	struct cv_policy *p = find_policy(name);
	bool there = p;

	cv_policy_put(&p);
	return there;
}

/* ---- workloads and services ---- */

static Istio__Workload__Port http_port = { PROTOBUF_C_MESSAGE_INIT(
						   &istio__workload__port__descriptor),
					   80, 8080, ISTIO__WORKLOAD__APP_PROTOCOL__HTTP2 };
static Istio__Workload__Port https_port = {
	PROTOBUF_C_MESSAGE_INIT(&istio__workload__port__descriptor), 443, 8443, 99
};

static void test_workload(void **state)
{
	Istio__Workload__Workload from = simple("c1//Pod/ns/a");
	Istio__Workload__Port *ports[] = { &https_port, &http_port };
	Istio__Workload__PortList list = ISTIO__WORKLOAD__PORT_LIST__INIT;
	Istio__Workload__Workload__ServicesEntry entries[2];
	Istio__Workload__Workload__ServicesEntry *services[] = { &entries[0], &entries[1] };
	Istio__Workload__GatewayAddress waypoint = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
	Istio__Workload__NamespacedHostname host = ISTIO__WORKLOAD__NAMESPACED_HOSTNAME__INIT;
	Istio__Workload__ApplicationTunnel tunnel = ISTIO__WORKLOAD__APPLICATION_TUNNEL__INIT;
	Istio__Workload__Locality locality = ISTIO__WORKLOAD__LOCALITY__INIT;
	Google__Protobuf__UInt32Value capacity = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	ProtobufCBinaryData ips[] = { { 4, (uint8_t *)"\x0a\0\0\1" },
				      { 16, (uint8_t *)"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1" } };
	char *policies[] = { (char *)"ns/p" };
	struct cv_workload *w;

	(void)state;
	list.n_ports = 2;
	list.ports = ports;
	for (unsigned i = 0; i < 2; i++) {
		istio__workload__workload__services_entry__init(&entries[i]);
		entries[i].key = (char *)(i ? "ns/a.ns.svc" : "ns/b.ns.svc");
		entries[i].value = i ? &list : NULL;
	}
	from.n_services = 2;
	from.services = services;
	host.namespace_ = (char *)"ns";
	host.hostname = (char *)"way.ns.svc";
	waypoint.destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
	waypoint.hostname = &host;
	waypoint.hbone_mtls_port = 15008;
	from.waypoint = &waypoint;
	tunnel.protocol = ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__PROXY;
	tunnel.port = 15088;
	from.application_tunnel = &tunnel;
	locality.region = (char *)"eu";
	from.locality = &locality;
	capacity.value = 7;
	from.capacity = &capacity;
	from.n_addresses = 2;
	from.addresses = ips;
	from.n_authorization_policies = 1;
	from.authorization_policies = policies;
	from.tunnel_protocol = ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
	from.workload_type = ISTIO__WORKLOAD__WORKLOAD_TYPE__POD;
	from.status = ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY;
	from.network = (char *)"net";
	add_workload(&from);
	deliver(CV_XDS_ADDRESS, true);
	assert_string_equal(refusals(), "");
	w = find("c1//Pod/ns/a");
	assert_non_null(w);
	assert_string_equal(w->group->trust_domain, "cluster.local");
	assert_string_equal(w->group->service_account, "default");
	assert_string_equal(w->group->cluster_id, "Kubernetes");
	assert_string_equal(w->group->workload_type, "pod");
	assert_string_equal(w->group->network, "net");
	assert_int_equal(w->group->protocol, CV_PROTOCOL_HBONE);
	assert_int_equal(w->status, CV_UNHEALTHY);
	assert_int_equal(w->group->capacity, 7);
	assert_int_equal(w->nr_ips, 2);
	assert_true(cv_addr_is_v4(&w->ips[0]) && !cv_addr_is_v4(&w->ips[1]));
	assert_int_equal(w->group->nr_services, 2);
	assert_string_equal(w->group->services[0].service.host, "a.ns.svc");
	assert_int_equal(cv_port_map_find(&w->group->services[0].ports, 80), 8080);
	assert_int_equal(cv_port_map_find(&w->group->services[0].ports, 443), 8443);
	assert_int_equal(w->group->services[1].ports.n, 0);
	assert_true(w->group->waypoint->by_host && w->group->waypoint->hbone_port == 15008);
	assert_string_equal(w->group->waypoint->host.host, "way.ns.svc");
	assert_true(w->group->has_app_tunnel && w->group->app_tunnel_proxy &&
		    w->group->app_tunnel_port == 15088);
	assert_true(w->place->has_locality);
	assert_string_equal(w->place->locality.region, "eu");
	assert_string_equal(w->group->policies[0], "ns/p");
	cv_workload_put(&w);
}

static Istio__Workload__Service simple_service(const char *host)
{
	Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;

	s.name = (char *)"s";
	s.namespace_ = (char *)"ns";
	s.hostname = (char *)host;
	return s;
}

static void test_service(void **state)
{
	Istio__Workload__Service from = simple_service("s.ns.svc");
	Istio__Workload__NetworkAddress vips[3], *listed[] = { &vips[0], &vips[1], &vips[2] };
	Istio__Workload__LoadBalancing lb = ISTIO__WORKLOAD__LOAD_BALANCING__INIT;
	Istio__Workload__LoadBalancing__Scope scopes[] = {
		ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NETWORK,
		ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__REGION
	};
	cv_str ns = cv_str_new("ns"), host = cv_str_new("s.ns.svc");
	struct cv_service *s;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		istio__workload__network_address__init(&vips[i]);
		vips[i].address = (ProtobufCBinaryData){ 4, (uint8_t *)"\x0a\x60\0\1" };
	}
	vips[1].prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
	vips[1].length = 32;
	vips[2].prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
	vips[2].length = 0;
	from.n_addresses = 3;
	from.addresses = listed;
	lb.mode = ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER;
	lb.health_policy = ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
	lb.n_routing_preference = 2;
	lb.routing_preference = scopes;
	from.load_balancing = &lb;
	from.ip_families = ISTIO__WORKLOAD__IPFAMILIES__DUAL;
	from.visibility = 77; /* unknown: public */
	from.canonical = true;
	add_service("ns/s.ns.svc", &from);
	deliver(CV_XDS_ADDRESS, false);
	assert_string_equal(refusals(), "");
	s = cv_store_service_by_host(x->store, ns, host);
	assert_non_null(s);
	assert_int_equal(s->nr_vips, 2);
	assert_int_equal(s->nr_cidr_vips, 1);
	assert_int_equal(s->cidr_vips[0].cidr.len, 0);
	assert_int_equal(s->lb_mode, CV_LB_FAILOVER);
	assert_int_equal(s->lb_preferences[0], CV_SCOPE_NETWORK);
	assert_int_equal(s->lb_preferences[1], CV_SCOPE_REGION);
	assert_true(s->allow_unhealthy && s->canonical && !s->ns_visible_only);
	assert_int_equal(s->families, CV_FAMILIES_DUAL);
	cv_service_put(&s);
	cv_str_put(&ns);
	cv_str_put(&host);
}

/* Each of them is refused by name, for its reason, and the one that is right counts. */
static void test_refused(void **state)
{
	Istio__Workload__Workload w;
	Istio__Workload__GatewayAddress nowhere = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
	Istio__Workload__Workload__ServicesEntry entry;
	Istio__Workload__Workload__ServicesEntry *services[] = { &entry };
	Istio__Workload__Service s = simple_service("s");
	Istio__Workload__LoadBalancing lb = ISTIO__WORKLOAD__LOAD_BALANCING__INIT;
	ProtobufCBinaryData ip = { 5, (uint8_t *)"12345" };

	(void)state;
	w = simple("mtls");
	w.tunnel_protocol = ISTIO__WORKLOAD__TUNNEL_PROTOCOL__LEGACY_ISTIO_MTLS;
	add_workload(&w);
	w = simple("tunnel");
	w.tunnel_protocol = 9;
	add_workload(&w);
	w = simple("status");
	w.status = 9;
	add_workload(&w);
	w = simple("mode");
	w.network_mode = 9;
	add_workload(&w);
	w = simple("ip");
	w.n_addresses = 1;
	w.addresses = &ip;
	add_workload(&w);
	w = simple("gateway");
	w.waypoint = &nowhere;
	add_workload(&w);
	w = simple("key");
	istio__workload__workload__services_entry__init(&entry);
	entry.key = (char *)"no-slash";
	w.n_services = 1;
	w.services = services;
	add_workload(&w);
	w = simple("utf8");
	w.name = (char *)"\xff";
	add_workload(&w);
	lb.mode = 9;
	s.load_balancing = &lb;
	add_service("lb", &s);
	add_bytes("bytes", CV_XDS_TYPE_ADDRESS, "\x0a\x05", 2);
	add_bytes("empty", CV_XDS_TYPE_ADDRESS, "", 0);
	add_bytes("type", "type.googleapis.com/other", "", 0);
	w = simple("right");
	add_workload(&w);
	deliver(CV_XDS_ADDRESS, true);
	assert_string_equal(
		refusals(),
		"mtls: tunnel protocol LEGACY_ISTIO_MTLS is not supported; "
		"tunnel: unknown tunnel protocol 9; status: unknown status 9; "
		"mode: unknown network mode 9; ip: an address of 5 bytes; "
		"gateway: a gateway without a destination; "
		"key: service \"no-slash\" is not namespace/hostname; utf8: name is not UTF-8; "
		"lb: unknown load-balancing mode 9; bytes: not an istio.workload.Address; "
		"empty: neither a workload nor a service; type: unknown type");
	assert_true(is_there("right"));
	assert_false(is_there("ip"));
	assert_int_equal(x->types[CV_XDS_ADDRESS].names.n, 1);
	assert_int_equal(x->refused, 12);
}

/* A refused update leaves what was there. */
static void test_refused_update(void **state)
{
	Istio__Workload__Workload w = simple("a");

	(void)state;
	add_workload(&w);
	deliver(CV_XDS_ADDRESS, false);
	w.status = 9;
	add_workload(&w);
	deliver(CV_XDS_ADDRESS, false);
	assert_string_equal(refusals(), "a: unknown status 9");
	assert_true(is_there("a"));
}

static void test_unknown_field(void **state)
{
	/* Address { workload { uid "a", field 99 = 1 }, field 50 = "x" } */
	static const char bytes[] = "\x0a\7\xa2\1\1a\x98\6\1\x92\3\1x";

	(void)state;
	add_bytes("a", CV_XDS_TYPE_ADDRESS, bytes, sizeof(bytes) - 1);
	deliver(CV_XDS_ADDRESS, true);
	assert_string_equal(refusals(), "");
	assert_true(is_there("a"));
}

static void test_removal(void **state)
{
	Istio__Workload__Workload w = simple("a"), other = simple("b");
	Istio__Workload__Service s = simple_service("s");
	cv_str ns = cv_str_new("ns"), host = cv_str_new("s");

	(void)state;
	add_workload(&w);
	add_workload(&other);
	add_service("ns/s", &s);
	deliver(CV_XDS_ADDRESS, false);
	assert_int_equal(x->types[CV_XDS_ADDRESS].names.n, 3);
	remove_name("a");
	remove_name("ns/s");
	remove_name("never/was");
	deliver(CV_XDS_ADDRESS, true);
	assert_false(is_there("a"));
	assert_true(is_there("b"));
	assert_null(cv_store_service_by_host(x->store, ns, host));
	assert_int_equal(x->types[CV_XDS_ADDRESS].names.n, 1);
	cv_str_put(&ns);
	cv_str_put(&host);
}

/* What another source gave is not the control plane's to remove. */
static void test_foreign(void **state)
{
	struct cv_workload *w = cv_workload_new();
	struct cv_delta d = { .kind = CV_DELTA_WORKLOAD, .key = cv_str_new("a"), .workload = w };

	(void)state;
	w->uid = cv_str_ref(d.key);
	cv_store_apply(x->store, &d, 1);
	cv_str_put(&d.key);
	remove_name("a");
	deliver(CV_XDS_ADDRESS, false);
	assert_true(is_there("a"));
}

/* A control plane that repeats itself changes nothing. */
static void test_repeated(void **state)
{
	Istio__Workload__Workload w = simple("a");
	Istio__Workload__Service s = simple_service("s");
	Istio__Security__Authorization p = ISTIO__SECURITY__AUTHORIZATION__INIT;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		add_workload(&w);
		add_service("ns/s", &s);
		deliver(CV_XDS_ADDRESS, false);
		add_policy("ns/p", &p);
		deliver(CV_XDS_AUTHORIZATION, false);
		assert_int_equal(applies, 2);
	}
	w.name = (char *)"another";
	add_workload(&w);
	w.name = w.uid; /* … and back in one response: the last word counts */
	add_workload(&w);
	deliver(CV_XDS_ADDRESS, false);
	struct cv_workload *now = find("a");
	assert_string_equal(cv_workload_name(now), "a");
	cv_workload_put(&now);
}

/* ---- policies ---- */

static void test_policy(void **state)
{
	Istio__Security__Authorization p = ISTIO__SECURITY__AUTHORIZATION__INIT;
	Istio__Security__Rule rule = ISTIO__SECURITY__RULE__INIT, *rules[] = { &rule };
	Istio__Security__Clause clause = ISTIO__SECURITY__CLAUSE__INIT, *clauses[] = { &clause };
	Istio__Security__Match match = ISTIO__SECURITY__MATCH__INIT, *matches[] = { &match };
	Istio__Security__StringMatch exact = ISTIO__SECURITY__STRING_MATCH__INIT,
				     none = ISTIO__SECURITY__STRING_MATCH__INIT;
	Istio__Security__StringMatch *names[] = { &exact }, *unclear[] = { &none };
	Istio__Security__Address range = ISTIO__SECURITY__ADDRESS__INIT, *ranges[] = { &range };
	uint32_t ports[] = { 80, 70000 };
	struct cv_policy *got;
	const struct cv_match *m;

	(void)state;
	p.name = (char *)"p";
	p.namespace_ = (char *)"ns";
	p.scope = ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR;
	p.action = ISTIO__SECURITY__ACTION__DENY;
	p.n_rules = 1;
	p.rules = rules;
	rule.n_clauses = 1;
	rule.clauses = clauses;
	clause.n_matches = 1;
	clause.matches = matches;
	exact.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
	exact.exact = (char *)"web";
	match.n_namespaces = 1;
	match.namespaces = names;
	range.address = (ProtobufCBinaryData){ 4, (uint8_t *)"\x0a\0\0\0" };
	range.length = 8;
	match.n_source_ips = 1;
	match.source_ips = ranges;
	match.n_destination_ports = 1;
	match.destination_ports = ports;
	add_policy("ns/p", &p);
	match.n_destination_ports = 2;
	match.n_principals = 1;
	match.principals = unclear;
	add_policy("ns/unclear", &p);
	deliver(CV_XDS_AUTHORIZATION, true);
	assert_string_equal(refusals(), "");
	got = find_policy("ns/p");
	assert_non_null(got);
	assert_int_equal(got->scope, CV_POLICY_SELECTOR);
	assert_int_equal(got->action, CV_POLICY_DENY);
	m = &got->rules[0].clauses[0].matches[0];
	assert_string_equal(m->namespaces[0].text, "web");
	assert_int_equal(m->source_ips[0].len, 8);
	assert_int_equal(m->destination_ports[0], 80);
	assert_false(m->unclear);
	cv_policy_put(&got);
	got = find_policy("ns/unclear");
	m = &got->rules[0].clauses[0].matches[0];
	assert_true(m->unclear);
	assert_int_equal(m->nr_destination_ports, 1);
	assert_int_equal(m->nr_principals, 0);
	cv_policy_put(&got);
}

/* Without a good version before, the scope is denied; with one, that stays. */
static void test_refused_policy(void **state)
{
	Istio__Security__Authorization p = ISTIO__SECURITY__AUTHORIZATION__INIT;
	struct cv_policy *got;

	(void)state;
	p.name = (char *)"p";
	p.namespace_ = (char *)"ns";
	p.scope = ISTIO__SECURITY__SCOPE__GLOBAL;
	p.action = 9;
	add_policy("ns/p", &p);
	add_bytes("team/bytes", CV_XDS_TYPE_AUTHORIZATION, "\x2a\x09", 2);
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_string_equal(refusals(), "ns/p: unknown action 9; "
					"team/bytes: not an istio.security.Authorization");
	got = find_policy("ns/p");
	assert_int_equal(got->action, CV_POLICY_DENY);
	assert_int_equal(got->scope, CV_POLICY_GLOBAL);
	assert_true(got->n == 1 && got->rules[0].n == 0); /* matches everything */
	cv_policy_put(&got);
	got = find_policy("team/bytes");
	assert_int_equal(got->scope, CV_POLICY_NAMESPACE);
	assert_string_equal(got->ns, "team");
	cv_policy_put(&got);
	p.action = ISTIO__SECURITY__ACTION__ALLOW;
	add_policy("ns/p", &p);
	deliver(CV_XDS_AUTHORIZATION, false);
	p.scope = 9;
	add_policy("ns/p", &p);
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_string_equal(refusals(), "ns/p: unknown scope 9");
	got = find_policy("ns/p");
	assert_int_equal(got->action, CV_POLICY_ALLOW);
	cv_policy_put(&got);
	remove_name("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_false(is_policy_there("ns/p"));
}

/* ---- the order between the two types ---- */

static void add_listing(const char *uid, const char *policy)
{
	Istio__Workload__Workload w = simple(uid);
	char *policies[] = { (char *)policy };

	w.n_authorization_policies = policy ? 1 : 0;
	w.authorization_policies = policies;
	add_workload(&w);
}

static void add_selector(const char *name)
{
	Istio__Security__Authorization p = ISTIO__SECURITY__AUTHORIZATION__INIT;

	p.scope = ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR;
	add_policy(name, &p);
}

static size_t policies_of(const char *uid)
{
	struct cv_workload *w = find(uid);
	size_t n = w ? w->group->nr_policies : SIZE_MAX;

	cv_workload_put(&w);
	return n;
}

static void test_policy_made(void **state)
{
	(void)state;
	add_listing("a", NULL);
	deliver(CV_XDS_ADDRESS, false);
	cv_store_set_warm(x->store);
	add_listing("a", "ns/p");
	deliver(CV_XDS_ADDRESS, false);
	assert_int_equal(policies_of("a"), 0);
	add_selector("ns/other");
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_int_equal(policies_of("a"), 0);
	add_selector("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_int_equal(policies_of("a"), 1);
	assert_false(closed_for_a_moment);
}

static void test_policy_removed(void **state)
{
	(void)state;
	add_selector("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	add_listing("a", "ns/p");
	deliver(CV_XDS_ADDRESS, false);
	cv_store_set_warm(x->store);
	remove_name("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_true(is_policy_there("ns/p"));
	add_listing("a", NULL);
	deliver(CV_XDS_ADDRESS, false);
	assert_false(is_policy_there("ns/p"));
	assert_int_equal(policies_of("a"), 0);
	assert_false(closed_for_a_moment);
}

/* Made again before it was gone: it stays. */
static void test_policy_back(void **state)
{
	(void)state;
	add_selector("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	add_listing("a", "ns/p");
	deliver(CV_XDS_ADDRESS, false);
	cv_store_set_warm(x->store);
	remove_name("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	add_selector("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	add_listing("a", NULL);
	deliver(CV_XDS_ADDRESS, false);
	assert_true(is_policy_there("ns/p"));
}

/* Nothing waits for ever, for other nodes' workloads, or before the first whole state. */
static void test_no_waiting(void **state)
{
	Istio__Workload__Workload w = simple("far");
	char *policies[] = { (char *)"ns/p" };

	(void)state;
	add_listing("early", "ns/p");
	deliver(CV_XDS_ADDRESS, false);
	assert_int_equal(policies_of("early"), 1);
	cv_store_set_warm(x->store);
	w.node = (char *)"node-2";
	w.n_authorization_policies = 1;
	w.authorization_policies = policies;
	add_workload(&w);
	add_listing("a", "ns/q");
	deliver(CV_XDS_ADDRESS, false);
	assert_int_equal(policies_of("far"), 1);
	assert_false(is_there("a"));
	assert_int_equal(x->workloads.n, 1);
	x->workloads.items[0].due_ms = 0; /* a second later */
	xds_hold_release(x);
	xds_batch_apply(x);
	assert_int_equal(policies_of("a"), 1);
}

static void test_held_and_removed(void **state)
{
	(void)state;
	cv_store_set_warm(x->store);
	add_listing("a", "ns/p");
	deliver(CV_XDS_ADDRESS, false);
	remove_name("a");
	deliver(CV_XDS_ADDRESS, false);
	add_selector("ns/p");
	deliver(CV_XDS_AUTHORIZATION, false);
	assert_false(is_there("a"));
	assert_int_equal(x->workloads.n, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_workload),	   TEST(test_service),	     TEST(test_refused),
		TEST(test_refused_update), TEST(test_unknown_field), TEST(test_removal),
		TEST(test_foreign),	   TEST(test_repeated),	     TEST(test_policy),
		TEST(test_refused_policy), TEST(test_policy_made),   TEST(test_policy_removed),
		TEST(test_policy_back),	   TEST(test_no_waiting),    TEST(test_held_and_removed),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
