/* SPDX-License-Identifier: Apache-2.0 */
/* The resolver against a name server of the test's own, on the same loop: one question for all who
 * ask, the cache and its end, failures, bounds, and leaving while it asks. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/strs.h"
#include "userspace/io/resolve.h"
#include "userspace/limits.h"

enum { TYPE_A = 1, TYPE_AAAA = 28, NXDOMAIN = 3, SERVFAIL = 2 };

static struct {
	struct event_base *base;
	struct event *ev;
	int fd;
	char address[64];
	unsigned questions; /* for A */
	unsigned questions6;
	struct cv_resolver *resolver;
} lab;

/* ---- the name server ------------------------------------------------------------------------- */

/* "name.example" of a question in wire format. Returns the bytes behind the name. */
static const uint8_t *read_name(const uint8_t *p, char text[256])
{
	size_t at = 0;

	for (; *p; p += *p + 1) {
		memcpy(text + at, p + 1, *p);
		at += *p;
		text[at++] = '.';
	}
	text[at ? at - 1 : 0] = '\0';
	return p + 1;
}

static uint8_t *put_record(uint8_t *p, uint16_t type, uint32_t ttl, const void *data, uint16_t len)
{
	const uint16_t head[3] = { htons(0xc00c), htons(type), htons(1) };
	const uint32_t wire_ttl = htonl(ttl);
	const uint16_t wire_len = htons(len);

	memcpy(p, head, sizeof(head));
	memcpy(p + 6, &wire_ttl, 4);
	memcpy(p + 10, &wire_len, 2);
	memcpy(p + 12, data, len);
	return p + 12 + len;
}

/* "two": two A and one AAAA; "four": one A; "many": 25 A; "six": one AAAA; "none": NXDOMAIN;
 * "broken": SERVFAIL; "silent": nothing. Returns the end of the answer. */
static uint8_t *answer(uint8_t *msg, uint8_t *end, const char *name, uint16_t type)
{
	unsigned n = !strncmp(name, "two", 3) ? 2 : !strncmp(name, "many", 4) ? 25 : 1;
	uint16_t count = 0;
	uint8_t six[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = 6 };

	msg[2] = 0x84;
	msg[3] = !strncmp(name, "none", 4) ? NXDOMAIN : !strncmp(name, "broken", 6) ? SERVFAIL : 0;
	if (msg[3])
		return end;
	if (type == TYPE_A && strncmp(name, "six", 3) != 0)
		for (; count < n; count++)
			end = put_record(end, TYPE_A, 1,
					 (uint8_t[]){ 10, 0, 0, (uint8_t)(count + 1) }, 4);
	else if (type == TYPE_AAAA && (!strncmp(name, "two", 3) || !strncmp(name, "six", 3)))
		for (; count < 1; count++)
			end = put_record(end, TYPE_AAAA, 1, six, 16);
	msg[7] = (uint8_t)count;
	return end;
}

static void on_question(evutil_socket_t fd, short what, void *arg)
{
	uint8_t msg[2048];
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	ssize_t n = recvfrom(fd, msg, 512, 0, (struct sockaddr *)&from, &len);
	const uint8_t *p;
	char name[256];
	uint16_t type;

	(void)what;
	(void)arg;
	assert_true(n > 12);
	p = read_name(msg + 12, name);
	type = p[1];
	if (type == TYPE_A)
		lab.questions++;
	else
		lab.questions6++;
	if (!strncmp(name, "silent", 6))
		return;
	/* Additional records (EDNS) are left out of the answer. */
	memset(msg + 6, 0, 6);
	n = answer(msg, msg + (p + 4 - msg), name, type) - msg;
	sendto(fd, msg, (size_t)n, 0, (struct sockaddr *)&from, len);
}

