// SPDX-License-Identifier: Apache-2.0
/*
 * The HTTP server. evhttp parses, answers and frees connections by itself and tells nobody when
 * it does, so each connection's bufferevent has a second reference here, and a sweep a few times
 * a second (only while there are clients) finds the ones that evhttp has dropped and those that
 * are over their time. BEV_OPT_CLOSE_ON_FREE keeps the fd ours until our reference goes.
 */
#include "userspace/telemetry/http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/worker.h"
#include "userspace/limits.h"

enum {
	MAX_ADDRESSES = 2,
	SWEEP_MS = 100,
	STALL_S = 10, /* an answer of which nothing is taken */
	ANSWER_MS = 120000, /* an answer as a whole */
};

struct client {
	struct bufferevent *bev; /* our own reference */
	uint64_t deadline_ms;
};

struct cv_http_server {
	struct event_base *base;
	struct evhttp *http;
	const struct cv_http_route *routes;
	size_t nr_routes;
	void *arg;
	struct evconnlistener *listeners[MAX_ADDRESSES]; /* owned by http */
	unsigned nr_listeners;
	struct event *sweep;
	struct client clients[CV_LIMIT_ADMIN_CLIENTS];
	unsigned nr_clients;
};

/* --- bounds --- */

/* evhttp takes its callbacks off a bufferevent when it frees it. */
static bool is_dropped(struct bufferevent *bev)
{
	bufferevent_event_cb on_event = NULL;

	bufferevent_getcb(bev, NULL, NULL, &on_event, NULL);
	return !on_event;
}

static void set_accepting(struct cv_http_server *s, bool on)
{
	for (unsigned i = 0; i < s->nr_listeners; i++)
		(void)(on ? evconnlistener_enable(s->listeners[i]) :
			    evconnlistener_disable(s->listeners[i]));
}

static void start_sweep(struct cv_http_server *s)
{
	const struct timeval delay = { .tv_usec = SWEEP_MS * 1000 };

	if (!evtimer_pending(s->sweep, NULL))
		evtimer_add(s->sweep, &delay);
}

/* Gives up what evhttp has dropped, and shuts down what is over its time. */
static void reap(struct cv_http_server *s)
{
	uint64_t now_ms = cv_now_ms();
	unsigned kept = 0;

	for (unsigned i = 0; i < s->nr_clients; i++) {
		struct client *c = &s->clients[i];

		if (is_dropped(c->bev)) {
			bufferevent_decref(c->bev);
			continue;
		}
		if (now_ms >= c->deadline_ms) /* evhttp sees the end and drops it */
			shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);
		s->clients[kept++] = *c;
	}
	s->nr_clients = kept;
}

static void sweep(evutil_socket_t fd, short what, void *arg)
{
	struct cv_http_server *s = arg;

	(void)fd;
	(void)what;
	reap(s);
	if (s->nr_clients)
		start_sweep(s);
	set_accepting(s, s->nr_clients < CV_LIMIT_ADMIN_CLIENTS);
}

/* Called by evhttp for each accepted connection; the bufferevent has no callbacks yet, so to
 * reap comes first. At the bound the listeners are off, so there is room for one more here. */
static struct bufferevent *on_client(struct event_base *base, void *arg)
{
	struct cv_http_server *s = arg;
	struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);

	if (!bev || s->nr_clients == CV_LIMIT_ADMIN_CLIENTS)
		return bev;
	if (s->nr_clients == CV_LIMIT_ADMIN_CLIENTS - 1)
		reap(s);
	bufferevent_incref(bev);
	s->clients[s->nr_clients++] = (struct client){
		.bev = bev,
		.deadline_ms = cv_now_ms() + CV_LIMIT_ADMIN_REQUEST_MS,
	};
	if (s->nr_clients == CV_LIMIT_ADMIN_CLIENTS)
		set_accepting(s, false);
	start_sweep(s);
	return bev;
}

static void set_deadline(struct cv_http_server *s, struct evhttp_request *req, unsigned ms)
{
	struct evhttp_connection *conn = evhttp_request_get_connection(req);
	struct bufferevent *bev = evhttp_connection_get_bufferevent(conn);

	for (unsigned i = 0; i < s->nr_clients; i++)
		if (s->clients[i].bev == bev)
			s->clients[i].deadline_ms = cv_now_ms() + ms;
}

/* --- requests --- */

static void on_answered(struct evhttp_request *req, void *arg)
{
	set_deadline(arg, req, CV_LIMIT_ADMIN_REQUEST_MS);
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct cv_http_server *s = arg;
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));

	set_deadline(s, req, ANSWER_MS);
	evhttp_request_set_on_complete_cb(req, on_answered, s);
	for (size_t i = 0; path && i < s->nr_routes; i++)
		if (!strcmp(s->routes[i].path, path))
			return s->routes[i].handle(req, s->arg);
	cv_http_reply(req, HTTP_NOTFOUND, NULL, "");
}

void cv_http_reply(struct evhttp_request *req, int code, const char *type, const char *body)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
	struct evbuffer *out = evhttp_request_get_output_buffer(req);

	if (*body)
		evhttp_add_header(headers, "Content-Type", type ? type : "text/plain");
	if (evbuffer_add(out, body, strlen(body)) < 0)
		code = HTTP_INTERNAL;
	evhttp_send_reply(req, code, NULL, NULL);
}

/* --- the server --- */

int cv_http_server_new(struct cv_http_server **ret, struct event_base *base,
		       const struct cv_http_route *routes, size_t nr_routes, void *arg)
{
	struct cv_http_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->base = base;
	s->routes = routes;
	s->nr_routes = nr_routes;
	s->arg = arg;
	s->http = evhttp_new(base);
	s->sweep = evtimer_new(base, sweep, s);
	if (!s->http || !s->sweep) {
		cv_http_server_free(&s);
		return -ENOMEM;
	}
	evhttp_set_bevcb(s->http, on_client, s);
	evhttp_set_gencb(s->http, on_request, s);
	evhttp_set_timeout(s->http, STALL_S);
	evhttp_set_default_content_type(s->http, NULL); /* of an empty answer */
	evhttp_set_max_headers_size(s->http, CV_LIMIT_ADMIN_HEADER);
	evhttp_set_max_body_size(s->http, CV_LIMIT_ADMIN_BODY);
	evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
						    EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
						    EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
	*ret = s;
	return 0;
}

void cv_http_server_free(struct cv_http_server **server)
{
	struct cv_http_server *s = *server;

	*server = NULL;
	if (!s)
		return;
	if (s->http)
		evhttp_free(s->http);
	for (unsigned i = 0; i < s->nr_clients; i++)
		bufferevent_decref(s->clients[i].bev);
	if (s->sweep)
		event_free(s->sweep);
	free(s);
}

int cv_http_server_listen(struct cv_http_server *s, int fd)
{
	_cleanup_close_ int owned = fd;
	struct evconnlistener *listener;

	if (s->nr_listeners == MAX_ADDRESSES)
		return -ENOSPC;
	listener = evconnlistener_new(s->base, NULL, NULL,
				      LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (!listener)
		return -ENOMEM;
	(void)cv_take_fd(owned);
	if (!evhttp_bind_listener(s->http, listener)) {
		evconnlistener_free(listener);
		return -ENOMEM;
	}
	s->listeners[s->nr_listeners++] = listener;
	return 0;
}
