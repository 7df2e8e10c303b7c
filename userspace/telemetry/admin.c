// SPDX-License-Identifier: Apache-2.0
/*
 * The three HTTP servers: metrics (15020), readiness (15021) and admin (15000, loopback alone),
 * with ztunnel's paths, status codes and texts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "admin"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/telemetry/http.h"
#include "userspace/telemetry/private.h"

#define HTML	     "text/html; charset=utf-8"
#define JSON	     "application/json"
#define METRICS	     "text/plain; charset=utf-8"
#define OPEN_METRICS "application/openmetrics-text;charset=utf-8;version=1.0.0"

enum { FORBIDDEN = 403 }; /* evhttp has no name for it */

struct cv_http {
	struct cv_telemetry *telemetry;
	struct cv_http_opts opts;
	struct cv_http_server *servers[CV_HTTP_NR];
	uint16_t ports[CV_HTTP_NR];
};

/* --- metrics and readiness --- */

/* Does any element of an Accept header name this media type? Weights are not looked at. */
static bool accepts(const char *header, const char *type)
{
	size_t len = strlen(type);

	while (header && *header) {
		header += strspn(header, " \t,");
		if (!strncasecmp(header, type, len) && strchr(" \t,;", header[len]))
			return true;
		header = strchr(header, ',');
	}
	return false;
}

static void serve_metrics(struct evhttp_request *req, void *arg)
{
	struct cv_http *h = arg;
	const char *accept = evhttp_find_header(evhttp_request_get_input_headers(req), "Accept");
	_cleanup_free_ char *text = cv_metrics_text(h->telemetry);

	if (!text)
		return cv_http_reply(req, HTTP_INTERNAL, NULL, "out of memory\n");
	cv_http_reply(req, HTTP_OK,
		      accepts(accept, "application/openmetrics-text") ? OPEN_METRICS : METRICS,
		      text);
}

static void serve_ready(struct evhttp_request *req, void *arg)
{
	struct cv_http *h = arg;
	char text[1024];
	size_t n, i, len;
	json_t *pending, *name;

	if (evhttp_request_get_command(req) != EVHTTP_REQ_GET)
		return cv_http_reply(req, HTTP_BADMETHOD, NULL, "");
	pending = cv_ready_pending(h->telemetry);
	n = json_array_size(pending);
	len = snprintf(text, sizeof(text), n ? "not ready, pending:" : "ready");
	json_array_foreach(pending, i, name)
		if (len < sizeof(text))
			len += snprintf(text + len, sizeof(text) - len, "%s %s", i ? "," : "",
					json_string_value(name));
	if (len < sizeof(text))
		snprintf(text + len, sizeof(text) - len, "\n");
	json_decref(pending);
	cv_http_reply(req, n ? HTTP_INTERNAL : HTTP_OK, NULL, text);
}

/* --- admin --- */

static void serve_index(struct evhttp_request *req, void *arg)
{
	(void)arg;
	cv_http_reply(req, HTTP_OK, HTML,
		      "<!DOCTYPE html>\n<title>culvert</title>\n<h1>culvert</h1>\n<ul>\n"
		      "<li><a href=\"config_dump\">config_dump</a>: the mesh as this node sees it\n"
		      "<li>logging: query (POST) or change (POST ?level=…) the log level\n"
		      "<li>quitquitquit: shut down (POST)\n"
		      "</ul>\n");
}

static json_t *ask(json_t *(*fn)(void *arg), void *arg)
{
	return fn ? fn(arg) : NULL;
}

static json_t *config_dump(struct cv_http *h)
{
	const struct cv_http_opts *o = &h->opts;
	json_t *dump = json_object(), *part;

	json_object_set_new(dump, "workloads", cv_dump_workloads(o->store));
	json_object_set_new(dump, "services", cv_dump_services(o->store));
	json_object_set_new(dump, "policies", cv_dump_policies(o->store));
	json_object_set_new(dump, "stagedServices", cv_dump_staged_services(o->store));
	json_object_set_new(dump, "certificates",
			    o->certs ? cv_dump_certificates(o->certs) : json_array());
	json_object_set_new(dump, "version", cv_dump_version(h->telemetry->istio_version));
	part = ask(o->config_json, o->arg);
	json_object_set_new(dump, "config", part ? part : json_object());
	part = ask(o->static_config_json, o->arg);
	json_object_set_new(
		dump, "staticConfig",
		part ? part : json_pack("{s:[] s:[] s:[]}", "workloads", "policies", "services"));
	part = ask(o->pods_json, o->arg);
	if (part)
		json_object_set_new(dump, "workloadState", part);
	return dump;
}