static int setup(void **state)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof(at);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	lab.base = event_base_new();
	lab.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(lab.fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(getsockname(lab.fd, (struct sockaddr *)&at, &len), 0);
	snprintf(lab.address, sizeof(lab.address), "127.0.0.1:%u", ntohs(at.sin_port));
	lab.ev = event_new(lab.base, lab.fd, EV_READ | EV_PERSIST, on_question, NULL);
	event_add(lab.ev, NULL);
	lab.questions = lab.questions6 = 0;
	assert_int_equal(cv_resolver_new(&lab.resolver,
					 &(struct cv_resolver_opts){ .base = lab.base,
								     .server = lab.address }),
			 0);
	*state = &lab;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_resolver_free(&lab.resolver);
	event_free(lab.ev);
	event_base_free(lab.base);
	close(lab.fd);
	return cv_str_count() != 0;
}

/* ---- who asks --------------------------------------------------------------------------------- */

struct asker {
	struct cv_resolve_wait wait;
	unsigned called;
	int result;
	struct cv_addr addrs[CV_LIMIT_RESOLVE_ADDRS];
	size_t n;
};

static void on_done(struct cv_resolve_wait *w, int r, const struct cv_addr *addrs, size_t n)
{
	struct asker *a = cv_container_of(w, struct asker, wait);

	a->called++;
	a->result = r;
	a->n = n;
	assert_in_range(n, 0, CV_LIMIT_RESOLVE_ADDRS);
	if (n)
		memcpy(a->addrs, addrs, n * sizeof(*addrs));
}

static void ask(struct asker *a, const char *name)
{
	*a = (struct asker){ .wait.done = on_done };
	cv_resolve(lab.resolver, name, &a->wait);
}

static void wait_for(const struct asker *a)
{
	while (!a->called)
		assert_int_equal(event_base_loop(lab.base, EVLOOP_ONCE), 0);
}

static bool has(const struct asker *a, const char *address)
{
	struct cv_addr want;

	assert_int_equal(cv_addr_parse(address, &want), 0);
	for (size_t i = 0; i < a->n; i++)
		if (cv_addr_eq(&a->addrs[i], &want))
			return true;
	return false;
}

