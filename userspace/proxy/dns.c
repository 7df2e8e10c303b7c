/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DNS query: whose it is, what the mesh knows about the name, else what an upstream says.
 *
 * The client is the pod by the namespace that its query came from, never by an address. A query
 * that nobody can answer for gets an error at once; nothing is dropped in silence.
 */
#define CV_LOG_TARGET "dns"
#include "userspace/proxy/dns.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/telemetry/dns.h"

enum { CLASS_IN = 1, UDP_ANSWER_MAX = 65000 };

/* ---- answering ---- */

static const struct cv_proxy_opts *opts_of(const struct cv_dns_lane *dns)
{
	return &dns->lane->pod->proxy->opts;
}

bool cv_dns_is_captured(const struct cv_dns_lane *dns, const struct cv_dns_origin *origin)
{
	return opts_of(dns)->bpf && dns->lane->pod->number && origin->server.port == CV_PORT_DNS &&
	       !cv_addr_is_loopback(&origin->server.ip);
}

static size_t answer_size(const struct cv_dns_origin *origin, const struct cv_dns_query *q)
{
	size_t udp = cv_dns_udp_size(q);

	if (origin->conn)
		return CV_DNS_TCP_SIZE;
	return udp < UDP_ANSWER_MAX ? udp : UDP_ANSWER_MAX;
}

static void send_answer(struct cv_dns_lane *dns, const struct cv_dns_origin *origin,
			const uint8_t *message, size_t len)
{
	if (origin->conn)
		cv_dns_tcp_send(origin->conn, message, len);
	else
		cv_dns_udp_send(dns, origin, message, len);
}

static void answer(struct cv_dns_lane *dns, const struct cv_dns_origin *origin,
		   struct cv_span message, const struct cv_dns_query *q,
		   const struct cv_dns_answer *a)
{
	uint8_t *buf = dns->lane->pw->dns_buf;

	send_answer(dns, origin, buf,
		    cv_dns_answer_write(message, q, a, buf, answer_size(origin, q)));
}

static void answer_request(struct cv_dns_request *req, const struct cv_dns_answer *a)
{
	answer(req->dns, &req->origin, (struct cv_span){ req->message, req->len }, &req->query, a);
	cv_dns_drop(req);
}

/* ---- the life of a request ---- */

static void free_request(void *arg)
{
	struct cv_dns_request *req = arg;
	struct cv_lane *lane = req->dns->lane;

	TAILQ_REMOVE(&req->dns->requests, req, node);
	cv_workload_put(&req->src);
	free(req);
	cv_lane_put(lane);
}

void cv_dns_drop(struct cv_dns_request *req)
{
	if (req->done)
		return;
	req->done = true;
	req->dns->nr_requests--;
	req->dns->lane->pw->dns_requests--;
	cv_dns_forward_stop(&req->forward);
	if (!req->waiting)
		cv_worker_defer(req->dns->lane->pw->worker, free_request, req);
}

void cv_dns_drop_conn(struct cv_dns_conn *conn)
{
	struct cv_dns_request *req;

	TAILQ_FOREACH(req, &cv_dns_tcp_lane(conn)->requests, node)
	if (req->origin.conn == conn)
		cv_dns_drop(req);
}

void cv_dns_discard_requests(struct cv_dns_lane *dns)
{
	while (!TAILQ_EMPTY(&dns->requests)) {
		struct cv_dns_request *req = TAILQ_FIRST(&dns->requests);

		cv_dns_forward_discard(&req->forward);
		free_request(req);
	}
}

static struct cv_dns_request *make_request(struct cv_dns_lane *dns,
					   const struct cv_dns_origin *origin,
					   struct cv_span message, const char *name)
{
	size_t name_size = strlen(name) + 1;
	struct cv_dns_request *req = malloc(sizeof(*req) + message.len + name_size);

	if (!req)
		return NULL;
	*req = (struct cv_dns_request){
		.dns = dns,
		.origin = *origin,
		.forward.fd = -1,
		.len = message.len,
		.name = (char *)req->message + message.len,
	};
	memcpy(req->message, message.data, message.len);
	memcpy(req->name, name, name_size);
	cv_lane_ref(dns->lane);
	dns->nr_requests++;
	dns->lane->pw->dns_requests++;
	TAILQ_INSERT_TAIL(&dns->requests, req, node);
	return req;
}

/* ---- deciding ---- */

static struct cv_dns_info info_of(const struct cv_dns_request *req)
{
	return (struct cv_dns_info){
		.type = cv_dns_type_text(req->query.type),
		.tcp = req->origin.conn,
		.src = req->src,
		.name = req->name,
	};
}

/* Answers from the store; false when the mesh does not know the name. */
static bool answer_locally(struct cv_dns_request *req)
{
	const struct cv_proxy_opts *opts = opts_of(req->dns);
	const struct cv_dns_ask ask = {
		.client = req->src,
		.name = req->name,
		.v6 = req->query.type == CV_DNS_AAAA,
		.random = cv_proxy_random(req->dns->lane->pw),
	};
	struct cv_dns_info info = info_of(req);
	struct cv_dns_answer a = { .authoritative = true };
	struct cv_dns_records records;
	enum cv_dns_outcome outcome =
		cv_dns_names_find(opts->store, &opts->dns.zone, &ask, &records);

	if (outcome == CV_DNS_SUCCESS) {
		a.cname = records.cname[0] ? records.cname : NULL;
		a.addrs = records.addrs;
		a.nr_addrs = records.n;
	}
	if (outcome != CV_DNS_UNKNOWN) {
		cv_dns_count_query(opts->telemetry, &info);
		cv_dns_log(&info,
			   outcome == CV_DNS_SUCCESS ? "success" :
			   outcome == CV_DNS_NO_RECORDS ?
						       "no records" :
						       "service does not support this record type",
			   (unsigned)a.nr_addrs);
		answer_request(req, &a);
	}
	cv_dns_records_fini(&records);
	return outcome != CV_DNS_UNKNOWN;
}

