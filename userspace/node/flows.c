// SPDX-License-Identifier: Apache-2.0
/*
 * Direct flows, from the kernel's records to telemetry, and the sweep.
 *
 * A record of cv_flows becomes two telemetry records, one a reporter, when it is established,
 * and is removed from the map when it is closed and told. Events only say where to look, and
 * are read in batches; every few seconds everything is looked at. That sweep also brings the
 * bytes of live flows up to date and clears what a lost CLOSE left behind: entries whose
 * socket two sweeps in a row have not seen.
 */
#define CV_LOG_TARGET "node"
#include "userspace/node/flows.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/route.h"
#include "userspace/telemetry/traffic.h"

enum {
	BUCKETS = 4096,
	BATCH_MS = 50, /* events are read at most so often */
	SWEEP_MS = 10000,
	SWEEPS_MISSED = 2, /* a socket that so many sweeps have not seen is no more */
};

/* A flow that telemetry knows. */
struct flow {
	struct flow *next; /* of the bucket */
	uint64_t cookie;
	struct cv_traffic *source,
		*destination; /* a reporter each; NULL = it is not ours to tell */
	uint64_t sent, received; /* told so far */
	bool told; /* its opening */
	bool denied; /* closed by a policy change */
};

struct cv_flows {
	struct cv_flows_opts opts;
	struct flow *buckets[BUCKETS];
	struct event *readable, *rearm, *sweep;
	uint32_t sweep_number;
};

/* --- the set of known flows ----------------------------------------------------------------- */

static struct flow **bucket_of(struct cv_flows *f, uint64_t cookie)
{
	return &f->buckets[(cookie * 0x9e3779b97f4a7c15ull) >> 52];
}

static struct flow *find_flow(struct cv_flows *f, uint64_t cookie)
{
	struct flow *flow = *bucket_of(f, cookie);

	while (flow && flow->cookie != cookie)
		flow = flow->next;
	return flow;
}

static struct flow *add_flow(struct cv_flows *f, uint64_t cookie)
{
	struct flow **bucket = bucket_of(f, cookie);
	struct flow *flow = calloc(1, sizeof(*flow));

	if (!flow)
		return NULL;
	flow->cookie = cookie;
	flow->next = *bucket;
	*bucket = flow;
	return flow;
}

static void remove_flow(struct cv_flows *f, struct flow *flow)
{
	struct flow **at = bucket_of(f, flow->cookie);

	while (*at != flow)
		at = &(*at)->next;
	*at = flow->next;
	free(flow);
}

/* --- telling -------------------------------------------------------------------------------- */

/* What both reporters' records are made of. */
struct parties {
	const struct cv_pod_view *src_pod, *dst_pod; /* NULL = not enrolled (any more) */
	struct cv_workload *src, *dst; /* references; NULL = no record */
	struct cv_service *service; /* reference; the one that was dialled, NULL = none */
	struct cv_identity src_identity, dst_identity; /* borrowed from the records */
};

static struct cv_workload *record_of(struct cv_flows *f, const struct cv_pod_view *pod)
{
	if (!pod)
		return NULL;
	return cv_store_workload_local(f->opts.store, pod->ns, pod->service_account, pod->name);
}

static struct cv_identity identity_of(const struct cv_workload *w)
{
	if (!w)
		return (struct cv_identity){};
	return (struct cv_identity){ w->group->trust_domain, w->group->ns,
				     w->group->service_account };
}

static void get_parties(struct cv_flows *f, const struct cv_flow_entry *e, struct parties *p)
{
	struct cv_store *store = f->opts.store;

	*p = (struct parties){
		.src_pod = cv_pods_by_number(f->opts.pods, e->src_pod),
		.dst_pod = cv_pods_by_number(f->opts.pods, e->dst_pod),
	};
	p->src = record_of(f, p->src_pod);
	p->dst = record_of(f, p->dst_pod);
	p->src_identity = identity_of(p->src);
	p->dst_identity = identity_of(p->dst);
	if (!cv_addr_is_zero(&e->vip))
		p->service = cv_store_service_by_vip(store, p->src ? p->src->group->ns : NULL,
						     cv_store_network(store), &e->vip);
}

