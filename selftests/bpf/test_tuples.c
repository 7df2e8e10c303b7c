// SPDX-License-Identifier: Apache-2.0
/*
 * Tuples that somebody else has, had or wants: what a lost CLOSE leaves, addresses that go to another
 * pod, and the daemon's legs that keep a client's address. Each test is named after the rule that it
 * fails without. Real sockets between real namespaces; see selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/in6.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "foreign.skel.h"
#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"

enum { LEG_PORT = 61001 };

static struct lab lab;
#define A (&lab.host[LAB_A])
#define B (&lab.host[LAB_B])
#define C (&lab.host[LAB_C])
#define W (&lab.host[LAB_WIRE])

static int family_of(int f)
{
	return f == V6 ? AF_INET6 : AF_INET;
}

/* Attaches somebody else's sockops program where it runs before culvert's: in a cgroup below. */
struct neighbour {
	struct foreign_bpf *skel;
	struct bpf_link *link;
	char cgroup[160];
};

static void move_to(const char *cgroup)
{
	char path[192];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0 && dprintf(fd, "%d", (int)getpid()) > 0);
}

static void neighbour_up(struct neighbour *n)
{
	_cleanup_close_ int fd = -1;

	n->skel = foreign_bpf__open_and_load();
	assert_non_null(n->skel);
	snprintf(n->cgroup, sizeof(n->cgroup), "%s/below", lab.cgroup);
	assert_int_equal(mkdir(n->cgroup, 0755), 0);
	fd = open(n->cgroup, O_RDONLY | O_CLOEXEC);
	n->link = bpf_program__attach_cgroup(n->skel->progs.foreign_sockops, fd);
	assert_non_null(n->link);
	move_to(n->cgroup);
}

static void neighbour_down(struct neighbour *n)
{
	move_to(lab.cgroup);
	bpf_link__destroy(n->link);
	foreign_bpf__destroy(n->skel);
	rmdir(n->cgroup);
}

static void count_attested(const struct cv_tuple *t, uint32_t *ret_swept)
{
	struct cv_attested_entry e;

	assert_int_equal(cv_table_attested_get(lab.bpf, t, &e), 0);
	*ret_swept = e.swept;
}

static void sweep(uint32_t number)
{
	struct cv_control_entry control;

	assert_int_equal(cv_table_control_get(lab.bpf, &control), 0);
	control.sweep = number;
	assert_int_equal(cv_table_control_set(lab.bpf, &control), 0);
	assert_int_equal(cv_netns_enter(&A->ns), 0);
	assert_int_equal(cv_bpf_sweep(lab.bpf), 0);
	assert_int_equal(cv_netns_enter(NULL), 0);
}

/* Leaves an attested entry of A -> B behind, whose socket is gone: a neighbour erases our
 * callback flags, so that CLOSE is never told. */
static struct cv_tuple lose_close(int f, enum cv_answer answer)
{
	bool direct = answer == CV_ANSWER_ALLOW;
	struct neighbour n = {};
	struct cv_tuple t;
	int client, got = -1;

	neighbour_up(&n);
	n.skel->bss->erase_flags = true;
	lab_verdict(&lab, LAB_A, LAB_B, answer);
	client = lab_connect(A, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_accept(direct ? B : A, LAB_WAIT_MS, &got),
			 direct ? LAB_APP : LAB_OUTBOUND);
	t = lab_tuple(client);
	cv_sock_abort(&client);
	lab_read(got, LAB_WAIT_MS);
	close(got);
	neighbour_down(&n);
	return t;
}

/* We add to a neighbour's callback flags; a neighbour that erases ours leaves entries behind, which
 * a sweep tells from those of live sockets. */
static void test_foreign_cb_flags(void **state)
{
	struct neighbour n = {};
	int client, app = -1;
	struct cv_tuple live, lost;
	struct cv_attested_entry e;
	uint32_t swept;

	(void)state;
	neighbour_up(&n);
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	client = lab_connect(A, &B->ip[V4], LAB_PORT);
	assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
	assert_true(lab_talks(client, app));
	assert_true(n.skel->bss->rtt_calls > 0);
	neighbour_down(&n);
	live = lab_tuple(client);
	lost = lose_close(V4, CV_ANSWER_ALLOW);
	sweep(5);
	sweep(6);
	count_attested(&live, &swept);
	assert_int_equal(swept, 6);
	count_attested(&lost, &swept);
	assert_true(swept < 5);
	cv_sock_abort(&client);
	cv_close(&app);
	assert_int_equal(cv_table_attested_get(lab.bpf, &live, &e), -ENOENT);
}

