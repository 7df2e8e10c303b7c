/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream to the control plane.
 *
 *   waiting ─(back-off)─▶ call open: one request a type ─▶ responses, each acknowledged ─▶ end ─┐
 *      ▲                                                                                        │
 *      └────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * Losing it is routine (istiod recycles connections): the log says so once a try has failed, too.
 */
#define CV_LOG_TARGET "xds"

#include "userspace/mesh/xds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/xds_private.h"

enum {
	FIRST_RETRY_MS = 10,
	STABLE_MS = 5000, /* a stream that lasted this long was no failure */
};

static const char path[] =
	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

const char *const cv_xds_type_urls[CV_XDS_TYPE_NR] = {
	[CV_XDS_ADDRESS] = CV_XDS_TYPE_ADDRESS,
	[CV_XDS_AUTHORIZATION] = CV_XDS_TYPE_AUTHORIZATION,
};
const char *const cv_xds_end_names[CV_XDS_END_NR] = {
	[CV_XDS_END_CONNECTION_ERROR] = "ConnectionError",
	[CV_XDS_END_ERROR] = "Error",
	[CV_XDS_END_RECONNECT] = "Reconnect",
	[CV_XDS_END_COMPLETE] = "Complete",
};

static void open_stream(struct cv_xds *x);

/* ---- the end of a stream -------------------------------------------------------------------- */

static enum cv_xds_end classify(const struct cv_xds *x, int status)
{
	if (status == CV_GRPC_OK)
		return CV_XDS_END_COMPLETE;
	if (!x->connected)
		return status == CV_GRPC_UNAVAILABLE ? CV_XDS_END_CONNECTION_ERROR :
						       CV_XDS_END_ERROR;
	if (status == CV_GRPC_UNKNOWN || status == CV_GRPC_CANCELLED ||
	    status == CV_GRPC_DEADLINE_EXCEEDED || status == CV_GRPC_UNAVAILABLE)
		return CV_XDS_END_RECONNECT;
	return CV_XDS_END_ERROR;
}

/* Once for each reason, until the control plane is back. */
static void warn_once(struct cv_xds *x, int status, const char *text)
{
	char why[sizeof(x->warned_text)];

	snprintf(why, sizeof(why), "%s: %s", cv_grpc_status_name(status), text);
	if (x->warned && strcmp(why, x->warned_text) == 0) {
		cv_debug("control plane: %s", why);
		return;
	}
	x->warned = true;
	memcpy(x->warned_text, why, sizeof(why));
	cv_warn("control plane: %s; %s, trying again", why,
		cv_store_is_warm(x->store) ? "the last state serves" : "nothing is served yet");
}

