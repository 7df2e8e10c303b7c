// SPDX-License-Identifier: Apache-2.0
/*
 * How a pod's outbound connections reach the daemon: by the mark that connect() leaves (the fast
 * path) and, where that does not apply, by pod_egress (the backstop). Real sockets between real
 * namespaces; see selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/if_packet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"

static struct lab lab;
#define A (&lab.host[LAB_A])
#define B (&lab.host[LAB_B])
#define W (&lab.host[LAB_WIRE])

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* The other machine is dialled, and the daemon in the pod answers in its name. */
static void expect_captured(int client, const struct cv_addr *dialled)
{
	_cleanup_close_ int daemon = -1;

	assert_true(client >= 0);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
	assert_true(lab_is(lab_local(daemon), dialled, LAB_PORT));
	assert_true(lab_is(lab_peer(client), dialled, LAB_PORT));
	assert_true(lab_talks(client, daemon));
	assert_int_equal(lab_accept(W, 0, &daemon), LAB_NOBODY);
}

/* The SYN goes to lo by route: no TC program sees the connection, and the kernel has noted why. */
static void test_fastpath(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = -1;
		struct cv_attested_entry e;
		struct cv_tuple t;

		lab_mark(&lab);
		client = lab_connect(A, &W->ip[f], LAB_PORT);
		expect_captured(client, &W->ip[f]);
		assert_true(lab_is(lab_local(client), &A->ip[f], lab_local(client).port));
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 0);
		assert_int_equal(lab_count(&lab, CV_REASON_NOT_LOCAL), 1);
		t = lab_tuple(client);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.kind, CV_KIND_CAPTURED);
		assert_int_equal(e.src_pod, A->pod);
		assert_int_equal(e.reason, CV_REASON_NOT_LOCAL);
	}
}

/* An AF_INET6 socket that dials ::ffff:a.b.c.d is an IPv4 connection. */
static void test_fastpath_v4_mapped(void **state)
{
	_cleanup_close_ int client = lab_socket(A, AF_INET6, SOCK_STREAM);

	(void)state;
	assert_int_equal(lab_connect_start(client, &W->ip[V4], LAB_PORT), -EINPROGRESS);
	assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
	expect_captured(client, &W->ip[V4]);
	assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 0);
}

/* With the fast path off TC alone carries the same connection. */
static void test_backstop(void **state)
{
	(void)state;
	lab_control(&lab, 0, false);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_connect(A, &W->ip[f], LAB_PORT);

		expect_captured(client, &W->ip[f]);
		assert_true(lab_count(&lab, CV_REASON_REDIRECTED) > 0);
		lab_mark(&lab);
	}
}

/* Strict reverse-path filtering and connection tracking in the pod do not mind either path. */
static void test_rp_filter_and_conntrack(void **state)
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };
	static const char strict[] = "sysctl -qw net.ipv4.conf.all.rp_filter=1\n"
				     "nft 'table inet strict { chain in { type filter hook input "
				     "priority 0; ct state invalid drop; }; }'";

	(void)state;
	assert_int_equal(lab_sh(A, strict), 0);
	for (int f = 0; f < FAMILIES; f++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			_cleanup_close_ int client = -1;

			lab_control(&lab, flags[i], false);
			client = lab_connect(A, &W->ip[f], LAB_PORT);
			expect_captured(client, &W->ip[f]);
		}
	}
	lab_sh(A, "sysctl -qw net.ipv4.conf.all.rp_filter=0; nft delete table inet strict");
}

/* A pod whose own filter takes nothing in from lo is cut off from the daemon: its connections hang, on both
 * paths, and nothing of them leaves the pod. The next ones open when the filter is gone. */
static void test_input_drop_without_lo(void **state)
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };
	static const char filter[] = "nft 'table inet closed { chain in { type filter hook input "
				     "priority 0; policy drop; iifname \"eth0\" accept; }; }'";
	_cleanup_close_ int tap = lab_tap(W);

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			_cleanup_close_ int client =
				lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);
			int r;

			lab_control(&lab, flags[i], false);
			assert_int_equal(lab_sh(A, filter), 0);
			lab_connect_start(client, &W->ip[f], LAB_PORT);
			r = lab_connect_end(client, LAB_QUIET_MS);
			cv_close(&client);
			assert_int_equal(lab_sh(A, "nft delete table inet closed"), 0);
			assert_int_equal(r, -ETIMEDOUT);
			client = lab_connect(A, &W->ip[f], LAB_PORT);
			expect_captured(client, &W->ip[f]);
			assert_int_equal(lab_tap_count(tap, &A->ip[f]), 0);
		}
	}
}

