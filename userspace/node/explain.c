/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One path is one route that the daemon may choose. For each: is it refused already, who judges it
 * and what he says, and, towards a pod of this node, whether the kernel lets it go directly.
 */
#include "userspace/node/explain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/mesh/policy.h"
#include "userspace/mesh/route.h"
#include "userspace/telemetry/traffic.h"

enum { PATHS = 256 };

/* What is said of one path. */
struct path {
	const struct cv_explain_in *in;
	const struct cv_route *route;
	json_t *json;
	bool local; /* leads to an enrolled pod of this node */
	enum cv_tier tier; /* NONE = the route's own */
	char why[640];
};

#define because(p, ...) ((void)snprintf((p)->why, sizeof((p)->why), __VA_ARGS__))

static void set(json_t *j, const char *key, const char *text)
{
	if (text && *text)
		json_object_set_new(j, key, json_string(text));
}

static void set_sockaddr(json_t *j, const char *key, const struct cv_sockaddr *a)
{
	char text[CV_SOCKADDR_TEXT];

	set(j, key, cv_sockaddr_text(a, text));
}

static json_t *workload_json(const struct cv_workload *w)
{
	json_t *j = json_object();

	set(j, "namespace", w->group->ns);
	set(j, "name", cv_workload_name(w));
	set(j, "uid", w->uid);
	set(j, "node", w->place->node);
	return j;
}

static const char *name_of(const struct cv_workload *w)
{
	return cv_workload_name(w) ? cv_workload_name(w) : cv_str_text(w->uid);
}

/* ---- tier -------------------------------------------------------------------------------------- */

static const char *answer_text(uint32_t answer)
{
	static const char *const texts[] = {
		[CV_ANSWER_NONE] = "none",
		[CV_ANSWER_ALLOW] = "allow",
		[CV_ANSWER_DENY] = "deny",
		[CV_ANSWER_DAEMON] = "daemon",
	};

	return answer < sizeof(texts) / sizeof(texts[0]) ? texts[answer] : "unknown";
}

/* Towards a pod of this node the kernel's table decides, when connect() gets to ask it about the
 * endpoint. */
static void ask_kernel(struct path *p)
{
	const struct cv_explain_in *in = p->in;
	const struct cv_route *r = p->route;
	bool resolved = !r->service || (in->resolves && in->resolves(&in->dst, in->arg));
	bool leads_there = (r->kind == CV_ROUTE_TCP || r->kind == CV_ROUTE_HBONE) && !r->waypoint &&
			   !r->hostname;
	struct cv_verdict_entry v = {};

	p->local = leads_there && in->verdict &&
		   in->verdict(&r->target.ip, r->target.port, &v, in->arg);
	if (!p->local)
		return;
	json_object_set_new(p->json, "kernel",
			    json_pack("{s:s, s:s}", "answer", answer_text(v.answer), "reason",
				      cv_reason_name(v.reason)));
	if (resolved && v.answer == CV_ANSWER_ALLOW && v.tier == CV_TIER_DIRECT)
		p->tier = CV_TIER_DIRECT;
}

static enum cv_tier tier_of(const struct path *p)
{
	if (p->tier != CV_TIER_NONE)
		return p->tier;
	return p->route->kind == CV_ROUTE_HBONE ? CV_TIER_TLS : CV_TIER_PASSTHROUGH;
}

/* ---- verdict ----------------------------------------------------------------------------------- */

/* As the destination's node judges it, by the policies that this node knows. Plain TCP proves no
 * identity. */
static const char *judge(struct path *p)
{
	const struct cv_workload *src = p->in->src;
	const struct cv_identity id = { src->group->trust_domain, src->group->ns,
					src->group->service_account };
	const struct cv_authz_conn conn = {
		.src = p->in->src_ip,
		.dst = p->route->target.ip,
		.dst_port = p->route->target.port,
		.src_identity = tier_of(p) == CV_TIER_PASSTHROUGH ? NULL : &id,
		.silent = true,
	};
	struct cv_authz_result result;
	struct cv_policy_set policies;

	cv_store_policies_for(p->in->store, p->route->dst, &policies);
	cv_policy_evaluate(&policies, &conn, &result);
	set(p->json, "policy", result.policy);
	if (!result.allow)
		because(p, "%s", result.why);
	else if (*result.policy)
		because(p, "allowed by: %s", result.policy);
	else
		because(p, policies.n ? "no policy denies it" : "no policy applies");
	cv_policy_set_fini(&policies);
	return result.allow ? "allow" : "deny";
}

