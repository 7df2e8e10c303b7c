/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy object and its control side: every change is a message to the workers.
 *
 * Draining: listeners close, inbound HBONE connections say GOAWAY, and each worker reports once when
 * its last connection has gone; the last report, or the deadline, ends it. DNS is served until then.
 */
#define CV_LOG_TARGET "proxy"
#include "userspace/proxy/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/proxy/dns.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/inbound.h"
#include "userspace/proxy/lane.h"
#include "userspace/proxy/revoke.h"
#include "userspace/proxy/session.h"

static const char drain_error[] = "connection closed due to connection drain";

/* ---- the object ------------------------------------------------------------------------------ */

static int init_worker(struct cv_proxy *p, unsigned i)
{
	struct cv_proxy_worker *pw = &p->workers[i];

	pw->proxy = p;
	pw->worker = p->opts.workers[i];
	pw->base = cv_worker_base(pw->worker);
	TAILQ_INIT(&pw->lanes);
	cv_pool_init(&pw->pool);
	if (getrandom(&pw->random, sizeof(pw->random), 0) != sizeof(pw->random))
		return -EIO;
	pw->leg_port = (unsigned)cv_proxy_random(pw);
	if (p->opts.dns.nr_addrs)
		pw->dns_buf = malloc(CV_DNS_TCP_SIZE);
	return p->opts.dns.nr_addrs && !pw->dns_buf ? -ENOMEM : 0;
}

int cv_proxy_new(struct cv_proxy **ret, const struct cv_proxy_opts *opts)
{
	struct cv_proxy *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return -ENOMEM;
	p->opts = *opts;
	p->network = cv_str_new(opts->network);
	p->cluster_id = cv_str_new(opts->cluster_id);
	if (!p->opts.max_connections)
		p->opts.max_connections = CV_LIMIT_CONNECTIONS;
	if (!p->opts.max_connections_pod)
		p->opts.max_connections_pod = CV_LIMIT_CONNECTIONS_POD;
	TAILQ_INIT(&p->pods);
	p->workers = calloc(opts->nr_workers, sizeof(*p->workers));
	if (!p->workers)
		r = -ENOMEM;
	for (unsigned i = 0; i < opts->nr_workers && !r; i++)
		r = init_worker(p, i);
	if (r)
		cv_proxy_free(&p);
	else
		*ret = p;
	return r;
}

/* ---- pods ------------------------------------------------------------------------------------- */

static struct cv_lane *make_lane(struct cv_proxy_pod *pod, struct cv_proxy_worker *pw)
{
	struct cv_lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	lane->pod = pod;
	lane->pw = pw;
	lane->refs = 1;
	TAILQ_INIT(&lane->sessions);
	TAILQ_INIT(&lane->conns);
	for (int i = 0; i < CV_LISTENER_NR; i++)
		lane->listeners[i] =
			(struct cv_listener_socket){ .lane = lane, .slot = i, .fd = -1 };
	atomic_fetch_add(&pod->refs, 1);
	return lane;
}

/* A pod whose lanes no worker has seen. */
static void discard_pod(struct cv_proxy_pod *pod)
{
	for (unsigned i = 0; i < pod->proxy->opts.nr_workers; i++) {
		struct cv_lane *lane = pod->lanes[i];

		if (!lane)
			continue;
		for (int slot = 0; slot < CV_LISTENER_NR; slot++)
			cv_close(&lane->listeners[slot].fd);
		cv_dns_discard(lane);
		cv_lane_put(lane);
	}
	cv_pod_put(pod);
}

static char *copy_text(const char *text, bool *failed)
{
	char *copy = text ? strdup(text) : NULL;

	*failed |= text && !copy;
	return copy;
}

static struct cv_proxy_pod *make_pod(struct cv_proxy *p, const struct cv_proxy_pod_info *info)
{
	unsigned n = p->opts.nr_workers;
	struct cv_proxy_pod *pod = calloc(1, sizeof(*pod) + n * sizeof(*pod->lanes));
	bool failed = false;

	if (!pod)
		return NULL;
	pod->proxy = p;
	pod->refs = 1;
	pod->running = n;
	pod->number = info->number;
	pod->netns = info->netns;
	pod->self = info->self;
	pod->sock = p->opts.sock;
	if (info->self)
		pod->sock.mark = 0;
	pod->ns = copy_text(info->ns, &failed);
	pod->name = copy_text(info->name, &failed);
	pod->service_account = copy_text(info->service_account, &failed);
	pod->uid = copy_text(info->uid, &failed);
	for (unsigned i = 0; i < n; i++) {
		pod->lanes[i] = make_lane(pod, &p->workers[i]);
		failed |= !pod->lanes[i];
	}
	if (!failed)
		return pod;
	discard_pod(pod);
	return NULL;
}

