// SPDX-License-Identifier: Apache-2.0
/*
 * bookinfo: Istio's sample application in small, all four services in one program: it speaks their
 * HTTP API (the page, /api/v1/products, /details/N, /reviews/N, /ratings/N, /health) and, like
 * them, opens a new connection for each call and degrades when a service that it calls refuses.
 *
 *	productpage ──► details
 *	            ──► reviews (v1: no stars; v2: black, v3: red) ──► ratings
 */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_S	 5
#define MAX_ANSWER_BYTES (64 * 1024)

/* A service that we call: ADDRESS:PORT or [ADDRESS]:PORT from the command line. */
struct callee {
	char host[64];
	uint16_t port;
};

/* A call to another service, for a request that waits for it. */
struct call {
	struct evhttp_request *waiting; /* NULL when its client went away */
	struct evhttp_connection *conn;
	void (*on_answer)(struct call *call, int status, const char *body);
	unsigned long product;
	char *details; /* productpage: the first answer while the second is awaited */
	int details_status;
};

static struct event_base *base;
static struct callee details, reviews, ratings;
static const char *version = "v1";
static const char *pod_name = "";

static const char product_json[] =
	"{\"id\": 0, \"title\": \"A Small Book of Tunnels\", \"descriptionHtml\": "
	"\"<p>How streams pass below roads without anybody on the road taking note.</p>\"}";

static void usage(void)
{
	fputs("usage: bookinfo ROLE [options]   ROLE: productpage details reviews ratings\n"
	      "  -p PORT (9080)   -v v1|v2|v3 (reviews)   -n NAME of the pod, shown in answers\n"
	      "  -d, -r, -R ADDRESS:PORT of details, reviews, ratings: productpage needs all three,\n"
	      "  reviews v2 and v3 need ratings\n",
	      stderr);
}

static void send_text(struct evhttp_request *req, int status, const char *type, const char *text)
{
	struct evbuffer *body = evbuffer_new();

	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
	if (body)
		evbuffer_add(body, text, strlen(text));
	evhttp_send_reply(req, status, status < 400 ? "OK" : "Error", body);
	if (body)
		evbuffer_free(body);
}

static void send_json(struct evhttp_request *req, int status, const char *text)
{
	send_text(req, status, "application/json", text);
}

/* What follows the prefix in the path (/details/3), or NULL when it is another path. */
static const char *path_after(struct evhttp_request *req, const char *prefix)
{
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
	size_t len = strlen(prefix);

	return path && strncmp(path, prefix, len) == 0 ? path + len : NULL;
}

/* The number after the prefix; false, and the request answered, when it is another path. */
static bool get_number(struct evhttp_request *req, const char *prefix, unsigned long *ret_number)
{
	const char *rest = path_after(req, prefix);

	if (!rest) {
		evhttp_send_error(req, 404, "Not Found");
		return false;
	}
	*ret_number = strtoul(rest, NULL, 10);
	return true;
}

static void on_client_gone(struct evhttp_connection *conn, void *arg)
{
	struct call *call = arg;

	(void)conn;
	call->waiting = NULL;
}

/* Keeps call->waiting true to whether the request still is (NULL: no longer). */
static void watch_client(struct evhttp_request *waiting, struct call *call)
{
	evhttp_connection_set_closecb(evhttp_request_get_connection(waiting),
				      call ? on_client_gone : NULL, call);
}

/* The connection can't be freed inside its own callback, and is not used again. */
static void on_call_done(evutil_socket_t fd, short what, void *arg)
{
	struct call *call = arg;

	(void)fd;
	(void)what;
	evhttp_connection_free(call->conn);
	free(call->details);
	free(call);
}

static void on_response(struct evhttp_request *response, void *arg)
{
	struct call *call = arg;
	int status = response ? evhttp_request_get_response_code(response) : 0;
	struct timeval at_once = { 0, 0 };
	char *body = NULL;

	if (status) {
		struct evbuffer *in = evhttp_request_get_input_buffer(response);
		size_t len = evbuffer_get_length(in);

		body = calloc(1, len + 1);
		if (body)
			evbuffer_copyout(in, body, len);
	}
	if (call->waiting) {
		watch_client(call->waiting, NULL);
		call->on_answer(call, body ? status : 0, body ?: "");
	}
	free(body);
	event_base_once(base, -1, EV_TIMEOUT, on_call_done, call, &at_once);
}

/* Calls `path` of a service for the waiting request. Status 0 is given to on_answer when there is
 * no answer. The call belongs to this file's callbacks from here on. */
static void start_call(struct call *call, const struct callee *to, const char *path)
{
	struct evhttp_request *request = evhttp_request_new(on_response, call);

	call->conn = evhttp_connection_base_new(base, NULL, to->host, to->port);
	if (!request || !call->conn)
		abort();
	evhttp_connection_set_timeout(call->conn, CALL_TIMEOUT_S);
	evhttp_connection_set_max_body_size(call->conn, MAX_ANSWER_BYTES);
	evhttp_add_header(evhttp_request_get_output_headers(request), "Host", to->host);
	evhttp_add_header(evhttp_request_get_output_headers(request), "Connection", "close");
	evhttp_make_request(call->conn, request, EVHTTP_REQ_GET, path);
}

