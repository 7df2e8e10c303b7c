/* SPDX-License-Identifier: Apache-2.0 */
/* The environment: defaults and derived values are ztunnel's, and a value that cannot be used is
 * refused by a text that names variable and value. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/control.h"
#include "userspace/daemon/env.h"
#include "userspace/daemon/env_metadata.h"

struct setting {
	const char *name, *value;
};

/* A clean environment with a source of workloads and a CA, and the row's own settings. */
static void set_env(const struct setting *settings)
{
	clearenv();
	setenv("LOCAL_XDS_PATH", "/mesh.yaml", 1);
	setenv("CULVERT_DEV_CA", "/ca", 1);
	for (; settings && settings->name; settings++)
		setenv(settings->name, settings->value, 1);
}

static void test_defaults(void **state)
{
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(NULL);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	assert_string_equal(env.cluster_id, "Kubernetes");
	assert_string_equal(env.run_dir, "/run/culvert");
	assert_string_equal(env.bpffs_dir, "/sys/fs/bpf/culvert");
	assert_int_equal(env.secret_ttl_ms, 86400000);
	assert_int_equal(env.pool_max_streams, 100);
	assert_int_equal(env.pool_idle_ms, 300000);
	assert_int_equal(env.sock.mark, 0x539);
	assert_int_equal(env.sock.keepalive_time_s, 180);
	assert_int_equal(env.termination_deadline_ms, 5000);
	assert_int_equal(env.original_src, -1);
	assert_true(env.ipv6);
	cv_env_fini(&env);
}

static void test_dns(void **state)
{
	static const struct {
		struct setting settings[3];
		const char *listen; /* joined by a blank; "" = off */
	} rows[] = {
		{ { { NULL, NULL } }, "127.0.0.1:15053 [::1]:15053" },
		{ { { "IPV6_ENABLED", "false" } }, "127.0.0.1:15053" },
		{ { { "ISTIO_META_DNS_CAPTURE", "TRUE" } }, "127.0.0.1:15053 [::1]:15053" },
		{ { { "ISTIO_META_DNS_CAPTURE", "false" } }, "" },
		{ { { "ISTIO_META_DNS_CAPTURE", "" } }, "" },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "localhost:53" } }, "127.0.0.1:53 [::1]:53" },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "127.0.0.2:99" } }, "127.0.0.2:99" },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "[::1]:99" } }, "[::1]:99" },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "localhost" } }, NULL },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "localhost:0x35" } }, NULL },
		{ { { "ISTIO_META_DNS_PROXY_ADDR", "" } }, "127.0.0.1:15053 [::1]:15053" },
	};
	char error[512], text[2 * CV_SOCKADDR_TEXT], one[CV_SOCKADDR_TEXT];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_env env;
		size_t len = 0;
		int r;

		set_env(rows[i].settings);
		r = cv_env_read(&env, error, sizeof(error));
		if (!rows[i].listen) {
			assert_int_equal(r, -EINVAL);
			assert_non_null(strstr(error, "ISTIO_META_DNS_PROXY_ADDR"));
			continue;
		}
		assert_int_equal(r, 0);
		text[0] = '\0';
		for (unsigned j = 0; j < env.nr_dns_addrs; j++)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
						j ? " " : "",
						cv_sockaddr_text(&env.dns_addrs[j], one));
		assert_string_equal(text, rows[i].listen);
		cv_env_fini(&env);
	}
}

