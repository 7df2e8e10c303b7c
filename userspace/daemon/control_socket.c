// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket. A client is in one of three states: reading (waits for a request, for at
 * most IDLE_S), busy (its handler has the request) and writing (the answer goes out in chunks).
 * Handlers may answer at once or later; the request object is the link between the two, and
 * either side may be gone first.
 */
#include "userspace/daemon/control_socket.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/control.h"
#define CV_LOG_TARGET "control"
#include "userspace/base/log.h"
#include "userspace/limits.h"

enum {
	IDLE_S = 30, /* a client that neither asks nor reads */
	MAX_FDS = 4, /* descriptors taken from one message before they are counted and closed */
	CHUNKS_PER_WAKEUP = 16,
};

struct client;

struct request {
	struct cv_control_request pub;
	struct client *client; /* NULL = went away */
};

struct client {
	struct cv_control_socket *socket;
	struct client *next, **link;
	int fd;
	struct event *read, *write;
	struct request *request; /* busy */
	char *answer; /* writing; NUL-terminated, owned */
	size_t len, sent;
};

struct cv_control_socket {
	struct cv_worker *control;
	struct cv_control_ops ops;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int lock, fd;
	struct event *accept;
	struct client *clients;
	unsigned nr_clients;
	char message[CV_LIMIT_CONTROL_MESSAGE];
};

static const struct timeval idle = { .tv_sec = IDLE_S };

/* --- clients --- */

static void client_free(void *arg)
{
	struct client *c = arg;

	if (c->read)
		event_free(c->read);
	if (c->write)
		event_free(c->write);
	cv_close(&c->fd);
	free(c->answer);
	free(c);
}

static void client_unlink(struct client *c)
{
	if (c->request)
		c->request->client = NULL;
	if (c->next)
		c->next->link = c->link;
	*c->link = c->next;
	c->socket->nr_clients--;
}

static void client_kill(struct client *c)
{
	client_unlink(c);
	event_del(c->read);
	event_del(c->write);
	cv_worker_defer(c->socket->control, client_free, c);
}

/* The write event sends; so an answer never runs the client's end inside a handler. */
static void client_answer(struct client *c, json_t *answer)
{
	c->answer = json_dumps(answer, JSON_COMPACT | JSON_SORT_KEYS);
	if (!c->answer)
		c->answer = strdup("{\"error\":\"out of memory\"}");
	json_decref(answer);
	c->len = c->answer ? strlen(c->answer) : 0;
	c->sent = 0;
	event_add(c->write, &idle);
}

static void client_refuse(struct client *c, const char *text)
{
	client_answer(c, json_pack("{s:s}", "error", text));
}

static int send_chunk(struct client *c)
{
	size_t n = c->len - c->sent;
	char more = CV_CONTROL_LAST;
	ssize_t r;

	if (n > CV_CONTROL_CHUNK - 1) {
		n = CV_CONTROL_CHUNK - 1;
		more = CV_CONTROL_MORE;
	}
	struct iovec iov[2] = {
		{ .iov_base = &more, .iov_len = 1 },
		{ .iov_base = c->answer + c->sent, .iov_len = n },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	r = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (r < 0)
		return -errno;
	c->sent += n;
	return more == CV_CONTROL_MORE;
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	int r = 1;

	(void)fd;
	if (what & EV_TIMEOUT || !c->answer)
		return client_kill(c);
	for (int i = 0; r > 0 && i < CHUNKS_PER_WAKEUP; i++)
		r = send_chunk(c);
	if (r > 0 || r == -EAGAIN) {
		event_add(c->write, &idle);
	} else if (r < 0) {
		client_kill(c);
	} else {
		free(c->answer);
		c->answer = NULL;
		event_add(c->read, &idle);
	}
}

/* --- requests --- */

static void request_free(struct request *r)
{
	cv_close(&r->pub.fd);
	json_decref(r->pub.args);
	free(r);
}

static void request_end(struct cv_control_request **req, json_t *answer)
{
	struct request *r = cv_container_of(*req, struct request, pub);

	*req = NULL;
	if (r->client) {
		r->client->request = NULL;
		client_answer(r->client, answer);
	} else {
		json_decref(answer);
	}
	request_free(r);
}

void cv_control_answer(struct cv_control_request **req, json_t *data)
{
	request_end(req, json_pack("{s:o}", "result", data ? data : json_object()));
}

void cv_control_refuse(struct cv_control_request **req, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A text from outside may be cut in the middle of a character. */
	json_t *error = json_string(text);

	request_end(req, json_pack("{s:o}", "error", error ? error : json_string("refused")));
}

const char *cv_control_string(const struct cv_control_request *req, const char *name)
{
	const char *text = json_string_value(json_object_get(req->args, name));

	return text && *text ? text : NULL;
}

static const struct cv_control_command *find_command(const struct cv_control_ops *ops,
						     const char *name)
{
	for (size_t i = 0; i < ops->nr_commands; i++)
		if (!strcmp(ops->commands[i].name, name))
			return &ops->commands[i];
	return NULL;
}

/* Takes fd. */
static void handle_message(struct client *c, size_t len, int fd)
{
	struct cv_control_socket *s = c->socket;
	const struct cv_control_command *command;
	_cleanup_close_ int owned = fd;
	json_t *args = json_loadb(s->message, len, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(args, "command"));
	struct request *r;

	if (!name) {
		json_decref(args);
		return client_refuse(c, "a request is a JSON object with a string \"command\"");
	}
	command = find_command(&s->ops, name);
	r = command ? calloc(1, sizeof(*r)) : NULL;
	if (!r) {
		json_decref(args);
		return client_refuse(c, command ? "out of memory" : "unknown command");
	}
	*r = (struct request){
		.pub = { .command = command->name, .args = args, .fd = cv_take_fd(owned) },
		.client = c,
	};
	c->request = r;
	command->handle(&r->pub, s->ops.arg);
}

/* Takes the descriptors out of a message: *ret_fd is the only one, or -1. -EINVAL when there
 * was more than one; none is left open then. */
static int take_fds(struct msghdr *msg, int *ret_fd)
{
	int r = msg->msg_flags & MSG_CTRUNC ? -EINVAL : 0;
	int fd = -1;

	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= h->cmsg_len; at += sizeof(int)) {
			if (fd >= 0)
				r = -EINVAL;
			cv_close(&fd);
			memcpy(&fd, (char *)h + at, sizeof(fd));
		}
	}
	if (r < 0)
		cv_close(&fd);
	*ret_fd = fd;
	return r;
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	struct cv_control_socket *s = c->socket;
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = s->message, .iov_len = sizeof(s->message) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int passed, r;
	ssize_t n;

	if (what & EV_TIMEOUT)
		return client_kill(c);
	n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && errno == EAGAIN) {
		event_add(c->read, &idle);
		return;
	}
	if (n <= 0)
		return client_kill(c);
	r = take_fds(&msg, &passed);
	if (r < 0)
		return client_refuse(c, "a request carries one descriptor at most");
	if (msg.msg_flags & MSG_TRUNC) {
		cv_close(&passed);
		return client_refuse(c, "the request is too long");
	}
	handle_message(c, n, passed);
}

