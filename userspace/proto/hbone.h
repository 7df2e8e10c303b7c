/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HBONE's CONNECT request and response: headers in, headers out. No I/O.
 *
 * Request: :method CONNECT, :authority, then baggage, forwarded, traceparent in this order.
 * Response: :status, and baggage of the server's workload on a 200.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/addr.h"
#include "userspace/base/strs.h"

/* W3C baggage as ambient uses it; NULL = absent. */
struct cv_baggage {
	cv_str cluster; /* k8s.cluster.name */
	cv_str ns; /* k8s.namespace.name */
	cv_str workload_type; /* deployment, cronjob, pod, job: the key's middle part */
	cv_str workload_name; /* k8s.<type>.name */
	cv_str service_name; /* service.name */
	cv_str revision; /* service.version */
	cv_str region; /* cloud.region */
	cv_str zone; /* cloud.availability_zone */
};

void cv_baggage_fini(struct cv_baggage *b);
/* Text of the header into buf; returns its length, 0 when every member is absent (no header
 * is sent then), -ENOBUFS. */
int cv_baggage_format(const struct cv_baggage *b, char *buf, size_t size);
/* Reads one header value into b; later values win. A non-ASCII value is ignored. */
void cv_baggage_parse(struct cv_baggage *b, const char *value, size_t len);

/* `forwarded` request header: for="<client>"[;host=<service>]. */
int cv_forwarded_format(const struct cv_sockaddr *client, const char *host, char *buf, size_t size);
/* host= of a forwarded header, NULL when there is none. */
cv_str cv_forwarded_host(const char *value, size_t len);

/* A fresh traceparent (55 characters + NUL), from 24 random bytes. */
enum { CV_TRACEPARENT_TEXT = 56 };
void cv_traceparent_format(const uint8_t random[24], char buf[CV_TRACEPARENT_TEXT]);
/* Trace id (32 hex digits) of a well-formed traceparent into ret; -EINVAL. */
int cv_traceparent_trace_id(const char *value, size_t len, char ret[33]);

/* :authority of a CONNECT: an address and port, or host and port. -EINVAL. */
struct cv_authority {
	bool is_addr;
	struct cv_sockaddr addr; /* when is_addr */
	cv_str host; /* when not; owned */
	uint16_t port;
};
int cv_authority_parse(const char *value, size_t len, struct cv_authority *ret);
void cv_authority_fini(struct cv_authority *a);

/* What a server knows of a request once its header block is complete. */
struct cv_hbone_request {
	bool connect; /* :method was CONNECT */
	char method[16]; /* as sent, cut */
	char authority[300]; /* as sent; empty when absent or too long */
	struct cv_baggage baggage;
	cv_str forwarded_host;
	char trace_id[33]; /* empty when absent or malformed */
	char x_forwarded_network[64];
	bool has_x_forwarded_network;
};
void cv_hbone_request_fini(struct cv_hbone_request *r);
/* One header field of a request or response; unknown names are ignored. */
void cv_hbone_request_header(struct cv_hbone_request *r, const char *name, size_t nlen,
			     const char *value, size_t vlen);