static const char *verdict_of(struct path *p)
{
	const struct cv_route *r = p->route;

	if (r->kind == CV_ROUTE_REFUSE) {
		because(p, "%s", r->error);
		return "refuse";
	}
	if (r->kind == CV_ROUTE_PASSTHROUGH)
		because(p, "not a destination of the mesh: passed on as it is");
	else if (r->waypoint)
		because(p, "the waypoint %s decides", name_of(r->dst));
	else if (r->kind == CV_ROUTE_TCP && !p->local)
		because(p, "%s speaks plain TCP: no policy is in force there", name_of(r->dst));
	else
		return judge(p);
	return "allow";
}

static json_t *path_json(const struct cv_explain_in *in, const struct cv_route_choice *c)
{
	const struct cv_route *r = &c->route;
	struct path p = { .in = in, .route = r, .json = json_object() };
	const char *verdict;

	ask_kernel(&p);
	verdict = verdict_of(&p);
	set(p.json, "verdict", verdict);
	set(p.json, "why", p.why);
	json_object_set_new(p.json, "weight", json_integer(c->weight));
	if (r->dst)
		json_object_set_new(p.json, "destination", workload_json(r->dst));
	if (r->waypoint)
		json_object_set_new(p.json, "waypoint", json_true());
	if (r->kind == CV_ROUTE_REFUSE)
		return p.json;
	set(p.json, "tier", cv_tier_text(tier_of(&p)));
	set(p.json, "hostname", r->hostname);
	if (!r->hostname || r->waypoint)
		set_sockaddr(p.json, "address", &r->target);
	if (!r->hostname)
		set_sockaddr(p.json, "nextHop",
			     p.tier == CV_TIER_DIRECT ? &r->target : &r->next_hop);
	return p.json;
}

/* ---- the whole --------------------------------------------------------------------------------- */

static const char *sum_up(const json_t *paths)
{
	const char *verdict = NULL, *one;
	json_t *path;
	size_t i;

	json_array_foreach(paths, i, path) {
		one = json_string_value(json_object_get(path, "verdict"));
		if (verdict && strcmp(verdict, one) != 0)
			return "mixed";
		verdict = one;
	}
	return verdict;
}

static json_t *own_address(void)
{
	return json_pack("[{s:s, s:s, s:i}]", "verdict", "allow", "why",
			 "the pod's own address: culvert does not judge it", "weight", 1);
}

static bool is_own(const struct cv_explain_in *in)
{
	return cv_addr_is_loopback(&in->dst.ip) || cv_addr_is_unspecified(&in->dst.ip) ||
	       cv_addr_eq(&in->dst.ip, &in->src_ip);
}

static json_t *list_paths(const struct cv_explain_in *in, json_t *whole)
{
	const struct cv_route_in route = { .src = in->src, .src_ip = in->src_ip, .dst = in->dst };
	struct cv_route_choice *choices = calloc(PATHS, sizeof(*choices));
	json_t *paths = json_array();
	char text[640];
	size_t n;

	if (!choices)
		abort();
	n = cv_route_choices(in->store, &route, choices, PATHS);
	for (size_t i = 0; i < n && i < PATHS; i++) {
		const struct cv_service *svc = choices[i].route.service;

		if (svc && i == 0) {
			snprintf(text, sizeof(text), "%s/%s", cv_str_text(svc->ns),
				 cv_str_text(svc->hostname));
			set(whole, "service", text);
		}
		json_array_append_new(paths, path_json(in, &choices[i]));
		cv_route_fini(&choices[i].route);
	}
	if (n > PATHS)
		json_object_set_new(whole, "unlisted", json_integer((json_int_t)(n - PATHS)));
	free(choices);
	return paths;
}

json_t *cv_explain(const struct cv_explain_in *in)
{
	json_t *whole = json_object(), *paths;

	set_sockaddr(whole, "to", &in->dst);
	paths = is_own(in) ? own_address() : list_paths(in, whole);
	set(whole, "verdict", sum_up(paths));
	json_object_set_new(whole, "paths", paths);
	return whole;
}