/* Worker threads and the drain deadline follow from several variables. */
static void test_derived(void **state)
{
	static const struct {
		struct setting settings[4];
		unsigned workers; /* 0 = not looked at */
		uint64_t deadline_ms;
	} rows[] = {
		{ { { "ZTUNNEL_WORKER_THREADS", "3" } }, 3, 5000 },
		{ { { "ZTUNNEL_WORKER_THREADS", "0" }, { "ZTUNNEL_CPU_LIMIT", "5" } }, 5, 5000 },
		{ { { "ZTUNNEL_WORKER_THREADS", "50%" }, { "ZTUNNEL_CPU_LIMIT", "5" } }, 3, 5000 },
		{ { { "ZTUNNEL_RESOURCE_CPU_LIMIT", "2500m" } }, 3, 5000 },
		{ { { "ZTUNNEL_RESOURCE_CPU_LIMIT", "2" },
		    { "ZTUNNEL_RESOURCE_CPU_REQUEST", "4" } },
		  4,
		  5000 },
		{ { { "ZTUNNEL_CPU_LIMIT", "4" } }, 2, 5000 },
		{ { { "ZTUNNEL_CPU_LIMIT", "4" }, { "ZTUNNEL_RESOURCE_CPU_REQUEST", "2500m" } },
		  3,
		  5000 },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "30" } }, 0, 25000 },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "10" } }, 0, 9000 },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "1" } }, 0, 1000 },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "010" } }, 0, 9000 },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "30" },
		    { "CONNECTION_TERMINATION_DEADLINE", "1m" } },
		  0,
		  60000 },
	};
	char error[512];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_env env;

		set_env(rows[i].settings);
		assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
		if (rows[i].workers)
			assert_int_equal(env.nr_workers, rows[i].workers);
		assert_int_equal(env.termination_deadline_ms, rows[i].deadline_ms);
		cv_env_fini(&env);
	}
}

