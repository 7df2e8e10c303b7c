/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP server around evhttp: a table of paths, and bounds that evhttp leaves out: the
 * number of clients, and the time from a connection's (or the last answer's) begin to a whole
 * request. Control thread only.
 */
#pragma once

#include <event2/event.h>
#include <event2/http.h>
#include <stddef.h>
#include <stdint.h>

struct cv_http_route {
	const char *path;
	void (*handle)(struct evhttp_request *req, void *arg); /* answers before it returns */
};

struct cv_http_server;
/* routes outlive the server. */
int cv_http_server_new(struct cv_http_server **ret, struct event_base *base,
		       const struct cv_http_route *routes, size_t nr_routes, void *arg);
void cv_http_server_free(struct cv_http_server **s); /* drops every client; NULL is fine */
/* One more address; takes fd, a listening socket, in any case. */
int cv_http_server_listen(struct cv_http_server *s, int fd);

/* Answers once. type NULL = plain text; an empty body has no type. */
void cv_http_reply(struct evhttp_request *req, int code, const char *type, const char *body);