static struct call *new_call(struct evhttp_request *waiting, unsigned long product,
			     void (*on_answer)(struct call *, int, const char *))
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		abort();
	call->waiting = waiting;
	call->product = product;
	call->on_answer = on_answer;
	watch_client(waiting, call);
	return call;
}

/* ---- details, ratings -------------------------------------------------------------------------- */

static void on_details(struct evhttp_request *req, void *arg)
{
	unsigned long product;
	char text[512];

	(void)arg;
	if (!get_number(req, "/details/", &product))
		return;
	snprintf(
		text, sizeof(text),
		"{\"id\": %lu, \"author\": \"A. Pontifex\", \"year\": 1896, \"type\": \"paperback\", "
		"\"pages\": 128, \"publisher\": \"Ditch & Daughters\", \"language\": \"English\", "
		"\"ISBN-10\": \"1234567890\", \"ISBN-13\": \"123-1234567890\"}",
		product);
	send_json(req, 200, text);
}

static void on_ratings(struct evhttp_request *req, void *arg)
{
	unsigned long product;
	char text[128];

	(void)arg;
	if (!get_number(req, "/ratings/", &product))
		return;
	snprintf(text, sizeof(text),
		 "{\"id\": %lu, \"ratings\": {\"Reviewer1\": 5, \"Reviewer2\": 4}}", product);
	send_json(req, 200, text);
}

/* ---- reviews ----------------------------------------------------------------------------------- */

/* The stars that the ratings service gave this reviewer; 0 when it gave none. */
static int find_stars(const char *json, const char *reviewer)
{
	const char *at = strstr(json, reviewer);

	at = at ? strchr(at, ':') : NULL;
	return at ? strtol(at + 1, NULL, 10) : 0;
}

static void format_rating(char *buf, size_t size, bool answered, int stars)
{
	if (strcmp(version, "v1") == 0)
		buf[0] = '\0';
	else if (!answered)
		snprintf(buf, size,
			 ", \"rating\": {\"error\": \"Ratings service is currently unavailable\"}");
	else
		snprintf(buf, size, ", \"rating\": {\"stars\": %d, \"color\": \"%s\"}", stars,
			 strcmp(version, "v2") == 0 ? "black" : "red");
}

static void send_reviews(struct evhttp_request *req, unsigned long product, const char *rated)
{
	char text[1024], first[128], second[128];

	format_rating(first, sizeof(first), rated, rated ? find_stars(rated, "Reviewer1") : 0);
	format_rating(second, sizeof(second), rated, rated ? find_stars(rated, "Reviewer2") : 0);
	snprintf(
		text, sizeof(text),
		"{\"id\": \"%lu\", \"podname\": \"%s\", \"clustername\": \"null\", \"reviews\": ["
		"{\"reviewer\": \"Reviewer1\", \"text\": \"Every brook should read it twice.\"%s}, "
		"{\"reviewer\": \"Reviewer2\", \"text\": \"Dry where it counts.\"%s}]}",
		product, pod_name, first, second);
	send_json(req, 200, text);
}

static void on_rated(struct call *call, int status, const char *body)
{
	send_reviews(call->waiting, call->product, status == 200 ? body : NULL);
}

static void on_reviews(struct evhttp_request *req, void *arg)
{
	unsigned long product;
	char path[64];

	(void)arg;
	if (!get_number(req, "/reviews/", &product))
		return;
	if (strcmp(version, "v1") == 0) {
		send_reviews(req, product, NULL);
		return;
	}
	snprintf(path, sizeof(path), "/ratings/%lu", product);
	start_call(new_call(req, product, on_rated), &ratings, path);
}

/* ---- productpage ------------------------------------------------------------------------------- */

static void add_section(struct evbuffer *page, const char *name, int status, const char *body)
{
	evbuffer_add_printf(page, "<section id=\"%s\">\n", name);
	if (status == 200)
		evbuffer_add_printf(page, "<pre>%s</pre>\n", body);
	else
		evbuffer_add_printf(page, "<p>Sorry, product %s are currently unavailable.</p>\n",
				    name);
	evbuffer_add_printf(page, "</section>\n");
}

static void on_page_reviews(struct call *call, int status, const char *body)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(call->waiting);
	struct evbuffer *page = evbuffer_new();

	if (!page)
		abort();
	evbuffer_add_printf(page, "<!DOCTYPE html>\n<html>\n<head>\n"
				  "<title>Simple Bookstore App</title>\n</head>\n<body>\n"
				  "<h3>A Small Book of Tunnels</h3>\n");
	add_section(page, "details", call->details_status, call->details ?: "");
	add_section(page, "reviews", status, body);
	evbuffer_add_printf(page, "</body>\n</html>\n");
	evhttp_add_header(headers, "Content-Type", "text/html; charset=utf-8");
	evhttp_send_reply(call->waiting, 200, "OK", page);
	evbuffer_free(page);
}

