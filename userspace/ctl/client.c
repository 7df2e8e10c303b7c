// SPDX-License-Identifier: Apache-2.0
/* The client's side of userspace/base/control.h: one request, one answer, one connection. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/control.h"
#include "userspace/ctl/ctl.h"

enum { PATIENCE_S = 120 }; /* pod-del answers when the pod's last socket is gone */

int cv_ctl_connect(const char *run_dir)
{
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" CV_CONTROL_SOCKET, run_dir);

	if (n >= (int)sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return cv_take_fd(fd);
}

static int send_request(int fd, const char *text, int passed)
{
	struct iovec iov = { .iov_base = (void *)text, .iov_len = strlen(text) };
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (passed >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		struct cmsghdr *h = CMSG_FIRSTHDR(&msg);

		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &passed, sizeof(passed));
	}
	return sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Puts the chunks of one answer together; *ret_text is the caller's. */
static int receive_answer(int fd, char **ret_text, size_t *ret_len)
{
	_cleanup_free_ char *text = NULL;
	char first = CV_CONTROL_MORE;
	size_t len = 0;

	while (first == CV_CONTROL_MORE) {
		char *more = realloc(text, len + CV_CONTROL_CHUNK);
		ssize_t n;

		if (!more)
			return -ENOMEM;
		text = more;
		n = recv(fd, text + len, CV_CONTROL_CHUNK, 0);
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return -ECONNRESET;
		first = text[len];
		memmove(text + len, text + len + 1, n - 1);
		len += n - 1;
	}
	*ret_text = cv_take_ptr(text);
	*ret_len = len;
	return 0;
}

static json_t *parse_answer(const char *command, const char *text, size_t len)
{
	json_t *answer = json_loadb(text, len, 0, NULL);
	const char *error = json_string_value(json_object_get(answer, "error"));
	json_t *result = json_incref(json_object_get(answer, "result"));

	if (error)
		cv_ctl_fail("%s", error);
	else if (!result)
		cv_ctl_fail("%s: culvertd's answer makes no sense", command);
	json_decref(answer);
	return result;
}

static const char *connect_hint(int err)
{
	switch (err) {
	case ENOENT:
	case ECONNREFUSED:
		return "culvertd does not run here (or CULVERT_RUN_DIR is another)";
	case EACCES:
	case EPERM:
		return "this needs root";
	default:
		return strerror(err);
	}
}

json_t *cv_ctl_ask(const struct cv_ctl *ctl, const char *command, json_t *args, int fd)
{
	_cleanup_close_ int conn = cv_ctl_connect(ctl->run_dir);
	_cleanup_free_ char *request = NULL;
	_cleanup_free_ char *answer = NULL;
	size_t len = 0;
	int r;

	if (!args)
		args = json_object();
	json_object_set_new(args, "command", json_string(command));
	request = json_dumps(args, JSON_COMPACT);
	json_decref(args);
	if (conn < 0) {
		cv_ctl_fail("%s/" CV_CONTROL_SOCKET ": %s", ctl->run_dir, connect_hint(-conn));
		return NULL;
	}
	r = request ? send_request(conn, request, fd) : -ENOMEM;
	if (r >= 0)
		r = receive_answer(conn, &answer, &len);
	if (r < 0) {
		cv_ctl_fail("%s: culvertd did not answer: %s", command, strerror(-r));
		return NULL;
	}
	return parse_answer(command, answer, len);
}
