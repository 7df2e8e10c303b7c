/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment variables: one table {name, type, member, default, help}, and the values that
 * follow from several of them (worker threads, drain deadline).
 */
#include "userspace/daemon/env.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "maps/abi.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/control.h"
#include "userspace/base/quantity.h"
#include "userspace/limits.h"

enum env_type {
	ENV_STRING,
	ENV_BOOL,
	ENV_DURATION,
	ENV_UINT,
	ENV_TRISTATE, /* true, false, unset */
};

struct env_var {
	const char *name;
	enum env_type type;
	size_t offset;
	const char *def; /* NULL = unset */
	const char *help;
	uint64_t min, max; /* of a number, or of a duration in ms; max 0 = any */
	const char *empty; /* what set and empty means; NULL = the same as unset */
};

#define VAR(n, t, member, d, h, ...)                                                       \
	{                                                                                  \
		.name = n, .type = t, .offset = offsetof(struct cv_env, member), .def = d, \
		.help = h, __VA_ARGS__                                                     \
	}
#define RANGE(from, to) .min = from, .max = to
/* TCP_KEEPIDLE and TCP_KEEPINTVL take no other seconds, TCP_KEEPCNT no other number. */
#define KEEPALIVE_MS	  RANGE(1000, 32767000)
#define KEEPALIVE_RETRIES RANGE(1, 127)