/* Each text names the variable; where a value is at fault, the value too. */
static void test_refused(void **state)
{
	static const struct {
		struct setting settings[3];
		const char *text[2];
	} rows[] = {
		{ { { "IPV6_ENABLED", "yes" } }, { "IPV6_ENABLED", "yes" } },
		{ { { "SECRET_TTL", "soon" } }, { "SECRET_TTL", "soon" } },
		{ { { "POOL_MAX_STREAMS_PER_CONNECTION", "-1" } },
		  { "POOL_MAX_STREAMS_PER_CONNECTION", "-1" } },
		{ { { "POOL_MAX_STREAMS_PER_CONNECTION", "0" } }, { "\"0\"", "from 1 to 65535" } },
		{ { { "PACKET_MARK", "4294967296" } }, { "PACKET_MARK", "4294967295" } },
		{ { { "PACKET_MARK", "0x539" } }, { "PACKET_MARK", "0x539" } },
		{ { { "PACKET_MARK", " 5" } }, { "PACKET_MARK", " 5" } },
		{ { { "SECRET_TTL", "7200w" } }, { "SECRET_TTL", "7200w" } },
		{ { { "HTTP2_FRAME_SIZE", "x" } }, { "HTTP2_FRAME_SIZE", "a number" } },
		{ { { "HTTP2_STREAM_WINDOW_SIZE", "-1" } }, { "HTTP2_STREAM_WINDOW_SIZE", "-1" } },
		{ { { "HTTP2_CONNECTION_WINDOW_SIZE", "4294967296" } },
		  { "HTTP2_CONNECTION_WINDOW_SIZE", "4294967296" } },
		{ { { "XDS_HEADER_", "x" } }, { "XDS_HEADER_=\"x\"", "XDS_HEADER_NAME" } },
		{ { { "XDS_HEADER_a b", "x" } }, { "XDS_HEADER_a b=\"x\"", "name of a header" } },
		{ { { "CA_HEADER_a-BIN", "x" } }, { "CA_HEADER_a-BIN", "-bin" } },
		{ { { "CA_HEADER_a", "x\ny" } }, { "CA_HEADER_a", "printable" } },
		{ { { "CA_HEADER_a", "\xc3\xa9" } }, { "CA_HEADER_a", "printable" } },
		{ { { "KEEPALIVE_RETRIES", "128" } }, { "KEEPALIVE_RETRIES", "from 1 to 127" } },
		{ { { "KEEPALIVE_TIME", "0s" } }, { "KEEPALIVE_TIME", "from 1s to 32767s" } },
		{ { { "KEEPALIVE_INTERVAL", "10h" } }, { "KEEPALIVE_INTERVAL", "10h" } },
		{ { { "TERMINATION_GRACE_PERIOD_SECONDS", "18446744073709551" } },
		  { "TERMINATION_GRACE_PERIOD_SECONDS", "4294967295" } },
		{ { { "ZTUNNEL_WORKER_THREADS", "101%" } }, { "ZTUNNEL_WORKER_THREADS", "101%" } },
		{ { { "ZTUNNEL_WORKER_THREADS", "two" } }, { "ZTUNNEL_WORKER_THREADS", "two" } },
		{ { { "ZTUNNEL_RESOURCE_CPU_LIMIT", "many" } },
		  { "ZTUNNEL_RESOURCE_CPU_LIMIT", "many" } },
		{ { { "LOCAL_XDS", "workloads: []" } }, { "LOCAL_XDS_PATH", "LOCAL_XDS" } },
		{ { { "CA_ADDRESS", "istiod:15012" } }, { "CULVERT_DEV_CA", "CA_ADDRESS" } },
		{ { { "XDS_ADDRESS", "istiod:15012" } }, { "CULVERT_DEV_CA", "XDS_ADDRESS" } },
		{ { { "KUBERNETES_SERVICE_HOST", "10.0.0.1" } },
		  { "CULVERT_DEV_CA", "KUBERNETES_SERVICE_HOST" } },
		{ { { "LOCAL_XDS_PATH", "" } }, { "LOCAL_XDS_PATH", "workloads" } },
		{ { { "CULVERT_DEV_CA", "" } }, { "CULVERT_DEV_CA", "certificate" } },
		{ { { "XDS_ON_DEMAND", "true" } }, { "XDS_ON_DEMAND", "true" } },
		{ { { "LOCAL_XDS_PATH", "" }, { "XDS_ADDRESS", "" } },
		  { "XDS_ADDRESS", "LOCAL_XDS_PATH" } },
		{ { { "ENABLE_PROXY", "false" } }, { "ENABLE_PROXY", "false" } },
		{ { { "PROXY_MODE", "dedicated" } }, { "PROXY_MODE", "dedicated" } },
		{ { { "FAKE_CA", "true" } }, { "FAKE_CA", "CULVERT_DEV_CA" } },
		{ { { "UNSTABLE_ENABLE_SOCKS5", "true" } }, { "UNSTABLE_ENABLE_SOCKS5", "true" } },
		{ { { "COMPLIANCE_POLICY", "pqc" } }, { "COMPLIANCE_POLICY", "pqc" } },
		{ { { "PROXY_CONFIG", "concurrency: many" } },
		  { "PROXY_CONFIG:1", "concurrency" } },
		{ { { "PROXY_CONFIG", "[" } }, { "PROXY_CONFIG:2", "YAML" } },
		{ { { "PROXY_CONFIG", "[]" } }, { "PROXY_CONFIG", "1" } },
		{ { { "PROXY_CONFIG", "proxyMetadata: {'a=b': c}" } }, { "PROXY_CONFIG", "name" } },
		{ { { "PROXY_CONFIG", "proxyMetadata: {a: [b]}" } }, { "PROXY_CONFIG", "a" } },
		{ { { "PROXY_CONFIG", "statsPort: 65536" } }, { "PROXY_CONFIG", "statsPort" } },
	};
	char error[512];

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_env env;

		set_env(rows[i].settings);
		assert_int_equal(cv_env_read(&env, error, sizeof(error)), -22);
		assert_non_null(strstr(error, rows[i].text[0]));
		assert_non_null(strstr(error, rows[i].text[1]));
	}
}

