/* SPDX-License-Identifier: Apache-2.0 */
/* The exposition is OpenMetrics with ztunnel's families, labels and values, `tier` last; the
 * number of series is bounded; bytes keep their direction whoever reports. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "test"
#include "userspace/base/log.h"
#include "userspace/telemetry/private.h"
#include "userspace/telemetry/telemetry.h"

static struct cv_workload *make_workload(const char *name)
{
	struct cv_workload *w = cv_workload_new();

	w->group->name = cv_str_new("pod-0");
	w->group->ns = cv_str_new("shop");
	w->group->workload_name = cv_str_new(name);
	w->group->canonical_name = cv_str_new("canon");
	w->group->canonical_revision = cv_str_new("v1");
	w->group->cluster_id = cv_str_new("Kubernetes");
	w->group->trust_domain = cv_str_new("cluster.local");
	w->group->service_account = cv_str_new("sa");
	return w;
}

static struct cv_service *make_service(void)
{
	struct cv_service *s = cv_service_new();

	s->name = cv_str_new("cart");
	s->ns = cv_str_new("shop");
	s->hostname = cv_str_new("cart.shop.svc");
	return s;
}

static struct cv_telemetry *make_telemetry(unsigned max_series)
{
	const struct cv_telemetry_opts opts = { .istio_version = "1.2\"3",
						.max_series = max_series };
	struct cv_telemetry *t = NULL;

	assert_int_equal(cv_telemetry_new(&t, &opts), 0);
	return t;
}

static void assert_has(const char *text, const char *line)
{
	if (!strstr(text, line))
		fail_msg("no \"%s\" in:\n%s", line, text);
}

static void assert_lacks(const char *text, const char *line)
{
	if (strstr(text, line))
		fail_msg("unwanted \"%s\" in:\n%s", line, text);
}

/* Every family of a connection with both ends known, to the letter. */
static void test_golden(void **state)
{
	static const char labels[] =
		"reporter=\"source\",source_workload=\"web\",source_canonical_service=\"canon\","
		"source_canonical_revision=\"v1\",source_workload_namespace=\"shop\","
		"source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",source_app=\"canon\","
		"source_version=\"v1\",source_cluster=\"Kubernetes\","
		"destination_service=\"cart.shop.svc\",destination_service_namespace=\"shop\","
		"destination_service_name=\"cart\",destination_workload=\"cart\","
		"destination_canonical_service=\"canon\",destination_canonical_revision=\"v1\","
		"destination_workload_namespace=\"shop\","
		"destination_principal=\"spiffe://cluster.local/ns/shop/sa/sa\","
		"destination_app=\"canon\",destination_version=\"v1\","
		"destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",response_flags=\"%s\","
		"connection_security_policy=\"mutual_tls\",source_region=\"unknown\","
		"source_zone=\"unknown\",destination_region=\"unknown\","
		"destination_zone=\"unknown\",tier=\"tls\"";
	struct cv_workload *src = make_workload("web"), *dst = make_workload("cart");
	struct cv_service *svc = make_service();
	struct cv_telemetry *t = make_telemetry(0);
	struct cv_identity id;
	struct cv_traffic *c;
	char ok[2048], denied[2048], expected[16384];
	_cleanup_free_ char *text = NULL;

	(void)state;
	assert_int_equal(cv_identity_parse("spiffe://cluster.local/ns/shop/sa/web",
					   strlen("spiffe://cluster.local/ns/shop/sa/web"), &id),
			 0);
	for (int i = 0; i < 2; i++) {
		c = cv_traffic_open(t, &(struct cv_traffic_info){ .tier = CV_TIER_TLS,
								  .src = src,
								  .dst = dst,
								  .service = svc,
								  .src_identity = &id,
								  .mtls = true });
		cv_traffic_add(c, 10, 3);
		cv_traffic_close(&c, i ? CV_FLAG_DENY : CV_FLAG_NONE, i ? "no" : NULL);
		assert_null(c);
	}
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(ok, sizeof(ok), labels, "-");
	snprintf(denied, sizeof(denied), labels, "DENY");
#pragma GCC diagnostic pop
	snprintf(expected, sizeof(expected),
		 "# HELP istio_tcp_connections_opened The total number of TCP connections opened.\n"
		 "# TYPE istio_tcp_connections_opened counter\n"
		 "istio_tcp_connections_opened_total{%s} 2\n"
		 "# HELP istio_tcp_connections_closed The total number of TCP connections closed.\n"
		 "# TYPE istio_tcp_connections_closed counter\n"
		 "istio_tcp_connections_closed_total{%s} 1\n"
		 "istio_tcp_connections_closed_total{%s} 1\n"
		 "# HELP istio_tcp_received_bytes The size of total bytes received during request "
		 "in case of a TCP connection.\n"
		 "# TYPE istio_tcp_received_bytes counter\n"
		 "istio_tcp_received_bytes_total{%s} 20\n"
		 "# HELP istio_tcp_sent_bytes The size of total bytes sent during response in case "
		 "of a TCP connection.\n"
		 "# TYPE istio_tcp_sent_bytes counter\n"
		 "istio_tcp_sent_bytes_total{%s} 6\n"
		 "# HELP istio_tcp_connections_failed The total number of TCP connections that "
		 "were closed with a response flag (unstable).\n"
		 "# TYPE istio_tcp_connections_failed counter\n"
		 "istio_tcp_connections_failed_total{%s} 1\n"
		 "# EOF\n",
		 ok, ok, denied, ok, ok, denied);
	text = cv_metrics_text(t);
	assert_non_null(strstr(text, "# HELP istio_tcp_connections_opened"));
	assert_string_equal(strstr(text, "# HELP istio_tcp_connections_opened"), expected);
	assert_has(text, "istio_build{component=\"ztunnel\",tag=\"1.2\\\"3\"} 1\n");
	cv_identity_fini(&id);
	cv_workload_put(&src);
	cv_workload_put(&dst);
	cv_service_put(&svc);
	cv_telemetry_free(&t);
	assert_int_equal(cv_str_count(), 0);
}

