// SPDX-License-Identifier: Apache-2.0
/*
 * The order that lets no forbidden connection live: node_sockops decides, inserts the attestation
 * and then reads the verdict once more, while the daemon writes the verdict and then walks the
 * attestations. A second thread is that daemon, in a race with connect(): that a verdict changed
 * between decision and insert is seen by the counter `verdict_changed`, which only the second
 * reading moves. See selftests/lib/podlab.h for the topology.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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

static int set_up(void **state)
{
	(void)state;
	lab_reset(&lab);
	return 0;
}

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

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_verdict_read_again_at_connect),
	};
	int failed;

	lab_up(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_down(&lab);
	return failed;
}
