/* SPDX-License-Identifier: Apache-2.0 */
/* ZDS messages byte by byte, and a session with a node agent that the test plays: what is answered,
 * which pods run after it, what ends the connection, and that pods outlive it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/proxylab.h"
#include "selftests/lib/scratch.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/node/zds.h"
#include "userspace/proto/zds.h"

enum { PATIENCE_MS = 20000, NR_NETNS = 2, LISTED = 64 };

/* add{uid "u1", workload_info{name "n", namespace "s", service_account "a"}} */
#define ADD_U1                                                 \
	"\x0a\x0f\x0a\x02u1\x12\x09\x0a\x01n\x12\x01s\x1a\x01" \
	"a"
#define ADD_U2                                                 \
	"\x0a\x0f\x0a\x02u2\x12\x09\x0a\x01m\x12\x01s\x1a\x01" \
	"a"
#define KEEP_U1	 "\x2a\x04\x0a\x02u1"
#define DEL_U1	 "\x12\x04\x12\x02u1"
#define DEL_U2	 "\x12\x04\x12\x02u2"
#define SNAPSHOT "\x1a\x00"
#define ACK	 "\x0a\x00"
#define HELLO	 "\x08\x01"

/* ---- messages ---------------------------------------------------------------------------------- */

static int decode(const char *bytes, size_t len, unsigned nr_fds, struct cv_zds_request *ret)
{
	char error[CV_ZDS_ERROR] = "";
	int r = cv_zds_decode(bytes, len, nr_fds, ret, error);

	assert_true(r == 0 || *error);
	return r;
}

#define DECODE(bytes, nr_fds, ret) decode(bytes, sizeof(bytes) - 1, nr_fds, ret)

static void test_requests(void **state)
{
	struct cv_zds_request r;

	(void)state;
	assert_int_equal(DECODE(ADD_U1, 1, &r), 0);
	assert_int_equal(r.kind, CV_ZDS_ADD);
	assert_string_equal(r.uid, "u1");
	assert_string_equal(r.name, "n");
	assert_string_equal(r.ns, "s");
	assert_string_equal(r.service_account, "a");
	cv_zds_request_fini(&r);
	assert_null(r.message);

	assert_int_equal(DECODE(KEEP_U1, 0, &r), 0);
	assert_int_equal(r.kind, CV_ZDS_KEEP);
	assert_string_equal(r.uid, "u1");
	cv_zds_request_fini(&r);

	assert_int_equal(DECODE(DEL_U1, 0, &r), 0);
	assert_int_equal(r.kind, CV_ZDS_DEL);
	assert_string_equal(r.uid, "u1");
	cv_zds_request_fini(&r);

	assert_int_equal(DECODE(SNAPSHOT, 0, &r), 0);
	assert_int_equal(r.kind, CV_ZDS_SNAPSHOT);
	assert_null(r.uid);
	cv_zds_request_fini(&r);
}

/* What a later agent may send: no info, fields that are not known here, the old trust domain. */
static void test_other_versions(void **state)
{
	struct cv_zds_request r;

	(void)state;
	assert_int_equal(DECODE("\x0a\x04\x0a\x02u1", 1, &r), 0);
	assert_null(r.name);
	cv_zds_request_fini(&r);
	assert_int_equal(DECODE("\x0a\x0c\x0a\x02u1\x12\x06\x0a\x01n\x22\x01t", 1, &r), 0);
	assert_string_equal(r.name, "n");
	assert_string_equal(r.service_account, "");
	cv_zds_request_fini(&r);
	assert_int_equal(DECODE("\x12\x07\x12\x02u1\x22\x01x", 0, &r), 0);
	assert_string_equal(r.uid, "u1");
	cv_zds_request_fini(&r);
}

