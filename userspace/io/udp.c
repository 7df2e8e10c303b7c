/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP sockets. One that is transparent may have any address as its own: so an answer comes from the
 * server that was asked, though the question never got there.
 */
#include "userspace/io/udp.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "userspace/base/cleanup.h"

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_mark(int fd, uint32_t mark)
{
	return mark ? set_option(fd, SOL_SOCKET, SO_MARK, (int)mark) : 0;
}

static int set_transparent(int fd, int family)
{
	return family == AF_INET ? set_option(fd, SOL_IP, IP_TRANSPARENT, 1) :
				   set_option(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
}

static int set_original_dst(int fd, int family)
{
	return family == AF_INET ? set_option(fd, SOL_IP, IP_RECVORIGDSTADDR, 1) :
				   set_option(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, 1);
}

/* Beyond the machine's limit where we may; a smaller buffer is no reason to give up. */
static void set_receive_buffer(int fd, unsigned bytes)
{
	if (bytes && set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, (int)bytes) < 0)
		(void)set_option(fd, SOL_SOCKET, SO_RCVBUF, (int)bytes);
}

static int make_socket(const struct cv_netns *ns, int family)
{
	int r = cv_netns_enter(ns);
	int fd = r ? -1 : socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (r)
		return r;
	return fd < 0 ? -errno : fd;
}

static int set_bind_options(int fd, int family, const struct cv_udp_opts *opts)
{
	int r = 0;

	if (family == AF_INET6)
		r = set_option(fd, SOL_IPV6, IPV6_V6ONLY, 1);
	if (!r && opts->reuseport)
		r = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (!r && opts->reuseaddr)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!r && opts->transparent)
		r = set_transparent(fd, family);
	if (!r && opts->original_dst)
		r = set_original_dst(fd, family);
	set_receive_buffer(fd, opts->receive_bytes);
	return r ? r : set_mark(fd, opts->mark);
}

int cv_udp_bind(const struct cv_udp_opts *opts)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(&opts->addr, &ss);
	int r;

	fd = make_socket(opts->ns, ss.ss_family);
	if (fd < 0)
		return fd;
	r = set_bind_options(fd, ss.ss_family, opts);
	if (r)
		return r;
	if (bind(fd, (struct sockaddr *)&ss, len) < 0)
		return -errno;
	return cv_take_fd(fd);
}

int cv_udp_connect(const struct cv_connect_opts *opts)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_storage ss;
	socklen_t len = cv_sockaddr_to_native(&opts->dst, &ss);
	int r;

	fd = make_socket(opts->ns, ss.ss_family);
	if (fd < 0)
		return fd;
	r = opts->config ? set_mark(fd, opts->config->mark) : 0;
	if (!r && opts->before_connect)
		r = opts->before_connect(fd, opts->arg);
	if (r < 0)
		return r;
	if (connect(fd, (struct sockaddr *)&ss, len) < 0)
		return -errno;
	return cv_take_fd(fd);
}

/* The address that the datagram had when it came, from the control messages. */
static void read_original_dst(struct msghdr *msg, struct cv_sockaddr *ret)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_ORIGDSTADDR) ||
		    (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR))
			(void)cv_sockaddr_from_native((struct sockaddr *)CMSG_DATA(c), ret);
	}
}

ssize_t cv_udp_recv(int fd, void *buf, size_t size, struct cv_sockaddr *ret_src,
		    struct cv_sockaddr *ret_dst)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct sockaddr_in6))];
	struct sockaddr_storage src;
	struct iovec iov = { buf, size };
	struct msghdr msg = {
		.msg_name = &src,
		.msg_namelen = sizeof(src),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(fd, &msg, 0);
	int r = 0;

	if (n < 0)
		return -errno;
	if (msg.msg_flags & MSG_TRUNC)
		return -EMSGSIZE;
	if (ret_src)
		r = cv_sockaddr_from_native((struct sockaddr *)&src, ret_src);
	if (ret_dst)
		read_original_dst(&msg, ret_dst);
	return r ? r : n;
}

int cv_udp_send(int fd, const void *data, size_t len, const struct cv_sockaddr *dst)
{
	struct sockaddr_storage ss;
	socklen_t size = cv_sockaddr_to_native(dst, &ss);

	return sendto(fd, data, len, MSG_NOSIGNAL, (struct sockaddr *)&ss, size) < 0 ? -errno : 0;
}
