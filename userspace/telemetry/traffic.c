// SPDX-License-Identifier: Apache-2.0
/*
 * Records of connections. A thread adds its records to the list of its own shard, so opening
 * and closing contend with nobody but a reader; closing moves a record to one ring of the most
 * recently closed. Readers take references under the locks and look at the records without.
 */
#include "userspace/telemetry/traffic.h"

#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "telemetry"
#include "userspace/base/log.h"
#include "userspace/telemetry/private.h"

static const char *const flag_texts[CV_FLAG_NR] = {
	[CV_FLAG_NONE] = "-",
	[CV_FLAG_DENY] = "DENY",
	[CV_FLAG_CONNECT] = "CONNECT",
	[CV_FLAG_TLS_FAILURE] = "TLS_FAILURE",
	[CV_FLAG_H2_HANDSHAKE_FAILURE] = "H2_HANDSHAKE_FAILURE",
	[CV_FLAG_NETWORK_POLICY] = "NETWORK_POLICY",
	[CV_FLAG_IDENTITY_ERROR] = "IDENTITY_ERROR",
	[CV_FLAG_CERT_REVOKED] = "CERT_REVOKED",
};

const char *cv_flag_text(enum cv_flag flag)
{
	return flag < CV_FLAG_NR ? flag_texts[flag] : "-";
}

static const char *const tier_texts[CV_TIER_NR] = {
	[CV_TIER_NONE] = "none",
	[CV_TIER_TLS] = "tls",
	[CV_TIER_RELAY] = "relay",
	[CV_TIER_DIRECT] = "direct",
	[CV_TIER_ACCELERATED] = "accelerated",
	[CV_TIER_PASSTHROUGH] = "passthrough",
};

const char *cv_tier_text(enum cv_tier tier)
{
	return tier < CV_TIER_NR ? tier_texts[tier] : "none";
}

/* --- the record --- */

static const struct cv_identity *copy_identity(const struct cv_identity *from)
{
	struct cv_identity *id = from ? calloc(1, sizeof(*id)) : NULL;

	if (id)
		cv_identity_copy(id, from);
	return id;
}

static void free_identity(const struct cv_identity *id)
{
	struct cv_identity *own = (struct cv_identity *)id;

	if (own)
		cv_identity_fini(own);
	free(own);
}

static void copy_info(struct cv_traffic_info *to, const struct cv_traffic_info *from)
{
	*to = *from;
	to->pod_ns = cv_str_new(from->pod_ns);
	to->pod_name = cv_str_new(from->pod_name);
	to->pod_uid = cv_str_new(from->pod_uid);
	to->src = cv_workload_ref((struct cv_workload *)from->src);
	to->dst = cv_workload_ref((struct cv_workload *)from->dst);
	to->service = cv_service_ref((struct cv_service *)from->service);
	to->src_identity = copy_identity(from->src_identity);
	to->dst_identity = copy_identity(from->dst_identity);
	if (!to->opened_ms)
		to->opened_ms = cv_now_ms();
}

static void fini_info(struct cv_traffic_info *info)
{
	struct cv_workload *src = (struct cv_workload *)info->src;
	struct cv_workload *dst = (struct cv_workload *)info->dst;
	struct cv_service *service = (struct cv_service *)info->service;

	cv_str_put(&info->pod_ns);
	cv_str_put(&info->pod_name);
	cv_str_put(&info->pod_uid);
	cv_workload_put(&src);
	cv_workload_put(&dst);
	cv_service_put(&service);
	free_identity(info->src_identity);
	free_identity(info->dst_identity);
}

void cv_traffic_put(struct cv_traffic *c)
{
	if (!c || atomic_fetch_sub(&c->ref, 1) > 1)
		return;
	fini_info(&c->info);
	free(c->error);
	free(c);
}

const struct cv_sockaddr *cv_traffic_target(const struct cv_traffic_info *info)
{
	return info->hbone_addr.port ? &info->hbone_addr : &info->dst_addr;
}

/* --- the lists --- */

static unsigned own_shard(void)
{
	static _Atomic unsigned threads;
	static _Thread_local unsigned mine; /* 0 = not chosen yet */

	if (!mine)
		mine = 1 + atomic_fetch_add(&threads, 1) % CV_TRAFFIC_SHARDS;
	return mine - 1;
}

static void link_record(struct cv_traffic *c)
{
	struct cv_traffic_shard *shard = &c->telemetry->shards[c->shard];

	pthread_mutex_lock(&shard->lock);
	c->next = shard->first;
	c->link = &shard->first;
	if (c->next)
		c->next->link = &c->next;
	shard->first = c;
	shard->n++;
	pthread_mutex_unlock(&shard->lock);
}

static void unlink_record(struct cv_traffic *c)
{
	struct cv_traffic_shard *shard = &c->telemetry->shards[c->shard];

	pthread_mutex_lock(&shard->lock);
	if (c->next)
		c->next->link = c->link;
	*c->link = c->next;
	shard->n--;
	pthread_mutex_unlock(&shard->lock);
}

/* The ring takes over the owner's reference. */
static void remember_closed(struct cv_traffic *c)
{
	struct cv_telemetry *t = c->telemetry;
	struct cv_traffic *oldest;

	pthread_mutex_lock(&t->closed_lock);
	oldest = t->closed[t->closed_next];
	t->closed[t->closed_next] = c;
	t->closed_next = (t->closed_next + 1) % CV_LIMIT_CLOSED_FLOWS;
	pthread_mutex_unlock(&t->closed_lock);
	cv_traffic_put(oldest);
}

