/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC client fed with a server's bytes: SETTINGS first, so that what follows is looked at. Every
 * call ends exactly once. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/proto/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct owner {
	struct cv_grpc_call *call;
	size_t left; /* of the message */
	unsigned ends;
};

static int on_write(void *conn, const uint8_t *data, size_t len)
{
	(void)conn;
	(void)data;
	(void)len;
	return 0;
}

static size_t on_room(void *conn)
{
	(void)conn;
	return SIZE_MAX;
}

static int on_message(void *arg, size_t len)
{
	struct owner *o = arg;

	assert(!o->left && !o->ends);
	if (len > 1 << 20)
		return -1;
	o->left = len;
	return 0;
}

static void on_data(void *arg, const uint8_t *data, size_t len)
{
	struct owner *o = arg;

	(void)data;
	assert(len && len <= o->left && !o->ends);
	o->left -= len;
	if (len % 3)
		cv_grpc_consume(o->call, len);
}

static void on_message_end(void *arg)
{
	struct owner *o = arg;

	assert(!o->left && !o->ends);
}

static void on_end(void *arg, int status, const char *text)
{
	struct owner *o = arg;

	assert(status >= 0 && text);
	assert(!o->ends++);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const struct cv_grpc_ops ops = { on_write, on_room };
	static const struct cv_grpc_call_ops call_ops = { on_message, on_data, on_message_end,
							  on_end };
	static const uint8_t settings[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0 };
	struct owner owners[3] = {};
	struct cv_grpc *g;

	assert(cv_grpc_new(&g, &ops, NULL, "a:1", true, 0) == 0);
	for (size_t i = 0; i < CV_ARRAY_SIZE(owners); i++) {
		assert(cv_grpc_call(g, "/a/b", NULL, 0, &call_ops, &owners[i], &owners[i].call) ==
		       0);
		assert(cv_grpc_send(owners[i].call, (const uint8_t *)"x", 1) == 0);
	}
	(void)cv_grpc_output(g);
	(void)cv_grpc_input(g, settings, sizeof(settings), 0);
	for (size_t at = 0, n; at < len; at += n) {
		n = len - at < 37 ? len - at : 37;
		if (cv_grpc_input(g, data + at, n, at) < 0 || cv_grpc_output(g) < 0)
			break;
	}
	cv_grpc_free(&g, "gone");
	for (size_t i = 0; i < CV_ARRAY_SIZE(owners); i++)
		assert(owners[i].ends == 1);
	return 0;
}