static void put_parties(struct parties *p)
{
	cv_workload_put(&p->src);
	cv_workload_put(&p->dst);
	cv_service_put(&p->service);
}

static struct cv_traffic *open_traffic(struct cv_flows *f, const struct cv_flow_entry *e,
				       const struct parties *p, enum cv_reporter reporter)
{
	const struct cv_pod_view *pod = reporter == CV_REPORTER_SOURCE ? p->src_pod : p->dst_pod;
	struct cv_traffic_info info = {
		.reporter = reporter,
		.tier = (enum cv_tier)e->tier,
		.src = p->src,
		.dst = p->dst,
		.service = p->service,
		.src_identity = p->src ? &p->src_identity : NULL,
		.dst_identity = p->dst ? &p->dst_identity : NULL,
		.src_addr = { e->tuple.src, ntohs(e->tuple.sport) },
		.dst_addr = { e->tuple.dst, ntohs(e->tuple.dport) },
		.original_dst = { e->tuple.dst, ntohs(e->tuple.dport) },
		.opened_ms = e->opened_ns / 1000000,
	};

	if (!pod)
		return NULL;
	info.pod_ns = pod->ns;
	info.pod_name = pod->name;
	info.pod_uid = pod->uid;
	if (!cv_addr_is_zero(&e->vip))
		info.original_dst = (struct cv_sockaddr){ e->vip, ntohs(e->vip_port) };
	return cv_traffic_open(f->opts.telemetry, &info);
}

static struct cv_traffic *open_destination(struct cv_flows *f, const struct cv_flow_entry *e,
					   struct parties *p)
{
	/* Dialled by address: the destination's own services may still tell which one is meant. */
	if (!p->service && p->dst)
		p->service = cv_route_inbound_service(f->opts.store, p->dst, NULL,
						      ntohs(e->tuple.dport));
	return open_traffic(f, e, p, CV_REPORTER_DESTINATION);
}

static void tell_open(struct cv_flows *f, struct flow *flow, const struct cv_flow_entry *e)
{
	struct parties p;

	get_parties(f, e, &p);
	flow->source = open_traffic(f, e, &p, CV_REPORTER_SOURCE);
	if (e->established_ns)
		flow->destination = open_destination(f, e, &p);
	flow->told = true;
	put_parties(&p);
}

static void tell_bytes(struct flow *flow, const struct cv_flow_entry *e)
{
	uint64_t sent = e->sent_bytes > flow->sent ? e->sent_bytes - flow->sent : 0;
	uint64_t received =
		e->received_bytes > flow->received ? e->received_bytes - flow->received : 0;

	if (!sent && !received)
		return;
	flow->sent += sent;
	flow->received += received;
	if (flow->source)
		cv_traffic_add(flow->source, sent, received);
	if (flow->destination)
		cv_traffic_add(flow->destination, sent, received);
}

static void tell_close(struct cv_flows *f, struct flow *flow, const struct cv_flow_entry *e)
{
	uint64_t closed_ms = e->closed_ns ? e->closed_ns / 1000000 : cv_now_ms();
	enum cv_flag flag = CV_FLAG_NONE;
	const char *error = NULL;

	if (flow->denied) {
		flag = CV_FLAG_DENY;
		error = "connection closed due to policy change";
	} else if (!e->established_ns) {
		flag = CV_FLAG_CONNECT;
		error = "connection failed: not established";
	}
	cv_traffic_close_at(&flow->source, closed_ms, flag, error);
	cv_traffic_close_at(&flow->destination, closed_ms, flag, error);
	remove_flow(f, flow);
}