static int grow(struct cv_traffic ***array, size_t n)
{
	struct cv_traffic **more = realloc(*array, (n + 1) * sizeof(**array));

	if (!more)
		return -ENOMEM;
	*array = more;
	return 0;
}

static ssize_t snapshot_shard(struct cv_traffic_shard *shard, struct cv_traffic ***array, size_t n)
{
	int r;

	pthread_mutex_lock(&shard->lock);
	r = grow(array, n + shard->n);
	for (struct cv_traffic *c = r < 0 ? NULL : shard->first; c; c = c->next) {
		atomic_fetch_add(&c->ref, 1);
		(*array)[n++] = c;
	}
	pthread_mutex_unlock(&shard->lock);
	return r < 0 ? r : (ssize_t)n;
}

static ssize_t snapshot_closed(struct cv_telemetry *t, struct cv_traffic ***array, size_t n)
{
	if (grow(array, n + CV_LIMIT_CLOSED_FLOWS) < 0)
		return -ENOMEM;
	pthread_mutex_lock(&t->closed_lock);
	for (unsigned i = 1; i <= CV_LIMIT_CLOSED_FLOWS; i++) {
		unsigned at = (t->closed_next + CV_LIMIT_CLOSED_FLOWS - i) % CV_LIMIT_CLOSED_FLOWS;

		if (!t->closed[at])
			break;
		atomic_fetch_add(&t->closed[at]->ref, 1);
		(*array)[n++] = t->closed[at];
	}
	pthread_mutex_unlock(&t->closed_lock);
	return n;
}

ssize_t cv_traffic_snapshot(struct cv_telemetry *t, bool with_closed, struct cv_traffic ***ret)
{
	_cleanup_free_ struct cv_traffic **array = NULL;
	size_t n = 0;
	ssize_t r = 0;

	for (unsigned i = 0; r >= 0 && i < CV_TRAFFIC_SHARDS; i++) {
		r = snapshot_shard(&t->shards[i], &array, n);
		n = r < 0 ? n : (size_t)r;
	}
	if (r >= 0 && with_closed) {
		r = snapshot_closed(t, &array, n);
		n = r < 0 ? n : (size_t)r;
	}
	if (r < 0) {
		for (size_t i = 0; i < n; i++)
			cv_traffic_put(array[i]);
		return r;
	}
	*ret = cv_take_ptr(array);
	return n;
}

/* --- what the data path calls --- */

struct cv_traffic *cv_traffic_open(struct cv_telemetry *t, const struct cv_traffic_info *info)
{
	struct cv_traffic *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	c->ref = 1;
	c->telemetry = t;
	copy_info(&c->info, info);
	c->series = cv_series_get(&t->series, info);
	if (!c->series)
		abort();
	atomic_fetch_add_explicit(&c->series->opened, 1, memory_order_relaxed);
	c->shard = own_shard();
	link_record(c);
	cv_access_opened(c);
	return c;
}

void cv_traffic_add(struct cv_traffic *c, uint64_t client_to_server, uint64_t server_to_client)
{
	if (client_to_server) {
		atomic_fetch_add_explicit(&c->client_to_server, client_to_server,
					  memory_order_relaxed);
		atomic_fetch_add_explicit(&c->series->client_to_server, client_to_server,
					  memory_order_relaxed);
	}
	if (server_to_client) {
		atomic_fetch_add_explicit(&c->server_to_client, server_to_client,
					  memory_order_relaxed);
		atomic_fetch_add_explicit(&c->series->server_to_client, server_to_client,
					  memory_order_relaxed);
	}
}

void cv_traffic_close(struct cv_traffic **traffic, enum cv_flag flag, const char *error)
{
	cv_traffic_close_at(traffic, cv_now_ms(), flag, error);
}

void cv_traffic_close_at(struct cv_traffic **traffic, uint64_t closed_ms, enum cv_flag flag,
			 const char *error)
{
	struct cv_traffic *c = *traffic;

	*traffic = NULL;
	if (!c)
		return;
	atomic_fetch_add_explicit(&c->series->closed[flag], 1, memory_order_relaxed);
	c->flag = flag;
	c->error = error ? strdup(error) : NULL;
	atomic_store_explicit(&c->closed_ms, closed_ms, memory_order_release);
	cv_access_closed(c);
	unlink_record(c);
	remember_closed(c);
}

void cv_traffic_drop(struct cv_traffic **traffic)
{
	struct cv_traffic *c = *traffic;

	*traffic = NULL;
	if (!c)
		return;
	unlink_record(c);
	cv_traffic_put(c);
}

void cv_traffic_socket(struct cv_telemetry *t, enum cv_reporter reporter, int delta)
{
	atomic_fetch_add_explicit(&t->sockets_open[reporter], delta, memory_order_relaxed);
}

void cv_traffic_revoked(struct cv_telemetry *t, enum cv_reporter reporter)
{
	atomic_fetch_add_explicit(&t->revoked[reporter], 1, memory_order_relaxed);
}

void cv_traffic_init(struct cv_telemetry *t)
{
	for (unsigned i = 0; i < CV_TRAFFIC_SHARDS; i++)
		pthread_mutex_init(&t->shards[i].lock, NULL);
	pthread_mutex_init(&t->closed_lock, NULL);
}

/* Live records belong to who opened them; only the ring's are ours. */
void cv_traffic_fini(struct cv_telemetry *t)
{
	for (unsigned i = 0; i < CV_LIMIT_CLOSED_FLOWS; i++)
		cv_traffic_put(t->closed[i]);
	for (unsigned i = 0; i < CV_TRAFFIC_SHARDS; i++)
		pthread_mutex_destroy(&t->shards[i].lock);
	pthread_mutex_destroy(&t->closed_lock);
}
