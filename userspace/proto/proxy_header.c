/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PROXY protocol version 2: signature, version and command, family, length; two addresses, two
 * ports; then type-length-value records. Numbers are in network order.
 */
#include "userspace/proto/proxy_header.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

static const uint8_t signature[12] = { '\r', '\n', '\r', '\n', 0,   '\r',
				       '\n', 'Q',  'U',	 'I',  'T', '\n' };

enum {
	VERSION_2_PROXY = 0x21,
	TCP_OVER_IPV4 = 0x11,
	TCP_OVER_IPV6 = 0x21,
	TLV_HEAD = 3,
};

static uint8_t *put(uint8_t *to, const void *from, size_t n)
{
	memcpy(to, from, n);
	return to + n;
}

static uint8_t *put16(uint8_t *to, size_t value)
{
	const uint16_t wire = htons((uint16_t)value);

	return put(to, &wire, sizeof(wire));
}

int cv_proxy_header_format(const struct cv_sockaddr *src, const struct cv_sockaddr *dst,
			   const char *identity, uint8_t *buf, size_t size)
{
	bool v4 = cv_addr_is_v4(&src->ip) && cv_addr_is_v4(&dst->ip);
	size_t skip = v4 ? 12 : 0, ip = 16 - skip; /* IPv4 is the end of a v4-mapped address */
	size_t text = identity ? strlen(identity) : 0;
	size_t rest = 2 * ip + 4 + (identity ? TLV_HEAD + text : 0);
	uint8_t *p = buf;

	if (sizeof(signature) + 4 + rest > size || rest > UINT16_MAX)
		return -ENOBUFS;
	p = put(p, signature, sizeof(signature));
	*p++ = VERSION_2_PROXY;
	*p++ = v4 ? TCP_OVER_IPV4 : TCP_OVER_IPV6;
	p = put16(p, rest);
	p = put(p, src->ip.b + skip, ip);
	p = put(p, dst->ip.b + skip, ip);
	p = put16(p, src->port);
	p = put16(p, dst->port);
	if (identity) {
		*p++ = CV_PROXY_TLV_IDENTITY;
		p = put16(p, text);
		p = put(p, identity, text);
	}
	return (int)(p - buf);
}
