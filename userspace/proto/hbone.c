/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header fields that make a CONNECT an HBONE tunnel: baggage, forwarded, traceparent, and the
 * authority. Parsers take bytes from the network; what they don't understand they leave out, as
 * none of it decides who may connect.
 */
#include "userspace/proto/hbone.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "userspace/base/cleanup.h"

/* Borrowed text. */
struct text {
	const char *at;
	size_t len;
};

static bool text_is(struct text t, const char *want)
{
	return t.len == strlen(want) && !memcmp(t.at, want, t.len);
}

/* Visible ASCII, spaces and tabs: what a field may hold to be read as text. */
static bool is_ascii(const char *value, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if ((value[i] < ' ' || value[i] > '~') && value[i] != '\t')
			return false;
	}
	return true;
}

/* Splits off what stands before the next `sep`; false when nothing is left. */
static bool next_part(struct text *rest, char sep, struct text *ret)
{
	const char *end;

	if (!rest->at)
		return false;
	end = memchr(rest->at, sep, rest->len);
	*ret = (struct text){ rest->at, end ? (size_t)(end - rest->at) : rest->len };
	if (end)
		*rest = (struct text){ end + 1, rest->len - ret->len - 1 };
	else
		*rest = (struct text){};
	return true;
}

/* ---- baggage -------------------------------------------------------------------------------- */

/* The members with a fixed key, in the order in which they are sent; k8s.<type>.name comes after
 * the first WORKLOAD_AT of them. */
static const struct {
	const char *key;
	size_t offset;
} baggage_keys[] = {
	{ "k8s.cluster.name", offsetof(struct cv_baggage, cluster) },
	{ "k8s.namespace.name", offsetof(struct cv_baggage, ns) },
	{ "service.name", offsetof(struct cv_baggage, service_name) },
	{ "service.version", offsetof(struct cv_baggage, revision) },
	{ "cloud.region", offsetof(struct cv_baggage, region) },
	{ "cloud.availability_zone", offsetof(struct cv_baggage, zone) },
};
enum { WORKLOAD_AT = 2 };

static const char *const workload_types[] = { "deployment", "cronjob", "pod", "job" };

static cv_str *baggage_member(struct cv_baggage *b, size_t i)
{
	return (cv_str *)((char *)b + baggage_keys[i].offset);
}

static void replace(cv_str *member, struct text t)
{
	cv_str_put(member);
	*member = cv_str_new_len(t.at, t.len);
}

void cv_baggage_fini(struct cv_baggage *b)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(baggage_keys); i++)
		cv_str_put(baggage_member(b, i));
	cv_str_put(&b->workload_type);
	cv_str_put(&b->workload_name);
}

/* Appends to a text of *len bytes in buf. */
static int __attribute__((format(printf, 4, 5)))
append(char *buf, size_t size, int *len, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf + *len, size - (size_t)*len, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= size - (size_t)*len)
		return -ENOBUFS;
	*len += n;
	return 0;
}

static int append_workload(const struct cv_baggage *b, char *buf, size_t size, int *len)
{
	if (!b->workload_name || !b->workload_type)
		return 0;
	return append(buf, size, len, "%sk8s.%s.name=%s", *len ? "," : "", b->workload_type,
		      b->workload_name);
}

int cv_baggage_format(const struct cv_baggage *b, char *buf, size_t size)
{
	int len = 0, r = size ? 0 : -ENOBUFS;

	for (size_t i = 0; i < CV_ARRAY_SIZE(baggage_keys) && !r; i++) {
		cv_str value = *baggage_member((struct cv_baggage *)b, i);

		if (i == WORKLOAD_AT)
			r = append_workload(b, buf, size, &len);
		if (!r && value)
			r = append(buf, size, &len, "%s%s=%s", len ? "," : "", baggage_keys[i].key,
				   value);
	}
	return r ? r : len;
}

/* k8s.<type>.name with one of the four types. */
static bool is_workload_key(struct text key, struct text *ret_type)
{
	static const char prefix[] = "k8s.", suffix[] = ".name";
	size_t fixed = strlen(prefix) + strlen(suffix);

	if (key.len <= fixed || memcmp(key.at, prefix, strlen(prefix)) ||
	    memcmp(key.at + key.len - strlen(suffix), suffix, strlen(suffix)))
		return false;
	*ret_type = (struct text){ key.at + strlen(prefix), key.len - fixed };
	for (size_t i = 0; i < CV_ARRAY_SIZE(workload_types); i++) {
		if (text_is(*ret_type, workload_types[i]))
			return true;
	}
	return false;
}