static void close_stream(struct cv_xds *x, int status, const char *text)
{
	uint64_t now = cv_now_ms();
	enum cv_xds_end end = classify(x, status);
	struct timeval tv;
	uint32_t ms;

	x->call = NULL;
	x->ends[end]++;
	if (x->connected && now - x->opened_ms >= STABLE_MS)
		cv_backoff_reset(&x->backoff);
	if (x->connected && (end == CV_XDS_END_RECONNECT || end == CV_XDS_END_COMPLETE))
		cv_debug("stream ended: %s: %s", cv_grpc_status_name(status), text);
	else
		warn_once(x, status, text);
	if (x->connected)
		x->away_since_ms = now;
	x->connected = false;
	xds_batch_apply(x);
	xds_response_clear(x);
	ms = cv_backoff_next_ms(&x->backoff);
	tv = (struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	event_add(x->retry, &tv);
}

/* What came cannot be understood: nothing after it can be, either. */
static void break_stream(struct cv_xds *x, const char *why)
{
	cv_channel_cancel(cv_take_ptr(x->call));
	close_stream(x, CV_GRPC_INTERNAL, why);
}

/* ---- responses ------------------------------------------------------------------------------ */

static void set_connected(struct cv_xds *x)
{
	if (x->connected)
		return;
	x->connected = true;
	if (x->warned)
		cv_info("control plane: connected");
	x->warned = false;
}

static void set_acked(struct cv_xds *x, int type)
{
	bool warm = true;

	x->types[type].acked = true;
	for (int i = 0; i < CV_XDS_TYPE_NR; i++)
		warm &= x->types[i].acked;
	if (!warm || cv_store_is_warm(x->store))
		return;
	cv_store_set_warm(x->store);
	cv_info("control plane: %zu workloads and services, %zu policies are in",
		x->types[CV_XDS_ADDRESS].names.n, x->types[CV_XDS_AUTHORIZATION].names.n);
	if (x->on_warm)
		x->on_warm(x->arg);
}

static int send_ack(struct cv_xds *x)
{
	struct cv_buf request;
	struct cv_span s;
	int r;

	cv_buf_init(&request, CV_LIMIT_XDS_REQUEST);
	r = xds_request_ack(&request, x->type_url, x->nonce, cv_buf_peek(&x->refusals));
	s = cv_buf_peek(&request);
	r = r ? r : cv_channel_send(x->call, s.data, s.len);
	cv_buf_fini(&request);
	return r;
}

static int on_message(void *arg, size_t len)
{
	struct cv_xds *x = arg;

	x->message_len = len;
	xds_response_clear(x);
	return len > CV_LIMIT_XDS_RESPONSE ? -EMSGSIZE : 0;
}

static void on_data(void *arg, const uint8_t *data, size_t len)
{
	struct cv_xds *x = arg;
	int r = cv_xds_response_feed(&x->splitter, data, len);

	if (r < 0)
		break_stream(x, "a response that is no DeltaDiscoveryResponse");
	else
		cv_channel_consume(x->call, len);
}

static void on_message_end(void *arg)
{
	struct cv_xds *x = arg;
	int type;

	if (cv_xds_response_end(&x->splitter) < 0) {
		break_stream(x, "a response that ends inside a field");
		return;
	}
	type = xds_type_find(x->type_url);
	set_connected(x);
	xds_apply_end(x, type);
	if (type >= 0) {
		x->types[type].messages++;
		x->types[type].bytes += x->message_len;
	} else {
		cv_debug("a response of type %s is none of ours", x->type_url);
	}
	if (send_ack(x) < 0) {
		break_stream(x, "the acknowledgement cannot be sent");
		return;
	}
	xds_response_clear(x);
	if (type >= 0)
		set_acked(x, type);
}

static void on_end(void *arg, int status, const char *text)
{
	close_stream(arg, status, text);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void open_stream(struct cv_xds *x)
{
	static const struct cv_grpc_call_ops ops = {
		.on_message = on_message,
		.on_data = on_data,
		.on_message_end = on_message_end,
		.on_end = on_end,
	};
	int r = 0;

	x->opened_ms = cv_now_ms();
	x->call = cv_channel_call(x->channel, path, &ops, x);
	for (int i = 0; r == 0 && i < CV_XDS_TYPE_NR; i++) {
		struct cv_buf request;
		struct cv_span s;

		cv_buf_init(&request, CV_LIMIT_GRPC_SEND);
		r = xds_request_first(&request, x, (enum cv_xds_type)i);
		s = cv_buf_peek(&request);
		r = r ? r : cv_channel_send(x->call, s.data, s.len);
		cv_buf_fini(&request);
	}
	if (r < 0)
		break_stream(x, "the first request cannot be made");
	else
		xds_demand_resume(x);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	open_stream(arg);
}

int cv_xds_start(struct cv_xds **ret, const struct cv_xds_opts *opts, char *error,
		 size_t error_size)
{
	_cleanup_(cv_xds_stop) struct cv_xds *x = calloc(1, sizeof(*x));
	int r;

	snprintf(error, error_size, "out of memory");
	if (!x)
		return -ENOMEM;
	x->control = opts->control;
	x->store = opts->store;
	x->on_warm = opts->on_warm;
	x->arg = opts->arg;
	/* Who asks waits for the answer: nothing need be in before. */
	x->types[CV_XDS_ADDRESS].acked = opts->on_demand;
	x->away_since_ms = cv_now_ms();
	x->backoff = (struct cv_backoff){ FIRST_RETRY_MS, CV_LIMIT_XDS_RETRY_MS, 0 };
	cv_buf_init(&x->node, CV_LIMIT_XDS_REQUEST);
	cv_buf_init(&x->refusals, CV_LIMIT_XDS_REFUSALS);
	cv_xds_response_init(&x->splitter, &xds_response_ops, x);
	x->retry = event_new(cv_worker_base(opts->control), -1, 0, on_retry, x);
	r = x->retry ? xds_hold_init(x) : -ENOMEM;
	r = r ? r : xds_demand_init(x, opts->on_demand);
	r = r ? r : xds_node_encode(&x->node, opts);
	r = r ? r : cv_channel_new(&x->channel, opts->channel, error, error_size);
	if (r < 0)
		return r;
	open_stream(x);
	*ret = cv_take_ptr(x);
	return 0;
}

void cv_xds_stop(struct cv_xds **xp)
{
	struct cv_xds *x = cv_take_ptr(*xp);

	if (!x)
		return;
	if (x->call)
		cv_channel_cancel(cv_take_ptr(x->call));
	cv_channel_free(&x->channel);
	if (x->retry)
		event_free(x->retry);
	xds_demand_fini(x);
	xds_hold_fini(x);
	xds_response_clear(x);
	cv_xds_response_fini(&x->splitter);
	xds_batch_fini(&x->batch);
	for (int i = 0; i < CV_XDS_TYPE_NR; i++)
		xds_names_fini(&x->types[i].names);
	cv_buf_fini(&x->node);
	free(x);
}

void cv_xds_stats(const struct cv_xds *x, struct cv_xds_stats *ret)
{
	*ret = (struct cv_xds_stats){
		.connected = x->connected,
		.age_ms = x->connected ? 0 : cv_now_ms() - x->away_since_ms,
		.refused = x->refused,
	};
	memcpy(ret->ends, x->ends, sizeof(ret->ends));
	for (int i = 0; i < CV_XDS_TYPE_NR; i++) {
		ret->messages[i] = x->types[i].messages;
		ret->bytes[i] = x->types[i].bytes;
		ret->resources[i] = x->types[i].names.n;
	}
}