/* A socket tied to eth0 cannot be routed to lo: it is left to TC, and not lost. */
static void test_backstop_bound_device(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);

		assert_int_equal(setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5), 0);
		assert_int_equal(lab_connect_start(client, &W->ip[f], LAB_PORT), -EINPROGRESS);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		expect_captured(client, &W->ip[f]);
		assert_true(lab_count(&lab, CV_REASON_REDIRECTED) > 0);
		lab_mark(&lab);
	}
}

/* A source bound to the pod's own address takes the fast path. */
static void test_fastpath_bound_source(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);

		assert_int_equal(lab_bind(client, &A->ip[f], 0), 0);
		assert_int_equal(lab_connect_start(client, &W->ip[f], LAB_PORT), -EINPROGRESS);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		expect_captured(client, &W->ip[f]);
		assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 0);
	}
}

/* MSG_FASTOPEN connects in sendto(); the data goes to the daemon with the SYN or after it. */
static void test_fastopen(void **state)
{
	_cleanup_close_ int client = lab_socket(A, AF_INET, SOCK_STREAM);
	const struct cv_sockaddr dst = { .ip = W->ip[V4], .port = LAB_PORT };
	_cleanup_close_ int daemon = -1;
	struct sockaddr_storage sa;
	socklen_t len = cv_sockaddr_to_native(&dst, &sa);

	(void)state;
	sendto(client, "early", 5, MSG_FASTOPEN, (struct sockaddr *)&sa, len);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
	assert_true(lab_talks(client, daemon));
	assert_int_equal(lab_accept(W, 0, &daemon), LAB_NOBODY);
}

static uint32_t mark_of(int fd)
{
	uint32_t mark = 0;
	socklen_t len = sizeof(mark);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &len), 0);
	return mark;
}

/* The application's own mark bits stay; ours is gone when the socket is used again to go direct. */
static void test_app_mark_preserved(void **state)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	const uint32_t mark = 0x539;

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);
		_cleanup_close_ int app = -1;

		assert_int_equal(setsockopt(client, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
		lab_connect_start(client, &W->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		expect_captured(client, &W->ip[f]);
		assert_int_equal(mark_of(client), mark | CV_FASTPATH_MARK);
		assert_int_equal(connect(client, &unspec, sizeof(unspec)), 0);
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		assert_int_equal(mark_of(client), mark);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(client, app));
	}
}

/* An application that sets SO_MARK anew takes our bit away in mid-stream: TC carries the rest. */
static void test_mark_taken_away(void **state)
{
	_cleanup_close_ int client = lab_connect(A, &W->ip[V4], LAB_PORT);
	_cleanup_close_ int daemon = -1;
	const uint32_t mark = 7;

	(void)state;
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &daemon), LAB_OUTBOUND);
	assert_int_equal(setsockopt(client, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
	assert_true(lab_talks(client, daemon));
	assert_true(lab_count(&lab, CV_REASON_REDIRECTED) > 0);
}

/* The daemon's own connections leave the pod; a mark like the daemon's opens nothing. */
static void test_daemon_exempt(void **state)
{
	const uint32_t mark = CV_ISTIO_MARK;

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int own = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);
		_cleanup_close_ int pretender = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);
		_cleanup_close_ int app = -1;

		assert_int_equal(cv_table_sk_set_kind(lab.bpf, own, CV_KIND_DAEMON), 0);
		lab_connect_start(own, &W->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(own, LAB_WAIT_MS), 0);
		assert_int_equal(lab_accept(W, LAB_WAIT_MS, &app), LAB_APP);
		assert_true(lab_talks(own, app));
		assert_int_equal(setsockopt(pretender, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)),
				 0);
		lab_connect_start(pretender, &W->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(pretender, LAB_WAIT_MS), 0);
		expect_captured(pretender, &W->ip[f]);
	}
}

/* Without a daemon connect() says ECONNREFUSED at once, on both paths; nothing leaves the pod. */
static void test_no_listener(void **state)
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };
	_cleanup_close_ int tap = lab_tap(W);

	(void)state;
	lab_unlisten(&lab, LAB_A, CV_LISTENER_OUTBOUND);
	for (int f = 0; f < FAMILIES; f++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			int64_t start;

			lab_control(&lab, flags[i], false);
			lab_mark(&lab);
			start = now_us();
			assert_int_equal(lab_connect(A, &W->ip[f], LAB_PORT), -ECONNREFUSED);
			assert_in_range(now_us() - start, 0, 1000 * 1000);
			assert_int_equal(lab_count(&lab, CV_REASON_NO_LISTENER), 1);
		}
		assert_int_equal(lab_tap_count(tap, &A->ip[f]), 0);
	}
}