static bool is_allowed(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	cv_warn("uid %u (pid %d) may not use the control socket", peer.uid, peer.pid);
	return false;
}

static struct client *client_new(struct cv_control_socket *s, int fd)
{
	struct event_base *base = cv_worker_base(s->control);
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->socket = s;
	c->fd = fd;
	c->read = event_new(base, fd, EV_READ, on_read, c);
	c->write = event_new(base, fd, EV_WRITE, on_write, c);
	if (!c->read || !c->write) {
		c->fd = -1;
		client_free(c);
		return NULL;
	}
	c->next = s->clients;
	c->link = &s->clients;
	if (c->next)
		c->next->link = &c->next;
	s->clients = c;
	s->nr_clients++;
	return c;
}

static void on_accept(evutil_socket_t listener, short what, void *arg)
{
	struct cv_control_socket *s = arg;
	_cleanup_close_ int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c;

	(void)what;
	if (fd < 0 || !is_allowed(fd) || s->nr_clients >= CV_LIMIT_CONTROL_CLIENTS)
		return;
	c = client_new(s, fd);
	if (!c)
		return;
	(void)cv_take_fd(fd);
	event_add(c->read, &idle);
}

/* --- the socket --- */

/* Opens run_dir, made when missing, as ours alone. Returns its fd. */
static int open_run_dir(const char *run_dir)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (mkdir(run_dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = open(run_dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_uid != geteuid())
		return -EPERM;
	if ((st.st_mode & 077) && fchmod(fd, 0700) < 0)
		return -errno;
	return cv_take_fd(fd);
}

/* The lock, not the socket file, says whether a daemon lives: the kernel drops it with the
 * process. Whoever holds it may replace the file. */
static int take_lock(int dir)
{
	_cleanup_close_ int fd =
		openat(dir, "control.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	return cv_take_fd(fd);
}

/* Nobody but the owner can reach the socket between bind() and chmod(): the directory is 0700. */
static int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	memcpy(addr.sun_path, path, strlen(path));
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(path, 0600) < 0 ||
	    listen(fd, CV_LIMIT_CONTROL_CLIENTS) < 0)
		return -errno;
	return cv_take_fd(fd);
}

static int socket_open(struct cv_control_socket *s, const char *run_dir)
{
	_cleanup_close_ int dir = -1;
	int n = snprintf(s->path, sizeof(s->path), "%s/" CV_CONTROL_SOCKET, run_dir);

	if (n >= (int)sizeof(s->path))
		return -ENAMETOOLONG;
	dir = open_run_dir(run_dir);
	if (dir < 0)
		return dir;
	s->lock = take_lock(dir);
	if (s->lock < 0)
		return s->lock;
	s->fd = listen_at(s->path);
	if (s->fd < 0)
		return s->fd;
	s->accept =
		event_new(cv_worker_base(s->control), s->fd, EV_READ | EV_PERSIST, on_accept, s);
	if (!s->accept || event_add(s->accept, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int cv_control_socket_start(struct cv_control_socket **ret, struct cv_worker *control,
			    const char *run_dir, const struct cv_control_ops *ops)
{
	struct cv_control_socket *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->control = control;
	s->ops = *ops;
	s->lock = -1;
	s->fd = -1;
	r = socket_open(s, run_dir);
	if (r < 0) {
		cv_control_socket_stop(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void cv_control_socket_stop(struct cv_control_socket **s)
{
	struct cv_control_socket *old = *s;
	struct client *c;

	*s = NULL;
	if (!old)
		return;
	while ((c = old->clients)) {
		client_unlink(c);
		client_free(c);
	}
	if (old->accept)
		event_free(old->accept);
	if (old->fd >= 0)
		(void)unlink(old->path); /* a file that is gone already is as good */
	cv_close(&old->fd);
	cv_close(&old->lock);
	free(old);
}
