/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inbound plain TCP (15006): nobody has proven who the client is, so policy is asked without an
 * identity. Also here: judging the sessions of a lane again when policy has changed.
 */
#define CV_LOG_TARGET "proxy::inbound"
#include <stdio.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/proxy/inbound.h"
#include "userspace/proxy/outbound.h"
#include "userspace/proxy/session.h"

static void on_connected(struct cv_dial *d, int fd)
{
	cv_session_connected(cv_container_of(d, struct cv_session, dial), fd, "connection failed");
}

static void open_record(struct cv_session *s)
{
	const struct cv_proxy *p = s->lane->pod->proxy;
	struct cv_workload *src =
		cv_store_workload_by_addr(p->opts.store, p->network, &s->client.ip);
	struct cv_service *service =
		cv_route_inbound_service(p->opts.store, s->workload, NULL, s->dst.port);
	struct cv_traffic_info info = {
		.tier = CV_TIER_PASSTHROUGH,
		.src = src,
		.dst = s->workload,
		.service = service,
		.dst_addr = s->dst,
	};

	cv_session_open(s, &info);
	cv_service_put(&service);
	cv_workload_put(&src);
}

static void admit(struct cv_session *s)
{
	struct cv_policy_set set;
	struct cv_authz_result result;
	char text[512];

	open_record(s);
	cv_store_policies_for(s->lane->pod->proxy->opts.store, s->workload, &set);
	cv_session_judge(s, &set, &result);
	cv_policy_set_fini(&set);
	if (result.allow) {
		cv_session_dial_application(s, on_connected);
		return;
	}
	snprintf(text, sizeof(text), "connection closed due to policy rejection: %s", result.why);
	cv_session_fail(s, CV_FLAG_DENY, text);
}

void cv_plain_start(struct cv_lane *lane, int fd, const struct cv_sockaddr *client,
		    const struct cv_sockaddr *dst)
{
	const struct cv_session_opts opts = {
		.lane = lane,
		.kind = CV_SESSION_PLAIN,
		.client = *client,
		.dst = *dst,
		.fd = fd,
	};
	struct cv_session *s = cv_session_new(&opts);

	if (!s)
		return;
	if (dst->port == CV_PORT_OUTBOUND || dst->port == CV_PORT_INBOUND ||
	    dst->port == CV_PORT_HBONE)
		cv_session_fail(s, CV_FLAG_NONE, "attempted recursive call to ourselves");
	else
		cv_session_with_workload(s, admit);
}

void cv_inbound_judge_again(struct cv_lane *lane)
{
	struct cv_workload *w = cv_lane_workload(lane);
	struct cv_policy_set set;
	struct cv_session *s;

	/* Without a record any more the last word stands: the pod is about to go. */
	if (!w)
		return;
	cv_store_policies_for(lane->pod->proxy->opts.store, w, &set);
	TAILQ_FOREACH(s, &lane->sessions, node)
	{
		struct cv_authz_result result;

		if (s->dead || !s->traffic)
			continue;
		if (s->kind == CV_SESSION_OUTBOUND) {
			cv_outbound_judge_again(s);
			continue;
		}
		cv_session_judge(s, &set, &result);
		if (!result.allow)
			cv_session_fail(s, CV_FLAG_DENY, "connection closed due to policy change");
	}
	cv_policy_set_fini(&set);
	cv_workload_put(&w);
}
