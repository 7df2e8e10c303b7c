/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets on the loopback: options that are set and inherited, refusals that come as errors, and
 * (as root) sockets that are made inside another network namespace. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"

static const struct cv_sock_config keepalive = {
	.keepalive = true,
	.keepalive_time_s = 180,
	.keepalive_interval_s = 60,
	.keepalive_retries = 3,
	.user_timeout = true,
};

static struct cv_sockaddr address(const char *text)
{
	struct cv_sockaddr a;

	assert_int_equal(cv_sockaddr_parse(text, &a), 0);
	return a;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

static void wait_for(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	assert_int_equal(poll(&p, 1, 5000), 1);
}

/* A listener on a port of the kernel's choice. */
static int listen_on(const char *text, struct cv_sockaddr *ret, const struct cv_sock_config *config)
{
	const struct cv_listen_opts opts = { .addr = address(text), .config = config };
	int fd = cv_sock_listen(&opts);

	assert_true(fd >= 0);
	assert_int_equal(cv_sock_local(fd, ret), 0);
	assert_true(ret->port);
	return fd;
}

static void assert_keepalive(int fd)
{
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(fd, SOL_TCP, TCP_KEEPIDLE), 180);
	assert_int_equal(option(fd, SOL_TCP, TCP_KEEPINTVL), 60);
	assert_int_equal(option(fd, SOL_TCP, TCP_KEEPCNT), 3);
	assert_int_equal(option(fd, SOL_TCP, TCP_USER_TIMEOUT), 360000);
}

