/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC sessions and calls: what the caller asks for. nghttp2 keeps HTTP/2's state; a call hangs on
 * its stream as the user data and dies with it.
 */
#include "userspace/proto/grpc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/limits.h"
#include "userspace/proto/grpc_session.h"

/* ---- sending -------------------------------------------------------------------------------- */

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len,
			uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct cv_grpc_call *call = nghttp2_session_get_stream_user_data(session, id);
	struct cv_grpc *g = arg;
	struct cv_span held;
	size_t room = g->ops->room(g->conn);

	(void)source;
	if (!call || call->deaf)
		return NGHTTP2_ERR_DEFERRED;
	held = cv_buf_peek(&call->out);
	if (!held.len && !call->ended)
		return NGHTTP2_ERR_DEFERRED;
	if (held.len && !room)
		return NGHTTP2_ERR_PAUSE;
	len = len < room ? len : room;
	len = len < held.len ? len : held.len;
	if (len)
		memcpy(buf, held.data, len);
	cv_buf_consume(&call->out, len);
	cv_buf_trim(&call->out);
	if (call->ended && !cv_buf_len(&call->out))
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)len;
}

int cv_grpc_output(struct cv_grpc *g)
{
	const uint8_t *data;
	ssize_t n = 1;
	int r;

	if (g->in_callback)
		return 0; /* whoever is below us on the stack sends */
	g->in_callback = true;
	while (n > 0) {
		n = nghttp2_session_mem_send(g->session, &data);
		r = n > 0 ? g->ops->write(g->conn, data, (size_t)n) : 0;
		if (r < 0) {
			cv_grpc_fail(g, r, NGHTTP2_INTERNAL_ERROR, "write failed");
			break;
		}
	}
	g->in_callback = false;
	if (n < 0)
		cv_grpc_fail(g, n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO, NGHTTP2_INTERNAL_ERROR,
			     nghttp2_strerror((int)n));
	return g->failed;
}

/* ---- sessions ------------------------------------------------------------------------------- */

static int make_session(struct cv_grpc *g)
{
	const nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CV_LIMIT_GRPC_WINDOW },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CV_LIMIT_GRPC_HEADERS },
	};
	nghttp2_session_callbacks *cbs = NULL;
	nghttp2_option *opts = NULL;
	int r = nghttp2_session_callbacks_new(&cbs);

	r = r ? r : nghttp2_option_new(&opts);
	if (!r) {
		cv_grpc_recv_callbacks(cbs);
		nghttp2_option_set_no_auto_window_update(opts, 1);
		nghttp2_option_set_no_closed_streams(opts, 1);
		nghttp2_option_set_peer_max_concurrent_streams(opts, CV_LIMIT_GRPC_CALLS);
		nghttp2_option_set_max_outbound_ack(opts, CV_LIMIT_OUTBOUND_ACKS);
		nghttp2_option_set_max_settings(opts, CV_LIMIT_SETTINGS_ENTRIES);
		r = nghttp2_session_client_new2(&g->session, cbs, g, opts);
	}
	nghttp2_option_del(opts);
	nghttp2_session_callbacks_del(cbs);
	r = r ? r :
		nghttp2_submit_settings(g->session, NGHTTP2_FLAG_NONE, settings,
					CV_ARRAY_SIZE(settings));
	r = r ? r :
		nghttp2_session_set_local_window_size(g->session, NGHTTP2_FLAG_NONE, 0,
						      CV_LIMIT_GRPC_CONNECTION_WINDOW);
	return r ? -ENOMEM : 0;
}

int cv_grpc_new(struct cv_grpc **ret, const struct cv_grpc_ops *ops, void *conn,
		const char *authority, bool https, uint64_t now_ms)
{
	struct cv_grpc *g = calloc(1, sizeof(*g));
	int r = -ENOMEM;

	if (!g)
		return r;
	*g = (struct cv_grpc){
		.ops = ops,
		.conn = conn,
		.https = https,
		.authority = strdup(authority),
		.now_ms = now_ms,
		.ping_due_ms = now_ms + CV_LIMIT_GRPC_PING_MS,
	};
	if (g->authority)
		r = make_session(g);
	if (r < 0)
		cv_grpc_free(&g, "");
	else
		*ret = g;
	return r;
}

