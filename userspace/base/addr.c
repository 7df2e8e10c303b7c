/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses as values: parsing, printing, comparing, and the way to and from sockaddr.
 *
 * IPv4 lives in the v4-mapped range, so most functions know one family only; where the
 * text or the kernel wants to see a difference, cv_addr_is_v4 tells.
 */
#include "userspace/base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const uint8_t v4_prefix[12] = { [10] = 0xff, [11] = 0xff };

enum { V4_OFFSET_BITS = 96 };

bool cv_addr_is_v4(const struct cv_addr *a)
{
	return !memcmp(a->b, v4_prefix, sizeof(v4_prefix));
}

bool cv_addr_is_zero(const struct cv_addr *a)
{
	static const struct cv_addr zero;

	return cv_addr_eq(a, &zero);
}

bool cv_addr_is_loopback(const struct cv_addr *a)
{
	static const struct cv_addr loopback6 = { .b = { [15] = 1 } };

	return cv_addr_is_v4(a) ? a->b[12] == 127 : cv_addr_eq(a, &loopback6);
}

bool cv_addr_is_unspecified(const struct cv_addr *a)
{
	static const uint8_t any4[4];

	return cv_addr_is_v4(a) ? !memcmp(a->b + 12, any4, sizeof(any4)) : cv_addr_is_zero(a);
}

bool cv_addr_eq(const struct cv_addr *a, const struct cv_addr *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

int cv_addr_cmp(const struct cv_addr *a, const struct cv_addr *b)
{
	return memcmp(a->b, b->b, sizeof(a->b));
}

bool cv_sockaddr_eq(const struct cv_sockaddr *a, const struct cv_sockaddr *b)
{
	return a->port == b->port && cv_addr_eq(&a->ip, &b->ip);
}

struct cv_addr cv_addr_from_bytes(const uint8_t *bytes, size_t len)
{
	struct cv_addr a = {};

	if (len == 4) {
		memcpy(a.b, v4_prefix, sizeof(v4_prefix));
		memcpy(a.b + 12, bytes, 4);
	} else if (len == 16) {
		memcpy(a.b, bytes, 16);
	}
	return a;
}

struct cv_addr cv_addr_v4(uint32_t host_order)
{
	uint32_t net = htonl(host_order);

	return cv_addr_from_bytes((const uint8_t *)&net, sizeof(net));
}

int cv_addr_parse(const char *text, struct cv_addr *ret)
{
	uint8_t bytes[16];

	if (inet_pton(AF_INET, text, bytes) == 1)
		*ret = cv_addr_from_bytes(bytes, 4);
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		*ret = cv_addr_from_bytes(bytes, 16);
	else
		return -EINVAL;
	return 0;
}

/* Digits only, at most max. */
static int parse_number(const char *text, unsigned max, unsigned *ret)
{
	unsigned n = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		n = n * 10 + (unsigned)(*text - '0');
		if (n > max)
			return -EINVAL;
	}
	*ret = n;
	return 0;
}

int cv_sockaddr_parse(const char *text, struct cv_sockaddr *ret)
{
	char host[CV_ADDR_TEXT];
	const char *start = text, *end, *port;
	struct cv_sockaddr a;
	unsigned n;
	bool bracket = *text == '[';

	if (bracket) {
		start++;
		end = strchr(start, ']');
		if (!end || end[1] != ':')
			return -EINVAL;
		port = end + 2;
	} else {
		end = strchr(start, ':');
		if (!end)
			return -EINVAL;
		port = end + 1;
	}
	if ((size_t)(end - start) >= sizeof(host))
		return -EINVAL;
	memcpy(host, start, (size_t)(end - start));
	host[end - start] = '\0';
	/* Brackets hold IPv6 and nothing else; a v4-mapped text has colons too. */
	if (bracket != !!strchr(host, ':') || cv_addr_parse(host, &a.ip) ||
	    parse_number(port, UINT16_MAX, &n))
		return -EINVAL;
	a.port = (uint16_t)n;
	*ret = a;
	return 0;
}

