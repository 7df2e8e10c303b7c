/* SPDX-License-Identifier: Apache-2.0 */
/* Lanes: references, limits, what all connections of a pod on a worker share. */
#define CV_LOG_TARGET "proxy"
#include "userspace/proxy/lane.h"

#include <stdio.h>
#include <stdlib.h>

#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/session.h"

/* splitmix64: fast, and good enough for choices and trace ids. */
uint64_t cv_proxy_random(struct cv_proxy_worker *pw)
{
	uint64_t z = pw->random += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

struct cv_resolver *cv_proxy_resolver(struct cv_proxy_worker *pw)
{
	const struct cv_resolver_opts resolver = {
		.base = pw->base,
		.ipv4_only = !pw->proxy->opts.ipv6,
	};
	int r = pw->resolver ? 0 : cv_resolver_new(&pw->resolver, &resolver);

	if (r)
		cv_warn("no host name can be resolved: %s", cv_strerror(-r));
	return pw->resolver;
}

void cv_pod_put(struct cv_proxy_pod *pod)
{
	if (atomic_fetch_sub(&pod->refs, 1) > 1)
		return;
	free(pod->ns);
	free(pod->name);
	free(pod->service_account);
	free(pod->uid);
	free(pod);
}

struct cv_lane *cv_lane_ref(struct cv_lane *lane)
{
	lane->refs++;
	return lane;
}

void cv_lane_put(struct cv_lane *lane)
{
	if (--lane->refs)
		return;
	if (lane->listed)
		TAILQ_REMOVE(&lane->pw->lanes, lane, node);
	cv_pod_put(lane->pod);
	free(lane->dns);
	free(lane);
}

bool cv_lane_admit(struct cv_lane *lane)
{
	const struct cv_proxy_opts *opts = &lane->pod->proxy->opts;
	struct cv_proxy_worker *pw = lane->pw;

	if (lane->stopped || pw->live.connections >= opts->max_connections ||
	    lane->nr_connections >= opts->max_connections_pod)
		return false;
	lane->nr_connections++;
	pw->live.connections++;
	return true;
}

void cv_lane_leave(struct cv_lane *lane)
{
	lane->nr_connections--;
	lane->pw->live.connections--;
	cv_proxy_check_drained(lane->pw);
}

bool cv_lane_wait_begin(struct cv_lane *lane)
{
	if (lane->nr_waiting >= CV_LIMIT_WAITING)
		return false;
	lane->nr_waiting++;
	lane->pw->live.waiting++;
	return true;
}

void cv_lane_wait_end(struct cv_lane *lane)
{
	lane->nr_waiting--;
	lane->pw->live.waiting--;
}

struct cv_workload *cv_lane_workload(struct cv_lane *lane)
{
	const struct cv_proxy_pod *pod = lane->pod;

	return cv_store_workload_local(pod->proxy->opts.store, pod->ns, pod->service_account,
				       pod->name);
}

void cv_lane_no_workload_text(const struct cv_lane *lane, char *buf, size_t size)
{
	const struct cv_proxy_pod *pod = lane->pod;

	snprintf(buf, size, "failed to fetch information about local workload: %s.%s (%s)",
		 pod->service_account ? pod->service_account : "", pod->ns, pod->name);
}

void cv_proxy_identity(const struct cv_workload *w, struct cv_identity *ret)
{
	cv_identity_set(ret, cv_str_ref(w->group->trust_domain), cv_str_ref(w->group->ns),
			cv_str_ref(w->group->service_account));
}

struct cv_baggage cv_proxy_baggage(const struct cv_proxy *p, const struct cv_workload *w)
{
	return (struct cv_baggage){
		.cluster = p->cluster_id ? p->cluster_id : w->group->cluster_id,
		.ns = w->group->ns,
		.workload_type = w->group->workload_type,
		.workload_name = w->group->workload_name,
		.service_name = w->group->canonical_name,
		.revision = w->group->canonical_revision,
		.region = w->place->locality.region,
		.zone = w->place->locality.zone,
	};
}

void cv_lane_kill(struct cv_lane *lane, const char *error)
{
	struct cv_session *s;
	struct cv_hbone_conn *c;

	/* What is killed stays in its list until after this round. */
	TAILQ_FOREACH(s, &lane->sessions, node)
	cv_session_fail(s, CV_FLAG_NONE, error);
	TAILQ_FOREACH(c, &lane->conns, node)
	cv_hbone_conn_kill(c, CV_FLAG_NONE, error);
}