/* Unknown ends: no locality labels, no principal, and a plain policy. */
static void test_unknown_ends(void **state)
{
	struct cv_telemetry *t = make_telemetry(0);
	struct cv_traffic *c =
		cv_traffic_open(t, &(struct cv_traffic_info){ .reporter = CV_REPORTER_DESTINATION,
							      .tier = CV_TIER_PASSTHROUGH });
	_cleanup_free_ char *text = cv_metrics_text(t);

	(void)state;
	assert_has(text, "reporter=\"destination\",source_workload=\"unknown\"");
	assert_has(text, "destination_principal=\"unknown\"");
	assert_has(text, "response_flags=\"-\",connection_security_policy=\"unknown\","
			 "tier=\"passthrough\"} 1\n");
	assert_lacks(text, "_region=");
	/* Open, so there is nothing of closed or failed ones: the families are left out. */
	assert_lacks(text, "istio_tcp_connections_closed");
	assert_lacks(text, "istio_tcp_connections_failed");
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	cv_telemetry_free(&t);
}

/* received = client to server for both reporters. */
static void test_bytes_of_the_destination(void **state)
{
	struct cv_telemetry *t = make_telemetry(0);
	struct cv_traffic *c =
		cv_traffic_open(t, &(struct cv_traffic_info){ .reporter = CV_REPORTER_DESTINATION,
							      .tier = CV_TIER_DIRECT });
	_cleanup_free_ char *text = NULL;

	(void)state;
	cv_traffic_add(c, 7, 5);
	text = cv_metrics_text(t);
	assert_has(strstr(text, "istio_tcp_received_bytes_total{"), "tier=\"direct\"} 7\n");
	assert_has(strstr(text, "istio_tcp_sent_bytes_total{"), "tier=\"direct\"} 5\n");
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	cv_telemetry_free(&t);
}

/* Beyond the bound connections share one series per reporter, tier and policy, and are counted. */
static void test_series_are_bounded(void **state)
{
	struct cv_telemetry *t = make_telemetry(2);
	struct cv_traffic *open[10];
	_cleanup_free_ char *text = NULL;
	char name[16];

	(void)state;
	for (unsigned i = 0; i < CV_ARRAY_SIZE(open); i++) {
		snprintf(name, sizeof(name), "w%u", i);
		struct cv_workload *w = make_workload(name);

		open[i] = cv_traffic_open(t, &(struct cv_traffic_info){ .tier = CV_TIER_TLS,
									.src = w });
		cv_workload_put(&w);
	}
	text = cv_metrics_text(t);
	assert_has(text, "source_workload=\"w1\"");
	assert_lacks(text, "source_workload=\"w2\"");
	assert_has(text, "reporter=\"source\",source_workload=\"overflow\"");
	assert_has(text, "tier=\"tls\"} 8\n");
	assert_has(text, "culvert_series_overflow_total 8\n");
	for (unsigned i = 0; i < CV_ARRAY_SIZE(open); i++)
		cv_traffic_close(&open[i], CV_FLAG_NONE, NULL);
	cv_telemetry_free(&t);
	assert_int_equal(cv_str_count(), 0);
}

static void sample_two(struct cv_metric_sink *sink, void *arg)
{
	cv_metric_sample(sink, "a=\"1\"", *(double *)arg);
	cv_metric_sample(sink, NULL, 9007199254740991.0);
}

static void sample_none(struct cv_metric_sink *sink, void *arg)
{
	(void)sink;
	(void)arg;
}