static void decide(struct cv_dns_request *req)
{
	const struct cv_dns_query *q = &req->query;
	struct cv_dns_info info;

	if (q->class == CLASS_IN && (q->type == CV_DNS_A || q->type == CV_DNS_AAAA) &&
	    answer_locally(req))
		return;
	info = info_of(req);
	cv_dns_count_query(opts_of(req->dns)->telemetry, &info);
	cv_dns_forward_start(req);
}

static void fail_request(struct cv_dns_request *req, const char *why)
{
	const struct cv_dns_answer a = { .rcode = CV_DNS_SERVFAIL };
	struct cv_dns_info info = info_of(req);

	cv_dns_count_query(opts_of(req->dns)->telemetry, &info);
	cv_dns_log(&info, why, 0);
	answer_request(req, &a);
}

static void on_workload(struct cv_workload *w, void *arg)
{
	struct cv_dns_request *req = arg;

	cv_lane_wait_end(req->dns->lane);
	req->waiting = false;
	req->src = w;
	if (req->done)
		cv_worker_defer(req->dns->lane->pw->worker, free_request, req);
	else if (w)
		decide(req);
	else
		fail_request(req, "unknown source");
}

static void with_workload(struct cv_dns_request *req)
{
	struct cv_lane *lane = req->dns->lane;
	const struct cv_proxy_pod *pod = lane->pod;

	req->src = cv_lane_workload(lane);
	if (req->src) {
		decide(req);
		return;
	}
	if (!cv_lane_wait_begin(lane)) {
		fail_request(req, "too many queries wait for the workload");
		return;
	}
	req->waiting = true;
	cv_store_wait_local(pod->proxy->opts.store, lane->pw->worker, pod->ns, pod->service_account,
			    pod->name, CV_LIMIT_WORKLOAD_WAIT_MS, on_workload, req);
}

int cv_dns_take(struct cv_dns_lane *dns, const struct cv_dns_origin *origin, struct cv_span message)
{
	struct cv_dns_request *req = NULL;
	char name[CV_DNS_NAME_TEXT];
	struct cv_dns_query q;
	struct cv_dns_answer refusal = { 0 };
	int r = cv_dns_query_parse(message, &q, name);

	if (r < 0)
		return r;
	refusal.rcode = (enum cv_dns_rcode)r;
	if (!r && dns->nr_requests < CV_LIMIT_DNS_QUERIES_POD &&
	    dns->lane->pw->dns_requests < CV_LIMIT_DNS_QUERIES)
		req = make_request(dns, origin, message, name);
	if (req) {
		req->query = q;
		with_workload(req);
		return 0;
	}
	if (!r)
		refusal.rcode = CV_DNS_SERVFAIL; /* too many, or no memory */
	cv_debug("query of %s/%s refused with code %d", dns->lane->pod->ns, dns->lane->pod->name,
		 refusal.rcode);
	answer(dns, origin, message, &q, &refusal);
	return 0;
}

/* ---- back from upstream ---- */

static void tell_upstream(struct cv_dns_request *req, const char *result, unsigned records,
			  bool failed)
{
	struct cv_dns_info info = info_of(req);

	cv_dns_count_upstream(opts_of(req->dns)->telemetry, &info,
			      cv_now_ns() - req->forward.started_ns, failed);
	cv_dns_log(&info, result, records);
}

/* What a code means in words; others by their number. */
static void failure_text(char *buf, size_t size, int rcode, int error)
{
	if (error)
		snprintf(buf, size, "forwarding failed (%s)", cv_strerror(-error));
	else if (rcode == CV_DNS_NXDOMAIN)
		snprintf(buf, size, "forwarding failed (no such name)");
	else
		snprintf(buf, size, "forwarding failed (the upstream answered with code %d)",
			 rcode);
}

void cv_dns_forwarded(struct cv_dns_request *req, uint8_t *message, size_t len)
{
	struct cv_span as_is = { message, len };
	enum cv_dns_rcode rcode = cv_dns_rcode(as_is);
	char text[128];

	if (rcode != CV_DNS_NOERROR)
		failure_text(text, sizeof(text), (int)rcode, 0);
	tell_upstream(req, rcode == CV_DNS_NOERROR ? "forwarded" : text, cv_dns_nr_answers(as_is),
		      rcode != CV_DNS_NOERROR);
	len = cv_dns_relay(message, len, &req->query, answer_size(&req->origin, &req->query));
	send_answer(req->dns, &req->origin, message, len);
	cv_dns_drop(req);
}

void cv_dns_forward_failed(struct cv_dns_request *req, int rcode, int error)
{
	const struct cv_dns_answer a = { .rcode = (enum cv_dns_rcode)rcode };
	char text[128];

	failure_text(text, sizeof(text), rcode, error);
	tell_upstream(req, text, 0, true);
	answer_request(req, &a);
}