int cv_cidr_parse(const char *text, struct cv_cidr *ret)
{
	char host[CV_ADDR_TEXT];
	size_t hostlen = strcspn(text, "/");
	struct cv_cidr c;
	unsigned len;
	bool colons;

	if (hostlen >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, hostlen);
	host[hostlen] = '\0';
	colons = strchr(host, ':');
	if (cv_addr_parse(host, &c.ip))
		return -EINVAL;
	len = colons ? 128 : 32;
	if (text[hostlen] && parse_number(text + hostlen + 1, len, &len))
		return -EINVAL;
	if (colons && cv_addr_is_v4(&c.ip)) {
		if (len < V4_OFFSET_BITS)
			return -EINVAL;
		len -= V4_OFFSET_BITS;
	}
	c.len = (uint8_t)len;
	*ret = c;
	return 0;
}

bool cv_cidr_contains(const struct cv_cidr *c, const struct cv_addr *a)
{
	bool v4 = cv_addr_is_v4(&c->ip);
	unsigned bits = c->len + (v4 ? V4_OFFSET_BITS : 0);
	unsigned bytes = bits / 8, rest = bits % 8;
	uint8_t mask = (uint8_t)(0xff00u >> rest);

	if (v4 != cv_addr_is_v4(a) || bits > 128)
		return false;
	if (memcmp(c->ip.b, a->b, bytes))
		return false;
	return !rest || !((c->ip.b[bytes] ^ a->b[bytes]) & mask);
}

const char *cv_addr_text(const struct cv_addr *a, char *buf)
{
	if (cv_addr_is_v4(a))
		inet_ntop(AF_INET, a->b + 12, buf, CV_ADDR_TEXT);
	else
		inet_ntop(AF_INET6, a->b, buf, CV_ADDR_TEXT);
	return buf;
}

const char *cv_sockaddr_text(const struct cv_sockaddr *a, char *buf)
{
	char ip[CV_ADDR_TEXT];
	bool v4 = cv_addr_is_v4(&a->ip);

	snprintf(buf, CV_SOCKADDR_TEXT, v4 ? "%s:%u" : "[%s]:%u", cv_addr_text(&a->ip, ip),
		 a->port);
	return buf;
}

const char *cv_cidr_text(const struct cv_cidr *c, char *buf)
{
	char ip[CV_ADDR_TEXT];

	snprintf(buf, CV_SOCKADDR_TEXT, "%s/%u", cv_addr_text(&c->ip, ip), c->len);
	return buf;
}

socklen_t cv_sockaddr_to_native(const struct cv_sockaddr *a, struct sockaddr_storage *ret)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ret;

	if (!cv_addr_is_v4(&a->ip))
		return cv_sockaddr_to_native6(a, ret);
	memset(ret, 0, sizeof(*ret));
	in->sin_family = AF_INET;
	in->sin_port = htons(a->port);
	memcpy(&in->sin_addr, a->ip.b + 12, 4);
	return sizeof(*in);
}

socklen_t cv_sockaddr_to_native6(const struct cv_sockaddr *a, struct sockaddr_storage *ret)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

	memset(ret, 0, sizeof(*ret));
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(a->port);
	memcpy(&in6->sin6_addr, a->ip.b, 16);
	return sizeof(*in6);
}

int cv_sockaddr_from_native(const struct sockaddr *sa, struct cv_sockaddr *ret)
{
	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		ret->ip = cv_addr_from_bytes((const uint8_t *)&in->sin_addr, 4);
		ret->port = ntohs(in->sin_port);
		return 0;
	}
	if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

		ret->ip = cv_addr_from_bytes((const uint8_t *)&in6->sin6_addr, 16);
		ret->port = ntohs(in6->sin6_port);
		return 0;
	}
	return -EAFNOSUPPORT;
}

uint64_t cv_addr_hash(const struct cv_addr *a)
{
	uint64_t hi, lo;

	memcpy(&hi, a->b, 8);
	memcpy(&lo, a->b + 8, 8);
	hi = (hi ^ 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
	lo ^= hi ^ (hi >> 32);
	lo = (lo ^ (lo >> 30)) * 0xbf58476d1ce4e5b9u;
	lo = (lo ^ (lo >> 27)) * 0x94d049bb133111ebu;
	return lo ^ (lo >> 31);
}