static void test_bad_requests(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		unsigned nr_fds;
	} rows[] = {
		{ ADD_U1, 17, 0 }, /* a descriptor is missing */
		{ ADD_U1, 17, 2 },
		{ KEEP_U1, 6, 1 }, /* nobody asked for one */
		{ DEL_U1, 6, 1 },
		{ SNAPSHOT, 2, 1 },
		{ "", 0, 0 }, /* no payload */
		{ "\x32\x00", 2, 0 }, /* one that is not known */
		{ "\x12\x04\x0a\x02u1", 6, 0 }, /* a del whose uid is in field 1 */
		{ "\x0a\x02\x0a\x00", 4, 1 }, /* an empty uid */
		{ "GET / HTTP/1.1\r\n\r\n", 18, 0 },
	};
	struct cv_zds_request r;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		assert_int_equal(decode(rows[i].bytes, rows[i].len, rows[i].nr_fds, &r), -EBADMSG);
	for (size_t len = 1; len < 17; len++)
		assert_int_equal(decode(ADD_U1, len, 1, &r), -EBADMSG);
}

static void test_long_packet(void **state)
{
	char packet[CV_ZDS_PACKET + 1] = "\x1a\x00\x32";
	struct cv_zds_request r;

	(void)state;
	/* One field that nobody knows fills the rest. */
	packet[3] = (char)(0x80 | ((CV_ZDS_PACKET - 5) & 0x7f));
	packet[4] = (CV_ZDS_PACKET - 5) >> 7;
	assert_int_equal(decode(packet, CV_ZDS_PACKET, 0, &r), 0);
	cv_zds_request_fini(&r);
	packet[3]++;
	assert_int_equal(decode(packet, CV_ZDS_PACKET + 1, 0, &r), -EBADMSG);
}

static void test_answers(void **state)
{
	uint8_t packet[CV_ZDS_PACKET];
	char text[4000];

	(void)state;
	assert_int_equal(cv_zds_encode_hello(packet), 2);
	assert_memory_equal(packet, HELLO, 2);
	assert_int_equal(cv_zds_encode_ack(NULL, packet), 2);
	assert_memory_equal(packet, ACK, 2);
	assert_int_equal(cv_zds_encode_ack("no", packet), 6);
	assert_memory_equal(packet, "\x0a\x04\x0a\x02no", 6);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_in_range(cv_zds_encode_ack(text, packet), 100, CV_ZDS_PACKET);
}

/* ---- an agent ------------------------------------------------------------------------------------- */

static char dir[64], path[96];
static int netns_fds[NR_NETNS];
static struct cv_worker *worker;
static struct cv_zds *zds;
static int listener = -1, agent = -1;
/* What the session has told; written on the worker. */
static _Atomic int starts, stops, changes, fail_starts;
static _Atomic bool ready;
static sem_t done;

static int start_pod(const struct cv_pod_view *pod, void **ret_handle, void *arg)
{
	(void)arg;
	assert_string_equal(pod->ns, "s");
	assert_non_null(pod->netns);
	if (fail_starts) {
		fail_starts--;
		return -EADDRINUSE;
	}
	starts++;
	*ret_handle = &starts;
	return 0;
}

static void stop_pod(void *handle, void (*fn)(void *done_arg), void *done_arg, void *arg)
{
	(void)arg;
	assert_ptr_equal(handle, &starts);
	stops++;
	cv_worker_post(worker, fn, done_arg);
}

static void on_changed(void *arg)
{
	(void)arg;
	changes++;
}

static void on_ready(bool is_ready, void *arg)
{
	(void)arg;
	assert_true(is_ready != ready);
	ready = is_ready;
}

static void call(void (*fn)(void *arg))
{
	cv_worker_post(worker, fn, NULL);
	sem_wait(&done);
}

static void begin(void *arg)
{
	const struct cv_zds_opts opts = {
		.control = worker,
		.path = path,
		.start = start_pod,
		.stop = stop_pod,
		.changed = on_changed,
		.ready = on_ready,
	};

	(void)arg;
	assert_int_equal(cv_zds_new(&zds, &opts), 0);
	cv_zds_start(zds);
	sem_post(&done);
}

static void end(void *arg)
{
	(void)arg;
	cv_zds_free(&zds);
	sem_post(&done);
}

static void leave(void *arg)
{
	(void)arg;
	cv_zds_stop(zds);
	sem_post(&done);
}

static void listen_again(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	unlink(path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 4), 0);
}

