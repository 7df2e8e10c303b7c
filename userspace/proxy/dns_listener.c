/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sockets of the DNS proxy: made on the control thread with the pod's other listeners, read on
 * their workers.
 *
 * They are bound to loopback, so nobody outside the pod reaches them. What the kernel's capture
 * steers here still has the address of the server that was asked; its answer must come from there,
 * so it leaves by another socket, which is bound to that address.
 */
#define CV_LOG_TARGET "dns"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/io/udp.h"
#include "userspace/proxy/dns.h"

static bool is_tcp(enum cv_dns_slot slot)
{
	return slot == CV_DNS_TCP4 || slot == CV_DNS_TCP6;
}

/* ---- reading ---- */

static void on_datagram(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_socket *s = arg;
	uint8_t buf[CV_LIMIT_DNS_QUERY_BYTES];

	(void)what;
	for (int i = 0; i < CV_LIMIT_DNS_READS_PER_WAKEUP; i++) {
		struct cv_dns_origin origin = { .socket = s };
		ssize_t n = cv_udp_recv((int)fd, buf, sizeof(buf), &origin.client, &origin.server);

		if (n == -EAGAIN)
			return;
		/* What is too long or no DNS has no answer; errors are of earlier answers. */
		if (n >= 0)
			(void)cv_dns_take(s->dns, &origin, (struct cv_span){ buf, (size_t)n });
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct cv_dns_socket *s = arg;

	(void)fd;
	(void)what;
	event_add(&s->ev, NULL);
}

static void on_acceptable(evutil_socket_t listener, short what, void *arg)
{
	struct cv_dns_socket *s = arg;
	static const struct timeval a_while = { .tv_usec = 100000 };
	struct cv_sockaddr peer;

	(void)what;
	for (int i = 0; i < CV_LIMIT_ACCEPTS_PER_WAKEUP; i++) {
		int fd = cv_sock_accept((int)listener, NULL, &peer);

		if (fd == -EAGAIN)
			return;
		if (fd < 0) {
			/* Out of fds or memory: asking again at once would not help. */
			event_del(&s->ev);
			event_add(&s->retry, &a_while);
			return;
		}
		cv_dns_tcp_accept(s, fd, &peer);
	}
}

void cv_dns_start(struct cv_lane *lane)
{
	for (int i = 0; lane->dns && i < CV_DNS_NR; i++) {
		struct cv_dns_socket *s = &lane->dns->sockets[i];

		if (s->fd < 0 || s->on)
			continue;
		event_assign(&s->ev, lane->pw->base, s->fd, EV_READ | EV_PERSIST,
			     is_tcp(s->slot) ? on_acceptable : on_datagram, s);
		evtimer_assign(&s->retry, lane->pw->base, on_retry, s);
		event_add(&s->ev, NULL);
		s->on = true;
	}
}

/* ---- the end ---- */

static void close_sockets(struct cv_dns_lane *dns)
{
	for (int i = 0; i < CV_DNS_NR; i++)
		cv_close(&dns->sockets[i].fd);
	for (int i = 0; i < CV_LIMIT_DNS_REPLY_SOCKETS; i++)
		cv_close(&dns->replies[i].fd);
}

void cv_dns_stop(struct cv_lane *lane)
{
	struct cv_dns_lane *dns = lane->dns;
	struct cv_dns_request *req;

	if (!dns)
		return;
	for (int i = 0; i < CV_DNS_NR; i++) {
		if (dns->sockets[i].on) {
			event_del(&dns->sockets[i].ev);
			event_del(&dns->sockets[i].retry);
		}
		dns->sockets[i].on = false;
	}
	cv_dns_tcp_kill_all(dns);
	/* What is dropped stays in its list until after this round. */
	TAILQ_FOREACH(req, &dns->requests, node)
	cv_dns_drop(req);
	close_sockets(dns);
}

void cv_dns_discard(struct cv_lane *lane)
{
	struct cv_dns_lane *dns = lane->dns;

	if (!dns)
		return;
	cv_dns_discard_requests(dns);
	cv_dns_tcp_discard_all(dns);
	close_sockets(dns);
}

/* ---- answers ---- */

static int reply_socket(struct cv_dns_lane *dns, const struct cv_sockaddr *from)
{
	const struct cv_proxy_pod *pod = dns->lane->pod;
	const struct cv_udp_opts opts = {
		.ns = pod->netns,
		.addr = *from,
		.reuseaddr = true,
		.transparent = true,
		.mark = pod->proxy->opts.sock.mark,
	};
	struct cv_dns_reply_socket *r;

	for (int i = 0; i < CV_LIMIT_DNS_REPLY_SOCKETS; i++)
		if (dns->replies[i].fd >= 0 && cv_sockaddr_eq(&dns->replies[i].from, from))
			return dns->replies[i].fd;
	r = &dns->replies[dns->next_reply++ % CV_LIMIT_DNS_REPLY_SOCKETS];
	cv_close(&r->fd);
	r->fd = cv_udp_bind(&opts);
	r->from = *from;
	return r->fd;
}

void cv_dns_udp_send(struct cv_dns_lane *dns, const struct cv_dns_origin *origin,
		     const uint8_t *message, size_t len)
{
	int fd = cv_dns_is_captured(dns, origin) ? reply_socket(dns, &origin->server) :
						   origin->socket->fd;
	int r = fd < 0 ? fd : cv_udp_send(fd, message, len, &origin->client);

	if (r)
		cv_debug("answer for %s/%s not sent: %s", dns->lane->pod->ns, dns->lane->pod->name,
			 cv_strerror(-r));
}

/* ---- opening ---- */

static const struct cv_sockaddr *address_of(const struct cv_proxy *p, enum cv_dns_slot slot)
{
	bool v6 = slot == CV_DNS_TCP6 || slot == CV_DNS_UDP6;

	for (unsigned i = 0; i < p->opts.dns.nr_addrs; i++)
		if (cv_addr_is_v4(&p->opts.dns.addrs[i].ip) != v6)
			return &p->opts.dns.addrs[i];
	return NULL;
}

static int bind_tcp(const struct cv_proxy_pod *pod, const struct cv_sockaddr *addr)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;
	const struct cv_listen_opts listen = {
		.ns = pod->netns,
		.addr = *addr,
		.reuseport = opts->port_reuse,
		.reuseaddr = !opts->port_reuse,
		.transparent = pod->transparent,
		.mark = opts->sock.mark,
	};

	return cv_sock_listen(&listen);
}