static void on_page_details(struct call *call, int status, const char *body)
{
	struct call *next = new_call(call->waiting, call->product, on_page_reviews);

	next->details_status = status;
	next->details = strdup(body);
	start_call(next, &reviews, "/reviews/0");
}

static void on_page(struct evhttp_request *req, void *arg)
{
	(void)arg;
	start_call(new_call(req, 0, on_page_details), &details, "/details/0");
}

static void on_products(struct evhttp_request *req, void *arg)
{
	char text[sizeof(product_json) + 2];

	(void)arg;
	snprintf(text, sizeof(text), "[%s]", product_json);
	send_json(req, 200, text);
}

/* Hands the answer of the service on as it is. */
static void on_forwarded(struct call *call, int status, const char *body)
{
	send_json(call->waiting, status ?: 503,
		  status ? body : "{\"error\": \"Sorry, the service is currently unavailable.\"}");
}

/* /api/v1/products/N, and its /reviews and /ratings */
static void on_product(struct evhttp_request *req, void *arg)
{
	static const char prefix[] = "/api/v1/products/";
	const struct callee *to = &details;
	const char *name = "details";
	unsigned long product;
	char *rest, path[64];

	(void)arg;
	if (!get_number(req, prefix, &product))
		return;
	strtoul(path_after(req, prefix), &rest, 10);
	if (strcmp(rest, "/reviews") == 0) {
		to = &reviews;
		name = "reviews";
	} else if (strcmp(rest, "/ratings") == 0) {
		to = &ratings;
		name = "ratings";
	}
	snprintf(path, sizeof(path), "/%s/%lu", name, product);
	start_call(new_call(req, product, on_forwarded), to, path);
}

/* ---- start ------------------------------------------------------------------------------------- */

static void on_health(struct evhttp_request *req, void *arg)
{
	(void)arg;
	send_json(req, 200, "{\"status\": \"healthy\"}");
}

static const struct {
	const char *name;
	void (*on_request)(struct evhttp_request *req, void *arg); /* for every other path */
} roles[] = {
	{ "productpage", on_product },
	{ "details", on_details },
	{ "reviews", on_reviews },
	{ "ratings", on_ratings },
};

static bool parse_callee(const char *text, struct callee *ret_callee)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;

	if (len > 1 && text[0] == '[' && colon[-1] == ']') {
		text++;
		len -= 2;
	}
	if (!len || len >= sizeof(ret_callee->host))
		return false;
	memcpy(ret_callee->host, text, len);
	ret_callee->host[len] = '\0';
	ret_callee->port = strtoul(colon + 1, NULL, 10);
	return ret_callee->port;
}

static bool set_option(int opt, const char *value, uint16_t *port)
{
	switch (opt) {
	case 'p':
		*port = strtoul(value, NULL, 10);
		return *port;
	case 'v':
		version = value;
		return true;
	case 'n':
		pod_name = value;
		return true;
	case 'd':
		return parse_callee(value, &details);
	case 'r':
		return parse_callee(value, &reviews);
	case 'R':
		return parse_callee(value, &ratings);
	default:
		return false;
	}
}

/* 0, or -errno. */
static int serve(struct evhttp *http, const char *role, uint16_t port)
{
	size_t i = 0;

	while (i < sizeof(roles) / sizeof(roles[0]) && strcmp(roles[i].name, role) != 0)
		i++;
	if (i == sizeof(roles) / sizeof(roles[0]))
		return -EINVAL;
	evhttp_set_cb(http, "/health", on_health, NULL);
	if (strcmp(role, "productpage") == 0) {
		evhttp_set_cb(http, "/", on_page, NULL);
		evhttp_set_cb(http, "/productpage", on_page, NULL);
		evhttp_set_cb(http, "/api/v1/products", on_products, NULL);
	}
	evhttp_set_gencb(http, roles[i].on_request, NULL);
	if (evhttp_bind_socket(http, "::", port) == 0)
		return 0;
	return errno ? -errno : -EADDRINUSE;
}

int main(int argc, char **argv)
{
	const char *role = argc > 1 ? argv[1] : "";
	struct evhttp *http;
	uint16_t port = 9080;
	int opt, r;

	optind = 2;
	while ((opt = getopt(argc, argv, "p:v:n:d:r:R:h")) != -1) {
		if (!set_option(opt, optarg, &port)) {
			usage();
			return opt == 'h' ? 0 : 2;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	http = base ? evhttp_new(base) : NULL;
	if (!http)
		return 1;
	r = serve(http, role, port);
	if (r < 0) {
		fprintf(stderr, "bookinfo: %s on port %u: %s\n", role, port, strerror(-r));
		if (r == -EINVAL)
			usage();
		return 1;
	}
	event_base_dispatch(base);
	evhttp_free(http);
	event_base_free(base);
	return 0;
}
