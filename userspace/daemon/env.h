/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment: ztunnel's variables with ztunnel's names, defaults and rules, and culvert's
 * own. Read once at start; a value that cannot be used is an error that names variable, value
 * and what to do. The table in env.c is the one list: --help and culvertd(8) follow it.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/strs.h"
#include "userspace/daemon/env_config.h"
#include "userspace/io/sock.h"
#include "userspace/proto/grpc.h"

/* Extra metadata of a channel: the variables of one prefix, names in lower case. */
struct cv_env_headers {
	struct cv_grpc_header *list;
	size_t n;
};
void cv_env_headers_fini(struct cv_env_headers *h);

/* The loopback of both families, followed by a port. */
#define CV_ENV_LOCALHOST "localhost:"

/* Strings are copies owned by the struct; NULL = unset or empty. Durations in milliseconds. */
struct cv_env {
	/* who we are */
	char *node_name, *network, *cluster_id, *trust_domain;
	char *pod_name, *pod_namespace, *service_account;
	char *istio_version; /* ISTIO_META_ISTIO_VERSION */
	/* where workloads and certificates come from */
	char *local_xds_path, *local_xds, *xds_address, *ca_address, *kubernetes_host;
	char *alt_ca_hostname, *ca_root_ca, *alt_xds_hostname, *xds_root_ca, *auth_token;
	char *instance_ip;
	bool xds_on_demand;
	struct cv_env_headers ca_headers, xds_headers; /* CA_HEADER_*, XDS_HEADER_* */
	char *dev_ca; /* CULVERT_DEV_CA */
	uint64_t secret_ttl_ms;
	char *crl_path;
	bool tls12;
	/* culvert's own places */
	char *config_path, *run_dir, *bpffs_dir, *cgroup_dir;
	/* in ztunnel's place (`proxy ztunnel` on the command line, not the environment) */
	bool drop_in;
	char *inpod_uds;
	struct cv_env_ports ports; /* of the mesh config file or PROXY_CONFIG; else the usual */
	/* data path */
	bool ipv6, port_reuse, response_baggage, localhost_app_tunnel;
	int original_src; /* 1 must, 0 never, -1 best effort */
	struct cv_sock_config sock;
	uint64_t packet_mark;
	uint64_t keepalive_time_ms, keepalive_interval_ms, keepalive_retries;
	uint64_t pool_max_streams, pool_idle_ms;
	/* DNS proxy */
	char *cluster_domain, *preferred_ns;
	char *dns_capture, *dns_proxy_addr; /* ISTIO_META_DNS_CAPTURE, ISTIO_META_DNS_PROXY_ADDR */
	struct cv_sockaddr dns_addrs[2]; /* derived: where it listens */
	unsigned nr_dns_addrs; /* 0 = it is off */
	/* threads and shutdown */
	char *worker_threads, *cpu_limit, *cpu_request, *cpu_limit_int;
	unsigned nr_workers; /* derived */
	uint64_t termination_deadline_ms; /* derived */
	uint64_t explicit_deadline_ms, grace_s;
	/* log */
	char *log_filter, *log_format;
	bool authz_info;
};

/* Fills ret from the process's environment. 0, or -EINVAL with one line in error. */
int cv_env_read(struct cv_env *ret, char *error, size_t size);
/* The part of it that says where workloads and certificates come from. */
int cv_env_derive_sources(struct cv_env *env, char *error, size_t size);
void cv_env_fini(struct cv_env *env);
/* The `config` member of config_dump: ztunnel's keys for what both have. New reference. */
json_t *cv_env_json(const struct cv_env *env);
/* The table as text for --help. */
void cv_env_print_help(FILE *out);