static bool is_readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* The next packet; 0 = the end. */
static size_t receive(char buf[CV_ZDS_PACKET])
{
	ssize_t n;

	assert_true(is_readable(agent, PATIENCE_MS));
	n = recv(agent, buf, CV_ZDS_PACKET, 0);
	return n < 0 ? 0 : (size_t)n;
}

static void accept_session(void)
{
	char buf[CV_ZDS_PACKET];

	cv_close(&agent);
	assert_true(is_readable(listener, PATIENCE_MS));
	agent = accept(listener, NULL, NULL);
	assert_int_equal(receive(buf), 2);
	assert_memory_equal(buf, HELLO, 2);
}

static void send_packet(const char *bytes, size_t len, const int *fds, size_t nr_fds)
{
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(8 * sizeof(int))];
	} control = {};
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		struct cmsghdr *h = CMSG_FIRSTHDR(&msg);

		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(h), fds, nr_fds * sizeof(int));
	}
	assert_int_equal(sendmsg(agent, &msg, MSG_NOSIGNAL), len);
}

#define SEND(bytes)	     send_packet(bytes, sizeof(bytes) - 1, NULL, 0)
#define SEND_NETNS(bytes, i) send_packet(bytes, sizeof(bytes) - 1, &netns_fds[i], 1)

static void expect_ack(void)
{
	char buf[CV_ZDS_PACKET];

	assert_int_equal(receive(buf), 2);
	assert_memory_equal(buf, ACK, 2);
}

static void expect_nack(const char *part)
{
	char buf[CV_ZDS_PACKET + 1];
	size_t n = receive(buf);

	assert_true(n > 4);
	buf[n] = '\0';
	if (!strstr(buf, part))
		fail_msg("\"%s\" is not in \"%s\"", part, buf + 4);
}

static void expect_end(void)
{
	char buf[CV_ZDS_PACKET];

	assert_int_equal(receive(buf), 0);
}

static void wait_until(_Atomic bool *flag, bool value)
{
	for (int ms = 0; *flag != value && ms < PATIENCE_MS; ms++)
		usleep(1000);
	assert_int_equal(*flag, value);
}

