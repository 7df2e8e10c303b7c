// SPDX-License-Identifier: Apache-2.0
/*
 * pingpong: 1 KB requests and answers over TCP, for the bench.
 *
 *	pingpong serve PORT
 *	pingpong ask ADDRESS PORT SECONDS		one kept connection, one request after another:
 *							prints p50_us, p99_us, p999_us, max_us, requests
 *	pingpong dial ADDRESS PORT SECONDS PARALLEL	a new connection for each request:
 *							prints per_second, failed
 *
 * A request's first byte says what follows it: 'k', the connection is kept; 'c', the server closes
 * after the answer. So the server's side is left in TIME_WAIT, where a client's port can be used
 * again at once, and no number of connections exhausts the client's ports.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 1024
#define WARM_UP	      200
#define MAX_SAMPLES   (1 << 20)
#define MAX_EVENTS    256

/* A connection of the server, in the middle of a request. */
struct conn {
	int fd;
	size_t received;
	char first;
};

struct dialler {
	pthread_t thread;
	unsigned long done;
	unsigned long failed;
};

static struct sockaddr_in6 target;
static double end_s;

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void set_nodelay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- server ------------------------------------------------------------------------------------ */

static void end_conn(struct conn *conn)
{
	close(conn->fd);
	free(conn);
}

/* Reads what is there and answers whole requests; false when the connection is over. */
static bool serve_conn(struct conn *conn)
{
	static char buf[MESSAGE_BYTES];

	for (;;) {
		size_t want = MESSAGE_BYTES - conn->received;
		ssize_t n = recv(conn->fd, buf, want, MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		if (conn->received == 0)
			conn->first = buf[0];
		conn->received += n;
		if (conn->received < MESSAGE_BYTES)
			continue;
		conn->received = 0;
		if (send(conn->fd, buf, MESSAGE_BYTES, MSG_NOSIGNAL) != MESSAGE_BYTES)
			return false;
		if (conn->first == 'c')
			return false;
	}
}

static void accept_conns(int epoll, int listener)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		struct conn *conn = calloc(1, sizeof(*conn));
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = conn };

		if (!conn) {
			close(fd);
			continue;
		}
		conn->fd = fd;
		set_nodelay(fd);
		if (!serve_conn(conn) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
			end_conn(conn);
	}
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in6 addr = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int on = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0) {
		perror("pingpong: listen");
		return -1;
	}
	return fd;
}

static int serve(uint16_t port)
{
	int listener = listen_on(port), epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event events[MAX_EVENTS], event = { .events = EPOLLIN };

	if (listener < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
		return 1;
	for (;;) {
		int n = epoll_wait(epoll, events, MAX_EVENTS, -1);

		for (int i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;

			if (!conn)
				accept_conns(epoll, listener);
			else if (!serve_conn(conn))
				end_conn(conn);
		}
	}
}

/* ---- client ------------------------------------------------------------------------------------ */

/* ADDRESS and PORT into target. */
static bool set_target(const char *address, const char *port)
{
	char mapped[INET6_ADDRSTRLEN + 8];

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
	target.sin6_family = AF_INET6;
	target.sin6_port = htons(strtoul(port, NULL, 10));
	return inet_pton(AF_INET6, mapped, &target.sin6_addr) == 1 && target.sin6_port;
}

/* A connected socket, or -1. */
static int dial(void)
{
	struct timeval timeout = { .tv_sec = 5 };
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = target.sin6_port };
	bool is_v4 = IN6_IS_ADDR_V4MAPPED(&target.sin6_addr);
	int r, fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	set_nodelay(fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	memcpy(&v4.sin_addr, &target.sin6_addr.s6_addr[12], 4);
	if (is_v4)
		r = connect(fd, (struct sockaddr *)&v4, sizeof(v4));
	else
		r = connect(fd, (struct sockaddr *)&target, sizeof(target));
	if (r == 0)
		return fd;
	close(fd);
	return -1;
}

/* One request and its answer. */
static bool ask_once(int fd, char first)
{
	char buf[MESSAGE_BYTES] = { first };
	size_t received = 0;

	if (send(fd, buf, sizeof(buf), MSG_NOSIGNAL) != sizeof(buf))
		return false;
	while (received < sizeof(buf)) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n <= 0)
			return false;
		received += n;
	}
	return true;
}

static int compare_samples(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static int ask(double seconds)
{
	uint32_t *samples = malloc(MAX_SAMPLES * sizeof(*samples));
	int fd = dial();
	size_t nr = 0;

	if (!samples || fd < 0) {
		perror("pingpong: connect");
		return 1;
	}
	for (int i = 0; i < WARM_UP; i++)
		ask_once(fd, 'k');
	end_s = now_s() + seconds;
	for (double start = now_s(); start < end_s && nr < MAX_SAMPLES;) {
		double done;

		if (!ask_once(fd, 'k')) {
			perror("pingpong: request");
			return 1;
		}
		done = now_s();
		samples[nr++] = (done - start) * 1e9;
		start = done;
	}
	qsort(samples, nr, sizeof(*samples), compare_samples);
	printf("p50_us=%.2f p99_us=%.2f p999_us=%.2f max_us=%.2f requests=%zu\n",
	       samples[nr / 2] / 1e3, samples[nr * 99 / 100] / 1e3, samples[nr * 999 / 1000] / 1e3,
	       samples[nr - 1] / 1e3, nr);
	free(samples);
	close(fd);
	return 0;
}

static void *run_dialler(void *arg)
{
	struct dialler *dialler = arg;

	while (now_s() < end_s) {
		int fd = dial();
		char end;

		if (fd >= 0 && ask_once(fd, 'c') && recv(fd, &end, 1, 0) == 0)
			dialler->done++;
		else
			dialler->failed++;
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

static int dial_many(double seconds, unsigned parallel)
{
	struct dialler *diallers = calloc(parallel, sizeof(*diallers));
	unsigned long done = 0, failed = 0;
	double start = now_s(), lasted;

	if (!diallers)
		return 1;
	end_s = start + seconds;
	for (unsigned i = 0; i < parallel; i++)
		if (pthread_create(&diallers[i].thread, NULL, run_dialler, &diallers[i]) != 0)
			return 1;
	for (unsigned i = 0; i < parallel; i++) {
		pthread_join(diallers[i].thread, NULL);
		done += diallers[i].done;
		failed += diallers[i].failed;
	}
	lasted = now_s() - start;
	printf("per_second=%.0f failed=%lu\n", done / lasted, failed);
	free(diallers);
	return 0;
}

int main(int argc, char **argv)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		return serve(strtoul(argv[2], NULL, 10));
	if (argc == 5 && strcmp(argv[1], "ask") == 0 && set_target(argv[2], argv[3]))
		return ask(strtod(argv[4], NULL));
	if (argc == 6 && strcmp(argv[1], "dial") == 0 && set_target(argv[2], argv[3]))
		return dial_many(strtod(argv[4], NULL), strtoul(argv[5], NULL, 10));
	fputs("usage: pingpong serve PORT\n"
	      "       pingpong ask ADDRESS PORT SECONDS\n"
	      "       pingpong dial ADDRESS PORT SECONDS PARALLEL\n",
	      stderr);
	return 2;
}