void cv_grpc_free(struct cv_grpc **gp, const char *why)
{
	struct cv_grpc *g = *gp;

	if (!g)
		return;
	assert(!g->in_callback);
	g->in_callback = true; /* nothing is sent any more */
	g->closing = true;
	while (g->calls)
		cv_grpc_call_close(g->calls, CV_GRPC_UNAVAILABLE, why);
	nghttp2_session_del(g->session);
	free(g->authority);
	free(g);
	*gp = NULL;
}

void cv_grpc_fail(struct cv_grpc *g, int r, uint32_t code, const char *text)
{
	g->closing = true;
	if (g->failed)
		return;
	g->failed = r;
	g->error = text;
	/* No memory for the GOAWAY: the connection is closed without it. */
	(void)nghttp2_session_terminate_session(g->session, code);
}

int cv_grpc_input(struct cv_grpc *g, const uint8_t *data, size_t len, uint64_t now_ms)
{
	ssize_t n;

	assert(!g->in_callback);
	g->now_ms = now_ms;
	if (g->failed)
		return g->failed;
	g->in_callback = true;
	n = nghttp2_session_mem_recv(g->session, data, len);
	g->in_callback = false;
	if (n < 0)
		cv_grpc_fail(g, n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO, NGHTTP2_PROTOCOL_ERROR,
			     nghttp2_strerror((int)n));
	return g->failed;
}

int64_t cv_grpc_tick(struct cv_grpc *g, uint64_t now_ms)
{
	g->now_ms = now_ms;
	if (now_ms < g->ping_due_ms)
		return (int64_t)(g->ping_due_ms - now_ms);
	if (g->ping_open) {
		cv_grpc_fail(g, -ETIMEDOUT, NGHTTP2_NO_ERROR, "the server did not answer PING");
		return -ETIMEDOUT;
	}
	if (nghttp2_submit_ping(g->session, NGHTTP2_FLAG_NONE, NULL))
		return -ENOMEM;
	g->ping_open = true;
	g->ping_due_ms = now_ms + CV_LIMIT_GRPC_PONG_MS;
	return CV_LIMIT_GRPC_PONG_MS;
}

bool cv_grpc_is_closing(const struct cv_grpc *g)
{
	return g->closing;
}

unsigned cv_grpc_calls(const struct cv_grpc *g)
{
	return g->nr_calls;
}

const char *cv_grpc_error_text(const struct cv_grpc *g)
{
	return g->error ? g->error : "the connection was closed";
}

/* ---- calls ---------------------------------------------------------------------------------- */

static nghttp2_nv header_nv(const char *name, const char *value)
{
	return (nghttp2_nv){ .name = (uint8_t *)name,
			     .value = (uint8_t *)value,
			     .namelen = strlen(name),
			     .valuelen = strlen(value) };
}

/* Opens the stream; its id or -errno. */
static int32_t submit_request(struct cv_grpc *g, const char *path,
			      const struct cv_grpc_header *headers, size_t n,
			      struct cv_grpc_call *call)
{
	const nghttp2_data_provider provider = { .read_callback = read_out };
	const struct cv_grpc_header fixed[] = {
		{ ":method", "POST" },
		{ ":scheme", g->https ? "https" : "http" },
		{ ":authority", g->authority },
		{ ":path", path },
		{ "te", "trailers" },
		{ "content-type", "application/grpc" },
		{ "user-agent", "culvert/" CULVERT_VERSION },
	};
	_cleanup_free_ nghttp2_nv *nv = calloc(CV_ARRAY_SIZE(fixed) + n, sizeof(*nv));
	size_t nr = 0;
	int32_t id;

	if (!nv)
		return -ENOMEM;
	for (size_t i = 0; i < CV_ARRAY_SIZE(fixed); i++)
		nv[nr++] = header_nv(fixed[i].name, fixed[i].value);
	for (size_t i = 0; i < n; i++) {
		nv[nr] = header_nv(headers[i].name, headers[i].value);
		if (strcmp(headers[i].name, "authorization") == 0)
			nv[nr].flags = NGHTTP2_NV_FLAG_NO_INDEX;
		nr++;
	}
	id = nghttp2_submit_request(g->session, NULL, nv, nr, &provider, call);
	if (id == NGHTTP2_ERR_NOMEM)
		return -ENOMEM;
	return id < 0 ? -EBUSY : id;
}