static void start_lane(void *arg)
{
	struct cv_lane *lane = arg;

	lane->listed = true;
	TAILQ_INSERT_TAIL(&lane->pw->lanes, lane, node);
	if (cv_store_is_warm(lane->pw->proxy->opts.store))
		lane->pw->warm = true;
	if (lane->pw->draining)
		cv_listener_close(lane);
	else if (lane->pw->warm)
		cv_listener_accept(lane);
	if (lane->pw->warm)
		cv_dns_start(lane);
}

int cv_proxy_pod_start(struct cv_proxy *p, const struct cv_proxy_pod_info *info,
		       struct cv_proxy_pod **ret)
{
	struct cv_proxy_pod *pod = make_pod(p, info);
	int r = pod ? cv_listener_open(pod) : -ENOMEM;

	if (!r)
		r = cv_dns_open(pod);
	/* Where this thread stays is where `nsenter -t PID` leads. */
	cv_netns_leave(info->netns);
	if (r) {
		if (pod)
			discard_pod(pod);
		return r;
	}
	TAILQ_INSERT_TAIL(&p->pods, pod, node);
	p->pods_started += !pod->self;
	for (unsigned i = 0; i < p->opts.nr_workers; i++)
		cv_worker_post(p->workers[i].worker, start_lane, pod->lanes[i]);
	*ret = pod;
	return 0;
}

/* Control thread: the last lane has let go. */
static void on_pod_stopped(void *arg)
{
	struct cv_proxy_pod *pod = arg;

	cv_netns_leave(pod->netns);
	pod->done(pod->done_arg);
	cv_pod_put(pod);
}

static void stop_lane(void *arg)
{
	struct cv_lane *lane = arg;
	struct cv_proxy_pod *pod = lane->pod;

	lane->stopped = true;
	cv_listener_close(lane);
	cv_dns_stop(lane);
	cv_lane_kill(lane, drain_error);
	cv_netns_leave(pod->netns);
	if (atomic_fetch_sub(&pod->running, 1) == 1)
		cv_worker_post(pod->proxy->opts.control, on_pod_stopped, pod);
	cv_lane_put(lane);
}

void cv_proxy_pod_stop(struct cv_proxy_pod **podp, void (*done)(void *arg), void *arg)
{
	struct cv_proxy_pod *pod = *podp;
	struct cv_proxy *p = pod->proxy;

	*podp = NULL;
	TAILQ_REMOVE(&p->pods, pod, node);
	p->pods_stopped++;
	pod->done = done;
	pod->done_arg = arg;
	for (unsigned i = 0; i < p->opts.nr_workers; i++)
		cv_worker_post(p->workers[i].worker, stop_lane, pod->lanes[i]);
}

/* ---- changes ------------------------------------------------------------------------------------ */

static void post_all(struct cv_proxy *p, cv_worker_fn fn)
{
	for (unsigned i = 0; i < p->opts.nr_workers; i++)
		cv_worker_post(p->workers[i].worker, fn, &p->workers[i]);
}

static void judge_again(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;

	TAILQ_FOREACH(lane, &pw->lanes, node)
	if (!lane->stopped)
		cv_inbound_judge_again(lane);
}

void cv_proxy_policy_changed(struct cv_proxy *p)
{
	post_all(p, judge_again);
}

static void judge_peers_again(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;

	TAILQ_FOREACH(lane, &pw->lanes, node)
	if (!lane->stopped)
		cv_revoke_judge_again(lane);
}

void cv_proxy_revocations_changed(struct cv_proxy *p)
{
	post_all(p, judge_peers_again);
}

static void become_warm(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;

	pw->warm = true;
	TAILQ_FOREACH(lane, &pw->lanes, node)
	{
		if (!lane->stopped && !pw->draining)
			cv_listener_accept(lane);
		if (!lane->stopped)
			cv_dns_start(lane);
	}
}

void cv_proxy_warm(struct cv_proxy *p)
{
	post_all(p, become_warm);
}

/* ---- drain ---------------------------------------------------------------------------------------- */

/* Control thread. Reported workers plus the deadline: only the first time counts. */
static void on_drained(void *arg)
{
	struct cv_proxy *p = arg;

	if (p->drain_deadline)
		event_free(p->drain_deadline);
	p->drain_deadline = NULL;
	p->drain_done(p->drain_arg);
}