/* Istio's CA: by its address, or because we are in a cluster. */
static void test_istio_ca(void **state)
{
	const struct setting by_address[] = { { "CULVERT_DEV_CA", "" },
					      { "CA_ADDRESS", "https://ca:1" },
					      { "AUTH_TOKEN", "secret" },
					      { "CA_HEADER_X-Tenant", "a=b" },
					      { "XDS_HEADER_Zone", "" },
					      {} },
			     in_cluster[] = { { "CULVERT_DEV_CA", "" },
					      { "KUBERNETES_SERVICE_HOST", "10.0.0.1" },
					      {} };
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(by_address);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	assert_string_equal(env.ca_address, "https://ca:1");
	assert_string_equal(env.ca_root_ca, "./var/run/secrets/istio/root-cert.pem");
	assert_string_equal(env.auth_token, "secret");
	assert_int_equal(env.ca_headers.n, 1);
	assert_string_equal(env.ca_headers.list[0].name, "x-tenant");
	assert_string_equal(env.ca_headers.list[0].value, "a=b");
	assert_int_equal(env.xds_headers.n, 1);
	assert_string_equal(env.xds_headers.list[0].name, "zone");
	assert_string_equal(env.xds_headers.list[0].value, "");
	cv_env_fini(&env);
	set_env(in_cluster);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	assert_string_equal(env.ca_address, "https://istiod.istio-system.svc:15012");
	cv_env_fini(&env);
}

/* The control plane: by its address, or because we are in a cluster; set and empty there is none. */
static void test_xds(void **state)
{
	static const struct {
		struct setting settings[4];
		const char *address; /* NULL = no xDS */
	} rows[] = {
		{ { { "XDS_ADDRESS", "istiod:15012" }, { "LOCAL_XDS_PATH", "" } }, "istiod:15012" },
		{ { { "XDS_ADDRESS", "http://a:1" } }, "http://a:1" }, /* beside a file */
		{ { { "KUBERNETES_SERVICE_HOST", "10.0.0.1" }, { "LOCAL_XDS_PATH", "" } },
		  "https://istiod.istio-system.svc:15012" },
		{ { { "KUBERNETES_SERVICE_HOST", "10.0.0.1" }, { "XDS_ADDRESS", "" } }, NULL },
		{ { { "CA_ADDRESS", "a:1" } }, NULL },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		struct cv_env env;
		char error[512];

		set_env(rows[i].settings);
		unsetenv("CULVERT_DEV_CA");
		setenv("CA_ADDRESS", "ca:1", 1);
		assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
		if (rows[i].address)
			assert_string_equal(env.xds_address, rows[i].address);
		else
			assert_null(env.xds_address);
		assert_string_equal(env.xds_root_ca, "./var/run/secrets/istio/root-cert.pem");
		assert_string_equal(env.instance_ip, "1.1.1.1");
		cv_env_fini(&env);
	}
}

static void test_metadata(void **state)
{
	const struct setting settings[] = { { "ISTIO_META_CLUSTER_ID", "c1" },
					    { "ISTIO_META_", "no name" },
					    { "ISTIO_METAJSON_LABELS", "{\"a\": [1]}" },
					    { "ISTIO_METAJSON_BAD", "{" },
					    { "ISTIO_METAX", "no" },
					    {} };
	json_t *got, *want = json_pack("{s:s, s:{s:[i]}}", "CLUSTER_ID", "c1", "LABELS", "a", 1);

	(void)state;
	set_env(settings);
	got = cv_env_metadata();
	assert_true(json_equal(got, want));
	json_decref(got);
	json_decref(want);
}

/*
 * An empty XDS_ADDRESS switches xDS off, as ztunnel's does, and an empty ISTIO_META_DNS_CAPTURE the
 * DNS proxy. Everything else that is empty has its default, the places too.
 */