/* Brings telemetry to the state of one record. */
static void tell(struct cv_flows *f, uint64_t cookie, const struct cv_flow_entry *e)
{
	struct flow *flow = find_flow(f, cookie);

	if (e->state == CV_FLOW_CONNECTING)
		return;
	if (!flow && e->kind == CV_KIND_DIRECT)
		flow = add_flow(f, cookie);
	if (flow && !flow->told)
		tell_open(f, flow, e);
	if (flow)
		tell_bytes(flow, e);
	if (e->state != CV_FLOW_CLOSED)
		return;
	(void)cv_table_flow_del(f->opts.bpf, cookie); /* nobody else removes it */
	if (flow)
		tell_close(f, flow, e);
}

static void tell_cookie(struct cv_flows *f, uint64_t cookie)
{
	struct cv_flow_entry e;

	if (cv_table_flow_get(f->opts.bpf, cookie, &e) == 0)
		tell(f, cookie, &e);
}

void cv_flows_deny(struct cv_flows *f, uint64_t cookie)
{
	struct flow *flow;

	tell_cookie(f, cookie);
	flow = find_flow(f, cookie);
	if (flow)
		flow->denied = true;
}

/* --- the sweep ------------------------------------------------------------------------------ */

struct sweep {
	struct cv_flows *f;
	bool pods[CV_MAX_PODS]; /* that open connections start from; 0 = the node itself */
	bool recount[CV_MAX_PODS]; /* entries were removed: cv_usage is wrong */
	uint32_t attested[CV_MAX_PODS];
};

static int note_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	struct sweep *s = arg;

	(void)tuple;
	s->pods[e->src_pod % CV_MAX_PODS] = true;
	return 0;
}

static void sweep_netns(struct cv_flows *f, const struct cv_netns *ns)
{
	int r = cv_netns_enter(ns);

	if (r == 0)
		r = cv_bpf_sweep(f->opts.bpf);
	if (ns)
		cv_netns_leave(ns);
	if (r < 0)
		cv_debug("sweep: %s", cv_strerror(-r));
}

static int begin_sweep(struct cv_flows *f)
{
	struct cv_control_entry control;
	int r = cv_table_control_get(f->opts.bpf, &control);

	if (r < 0)
		return r;
	f->sweep_number = ++control.sweep;
	return cv_table_control_set(f->opts.bpf, &control);
}

static bool is_missed(const struct cv_flows *f, uint32_t swept)
{
	return f->sweep_number - swept >= SWEEPS_MISSED;
}

static int drop_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	struct sweep *s = arg;
	uint32_t pod = e->src_pod % CV_MAX_PODS;

	if (!is_missed(s->f, e->swept)) {
		s->attested[pod]++;
		return 0;
	}
	s->recount[pod] = true;
	(void)cv_table_attested_del(s->f->opts.bpf, tuple); /* closed meanwhile is as good */
	return 0;
}

static int tell_entry(uint64_t cookie, const struct cv_flow_entry *entry, void *arg)
{
	struct sweep *s = arg;
	struct cv_flow_entry e = *entry;

	if (e.state != CV_FLOW_CLOSED && is_missed(s->f, e.swept))
		e.state = CV_FLOW_CLOSED;
	tell(s->f, cookie, &e);
	return 0;
}

static void correct_usage(struct sweep *s)
{
	for (uint32_t pod = 0; pod < CV_MAX_PODS; pod++) {
		const struct cv_usage_entry usage = { .attested = s->attested[pod] };

		if (s->recount[pod])
			(void)cv_table_usage_set(s->f->opts.bpf, pod, &usage); /* next time then */
	}
}