static const struct env_var env_vars[] = {
	VAR("NODE_NAME", ENV_STRING, node_name, NULL, "this node; unset: every workload is local"),
	VAR("NETWORK", ENV_STRING, network, NULL, "network id of this node"),
	VAR("CLUSTER_ID", ENV_STRING, cluster_id, "Kubernetes", "cluster id"),
	VAR("ISTIO_META_CLUSTER_ID", ENV_STRING, cluster_id, NULL, "wins over CLUSTER_ID"),
	VAR("ISTIO_META_ISTIO_VERSION", ENV_STRING, istio_version, NULL, "tag of istio_build"),
	VAR("TRUST_DOMAIN", ENV_STRING, trust_domain, "cluster.local", "our own trust domain"),
	VAR("POD_NAME", ENV_STRING, pod_name, NULL, "the daemon's own pod"),
	VAR("POD_NAMESPACE", ENV_STRING, pod_namespace, NULL, "its namespace"),
	VAR("SERVICE_ACCOUNT", ENV_STRING, service_account, NULL, "its service account"),
	VAR("LOCAL_XDS_PATH", ENV_STRING, local_xds_path, NULL, "YAML file of the mesh; watched"),
	VAR("LOCAL_XDS", ENV_STRING, local_xds, NULL, "the same, inline"),
	VAR("XDS_ADDRESS", ENV_STRING, xds_address, NULL,
	    "control plane; in a cluster: istiod's; set and empty: none"),
	VAR("ALT_XDS_HOSTNAME", ENV_STRING, alt_xds_hostname, NULL,
	    "accepted in the control plane's certificate too"),
	VAR("XDS_ROOT_CA", ENV_STRING, xds_root_ca, "./var/run/secrets/istio/root-cert.pem",
	    "roots of the control plane's certificate: a file, SYSTEM or PEM"),
	VAR("XDS_ON_DEMAND", ENV_BOOL, xds_on_demand, "false",
	    "subscribe to workloads and services when a connection needs them"),
	VAR("INSTANCE_IP", ENV_STRING, instance_ip, "1.1.1.1",
	    "our address, for the control plane"),
	VAR("CA_ADDRESS", ENV_STRING, ca_address, NULL, "Istio's CA; in a cluster: istiod's"),
	VAR("ALT_CA_HOSTNAME", ENV_STRING, alt_ca_hostname, NULL,
	    "accepted in the CA's own certificate too"),
	VAR("CA_ROOT_CA", ENV_STRING, ca_root_ca, "./var/run/secrets/istio/root-cert.pem",
	    "roots of the CA's own certificate: a file, SYSTEM or PEM"),
	VAR("AUTH_TOKEN", ENV_STRING, auth_token, NULL,
	    "our token for the control plane: a file or text"),
	VAR("KUBERNETES_SERVICE_HOST", ENV_STRING, kubernetes_host, NULL, "set inside a cluster"),
	VAR("CULVERT_DEV_CA", ENV_STRING, dev_ca, NULL, "directory of the development CA"),
	VAR("SECRET_TTL", ENV_DURATION, secret_ttl_ms, "24h",
	    "certificate lifetime that is asked for; 0s: the authority's own",
	    RANGE(0, UINT64_C(3650) * 86400000)),
	VAR("CRL_PATH", ENV_STRING, crl_path, NULL,
	    "file of certificate revocation lists; watched"),
	VAR("TLS12_ENABLED", ENV_BOOL, tls12, "false", "allow TLS 1.2 too"),
	VAR("CULVERT_CONFIG", ENV_STRING, config_path, "/etc/culvert/culvert.yaml",
	    "culvert.yaml(5), optional; watched"),
	VAR("CULVERT_RUN_DIR", ENV_STRING, run_dir, CV_RUN_DIR, "sockets and state"),
	VAR("CULVERT_BPFFS", ENV_STRING, bpffs_dir, "/sys/fs/bpf/culvert", "pinned objects"),
	VAR("CULVERT_CGROUP", ENV_STRING, cgroup_dir, NULL, "cgroup v2 root; default: from /proc"),
	VAR("IPV6_ENABLED", ENV_BOOL, ipv6, "true", "listen on IPv6 too"),
	VAR("INPOD_UDS", ENV_STRING, inpod_uds, "/var/run/ztunnel/ztunnel.sock",
	    "istio-cni's socket, in ztunnel's place"),
	VAR("INPOD_PORT_REUSE", ENV_BOOL, port_reuse, "true", "SO_REUSEPORT on pod listeners"),
	VAR("ENABLE_RESPONSE_BAGGAGE", ENV_BOOL, response_baggage, "true", "baggage on answers"),
	VAR("LOCALHOST_APP_TUNNEL", ENV_BOOL, localhost_app_tunnel, "true",
	    "application tunnels (PROXY) are reached on loopback"),
	VAR("ENABLE_ORIG_SRC", ENV_TRISTATE, original_src, NULL, "keep the client's address"),
	VAR("PACKET_MARK", ENV_UINT, packet_mark, "1337", "SO_MARK of our sockets in pods",
	    RANGE(0, UINT32_MAX)),
	VAR("KEEPALIVE_ENABLED", ENV_BOOL, sock.keepalive, "true", "TCP keepalive"),
	VAR("KEEPALIVE_TIME", ENV_DURATION, keepalive_time_ms, "180s", "first probe", KEEPALIVE_MS),
	VAR("KEEPALIVE_INTERVAL", ENV_DURATION, keepalive_interval_ms, "180s", "next probes",
	    KEEPALIVE_MS),
	VAR("KEEPALIVE_RETRIES", ENV_UINT, keepalive_retries, "9", "probes before giving up",
	    KEEPALIVE_RETRIES),
	VAR("USER_TIMEOUT_ENABLED", ENV_BOOL, sock.user_timeout, "false", "TCP_USER_TIMEOUT"),
	VAR("POOL_MAX_STREAMS_PER_CONNECTION", ENV_UINT, pool_max_streams, "100",
	    "streams of one HBONE connection", RANGE(1, UINT16_MAX)),
	VAR("POOL_UNUSED_RELEASE_TIMEOUT", ENV_DURATION, pool_idle_ms, "5m",
	    "idle HBONE connections are closed after it", RANGE(0, 30 * UINT64_C(86400000))),
	VAR("CLUSTER_DOMAIN", ENV_STRING, cluster_domain, "cluster.local",
	    "domain of the cluster's names"),
	VAR("PREFERED_SERVICE_NAMESPACE", ENV_STRING, preferred_ns, NULL,
	    "DNS: whose service a host name means when several have it"),
	VAR("ISTIO_META_DNS_CAPTURE", ENV_STRING, dns_capture, "true",
	    "answer the pods' DNS queries; off unless true", .empty = "false"),
	VAR("ISTIO_META_DNS_PROXY_ADDR", ENV_STRING, dns_proxy_addr, "localhost:15053",
	    "where, in the pods: localhost:PORT or ADDRESS:PORT"),
	VAR("ZTUNNEL_WORKER_THREADS", ENV_STRING, worker_threads, NULL,
	    "worker threads: a number, 0 = all CPUs, or NN%"),
	VAR("ZTUNNEL_RESOURCE_CPU_LIMIT", ENV_STRING, cpu_limit, NULL, "Kubernetes quantity"),
	VAR("ZTUNNEL_RESOURCE_CPU_REQUEST", ENV_STRING, cpu_request, NULL, "Kubernetes quantity"),
	VAR("ZTUNNEL_CPU_LIMIT", ENV_STRING, cpu_limit_int, NULL, "CPUs, an integer"),
	VAR("CONNECTION_TERMINATION_DEADLINE", ENV_DURATION, explicit_deadline_ms, NULL,
	    "drain time at shutdown"),
	VAR("TERMINATION_GRACE_PERIOD_SECONDS", ENV_UINT, grace_s, NULL,
	    "the pod's grace period; the drain ends before it", RANGE(0, UINT32_MAX)),
	VAR("RUST_LOG", ENV_STRING, log_filter, "info", "log filter: level,target=level,…"),
	VAR("LOG_FORMAT", ENV_STRING, log_format, "plain", "plain or json"),
	VAR("AUTHZ_POLICY_INFO_LOGGING", ENV_BOOL, authz_info, "false",
	    "policy decisions at info instead of debug"),
};