static void test_empty_is_unset(void **state)
{
	const struct setting settings[] = {
		{ "XDS_ADDRESS", "" },
		{ "CA_ADDRESS", "" },
		{ "INPOD_UDS", "" },
		{ "CULVERT_RUN_DIR", "" },
		{ "CULVERT_CONFIG", "" },
		{ "CULVERT_BPFFS", "" },
		{ "TRUST_DOMAIN", "" },
		{ "CLUSTER_ID", "" },
		{ "CLUSTER_DOMAIN", "" },
		{ "XDS_ROOT_CA", "" },
		{ "CA_ROOT_CA", "" },
		{ "INSTANCE_IP", "" },
		{ "HTTP2_FRAME_SIZE", "" },
		{ "ISTIO_META_DNS_PROXY_ADDR", "" },
		{ "KEEPALIVE_TIME", "" },
		{ "RUST_LOG", "" },
		{ "CRL_PATH", "" },
		{ "ISTIO_META_DNS_CAPTURE", "" },
		{},
	};
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(settings);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	assert_null(env.xds_address);
	assert_null(env.crl_path);
	assert_string_equal(env.inpod_uds, "/var/run/ztunnel/ztunnel.sock");
	assert_string_equal(env.run_dir, CV_RUN_DIR);
	assert_string_equal(env.config_path, "/etc/culvert/culvert.yaml");
	assert_string_equal(env.bpffs_dir, "/sys/fs/bpf/culvert");
	assert_string_equal(env.trust_domain, "cluster.local");
	assert_string_equal(env.cluster_id, "Kubernetes");
	assert_string_equal(env.cluster_domain, "cluster.local");
	assert_string_equal(env.xds_root_ca, "./var/run/secrets/istio/root-cert.pem");
	assert_string_equal(env.ca_root_ca, "./var/run/secrets/istio/root-cert.pem");
	assert_string_equal(env.instance_ip, "1.1.1.1");
	assert_string_equal(env.log_filter, "info");
	assert_int_equal(env.keepalive_time_ms, 180000);
	assert_int_equal(env.nr_dns_addrs, 0);
	cv_env_fini(&env);
}

/* Their one possible value is no reason to refuse; neither is what has no effect. */
static void test_fixed(void **state)
{
	const struct setting settings[] = {
		{ "ENABLE_PROXY", "true" },
		{ "PROXY_MODE", "shared" },
		{ "FAKE_CA", "false" },
		{ "UNSTABLE_ENABLE_SOCKS5", "false" },
		{ "COMPLIANCE_POLICY", "" },
		{ "HTTP2_FRAME_SIZE", "16384" },
		{ "HTTP2_STREAM_WINDOW_SIZE", "4294967295" },
		{ "INPOD_ENABLED", "true" },
		{ "RUST_BACKTRACE", "1" },
		{ "ISTIO_META_WHAT", "ever" },
		{ "ISTIO_UNKNOWN", "x" },
		{},
	};
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(settings);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	cv_env_fini(&env);
}

static void assert_var(const char *name, const char *value)
{
	const char *got = getenv(name);

	if (!value)
		assert_null(got);
	else if (!got || strcmp(got, value) != 0)
		fail_msg("%s is %s, not %s", name, got ? got : "unset", value);
}

/* Variables win over PROXY_CONFIG, and that over the mesh config file. */
static void test_proxy_config(void **state)
{
	static const char mesh[] = "defaultConfig:\n"
				   "  discoveryAddress: mesh:15012\n"
				   "  concurrency: 5\n"
				   "  statsPort: 15888\n"
				   "  proxyAdminPort: 15099\n"
				   "  tracing: {zipkin: {address: 'x'}}\n"
				   "  proxyMetadata:\n"
				   "    FOO: foo\n"
				   "    ISTIO_META_BAR: mesh\n"
				   "    ISTIO_META_BAZ: mesh\n"
				   "trustDomain: td\n";
	static const char proxy[] = "{\"discoveryAddress\": \"proxy:15012\", \"statsPort\": 15999,"
				    "\"proxyMetadata\": {\"BAR\": \"proxy\", \"BAZ\": \"proxy\"}}";
	const struct setting settings[] = {
		{ "PROXY_CONFIG", proxy }, { "ISTIO_META_BAZ", "env" }, { "CA_ADDRESS", "" }, {}
	};
	char path[] = "/tmp/cv-env-XXXXXX", error[512];
	struct cv_env_ports ports = {};
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, mesh, sizeof(mesh) - 1), sizeof(mesh) - 1);
	close(fd);
	set_env(settings);
	assert_int_equal(cv_env_apply_config(path, &ports, error, sizeof(error)), 0);
	assert_int_equal(ports.admin, 15099);
	assert_int_equal(ports.metrics, 15999);
	assert_var("XDS_ADDRESS", "proxy:15012");
	assert_var("CA_ADDRESS", "");
	assert_var("ZTUNNEL_WORKER_THREADS", "5");
	assert_var("ISTIO_META_FOO", "foo");
	assert_var("ISTIO_META_BAR", "proxy");
	assert_var("ISTIO_META_BAZ", "env");
	assert_var("ISTIO_META_ISTIO_META_BAR", NULL);
	/* A file that is there must be good. */
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_int_equal(write(fd, "defaultConfig: 7\n", 17), 17);
	close(fd);
	assert_int_equal(cv_env_apply_config(path, &ports, error, sizeof(error)), -22);
	assert_non_null(strstr(error, path));
	unlink(path);
	set_env(NULL);
	assert_int_equal(cv_env_apply_config(path, &ports, error, sizeof(error)), 0);
	assert_int_equal(ports.admin, 0);
}

