// SPDX-License-Identifier: Apache-2.0
/*
 * The order that lets no forbidden connection live: node_sockops decides, inserts the attestation
 * and then reads the verdict once more, while the daemon writes the verdict and then walks the
 * attestations. Once the verdict changes right behind the insert, by progs/order.bpf.c; once a second
 * thread is that daemon, in a race with connect(): that a verdict changed between decision and insert
 * is seen by the counter `verdict_changed`, which only the second reading moves. See
 * selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "maps/types.h"
#include "order.skel.h"
#include "selftests/lib/podlab.h"
#include "userspace/base/cleanup.h"

enum {
	MEET_S = 60, /* longest time for meeting the race; usually it takes milliseconds */
	SOURCE_PORT = 20000,
	SOURCE_PORTS = 8, /* used in turn */
};

static struct lab lab;
#define A (&lab.host[LAB_A])
#define B (&lab.host[LAB_B])

static atomic_bool quit;

static void drain(const struct lab_host *h)
{
	int fd;

	while (lab_accept(h, 0, &fd) != LAB_NOBODY)
		close(fd);
}

/* Begins a connection from a port of the caller's, and leaves nothing of it but a RST. */
static int begin(uint16_t port)
{
	int fd = lab_socket(A, AF_INET, SOCK_STREAM), on = 1;
	const struct linger reset = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	assert_int_equal(lab_bind(fd, &A->ip[0], port), 0);
	lab_connect_start(fd, &B->ip[0], LAB_PORT);
	return fd;
}

static void end(int fd)
{
	close(fd);
	drain(A);
	drain(B);
}

/* A verdict that changes after the insert, when the daemon's walk may be over already, is noticed. */
static void test_insert_then_read(void **state)
{
	struct order_bpf *skel = order_bpf__open_and_load();
	struct cv_attested_entry entry, found;
	bool attested;
	int r;

	(void)state;
	assert_non_null(skel);
	skel->bss->tuple = (struct cv_tuple){ .src = A->ip[0],
					      .dst = B->ip[0],
					      .sport = htons(SOURCE_PORT),
					      .dport = htons(LAB_PORT) };
	skel->bss->entry = (struct cv_attested_entry){ .cookie = 1,
						       .src_pod = A->pod,
						       .dst_pod = B->pod,
						       .kind = CV_KIND_DIRECT,
						       .tier = CV_TIER_DIRECT };
	r = bpf_prog_test_run_opts(bpf_program__fd(skel->progs.run_attest), NULL);
	attested = skel->bss->attested;
	entry = skel->bss->entry;
	found = skel->bss->found;
	order_bpf__destroy(skel);
	assert_int_equal(r, 0);
	assert_true(attested);
	assert_int_equal(entry.kind, CV_KIND_CAPTURED);
	assert_int_equal(entry.reason, CV_REASON_VERDICT_CHANGED);
	assert_int_equal(found.cookie, 1);
	assert_int_equal(found.kind, CV_KIND_CAPTURED);
}

static void *change_always(void *arg)
{
	(void)arg;
	while (!atomic_load(&quit)) {
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_ALLOW);
		lab_verdict(&lab, LAB_A, LAB_B, CV_ANSWER_DENY);
	}
	return NULL;
}

/* A verdict that changes between the decision and the insert is noticed. */
static void test_verdict_read_again_at_connect(void **state)
{
	time_t until = time(NULL) + MEET_S;
	pthread_t thread;

	(void)state;
	atomic_store(&quit, false);
	assert_int_equal(pthread_create(&thread, NULL, change_always, NULL), 0);
	for (unsigned n = 0; time(NULL) < until; n++) {
		end(begin((uint16_t)(SOURCE_PORT + n % SOURCE_PORTS)));
		if (lab_count(&lab, CV_REASON_VERDICT_CHANGED))
			break;
	}
	atomic_store(&quit, true);
	pthread_join(thread, NULL);
	assert_true(lab_count(&lab, CV_REASON_VERDICT_CHANGED) > 0);
}

#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, lab_set_up, NULL, &lab)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_insert_then_read),
		TEST(test_verdict_read_again_at_connect),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
