/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told about connections: metrics, access log, and the list of live and recently
 * closed ones, all from one record a connection and reporter.
 *
 * Any registered thread opens, counts and closes; counters are atomics resolved once per
 * connection. The record is where `culvertctl connections|flows` and config_dump look.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "maps/types.h"
#include "userspace/base/addr.h"
#include "userspace/mesh/identity.h"
#include "userspace/mesh/types.h"

struct cv_telemetry;

enum cv_reporter { CV_REPORTER_SOURCE, CV_REPORTER_DESTINATION };

/* response_flags; the names are ztunnel's. */
enum cv_flag {
	CV_FLAG_NONE, /* "-" */
	CV_FLAG_DENY,
	CV_FLAG_CONNECT,
	CV_FLAG_TLS_FAILURE,
	CV_FLAG_H2_HANDSHAKE_FAILURE,
	CV_FLAG_NETWORK_POLICY,
	CV_FLAG_IDENTITY_ERROR,
	CV_FLAG_CERT_REVOKED,
	CV_FLAG_NR,
};
const char *cv_flag_text(enum cv_flag flag);
/* The value of the label `tier`; "none" for what is no tier. */
const char *cv_tier_text(enum cv_tier tier);

/* Everything that labels and log fields are made of. Borrowed during the call. */
struct cv_traffic_info {
	enum cv_reporter reporter;
	enum cv_tier tier;
	const char *pod_ns, *pod_name, *pod_uid; /* local pod this record belongs to */
	const struct cv_workload *src, *dst; /* NULL = unknown */
	const struct cv_service *service; /* destination service, NULL = none */
	const struct cv_identity *src_identity, *dst_identity; /* proven; NULL = none */
	bool mtls; /* connection_security_policy mutual_tls, and identities are logged */
	struct cv_sockaddr src_addr; /* client */
	struct cv_sockaddr dst_addr; /* next hop (outbound), local address (inbound) */
	struct cv_sockaddr hbone_addr; /* authority; port 0 = none */
	struct cv_sockaddr original_dst; /* what the client dialled; for connections and flows */
	uint64_t opened_ms; /* cv_now_ms clock; 0 = now */
};

struct cv_traffic;

/* connections_opened++, `connection opened` at debug. Never NULL. */
struct cv_traffic *cv_traffic_open(struct cv_telemetry *t, const struct cv_traffic_info *info);
/* Bytes of the client->server (sent) and server->client (received) direction, relative to the
 * client, whoever reports. */
void cv_traffic_add(struct cv_traffic *c, uint64_t client_to_server, uint64_t server_to_client);
/* connections_closed++ (failed++ with a flag), `connection complete`, moves to the closed ring. */
void cv_traffic_close(struct cv_traffic **c, enum cv_flag flag, const char *error);
/* The same for a connection that ended at closed_ms (cv_now_ms clock) and is told of later. */
void cv_traffic_close_at(struct cv_traffic **c, uint64_t closed_ms, enum cv_flag flag,
			 const char *error);
/* Forgets a record whose connection goes on without us; nothing is told. */
void cv_traffic_drop(struct cv_traffic **c);
/* WARN `connection failed` of a connection that never got a record. */
void cv_traffic_early_deny(struct cv_telemetry *t, const struct cv_sockaddr *src,
			   const struct cv_sockaddr *dst, enum cv_reporter reporter,
			   const char *error);
/* istio_on_demand_dns: a connection of src needs the address of a host name. */
void cv_traffic_name_asked(struct cv_telemetry *t, const struct cv_workload *src,
			   const char *hostname);
/* istio_crl_policy_rejections: a peer's certificate is revoked, before or after the handshake. */
void cv_traffic_revoked(struct cv_telemetry *t, enum cv_reporter reporter);
/* istio_tcp_sockets_open */
void cv_traffic_socket(struct cv_telemetry *t, enum cv_reporter reporter, int delta);
