/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP sockets inside pods' network namespaces (io/netns.h), non-blocking and close-on-exec. Making
 * one leaves the calling thread in the socket's namespace.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "userspace/io/sock.h"

struct cv_udp_opts {
	const struct cv_netns *ns; /* NULL = own */
	struct cv_sockaddr addr; /* IPv6 addresses take IPv6 alone */
	bool reuseport, reuseaddr;
	bool transparent; /* the address need not be the namespace's */
	bool original_dst; /* cv_udp_recv tells where a datagram was sent to */
	uint32_t mark;
	unsigned receive_bytes; /* that may wait to be read, the kernel's overhead not counted; 0 = default */
};
/* Returns the fd or -errno. */
int cv_udp_bind(const struct cv_udp_opts *opts);
/* A socket that talks to opts->dst alone, from a port of its own; options as for TCP, but src and
 * transparent are not looked at. Returns the fd or -errno. */
int cv_udp_connect(const struct cv_connect_opts *opts);

/* Length of the datagram, or -errno (-EAGAIN: none there). Longer than size: -EMSGSIZE, it is gone.
 * ret_dst is left alone when the kernel does not tell. NULL for what is not of interest. */
ssize_t cv_udp_recv(int fd, void *buf, size_t size, struct cv_sockaddr *ret_src,
		    struct cv_sockaddr *ret_dst);
/* 0 or -errno. */
int cv_udp_send(int fd, const void *data, size_t len, const struct cv_sockaddr *dst);
