// SPDX-License-Identifier: Apache-2.0
/*
 * tcpecho: the server side of the tests' TCP connections, one thread a connection.
 *
 * It says "ready" on stdout when it listens, and then, with -v, one line a connection: who it is
 * with (peer, local), how many bytes came and went, and how it ended. What it does with a
 * connection is its mode (-m), see usage(). tcpcall is the client that checks these answers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "selftests/tools/pattern.h"

#define CHUNK (64 * 1024)

struct conn {
	int fd;
	uint64_t received;
	uint64_t sent;
	char peer[64];
	char local[64];
	uint8_t buf[CHUNK];
};

/* What to do with a connection: 0, or -errno of what ended it. */
typedef int (*serve_fn)(struct conn *conn);

static struct {
	uint64_t bytes;
	bool verbose;
	serve_fn serve;
} options = { .bytes = 1 << 20 };

static void usage(void)
{
	fputs("usage: tcpecho [-l ADDRESS] [-p PORT] [-m MODE] [-n BYTES] [-v]\n"
	      "  -l  listen on this address (default ::, IPv4 included)   -p  port (7000)\n"
	      "  -m  echo    send back what comes; after the client's end, the rest and ours (default)\n"
	      "      sink    read to the client's end, then send `BYTES matched|broken`\n"
	      "      source  send -n BYTES of the pattern, then end\n"
	      "      whoami  send `PEER LOCAL` as this side sees them, then end\n"
	      "      line    answer every line with `LOCAL-PORT PEER-ADDRESS LINE`\n"
	      "      hold    never read and never answer; wait for the client to go away\n"
	      "      reset   reset the connection after the first bytes\n",
	      stderr);
}

static int send_all(struct conn *conn, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(conn->fd, (const char *)data + done, len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += n;
		conn->sent += n;
	}
	return 0;
}

/* Bytes into conn->buf: their number, 0 at the peer's end, -errno. */
static ssize_t receive(struct conn *conn)
{
	ssize_t n;

	do
		n = recv(conn->fd, conn->buf, sizeof(conn->buf), 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		conn->received += n;
	return n < 0 ? -errno : n;
}

static int serve_echo(struct conn *conn)
{
	ssize_t n;

	while ((n = receive(conn)) > 0) {
		int r = send_all(conn, conn->buf, n);

		if (r < 0)
			return r;
	}
	return n;
}

static int serve_sink(struct conn *conn)
{
	char answer[64];
	bool matched = true;
	ssize_t n;

	while ((n = receive(conn)) > 0)
		if (pattern_match(conn->buf, n, conn->received - n) != (size_t)n)
			matched = false;
	if (n < 0)
		return n;
	snprintf(answer, sizeof(answer), "%llu %s\n", (unsigned long long)conn->received,
		 matched ? "matched" : "broken");
	return send_all(conn, answer, strlen(answer));
}

static int serve_source(struct conn *conn)
{
	while (conn->sent < options.bytes) {
		uint64_t left = options.bytes - conn->sent;
		size_t len = left < CHUNK ? left : CHUNK;
		int r;

		pattern_fill(conn->buf, len, conn->sent);
		r = send_all(conn, conn->buf, len);
		if (r < 0)
			return r;
	}
	return 0;
}

static int serve_whoami(struct conn *conn)
{
	char answer[160];

	snprintf(answer, sizeof(answer), "%s %s\n", conn->peer, conn->local);
	return send_all(conn, answer, strlen(answer));
}

static int serve_line(struct conn *conn)
{
	FILE *in = fdopen(dup(conn->fd), "r");
	char line[1024], answer[1200];
	int r = 0;

	if (!in)
		return -errno;
	while (r == 0 && fgets(line, sizeof(line), in)) {
		conn->received += strlen(line);
		snprintf(answer, sizeof(answer), "%s %s %s", strrchr(conn->local, ':') + 1,
			 conn->peer, line);
		r = send_all(conn, answer, strlen(answer));
	}
	fclose(in);
	return r;
}

static int serve_hold(struct conn *conn)
{
	/* Woken by the client's end or reset, not by data that waits to be read. */
	struct pollfd p = { .fd = conn->fd, .events = POLLRDHUP };

	while (poll(&p, 1, -1) < 0)
		;
	return p.revents & POLLERR ? -ECONNRESET : 0;
}

static int serve_reset(struct conn *conn)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	ssize_t n = receive(conn);

	setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	return n < 0 ? n : -ECONNRESET;
}