static void serve_config_dump(struct evhttp_request *req, void *arg)
{
	json_t *dump = config_dump(arg);
	_cleanup_free_ char *text = json_dumps(dump, JSON_INDENT(2) | JSON_SORT_KEYS);

	json_decref(dump);
	if (!text)
		return cv_http_reply(req, HTTP_INTERNAL, NULL, "out of memory\n");
	cv_http_reply(req, HTTP_OK, JSON, text);
}

#define LOGGING_HELP                                                                        \
	"usage: POST /logging                     the log level in force\n"                 \
	"       POST /logging?level=LEVEL         off, error, warn, info, debug or trace\n" \
	"       POST /logging?level=TARGET=LEVEL  of one target; more with commas\n"        \
	"       POST /logging?reset               back to the level at start\n"

/* In a network namespace that others share, whoever can connect is not therefore the
 * operator: what changes something is refused. */
static bool refuse_change(struct cv_http *h, struct evhttp_request *req, const char *instead)
{
	char text[256];

	if (!h->opts.admin_read_only)
		return false;
	snprintf(text, sizeof(text), "changes over HTTP are off on this node; use %s\n", instead);
	cv_http_reply(req, FORBIDDEN, NULL, text);
	return true;
}

/* The decoded value of a query's parameter; "" when it is there without one, NULL when it is not
 * there. The text is the caller's. (evhttp_parse_query_str() takes no parameter without value.) */
static char *query_value(const char *query, const char *name)
{
	size_t len = strlen(name), n;

	for (; query && *query; query += n + (query[n] == '&')) {
		n = strcspn(query, "&");
		if (n < len || strncmp(query, name, len) || (n > len && query[len] != '='))
			continue;
		_cleanup_free_ char *raw = n > len ? strndup(query + len + 1, n - len - 1) :
						     strdup("");

		return raw ? evhttp_uridecode(raw, 0, NULL) : NULL;
	}
	return NULL;
}

/* ztunnel names a library that it always keeps silent before the filter, and istioctl prints the
 * answer as it is, for people and scripts that compare it. */
#define LOGGING_ANSWER "current log level is hickory_server::server=off,%s\n"

static void refuse_level(struct evhttp_request *req, const char *level)
{
	char text[1536];

	snprintf(text, sizeof(text), "Invalid level provided: %.900s\n%s", level, LOGGING_HELP);
	cv_http_reply(req, HTTP_BADREQUEST, NULL, text);
}

static void serve_logging(struct evhttp_request *req, void *arg)
{
	const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(req));
	_cleanup_free_ char *level = query_value(query, "level");
	_cleanup_free_ char *reset = query_value(query, "reset");
	char filter[1024], text[1100];

	if (evhttp_request_get_command(req) != EVHTTP_REQ_POST)
		return cv_http_reply(req, HTTP_BADMETHOD, NULL,
				     "Invalid HTTP method\n" LOGGING_HELP);
	if (((level && *level) || reset) && refuse_change(arg, req, "`culvertctl log`"))
		return;
	if ((level || reset) && cv_log_filter_add(level, reset) < 0)
		return refuse_level(req, level ? level : "");
	cv_log_filter_text(filter, sizeof(filter));
	snprintf(text, sizeof(text), LOGGING_ANSWER, filter);
	cv_http_reply(req, HTTP_OK, NULL, text);
}

static void serve_quit(struct evhttp_request *req, void *arg)
{
	struct cv_http *h = arg;

	if (evhttp_request_get_command(req) != EVHTTP_REQ_POST)
		return cv_http_reply(req, HTTP_BADMETHOD, NULL, "");
	if (refuse_change(h, req,
			  "the service manager, or SIGTERM (`culvertctl status` shows the pid)"))
		return;
	cv_http_reply(req, HTTP_OK, NULL, "shutdown now\n");
	if (h->opts.shutdown)
		h->opts.shutdown(h->opts.arg);
}