#define ENV_UNSET UINT64_MAX

static int parse_bool(const char *text, bool *ret)
{
	if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
		return -EINVAL;
	*ret = text[0] == 't';
	return 0;
}

static const char *const type_hint[] = {
	[ENV_STRING] = "a text",
	[ENV_BOOL] = "`true` or `false`",
	[ENV_DURATION] = "a duration such as 5s, 2m or 1h30m",
	[ENV_UINT] = "a number",
	[ENV_TRISTATE] = "`true` or `false`",
};

static int set_string(char **member, const char *text)
{
	char *copy = *text ? strdup(text) : NULL;

	if (*text && !copy)
		return -ENOMEM;
	free(*member);
	*member = copy;
	return 0;
}

static int check_range(const struct env_var *v, uint64_t value)
{
	return v->max && (value < v->min || value > v->max) ? -ERANGE : 0;
}

static int set_value(struct cv_env *env, const struct env_var *v, const char *text)
{
	void *member = (char *)env + v->offset;
	bool flag;
	int r;

	switch (v->type) {
	case ENV_STRING:
		return set_string(member, text);
	case ENV_BOOL:
		return parse_bool(text, member);
	case ENV_DURATION:
		r = cv_duration_parse(text, member);
		return r < 0 ? r : check_range(v, *(uint64_t *)member);
	case ENV_UINT:
		r = cv_uint_parse(text, member);
		return r < 0 ? r : check_range(v, *(uint64_t *)member);
	case ENV_TRISTATE:
		r = parse_bool(text, &flag);
		if (r == 0)
			*(int *)member = flag;
		return r;
	}
	return -EINVAL;
}

/* The variable, its value, and what it may be. */
static void complain(const struct env_var *v, const char *text, char *error, size_t size)
{
	bool seconds = v->type == ENV_DURATION;
	unsigned unit = seconds ? 1000 : 1;
	int len =
		snprintf(error, size, "%s=\"%s\": expected %s", v->name, text, type_hint[v->type]);

	if (v->max && len >= 0 && (size_t)len < size)
		snprintf(error + len, size - (size_t)len, ", from %" PRIu64 "%s to %" PRIu64 "%s",
			 v->min / unit, seconds ? "s" : "", v->max / unit, seconds ? "s" : "");
}