static void wait_count(_Atomic int *count, int value)
{
	for (int ms = 0; *count != value && ms < PATIENCE_MS; ms++)
		usleep(1000);
	assert_int_equal(*count, value);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int setup(void **state)
{
	(void)state;
	assert_int_equal(scratch_dir(dir, sizeof(dir)), 0);
	snprintf(path, sizeof(path), "%s/sock", dir);
	starts = stops = changes = fail_starts = 0;
	ready = false;
	listen_again();
	sem_init(&done, 0, 0);
	assert_int_equal(cv_worker_start(&worker, 0), 0);
	call(begin);
	accept_session();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	call(end);
	cv_worker_stop(&worker);
	cv_close(&agent);
	cv_close(&listener);
	unlink(path);
	return rmdir(dir);
}

/* ---- sessions ---------------------------------------------------------------------------------------- */

static void test_snapshot(void **state)
{
	(void)state;
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	assert_int_equal(starts, 1);
	assert_false(ready);
	SEND(SNAPSHOT);
	expect_ack();
	assert_true(ready);
	SEND_NETNS(ADD_U2, 1);
	expect_ack();
	assert_int_equal(starts, 2);
	SEND(DEL_U1);
	expect_ack();
	assert_int_equal(stops, 1);
	/* What is not known is gone already. */
	SEND(DEL_U1);
	expect_ack();
	assert_int_equal(stops, 1);
	assert_int_equal(changes, 3);
	assert_true(ready);
	assert_false(is_readable(agent, 50));
}

/* The same pod again is nothing new; with another namespace it is another pod. */
static void test_add_again(void **state)
{
	(void)state;
	SEND(SNAPSHOT);
	expect_ack();
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	assert_int_equal(starts, 1);
	SEND_NETNS(ADD_U1, 1);
	expect_ack();
	assert_int_equal(starts, 2);
	assert_int_equal(stops, 1);
}

/* Pods run on without an agent; the next snapshot keeps what it names and stops the rest. */
static void test_reconnect(void **state)
{
	(void)state;
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND_NETNS(ADD_U2, 1);
	expect_ack();
	SEND(SNAPSHOT);
	expect_ack();
	cv_close(&listener);
	cv_close(&agent);
	wait_until(&ready, false);
	assert_int_equal(stops, 0);
	usleep(100000);
	listen_again();
	accept_session();
	SEND(KEEP_U1);
	expect_ack();
	assert_int_equal(stops, 0);
	assert_false(ready);
	SEND(SNAPSHOT);
	expect_ack();
	assert_int_equal(stops, 1);
	assert_int_equal(starts, 2);
	assert_true(ready);
	/* u1 is the one that was kept. */
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	assert_int_equal(starts, 2);
}

/* A del before the end of the snapshot only takes the name back. */
static void test_early_del(void **state)
{
	(void)state;
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND(DEL_U1);
	expect_ack();
	assert_int_equal(stops, 0);
	SEND(SNAPSHOT);
	expect_ack();
	assert_int_equal(stops, 1);
}

/* Refused to the agent, tried again by itself, and not ready meanwhile. */
static void test_failed_start(void **state)
{
	(void)state;
	fail_starts = 1;
	SEND_NETNS(ADD_U1, 0);
	expect_nack("s/n: Address already in use");
	SEND(SNAPSHOT);
	expect_ack();
	assert_false(ready);
	wait_until(&ready, true);
	assert_int_equal(starts, 1);
	/* Forgotten with the del, it is not tried again. */
	fail_starts = 1;
	SEND_NETNS(ADD_U2, 1);
	expect_nack("s/m");
	assert_false(ready);
	SEND(DEL_U2);
	expect_ack();
	assert_true(ready);
	assert_int_equal(stops, 0);
}

/* What an agent could not start is forgotten with it. */
static void test_pending_forgotten(void **state)
{
	(void)state;
	fail_starts = 1;
	SEND_NETNS(ADD_U1, 0);
	expect_nack("s/n");
	accept_session();
	SEND(SNAPSHOT);
	expect_ack();
	assert_true(ready);
	assert_int_equal(starts, 0);
}

static void test_not_a_netns(void **state)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	(void)state;
	send_packet(ADD_U1, sizeof(ADD_U1) - 1, &null, 1);
	expect_nack("not of a pod's network namespace");
	send_packet(ADD_U1, sizeof(ADD_U1) - 1, &own, 1);
	expect_nack("not of a pod's network namespace");
	close(null);
	close(own);
	SEND(SNAPSHOT);
	expect_ack();
	assert_true(ready);
	assert_int_equal(starts, 0);
}

static void send_two_fds(void)
{
	send_packet(ADD_U1, sizeof(ADD_U1) - 1, netns_fds, 2);
}

static void send_many_fds(void)
{
	const int fds[] = { 0, 0, 0, 0, 0, 0, 0, 0 };

	send_packet(ADD_U1, sizeof(ADD_U1) - 1, fds, 8);
}

static void send_no_fd(void)
{
	SEND(ADD_U1);
}

static void send_fd_with_del(void)
{
	SEND_NETNS(DEL_U1, 0);
}

static void send_garbage(void)
{
	SEND("GET / HTTP/1.1");
}

static void send_long(void)
{
	static char packet[CV_ZDS_PACKET + 1] = "\x1a";

	send_packet(packet, sizeof(packet), NULL, 0);
}

/* Each is refused and ends the connection; no descriptor stays, and the next one begins anew. */
static void test_unreadable(void **state)
{
	static const struct {
		void (*send)(void);
		const char *why;
	} rows[] = {
		{ send_two_fds, "needs one descriptor, 2 came" },
		{ send_many_fds, "too long, or has too many descriptors" },
		{ send_no_fd, "needs one descriptor, 0 came" },
		{ send_fd_with_del, "no add" },
		{ send_garbage, "no WorkloadRequest" },
		{ send_long, "too long" },
	};
	unsigned before;

	(void)state;
	before = open_fds();
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		rows[i].send();
		expect_nack("failure to read message");
		expect_end();
		accept_session();
	}
	assert_int_equal(open_fds(), before);
	assert_int_equal(starts, 0);
	SEND(SNAPSHOT);
	expect_ack();
	assert_true(ready);
}

