/* SPDX-License-Identifier: Apache-2.0 */
/* An application behind an application tunnel: the PROXY header comes first, then the payload; on
 * the pod's address with the client's, or on loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "selftests/lib/proxylab.h"
#include "userspace/base/cleanup.h"
#include "userspace/proto/proxy_header.h"

#define IDENTITY "spiffe://cluster.local/ns/ns/sa/sa"
enum { PORT = 8080, HEAD = 28, TLV = 3 + sizeof(IDENTITY) - 1 };

static void read_exactly(int fd, void *buf, size_t len)
{
	assert_int_equal(recv(fd, buf, len, MSG_WAITALL), len);
}

static void say(int from, int to, const char *text)
{
	char buf[64];

	assert_int_equal(send(from, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	read_exactly(to, buf, strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

/* A connection from 127.0.0.1 to 127.0.0.2, accepted on `at`; returns the client that was seen. */
static struct cv_sockaddr check_tunnel(struct proxylab *lab, const char *at)
{
	_cleanup_close_ int listener = proxylab_listen(at, PORT);
	_cleanup_close_ int client = proxylab_outbound(lab, 0, "127.0.0.2", PORT);
	uint8_t header[HEAD + TLV], want[CV_PROXY_HEADER_MAX];
	struct cv_sockaddr peer, src = { cv_addr_v4(0x7f000001), 0 };
	const struct cv_sockaddr dst = { cv_addr_v4(0x7f000002), PORT };
	_cleanup_close_ int server = -1;

	/* What the client says early waits behind the header. */
	assert_int_equal(send(client, "early", 5, MSG_NOSIGNAL), 5);
	server = proxylab_accept(listener, &peer);
	read_exactly(server, header, sizeof(header));
	src.port = (uint16_t)(header[24] << 8 | header[25]);
	assert_int_not_equal(src.port, 0);
	assert_int_equal(cv_proxy_header_format(&src, &dst, IDENTITY, want, sizeof(want)),
			 sizeof(header));
	assert_memory_equal(header, want, sizeof(header));
	read_exactly(server, want, 5);
	assert_memory_equal(want, "early", 5);
	say(client, server, "more");
	say(server, client, "answer");
	return peer;
}

static void test_on_the_pods_address(void **state)
{
	static const struct proxylab_opts opts = { .app_tunnel = true };
	const struct cv_addr client = cv_addr_v4(0x7f000001);
	struct cv_sockaddr peer;
	struct proxylab lab;

	(void)state;
	proxylab_start(&lab, &opts);
	peer = check_tunnel(&lab, "127.0.0.2");
	/* from the client's address, on a port for legs */
	assert_true(cv_addr_eq(&peer.ip, &client));
	assert_true(peer.port >= CV_LEG_PORT_FIRST);
	proxylab_stop(&lab);
}

static void test_on_loopback(void **state)
{
	static const struct proxylab_opts opts = { .app_tunnel = true,
						   .localhost_app_tunnel = true };
	struct proxylab lab;

	(void)state;
	proxylab_start(&lab, &opts);
	check_tunnel(&lab, "127.0.0.1");
	proxylab_stop(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_on_the_pods_address),
		cmocka_unit_test(test_on_loopback),
	};

	if (proxylab_unshare()) {
		printf("1..0 # SKIP no network namespace to be had\n");
		return 4;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
