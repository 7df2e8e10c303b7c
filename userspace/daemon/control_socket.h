/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: RUN_DIR/control.sock, for root (and whoever runs the daemon) alone.
 *
 * It speaks userspace/base/control.h and knows no command: the daemon gives a table of them.
 * Clients, message sizes and idle time are bounded. Control thread only.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "userspace/io/worker.h"

/* One request on its way to an answer. It lives until it is answered or refused, which may
 * be later than the handler's return; a client that went away meanwhile does no harm. */
struct cv_control_request {
	const char *command;
	json_t *args; /* the whole request object, borrowed */
	int fd; /* the descriptor that came along, -1 = none; closed with the request unless taken */
};

/* Exactly one of these per request; both clear *req. data: reference moves, NULL = {}. */
void cv_control_answer(struct cv_control_request **req, json_t *data);
void cv_control_refuse(struct cv_control_request **req, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* A string argument; NULL when it is missing, empty or no string. */
const char *cv_control_string(const struct cv_control_request *req, const char *name);

struct cv_control_command {
	const char *name;
	void (*handle)(struct cv_control_request *req, void *arg);
};

struct cv_control_ops {
	const struct cv_control_command *commands; /* outlives the socket */
	size_t nr_commands;
	void *arg;
};

struct cv_control_socket;

/* Makes run_dir (0700) when missing. -EADDRINUSE: a live daemon has this directory; the socket
 * of a dead one is replaced. -EPERM: the directory belongs to somebody else. */
int cv_control_socket_start(struct cv_control_socket **ret, struct cv_worker *control,
			    const char *run_dir, const struct cv_control_ops *ops);
/* Closes every client and removes the socket. Requests that are not answered yet stay valid
 * and are answered into nothing. NULL is fine. */
void cv_control_socket_stop(struct cv_control_socket **s);