static void set_baggage(struct cv_baggage *b, struct text key, struct text value)
{
	struct text type;

	if (is_workload_key(key, &type)) {
		replace(&b->workload_type, type);
		replace(&b->workload_name, value);
		return;
	}
	for (size_t i = 0; i < CV_ARRAY_SIZE(baggage_keys); i++) {
		if (text_is(key, baggage_keys[i].key))
			replace(baggage_member(b, i), value);
	}
}

void cv_baggage_parse(struct cv_baggage *b, const char *value, size_t len)
{
	struct text rest = { value, len }, item, key, val;

	if (!is_ascii(value, len))
		return;
	while (next_part(&rest, ',', &item)) {
		/* "key=value=ignored"; an item without a value says nothing. */
		if (next_part(&item, '=', &key) && next_part(&item, '=', &val))
			set_baggage(b, key, val);
	}
}

/* ---- forwarded ------------------------------------------------------------------------------ */

int cv_forwarded_format(const struct cv_sockaddr *client, const char *host, char *buf, size_t size)
{
	char addr[CV_SOCKADDR_TEXT];
	int len = 0, r = size ? 0 : -ENOBUFS;

	r = r ? r : append(buf, size, &len, "for=\"%s\"", cv_sockaddr_text(client, addr));
	if (!r && host)
		r = append(buf, size, &len, ";host=%s", host);
	return r ? r : len;
}

static struct text trim(struct text t)
{
	while (t.len && (*t.at == ' ' || *t.at == '\t'))
		t = (struct text){ t.at + 1, t.len - 1 };
	while (t.len && (t.at[t.len - 1] == ' ' || t.at[t.len - 1] == '\t'))
		t.len--;
	return t;
}

cv_str cv_forwarded_host(const char *value, size_t len)
{
	static const char key[] = "host=";
	struct text rest = { value, len }, part;

	if (!is_ascii(value, len))
		return NULL;
	while (next_part(&rest, ';', &part)) {
		part = trim(part);
		if (part.len < strlen(key) || memcmp(part.at, key, strlen(key)))
			continue;
		part = (struct text){ part.at + strlen(key), part.len - strlen(key) };
		if (part.len >= 2 && part.at[0] == '"' && part.at[part.len - 1] == '"')
			part = (struct text){ part.at + 1, part.len - 2 };
		return cv_str_new_len(part.at, part.len);
	}
	return NULL;
}

/* ---- traceparent ---------------------------------------------------------------------------- */

enum { TRACE_BYTES = 16, SPAN_BYTES = 8, TRACE_AT = 3, SPAN_AT = 36, FLAGS_AT = 53 };

static void put_hex(char *to, const uint8_t *bytes, size_t len)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		to[2 * i] = digits[bytes[i] >> 4];
		to[2 * i + 1] = digits[bytes[i] & 15];
	}
}

void cv_traceparent_format(const uint8_t random[24], char buf[CV_TRACEPARENT_TEXT])
{
	memcpy(buf, "00-", 3);
	put_hex(buf + TRACE_AT, random, TRACE_BYTES);
	buf[SPAN_AT - 1] = '-';
	put_hex(buf + SPAN_AT, random + TRACE_BYTES, SPAN_BYTES);
	memcpy(buf + FLAGS_AT - 1, "-00", 4);
}

static bool is_hex(const char *at, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!(at[i] >= '0' && at[i] <= '9') && !(at[i] >= 'a' && at[i] <= 'f'))
			return false;
	}
	return true;
}

int cv_traceparent_trace_id(const char *value, size_t len, char ret[33])
{
	if (len != CV_TRACEPARENT_TEXT - 1 || value[TRACE_AT - 1] != '-' ||
	    value[SPAN_AT - 1] != '-' || value[FLAGS_AT - 1] != '-')
		return -EINVAL;
	if (!is_hex(value, 2) || !is_hex(value + TRACE_AT, 2 * TRACE_BYTES) ||
	    !is_hex(value + SPAN_AT, 2 * SPAN_BYTES) || !is_hex(value + FLAGS_AT, 2))
		return -EINVAL;
	memcpy(ret, value + TRACE_AT, 2 * TRACE_BYTES);
	ret[2 * TRACE_BYTES] = '\0';
	return 0;
}

