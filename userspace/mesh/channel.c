/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel's calls. A call waits until a connection is ready, runs there, and ends with it; a
 * connection that takes no more calls goes on beside its successor until its last call has ended.
 */
#include "userspace/mesh/channel.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/channel_private.h"

/* ---- a call's events ------------------------------------------------------------------------ */

static void free_call(struct cv_channel_call *call)
{
	TAILQ_REMOVE(call->conn ? &call->channel->running : &call->channel->waiting, call, node);
	cv_buf_fini(&call->queued);
	free(call);
}

static void end_call(struct cv_channel_call *call, int status, const char *text)
{
	if (call->ops->on_end)
		call->ops->on_end(call->arg, status, text);
	free_call(call);
}

static int on_message(void *arg, size_t len)
{
	struct cv_channel_call *call = arg;

	return call->ops->on_message ? call->ops->on_message(call->arg, len) : 0;
}

static void on_data(void *arg, const uint8_t *data, size_t len)
{
	struct cv_channel_call *call = arg;

	if (call->ops->on_data)
		call->ops->on_data(call->arg, data, len);
	else
		cv_grpc_consume(call->call, len);
}

static void on_message_end(void *arg)
{
	struct cv_channel_call *call = arg;

	if (call->ops->on_message_end)
		call->ops->on_message_end(call->arg);
}

static void on_end(void *arg, int status, const char *text)
{
	end_call(arg, status, text);
}

static const struct cv_grpc_call_ops call_ops = {
	.on_message = on_message,
	.on_data = on_data,
	.on_message_end = on_message_end,
	.on_end = on_end,
};

/* ---- from waiting to running ---------------------------------------------------------------- */

/* Hands over what was sent while the call waited. */
static void send_queued(struct cv_channel_call *call)
{
	size_t len;

	while (cv_buf_len(&call->queued)) {
		memcpy(&len, cv_buf_peek(&call->queued).data, sizeof(len));
		cv_buf_consume(&call->queued, sizeof(len));
		/* It fits: the limits are the same. */
		(void)cv_grpc_send(call->call, cv_buf_peek(&call->queued).data, len);
		cv_buf_consume(&call->queued, len);
	}
	cv_buf_fini(&call->queued);
	if (call->ended)
		cv_grpc_end(call->call);
}

/* 0 = it runs; -EBUSY = not on this connection; else it cannot run, error says why. */
static int run_call(struct cv_channel_call *call, struct channel_conn *conn,
		    char error[CHANNEL_ERROR])
{
	struct cv_channel *c = call->channel;
	_cleanup_free_ struct cv_grpc_header *h = calloc(c->nr_headers + 2, sizeof(*h));
	_cleanup_free_ char *bearer = NULL;
	size_t n = 0;
	int r = h ? channel_bearer(c, &bearer, error) : -ENOMEM;

	if (r == -ENOMEM)
		snprintf(error, CHANNEL_ERROR, "out of memory");
	if (r < 0)
		return r;
	if (bearer)
		h[n++] = (struct cv_grpc_header){ "authorization", bearer };
	if (c->cluster_id)
		h[n++] = (struct cv_grpc_header){ "clusterid", c->cluster_id };
	if (c->nr_headers)
		memcpy(h + n, c->headers, c->nr_headers * sizeof(*h));
	r = cv_grpc_call(conn->grpc, call->path, h, n + c->nr_headers, &call_ops, call,
			 &call->call);
	if (bearer)
		explicit_bzero(bearer, strlen(bearer));
	if (r < 0)
		return r;
	TAILQ_REMOVE(&c->waiting, call, node);
	TAILQ_INSERT_TAIL(&c->running, call, node);
	call->conn = conn;
	send_queued(call);
	return 0;
}

static unsigned count_waiting(const struct cv_channel *c)
{
	const struct cv_channel_call *call;
	unsigned n = 0;

	TAILQ_FOREACH(call, &c->waiting, node)
	n++;
	return n;
}

/* What ends may start others: only those that wait now are looked at. Each step takes the first
 * one off the list. */
static void run_waiting(struct cv_channel *c)
{
	char error[CHANNEL_ERROR];
	struct cv_channel_call *call;

	for (unsigned n = count_waiting(c); n && (call = TAILQ_FIRST(&c->waiting)); n--) {
		int r = run_call(call, c->current, error);

		if (r == -EBUSY)
			break;
		if (r < 0)
			end_call(call, CV_GRPC_UNAUTHENTICATED, error);
	}
	channel_conn_flush(c->current);
}

