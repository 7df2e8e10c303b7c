/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes to the daemon's own servers, over real sockets: the first byte of the input chooses admin,
 * metrics, readiness or the control socket, the rest is sent, then the end. Whatever comes, the
 * server closes or answers, and lives.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "selftests/lib/scratch.h"
#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "fuzz"
#include "userspace/base/log.h"
#include "userspace/ctl/ctl.h"
#include "userspace/daemon/control_socket.h"
#include "userspace/telemetry/telemetry.h"

enum { PATIENCE_MS = 10000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct cv_worker *worker;
static struct cv_telemetry *telemetry;
static struct cv_store *store;
static struct cv_control_socket *control;
static char dir[64];
static _Atomic bool started;

static void echo(struct cv_control_request *req, void *arg)
{
	(void)arg;
	cv_control_answer(&req, json_incref(req->args));
}

static const struct cv_control_command commands[] = { { "echo", echo } };

static void start_servers(void *arg)
{
	const struct cv_control_ops ops = { commands, CV_ARRAY_SIZE(commands), NULL };
	const struct cv_http_opts http = { .control = worker, .store = store };

	(void)arg;
	if (cv_http_start(telemetry, &http) < 0 ||
	    cv_control_socket_start(&control, worker, dir, &ops) < 0)
		abort();
	started = true;
}

static void stop_servers(void *arg)
{
	(void)arg;
	cv_http_stop(telemetry);
	cv_control_socket_stop(&control);
}

static void finish(void)
{
	char path[96];

	cv_worker_post(worker, stop_servers, NULL);
	cv_worker_stop(&worker);
	cv_store_free(&store);
	cv_telemetry_free(&telemetry);
	snprintf(path, sizeof(path), "%s/control.lock", dir);
	unlink(path);
	rmdir(dir);
}

static void start(void)
{
	const struct cv_telemetry_opts topts = {};
	const struct cv_store_opts sopts = {};

	cv_log_filter_add("off", true);
	if (scratch_dir(dir, sizeof(dir)) || cv_telemetry_new(&telemetry, &topts) < 0 ||
	    cv_store_new(&store, &sopts) < 0 || cv_worker_start(&worker, 0) < 0)
		abort();
	cv_worker_post(worker, start_servers, NULL);
	while (!started)
		usleep(1000);
	atexit(finish);
}

static int dial(uint8_t which)
{
	struct cv_sockaddr a = {};
	struct sockaddr_storage ss;
	socklen_t len;
	int fd;

	if (which % 4 == 3)
		return cv_ctl_connect(dir);
	a.port = cv_http_port(telemetry, which % 4);
	a.ip = cv_addr_v4(0x7f000001);
	len = cv_sockaddr_to_native(&a, &ss);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&ss, len) < 0)
		cv_close(&fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pollfd p = { .events = POLLIN };
	char buf[65536];

	if (!telemetry)
		start();
	if (size < 2)
		return 0;
	p.fd = dial(data[0]);
	if (p.fd < 0)
		abort();
	(void)send(p.fd, data + 1, size - 1, MSG_NOSIGNAL); /* it may have hung up by now */
	shutdown(p.fd, SHUT_WR);
	do {
		if (poll(&p, 1, PATIENCE_MS) != 1)
			abort(); /* neither an answer nor an end */
	} while (recv(p.fd, buf, sizeof(buf), 0) > 0);
	close(p.fd);
	return 0;
}