/* Families of other parts; one without samples does not appear. */
static void test_registered(void **state)
{
	struct cv_telemetry *t = make_telemetry(0);
	double value = 0.5;
	_cleanup_free_ char *text = NULL;

	(void)state;
	cv_metric_register(t, "x_things", "Things (unstable)", true, sample_two, &value);
	cv_metric_register(t, "x_nothing", "Nothing", false, sample_none, NULL);
	cv_traffic_socket(t, CV_REPORTER_SOURCE, 3);
	cv_traffic_socket(t, CV_REPORTER_SOURCE, -1);
	text = cv_metrics_text(t);
	assert_has(text, "# HELP x_things Things (unstable)\n# TYPE x_things counter\n"
			 "x_things_total{a=\"1\"} 0.5\nx_things_total 9007199254740991\n# EOF\n");
	assert_lacks(text, "x_nothing");
	assert_has(text, "# TYPE istio_tcp_sockets_open gauge\n"
			 "istio_tcp_sockets_open{reporter=\"source\"} 2\n"
			 "istio_tcp_sockets_open{reporter=\"destination\"} 0\n");
	assert_has(text, "# TYPE process_open_fds gauge\n");
	assert_has(text, "# TYPE process_max_fds gauge\n");
	cv_telemetry_free(&t);
}

/* A hostile peer's texts stay inside their quotes. */
static void test_escape(void **state)
{
	char buf[32], tiny[4];

	(void)state;
	assert_string_equal(cv_metric_escape("a\"b\\c\nd\x01\xff", buf, sizeof(buf)),
			    "a\\\"b\\\\c\\nd??");
	/* Cut between characters, never inside an escape. */
	assert_string_equal(cv_metric_escape("a\"\"", tiny, sizeof(tiny)), "a\\\"");
	assert_string_equal(cv_metric_escape("ab\"", tiny, sizeof(tiny)), "ab");
}

/* Names that DNS is asked for, by who asks; bounded. */
static void test_names(void **state)
{
	struct cv_telemetry *t = make_telemetry(0);
	struct cv_workload *src = cv_workload_new();
	_cleanup_free_ char *text = NULL;
	char name[64];

	(void)state;
	src->group->workload_name = cv_str_new("web");
	src->group->ns = cv_str_new("shop");
	src->group->trust_domain = cv_str_new("td");
	src->group->service_account = cv_str_new("sa");
	text = cv_metrics_text(t);
	assert_null(strstr(text, "on_demand_dns"));
	cv_traffic_name_asked(t, src, "ext.org");
	cv_traffic_name_asked(t, src, "ext.org");
	for (unsigned i = 0; i < CV_LIMIT_NAME_SERIES + 1; i++) {
		snprintf(name, sizeof(name), "n%u.org", i);
		cv_traffic_name_asked(t, src, name);
	}
	free(text);
	text = cv_metrics_text(t);
	assert_non_null(strstr(
		text,
		"istio_on_demand_dns_total{source_workload=\"web\",source_canonical_service=\"unknown\","
		"source_canonical_revision=\"unknown\",source_workload_namespace=\"shop\","
		"source_principal=\"spiffe://td/ns/shop/sa/sa\",source_app=\"unknown\","
		"source_version=\"unknown\",source_cluster=\"unknown\",hostname=\"ext.org\"} 2\n"));
	assert_non_null(strstr(text, "istio_on_demand_dns_total{hostname=\"overflow\"} 2\n"));
	cv_workload_put(&src);
	cv_telemetry_free(&t);
}

static void *open_and_close(void *arg)
{
	for (int i = 0; i < 2000; i++) {
		struct cv_traffic *c =
			cv_traffic_open(arg, &(struct cv_traffic_info){
						     .tier = i % 5 + 1,
						     .reporter = i % 2 ? CV_REPORTER_SOURCE :
									 CV_REPORTER_DESTINATION });

		cv_traffic_add(c, 1, 2);
		cv_traffic_close(&c, i % 10 ? CV_FLAG_NONE : CV_FLAG_CONNECT, NULL);
	}
	return NULL;
}

/* Sums every sample of a family. */
static unsigned long sum(const char *text, const char *family)
{
	unsigned long total = 0;

	while ((text = strstr(text, family))) {
		text = strstr(text, "} ") + 2;
		total += strtoul(text, NULL, 10);
	}
	return total;
}

/* Threads share series; nothing is lost or counted twice while somebody reads. */
static void test_threads(void **state)
{
	struct cv_telemetry *t = make_telemetry(0);
	_cleanup_free_ char *text = NULL;
	pthread_t threads[4];

	(void)state;
	for (unsigned i = 0; i < CV_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, t), 0);
	for (int i = 0; i < 20; i++) {
		free(cv_metrics_text(t));
		json_decref(cv_flows_json(t));
	}
	for (unsigned i = 0; i < CV_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	text = cv_metrics_text(t);
	assert_int_equal(sum(text, "connections_opened_total{"), 8000);
	assert_int_equal(sum(text, "connections_closed_total{"), 8000);
	assert_int_equal(sum(text, "connections_failed_total{"), 800);
	assert_int_equal(sum(text, "sent_bytes_total{"), 16000);
	assert_int_equal(t->series.n, 10);
	cv_telemetry_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_unknown_ends),
		cmocka_unit_test(test_bytes_of_the_destination),
		cmocka_unit_test(test_series_are_bounded),
		cmocka_unit_test(test_registered),
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_threads),
	};

	cv_log_filter_add("off", true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