static void assert_ours(int fd)
{
	assert_int_equal(option(fd, SOL_TCP, TCP_NODELAY), 1);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

/* Both families, and a wildcard that takes both; addresses come back as they are, IPv4 as IPv4. */
static void test_connect(void **state)
{
	static const struct {
		const char *listen, *connect;
	} rows[] = {
		{ "127.0.0.1:0", "127.0.0.1:0" }, { "[::1]:0", "[::1]:0" },
		{ "[::]:0", "127.0.0.1:0" },	  { "[::]:0", "[::1]:0" },
		{ "0.0.0.0:0", "127.0.0.1:0" },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_sockaddr at, peer, local;
		struct cv_connect_opts opts = { .dst = address(rows[i].connect),
						.config = &keepalive };
		int l = listen_on(rows[i].listen, &at, &keepalive), c, a;

		assert_int_equal(cv_sock_accept(l, NULL, &peer), -EAGAIN);
		opts.dst.port = at.port;
		c = cv_sock_connect(&opts);
		assert_true(c >= 0);
		wait_for(c, POLLOUT);
		assert_int_equal(cv_sock_connect_result(c), 0);
		wait_for(l, POLLIN);
		a = cv_sock_accept(l, NULL, &peer);
		assert_true(a >= 0);
		assert_int_equal(cv_sock_local(c, &local), 0);
		assert_true(cv_sockaddr_eq(&local, &peer));
		assert_int_equal(cv_sock_peer(c, &peer), 0);
		assert_true(cv_sockaddr_eq(&peer, &opts.dst));
		/* Nothing was redirected, so the local address is the original destination. */
		assert_int_equal(cv_sock_original_dst(a, &local), 0);
		assert_true(cv_sockaddr_eq(&local, &opts.dst));
		assert_ours(c);
		assert_ours(a);
		assert_keepalive(c);
		assert_keepalive(a);
		close(a);
		close(c);
		close(l);
	}
}

/* The largest values that there are make a longer time than the option takes: its longest one. */
static void test_user_timeout(void **state)
{
	const struct cv_sock_config longest = {
		.keepalive_time_s = 32767,
		.keepalive_interval_s = 32767,
		.keepalive_retries = 127,
		.user_timeout = true,
	};
	struct cv_sockaddr at;
	int l = listen_on("127.0.0.1:0", &at, &longest);

	(void)state;
	assert_int_equal(option(l, SOL_TCP, TCP_USER_TIMEOUT), INT_MAX);
	close(l);
}

static void test_accept_config(void **state)
{
	struct cv_sockaddr at, peer;
	int l = listen_on("127.0.0.1:0", &at, NULL);
	const struct cv_connect_opts opts = { .dst = at };
	int c = cv_sock_connect(&opts), a;

	(void)state;
	wait_for(l, POLLIN);
	a = cv_sock_accept(l, &keepalive, &peer);
	assert_keepalive(a);
	assert_int_equal(option(c, SOL_SOCKET, SO_KEEPALIVE), 0);
	close(a);
	close(c);
	close(l);
}

static void test_refused(void **state)
{
	struct cv_sockaddr at;
	struct cv_connect_opts opts = {};
	struct cv_sockaddr src6 = address("[::1]:0");
	int fd = listen_on("127.0.0.1:0", &at, NULL);

	(void)state;
	close(fd);
	opts.dst = at;
	fd = cv_sock_connect(&opts);
	if (fd >= 0) {
		wait_for(fd, POLLOUT);
		assert_int_equal(cv_sock_connect_result(fd), -ECONNREFUSED);
		close(fd);
	} else {
		assert_int_equal(fd, -ECONNREFUSED);
	}
	opts.src = &src6;
	assert_int_equal(cv_sock_connect(&opts), -EAFNOSUPPORT);
}

static int seen_fd;

static int refuse(int fd, void *arg)
{
	seen_fd = fd;
	return *(int *)arg;
}

/* The callback sees a socket that is not connected yet and decides whether it will be. */
static void test_before_connect(void **state)
{
	struct cv_sockaddr at, src = address("127.0.0.2:0"), peer;
	int l = listen_on("127.0.0.1:0", &at, NULL), result = -EACCES, fd;
	const struct cv_connect_opts opts = {
		.dst = at, .src = &src, .before_connect = refuse, .arg = &result
	};

	(void)state;
	assert_int_equal(cv_sock_connect(&opts), -EACCES);
	assert_int_equal(fcntl(seen_fd, F_GETFD), -1); /* closed */
	result = 0;
	fd = cv_sock_connect(&opts);
	assert_int_equal(fd, seen_fd);
	wait_for(l, POLLIN);
	close(cv_sock_accept(l, NULL, &peer));
	/* Bound to its source address, on a port that others may have too. */
	assert_true(cv_addr_eq(&peer.ip, &src.ip));
	assert_int_equal(option(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	close(fd);
	close(l);
}

static void test_abort(void **state)
{
	struct cv_sockaddr at, peer;
	int l = listen_on("127.0.0.1:0", &at, NULL);
	const struct cv_connect_opts opts = { .dst = at };
	int c = cv_sock_connect(&opts), a, none = -1;
	char byte;

	(void)state;
	wait_for(l, POLLIN);
	a = cv_sock_accept(l, NULL, &peer);
	cv_sock_abort(&a);
	assert_int_equal(a, -1);
	wait_for(c, POLLIN);
	assert_int_equal(read(c, &byte, 1), -1);
	assert_int_equal(errno, ECONNRESET);
	cv_sock_abort(&none);
	close(c);
	close(l);
}

static void test_listen_refused(void **state)
{
	struct cv_sockaddr at;
	int l = listen_on("127.0.0.1:0", &at, NULL), again;
	struct cv_listen_opts opts = { .addr = at };

	(void)state;
	assert_int_equal(cv_sock_listen(&opts), -EADDRINUSE);
	opts.addr = address("203.0.113.1:1");
	assert_int_equal(cv_sock_listen(&opts), -EADDRNOTAVAIL);
	close(l);
	opts.addr = at;
	opts.reuseport = true;
	l = cv_sock_listen(&opts);
	again = cv_sock_listen(&opts);
	assert_true(l >= 0 && again >= 0);
	close(l);
	close(again);
}

static void test_no_netns(void **state)
{
	struct cv_netns ns;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(cv_netns_init(&ns, fd), -EINVAL);
	assert_int_equal(close(fd), 0); /* still the caller's */
	fd = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	assert_int_equal(cv_netns_init(&ns, fd), -EINVAL);
	close(fd);
	assert_int_equal(cv_netns_enter(NULL), 0);
}

static void *make_netns(void *arg)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, *ret = arg;

	*ret = unshare(CLONE_NEWNET) ? -errno :
				       open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (*ret < 0)
		return NULL;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return NULL;
}

static uint64_t own_inode(void)
{
	struct stat st;

	assert_int_equal(stat("/proc/thread-self/ns/net", &st), 0);
	return st.st_ino;
}

/* Starts where its creator is, and goes home when it is told to. */
static void *go_home(void *arg)
{
	uint64_t *inodes = arg;

	inodes[0] = own_inode();
	cv_netns_enter(NULL);
	inodes[1] = own_inode();
	return NULL;
}

static void test_netns(void **state)
{
	struct cv_listen_opts listen_opts = { .addr = address("[::]:15008"), .transparent = true };
	struct cv_connect_opts connect_opts = { .dst = address("127.0.0.1:15008") };
	struct cv_netns ns, self;
	uint64_t home = own_inode(), inodes[2], cookie = 0;
	socklen_t len = sizeof(cookie);
	pthread_t thread;
	int fd, l, c;

	(void)state;
	if (geteuid())
		skip();
	pthread_create(&thread, NULL, make_netns, &fd);
	pthread_join(thread, NULL);
	if (fd < 0)
		skip();
	assert_int_equal(cv_netns_self(&self), 0);
	assert_int_equal(cv_netns_init(&ns, fd), 0);
	assert_int_equal(own_inode(), home);
	assert_int_not_equal(ns.cookie, self.cookie);
	assert_int_equal(self.inode, home);

	listen_opts.ns = connect_opts.ns = &ns;
	l = cv_sock_listen(&listen_opts);
	assert_true(l >= 0);
	assert_int_equal(getsockopt(l, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len), 0);
	assert_int_equal(cookie, ns.cookie);
	assert_int_equal(option(l, SOL_IP, IP_TRANSPARENT), 1);
	c = cv_sock_connect(&connect_opts);
	assert_true(c >= 0);
	wait_for(l, POLLIN);
	assert_int_equal(own_inode(), ns.inode);

	pthread_create(&thread, NULL, go_home, inodes);
	pthread_join(thread, NULL);
	assert_int_equal(inodes[0], ns.inode);
	assert_int_equal(inodes[1], home);

	/* Leaving is for those who are there. */
	cv_netns_leave(&self);
	assert_int_equal(own_inode(), ns.inode);
	cv_netns_leave(&ns);
	assert_int_equal(own_inode(), home);
	connect_opts.ns = NULL;
	close(c);
	c = cv_sock_connect(&connect_opts);
	assert_true(c < 0 || (wait_for(c, POLLOUT), cv_sock_connect_result(c)) == -ECONNREFUSED);
	cv_close(&c);
	close(l);
	cv_netns_fini(&ns);
	assert_int_equal(ns.fd, -1);
	cv_netns_fini(&self);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect),	       cmocka_unit_test(test_accept_config),
		cmocka_unit_test(test_user_timeout),   cmocka_unit_test(test_refused),
		cmocka_unit_test(test_before_connect), cmocka_unit_test(test_abort),
		cmocka_unit_test(test_listen_refused), cmocka_unit_test(test_no_netns),
		cmocka_unit_test(test_netns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
