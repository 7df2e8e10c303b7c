// SPDX-License-Identifier: Apache-2.0
/*
 * tcpcall: the client side of the tests' TCP connections: opens them, one thread each, does what
 * its mode (-m, see usage()) says, and checks every byte of the answer.
 *
 * It prints one line of key=value words a connection (with -c above 1 only with -v, or when it did
 * not end as expected) and one summary line; times are in milliseconds. Its status is 0 when every
 * connection ended as expected (-x, default ok), else 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "selftests/tools/pattern.h"

#define CHUNK (64 * 1024)
/* Outcomes of our own, beside errno values. */
#define GOT_OTHER_BYTES 1001
#define GOT_LESS	1002
#define GOT_MORE	1003

struct call {
	const char *at; /* what it was doing when it ended */
	int fd;
	int error; /* 0, an errno value or one of GOT_ */
	uint64_t sent;
	uint64_t received;
	double connect_ms;
	double total_ms;
	double gap_ms; /* longest time between two answers (tick) */
	char peer[64];
	char local[64];
	char text[512]; /* beginning of the answer */
	uint8_t in[CHUNK];
	uint8_t out[CHUNK];
};

typedef int (*call_fn)(struct call *call);

static struct {
	struct sockaddr_in6 to;
	struct sockaddr_in6 from;
	bool bind_from;
	bool reset;
	bool verbose;
	uint64_t bytes;
	unsigned connections;
	unsigned parallel;
	int timeout_ms;
	int interval_ms;
	int lasts_ms;
	uint32_t mark;
	const char *device;
	const char *text;
	const char *expect;
	const char *answer;
	call_fn run;
} options = {
	.bytes = 1024,
	.connections = 1,
	.timeout_ms = 10000,
	.interval_ms = 100,
	.lasts_ms = 1000,
	.text = "hello",
	.expect = "ok",
};

static volatile sig_atomic_t stopped;
static int stop_fd; /* readable once stopped, for all threads that wait */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned started, as_expected;
static double worst_connect_ms, worst_total_ms;