/* The connection could not be had: nobody waits for the next one without being asked. */
static void fail_waiting(struct cv_channel *c, const char *why)
{
	struct cv_channel_call *call;

	for (unsigned n = count_waiting(c); n && (call = TAILQ_FIRST(&c->waiting)); n--)
		end_call(call, CV_GRPC_UNAVAILABLE, why);
}

static void reap(struct cv_channel *c)
{
	struct channel_conn *conn, *next;

	for (conn = TAILQ_FIRST(&c->conns); conn; conn = next) {
		bool was_current = conn == c->current;

		next = TAILQ_NEXT(conn, node);
		if (!conn->dead)
			continue;
		if (was_current)
			c->current = NULL;
		if (was_current && !conn->grpc)
			fail_waiting(c, conn->error);
		channel_conn_free(conn);
	}
}

/* Too many that will not end: the oldest goes. */
static void retire_current(struct cv_channel *c)
{
	struct channel_conn *oldest = TAILQ_FIRST(&c->conns);

	c->current = NULL;
	if (c->nr_conns > CV_LIMIT_GRPC_DRAINING) {
		snprintf(oldest->error, sizeof(oldest->error), "%s: too many old connections",
			 c->authority);
		channel_conn_free(oldest);
	}
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
	struct cv_channel *c = arg;

	(void)fd;
	(void)what;
	reap(c);
	if (TAILQ_EMPTY(&c->waiting))
		return;
	if (c->current && c->current->grpc && cv_grpc_is_closing(c->current->grpc))
		retire_current(c);
	if (!c->current) {
		c->current = channel_conn_new(c);
		if (!c->current)
			abort(); /* without memory there is nothing to go on with */
	} else if (c->current->grpc) {
		run_waiting(c);
	}
}

/* ---- calls ---------------------------------------------------------------------------------- */

struct cv_channel_call *cv_channel_call(struct cv_channel *c, const char *path,
					const struct cv_grpc_call_ops *ops, void *arg)
{
	struct cv_channel_call *call = calloc(1, sizeof(*call));

	if (!call)
		abort(); /* one a renewal or stream: without memory there is nothing to go on with */
	call->channel = c;
	call->path = path;
	call->ops = ops;
	call->arg = arg;
	cv_buf_init(&call->queued, CV_LIMIT_GRPC_SEND);
	TAILQ_INSERT_TAIL(&c->waiting, call, node);
	event_active(c->kick, 0, 0);
	return call;
}

int cv_channel_send(struct cv_channel_call *call, const uint8_t *message, size_t len)
{
	int r;

	if (call->call) {
		r = cv_grpc_send(call->call, message, len);
		channel_conn_flush(call->conn);
		return r;
	}
	if (call->ended)
		return -EPIPE;
	if (cv_buf_room(&call->queued) < len + sizeof(len))
		return -ENOBUFS;
	r = cv_buf_append(&call->queued, &len, sizeof(len));
	return r < 0 ? r : cv_buf_append(&call->queued, message, len);
}

void cv_channel_end(struct cv_channel_call *call)
{
	call->ended = true;
	if (!call->call)
		return;
	cv_grpc_end(call->call);
	channel_conn_flush(call->conn);
}

void cv_channel_consume(struct cv_channel_call *call, size_t n)
{
	cv_grpc_consume(call->call, n);
	channel_conn_flush(call->conn);
}

void cv_channel_cancel(struct cv_channel_call *call)
{
	if (call->call) {
		cv_grpc_cancel(call->call);
		channel_conn_flush(call->conn);
	}
	free_call(call);
}

/* ---- unary calls ---------------------------------------------------------------------------- */

struct unary {
	struct cv_channel_call *call; /* NULL once it has ended */
	struct event *timeout; /* NULL = none */
	size_t max_len;
	cv_channel_unary_fn done;
	void *arg;
	struct cv_buf message;
	bool whole; /* the message is complete */
};

static void finish_unary(struct unary *u, int status, const char *text)
{
	const struct cv_span m = cv_buf_peek(&u->message);

	if (status == CV_GRPC_OK && !u->whole) {
		status = CV_GRPC_INTERNAL;
		text = "the server answered without a message";
	}
	if (status == CV_GRPC_OK)
		u->done(u->arg, status, "", m.data, m.len);
	else
		u->done(u->arg, status, text, NULL, 0);
	if (u->timeout)
		event_free(u->timeout);
	cv_buf_fini(&u->message);
	free(u);
}

static int on_unary_message(void *arg, size_t len)
{
	struct unary *u = arg;

	return len > u->max_len || u->whole || !cv_buf_reserve(&u->message, len ? len : 1) ?
		       -EMSGSIZE :
		       0;
}

