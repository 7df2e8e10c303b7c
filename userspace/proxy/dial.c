/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connecting, and the choice of a port for source-preserving legs.
 *
 * A leg to the application has the client's address, so it shares one 4-tuple space with what
 * that client itself opened to the same port of the pod: pod_lookup leaves the destination port of
 * captured connections as it is. A leg on the port of a live inbound connection would send its SYN
 * into that connection and reset it. So legs take their ports from above the usual ephemeral range
 * (32768-60999), skip the ports there that live clients use (clients may have another range), and
 * skip tuples that the kernel has attested to somebody else; pod_ingress refuses SYNs from
 * the wire on a leg's tuple. When that range is used up towards one port, lower ones are tried.
 *
 * The port is bound before connect(), with SO_REUSEADDR: a bound port serves any number of
 * destinations and may reuse a tuple in TIME_WAIT at once (timestamps keep the two apart), where a
 * port that connect() picks, as with IP_BIND_ADDRESS_NO_PORT, may not. So thousands of short
 * connections a second do not run out of ports.
 */
#include "userspace/proxy/dial.h"

#include <arpa/inet.h>
#include <errno.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"
#include "userspace/limits.h"
#include "userspace/proxy/lane.h"

enum {
	LEG_TRIES = 128, /* ports of one range */
	LOW_PORT_FIRST = 20000, /* above what services usually listen on */
	LOW_PORT_LAST = 32767,
};

struct mark {
	struct cv_bpf *bpf;
	enum cv_kind kind;
};

/* Fails closed: an unmarked socket would be captured or taken for the pod's own. */
static int mark_socket(int fd, void *arg)
{
	const struct mark *m = arg;

	return m->bpf ? cv_table_sk_set_kind(m->bpf, fd, m->kind) : 0;
}

static int connect_from(struct cv_lane *lane, const struct cv_dial_opts *opts,
			const struct cv_sockaddr *src)
{
	const struct cv_proxy *p = lane->pod->proxy;
	struct mark mark = { p->opts.bpf, src ? CV_KIND_DAEMON_LEG : CV_KIND_DAEMON };
	const struct cv_connect_opts connect = {
		.ns = lane->pod->netns,
		.dst = opts->dst,
		.src = src,
		.transparent = src && lane->pod->transparent,
		.config = &lane->pod->sock,
		.before_connect = mark_socket,
		.arg = &mark,
	};

	return cv_sock_connect(&connect);
}

/* Does the tuple belong to a live connection that we know of? */
static bool is_taken(struct cv_lane *lane, const struct cv_sockaddr *src,
		     const struct cv_sockaddr *dst)
{
	struct cv_proxy *p = lane->pod->proxy;
	const struct cv_tuple tuple = {
		.src = src->ip,
		.dst = dst->ip,
		.sport = htons(src->port),
		.dport = htons(dst->port),
	};
	struct cv_attested_entry entry;

	if (src->port >= CV_LEG_PORT_FIRST && p->client_ports[src->port - CV_LEG_PORT_FIRST])
		return true;
	return p->opts.bpf && cv_table_attested_get(p->opts.bpf, &tuple, &entry) == 0;
}

static int connect_in_range(struct cv_lane *lane, const struct cv_dial_opts *opts, unsigned first,
			    unsigned last)
{
	struct cv_sockaddr src = { .ip = *opts->client };
	unsigned n = last - first + 1;
	int r = -EADDRNOTAVAIL;

	for (unsigned i = 0; i < LEG_TRIES; i++) {
		src.port = (uint16_t)(first + lane->pw->leg_port++ % n);
		if (is_taken(lane, &src, &opts->dst))
			continue;
		r = connect_from(lane, opts, &src);
		if (r != -EADDRNOTAVAIL && r != -EADDRINUSE)
			return r;
	}
	return r;
}

static int connect_leg(struct cv_lane *lane, const struct cv_dial_opts *opts)
{
	int r = connect_in_range(lane, opts, CV_LEG_PORT_FIRST, CV_LEG_PORT_LAST);

	if (r == -EADDRNOTAVAIL || r == -EADDRINUSE)
		r = connect_in_range(lane, opts, LOW_PORT_FIRST, LOW_PORT_LAST);
	return r;
}

static void finish(struct cv_dial *d, int r)
{
	int fd = d->fd;

	d->fd = -1;
	event_del(&d->ev);
	if (r)
		cv_close(&fd);
	d->done(d, r ? r : fd);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	finish(arg, what & EV_TIMEOUT ? -ETIMEDOUT : cv_sock_connect_result(fd));
}

void cv_dial_init(struct cv_dial *d, struct cv_lane *lane, void (*done)(struct cv_dial *d, int fd))
{
	*d = (struct cv_dial){ .lane = lane, .fd = -1, .done = done };
}

void cv_dial_start(struct cv_dial *d, const struct cv_dial_opts *opts)
{
	static const struct timeval deadline = {
		.tv_sec = CV_LIMIT_CONNECT_MS / 1000,
		.tv_usec = CV_LIMIT_CONNECT_MS % 1000 * 1000,
	};
	struct cv_sockaddr peer;
	int fd = opts->client ? connect_leg(d->lane, opts) : connect_from(d->lane, opts, NULL);

	if (fd < 0) {
		d->done(d, fd);
		return;
	}
	d->fd = fd;
	event_assign(&d->ev, d->lane->pw->base, fd, EV_WRITE, on_event, d);
	/* Over loopback the handshake is over by now: no need to ask the loop. */
	if (cv_sock_peer(fd, &peer) == 0)
		finish(d, 0);
	else
		event_add(&d->ev, &deadline);
}

void cv_dial_cancel(struct cv_dial *d)
{
	if (d->fd < 0)
		return;
	event_del(&d->ev);
	cv_close(&d->fd);
}