/* What PROXY_CONFIG says reaches the settings. */
static void test_proxy_config_read(void **state)
{
	const struct setting settings[] = {
		{ "PROXY_CONFIG", "concurrency: 7\nproxyAdminPort: 15010\nproxyMetadata:\n"
				  "  CLUSTER_ID: c7\n  ISTIO_META_ISTIO_VERSION: 1.2.3\n" },
		{},
	};
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(settings);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	assert_int_equal(env.nr_workers, 7);
	assert_string_equal(env.cluster_id, "c7");
	assert_string_equal(env.istio_version, "1.2.3");
	assert_int_equal(env.ports.admin, 15010);
	assert_int_equal(env.ports.metrics, 15020);
	cv_env_fini(&env);
}

/* Every variable that ztunnel reads by name is in the tables, which --help prints. */
static void test_complete(void **state)
{
	static const char *const names[] = {
		"ALT_CA_HOSTNAME",
		"ALT_XDS_HOSTNAME",
		"AUTHZ_POLICY_INFO_LOGGING",
		"AUTH_TOKEN",
		"CA_ADDRESS",
		"CA_ROOT_CA",
		"CLUSTER_ID",
		"CLUSTER_DOMAIN",
		"COMPLIANCE_POLICY",
		"CONNECTION_TERMINATION_DEADLINE",
		"CRL_PATH",
		"ENABLE_ORIG_SRC",
		"ENABLE_PROXY",
		"ENABLE_RESPONSE_BAGGAGE",
		"FAKE_CA",
		"HTTP2_CONNECTION_WINDOW_SIZE",
		"HTTP2_FRAME_SIZE",
		"HTTP2_STREAM_WINDOW_SIZE",
		"INSTANCE_IP",
		"INPOD_PORT_REUSE",
		"INPOD_UDS",
		"IPV6_ENABLED",
		"ISTIO_META_CLUSTER_ID",
		"ISTIO_META_DNS_CAPTURE",
		"ISTIO_META_DNS_PROXY_ADDR",
		"ISTIO_META_ISTIO_VERSION",
		"KEEPALIVE_ENABLED",
		"KEEPALIVE_INTERVAL",
		"KEEPALIVE_RETRIES",
		"KEEPALIVE_TIME",
		"KUBERNETES_SERVICE_HOST",
		"LOCALHOST_APP_TUNNEL",
		"LOCAL_XDS",
		"LOCAL_XDS_PATH",
		"LOG_FORMAT",
		"NETWORK",
		"NODE_NAME",
		"PACKET_MARK",
		"POD_NAME",
		"POD_NAMESPACE",
		"POOL_MAX_STREAMS_PER_CONNECTION",
		"POOL_UNUSED_RELEASE_TIMEOUT",
		"PREFERED_SERVICE_NAMESPACE",
		"PROXY_CONFIG",
		"PROXY_MODE",
		"PROXY_WORKLOAD_INFO",
		"RUST_LOG",
		"SECRET_TTL",
		"SERVICE_ACCOUNT",
		"TERMINATION_GRACE_PERIOD_SECONDS",
		"TLS12_ENABLED",
		"TRUST_DOMAIN",
		"UNSTABLE_ENABLE_SOCKS5",
		"USER_TIMEOUT_ENABLED",
		"XDS_ON_DEMAND",
		"XDS_ROOT_CA",
		"XDS_ADDRESS",
		"ZTUNNEL_CPU_LIMIT",
		"ZTUNNEL_RESOURCE_CPU_LIMIT",
		"ZTUNNEL_RESOURCE_CPU_REQUEST",
		"ZTUNNEL_WORKER_THREADS",
	};
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	char line[64];

	(void)state;
	cv_env_print_help(out);
	fclose(out);
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		snprintf(line, sizeof(line), "\n  %s ", names[i]);
		if (!strstr(text, line) && strncmp(text, line + 1, strlen(line) - 1) != 0)
			fail_msg("%s is not known", names[i]);
	}
}

