/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets: three ports, one socket of each a worker, inside the pod's namespace.
 *
 * They are made on the control thread, so that a pod starts whole or not at all, and accept on
 * their workers once the store is warm; until then the kernel's backlog keeps who comes.
 */
#define CV_LOG_TARGET "proxy"
#include <errno.h>
#include <fcntl.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/hbone_conn.h"
#include "userspace/proxy/inbound.h"
#include "userspace/proxy/lane.h"
#include "userspace/proxy/outbound.h"

static const uint16_t ports[CV_LISTENER_NR] = {
	[CV_LISTENER_OUTBOUND] = CV_PORT_OUTBOUND,
	[CV_LISTENER_INBOUND] = CV_PORT_INBOUND,
	[CV_LISTENER_HBONE] = CV_PORT_HBONE,
};

/* ---- accepting ------------------------------------------------------------------------------- */

static void take(struct cv_listener_socket *l, int fd, const struct cv_sockaddr *peer)
{
	struct cv_sockaddr dst;

	if (l->slot == CV_LISTENER_HBONE) {
		cv_hbone_accept(l->lane, fd, peer);
		return;
	}
	if (cv_sock_original_dst(fd, &dst)) {
		cv_close(&fd); /* gone already */
		return;
	}
	if (l->slot == CV_LISTENER_OUTBOUND)
		cv_outbound_start(l->lane, fd, peer, &dst);
	else
		cv_plain_start(l->lane, fd, peer, &dst);
}

static void pause_accept(struct cv_listener_socket *l)
{
	static const struct timeval a_while = { .tv_usec = 100000 };

	event_del(&l->ev);
	event_add(&l->retry, &a_while);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct cv_listener_socket *l = arg;

	(void)fd;
	(void)what;
	event_add(&l->ev, NULL);
}

/* Takes up to so many connections. 0; or -errno when there is no more (-EAGAIN), or when asking
 * again at once would not help: out of fds or memory. */
static int accept_some(struct cv_listener_socket *l, int max)
{
	struct cv_sockaddr peer;

	for (int i = 0; i < max && l->fd >= 0; i++) {
		int fd = cv_sock_accept(l->fd, NULL, &peer);

		if (fd == -EAGAIN)
			return fd;
		if (fd < 0) {
			cv_warn("accept on port %u of %s/%s: %s", ports[l->slot], l->lane->pod->ns,
				l->lane->pod->name, cv_strerror(-fd));
			return fd;
		}
		take(l, fd, &peer);
	}
	return 0;
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_listener_socket *l = arg;
	int r = accept_some(l, CV_LIMIT_ACCEPTS_PER_WAKEUP);

	(void)fd;
	(void)what;
	if (r < 0 && r != -EAGAIN)
		pause_accept(l);
}

void cv_listener_flush(struct cv_lane *lane)
{
	for (int i = 0; i < CV_LISTENER_NR; i++)
		if (lane->listeners[i].on)
			(void)accept_some(&lane->listeners[i], CV_LIMIT_BACKLOG);
}

void cv_listener_accept(struct cv_lane *lane)
{
	for (int i = 0; i < CV_LISTENER_NR; i++) {
		struct cv_listener_socket *l = &lane->listeners[i];

		if (l->fd < 0 || l->on)
			continue;
		event_assign(&l->ev, lane->pw->base, l->fd, EV_READ | EV_PERSIST, on_acceptable, l);
		evtimer_assign(&l->retry, lane->pw->base, on_retry, l);
		event_add(&l->ev, NULL);
		l->on = true;
	}
}

void cv_listener_close(struct cv_lane *lane)
{
	for (int i = 0; i < CV_LISTENER_NR; i++) {
		struct cv_listener_socket *l = &lane->listeners[i];

		if (l->on) {
			event_del(&l->ev);
			event_del(&l->retry);
		}
		l->on = false;
		cv_close(&l->fd);
	}
}

/* ---- opening ----------------------------------------------------------------------------------- */

static int listen_on(const struct cv_proxy_pod *pod, enum cv_listener slot)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;
	struct cv_listen_opts listen = {
		.ns = pod->netns,
		.addr = { .port = ports[slot] },
		.reuseport = opts->port_reuse,
		.reuseaddr = !opts->port_reuse,
		.transparent = pod->transparent,
		.mark = pod->sock.mark,
		.config = slot == CV_LISTENER_HBONE ? NULL : &pod->sock,
		.backlog = CV_LIMIT_BACKLOG,
	};

	if (!opts->ipv6)
		listen.addr.ip = cv_addr_v4(INADDR_ANY);
	return cv_sock_listen(&listen);
}

/* Can the daemon use addresses that are not the pod's? Found out with the first listener. */
static int find_transparent(struct cv_proxy_pod *pod, int *ret_fd)
{
	int original_src = pod->proxy->opts.original_src;

	pod->transparent = original_src != 0;
	*ret_fd = listen_on(pod, CV_LISTENER_OUTBOUND);
	if ((*ret_fd == -EPERM || *ret_fd == -EACCES) && original_src < 0) {
		pod->transparent = false;
		*ret_fd = listen_on(pod, CV_LISTENER_OUTBOUND);
	}
	return *ret_fd < 0 ? *ret_fd : 0;
}

/* One port on every worker: sockets of one SO_REUSEPORT group, or one socket that they share. */
static int open_port(struct cv_proxy_pod *pod, enum cv_listener slot, int first)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;

	pod->lanes[0]->listeners[slot].fd = first;
	for (unsigned i = 1; i < opts->nr_workers; i++) {
		int fd = opts->port_reuse ? listen_on(pod, slot) : fcntl(first, F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return opts->port_reuse ? fd : -errno;
		pod->lanes[i]->listeners[slot].fd = fd;
	}
	if (opts->bpf && pod->number)
		return cv_table_listener_set(opts->bpf, pod->number, slot, first);
	return 0;
}

static int report(const struct cv_proxy_pod *pod, enum cv_listener slot, int r)
{
	if (r)
		cv_error("listen on port %u of %s/%s: %s", ports[slot], pod->ns, pod->name,
			 cv_strerror(-r));
	return r;
}

static int open_self(struct cv_proxy_pod *pod)
{
	int fd = listen_on(pod, CV_LISTENER_HBONE);

	return report(pod, CV_LISTENER_HBONE, fd < 0 ? fd : open_port(pod, CV_LISTENER_HBONE, fd));
}

int cv_listener_open(struct cv_proxy_pod *pod)
{
	int fd, r;

	if (pod->self)
		return open_self(pod);
	r = find_transparent(pod, &fd);
	for (int slot = 0; slot < CV_LISTENER_NR && !r; slot++) {
		if (slot != CV_LISTENER_OUTBOUND)
			fd = listen_on(pod, slot);
		r = report(pod, slot, fd < 0 ? fd : open_port(pod, slot, fd));
	}
	return r;
}