static const struct {
	const char *name;
	serve_fn serve;
} modes[] = {
	{ "echo", serve_echo },	    { "sink", serve_sink }, { "source", serve_source },
	{ "whoami", serve_whoami }, { "line", serve_line }, { "hold", serve_hold },
	{ "reset", serve_reset },
};

static serve_fn find_mode(const char *name)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(name, modes[i].name) == 0)
			return modes[i].serve;
	return NULL;
}

/* `address:port`, an IPv4 address in an IPv6 socket as IPv4. */
static void format_addr(const struct sockaddr_in6 *addr, char *buf, size_t size)
{
	char text[INET6_ADDRSTRLEN];
	bool mapped = IN6_IS_ADDR_V4MAPPED(&addr->sin6_addr);

	if (mapped)
		inet_ntop(AF_INET, &addr->sin6_addr.s6_addr[12], text, sizeof(text));
	else
		inet_ntop(AF_INET6, &addr->sin6_addr, text, sizeof(text));
	snprintf(buf, size, mapped ? "%s:%u" : "[%s]:%u", text, ntohs(addr->sin6_port));
}

static void *run_conn(void *arg)
{
	struct conn *conn = arg;
	struct sockaddr_in6 addr;
	socklen_t len = sizeof(addr);
	int r;

	if (getpeername(conn->fd, (struct sockaddr *)&addr, &len) == 0)
		format_addr(&addr, conn->peer, sizeof(conn->peer));
	len = sizeof(addr);
	if (getsockname(conn->fd, (struct sockaddr *)&addr, &len) == 0)
		format_addr(&addr, conn->local, sizeof(conn->local));
	r = options.serve(conn);
	/* Closing with bytes unread would reset what was just sent. */
	if (r == 0 && shutdown(conn->fd, SHUT_WR) == 0)
		while (receive(conn) > 0)
			;
	close(conn->fd);
	if (options.verbose)
		printf("peer=%s local=%s received=%llu sent=%llu end=%s\n", conn->peer, conn->local,
		       (unsigned long long)conn->received, (unsigned long long)conn->sent,
		       r < 0 ? strerrorname_np(-r) : "eof");
	free(conn);
	return NULL;
}

static int listen_on(const char *host, uint16_t port)
{
	struct sockaddr_in6 addr = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	char mapped[INET6_ADDRSTRLEN + 8];
	int fd, on = 1, off = 0;

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(host, ':') ? "" : "::ffff:", host);
	if (inet_pton(AF_INET6, mapped, &addr.sin6_addr) != 1)
		return -EINVAL;
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static void accept_forever(int listener)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		struct conn *conn;
		pthread_t thread;

		if (fd < 0) {
			usleep(1000);
			continue;
		}
		conn = calloc(1, sizeof(*conn));
		if (conn)
			conn->fd = fd;
		if (!conn || pthread_create(&thread, &attr, run_conn, conn) != 0) {
			free(conn);
			close(fd);
		}
	}
}

int main(int argc, char **argv)
{
	const char *host = "::", *mode = "echo";
	struct rlimit files;
	uint16_t port = 7000;
	int opt, listener;

	while ((opt = getopt(argc, argv, "l:p:m:n:vh")) != -1) {
		switch (opt) {
		case 'l':
			host = optarg;
			break;
		case 'p':
			port = strtoul(optarg, NULL, 10);
			break;
		case 'm':
			mode = optarg;
			break;
		case 'n':
			options.bytes = strtoull(optarg, NULL, 10);
			break;
		case 'v':
			options.verbose = true;
			break;
		default:
			usage();
			return opt == 'h' ? 0 : 2;
		}
	}
	options.serve = find_mode(mode);
	if (!options.serve || optind != argc) {
		usage();
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	listener = listen_on(host, port);
	if (listener < 0) {
		fprintf(stderr, "tcpecho: listen on %s port %u: %s\n", host, port,
			strerror(-listener));
		return 1;
	}
	puts("ready");
	accept_forever(listener);
}
