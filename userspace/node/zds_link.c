/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to the node agent's socket. The agent asks, we answer each request once, in order,
 * and say nothing unasked; whatever goes wrong ends the connection, and another one begins with the
 * agent's whole snapshot. Attempts that lead to nothing become rarer.
 */
#define CV_LOG_TARGET "node"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/node/zds_private.h"

enum {
	FIRST_DELAY_MS = 20,
	LAST_DELAY_MS = 15000,
	MISMATCH_TRIES = 6, /* as if so many had failed: after a message against the protocol */
	RETRY_S = 5, /* pods that could not be started */
	MESSAGES_PER_WAKEUP = 16,
	MAX_FDS = 4, /* taken from one message before they are counted and closed */
};

struct packet {
	uint8_t data[CV_ZDS_PACKET];
	size_t len;
	int fds[MAX_FDS];
	unsigned nr_fds;
};

static void tell_ready(struct cv_zds *z)
{
	bool ready = z->fd >= 0 && z->counts.snapshot && !z->counts.pending;

	if (ready == z->ready)
		return;
	if (ready) {
		cv_backoff_reset(&z->backoff);
		z->at_once = true;
	}
	z->ready = ready;
	z->opts.ready(ready, z->opts.arg);
}

/* ---- ends and new beginnings ------------------------------------------------------------------- */

static void connect_again(struct cv_zds *z)
{
	unsigned ms = z->at_once ? 0 : cv_backoff_next_ms(&z->backoff);
	const struct timeval delay = { ms / 1000, ms % 1000 * 1000 };

	z->at_once = false;
	event_add(z->again, &delay);
}

static void hang_up(struct cv_zds *z)
{
	if (z->readable)
		event_free(z->readable);
	z->readable = NULL;
	event_del(z->retry);
	cv_close(&z->fd);
	z->counts.connected = false;
}

static void lose(struct cv_zds *z)
{
	hang_up(z);
	tell_ready(z);
	connect_again(z);
}

/* ---- packets ------------------------------------------------------------------------------------ */

static int send_packet(int fd, const uint8_t *data, size_t len)
{
	return send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static int answer(struct cv_zds *z, const char *error)
{
	uint8_t packet[CV_ZDS_PACKET];

	return send_packet(z->fd, packet, cv_zds_encode_ack(error, packet));
}

static void take_fds(struct msghdr *msg, struct packet *p)
{
	p->nr_fds = 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n && p->nr_fds < MAX_FDS; i++)
			memcpy(&p->fds[p->nr_fds++], CMSG_DATA(h) + i * sizeof(int), sizeof(int));
	}
}

static void close_fds(struct packet *p)
{
	while (p->nr_fds)
		cv_close(&p->fds[--p->nr_fds]);
}