/* The same socket, refused once, connects when the daemon is back. */
static void test_refused_then_captured(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);

		lab_unlisten(&lab, LAB_A, CV_LISTENER_OUTBOUND);
		assert_int_equal(lab_connect_start(client, &W->ip[f], LAB_PORT), -ECONNREFUSED);
		lab_listen(&lab, LAB_A, CV_LISTENER_OUTBOUND);
		assert_int_equal(lab_connect_start(client, &W->ip[f], LAB_PORT), -EINPROGRESS);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		expect_captured(client, &W->ip[f]);
	}
}

/* A first SYN that is lost changes nothing: the second one finds the same answer. */
static void test_retransmitted_syn(void **state)
{
	static const char block[] =
		"nft 'table inet lost { chain in { type filter hook input priority 0; "
		"tcp flags & (syn | ack) == syn drop; }; }'";

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		for (int direct = 0; direct < 2; direct++) {
			const struct lab_host *to = direct ? B : W, *at = direct ? B : A;
			_cleanup_close_ int client =
				lab_socket(A, f ? AF_INET6 : AF_INET, SOCK_STREAM);
			_cleanup_close_ int server = -1;

			assert_int_equal(lab_sh(at, block), 0);
			lab_connect_start(client, &to->ip[f], LAB_PORT);
			assert_int_equal(lab_connect_end(client, LAB_QUIET_MS), -ETIMEDOUT);
			assert_int_equal(lab_sh(at, "nft delete table inet lost"), 0);
			assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
			assert_int_equal(lab_accept(at, LAB_WAIT_MS, &server),
					 direct ? LAB_APP : LAB_OUTBOUND);
			assert_true(lab_talks(client, server));
		}
	}
}

/* Connections that are open at enrolment go on, in both roles; the next one is captured. */
static void test_connection_older_than_enrolment(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int out = -1, out_peer = -1, in = -1, in_peer = -1, later = -1;

		cv_table_pod_del(lab.bpf, A->ns.cookie);
		out = lab_connect(A, &W->ip[f], LAB_PORT);
		assert_int_equal(lab_accept(W, LAB_WAIT_MS, &out_peer), LAB_APP);
		in = lab_connect(W, &A->ip[f], LAB_PORT);
		assert_int_equal(lab_accept(A, LAB_WAIT_MS, &in_peer), LAB_APP);
		assert_true(lab_talks(out, out_peer) && lab_talks(in, in_peer));
		lab_capture(&lab, LAB_A, false);
		assert_int_equal(cv_netns_enter(&A->ns), 0);
		assert_true(cv_bpf_mark_older(lab.bpf) >= 2);
		assert_int_equal(cv_netns_enter(NULL), 0);
		lab_capture(&lab, LAB_A, true);
		assert_true(lab_talks(out, out_peer));
		assert_true(lab_talks(in, in_peer));
		assert_true(lab_count(&lab, CV_REASON_OLDER) > 0);
		later = lab_connect(A, &W->ip[f], LAB_PORT);
		expect_captured(later, &W->ip[f]);
	}
}

/* What connects or is accepted between the pod's entry and its capture is older, too; and being
 * older does not outlive the connection: the socket's next one is captured. */
static void test_older_ends_with_the_connection(void **state)
{
	const struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	_cleanup_close_ int out = -1, out_peer = -1, in = -1, in_peer = -1;

	(void)state;
	lab_capture(&lab, LAB_A, false);
	out = lab_connect(A, &W->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(W, LAB_WAIT_MS, &out_peer), LAB_APP);
	in = lab_connect(W, &A->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(A, LAB_WAIT_MS, &in_peer), LAB_APP);
	lab_capture(&lab, LAB_A, true);
	assert_true(lab_talks(out, out_peer));
	assert_true(lab_talks(in, in_peer));
	assert_int_equal(connect(out, &unspec, sizeof(unspec)), 0);
	lab_connect_start(out, &W->ip[V4], LAB_PORT);
	assert_int_equal(lab_connect_end(out, LAB_WAIT_MS), 0);
	expect_captured(out, &W->ip[V4]);
	assert_int_equal(lab_count(&lab, CV_REASON_REDIRECTED), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, NULL, &lab)
	const struct CMUnitTest tests[] = {
		TEST(test_fastpath),
		TEST(test_fastpath_v4_mapped),
		TEST(test_backstop),
		TEST(test_rp_filter_and_conntrack),
		TEST(test_input_drop_without_lo),
		TEST(test_backstop_bound_device),
		TEST(test_fastpath_bound_source),
		TEST(test_fastopen),
		TEST(test_app_mark_preserved),
		TEST(test_mark_taken_away),
		TEST(test_daemon_exempt),
		TEST(test_no_listener),
		TEST(test_refused_then_captured),
		TEST(test_retransmitted_syn),
		TEST(test_connection_older_than_enrolment),
		TEST(test_older_ends_with_the_connection),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