/* --- start and stop --- */

static const struct cv_http_route admin_routes[] = {
	{ "/", serve_index },
	{ "/config_dump", serve_config_dump },
	{ "/logging", serve_logging },
	{ "/quitquitquit", serve_quit },
};
static const struct cv_http_route metrics_routes[] = {
	{ "/metrics", serve_metrics },
	{ "/stats/prometheus", serve_metrics },
};
static const struct cv_http_route readiness_routes[] = {
	{ "/healthz/ready", serve_ready },
};

static const struct {
	const char *name;
	const struct cv_http_route *routes;
	size_t nr_routes;
} servers[CV_HTTP_NR] = {
	[CV_HTTP_ADMIN] = { "admin", admin_routes, CV_ARRAY_SIZE(admin_routes) },
	[CV_HTTP_METRICS] = { "metrics", metrics_routes, CV_ARRAY_SIZE(metrics_routes) },
	[CV_HTTP_READINESS] = { "readiness", readiness_routes, CV_ARRAY_SIZE(readiness_routes) },
};

/*
 * Listens on one more address of a server; a port 0 becomes the server's first real one. A node
 * whose lo has no IPv6 has no ::1, and does without.
 */
static int listen_at(struct cv_http *h, enum cv_http_which which, const char *ip)
{
	struct cv_listen_opts opts = { .addr.port = h->ports[which], .reuseaddr = true };
	struct cv_sockaddr bound;
	char text[CV_SOCKADDR_TEXT];
	int fd, r;

	cv_addr_parse(ip, &opts.addr.ip);
	fd = cv_sock_listen(&opts);
	if (fd == -EADDRNOTAVAIL && !cv_addr_is_v4(&opts.addr.ip)) {
		cv_info("%s server: no IPv6 on lo, so not on %s", servers[which].name, ip);
		return 0;
	}
	r = fd < 0 ? fd : cv_sock_local(fd, &bound);
	if (r >= 0) {
		h->ports[which] = bound.port;
		r = cv_http_server_listen(h->servers[which], fd);
	}
	if (r < 0)
		return cv_log_err(r, "%s server: %s", servers[which].name,
				  cv_sockaddr_text(&opts.addr, text));
	cv_info("%s server listens on %s", servers[which].name, cv_sockaddr_text(&bound, text));
	return 0;
}

static int start_server(struct cv_http *h, enum cv_http_which which)
{
	int r = cv_http_server_new(&h->servers[which], cv_worker_base(h->opts.control),
				   servers[which].routes, servers[which].nr_routes, h);

	if (r < 0)
		return r;
	if (which != CV_HTTP_ADMIN)
		return listen_at(h, which, h->opts.ipv6 ? "::" : "0.0.0.0");
	r = listen_at(h, which, "127.0.0.1");
	if (r >= 0 && h->opts.ipv6)
		r = listen_at(h, which, "::1");
	return r;
}

int cv_http_start(struct cv_telemetry *t, const struct cv_http_opts *opts)
{
	struct cv_http *h = calloc(1, sizeof(*h));
	int r = 0;

	if (!h)
		return -ENOMEM;
	h->telemetry = t;
	h->opts = *opts;
	h->ports[CV_HTTP_ADMIN] = opts->admin_port;
	h->ports[CV_HTTP_METRICS] = opts->metrics_port;
	h->ports[CV_HTTP_READINESS] = opts->readiness_port;
	t->http = h;
	for (unsigned i = 0; r >= 0 && i < CV_HTTP_NR; i++)
		r = start_server(h, i);
	if (r < 0)
		cv_http_stop(t);
	return r < 0 ? r : 0;
}

void cv_http_stop(struct cv_telemetry *t)
{
	struct cv_http *h = t->http;

	t->http = NULL;
	if (!h)
		return;
	for (unsigned i = 0; i < CV_HTTP_NR; i++)
		cv_http_server_free(&h->servers[i]);
	free(h);
}

uint16_t cv_http_port(const struct cv_telemetry *t, enum cv_http_which which)
{
	return t->http ? t->http->ports[which] : 0;
}
