// SPDX-License-Identifier: Apache-2.0
/*
 * Records of connections as JSON. A live or closed record is
 *
 *   namespace, pod, uid        the local pod that it belongs to
 *   direction                  "inbound" or "outbound", seen from that pod
 *   tier, protocol             protocol is "HBONE" or "TCP"
 *   src, dst                   "ip:port": the client; the next hop or the local address
 *   target                     "ip:port" that HBONE asks for, else dst
 *   originalDst                "ip:port" that the client dialled, or null
 *   source, destination        {namespace, pod, workload}, or null when not known
 *   sourceIdentity, destinationIdentity   SPIFFE URI, or null
 *   service                    destination service's host name, or null
 *   sent, received             bytes client to server, and server to client
 *   state                      "open" or "closed"
 *   durationMs, closedMsAgo    how long it lasted (lasts); null while it is open
 *   result, error              response flag and text of a failure; null while it is open
 *
 * config_dump's workloadState has the fewer members that ztunnel gives it.
 */
#include <string.h>

#include "userspace/telemetry/private.h"

static json_t *text_or_null(const char *text)
{
	json_t *s = text && *text ? json_string(text) : NULL;

	return s ? s : json_null();
}

static json_t *address(const struct cv_sockaddr *a)
{
	char buf[CV_SOCKADDR_TEXT];

	return a->port ? json_string(cv_sockaddr_text(a, buf)) : json_null();
}

static json_t *workload(const struct cv_workload *w)
{
	if (!w)
		return json_null();
	return json_pack("{s:o s:o s:o}", "namespace", text_or_null(w->group->ns), "pod",
			 text_or_null(cv_workload_name(w)), "workload",
			 text_or_null(w->group->workload_name));
}

static json_t *identity(const struct cv_identity *id)
{
	char buf[CV_IDENTITY_TEXT];

	return id ? json_string(cv_identity_text(id, buf)) : json_null();
}

static const char *direction(const struct cv_traffic_info *info)
{
	return info->reporter == CV_REPORTER_SOURCE ? "outbound" : "inbound";
}

static const char *protocol(const struct cv_traffic_info *info)
{
	return info->mtls ? "HBONE" : "TCP";
}

static void set_state(json_t *o, const struct cv_traffic *c, uint64_t now_ms)
{
	uint64_t closed_ms = atomic_load_explicit(&c->closed_ms, memory_order_acquire);

	json_object_set_new(o, "state", json_string(closed_ms ? "closed" : "open"));
	json_object_set_new(o, "durationMs",
			    json_integer((closed_ms ? closed_ms : now_ms) - c->info.opened_ms));
	json_object_set_new(o, "closedMsAgo",
			    closed_ms ? json_integer(now_ms - closed_ms) : json_null());
	json_object_set_new(o, "result",
			    closed_ms ? json_string(cv_flag_text(c->flag)) : json_null());
	json_object_set_new(o, "error", text_or_null(closed_ms ? c->error : NULL));
}

static json_t *record(const struct cv_traffic *c, uint64_t now_ms)
{
	const struct cv_traffic_info *info = &c->info;
	json_t *o = json_object();

	json_object_set_new(o, "namespace", text_or_null(info->pod_ns));
	json_object_set_new(o, "pod", text_or_null(info->pod_name));
	json_object_set_new(o, "uid", text_or_null(info->pod_uid));
	json_object_set_new(o, "direction", json_string(direction(info)));
	json_object_set_new(o, "tier", json_string(cv_tier_text(info->tier)));
	json_object_set_new(o, "protocol", json_string(protocol(info)));
	json_object_set_new(o, "src", address(&info->src_addr));
	json_object_set_new(o, "dst", address(&info->dst_addr));
	json_object_set_new(o, "target", address(cv_traffic_target(info)));
	json_object_set_new(o, "originalDst", address(&info->original_dst));
	json_object_set_new(o, "source", workload(info->src));
	json_object_set_new(o, "destination", workload(info->dst));
	json_object_set_new(o, "sourceIdentity", identity(info->src_identity));
	json_object_set_new(o, "destinationIdentity", identity(info->dst_identity));
	json_object_set_new(o, "service",
			    text_or_null(info->service ? info->service->hostname : NULL));
	json_object_set_new(o, "sent", json_integer(atomic_load(&c->client_to_server)));
	json_object_set_new(o, "received", json_integer(atomic_load(&c->server_to_client)));
	set_state(o, c, now_ms);
	return o;
}

static json_t *records(struct cv_telemetry *t, bool with_closed)
{
	struct cv_traffic **all = NULL;
	ssize_t n = cv_traffic_snapshot(t, with_closed, &all);
	json_t *array = json_array();
	uint64_t now_ms = cv_now_ms();

	for (ssize_t i = 0; i < n; i++) {
		json_array_append_new(array, record(all[i], now_ms));
		cv_traffic_put(all[i]);
	}
	free(all);
	return array;
}

json_t *cv_connections_json(struct cv_telemetry *t)
{
	return records(t, false);
}

json_t *cv_flows_json(struct cv_telemetry *t)
{
	return records(t, true);
}

/* ztunnel's shape: an inbound connection's originalDst is the service that was meant. */
static json_t *pod_connection(const struct cv_traffic_info *info)
{
	bool outbound = info->reporter == CV_REPORTER_SOURCE;
	json_t *dialled = outbound ? address(&info->original_dst) :
				     text_or_null(info->service ? info->service->hostname : NULL);
	const struct cv_sockaddr *actual = outbound ? &info->dst_addr : cv_traffic_target(info);

	return json_pack("{s:o s:o s:o s:s}", "src", address(&info->src_addr), "originalDst",
			 dialled, "actualDst", address(actual), "protocol", protocol(info));
}

json_t *cv_pod_connections_json(struct cv_telemetry *t, const char *pod_uid)
{
	struct cv_traffic **all = NULL;
	ssize_t n = cv_traffic_snapshot(t, false, &all);
	json_t *lists[2] = { json_array(), json_array() }; /* by enum cv_reporter */

	for (ssize_t i = 0; i < n; i++) {
		const struct cv_traffic_info *info = &all[i]->info;

		if (info->pod_uid && !strcmp(info->pod_uid, pod_uid))
			json_array_append_new(lists[info->reporter], pod_connection(info));
		cv_traffic_put(all[i]);
	}
	free(all);
	return json_pack("{s:o s:o}", "outbound", lists[CV_REPORTER_SOURCE], "inbound",
			 lists[CV_REPORTER_DESTINATION]);
}
