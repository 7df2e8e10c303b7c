/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets: made in the right namespace, with their options set before anybody sees them.
 *
 * A socket belongs to the namespace in which its thread was when it called socket(). Options that
 * accepted sockets inherit (TCP_NODELAY, the mark, keepalive) are set on the listener, so that
 * accepting costs one call.
 */
#include "userspace/io/sock.h"

#include <errno.h>
#include <limits.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/netns.h"

enum { DEFAULT_BACKLOG = 4096 };

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_mark(int fd, uint32_t mark)
{
	return mark ? set_option(fd, SOL_SOCKET, SO_MARK, (int)mark) : 0;
}

/* IPv6 sockets take both: they may carry IPv4. */
static int set_transparent(int fd, int family)
{
	int r = set_option(fd, SOL_IP, IP_TRANSPARENT, 1);

	return r || family == AF_INET ? r : set_option(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
}

static void set_keepalive(int fd, const struct cv_sock_config *config)
{
	uint64_t timeout_s = config->keepalive_time_s +
			     (uint64_t)config->keepalive_retries * config->keepalive_interval_s;
	int timeout_ms = timeout_s < INT_MAX / 1000 ? (int)timeout_s * 1000 : INT_MAX;

	/* A connection without keepalive is better than none: failures are ignored. */
	if (config->keepalive) {
		(void)set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		(void)set_option(fd, SOL_TCP, TCP_KEEPIDLE, (int)config->keepalive_time_s);
		(void)set_option(fd, SOL_TCP, TCP_KEEPINTVL, (int)config->keepalive_interval_s);
		(void)set_option(fd, SOL_TCP, TCP_KEEPCNT, (int)config->keepalive_retries);
	}
	if (config->user_timeout)
		(void)set_option(fd, SOL_TCP, TCP_USER_TIMEOUT, timeout_ms);
}

/* A TCP socket of the calling thread's namespace. */
static int make_socket(int family)
{
	_cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r = fd < 0 ? -errno : set_option(fd, SOL_TCP, TCP_NODELAY, 1);

	return r ? r : cv_take_fd(fd);
}

static int set_listen_options(int fd, int family, const struct cv_listen_opts *opts)
{
	int r = 0;

	if (family == AF_INET6)
		r = set_option(fd, SOL_IPV6, IPV6_V6ONLY, !cv_addr_is_unspecified(&opts->addr.ip));
	if (!r && opts->reuseport)
		r = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (!r && opts->reuseaddr)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!r && opts->transparent)
		r = set_transparent(fd, family);
	if (!r)
		r = set_mark(fd, opts->mark);
	if (!r && opts->config)
		set_keepalive(fd, opts->config);
	return r;
}

int cv_sock_listen(const struct cv_listen_opts *opts)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(&opts->addr, &ss);
	int r = cv_netns_enter(opts->ns);

	if (r)
		return r;
	fd = make_socket(ss.ss_family);
	if (fd < 0)
		return fd;
	r = set_listen_options(fd, ss.ss_family, opts);
	if (r)
		return r;
	if (bind(fd, (struct sockaddr *)&ss, len) < 0 ||
	    listen(fd, opts->backlog ? opts->backlog : DEFAULT_BACKLOG) < 0)
		return -errno;
	return cv_take_fd(fd);
}

static int bind_source(int fd, const struct cv_connect_opts *opts)
{
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(opts->src, &ss);
	int r = 0;

	if (opts->transparent) {
		r = set_transparent(fd, ss.ss_family);
		r = r ? r : set_option(fd, SOL_IP, IP_FREEBIND, 1);
		if (!r && ss.ss_family == AF_INET6)
			r = set_option(fd, SOL_IPV6, IPV6_FREEBIND, 1);
	}
	/* A port may serve several destinations. */
	if (!r)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!r && bind(fd, (struct sockaddr *)&ss, len) < 0)
		r = -errno;
	return r;
}

static int set_connect_options(int fd, const struct cv_connect_opts *opts)
{
	int r = 0;

	if (opts->config) {
		set_keepalive(fd, opts->config);
		r = set_mark(fd, opts->config->mark);
	}
	if (!r && opts->src)
		r = bind_source(fd, opts);
	if (!r && opts->before_connect)
		r = opts->before_connect(fd, opts->arg);
	return r < 0 ? r : 0;
}

int cv_sock_connect(const struct cv_connect_opts *opts)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(&opts->dst, &ss);
	int r;

	if (opts->src && cv_addr_is_v4(&opts->src->ip) != cv_addr_is_v4(&opts->dst.ip))
		return -EAFNOSUPPORT;
	r = cv_netns_enter(opts->ns);
	if (r)
		return r;
	fd = make_socket(ss.ss_family);
	if (fd < 0)
		return fd;
	r = set_connect_options(fd, opts);
	if (r)
		return r;
	if (connect(fd, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS)
		return -errno;
	return cv_take_fd(fd);
}

int cv_sock_connect_result(int fd)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

/* Errors of the connection that accept() reports in place of it (accept(2)). */
static bool is_gone_already(int err)
{
	return err == ECONNABORTED || err == EINTR || err == EPROTO || err == ENETDOWN ||
	       err == EHOSTDOWN || err == EHOSTUNREACH || err == ENETUNREACH || err == ENONET;
}

int cv_sock_accept(int fd, const struct cv_sock_config *config, struct cv_sockaddr *ret_peer)
{
	_cleanup_close_ int conn = -1;
	struct sockaddr_storage ss;
	socklen_t len;
	int r;

	do {
		len = sizeof(ss);
		conn = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	} while (conn < 0 && is_gone_already(errno));
	if (conn < 0)
		return -errno;
	r = cv_sockaddr_from_native((struct sockaddr *)&ss, ret_peer);
	if (r)
		return r;
	if (config)
		set_keepalive(conn, config);
	return cv_take_fd(conn);
}

int cv_sock_local(int fd, struct cv_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return -errno;
	return cv_sockaddr_from_native((struct sockaddr *)&ss, ret);
}

int cv_sock_peer(int fd, struct cv_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
		return -errno;
	return cv_sockaddr_from_native((struct sockaddr *)&ss, ret);
}

int cv_sock_original_dst(int fd, struct cv_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (!getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &ss, &len))
		return cv_sockaddr_from_native((struct sockaddr *)&ss, ret);
	len = sizeof(ss);
	if (!getsockopt(fd, SOL_IPV6, IP6T_SO_ORIGINAL_DST, &ss, &len))
		return cv_sockaddr_from_native((struct sockaddr *)&ss, ret);
	return cv_sock_local(fd, ret);
}

void cv_sock_abort(int *fd)
{
	struct linger now = { .l_onoff = 1 };

	if (*fd >= 0)
		(void)setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)); /* then a FIN */
	cv_close(fd);
}
