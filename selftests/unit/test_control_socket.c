/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket answers its owner and root alone, holds its bounds against clients that do not
 * keep to the protocol, passes descriptors, and replaces a dead daemon's socket but no live one's. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/scratch.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/control.h"
#include "userspace/ctl/ctl.h"
#include "userspace/daemon/control_socket.h"
#include "userspace/limits.h"

enum { NOBODY = 65534, BIG = 1 << 20 };

static char dir[64];
static struct cv_worker *worker; /* its own thread serves the socket */
static struct cv_control_socket *server;
static struct cv_control_request *held; /* a request whose answer comes later */

static void echo(struct cv_control_request *req, void *arg)
{
	(void)arg;
	cv_control_answer(&req, json_incref(req->args));
}

static void refuse(struct cv_control_request *req, void *arg)
{
	(void)arg;
	cv_control_refuse(&req, "no: %s", "because");
}

static void big(struct cv_control_request *req, void *arg)
{
	char *text = malloc(BIG + 1);

	(void)arg;
	memset(text, 'x', BIG);
	text[BIG] = '\0';
	cv_control_answer(&req, json_string(text));
	free(text);
}

/* Answers with the size of the file that came along. */
static void size_of_fd(struct cv_control_request *req, void *arg)
{
	struct stat st;

	(void)arg;
	if (req->fd < 0 || fstat(req->fd, &st) < 0)
		return cv_control_refuse(&req, "no descriptor");
	cv_control_answer(&req, json_integer(st.st_size));
}

static void hold(struct cv_control_request *req, void *arg)
{
	(void)arg;
	__atomic_store_n(&held, req, __ATOMIC_RELEASE);
}

static void release(struct cv_control_request *req, void *arg)
{
	(void)arg;
	cv_control_answer(&held, json_string("late"));
	cv_control_answer(&req, NULL);
}

static const struct cv_control_command commands[] = {
	{ "echo", echo }, { "refuse", refuse },	  { "big", big }, { "size-of-fd", size_of_fd },
	{ "hold", hold }, { "release", release },
};
static const struct cv_control_ops ops = { commands, CV_ARRAY_SIZE(commands), NULL };