/* Something between the pods gives the connection another source address, so that its tuple is not the
 * attested one: B's daemon gets it at 15006, not the application. */
static void test_source_address_translated(void **state)
{
	static const char snat[] =
		"nft 'table inet away { chain post { type nat hook postrouting priority 100; "
		"ip saddr 10.88.0.1 ip daddr 10.88.0.2 masquerade; "
		"ip6 saddr fd88::1 ip6 daddr fd88::2 masquerade; }; }'";

	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int client = -1, server = -1;
		enum lab_got got;
		bool talks;

		assert_int_equal(lab_sh(&lab.host[LAB_NODE], snat), 0);
		lab_mark(&lab);
		client = lab_connect(A, &B->ip[f], LAB_PORT);
		got = lab_accept(B, LAB_WAIT_MS, &server);
		talks = client >= 0 && lab_talks(client, server);
		lab_sh(&lab.host[LAB_NODE], "nft delete table inet away");
		assert_int_equal(got, LAB_INBOUND);
		assert_true(talks);
		assert_true(lab_count(&lab, CV_REASON_INBOUND) > 0);
	}
}

/* A machine on the wire sends a SYN on a tuple that an ended connection left attested: its sequence
 * number is not the attested one, and B does not even answer. */
static void test_stale_tuple(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lose_close(f, CV_ANSWER_ALLOW);
		_cleanup_close_ int tap = lab_tap(B), got = -1;

		lab_mark(&lab);
		lab_send_segment(&lab, W, &t, TCP_SYN_FLAG, 0);
		assert_true(lab_counts(&lab, CV_REASON_STALE_TUPLE));
		assert_int_equal(lab_accept(B, LAB_QUIET_MS, &got), LAB_NOBODY);
		assert_int_equal(lab_tap_answers(tap, &t), 0);
	}
}

/* A new pod gets the address of a pod that is gone, and its connection the tuple: it is judged as
 * the new pod, not as what the old entry says. */
static void test_reused_address(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lose_close(f, CV_ANSWER_ALLOW);
		struct cv_workload_entry owner = { .pod = C->pod };
		_cleanup_close_ int client = -1, got = -1;
		struct cv_attested_entry e;

		lab_mark(&lab);
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
		client = lab_foreign_socket(C, &A->ip[f], ntohs(t.sport));
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.src_pod, C->pod);
		assert_int_equal(e.kind, CV_KIND_CAPTURED);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 1);
		assert_int_equal(lab_accept(B, LAB_QUIET_MS, &got), LAB_NOBODY);
		owner.pod = A->pod;
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
	}
}

/* C dials B from A's address, on this tuple; what is attested for the tuple then. */
static struct cv_attested_entry dial_as_a(int f, const struct cv_tuple *t)
{
	_cleanup_close_ int client = lab_foreign_socket(C, &A->ip[f], ntohs(t->sport));
	struct cv_attested_entry e;

	lab_connect_start(client, &B->ip[f], LAB_PORT);
	assert_int_equal(cv_table_attested_get(lab.bpf, t, &e), 0);
	return e;
}

/* What is left of a captured connection admits nobody: it stays when another pod merely binds the
 * address, and gives way to the pod that the address has gone to. */
static void test_reused_address_captured(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		struct cv_tuple t = lose_close(f, CV_ANSWER_NONE);
		struct cv_workload_entry owner = { .pod = C->pod };

		lab_mark(&lab);
		assert_int_equal(dial_as_a(f, &t).src_pod, A->pod);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 0);
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
		assert_int_equal(dial_as_a(f, &t).src_pod, C->pod);
		assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 1);
		owner.pod = A->pod;
		cv_table_workload_set(lab.bpf, &A->ip[f], &owner);
	}
}

/* A leg of the daemon's to B's application, with the address of a client. */
static int leg_from(const struct lab_host *client, int f, uint16_t port)
{
	int leg = lab_foreign_socket(B, &client->ip[f], port), on = 1;

	if (f == V6)
		assert_int_equal(setsockopt(leg, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof(on)),
				 0);
	assert_int_equal(cv_table_sk_set_kind(lab.bpf, leg, CV_KIND_DAEMON_LEG), 0);
	lab_connect_start(leg, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_connect_end(leg, LAB_WAIT_MS), 0);
	return leg;
}

/* The application sees the client's address, and its answers come back to the leg: by route on the
 * fast path, by TC without it. */
