// SPDX-License-Identifier: Apache-2.0
/*
 * Access log lines: `connection opened`, `connection complete` and `connection failed`, with
 * ztunnel's fields in ztunnel's order; `tier` is ours and comes last. A field that is not known
 * is left out.
 */
#define CV_LOG_TARGET "access"
#include "userspace/base/log.h"

#include <inttypes.h>
#include <stdio.h>

#include "userspace/telemetry/private.h"

enum { MAX_FIELDS = 20 };

struct line {
	size_t n;
	struct cv_log_field fields[MAX_FIELDS];
	char src_addr[CV_SOCKADDR_TEXT], dst_addr[CV_SOCKADDR_TEXT], hbone_addr[CV_SOCKADDR_TEXT];
	char src_identity[CV_IDENTITY_TEXT], dst_identity[CV_IDENTITY_TEXT];
	char sent[24], received[24], duration[24];
};

static void add(struct line *l, const char *key, const char *text)
{
	if (text && *text)
		l->fields[l->n++] = (struct cv_log_field){ .key = key, .text = text };
}

static void add_bare(struct line *l, const char *key, const char *text)
{
	add(l, key, text);
	l->fields[l->n - 1].bare = true;
}

static const char *workload_name(const struct cv_workload *w)
{
	return cv_workload_name(w) ? cv_workload_name(w) : w->group->canonical_name;
}

/* Identities are logged when they are proven: by mTLS, or by the kernel. */
static bool has_proof(const struct cv_traffic_info *info)
{
	return info->mtls || info->tier == CV_TIER_DIRECT || info->tier == CV_TIER_ACCELERATED;
}

static void add_source(struct line *l, const struct cv_traffic_info *info)
{
	const struct cv_workload *w = info->src;

	add_bare(l, "src.addr", cv_sockaddr_text(&info->src_addr, l->src_addr));
	if (w) {
		add(l, "src.workload", workload_name(w));
		add(l, "src.namespace", w->group->ns);
	}
	if (info->src_identity && has_proof(info))
		add(l, "src.identity", cv_identity_text(info->src_identity, l->src_identity));
	if (w)
		add(l, "src.cluster", w->group->cluster_id);
}

static void add_destination(struct line *l, const struct cv_traffic_info *info)
{
	const struct cv_workload *w = info->dst;

	add_bare(l, "dst.addr", cv_sockaddr_text(&info->dst_addr, l->dst_addr));
	if (info->hbone_addr.port)
		add_bare(l, "dst.hbone_addr", cv_sockaddr_text(&info->hbone_addr, l->hbone_addr));
	if (info->service)
		add(l, "dst.service", info->service->hostname);
	if (w) {
		add(l, "dst.workload", workload_name(w));
		add(l, "dst.namespace", w->group->ns);
	}
	if (info->dst_identity && has_proof(info))
		add(l, "dst.identity", cv_identity_text(info->dst_identity, l->dst_identity));
	if (w)
		add(l, "dst.cluster", w->group->cluster_id);
}

static const char *direction(enum cv_reporter reporter)
{
	return reporter == CV_REPORTER_SOURCE ? "outbound" : "inbound";
}

static void add_ends(struct line *l, const struct cv_traffic_info *info)
{
	add_source(l, info);
	add_destination(l, info);
	add(l, "direction", direction(info->reporter));
}

void cv_access_opened(const struct cv_traffic *c)
{
	struct line l;

	if (!cv_log_enabled(CV_LOG_DEBUG, CV_LOG_TARGET))
		return;
	l.n = 0;
	add_ends(&l, &c->info);
	add(&l, "tier", cv_tier_text(c->info.tier));
	cv_log_fields(CV_LOG_DEBUG, CV_LOG_TARGET, "connection opened", l.fields, l.n);
}

/* Bytes as the reporter sees them: what it sent towards its peer is bytes_sent. */
static void add_bytes(struct line *l, const struct cv_traffic *c)
{
	uint64_t up = atomic_load_explicit(&c->client_to_server, memory_order_relaxed);
	uint64_t down = atomic_load_explicit(&c->server_to_client, memory_order_relaxed);
	bool source = c->info.reporter == CV_REPORTER_SOURCE;

	snprintf(l->sent, sizeof(l->sent), "%" PRIu64, source ? up : down);
	snprintf(l->received, sizeof(l->received), "%" PRIu64, source ? down : up);
	add_bare(l, "bytes_sent", l->sent);
	add_bare(l, "bytes_recv", l->received);
}

void cv_access_closed(const struct cv_traffic *c)
{
	enum cv_log_level level = c->flag == CV_FLAG_NONE && !c->error ? CV_LOG_INFO : CV_LOG_ERROR;
	struct line l;

	if (!cv_log_enabled(level, CV_LOG_TARGET))
		return;
	l.n = 0;
	add_ends(&l, &c->info);
	add_bytes(&l, c);
	snprintf(l.duration, sizeof(l.duration), "%" PRIu64 "ms",
		 atomic_load(&c->closed_ms) - c->info.opened_ms);
	add(&l, "duration", l.duration);
	add(&l, "error", c->error);
	add(&l, "tier", cv_tier_text(c->info.tier));
	cv_log_fields(level, CV_LOG_TARGET, "connection complete", l.fields, l.n);
}

void cv_traffic_early_deny(struct cv_telemetry *t, const struct cv_sockaddr *src,
			   const struct cv_sockaddr *dst, enum cv_reporter reporter,
			   const char *error)
{
	struct line l;

	(void)t; /* nothing is counted: there are no labels yet */
	if (!cv_log_enabled(CV_LOG_WARN, CV_LOG_TARGET))
		return;
	l.n = 0;
	add_bare(&l, "src.addr", cv_sockaddr_text(src, l.src_addr));
	add_bare(&l, "dst.addr", cv_sockaddr_text(dst, l.dst_addr));
	add(&l, "direction", direction(reporter));
	add(&l, "error", error);
	cv_log_fields(CV_LOG_WARN, CV_LOG_TARGET, "connection failed", l.fields, l.n);
}