/* Does the resolver hold this name? (names are interned) */
static bool is_held(const char *name)
{
	size_t before = cv_str_count();
	cv_str s = cv_str_new(name);
	bool held = cv_str_count() == before;

	cv_str_put(&s);
	return held;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void test_both_families(void **state)
{
	static struct asker a;

	(void)state;
	ask(&a, "two.example");
	assert_int_equal(a.called, 0);
	wait_for(&a);
	assert_int_equal(a.result, 0);
	assert_int_equal(a.n, 3);
	assert_true(has(&a, "10.0.0.1") && has(&a, "10.0.0.2") && has(&a, "2001:db8::6"));
	ask(&a, "six.example");
	wait_for(&a);
	assert_int_equal(a.n, 1);
	assert_true(has(&a, "2001:db8::6"));
	ask(&a, "many.example");
	wait_for(&a);
	assert_int_equal(a.n, CV_LIMIT_RESOLVE_ADDRS);
}

static void test_one_family(void **state)
{
	static struct asker a;

	(void)state;
	cv_resolver_free(&lab.resolver);
	assert_int_equal(cv_resolver_new(&lab.resolver,
					 &(struct cv_resolver_opts){ .base = lab.base,
								     .ipv4_only = true,
								     .server = lab.address }),
			 0);
	ask(&a, "two.example");
	wait_for(&a);
	assert_int_equal(a.n, 2);
	assert_int_equal(lab.questions6, 0);
}

/* One question for all who ask meanwhile, none while the answer is good, another one after. */
static void test_cache(void **state)
{
	static struct asker a, b, c;

	(void)state;
	ask(&a, "four.example");
	ask(&b, "four.example");
	ask(&c, "four.example");
	cv_resolve_cancel(&c.wait);
	wait_for(&a);
	assert_int_equal(b.called, 1);
	assert_int_equal(c.called, 0);
	assert_int_equal(lab.questions, 1);
	ask(&a, "four.example");
	assert_int_equal(a.called, 1); /* at once */
	assert_int_equal(a.n, 1);
	usleep(1100 * 1000); /* the record's TTL is a second */
	ask(&a, "four.example");
	assert_int_equal(a.called, 0);
	wait_for(&a);
	assert_int_equal(lab.questions, 2);
}

static void test_failures(void **state)
{
	char longest[300];
	static struct asker a;

	(void)state;
	ask(&a, "none.example");
	wait_for(&a);
	assert_int_equal(a.result, -ENOENT);
	ask(&a, "none.example"); /* remembered for a moment */
	assert_int_equal(a.called, 1);
	assert_int_equal(lab.questions, 1);
	ask(&a, "broken.example");
	wait_for(&a);
	assert_int_equal(a.result, -EIO);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	ask(&a, longest);
	assert_int_equal(a.result, -ENOENT);
	ask(&a, "");
	assert_int_equal(a.result, -ENOENT);
}

/* Names that are being asked are bounded; who leaves while he waits is not called. */
static void test_bounds(void **state)
{
	static struct asker askers[CV_LIMIT_RESOLVE_PENDING];
	struct asker one_more;
	char name[64];

	(void)state;
	for (unsigned i = 0; i < CV_LIMIT_RESOLVE_PENDING; i++) {
		snprintf(name, sizeof(name), "silent%u.example", i);
		ask(&askers[i], name);
		assert_int_equal(askers[i].called, 0);
	}
	ask(&one_more, "four.example");
	assert_int_equal(one_more.result, -EAGAIN);
	ask(&one_more, "silent0.example"); /* waits with the first */
	assert_int_equal(one_more.called, 0);
	cv_resolver_free(&lab.resolver);
	for (unsigned i = 0; i < CV_LIMIT_RESOLVE_PENDING; i++)
		assert_true(!askers[i].called && !askers[i].wait.entry);
	assert_int_equal(one_more.called, 0);
	cv_resolve_cancel(&one_more.wait);
}

/* The cache is bounded: the name that was used longest ago goes first. */
static void test_evicts(void **state)
{
	static struct asker a;
	char name[64];

	(void)state;
	for (unsigned i = 0; i < CV_LIMIT_RESOLVE_NAMES; i++) {
		snprintf(name, sizeof(name), "four%u.example", i);
		ask(&a, name);
		wait_for(&a);
		if (i % 100)
			continue;
		ask(&a, "four0.example"); /* stays */
		wait_for(&a);
	}
	assert_int_equal(cv_str_count(), CV_LIMIT_RESOLVE_NAMES);
	ask(&a, "six.example");
	wait_for(&a);
	assert_int_equal(cv_str_count(), CV_LIMIT_RESOLVE_NAMES);
	assert_true(is_held("four0.example"));
	assert_false(is_held("four1.example"));
	assert_true(is_held("four2.example"));
}

static void test_literals(void **state)
{
	static struct asker a;

	(void)state;
	ask(&a, "10.1.2.3");
	assert_int_equal(a.called, 1);
	assert_true(has(&a, "10.1.2.3"));
	ask(&a, "2001:db8::1");
	assert_true(has(&a, "2001:db8::1"));
	assert_int_equal(lab.questions + lab.questions6, 0);
}

/* When the loop is gone no event may be touched (the sanitizer looks). */
static void test_discard(void **state)
{
	static struct asker a;

	(void)state;
	ask(&a, "silent.example");
	event_free(lab.ev);
	event_base_free(lab.base);
	cv_resolver_discard(&lab.resolver);
	assert_int_equal(a.called, 0);
	lab.base = event_base_new();
	lab.ev = event_new(lab.base, lab.fd, EV_READ, on_question, NULL);
}

static void test_pick(void **state)
{
	struct cv_addr addrs[3] = { cv_addr_v4(0x0a000001),
				    { .b = { 0x20, 1 } },
				    cv_addr_v4(0x0a000002) };
	unsigned seen[3] = {};

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		seen[cv_resolve_pick(addrs, 3, &addrs[0], i) - addrs]++;
	assert_true(seen[0] == 50 && seen[1] == 0 && seen[2] == 50);
	assert_ptr_equal(cv_resolve_pick(addrs, 3, &addrs[1], 7), &addrs[1]);
	/* None of the family: any. */
	assert_ptr_equal(cv_resolve_pick(addrs, 1, &addrs[1], 7), &addrs[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_both_families, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_family, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cache, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_evicts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_literals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard, setup, teardown),
		cmocka_unit_test(test_pick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