static void test_source_preserving_leg(void **state)
{
	static const uint32_t flags[] = { CV_CONTROL_FASTPATH, 0 };

	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		for (uint16_t i = 0; i < CV_ARRAY_SIZE(flags); i++) {
			_cleanup_close_ int leg = -1, app = -1, tap = lab_tap(W);

			lab_control(&lab, flags[i], false);
			lab_mark(&lab);
			leg = leg_from(W, f, LEG_PORT + i);
			assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
			assert_true(lab_is(lab_peer(app), &W->ip[f], LEG_PORT + i));
			assert_true(lab_talks(leg, app));
			assert_int_equal(!lab_count(&lab, CV_REASON_REDIRECTED), !!flags[i]);
			assert_int_equal(lab_tap_count(tap, &B->ip[f]), 0);
		}
	}
}

/* A socket of this machine that is no enrolled pod's dials on the tuple of a leg: the leg's entry
 * stays, and so the SYN does not get past it. */
static void dial_on_leg(int f, const struct cv_tuple *t)
{
	_cleanup_close_ int client = lab_socket(W, family_of(f), SOCK_STREAM);
	struct cv_attested_entry e;

	assert_int_equal(lab_bind(client, &W->ip[f], ntohs(t->sport)), 0);
	lab_connect_start(client, &B->ip[f], LAB_PORT);
	assert_int_equal(lab_connect_end(client, LAB_QUIET_MS), -ETIMEDOUT);
	assert_int_equal(cv_table_attested_get(lab.bpf, t, &e), 0);
	assert_int_equal(e.kind, CV_KIND_DAEMON_LEG);
	assert_int_equal(lab_count(&lab, CV_REASON_TUPLE_STOLEN), 0);
}

/* The client itself dials on the tuple of a leg: its SYN does not reach the leg's peer. Once the
 * leg is gone the port is free again. */
static void test_same_port_upstream_leg(void **state)
{
	(void)state;
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int leg = leg_from(W, f, LEG_PORT + 10), app = -1, got = -1;
		_cleanup_close_ int client = lab_socket(W, family_of(f), SOCK_STREAM);
		struct cv_tuple t = lab_make_tuple(&W->ip[f], LEG_PORT + 10, &B->ip[f], LAB_PORT);

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		lab_mark(&lab);
		dial_on_leg(f, &t);
		assert_true(lab_talks(leg, app));
		lab_mark(&lab);
		lab_send_segment(&lab, W, &t, TCP_SYN_FLAG, 0);
		assert_true(lab_counts(&lab, CV_REASON_DAEMON_TUPLE));
		assert_true(lab_talks(leg, app));
		cv_sock_abort(&leg);
		assert_int_equal(lab_read(app, LAB_WAIT_MS), -ECONNRESET);
		assert_int_equal(lab_bind(client, &W->ip[f], LEG_PORT + 10), 0);
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &got), LAB_INBOUND);
	}
}

/* The client is a pod of this node: the tuple is its own, and its connection goes to the daemon. */
static void test_same_port_upstream_leg_of_a_pod(void **state)
{
	(void)state;
	lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
	for (int f = 0; f < FAMILIES; f++) {
		_cleanup_close_ int leg = leg_from(A, f, LEG_PORT + 20), app = -1, got = -1;
		_cleanup_close_ int client = lab_socket(A, family_of(f), SOCK_STREAM);
		struct cv_tuple t = lab_make_tuple(&A->ip[f], LEG_PORT + 20, &B->ip[f], LAB_PORT);
		struct cv_attested_entry e;

		assert_int_equal(lab_accept(B, LAB_WAIT_MS, &app), LAB_APP);
		assert_int_equal(lab_bind(client, &A->ip[f], LEG_PORT + 20), 0);
		lab_connect_start(client, &B->ip[f], LAB_PORT);
		assert_int_equal(lab_connect_end(client, LAB_WAIT_MS), 0);
		assert_int_equal(lab_accept(A, LAB_WAIT_MS, &got), LAB_OUTBOUND);
		assert_int_equal(cv_table_attested_get(lab.bpf, &t, &e), 0);
		assert_int_equal(e.kind, CV_KIND_DAEMON_LEG);
		assert_true(lab_talks(leg, app) && lab_talks(client, got));
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, lab_tear_down, &lab)
	const struct CMUnitTest tests[] = {
		TEST(test_foreign_cb_flags),
		TEST(test_source_address_translated),
		TEST(test_stale_tuple),
		TEST(test_reused_address),
		TEST(test_reused_address_captured),
		TEST(test_source_preserving_leg),
		TEST(test_same_port_upstream_leg),
		TEST(test_same_port_upstream_leg_of_a_pod),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