static void on_unary_data(void *arg, const uint8_t *data, size_t len)
{
	struct unary *u = arg;

	(void)cv_buf_append(&u->message, data, len); /* it was reserved */
	cv_channel_consume(u->call, len);
}

static void on_unary_message_end(void *arg)
{
	struct unary *u = arg;

	u->whole = true;
}

static void on_unary_end(void *arg, int status, const char *text)
{
	finish_unary(arg, status, text);
}

static void on_unary_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct unary *u = arg;

	(void)fd;
	(void)what;
	cv_channel_cancel(u->call);
	finish_unary(u, CV_GRPC_DEADLINE_EXCEEDED, "the server did not answer in time");
}

void cv_channel_unary(struct cv_channel *c, const struct cv_channel_unary *call)
{
	static const struct cv_grpc_call_ops ops = {
		.on_message = on_unary_message,
		.on_data = on_unary_data,
		.on_message_end = on_unary_message_end,
		.on_end = on_unary_end,
	};
	const struct timeval tv = { .tv_sec = call->timeout_ms / 1000,
				    .tv_usec = call->timeout_ms % 1000 * 1000 };
	struct unary *u = calloc(1, sizeof(*u));

	if (!u)
		abort(); /* as cv_channel_call */
	u->max_len = call->max_len;
	u->done = call->done;
	u->arg = call->arg;
	cv_buf_init(&u->message, call->max_len + 1);
	u->call = cv_channel_call(c, call->path, &ops, u);
	if (cv_channel_send(u->call, call->message, call->len) < 0)
		abort(); /* as cv_channel_call */
	cv_channel_end(u->call);
	if (!call->timeout_ms)
		return;
	u->timeout = event_new(cv_worker_base(c->control), -1, 0, on_unary_timeout, u);
	if (!u->timeout)
		abort(); /* as cv_channel_call */
	event_add(u->timeout, &tv);
}

/* ---- life ----------------------------------------------------------------------------------- */

static char *copy_text(const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		abort(); /* a few strings at start */
	return copy;
}

static void copy_headers(struct cv_channel *c, const struct cv_channel_opts *opts)
{
	c->headers = calloc(opts->nr_headers + 1, sizeof(*c->headers));
	if (!c->headers)
		abort(); /* as copy_text */
	for (size_t i = 0; i < opts->nr_headers; i++)
		c->headers[c->nr_headers++] = (struct cv_grpc_header){
			copy_text(opts->headers[i].name),
			copy_text(opts->headers[i].value),
		};
}

int cv_channel_new(struct cv_channel **ret, const struct cv_channel_opts *opts, char *error,
		   size_t error_size)
{
	struct cv_channel *c = calloc(1, sizeof(*c));
	int r;

	snprintf(error, error_size, "out of memory");
	if (!c)
		return -ENOMEM;
	TAILQ_INIT(&c->conns);
	TAILQ_INIT(&c->waiting);
	TAILQ_INIT(&c->running);
	c->control = opts->control;
	c->tls12 = opts->tls12;
	c->alt_hostname = copy_text(opts->alt_hostname);
	c->root_ca = copy_text(opts->root_ca);
	c->auth_token = copy_text(opts->auth_token);
	c->cluster_id = copy_text(opts->cluster_id);
	copy_headers(c, opts);
	c->kick = event_new(cv_worker_base(opts->control), -1, 0, on_kick, c);
	r = c->kick ? channel_parse_address(c, opts->address, error, error_size) : -ENOMEM;
	if (r < 0)
		cv_channel_free(&c);
	else
		*ret = c;
	return r;
}

void cv_channel_free(struct cv_channel **cp)
{
	struct cv_channel *c = cv_take_ptr(*cp);
	struct cv_channel_call *call;

	if (!c)
		return;
	while ((call = TAILQ_FIRST(&c->running))) {
		cv_grpc_cancel(call->call);
		end_call(call, CV_GRPC_CANCELLED, "the channel was closed");
	}
	while ((call = TAILQ_FIRST(&c->waiting)))
		end_call(call, CV_GRPC_CANCELLED, "the channel was closed");
	while (!TAILQ_EMPTY(&c->conns))
		channel_conn_free(TAILQ_FIRST(&c->conns));
	if (c->kick)
		event_free(c->kick);
	for (size_t i = 0; i < c->nr_headers; i++) {
		free((char *)c->headers[i].name);
		free((char *)c->headers[i].value);
	}
	free(c->headers);
	free(c->host);
	free(c->authority);
	free(c->alt_hostname);
	free(c->root_ca);
	free(c->auth_token);
	free(c->cluster_id);
	free(c);
}