/* 1 = a packet, 0 = the end, -EMSGSIZE = one that was cut, else -errno. */
static int receive(int fd, struct packet *p)
{
	struct iovec iov = { .iov_base = p->data, .iov_len = sizeof(p->data) };
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	take_fds(&msg, p);
	p->len = (size_t)n;
	if (!(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return n ? 1 : 0;
	close_fds(p);
	return -EMSGSIZE;
}

/* ---- requests ------------------------------------------------------------------------------------ */

static void await_retry(struct cv_zds *z)
{
	const struct timeval after = { .tv_sec = RETRY_S };

	if (z->counts.pending && !event_pending(z->retry, EV_TIMEOUT, NULL))
		event_add(z->retry, &after);
}

/* Refuses what cannot be read; the connection has to end, as nobody knows what it was. */
static int refuse_packet(struct cv_zds *z, const char *why)
{
	char error[CV_ZDS_ERROR + 64];

	snprintf(error, sizeof(error), "failure to read message: %s", why);
	cv_error("a message of the node agent at %s cannot be read: %s", z->opts.path, why);
	(void)answer(z, error); /* the end of the connection says it as well */
	return -EBADMSG;
}

static int process(struct cv_zds *z, struct packet *p)
{
	struct cv_zds_request request;
	char error[CV_ZDS_ERROR];
	enum zds_verdict verdict;

	if (cv_zds_decode(p->data, p->len, p->nr_fds, &request, error) < 0) {
		close_fds(p);
		return refuse_packet(z, error);
	}
	verdict = zds_pods_process(z, &request, p->nr_fds ? p->fds[0] : -1, error);
	cv_zds_request_fini(&request);
	if (verdict == ZDS_OK) {
		tell_ready(z);
		return answer(z, NULL);
	}
	cv_error("told to the node agent: %s", error);
	if (verdict == ZDS_MISMATCH) {
		z->at_once = false;
		z->backoff.tries = MISMATCH_TRIES;
		(void)answer(z, error); /* the end of the connection says it as well */
		return -EPROTO;
	}
	tell_ready(z);
	await_retry(z);
	return answer(z, error);
}

/* One message. -EAGAIN = there is none; other errors, -EPIPE among them, end the connection. */
static int read_one(struct cv_zds *z)
{
	struct packet p;
	int r = receive(z->fd, &p);

	if (r == -EMSGSIZE)
		return refuse_packet(z, "it is too long, or has too many descriptors");
	if (r == 0)
		return -EPIPE;
	return r < 0 ? r : process(z, &p);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct cv_zds *z = arg;
	int r = 0;

	(void)fd;
	(void)what;
	for (int i = 0; i < MESSAGES_PER_WAKEUP && r == 0; i++)
		r = read_one(z);
	if (r == 0 || r == -EAGAIN || r == -EINTR)
		return;
	if (r == -EPIPE)
		cv_info("the node agent at %s closed the connection", z->opts.path);
	else
		cv_warn("connection to the node agent at %s: %s", z->opts.path, cv_strerror(-r));
	lose(z);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct cv_zds *z = arg;

	(void)fd;
	(void)what;
	zds_pods_retry(z);
	await_retry(z);
	tell_ready(z);
}

/* ---- connecting ----------------------------------------------------------------------------------- */

/* Connected, or -errno: a socket of the file system never leaves a connect() unfinished. */
static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return cv_take_fd(fd);
}

static int open_connection(struct cv_zds *z)
{
	uint8_t packet[CV_ZDS_PACKET];
	_cleanup_close_ int fd = connect_to(z->opts.path);
	int r = fd < 0 ? fd : send_packet(fd, packet, cv_zds_encode_hello(packet));

	if (r < 0)
		return r;
	z->readable = event_new(cv_worker_base(z->opts.control), fd, EV_READ | EV_PERSIST,
				on_readable, z);
	if (!z->readable || event_add(z->readable, NULL) < 0)
		return -ENOMEM;
	z->fd = cv_take_fd(fd);
	return 0;
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
	struct cv_zds *z = arg;
	int r = open_connection(z);

	(void)fd;
	(void)what;
	if (r < 0) {
		if (!z->unreachable_told)
			cv_warn("the node agent at %s (INPOD_UDS) cannot be reached: %s; is istio-cni "
				"running on this node? Trying on",
				z->opts.path, cv_strerror(-r));
		z->unreachable_told = true;
		lose(z);
		return;
	}
	cv_info("connected to the node agent at %s", z->opts.path);
	z->unreachable_told = false;
	z->counts.connected = true;
	zds_pods_begin(z);
}

/* ---- the object ------------------------------------------------------------------------------------ */

int cv_zds_new(struct cv_zds **ret, const struct cv_zds_opts *opts)
{
	_cleanup_(cv_zds_free) struct cv_zds *z = calloc(1, sizeof(*z));
	struct event_base *base = cv_worker_base(opts->control);
	int r;

	if (!z)
		return -ENOMEM;
	z->opts = *opts;
	z->fd = -1;
	z->own.fd = -1;
	z->at_once = true;
	z->backoff = (struct cv_backoff){ .first_ms = FIRST_DELAY_MS, .max_ms = LAST_DELAY_MS };
	TAILQ_INIT(&z->pods);
	TAILQ_INIT(&z->leaving);
	r = cv_netns_self(&z->own);
	if (r < 0)
		return r;
	z->again = evtimer_new(base, on_again, z);
	z->retry = evtimer_new(base, on_retry, z);
	if (!z->again || !z->retry)
		return -ENOMEM;
	*ret = cv_take_ptr(z);
	return 0;
}

void cv_zds_start(struct cv_zds *z)
{
	connect_again(z);
}

void cv_zds_stop(struct cv_zds *z)
{
	event_del(z->again);
	hang_up(z);
}

void cv_zds_free(struct cv_zds **zp)
{
	struct cv_zds *z = *zp;

	if (!z)
		return;
	*zp = NULL;
	zds_pods_free(z);
	if (z->readable)
		event_free(z->readable);
	if (z->again)
		event_free(z->again);
	if (z->retry)
		event_free(z->retry);
	cv_close(&z->fd);
	cv_netns_fini(&z->own);
	free(z);
}

int cv_zds_each(struct cv_zds *z, int (*fn)(const struct cv_pod_view *pod, void *arg), void *arg)
{
	struct zds_pod *pod;

	TAILQ_FOREACH(pod, &z->pods, node)
	{
		int r = fn(&pod->view, arg);

		if (r)
			return r;
	}
	return 0;
}

void cv_zds_counts(const struct cv_zds *z, struct cv_zds_counts *ret)
{
	*ret = z->counts;
}