static int read_vars(struct cv_env *env, char *error, size_t size)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(env_vars); i++) {
		const struct env_var *v = &env_vars[i];
		const char *text = getenv(v->name);

		if (!text || !*text)
			text = text && v->empty ? v->empty : v->def;
		if (!text || set_value(env, v, text) == 0)
			continue;
		complain(v, text, error, size);
		return -EINVAL;
	}
	return 0;
}

/* Without libm, which nothing else of the daemon needs. */
static double round_up(double x)
{
	double whole = (double)(unsigned)x;

	return whole < x ? whole + 1 : whole;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
}

/* ztunnel's rule: the limit, else ZTUNNEL_CPU_LIMIT, else the machine's CPUs. */
static int cpu_count(const struct cv_env *env, double *ret, char *error, size_t size)
{
	const char *text = env->cpu_limit ? env->cpu_limit : env->cpu_limit_int;
	const char *name = env->cpu_limit ? "ZTUNNEL_RESOURCE_CPU_LIMIT" : "ZTUNNEL_CPU_LIMIT";

	if (!text) {
		*ret = (double)sysconf(_SC_NPROCESSORS_ONLN);
		return 0;
	}
	if (cv_quantity_parse(text, ret) == 0 && *ret > 0) {
		*ret = round_up(*ret);
		return 0;
	}
	snprintf(error, size, "%s=\"%s\": expected a CPU quantity such as 2, 1.5 or 500m", name,
		 text);
	return -EINVAL;
}

static int default_threads(const struct cv_env *env, double cpus, double *ret, char *error,
			   size_t size)
{
	double request = 0;

	if (env->cpu_request && cv_quantity_parse(env->cpu_request, &request) < 0) {
		snprintf(
			error, size,
			"ZTUNNEL_RESOURCE_CPU_REQUEST=\"%s\": expected a CPU quantity such as 2 or 500m",
			env->cpu_request);
		return -EINVAL;
	}
	request = round_up(request);
	*ret = env->cpu_limit ? larger(cpus, request) :
				larger(larger(round_up(cpus * 0.25), request), 2);
	return 0;
}

/* ZTUNNEL_WORKER_THREADS: "0" = all CPUs, "N", or "NN%" of them, rounded up. */
static int explicit_threads(const char *text, double cpus, double *ret)
{
	char *end;
	double n = strtod(text, &end);

	if (end == text || n < 0)
		return -EINVAL;
	if (strcmp(end, "%") == 0) {
		if (n <= 0 || n > 100)
			return -EINVAL;
		*ret = larger(round_up(cpus * n / 100), 1);
		return 0;
	}
	if (*end || n != (double)(unsigned)n)
		return -EINVAL;
	*ret = n == 0 ? cpus : n;
	return 0;
}

static int derive_workers(struct cv_env *env, char *error, size_t size)
{
	double cpus, threads;
	int r = cpu_count(env, &cpus, error, size);

	if (r < 0)
		return r;
	if (!env->worker_threads) {
		r = default_threads(env, cpus, &threads, error, size);
		if (r < 0)
			return r;
	} else if (explicit_threads(env->worker_threads, cpus, &threads) < 0) {
		snprintf(
			error, size,
			"ZTUNNEL_WORKER_THREADS=\"%s\": expected a number, or a percentage up to 100%%",
			env->worker_threads);
		return -EINVAL;
	}
	env->nr_workers = threads > CV_LIMIT_WORKERS ? CV_LIMIT_WORKERS : (unsigned)threads;
	return 0;
}