/* ---- authority ------------------------------------------------------------------------------ */

static int parse_port(struct text t, uint16_t *ret)
{
	unsigned n = 0;

	/* More digits would be too long for the address parser, and an address be taken for a name. */
	if (!t.len || t.len > 5)
		return -EINVAL;
	for (size_t i = 0; i < t.len; i++) {
		if (t.at[i] < '0' || t.at[i] > '9')
			return -EINVAL;
		n = n * 10 + (unsigned)(t.at[i] - '0');
		if (n > UINT16_MAX)
			return -EINVAL;
	}
	*ret = (uint16_t)n;
	return 0;
}

/* Letters, digits, '-', '_' and dots: no user info, no escapes, no brackets. */
static bool is_host(struct text t)
{
	for (size_t i = 0; i < t.len; i++) {
		char c = t.at[i];

		if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') &&
		    c != '-' && c != '_' && c != '.')
			return false;
	}
	return t.len;
}

int cv_authority_parse(const char *value, size_t len, struct cv_authority *ret)
{
	struct cv_authority a = {};
	char text[CV_SOCKADDR_TEXT];
	const char *colon = memrchr(value, ':', len);
	struct text host;

	if (memchr(value, '\0', len) || !colon)
		return -EINVAL;
	if (len < sizeof(text)) {
		memcpy(text, value, len);
		text[len] = '\0';
		a.is_addr = !cv_sockaddr_parse(text, &a.addr);
		a.port = a.addr.port;
	}
	if (!a.is_addr) {
		host = (struct text){ value, (size_t)(colon - value) };
		if (!is_host(host) ||
		    parse_port((struct text){ colon + 1, len - host.len - 1 }, &a.port))
			return -EINVAL;
		a.host = cv_str_new_len(host.at, host.len);
	}
	*ret = a;
	return 0;
}

void cv_authority_fini(struct cv_authority *a)
{
	cv_str_put(&a->host);
}

/* ---- the request as a whole ----------------------------------------------------------------- */

void cv_hbone_request_fini(struct cv_hbone_request *r)
{
	cv_baggage_fini(&r->baggage);
	cv_str_put(&r->forwarded_host);
}

/* Cuts what does not fit. */
static void copy_cut(char *to, size_t size, struct text t)
{
	size_t len = t.len < size ? t.len : size - 1;

	memcpy(to, t.at, len);
	to[len] = '\0';
}

static void on_method(struct cv_hbone_request *r, struct text value)
{
	r->connect = text_is(value, "CONNECT");
	copy_cut(r->method, sizeof(r->method), value);
}

/* A cut authority would be another one, so a long one is none. */
static void on_authority(struct cv_hbone_request *r, struct text value)
{
	if (value.len < sizeof(r->authority) && !memchr(value.at, '\0', value.len))
		copy_cut(r->authority, sizeof(r->authority), value);
}

static void on_baggage(struct cv_hbone_request *r, struct text value)
{
	cv_baggage_parse(&r->baggage, value.at, value.len);
}

static void on_forwarded(struct cv_hbone_request *r, struct text value)
{
	if (!r->forwarded_host)
		r->forwarded_host = cv_forwarded_host(value.at, value.len);
}

static void on_traceparent(struct cv_hbone_request *r, struct text value)
{
	(void)cv_traceparent_trace_id(value.at, value.len, r->trace_id); /* else none */
}

static void on_network(struct cv_hbone_request *r, struct text value)
{
	r->has_x_forwarded_network = true;
	copy_cut(r->x_forwarded_network, sizeof(r->x_forwarded_network), value);
}

static const struct {
	const char *name;
	void (*on)(struct cv_hbone_request *r, struct text value);
} request_headers[] = {
	{ ":method", on_method },	   { ":authority", on_authority },
	{ "baggage", on_baggage },	   { "forwarded", on_forwarded },
	{ "traceparent", on_traceparent }, { "x-forwarded-network", on_network },
};

void cv_hbone_request_header(struct cv_hbone_request *r, const char *name, size_t nlen,
			     const char *value, size_t vlen)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(request_headers); i++) {
		if (text_is((struct text){ name, nlen }, request_headers[i].name))
			request_headers[i].on(r, (struct text){ value, vlen });
	}
}
