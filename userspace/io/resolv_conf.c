/* SPDX-License-Identifier: Apache-2.0 */
/* resolv.conf by libc's own reader. */
#include "userspace/io/resolv_conf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <resolv.h>

/* IPv6 servers are in an extension, and their slots of the classic list are empty. */
static const struct sockaddr *server_at(const struct __res_state *state, int i)
{
	if (state->nsaddr_list[i].sin_family == AF_INET)
		return (const struct sockaddr *)&state->nsaddr_list[i];
	return (const struct sockaddr *)state->_u._ext.nsaddrs[i];
}

int cv_resolv_conf_read(struct cv_resolv_conf *ret)
{
	struct __res_state state = {};

	if (res_ninit(&state) < 0)
		return -EIO;
	*ret = (struct cv_resolv_conf){
		.timeout_ms = state.retrans > 0 ? 1000 * (unsigned)state.retrans : 5000,
		.attempts = state.retry > 0 ? (unsigned)state.retry : 1,
	};
	for (int i = 0; i < state.nscount && ret->nr_servers < CV_LIMIT_DNS_SERVERS; i++) {
		const struct sockaddr *server = server_at(&state, i);

		if (server && cv_sockaddr_from_native(server, &ret->servers[ret->nr_servers]) == 0)
			ret->nr_servers++;
	}
	res_nclose(&state);
	return 0;
}