int cv_grpc_call(struct cv_grpc *g, const char *path, const struct cv_grpc_header *headers,
		 size_t nr_headers, const struct cv_grpc_call_ops *ops, void *arg,
		 struct cv_grpc_call **ret)
{
	struct cv_grpc_call *call;

	if (g->closing || g->nr_calls >= CV_LIMIT_GRPC_CALLS)
		return -EBUSY;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->g = g;
	call->ops = ops;
	call->arg = arg;
	call->status = -1;
	cv_buf_init(&call->out, CV_LIMIT_GRPC_SEND);
	call->id = submit_request(g, path, headers, nr_headers, call);
	if (call->id < 0) {
		int r = call->id;

		free(call);
		return r;
	}
	call->next = g->calls;
	call->link = &g->calls;
	if (g->calls)
		g->calls->link = &call->next;
	g->calls = call;
	g->nr_calls++;
	*ret = call;
	return 0;
}

static void resume(struct cv_grpc_call *call)
{
	/* It fails when nothing is deferred: then the data is asked for anyway. */
	(void)nghttp2_session_resume_data(call->g->session, call->id);
}

int cv_grpc_send(struct cv_grpc_call *call, const uint8_t *message, size_t len)
{
	uint8_t *to;

	if (call->ended || call->deaf)
		return -EPIPE;
	if (len + GRPC_PREFIX > cv_buf_room(&call->out))
		return -ENOBUFS;
	to = cv_buf_reserve(&call->out, len + GRPC_PREFIX);
	if (!to)
		return -ENOMEM;
	to[0] = 0;
	to[1] = (uint8_t)(len >> 24);
	to[2] = (uint8_t)(len >> 16);
	to[3] = (uint8_t)(len >> 8);
	to[4] = (uint8_t)len;
	if (len)
		memcpy(to + GRPC_PREFIX, message, len);
	cv_buf_commit(&call->out, len + GRPC_PREFIX);
	resume(call);
	return 0;
}

void cv_grpc_end(struct cv_grpc_call *call)
{
	call->ended = true;
	resume(call);
}

void cv_grpc_consume(struct cv_grpc_call *call, size_t n)
{
	assert(n <= call->unconsumed);
	call->unconsumed -= n;
	if (n && nghttp2_session_consume(call->g->session, call->id, n))
		cv_grpc_fail(call->g, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

static void reset_stream(struct cv_grpc_call *call)
{
	call->deaf = true;
	cv_buf_fini(&call->out);
	if (nghttp2_submit_rst_stream(call->g->session, NGHTTP2_FLAG_NONE, call->id,
				      NGHTTP2_CANCEL))
		cv_grpc_fail(call->g, -ENOMEM, NGHTTP2_INTERNAL_ERROR, "out of memory");
	cv_grpc_consume(call, call->unconsumed);
}

void cv_grpc_call_fail(struct cv_grpc_call *call, int status, const char *text)
{
	if (call->deaf)
		return;
	reset_stream(call);
	call->status = status;
	free(call->text);
	call->text = strdup(text); /* NULL reads as no text */
}

void cv_grpc_cancel(struct cv_grpc_call *call)
{
	call->cancelled = true;
	if (!call->deaf)
		reset_stream(call);
}

void cv_grpc_call_close(struct cv_grpc_call *call, int status, const char *text)
{
	struct cv_grpc *g = call->g;

	*call->link = call->next;
	if (call->next)
		call->next->link = call->link;
	g->nr_calls--;
	(void)nghttp2_session_set_stream_user_data(g->session, call->id, NULL); /* it is going */
	if (call->unconsumed)
		(void)nghttp2_session_consume_connection(g->session, call->unconsumed);
	call->deaf = true;
	if (!call->cancelled && call->ops->on_end)
		call->ops->on_end(call->arg, status, text);
	cv_buf_fini(&call->out);
	free(call->text);
	free(call);
}