/* Runs a function on the worker's thread and waits for it. */
static int on_worker(void (*fn)(void *arg))
{
	int pipe_fds[2];
	char c;

	assert_int_equal(pipe(pipe_fds), 0);
	cv_worker_post(worker, fn, &pipe_fds[1]);
	assert_int_equal(read(pipe_fds[0], &c, 1), 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return c;
}

static void do_start(void *arg)
{
	int r = cv_control_socket_start(&server, worker, dir, &ops);
	char c = (char)-r;

	assert_int_equal(write(*(int *)arg, &c, 1), 1);
}

static void do_stop(void *arg)
{
	cv_control_socket_stop(&server);
	assert_int_equal(write(*(int *)arg, "", 1), 1);
}

static int setup(void **state)
{
	(void)state;
	assert_int_equal(scratch_dir(dir, sizeof(dir)), 0);
	assert_int_equal(cv_worker_start(&worker, 0), 0);
	return on_worker(do_start);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	(void)state;
	on_worker(do_stop);
	cv_worker_stop(&worker);
	return nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* --- clients --- */

static struct cv_ctl client(void)
{
	return (struct cv_ctl){ .run_dir = dir, .out = stdout };
}

static json_t *ask(const char *command, json_t *args, int fd)
{
	struct cv_ctl ctl = client();

	return cv_ctl_ask(&ctl, command, args, fd);
}

static int dial(void)
{
	int fd = cv_ctl_connect(dir);

	assert_true(fd >= 0);
	return fd;
}

/* The one-message answer to a raw request. */
static const char *exchange(int fd, const void *request, size_t len)
{
	static char answer[CV_CONTROL_CHUNK + 1];
	ssize_t n;

	assert_int_equal(send(fd, request, len, MSG_NOSIGNAL), len);
	n = recv(fd, answer, CV_CONTROL_CHUNK, 0);
	answer[n > 0 ? n : 0] = '\0';
	return answer;
}

static void test_modes(void **state)
{
	char path[96];
	struct stat st;

	(void)state;
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	snprintf(path, sizeof(path), "%s/" CV_CONTROL_SOCKET, dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_answers(void **state)
{
	json_t *answer = ask("echo", json_pack("{s:s}", "name", "x"), -1);

	(void)state;
	assert_string_equal(json_string_value(json_object_get(answer, "name")), "x");
	assert_string_equal(json_string_value(json_object_get(answer, "command")), "echo");
	json_decref(answer);
}

/* Far more than one message, put together again. */
static void test_big_answer(void **state)
{
	json_t *answer = ask("big", NULL, -1);

	(void)state;
	assert_int_equal(json_string_length(answer), BIG);
	json_decref(answer);
}

static void test_bad_requests(void **state)
{
	static const struct {
		const char *request, *answer;
	} rows[] = {
		{ "{\"command\":\"refuse\"}", ".{\"error\":\"no: because\"}" },
		{ "{\"command\":\"nope\"}", ".{\"error\":\"unknown command\"}" },
		{ "{\"command\":7}", "a request is" },
		{ "{\"command\":\"echo\",\"command\":\"big\"}", "a request is" },
		{ "[]", "a request is" },
		{ "{", "a request is" },
		{ "\xff\xfe", "a request is" },
	};
	int fd = dial();

	(void)state;
	/* One connection takes them all: a bad request does not end it. */
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		assert_non_null(strstr(exchange(fd, rows[i].request, strlen(rows[i].request)),
				       rows[i].answer));
	close(fd);
}

static void test_oversize(void **state)
{
	char *request = calloc(1, CV_LIMIT_CONTROL_MESSAGE + 1);
	int fd = dial();

	(void)state;
	memset(request, ' ', CV_LIMIT_CONTROL_MESSAGE + 1);
	assert_non_null(strstr(exchange(fd, request, CV_LIMIT_CONTROL_MESSAGE + 1), "too long"));
	memcpy(request, "{\"command\":\"refuse\"}", 20);
	assert_non_null(strstr(exchange(fd, request, CV_LIMIT_CONTROL_MESSAGE), "because"));
	free(request);
	close(fd);
}

static size_t count_fds(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void send_fds(int conn, const char *request, int n)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(16 * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)request, .iov_len = strlen(request) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&msg);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (int i = 0; i < n; i++)
		memcpy(CMSG_DATA(h) + i * sizeof(int), &(int){ STDERR_FILENO }, sizeof(int));
	assert_true(sendmsg(conn, &msg, MSG_NOSIGNAL) > 0);
}

/* One descriptor arrives; more are refused; none of them stays open. */
static void test_descriptors(void **state)
{
	FILE *file = tmpfile();
	json_t *answer;
	char buf[256];
	size_t before;
	int fd;

	(void)state;
	fputs("12345", file);
	fflush(file);
	answer = ask("size-of-fd", NULL, fileno(file));
	assert_int_equal(json_integer_value(answer), 5);
	json_decref(answer);
	fclose(file);

	fd = dial();
	assert_non_null(strstr(exchange(fd, "{\"command\":\"size-of-fd\"}", 24), "no descriptor"));
	before = count_fds();
	for (int n = 2; n <= 16; n += 14) {
		send_fds(fd, "{\"command\":\"size-of-fd\"}", n);
		assert_true(recv(fd, buf, sizeof(buf), 0) > 0);
		assert_non_null(strstr(buf, "one descriptor"));
	}
	/* Along with what is no request at all. */
	send_fds(fd, "nonsense", 1);
	assert_true(recv(fd, buf, sizeof(buf), 0) > 0);
	assert_int_equal(count_fds(), before);
	close(fd);
}

static void wait_held(void)
{
	for (int i = 0; i < 1000 && !__atomic_load_n(&held, __ATOMIC_ACQUIRE); i++)
		usleep(5000);
	assert_non_null(__atomic_load_n(&held, __ATOMIC_ACQUIRE));
}

/* A handler may answer after it has returned, also when the client did not wait. */
static void test_late_answer(void **state)
{
	int fd = dial();
	char buf[64] = "";
	json_t *done;

	(void)state;
	assert_true(send(fd, "{\"command\":\"hold\"}", 18, 0) > 0);
	wait_held();
	done = ask("release", NULL, -1);
	assert_non_null(done);
	json_decref(done);
	assert_true(recv(fd, buf, sizeof(buf) - 1, 0) > 0);
	assert_string_equal(buf, ".{\"result\":\"late\"}");

	assert_true(send(fd, "{\"command\":\"hold\"}", 18, 0) > 0);
	wait_held();
	close(fd);
	done = ask("release", NULL, -1);
	assert_non_null(done);
	json_decref(done);
}

static void answer_held(void *arg)
{
	cv_control_answer(&held, json_string("too late"));
	assert_int_equal(write(*(int *)arg, "", 1), 1);
}

/* The answer may even come when the socket is gone with all its clients. */
static void test_answer_after_stop(void **state)
{
	int fd = dial();

	(void)state;
	assert_true(send(fd, "{\"command\":\"hold\"}", 18, 0) > 0);
	wait_held();
	on_worker(do_stop);
	on_worker(answer_held);
	assert_null(held);
	close(fd);
}

static bool is_closed(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&p, 1, 5000) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* One client too many is dropped; when another leaves, there is room. */
static void test_too_many_clients(void **state)
{
	int fds[CV_LIMIT_CONTROL_CLIENTS], extra;
	json_t *answer = NULL;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++) {
		fds[i] = dial();
		/* An answer proves that it was accepted. */
		assert_non_null(strstr(exchange(fds[i], "{}", 2), "error"));
	}
	extra = dial();
	assert_true(is_closed(extra));
	close(extra);
	for (size_t i = 0; i < CV_ARRAY_SIZE(fds); i++)
		close(fds[i]);
	for (int i = 0; i < 100 && !answer; i++) {
		answer = ask("echo", NULL, -1);
		usleep(answer ? 0 : 10000);
	}
	assert_non_null(answer);
	json_decref(answer);
}

/* Another user is refused by the kernel's word, even where the files would let him in. */
static void test_other_user(void **state)
{
	char path[96];
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	snprintf(path, sizeof(path), "%s/" CV_CONTROL_SOCKET, dir);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(chmod(path, 0777), 0);
	pid = fork();
	if (pid == 0) {
		/* Whatever leads to the directory may be root's alone. */
		int fd = chdir(dir) || setuid(NOBODY) ? -1 : cv_ctl_connect(".");

		_exit(fd >= 0 && is_closed(fd) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pid = fork();
	if (pid == 0) {
		int fd = cv_ctl_connect(dir);

		_exit(fd >= 0 && strstr(exchange(fd, "{}", 2), "error") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_live_daemon(void **state)
{
	struct cv_control_socket *second = NULL;
	json_t *answer;

	(void)state;
	assert_int_equal(cv_control_socket_start(&second, worker, dir, &ops), -EADDRINUSE);
	assert_null(second);
	/* The first one still answers. */
	answer = ask("echo", NULL, -1);
	assert_non_null(answer);
	json_decref(answer);
}

/* What kill -9 leaves: the socket file without anybody behind it. */
static void test_dead_daemon(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	json_t *answer;
	int fd;

	(void)state;
	on_worker(do_stop);
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" CV_CONTROL_SOCKET, dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(on_worker(do_start), 0);
	answer = ask("echo", NULL, -1);
	assert_non_null(answer);
	json_decref(answer);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_modes),	 TEST(test_answers),	      TEST(test_big_answer),
		TEST(test_bad_requests), TEST(test_oversize),	      TEST(test_descriptors),
		TEST(test_late_answer),	 TEST(test_too_many_clients), TEST(test_answer_after_stop),
		TEST(test_other_user),	 TEST(test_live_daemon),      TEST(test_dead_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
