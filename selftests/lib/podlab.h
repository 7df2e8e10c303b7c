/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node with pods for tests of the kernel plane, and a daemon that only listens.
 *
 *      a        b        c        pods, enrolled: 10.88.0.1, .2, .3 and fd88::1, ::2, ::3
 *      |        |        |
 *      +------ node -----+        the node's own namespace: its sockets count as the host's
 *               |
 *               w                 another machine: 10.99.0.1 and fd99::1
 *
 * Everybody runs an application on LAB_PORT. The test process is the daemon: it holds the three
 * listeners of each pod and never accepts by itself, so a test sees who was dialled. Single
 * threaded; names hold CV_RUN; the programs are attached to a cgroup of the run's own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "loader/loader.h"
#include "loader/tables.h"
#include "userspace/base/addr.h"
#include "userspace/io/netns.h"

enum {
	LAB_PORT = 8080, /* the applications */
	LAB_WAIT_MS = 30000, /* longest wait for what should happen */
	LAB_QUIET_MS = 300, /* how long something that must not happen is given */
};

enum { V4, V6, FAMILIES }; /* of a host's addresses */
enum { TCP_SYN_FLAG = 0x02, TCP_ACK_FLAG = 0x10, TCP_PSH_ACK_FLAGS = 0x18 };

enum lab_who { LAB_A, LAB_B, LAB_C, LAB_PODS, LAB_NODE = LAB_PODS, LAB_WIRE, LAB_NR };

struct lab_host {
	char netns_name[64];
	struct cv_netns ns;
	uint32_t pod; /* number; 0 = not a pod */
	struct cv_addr ip[FAMILIES];
	int app; /* listener of the application */
	int listeners[CV_LISTENER_NR]; /* of the daemon; -1 = closed */
};

struct lab {
	struct cv_bpf *bpf;
	struct lab_host host[LAB_NR];
	char cgroup[128]; /* directory */
	uint64_t cgroup_id;
	char bpffs[96];
	uint64_t reasons[CV_REASON_NR]; /* at the last lab_mark */
};

/* Who got a connection. */
enum lab_got { LAB_NOBODY = -1, LAB_OUTBOUND, LAB_INBOUND, LAB_HBONE, LAB_APP };

/* Both end the process with a message when the machine does not let them; tests want root. */
void lab_up(struct lab *lab);
void lab_down(struct lab *lab);
/* As after a fresh enrolment: all listeners up, no verdicts, fast path on. */
void lab_reset(struct lab *lab);
/* Removes all flow records and attested entries. */
void lab_forget(struct lab *lab);
/* Both, for cmocka: the lab is the tests' state. */
int lab_set_up(void **state);
int lab_tear_down(void **state);
/* Runs a shell script in the host's namespace; 0 or its exit status. */
int lab_sh(const struct lab_host *h, const char *script);

void lab_control(struct lab *lab, uint32_t flags, bool host_is_pods);
void lab_verdict(struct lab *lab, enum lab_who src, enum lab_who dst, enum cv_answer answer);
void lab_listen(struct lab *lab, enum lab_who who, enum cv_listener slot);
void lab_unlisten(struct lab *lab, enum lab_who who, enum cv_listener slot);
/* Attaches a pod that is not, or keeps what is. */
void lab_enrol(struct lab *lab, enum lab_who who);
void lab_capture(struct lab *lab, enum lab_who who, bool on);

/* Counters since the last mark. */
void lab_mark(struct lab *lab);
uint64_t lab_count(struct lab *lab, enum cv_reason reason);
/* Until the counter has grown; false after LAB_WAIT_MS. */
bool lab_counts(struct lab *lab, enum cv_reason reason);

/* Sockets in the host's namespace, non-blocking. Negative: -errno. */
int lab_socket(const struct lab_host *h, int family, int type);
int lab_listener(const struct lab_host *h, uint16_t port);
/* Starts connect(); 0, -EINPROGRESS or -errno. */
int lab_connect_start(int fd, const struct cv_addr *ip, uint16_t port);
/* Waits for the end of it; 0 or -errno, -ETIMEDOUT after wait_ms. */
int lab_connect_end(int fd, int wait_ms);
/* A connected socket or -errno: connect() from h, given LAB_WAIT_MS. */
int lab_connect(const struct lab_host *h, const struct cv_addr *ip, uint16_t port);
int lab_bind(int fd, const struct cv_addr *ip, uint16_t port);

/* For IPV6_RTHDR: a segment routing header, first to `ip`, then to the destination. */
enum { LAB_SOURCE_ROUTE = 40 };
void lab_source_route(uint8_t rthdr[LAB_SOURCE_ROUTE], const struct cv_addr *ip);

/* A socket that is bound to an address which need not be the host's. */
int lab_foreign_socket(const struct lab_host *h, const struct cv_addr *ip, uint16_t port);

/* Takes the next connection that any listener of the host got within wait_ms. */
enum lab_got lab_accept(const struct lab_host *h, int wait_ms, int *ret_fd);
/* Sends text one way; true when it arrives at `to`. */
bool lab_says(int from, int to, const char *text);
/* Both ways. */
bool lab_talks(int x, int y);
/* 0 = end of file, >0 bytes, or -errno; -ETIMEDOUT when nothing came in wait_ms. */
int lab_read(int fd, int wait_ms);
int lab_tcp_state(int fd);
struct cv_sockaddr lab_local(int fd);
struct cv_sockaddr lab_peer(int fd);
bool lab_is(struct cv_sockaddr got, const struct cv_addr *ip, uint16_t port);
/* A key of cv_attested; ports in host order. */
struct cv_tuple lab_make_tuple(const struct cv_addr *src, uint16_t sport, const struct cv_addr *dst,
			       uint16_t dport);
/* The key that cv_attested has for the connection of the initiator fd. */
struct cv_tuple lab_tuple(int fd);

/* A tap on eth0 of a host (both directions); lab_tap_count empties it and counts the TCP
 * packets with this source address, extension headers or not. */
int lab_tap(const struct lab_host *h);
int lab_tap_count(int tap, const struct cv_addr *src);
/* … and how many were segments of this connection's responder to its initiator. */
int lab_tap_answers(int tap, const struct cv_tuple *tuple);
/* Sends a packet from eth0 of a host to its gateway: ethertypes and network header onwards are the
 * caller's, proto is what the packet socket claims. 0 or -errno. */
int lab_send_packet(const struct lab *lab, const struct lab_host *h, uint16_t proto,
		    const void *packet, size_t len);
/* Writes ethertype, IPv4 or IPv6 header, TCP header with these flags, and payload; returns the
 * length, LAB_SEGMENT_MAX and the payload at most. */
size_t lab_segment(uint8_t *buf, const struct cv_tuple *tuple, uint8_t tcp_flags, uint32_t seq,
		   size_t payload);
enum { LAB_SEGMENT_MAX = 2 + 40 + 20 };
/* Sends one from eth0 of a host; that TC drops it is no error. */
void lab_send_segment(const struct lab *lab, const struct lab_host *from, const struct cv_tuple *t,
		      uint8_t tcp_flags, size_t payload);
