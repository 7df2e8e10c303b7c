/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP sockets inside pods' network namespaces (io/netns.h).
 *
 * All sockets are non-blocking and close-on-exec, TCP_NODELAY set. Making one leaves the calling
 * thread in the socket's namespace.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "userspace/base/addr.h"
#include "userspace/io/netns.h"

/* Keepalive and marks of the daemon's sockets (ztunnel's KEEPALIVE_*, PACKET_MARK). */
struct cv_sock_config {
	bool keepalive;
	unsigned keepalive_time_s, keepalive_interval_s, keepalive_retries;
	bool user_timeout;
	uint32_t mark; /* SO_MARK, 0 = none */
};

struct cv_listen_opts {
	const struct cv_netns *ns; /* NULL = own */
	struct cv_sockaddr addr; /* unspecified v6 = dual stack */
	bool reuseport;
	bool transparent; /* IP_TRANSPARENT and IPV6_TRANSPARENT */
	bool reuseaddr;
	uint32_t mark;
	int backlog; /* 0 = 4096 */
	const struct cv_sock_config
		*config; /* keepalive that accepted sockets inherit; NULL = none */
};
/* Returns the fd or -errno. */
int cv_sock_listen(const struct cv_listen_opts *opts);

struct cv_connect_opts {
	const struct cv_netns *ns; /* NULL = own */
	struct cv_sockaddr dst;
	const struct cv_sockaddr
		*src; /* bind address with a port, shared by SO_REUSEADDR; NULL = none */
	bool transparent; /* IP_TRANSPARENT + IP_FREEBIND for src */
	const struct cv_sock_config *config;
	/* Called with the fd after its options are set and before connect(); a negative return
	 * gives up with it. Marks the socket as the daemon's own (loader/tables.h). */
	int (*before_connect)(int fd, void *arg);
	void *arg;
};
/* Starts a non-blocking connect. Returns the fd (connected or in progress) or -errno. */
int cv_sock_connect(const struct cv_connect_opts *opts);
/* Result of a finished non-blocking connect: 0 or -errno (SO_ERROR). */
int cv_sock_connect_result(int fd);

/* accept4(). Nodelay, and the listener's keepalive, are inherited; config (or NULL) sets keepalive
 * on this one. -EAGAIN when there is none. */
int cv_sock_accept(int fd, const struct cv_sock_config *config, struct cv_sockaddr *ret_peer);
int cv_sock_local(int fd, struct cv_sockaddr *ret);
int cv_sock_peer(int fd, struct cv_sockaddr *ret);
/* Original destination: SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST, else the local address. */
int cv_sock_original_dst(int fd, struct cv_sockaddr *ret);
/* close() so that the peer gets a RST (SO_LINGER 0). */
void cv_sock_abort(int *fd);