static int bind_udp(const struct cv_proxy_pod *pod, const struct cv_sockaddr *addr)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;
	const struct cv_udp_opts udp = {
		.ns = pod->netns,
		.addr = *addr,
		.reuseport = opts->port_reuse,
		.original_dst = true,
		.receive_bytes = CV_LIMIT_DNS_RECEIVE_BYTES,
		.mark = opts->sock.mark,
	};

	return cv_udp_bind(&udp);
}

/* One address on every worker. No such address in this namespace (no IPv6 on lo): skipped. */
static int open_slot(struct cv_proxy_pod *pod, enum cv_dns_slot slot)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;
	const struct cv_sockaddr *addr = address_of(pod->proxy, slot);
	int first = -1;

	for (unsigned i = 0; addr && i < opts->nr_workers; i++) {
		bool bind = !i || opts->port_reuse;
		int fd = !bind	      ? fcntl(first, F_DUPFD_CLOEXEC, 0) :
			 is_tcp(slot) ? bind_tcp(pod, addr) :
					bind_udp(pod, addr);

		if (!bind && fd < 0)
			fd = -errno;
		if (fd < 0 && !i && !cv_addr_is_v4(&addr->ip) &&
		    (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT))
			return 0;
		if (fd < 0)
			return fd;
		pod->lanes[i]->dns->sockets[slot].fd = fd;
		first = i ? first : fd;
	}
	/* Answers from the server's address need that right; without it nothing is captured. */
	if (first >= 0 && opts->bpf && pod->number && pod->transparent)
		return cv_table_dns_set(opts->bpf, pod->number, slot, first);
	return 0;
}

static int make_lane(struct cv_lane *lane, const struct cv_resolv_conf *upstream)
{
	struct cv_dns_lane *dns = calloc(1, sizeof(*dns));

	if (!dns)
		return -ENOMEM;
	dns->lane = lane;
	dns->upstream = *upstream;
	TAILQ_INIT(&dns->requests);
	TAILQ_INIT(&dns->conns);
	for (int i = 0; i < CV_DNS_NR; i++)
		dns->sockets[i] = (struct cv_dns_socket){ .dns = dns, .slot = i, .fd = -1 };
	for (int i = 0; i < CV_LIMIT_DNS_REPLY_SOCKETS; i++)
		dns->replies[i].fd = -1;
	lane->dns = dns;
	return 0;
}

int cv_dns_open(struct cv_proxy_pod *pod)
{
	const struct cv_proxy_opts *opts = &pod->proxy->opts;
	struct cv_resolv_conf upstream;
	int r = 0;

	if (!opts->dns.nr_addrs)
		return 0;
	r = cv_resolv_conf_read(&upstream);
	for (unsigned i = 0; i < opts->nr_workers && !r; i++)
		r = make_lane(pod->lanes[i], &upstream);
	for (int slot = 0; slot < CV_DNS_NR && !r; slot++)
		r = open_slot(pod, slot);
	if (r)
		cv_error("DNS proxy of %s/%s: %s", pod->ns, pod->name, cv_strerror(-r));
	return r;
}