/* What readers of config_dump know as `config`. */
static void test_json(void **state)
{
	static const char *const keys[] = {
		"proxy",
		"dnsProxy",
		"windowSize",
		"connectionWindowSize",
		"frameSize",
		"poolMaxStreamsPerConn",
		"poolUnusedReleaseTimeout",
		"socks5Addr",
		"adminAddr",
		"statsAddr",
		"readinessAddr",
		"inboundAddr",
		"inboundPlaintextAddr",
		"outboundAddr",
		"illegalPorts",
		"network",
		"localNode",
		"proxyMode",
		"proxyWorkloadInformation",
		"clusterId",
		"caAddress",
		"altCaHostname",
		"xdsAddress",
		"altXdsHostname",
		"preferedServiceNamespace",
		"secretTtl",
		"xdsOnDemand",
		"fakeCa",
		"fakeSelfInbound",
		"selfTerminationDeadline",
		"numWorkerThreads",
		"requireOriginalSource",
		"inpodPortReuse",
		"packetMark",
		"socketConfig",
		"xdsHeaders",
		"caHeaders",
		"ztunnelIdentity",
		"ztunnelWorkload",
		"ipv6Enabled",
		"crlPath",
		"enableEnhancedBaggage",
		"inpodUds",
		"localhostAppTunnel",
		"proxyArgs",
		"proxyMetadata",
		"dnsProxyAddr",
		"clusterDomain",
	};
	const struct setting settings[] = { { "POD_NAME", "ztunnel-x" },
					    { "POD_NAMESPACE", "istio-system" },
					    { "SERVICE_ACCOUNT", "ztunnel" },
					    { "IPV6_ENABLED", "false" },
					    {} };
	struct cv_env env;
	char error[512];
	json_t *j;

	(void)state;
	set_env(settings);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	j = cv_env_json(&env);
	for (size_t i = 0; i < CV_ARRAY_SIZE(keys); i++)
		if (!json_object_get(j, keys[i]))
			fail_msg("no key %s", keys[i]);
	assert_string_equal(json_string_value(json_object_get(j, "ztunnelIdentity")),
			    "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
	assert_string_equal(json_string_value(json_object_get(j, "inboundAddr")), "0.0.0.0:15008");
	assert_true(json_is_false(
		json_array_get(json_object_get(json_object_get(j, "adminAddr"), "Localhost"), 0)));
	json_decref(j);
	cv_env_fini(&env);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_dns),
		cmocka_unit_test(test_derived),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_istio_ca),
		cmocka_unit_test(test_xds),
		cmocka_unit_test(test_metadata),
		cmocka_unit_test(test_empty_is_unset),
		cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_proxy_config),
		cmocka_unit_test(test_proxy_config_read),
		cmocka_unit_test(test_complete),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
