/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PROXY protocol's header, version 2, as an application tunnel gets it in front of the
 * payload: who connects, what he asked for, and who he has proven to be.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "userspace/base/addr.h"

enum {
	CV_PROXY_TLV_IDENTITY = 0xd0, /* the source's SPIFFE identity as text */
	CV_PROXY_HEADER_MAX = 1024, /* enough for any identity that a certificate has */
};

/* Header of a TCP connection from src to dst into buf; identity NULL = none was proven. When the two
 * are of different families the IPv4 one is written v4-mapped. Returns its length, -ENOBUFS. */
int cv_proxy_header_format(const struct cv_sockaddr *src, const struct cv_sockaddr *dst,
			   const char *identity, uint8_t *buf, size_t size);
