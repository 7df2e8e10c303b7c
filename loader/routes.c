// SPDX-License-Identifier: Apache-2.0
/*
 * Policy routing by rtnetlink. Requests are small and answered at once, so one blocking socket a
 * call will do.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/routes.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <unistd.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

enum {
	LO_IFINDEX = 1, /* in every network namespace */
	REQUEST_BYTES = 512,
};

static const char accept_local[] = "/proc/sys/net/ipv4/conf/lo/accept_local";

static void close_nl(struct mnl_socket **nl)
{
	if (*nl)
		mnl_socket_close(*nl);
	*nl = NULL;
}

static int open_nl(struct mnl_socket **ret)
{
	_cleanup_(close_nl) struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

	if (!nl)
		return -errno;
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	*ret = cv_take_ptr(nl);
	return 0;
}

static int talk(struct mnl_socket *nl, struct nlmsghdr *nlh)
{
	char answer[4096];
	ssize_t n;

	nlh->nlmsg_seq = 1;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	n = mnl_socket_recvfrom(nl, answer, sizeof(answer));
	if (n < 0)
		return -errno;
	if (mnl_cb_run(answer, (size_t)n, 1, mnl_socket_get_portid(nl), NULL, NULL) < 0)
		return -errno;
	return 0;
}

static struct nlmsghdr *begin(char buf[REQUEST_BYTES], uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	return nlh;
}

static int change_rule(struct mnl_socket *nl, uint8_t family, uint16_t type, uint16_t flags)
{
	char buf[REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = begin(buf, type, flags);
	struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(nlh, sizeof(*rule));

	rule->family = family;
	rule->action = FR_ACT_TO_TBL;
	mnl_attr_put_u32(nlh, FRA_PRIORITY, CV_RULE_PRIORITY);
	mnl_attr_put_u32(nlh, FRA_FWMARK, CV_FASTPATH_MARK);
	mnl_attr_put_u32(nlh, FRA_FWMASK, CV_FASTPATH_MARK);
	mnl_attr_put_u32(nlh, FRA_TABLE, CV_ROUTE_TABLE);
	return talk(nl, nlh);
}

/* src NULL = any (for a removal). */
static int change_route(struct mnl_socket *nl, uint8_t family, const struct cv_addr *src,
			uint16_t type, uint16_t flags)
{
	char buf[REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = begin(buf, type, flags);
	struct rtmsg *route = mnl_nlmsg_put_extra_header(nlh, sizeof(*route));

	route->rtm_family = family;
	route->rtm_protocol = RTPROT_STATIC;
	route->rtm_scope = RT_SCOPE_HOST;
	route->rtm_type = RTN_LOCAL;
	mnl_attr_put_u32(nlh, RTA_TABLE, CV_ROUTE_TABLE);
	mnl_attr_put_u32(nlh, RTA_OIF, LO_IFINDEX);
	if (src && family == AF_INET)
		mnl_attr_put(nlh, RTA_PREFSRC, 4, src->b + 12);
	else if (src)
		mnl_attr_put(nlh, RTA_PREFSRC, 16, src->b);
	return talk(nl, nlh);
}

/* First global address of a family; link-local ones would be the source of nothing routed. */
static const struct cv_addr *find_src(uint8_t family, const struct cv_addr *addrs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool v4 = cv_addr_is_v4(&addrs[i]);
		bool link_local = !v4 && addrs[i].b[0] == 0xfe && (addrs[i].b[1] & 0xc0) == 0x80;

		if (v4 == (family == AF_INET) && !link_local)
			return &addrs[i];
	}
	return NULL;
}

static void remove_family(struct mnl_socket *nl, uint8_t family)
{
	int r = change_rule(nl, family, RTM_DELRULE, 0);

	if (r < 0 && r != -ENOENT && r != -EAFNOSUPPORT)
		cv_debug("remove the routing rule: %s", cv_strerror(-r));
	r = change_route(nl, family, NULL, RTM_DELROUTE, 0);
	if (r < 0 && r != -ESRCH && r != -EAFNOSUPPORT)
		cv_debug("remove the local route: %s", cv_strerror(-r));
}

/* The route first: a rule that leads to an empty table would be passed over. */
static int ensure_family(struct mnl_socket *nl, uint8_t family, const struct cv_addr *src)
{
	int r = change_route(nl, family, src, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);

	if (r < 0)
		return r;
	r = change_rule(nl, family, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
	return r == -EEXIST ? 0 : r;
}

int cv_routes_ensure(const struct cv_addr *addrs, size_t n)
{
	static const uint8_t families[] = { AF_INET, AF_INET6 };
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;
	int r = open_nl(&nl);

	for (size_t i = 0; r >= 0 && i < CV_ARRAY_SIZE(families); i++) {
		const struct cv_addr *src = find_src(families[i], addrs, n);

		if (src)
			r = ensure_family(nl, families[i], src);
		else
			remove_family(nl, families[i]);
	}
	return r;
}

void cv_routes_remove(void)
{
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;

	if (open_nl(&nl) < 0)
		return;
	remove_family(nl, AF_INET);
	remove_family(nl, AF_INET6);
}

static int write_accept_local(int fd, char value)
{
	return pwrite(fd, &value, 1, 0) == 1 ? 0 : -errno;
}

int cv_accept_local_set(void)
{
	_cleanup_close_ int fd = open(accept_local, O_RDWR | O_CLOEXEC);
	char value;
	int r;

	if (fd < 0)
		return -errno;
	if (pread(fd, &value, 1, 0) != 1)
		return -EIO;
	if (value != '0')
		return 0;
	r = write_accept_local(fd, '1');
	return r < 0 ? r : 1;
}

void cv_accept_local_clear(void)
{
	_cleanup_close_ int fd = open(accept_local, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write_accept_local(fd, '0') < 0)
		cv_debug("reset accept_local: %s", cv_strerror(errno));
}