/* What is left has no streams: pooled connections. */
static void report_drained(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;

	if (pw->drained || pw->live.connections)
		return;
	pw->drained = true;
	TAILQ_FOREACH(lane, &pw->lanes, node)
	cv_lane_kill(lane, drain_error);
	if (atomic_fetch_sub(&pw->proxy->undrained, 1) == 1)
		cv_worker_post(pw->proxy->opts.control, on_drained, pw->proxy);
}

void cv_proxy_check_drained(struct cv_proxy_worker *pw)
{
	/* Later: what has just ended still has its last frames to send. */
	if (pw->draining && !pw->drained && !pw->live.connections)
		cv_worker_defer(pw->worker, report_drained, pw);
}

static void drain_worker(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;
	struct cv_hbone_conn *c;

	pw->draining = true;
	TAILQ_FOREACH(lane, &pw->lanes, node)
	{
		cv_listener_flush(lane);
		cv_listener_close(lane);
		TAILQ_FOREACH(c, &lane->conns, node)
		if (c->server)
			cv_hbone_conn_shutdown(c);
	}
	cv_proxy_check_drained(pw);
}

static void kill_worker(void *arg)
{
	struct cv_proxy_worker *pw = arg;
	struct cv_lane *lane;

	TAILQ_FOREACH(lane, &pw->lanes, node)
	cv_lane_kill(lane, drain_error);
}

static void on_drain_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct cv_proxy *p = arg;

	(void)fd;
	(void)what;
	cv_warn("connections did not drain in time: closing them");
	post_all(p, kill_worker);
}

void cv_proxy_drain(struct cv_proxy *p, unsigned deadline_ms, void (*done)(void *arg), void *arg)
{
	const struct timeval deadline = { deadline_ms / 1000, deadline_ms % 1000 * 1000 };

	p->drain_done = done;
	p->drain_arg = arg;
	p->undrained = p->opts.nr_workers;
	p->drain_deadline = evtimer_new(cv_worker_base(p->opts.control), on_drain_deadline, p);
	if (p->drain_deadline)
		event_add(p->drain_deadline, &deadline);
	else
		post_all(p, kill_worker);
	post_all(p, drain_worker);
}

/* ---- the end ---------------------------------------------------------------------------------------- */

/* The workers and their loops are gone: no event may be touched, memory and fds go as they are. */
static void free_lane(struct cv_lane *lane)
{
	struct cv_session *s, *next_session;
	struct cv_hbone_conn *c, *next_conn;

	cv_lane_ref(lane);
	TAILQ_FOREACH(s, &lane->sessions, node)
	cv_session_forget(s);
	for (c = TAILQ_FIRST(&lane->conns); c; c = next_conn) {
		next_conn = TAILQ_NEXT(c, node);
		cv_hbone_conn_discard(c);
	}
	for (s = TAILQ_FIRST(&lane->sessions); s; s = next_session) {
		next_session = TAILQ_NEXT(s, node);
		s->refs = 1;
		cv_session_put(s);
	}
	for (int i = 0; i < CV_LISTENER_NR; i++)
		cv_close(&lane->listeners[i].fd);
	cv_dns_discard(lane);
	lane->refs = 1;
	cv_lane_put(lane);
}

void cv_proxy_free(struct cv_proxy **pp)
{
	struct cv_proxy *p = *pp;
	struct cv_proxy_pod *pod;

	if (!p)
		return;
	for (unsigned i = 0; p->workers && i < p->opts.nr_workers; i++) {
		struct cv_proxy_worker *pw = &p->workers[i];

		while (!TAILQ_EMPTY(&pw->lanes))
			free_lane(TAILQ_FIRST(&pw->lanes));
		cv_pool_fini(&pw->pool);
		cv_resolver_discard(&pw->resolver);
		cv_chunks_fini(&pw->chunks);
		free(pw->dns_buf);
	}
	while ((pod = TAILQ_FIRST(&p->pods))) {
		TAILQ_REMOVE(&p->pods, pod, node);
		cv_pod_put(pod);
	}
	if (p->drain_deadline)
		event_free(p->drain_deadline);
	cv_str_put(&p->network);
	cv_str_put(&p->cluster_id);
	free(p->workers);
	free(p);
	*pp = NULL;
}

void cv_proxy_stats(struct cv_proxy *p, struct cv_proxy_stats *ret)
{
	*ret = (struct cv_proxy_stats){
		.pods_started = p->pods_started,
		.pods_stopped = p->pods_stopped,
	};
	for (unsigned i = 0; i < p->opts.nr_workers; i++) {
		const struct cv_proxy_counters *live = &p->workers[i].live;

		ret->connections += live->connections;
		ret->hbone_inbound += live->hbone_inbound;
		ret->hbone_pooled += live->hbone_pooled;
		ret->waiting += live->waiting;
	}
}
