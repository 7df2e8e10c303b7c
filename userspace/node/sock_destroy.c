// SPDX-License-Identifier: Apache-2.0
/*
 * SOCK_DESTROY by sock_diag. The request names the socket by tuple and by cookie, so a tuple that
 * was used again meanwhile is safe. The netlink socket must be of the socket's namespace.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <string.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/netns.h"
#include "userspace/node/flows.h"

static void close_nl(struct mnl_socket **nl)
{
	if (*nl)
		mnl_socket_close(*nl);
	*nl = NULL;
}

static int open_nl(const struct cv_netns *ns, struct mnl_socket **ret)
{
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;
	int r = cv_netns_enter(ns);

	if (r < 0)
		return r;
	nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	r = nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0 ? 0 : -errno;
	cv_netns_leave(ns);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(nl);
	return 0;
}

static void fill_id(struct inet_diag_req_v2 *req, const struct cv_tuple *tuple, uint64_t cookie)
{
	bool v4 = cv_addr_is_v4(&tuple->src);
	size_t skip = v4 ? 12 : 0, len = v4 ? 4 : 16;

	req->sdiag_family = v4 ? AF_INET : AF_INET6;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = ~0u;
	req->id.idiag_sport = tuple->sport;
	req->id.idiag_dport = tuple->dport;
	memcpy(req->id.idiag_src, tuple->src.b + skip, len);
	memcpy(req->id.idiag_dst, tuple->dst.b + skip, len);
	req->id.idiag_cookie[0] = (uint32_t)cookie;
	req->id.idiag_cookie[1] = (uint32_t)(cookie >> 32);
}

int cv_sock_destroy(const struct cv_netns *ns, const struct cv_tuple *tuple, uint64_t cookie)
{
	char buf[1024] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	_cleanup_(close_nl) struct mnl_socket *nl = NULL;
	ssize_t n;
	int r = open_nl(ns, &nl);

	if (r < 0)
		return r;
	nlh->nlmsg_type = SOCK_DESTROY;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	nlh->nlmsg_seq = 1;
	fill_id(mnl_nlmsg_put_extra_header(nlh, sizeof(struct inet_diag_req_v2)), tuple, cookie);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
	if (n < 0)
		return -errno;
	if (mnl_cb_run(buf, (size_t)n, 1, mnl_socket_get_portid(nl), NULL, NULL) < 0)
		return -errno;
	return 0;
}