static int run_sweep(struct sweep *s)
{
	struct cv_flows *f = s->f;
	int r = cv_table_attested_each(f->opts.bpf, note_attested, s);

	if (r < 0)
		return r;
	r = begin_sweep(f);
	if (r < 0)
		return r;
	if (s->pods[0])
		sweep_netns(f, NULL);
	for (uint32_t number = 1; number < CV_MAX_PODS; number++) {
		const struct cv_pod_view *pod = cv_pods_by_number(f->opts.pods, number);

		if (pod && s->pods[number])
			sweep_netns(f, pod->netns);
	}
	r = cv_table_attested_each(f->opts.bpf, drop_attested, s);
	correct_usage(s);
	return r < 0 ? r : cv_table_flow_each(f->opts.bpf, tell_entry, s);
}

void cv_flows_sync(struct cv_flows *f)
{
	_cleanup_free_ struct sweep *s = calloc(1, sizeof(*s));
	int r = -ENOMEM;

	if (s) {
		s->f = f;
		r = run_sweep(s);
	}
	if (r < 0)
		cv_warn("flow records could not be read: %s", cv_strerror(-r));
}

/* --- events --------------------------------------------------------------------------------- */

static void on_event(const struct cv_event *event, void *arg)
{
	tell_cookie(arg, event->cookie);
}

static void arm(struct event *event, unsigned ms)
{
	const struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000 };

	(void)event_add(event,
			ms ? &tv : NULL); /* only memory could be missing: the sweep goes on */
}

/* Readers of a busy buffer are woken for each record; so it is left alone for a while. */
static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_flows *f = arg;

	(void)fd;
	(void)what;
	cv_events_consume(f->opts.bpf, on_event, f);
	arm(f->rearm, BATCH_MS);
}

static void on_rearm(evutil_socket_t fd, short what, void *arg)
{
	struct cv_flows *f = arg;

	(void)fd;
	(void)what;
	arm(f->readable, 0);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct cv_flows *f = arg;

	(void)fd;
	(void)what;
	cv_flows_sync(f);
	arm(f->sweep, SWEEP_MS);
}

/* Bytes on record were told by an earlier daemon, up to its last sweep; ours has not been yet. */
static int note_told(uint64_t cookie, const struct cv_flow_entry *e, void *arg)
{
	struct cv_flows *f = arg;
	struct flow *flow;

	if (e->state != CV_FLOW_ESTABLISHED || e->kind != CV_KIND_DIRECT)
		return 0;
	flow = add_flow(f, cookie);
	if (!flow)
		return -ENOMEM;
	flow->sent = e->sent_bytes;
	flow->received = e->received_bytes;
	return 0;
}

int cv_flows_new(struct cv_flows **ret, const struct cv_flows_opts *opts)
{
	_cleanup_(cv_flows_free) struct cv_flows *f = calloc(1, sizeof(*f));
	struct event_base *base = cv_worker_base(opts->control);
	int fd, r;

	if (!f)
		return -ENOMEM;
	f->opts = *opts;
	r = cv_table_flow_each(opts->bpf, note_told, f);
	if (r < 0)
		return r;
	fd = cv_events_fd(opts->bpf);
	if (fd < 0)
		return fd;
	f->readable = event_new(base, fd, EV_READ, on_readable, f);
	f->rearm = evtimer_new(base, on_rearm, f);
	f->sweep = evtimer_new(base, on_sweep, f);
	if (!f->readable || !f->rearm || !f->sweep)
		return -ENOMEM;
	arm(f->readable, 0);
	arm(f->sweep, SWEEP_MS);
	*ret = cv_take_ptr(f);
	return 0;
}

/* Flows go on: the next daemon tells the rest. */
void cv_flows_free(struct cv_flows **pf)
{
	struct cv_flows *f = *pf;

	if (!f)
		return;
	for (size_t i = 0; i < BUCKETS; i++) {
		while (f->buckets[i]) {
			cv_traffic_drop(&f->buckets[i]->source);
			cv_traffic_drop(&f->buckets[i]->destination);
			remove_flow(f, f->buckets[i]);
		}
	}
	if (f->readable)
		event_free(f->readable);
	if (f->rearm)
		event_free(f->rearm);
	if (f->sweep)
		event_free(f->sweep);
	free(f);
	*pf = NULL;
}