static void usage(void)
{
	fputs("usage: tcpcall [options] ADDRESS PORT\n"
	      "  -m  line    send -s TEXT and a newline, end, print the answer (default)\n"
	      "      echo    send -n BYTES, read them back while sending, end, expect the end\n"
	      "      sink    send -n BYTES, end, and read `BYTES matched`\n"
	      "      source  read -n BYTES and the end\n"
	      "      hold    send nothing, read nothing, watch for -t MS; print how it ended\n"
	      "      stall   send -n BYTES, then read nothing for -t MS\n"
	      "      tick    every -i MS a number and its echo, for -t MS or till SIGTERM;\n"
	      "              with -v says `ticking` after the first\n"
	      "  -n BYTES (1024)  -s TEXT (hello)  -e TEXT the answer contains (line)\n"
	      "  -c CONNECTIONS in all (1)   -j at once (as many as -c)\n"
	      "  -w MS to wait for one step (10000)   -i MS (100)   -t MS (1000)\n"
	      "  -b ADDRESS[,PORT] to bind to   -k SO_MARK   -d device to bind to\n"
	      "  -r  end with a reset   -v  a line for every connection\n"
	      "  -x  outcomes that are as expected, with commas: ok ECONNREFUSED ECONNRESET\n"
	      "      ETIMEDOUT other-bytes less more\n",
	      stderr);
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static const char *outcome_name(int error)
{
	switch (error) {
	case 0:
		return "ok";
	case GOT_OTHER_BYTES:
		return "other-bytes";
	case GOT_LESS:
		return "less";
	case GOT_MORE:
		return "more";
	default:
		return strerrorname_np(error) ?: "error";
	}
}

/* Is the outcome among the comma-separated ones of -x? */
static bool is_expected(const char *name)
{
	size_t len = strlen(name);

	for (const char *p = options.expect; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	}
	return false;
}

/* 0 when one of the events is there, ETIMEDOUT after the time. */
static int wait_fd(struct call *call, short events, int timeout_ms, short *ret_events)
{
	struct pollfd p = { .fd = call->fd, .events = events };
	int n = poll(&p, 1, timeout_ms);

	if (n < 0 && errno != EINTR)
		return errno;
	if (n == 0)
		return ETIMEDOUT;
	*ret_events = n < 0 ? 0 : p.revents;
	return 0;
}

/* The same until a time, for what a signal ends: then nothing is in *ret_events. */
static int wait_until(struct call *call, short events, double end_ms, short *ret_events)
{
	struct pollfd p[] = { { .fd = call->fd, .events = events },
			      { .fd = stop_fd, .events = POLLIN } };
	double left_ms = end_ms - now_ms();

	*ret_events = 0;
	if (left_ms <= 0 || stopped)
		return 0;
	if (poll(p, 2, (int)left_ms + 1) < 0)
		return errno == EINTR ? 0 : errno;
	*ret_events = p[0].revents;
	return 0;
}

/* Sends what the socket takes of the pattern's bytes up to `total`. */
static int send_some(struct call *call, uint64_t total)
{
	uint64_t left = total - call->sent;
	size_t len = left < CHUNK ? left : CHUNK;
	ssize_t n;

	pattern_fill(call->out, len, call->sent);
	n = send(call->fd, call->out, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? 0 : errno;
	call->sent += n;
	return 0;
}

/* Reads once; *ret_eof at the peer's end. */
static int receive_some(struct call *call, ssize_t *ret_n)
{
	ssize_t n = recv(call->fd, call->in, sizeof(call->in), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN ? 0 : errno;
	*ret_n = n;
	return 0;
}

/* Sends `send_bytes` of the pattern, ends, and reads to the peer's end. What comes is the pattern
 * (`is_pattern`) or text for call->text. */
static int exchange(struct call *call, uint64_t send_bytes, bool is_pattern)
{
	bool ended = false;

	for (;;) {
		short events = POLLIN | (call->sent < send_bytes ? POLLOUT : 0);
		ssize_t n = -1;
		int r;

		if (!ended && call->sent == send_bytes) {
			shutdown(call->fd, SHUT_WR);
			ended = true;
		}
		call->at = ended ? "receive" : "send";
		r = wait_fd(call, events, options.timeout_ms, &events);
		if (r == 0 && events & POLLOUT)
			r = send_some(call, send_bytes);
		if (r == 0 && events & ~POLLOUT)
			r = receive_some(call, &n);
		if (r)
			return r;
		if (n == 0)
			return call->sent < send_bytes ? GOT_LESS : 0;
		if (n < 0)
			continue;
		if (is_pattern && pattern_match(call->in, n, call->received) != (size_t)n)
			return GOT_OTHER_BYTES;
		if (!is_pattern && call->received + n < sizeof(call->text))
			memcpy(call->text + call->received, call->in, n);
		call->received += n;
	}
}

static int compare_received(struct call *call)
{
	if (call->received < options.bytes)
		return GOT_LESS;
	return call->received > options.bytes ? GOT_MORE : 0;
}

static int call_echo(struct call *call)
{
	return exchange(call, options.bytes, true) ?: compare_received(call);
}

static int call_source(struct call *call)
{
	return exchange(call, 0, true) ?: compare_received(call);
}

static int call_sink(struct call *call)
{
	char want[64];
	int r = exchange(call, options.bytes, false);

	snprintf(want, sizeof(want), "%llu matched\n", (unsigned long long)options.bytes);
	if (r)
		return r;
	return strcmp(call->text, want) == 0 ? 0 : call->received ? GOT_OTHER_BYTES : GOT_LESS;
}

static int call_line(struct call *call)
{
	char line[1024];
	int r;

	snprintf(line, sizeof(line), "%s\n", options.text);
	call->at = "send";
	if (send(call->fd, line, strlen(line), MSG_NOSIGNAL) < 0)
		return errno;
	r = exchange(call, 0, false);
	call->sent = strlen(line);
	if (r == 0 && !call->received)
		return GOT_LESS;
	if (r == 0 && options.answer && !strstr(call->text, options.answer))
		return GOT_OTHER_BYTES;
	return r;
}

/* Watches an idle connection: ok when it is still there after -t. */
static int call_hold(struct call *call)
{
	double end = now_ms() + options.lasts_ms;

	call->at = "hold";
	while (!stopped && now_ms() < end) {
		short events = 0;
		ssize_t n = -1;
		int r = wait_until(call, POLLIN, end, &events);

		if (r == 0 && events)
			r = receive_some(call, &n);
		if (r)
			return r;
		if (n == 0)
			return GOT_LESS;
	}
	return 0;
}

static int call_stall(struct call *call)
{
	double end = now_ms() + options.lasts_ms;

	call->at = "send";
	while (!stopped && now_ms() < end) {
		short events = call->sent < options.bytes ? POLLOUT : 0;
		int r = wait_until(call, events, end, &events);

		if (r == 0 && events & (POLLERR | POLLHUP))
			return ECONNRESET;
		if (r == 0 && events & POLLOUT)
			r = send_some(call, options.bytes);
		if (r)
			return r;
	}
	return 0;
}

/* One number and its echo. */
static int tick_once(struct call *call, unsigned nr)
{
	char want[16], got[16] = "";
	size_t len = snprintf(want, sizeof(want), "%08u\n", nr);

	if (send(call->fd, want, len, MSG_NOSIGNAL) < 0)
		return errno;
	call->sent += len;
	for (size_t done = 0; done < len;) {
		short events = 0;
		ssize_t n = 0;
		int r = wait_fd(call, POLLIN, options.timeout_ms, &events);

		if (r)
			return r;
		if (!events)
			continue;
		n = recv(call->fd, got + done, len - done, 0);
		if (n <= 0)
			return n < 0 ? errno : GOT_LESS;
		done += n;
		call->received += n;
	}
	return memcmp(got, want, len) == 0 ? 0 : GOT_OTHER_BYTES;
}

static int call_tick(struct call *call)
{
	double end = now_ms() + options.lasts_ms, last = now_ms();

	call->at = "tick";
	for (unsigned nr = 0; !stopped && now_ms() < end; nr++) {
		int r = tick_once(call, nr);
		double now = now_ms();

		if (r)
			return r;
		if (nr && now - last > call->gap_ms)
			call->gap_ms = now - last;
		last = now;
		if (!nr && options.verbose && options.connections == 1) {
			puts("ticking"); /* for who waits for the connection to be open */
			fflush(stdout);
		}
		usleep(options.interval_ms * 1000);
	}
	return 0;
}

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

/* IPv4 goes over an AF_INET socket, as most applications do it. */
static socklen_t socket_addr(const struct sockaddr_in6 *addr, struct sockaddr_storage *ret_addr)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret_addr;

	memset(ret_addr, 0, sizeof(*ret_addr));
	if (!IN6_IS_ADDR_V4MAPPED(&addr->sin6_addr)) {
		memcpy(ret_addr, addr, sizeof(*addr));
		return sizeof(*addr);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = addr->sin6_port;
	memcpy(&v4->sin_addr, &addr->sin6_addr.s6_addr[12], 4);
	return sizeof(*v4);
}

/* The name of the socket's one end, read with getsockname() or getpeername(). */
static void read_name(int fd, int (*get)(int, __SOCKADDR_ARG, socklen_t *), char *buf, size_t size)
{
	struct sockaddr_storage addr;
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&addr;
	socklen_t len = sizeof(addr);

	snprintf(buf, size, "-");
	if (get(fd, (struct sockaddr *)&addr, &len) < 0)
		return;
	if (addr.ss_family == AF_INET6) {
		memcpy(&v6, &addr, sizeof(v6));
	} else {
		v6.sin6_port = v4->sin_port;
		memset(&v6.sin6_addr.s6_addr[10], 0xff, 2);
		memcpy(&v6.sin6_addr.s6_addr[12], &v4->sin_addr, 4);
	}
	format_addr(&v6, buf, size);
}

static int prepare_socket(int fd)
{
	struct sockaddr_storage addr;
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (options.mark &&
	    setsockopt(fd, SOL_SOCKET, SO_MARK, &options.mark, sizeof(options.mark)) < 0)
		return errno;
	if (options.device &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, options.device, strlen(options.device)) < 0)
		return errno;
	if (!options.bind_from)
		return 0;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return bind(fd, (struct sockaddr *)&addr, socket_addr(&options.from, &addr)) < 0 ? errno :
											   0;
}

static int connect_call(struct call *call)
{
	struct sockaddr_storage addr;
	socklen_t len = socket_addr(&options.to, &addr);
	double start = now_ms();
	short events = 0;
	int r, error = 0;

	call->at = "socket";
	call->fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (call->fd < 0)
		return errno;
	r = prepare_socket(call->fd);
	if (r)
		return r;
	call->at = "connect";
	r = connect(call->fd, (struct sockaddr *)&addr, len) < 0 ? errno : 0;
	if (r == EINPROGRESS) {
		socklen_t size = sizeof(error);

		r = wait_fd(call, POLLOUT, options.timeout_ms, &events);
		if (r == 0)
			getsockopt(call->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		r = r ?: error;
	}
	call->connect_ms = now_ms() - start;
	read_name(call->fd, getpeername, call->peer, sizeof(call->peer));
	read_name(call->fd, getsockname, call->local, sizeof(call->local));
	return r;
}

static void report(struct call *call)
{
	const char *name = outcome_name(call->error);
	bool expected = is_expected(name);

	call->text[strcspn(call->text, "\n")] = '\0';
	pthread_mutex_lock(&lock);
	as_expected += expected;
	if (call->connect_ms > worst_connect_ms)
		worst_connect_ms = call->connect_ms;
	if (call->total_ms > worst_total_ms)
		worst_total_ms = call->total_ms;
	if (options.verbose || options.connections == 1 || !expected) {
		printf("result=%s at=%s peer=%s local=%s sent=%llu received=%llu connect_ms=%.2f total_ms=%.2f",
		       name, call->at, call->peer, call->local, (unsigned long long)call->sent,
		       (unsigned long long)call->received, call->connect_ms, call->total_ms);
		if (call->gap_ms > 0)
			printf(" gap_ms=%.1f", call->gap_ms);
		printf(call->text[0] ? " text=%s\n" : "\n", call->text);
	}
	pthread_mutex_unlock(&lock);
}

static void run_call(struct call *call)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	double start = now_ms();

	memset(call, 0, offsetof(struct call, in));
	call->error = connect_call(call);
	if (call->error == 0) {
		call->at = "done";
		call->error = options.run(call);
	}
	if (call->error == 0)
		call->at = "done";
	if (call->fd >= 0) {
		if (options.reset)
			setsockopt(call->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		close(call->fd);
	}
	call->total_ms = now_ms() - start;
	report(call);
}

/* A thread makes one connection after another until -c are made. */
static void *run_calls(void *arg)
{
	struct call *call = malloc(sizeof(*call));

	(void)arg;
	while (call && __atomic_fetch_add(&started, 1, __ATOMIC_RELAXED) < options.connections)
		run_call(call);
	free(call);
	return NULL;
}

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
	eventfd_write(stop_fd, 1);
}

/* ADDRESS into a v4-mapped or IPv6 address. */
static bool parse_addr(const char *text, struct sockaddr_in6 *ret_addr)
{
	char mapped[INET6_ADDRSTRLEN + 8];

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(text, ':') ? "" : "::ffff:", text);
	*ret_addr = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
	return inet_pton(AF_INET6, mapped, &ret_addr->sin6_addr) == 1;
}

/* ADDRESS[,PORT] of -b */
static bool parse_from(char *text)
{
	char *port = strchr(text, ',');

	if (port)
		*port++ = '\0';
	if (!parse_addr(text, &options.from))
		return false;
	options.from.sin6_port = htons(port ? strtoul(port, NULL, 10) : 0);
	options.bind_from = true;
	return true;
}

static bool set_mode(const char *name)
{
	static const struct {
		const char *name;
		call_fn run;
	} modes[] = {
		{ "line", call_line },	   { "echo", call_echo }, { "sink", call_sink },
		{ "source", call_source }, { "hold", call_hold }, { "stall", call_stall },
		{ "tick", call_tick },
	};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(name, modes[i].name) == 0)
			options.run = modes[i].run;
	return options.run;
}

