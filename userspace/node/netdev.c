// SPDX-License-Identifier: Apache-2.0
/*
 * rtnetlink dumps and notifications. A notification's content is not used: it only says that
 * it is time to look, so a lost one (ENOBUFS) is no worse than a received one.
 */
#include "userspace/node/netdev.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"

enum {
	DUMP_BYTES = 32768, /* what the kernel sends at most in one message of a dump */
	LO_IFINDEX = 1,
};

static void close_nl(struct mnl_socket **nl)
{
	if (*nl)
		mnl_socket_close(*nl);
	*nl = NULL;
}

/* The socket belongs to ns from its creation on; the thread does not stay there. */
static int open_nl(const struct cv_netns *ns, int flags, unsigned groups, struct mnl_socket **ret)
{
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;
	int r = cv_netns_enter(ns);

	if (r < 0)
		return r;
	nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | flags);
	r = nl && mnl_socket_bind(nl, groups, MNL_SOCKET_AUTOPID) == 0 ? 0 : -errno;
	cv_netns_leave(ns);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(nl);
	return 0;
}

/* --- reading -------------------------------------------------------------------------------- */

/* Makes room for one more member of an array; sizes double. */
static int grow(void **array, size_t n, size_t member)
{
	void *bigger;

	if (n & (n - 1))
		return 0;
	bigger = realloc(*array, (n ? 2 * n : 1) * member);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	return 0;
}

static int on_link(const struct nlmsghdr *nlh, void *arg)
{
	const struct ifinfomsg *link = mnl_nlmsg_get_payload(nlh);
	struct cv_netdevs *devs = arg;

	if (link->ifi_flags & IFF_LOOPBACK)
		return MNL_CB_OK;
	if (grow((void **)&devs->ifindexes, devs->nr_ifindexes, sizeof(*devs->ifindexes)) < 0)
		return MNL_CB_ERROR;
	devs->ifindexes[devs->nr_ifindexes++] = (uint32_t)link->ifi_index;
	return MNL_CB_OK;
}

static bool has_addr(const struct cv_netdevs *devs, const struct cv_addr *addr)
{
	for (size_t i = 0; i < devs->nr_addrs; i++) {
		if (cv_addr_eq(&devs->addrs[i], addr))
			return true;
	}
	return false;
}

static int on_addr(const struct nlmsghdr *nlh, void *arg)
{
	const struct ifaddrmsg *msg = mnl_nlmsg_get_payload(nlh);
	struct cv_netdevs *devs = arg;
	const struct nlattr *attr, *found = NULL;
	struct cv_addr addr;

	if (msg->ifa_index == LO_IFINDEX)
		return MNL_CB_OK;
	/* On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours. */
	mnl_attr_for_each(attr, nlh, sizeof(*msg))
	{
		uint16_t type = mnl_attr_get_type(attr);

		if (type == IFA_LOCAL || (type == IFA_ADDRESS && !found))
			found = attr;
	}
	if (!found)
		return MNL_CB_OK;
	addr = cv_addr_from_bytes(mnl_attr_get_payload(found), mnl_attr_get_payload_len(found));
	if (cv_addr_is_zero(&addr) || has_addr(devs, &addr))
		return MNL_CB_OK;
	if (grow((void **)&devs->addrs, devs->nr_addrs, sizeof(*devs->addrs)) < 0)
		return MNL_CB_ERROR;
	devs->addrs[devs->nr_addrs++] = addr;
	return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint16_t type, mnl_cb_t fn, void *arg)
{
	static unsigned seq;
	char request[64] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
	_cleanup_free_ char *buf = malloc(DUMP_BYTES);
	struct rtgenmsg *gen;
	int r = MNL_CB_OK;

	if (!buf)
		return -ENOMEM;
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = ++seq;
	gen = mnl_nlmsg_put_extra_header(nlh, sizeof(*gen));
	gen->rtgen_family = AF_UNSPEC;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(nl, buf, DUMP_BYTES);

		if (n < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl), fn, arg);
		if (r < 0)
			return errno ? -errno : -ENOMEM;
	}
	return 0;
}

int cv_netdevs_read(const struct cv_netns *ns, struct cv_netdevs *ret)
{
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;
	_cleanup_(cv_netdevs_fini) struct cv_netdevs devs = {};
	int r = open_nl(ns, 0, 0, &nl);

	if (r < 0)
		return r;
	r = dump(nl, RTM_GETLINK, on_link, &devs);
	if (r < 0)
		return r;
	r = dump(nl, RTM_GETADDR, on_addr, &devs);
	if (r < 0)
		return r;
	*ret = devs;
	devs = (struct cv_netdevs){};
	return 0;
}

void cv_netdevs_fini(struct cv_netdevs *devs)
{
	free(devs->ifindexes);
	free(devs->addrs);
	*devs = (struct cv_netdevs){};
}

/* --- watching ------------------------------------------------------------------------------- */

struct cv_netdev_watch {
	struct mnl_socket *nl;
	struct event *event;
	void (*fn)(void *arg);
	void *arg;
};

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_netdev_watch *w = arg;
	char buf[8192];
	ssize_t n;

	(void)fd;
	(void)what;
	do {
		n = mnl_socket_recvfrom(w->nl, buf, sizeof(buf));
	} while (n > 0 || (n < 0 && errno == ENOBUFS));
	w->fn(w->arg);
}

int cv_netdev_watch_new(struct cv_netdev_watch **ret, struct cv_worker *control,
			const struct cv_netns *ns, void (*fn)(void *arg), void *arg)
{
	const unsigned groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
	_cleanup_(cv_netdev_watch_free) struct cv_netdev_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->fn = fn;
	w->arg = arg;
	r = open_nl(ns, SOCK_NONBLOCK, groups, &w->nl);
	if (r < 0)
		return r;
	w->event = event_new(cv_worker_base(control), mnl_socket_get_fd(w->nl),
			     EV_READ | EV_PERSIST, on_readable, w);
	if (!w->event || event_add(w->event, NULL) < 0)
		return -ENOMEM;
	*ret = cv_take_ptr(w);
	return 0;
}

void cv_netdev_watch_free(struct cv_netdev_watch **pw)
{
	struct cv_netdev_watch *w = *pw;

	if (!w)
		return;
	if (w->event)
		event_free(w->event);
	close_nl(&w->nl);
	free(w);
	*pw = NULL;
}