static void derive_deadline(struct cv_env *env)
{
	if (env->explicit_deadline_ms != ENV_UNSET)
		env->termination_deadline_ms = env->explicit_deadline_ms;
	else if (env->grace_s == ENV_UNSET)
		env->termination_deadline_ms = 5000;
	else if (env->grace_s > 10)
		env->termination_deadline_ms = (env->grace_s - 5) * 1000;
	else
		env->termination_deadline_ms = (env->grace_s > 1 ? env->grace_s - 1 : 1) * 1000;
}

/* localhost: both families' loopback; IPv6 only where it is enabled. */
static int derive_dns(struct cv_env *env, char *error, size_t size)
{
	const char *text = env->dns_proxy_addr;
	size_t prefix = strlen(CV_ENV_LOCALHOST);
	bool both = strncmp(text, CV_ENV_LOCALHOST, prefix) == 0;
	char loopback[32];

	if (both) {
		snprintf(loopback, sizeof(loopback), "127.0.0.1:%s", text + prefix);
		text = loopback;
	}
	if (cv_sockaddr_parse(text, &env->dns_addrs[0]) < 0) {
		snprintf(
			error, size,
			"ISTIO_META_DNS_PROXY_ADDR=\"%s\": expected localhost:PORT or ADDRESS:PORT",
			both ? env->dns_proxy_addr : text);
		return -EINVAL;
	}
	(void)cv_addr_parse("::1", &env->dns_addrs[1].ip); /* a constant */
	env->dns_addrs[1].port = env->dns_addrs[0].port;
	if (strcasecmp(env->dns_capture, "true") == 0)
		env->nr_dns_addrs = both && env->ipv6 ? 2 : 1;
	if (env->nr_dns_addrs && env->xds_on_demand) {
		snprintf(error, size,
			 "XDS_ON_DEMAND=\"true\": the DNS proxy needs to know all names: set "
			 "ISTIO_META_DNS_CAPTURE to false beside it");
		return -EINVAL;
	}
	return 0;
}

int cv_env_read(struct cv_env *ret, char *error, size_t size)
{
	int r;

	*ret = (struct cv_env){
		.original_src = -1,
		.explicit_deadline_ms = ENV_UNSET,
		.grace_s = ENV_UNSET,
	};
	r = cv_env_apply_config(CV_MESH_CONFIG, &ret->ports, error, size);
	if (r == 0)
		r = cv_env_check_fixed(error, size);
	if (r == 0)
		r = read_vars(ret, error, size);
	if (r == 0)
		r = derive_workers(ret, error, size);
	if (r == 0)
		r = derive_dns(ret, error, size);
	if (r == 0)
		r = cv_env_derive_sources(ret, error, size);
	if (r < 0) {
		cv_env_fini(ret);
		return r;
	}
	derive_deadline(ret);
	if (!ret->ports.admin)
		ret->ports.admin = 15000;
	if (!ret->ports.metrics)
		ret->ports.metrics = 15020;
	ret->sock.keepalive_time_s = (unsigned)(ret->keepalive_time_ms / 1000);
	ret->sock.keepalive_interval_s = (unsigned)(ret->keepalive_interval_ms / 1000);
	ret->sock.keepalive_retries = (unsigned)ret->keepalive_retries;
	ret->sock.mark = (uint32_t)ret->packet_mark;
	return 0;
}

void cv_env_fini(struct cv_env *env)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(env_vars); i++)
		if (env_vars[i].type == ENV_STRING)
			cv_free_cleanup((char *)env + env_vars[i].offset);
	cv_env_headers_fini(&env->ca_headers);
	cv_env_headers_fini(&env->xds_headers);
}

void cv_env_print_help(FILE *out)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(env_vars); i++)
		fprintf(out, "  %-33s %s%s%s%s\n", env_vars[i].name, env_vars[i].help,
			env_vars[i].def ? " [" : "", env_vars[i].def ? env_vars[i].def : "",
			env_vars[i].def ? "]" : "");
	cv_env_print_fixed(out);
}