static bool set_option(int opt, char *value)
{
	switch (opt) {
	case 'm':
		return set_mode(value);
	case 'b':
		return parse_from(value);
	case 'n':
		options.bytes = strtoull(value, NULL, 10);
		return true;
	case 's':
		options.text = value;
		return true;
	case 'e':
		options.answer = value;
		return true;
	case 'c':
		options.connections = strtoul(value, NULL, 10);
		return true;
	case 'j':
		options.parallel = strtoul(value, NULL, 10);
		return true;
	case 'w':
		options.timeout_ms = strtol(value, NULL, 10);
		return true;
	case 'i':
		options.interval_ms = strtol(value, NULL, 10);
		return true;
	case 't':
		options.lasts_ms = strtol(value, NULL, 10);
		return true;
	case 'k':
		options.mark = strtoul(value, NULL, 0);
		return true;
	case 'd':
		options.device = value;
		return true;
	case 'r':
		options.reset = true;
		return true;
	case 'v':
		options.verbose = true;
		return true;
	case 'x':
		options.expect = value;
		return true;
	default:
		return false;
	}
}

static int run_all(void)
{
	unsigned nr = options.parallel && options.parallel < options.connections ?
			      options.parallel :
			      options.connections;
	pthread_t *threads = calloc(nr, sizeof(*threads));
	double start = now_ms();
	pthread_attr_t attr;
	unsigned running = 0;

	if (!threads)
		return 1;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	while (running < nr && pthread_create(&threads[running], &attr, run_calls, NULL) == 0)
		running++;
	for (unsigned i = 0; i < running; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	if (options.connections > 1)
		printf("expected=%u unexpected=%u connect_ms_max=%.2f total_ms_max=%.2f all_ms=%.2f\n",
		       as_expected, options.connections - as_expected, worst_connect_ms,
		       worst_total_ms, now_ms() - start);
	return as_expected == options.connections ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct sigaction stop = { .sa_handler = on_signal };
	struct rlimit files;
	int opt;

	while ((opt = getopt(argc, argv, "m:n:s:e:c:j:w:i:t:b:k:d:x:rvh")) != -1) {
		if (!set_option(opt, optarg)) {
			usage();
			return opt == 'h' ? 0 : 2;
		}
	}
	if (optind + 2 != argc || !parse_addr(argv[optind], &options.to)) {
		usage();
		return 2;
	}
	options.to.sin6_port = htons(strtoul(argv[optind + 1], NULL, 10));
	if (!options.run)
		set_mode("line");
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGINT, &stop, NULL);
	return run_all();
}
