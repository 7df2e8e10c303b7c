/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between culvertctl and culvertd, over a Unix SOCK_SEQPACKET socket.
 *
 * A request is one message: a JSON object with a string member `command`, its arguments
 * beside it, and at most one file descriptor. The answer is a JSON object cut into messages,
 * each with one byte in front that says whether more follows: {"result": …} or
 * {"error": "text"}. A client may send its next request after the last message.
 *
 * Commands, their arguments (? = optional) and what `result` is:
 *   workloads, services, policies, certificates   array, as in config_dump
 *   connections, flows   array, userspace/telemetry/connections.c
 *   status               object, userspace/ctl/status.c
 *   logging              level?, reset? -> {"level": "filter in force"}
 *   pod-add              namespace, name, netnsPath, serviceAccount?, uid?, and the fd of
 *                        the network namespace -> the pod, as in pod-list
 *   pod-del              namespace, name -> {} once nothing of the pod is left
 *   explain              from (namespace/name), to (ip:port) -> object, userspace/node/explain.h
 *                        with `from` as asked
 *   pod-list             array of {namespace, name, uid, number, serviceAccount, addresses,
 *                        netns, pending}
 */
#pragma once

#define CV_CONTROL_SOCKET   "control.sock" /* in CULVERT_RUN_DIR */
#define CV_RUN_DIR	    "/run/culvert" /* its default, and where it cannot be made: */
#define CV_RUN_DIR_FALLBACK "/tmp/culvert" /* … the one in ztunnel's place */
#define CV_CONTROL_MORE	    '+' /* first byte of an answer's message: more follows */
#define CV_CONTROL_LAST	    '.' /* … that was all */

enum {
	CV_CONTROL_CHUNK = 65536, /* longest message of an answer, first byte included */
};
