/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole proxy in one process, on loopback: a store, certificates, two workers and one pod
 * whose record has 127.0.0.1 and 127.0.0.2, so that it is client and server of its own HBONE.
 *
 * Runs in a network namespace of its own, without root where user namespaces are allowed. The
 * calling thread is the test; control and workers are threads.
 */
#pragma once

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "userspace/proxy/lane.h"

enum { LAB_WORKERS = 2 };

struct proxylab {
	struct cv_worker *control, *workers[LAB_WORKERS];
	struct cv_store *store;
	struct cv_telemetry *telemetry;
	struct cv_certs *certs;
	struct cv_netns netns;
	struct cv_proxy *proxy;
	struct cv_proxy_pod *pod;
	struct cv_workload *workload; /* what proxylab_add_workload put in; a reference */
	char ca_dir[64];
	bool app_tunnel; /* as asked for */
};

/* Enters a namespace with lo up. -errno: cannot be had here, skip. */
int proxylab_unshare(void);

struct proxylab_opts {
	unsigned pool_max_streams; /* 0 = 100 */
	unsigned pool_idle_ms; /* 0 = an hour */
	unsigned max_connections; /* 0 = the default */
	bool no_workload; /* the pod has no record yet */
	bool app_tunnel; /* its application takes the PROXY header … */
	bool localhost_app_tunnel; /* … on loopback, whatever address was asked for */
	bool dns; /* with a DNS proxy on 127.0.0.1:15053 */
};
void proxylab_start(struct proxylab *lab, const struct proxylab_opts *opts);
/* Asserts that no connection, no fd and no interned string is left. */
void proxylab_stop(struct proxylab *lab);

/* Runs fn(arg) on a worker and waits for it. */
void proxylab_run(struct cv_worker *w, void (*fn)(void *arg), void *arg);

void proxylab_add_workload(struct proxylab *lab);
/* Replaces the policies by one that denies this identity or port (0 = any); NULL removes it. */
void proxylab_deny(struct proxylab *lab, const char *principal, uint16_t port);
void proxylab_allow_all(struct proxylab *lab);
void proxylab_stop_pod(struct proxylab *lab);
void proxylab_close_listeners(struct proxylab *lab);
/* Begins a drain; `done` is posted at its end. */
void proxylab_drain(struct proxylab *lab, unsigned deadline_ms, sem_t *done);
/* 0, -ETIMEDOUT after five seconds. */
int proxylab_sem_wait(sem_t *done);

/* A listening socket, blocking with a timeout. */
int proxylab_listen(const char *ip, uint16_t port);
int proxylab_accept(int fd, struct cv_sockaddr *ret_peer);
/* A client socket whose other end was given to worker `w` as a captured connection to ip:port. */
int proxylab_outbound(struct proxylab *lab, unsigned w, const char *ip, uint16_t port);
/* The same as an inbound plain connection of client_ip. */
int proxylab_plain(struct proxylab *lab, unsigned w, const char *client_ip, const char *ip,
		   uint16_t port);
int proxylab_plain_from(struct proxylab *lab, unsigned w, const char *client_ip,
			uint16_t client_port, const char *ip, uint16_t port);
/* 0 or -errno of connect(). */
int proxylab_try_connect(const char *ip, uint16_t port);
struct cv_proxy_stats proxylab_stats(struct proxylab *lab);
/* Waits up to five seconds for a condition. */
bool proxylab_wait(bool (*is_true)(void *arg), void *arg);
unsigned proxylab_count_fds(void);
