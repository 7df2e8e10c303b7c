/* SPDX-License-Identifier: Apache-2.0 */
/* The environment: defaults and derived values are ztunnel's, and a value that cannot be used is
 * refused by a text that names variable and value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/daemon/env.h"

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

/* An empty XDS_ADDRESS switches xDS off, as ztunnel's does: it is no reason to refuse. */
static void test_empty_is_unset(void **state)
{
	const struct setting settings[] = { { "XDS_ADDRESS", "" }, { "CA_ADDRESS", "" }, {} };
	struct cv_env env;
	char error[512];

	(void)state;
	set_env(settings);
	assert_int_equal(cv_env_read(&env, error, sizeof(error)), 0);
	cv_env_fini(&env);
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
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_derived),
		cmocka_unit_test(test_refused),	 cmocka_unit_test(test_empty_is_unset),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