static void test_mismatch(void **state)
{
	(void)state;
	SEND_NETNS("\x0a\x04\x0a\x02u1", 0);
	expect_nack("without workload_info");
	expect_end();
	accept_session();
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND(SNAPSHOT);
	expect_ack();
	SEND(SNAPSHOT);
	expect_nack("second snapshot");
	expect_end();
	wait_until(&ready, false);
	accept_session();
	SEND(KEEP_U1);
	expect_ack();
	SEND(SNAPSHOT);
	expect_ack();
	SEND(KEEP_U1);
	expect_nack("keep after the snapshot");
	expect_end();
	assert_int_equal(starts, 1);
	assert_int_equal(stops, 0);
}

static void add_number(int i)
{
	char packet[] = "\x0a\x13\x0a\x06"
			"000000"
			"\x12\x09\x0a\x01n\x12\x01s\x1a\x01"
			"a";

	snprintf(packet + 4, 7, "%06d", i);
	packet[10] = '\x12';
	SEND_NETNS(packet, 0);
}

static void test_too_many(void **state)
{
	(void)state;
	for (int i = 0; i < CV_LIMIT_ZDS_PODS; i++) {
		add_number(i);
		expect_ack();
	}
	add_number(CV_LIMIT_ZDS_PODS);
	expect_nack("no more pods fit");
	assert_int_equal(starts, CV_LIMIT_ZDS_PODS);
}

/* Left for a drain: the agent sees the end, nothing comes back, pods and readiness stay. */
static void test_leave(void **state)
{
	(void)state;
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND(SNAPSHOT);
	expect_ack();
	call(leave);
	expect_end();
	assert_false(is_readable(listener, 200));
	assert_true(ready);
	assert_int_equal(stops, 0);
}

static int append_uid(const struct cv_pod_view *pod, void *arg)
{
	char *text = arg;
	size_t len = strlen(text);

	snprintf(text + len, LISTED - len, "%s%s", pod->uid, pod->pending ? "-" : "+");
	return 0;
}

static char listed[LISTED];

static void list(void *arg)
{
	struct cv_zds_counts counts;

	(void)arg;
	listed[0] = '\0';
	cv_zds_each(zds, append_uid, listed);
	cv_zds_counts(zds, &counts);
	assert_int_equal(counts.active, 1);
	assert_int_equal(counts.pending, 1);
	assert_true(counts.connected && counts.snapshot);
	sem_post(&done);
}

static void test_list(void **state)
{
	(void)state;
	SEND(SNAPSHOT);
	expect_ack();
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	SEND(DEL_U1);
	expect_ack();
	wait_count(&stops, 1);
	SEND_NETNS(ADD_U1, 0);
	expect_ack();
	fail_starts = 1;
	SEND_NETNS(ADD_U2, 1);
	expect_nack("s/m");
	call(list);
	assert_string_equal(listed, "u1+u2-");
}

/* ---- the run --------------------------------------------------------------------------------------------- */

static void *make_netns(void *arg)
{
	*(int *)arg = unshare(CLONE_NEWNET) ?
			      -errno :
			      open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	return NULL;
}

static int make_namespaces(void **state)
{
	(void)state;
	for (int i = 0; i < NR_NETNS; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, make_netns, &netns_fds[i]) ||
		    pthread_join(thread, NULL) || netns_fds[i] < 0)
			return -1;
	}
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_other_versions),
		cmocka_unit_test(test_bad_requests),
		cmocka_unit_test(test_long_packet),
		cmocka_unit_test(test_answers),
		TEST(test_snapshot),
		TEST(test_add_again),
		TEST(test_reconnect),
		TEST(test_early_del),
		TEST(test_failed_start),
		TEST(test_pending_forgotten),
		TEST(test_not_a_netns),
		TEST(test_unreadable),
		TEST(test_mismatch),
		TEST(test_too_many),
		TEST(test_leave),
		TEST(test_list),
	};

	cv_log_filter_add("off", true);
	if (proxylab_unshare()) {
		printf("1..0 # SKIP no network namespace to be had\n");
		return 4;
	}
	return cmocka_run_group_tests(tests, make_namespaces, NULL);
}
