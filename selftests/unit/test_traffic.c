/* SPDX-License-Identifier: Apache-2.0 */
/* The access log has ztunnel's lines, field by field; the lists of live and closed connections are
 * whole, bounded, and give back what they hold. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "test"
#include "userspace/base/log.h"
#include "userspace/telemetry/private.h"
#include "userspace/telemetry/telemetry.h"

static struct cv_telemetry *telemetry;
static struct cv_workload *web, *cart;
static struct cv_service *service;
static struct cv_identity web_id, cart_id;

static struct cv_workload *make_workload(const char *name)
{
	struct cv_workload *w = cv_workload_new();

	w->group->name = cv_str_new(name);
	w->group->ns = cv_str_new("shop");
	w->group->cluster_id = cv_str_new("Kubernetes");
	w->group->canonical_name = cv_str_new("canon");
	return w;
}

static int setup(void **state)
{
	const struct cv_telemetry_opts opts = {};

	(void)state;
	web = make_workload("web-0");
	cart = make_workload("cart-0");
	service = cv_service_new();
	service->hostname = cv_str_new("cart.shop.svc");
	service->ns = cv_str_new("shop");
	cv_identity_set(&web_id, cv_str_new("td"), cv_str_new("shop"), cv_str_new("web"));
	cv_identity_set(&cart_id, cv_str_new("td"), cv_str_new("shop"), cv_str_new("cart"));
	return cv_telemetry_new(&telemetry, &opts);
}

static int teardown(void **state)
{
	(void)state;
	cv_telemetry_free(&telemetry);
	cv_workload_put(&web);
	cv_workload_put(&cart);
	cv_service_put(&service);
	cv_identity_fini(&web_id);
	cv_identity_fini(&cart_id);
	return cv_str_count() ? -1 : 0;
}

static struct cv_sockaddr at(const char *text)
{
	struct cv_sockaddr a = {};

	assert_int_equal(cv_sockaddr_parse(text, &a), 0);
	return a;
}

static struct cv_traffic_info hbone(enum cv_reporter reporter)
{
	return (struct cv_traffic_info){
		.reporter = reporter,
		.tier = CV_TIER_TLS,
		.pod_ns = "shop",
		.pod_name = reporter == CV_REPORTER_SOURCE ? "web-0" : "cart-0",
		.pod_uid = reporter == CV_REPORTER_SOURCE ? "uid-web" : "uid-cart",
		.src = web,
		.dst = cart,
		.service = service,
		.src_identity = &web_id,
		.dst_identity = &cart_id,
		.mtls = true,
		.src_addr = at("10.7.0.9:51022"),
		.dst_addr = at("10.7.1.4:15008"),
		.hbone_addr = at("10.7.1.4:8080"),
		.original_dst = at("10.96.3.3:80"),
	};
}

/* --- log lines: what is written while stderr is a file of ours, times cut off --- */

static int saved_stderr = -1, captured = -1;

static void capture_start(const char *filter)
{
	assert_int_equal(cv_log_filter_add(filter, true), 0);
	fflush(stderr);
	saved_stderr = dup(STDERR_FILENO);
	captured = memfd_create("log", 0);
	assert_true(captured >= 0 && dup2(captured, STDERR_FILENO) >= 0);
}

static const char *capture_end(void)
{
	static char text[8192];
	ssize_t n;

	fflush(stderr);
	dup2(saved_stderr, STDERR_FILENO);
	cv_close(&saved_stderr);
	n = pread(captured, text, sizeof(text) - 1, 0);
	cv_close(&captured);
	text[n > 0 ? n : 0] = '\0';
	return strchr(text, '\t') ? strchr(text, '\t') + 1 : "";
}

#define SRC                                                                      \
	"src.addr=10.7.0.9:51022 src.workload=\"web-0\" src.namespace=\"shop\" " \
	"src.identity=\"spiffe://td/ns/shop/sa/web\" src.cluster=\"Kubernetes\" "
#define DST                                                                                   \
	"dst.addr=10.7.1.4:15008 dst.hbone_addr=10.7.1.4:8080 dst.service=\"cart.shop.svc\" " \
	"dst.workload=\"cart-0\" dst.namespace=\"shop\" "                                     \
	"dst.identity=\"spiffe://td/ns/shop/sa/cart\" dst.cluster=\"Kubernetes\" "

static void test_complete(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_SOURCE);
	struct cv_traffic *c;

	(void)state;
	info.opened_ms = cv_now_ms() - 7000000;
	capture_start("info");
	c = cv_traffic_open(telemetry, &info);
	cv_traffic_add(c, 512, 2048);
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	const char *line = capture_end();
	const char *expected = "info\taccess\tconnection complete\t" SRC DST
			       "direction=\"outbound\" bytes_sent=512 bytes_recv=2048 "
			       "duration=\"70000";

	assert_memory_equal(line, expected, strlen(expected));
	assert_string_equal(strstr(line, "ms\""), "ms\" tier=\"tls\"\n");
}

/* The destination's own view of the bytes, the error, and the level. */
static void test_failed_inbound(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_DESTINATION);
	struct cv_traffic *c;

	(void)state;
	capture_start("info");
	c = cv_traffic_open(telemetry, &info);
	cv_traffic_add(c, 512, 2048);
	cv_traffic_close(&c, CV_FLAG_DENY, "explicitly denied by: shop/x");
	const char *line = capture_end();
	const char *expected = "error\taccess\tconnection complete\t" SRC DST
			       "direction=\"inbound\" bytes_sent=2048 bytes_recv=512 duration=\"";

	assert_memory_equal(line, expected, strlen(expected));
	assert_non_null(strstr(line, "ms\" error=\"explicitly denied by: shop/x\" tier=\"tls\"\n"));
}

static void test_opened(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_SOURCE);
	struct cv_traffic *c;

	(void)state;
	capture_start("access=debug");
	c = cv_traffic_open(telemetry, &info);
	assert_string_equal(capture_end(), "debug\taccess\tconnection opened\t" SRC DST
					   "direction=\"outbound\" tier=\"tls\"\n");
	cv_log_filter_add("off", true);
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
}

/* Identities appear only with a proof; a pod without a name goes by its canonical service. */
static void test_plaintext(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_SOURCE);
	struct cv_traffic *c;
	const char *line;

	(void)state;
	cv_str_put(&web->group->name);
	info.mtls = false;
	info.tier = CV_TIER_PASSTHROUGH;
	info.dst = NULL;
	info.service = NULL;
	info.hbone_addr.port = 0;
	capture_start("access=debug");
	c = cv_traffic_open(telemetry, &info);
	line = capture_end();
	assert_non_null(strstr(line, "src.workload=\"canon\" src.namespace=\"shop\" "
				     "src.cluster=\"Kubernetes\" dst.addr=10.7.1.4:15008 "
				     "direction=\"outbound\" tier=\"passthrough\"\n"));
	cv_log_filter_add("off", true);
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	/* The kernel's proof counts as one. */
	info.tier = CV_TIER_DIRECT;
	capture_start("access=debug");
	c = cv_traffic_open(telemetry, &info);
	assert_non_null(strstr(capture_end(), "src.identity=\"spiffe://td/ns/shop/sa/web\""));
	cv_log_filter_add("off", true);
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
}

static void test_early_deny(void **state)
{
	struct cv_sockaddr src = at("10.0.0.1:5"), dst = at("[2001:db8::1]:80");

	(void)state;
	capture_start("info");
	cv_traffic_early_deny(telemetry, &src, &dst, CV_REPORTER_SOURCE, "no \"record\"");
	assert_string_equal(capture_end(), "warn\taccess\tconnection failed\tsrc.addr=10.0.0.1:5 "
					   "dst.addr=[2001:db8::1]:80 direction=\"outbound\" "
					   "error=\"no \\\"record\\\"\"\n");
}

/* --- lists --- */

static const char *text_of(const json_t *list, size_t i, const char *key)
{
	return json_string_value(json_object_get(json_array_get(list, i), key));
}

static void test_lists(void **state)
{
	struct cv_traffic_info out = hbone(CV_REPORTER_SOURCE), in = hbone(CV_REPORTER_DESTINATION);
	struct cv_traffic *a, *b;
	json_t *list, *pod, *expected;

	(void)state;
	cv_log_filter_add("off", true);
	a = cv_traffic_open(telemetry, &out);
	b = cv_traffic_open(telemetry, &in);
	cv_traffic_add(b, 11, 22);
	list = cv_connections_json(telemetry);
	assert_int_equal(json_array_size(list), 2);
	json_decref(list);

	pod = cv_pod_connections_json(telemetry, "uid-cart");
	expected = json_pack("{s:[], s:[{s:s, s:s, s:s, s:s}]}", "outbound", "inbound", "src",
			     "10.7.0.9:51022", "originalDst", "cart.shop.svc", "actualDst",
			     "10.7.1.4:8080", "protocol", "HBONE");
	assert_true(json_equal(pod, expected));
	json_decref(pod);
	json_decref(expected);
	pod = cv_pod_connections_json(telemetry, "uid-web");
	expected = json_pack("{s:[], s:[{s:s, s:s, s:s, s:s}]}", "inbound", "outbound", "src",
			     "10.7.0.9:51022", "originalDst", "10.96.3.3:80", "actualDst",
			     "10.7.1.4:15008", "protocol", "HBONE");
	assert_true(json_equal(pod, expected));
	json_decref(pod);
	json_decref(expected);

	cv_traffic_close(&b, CV_FLAG_CONNECT, "gone");
	list = cv_connections_json(telemetry);
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(text_of(list, 0, "direction"), "outbound");
	json_decref(list);
	list = cv_flows_json(telemetry);
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(text_of(list, 0, "state"), "open");
	assert_string_equal(text_of(list, 1, "state"), "closed");
	assert_string_equal(text_of(list, 1, "tier"), "tls");
	assert_string_equal(text_of(list, 1, "result"), "CONNECT");
	assert_string_equal(text_of(list, 1, "error"), "gone");
	assert_string_equal(text_of(list, 1, "sourceIdentity"), "spiffe://td/ns/shop/sa/web");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "sent")), 11);
	json_decref(list);
	cv_traffic_close(&a, CV_FLAG_NONE, NULL);
}

/* The ring keeps the latest, newest first, and no more than its bound. */
static void test_closed_ring(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_SOURCE);
	struct cv_traffic *c;
	char error[16];
	json_t *list;

	(void)state;
	cv_log_filter_add("off", true);
	for (unsigned i = 0; i < CV_LIMIT_CLOSED_FLOWS + 5; i++) {
		c = cv_traffic_open(telemetry, &info);
		snprintf(error, sizeof(error), "%u", i);
		cv_traffic_close(&c, CV_FLAG_CONNECT, error);
	}
	list = cv_flows_json(telemetry);
	assert_int_equal(json_array_size(list), CV_LIMIT_CLOSED_FLOWS);
	snprintf(error, sizeof(error), "%u", CV_LIMIT_CLOSED_FLOWS + 4);
	assert_string_equal(text_of(list, 0, "error"), error);
	assert_string_equal(text_of(list, CV_LIMIT_CLOSED_FLOWS - 1, "error"), "5");
	json_decref(list);
}

/* A record that a reader holds outlives its connection and the ring. */
static void test_snapshot_holds(void **state)
{
	struct cv_traffic_info info = hbone(CV_REPORTER_SOURCE);
	struct cv_traffic *c = cv_traffic_open(telemetry, &info), **all = NULL;

	(void)state;
	cv_log_filter_add("off", true);
	assert_int_equal(cv_traffic_snapshot(telemetry, false, &all), 1);
	cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	for (unsigned i = 0; i < CV_LIMIT_CLOSED_FLOWS; i++) {
		c = cv_traffic_open(telemetry, &info);
		cv_traffic_close(&c, CV_FLAG_NONE, NULL);
	}
	assert_string_equal(all[0]->info.pod_name, "web-0");
	cv_traffic_put(all[0]);
	free(all);
}

/* --- readiness --- */

static void test_ready(void **state)
{
	json_t *pending;

	(void)state;
	cv_log_filter_add("off", true);
	cv_ready_add(telemetry, "xds");
	cv_ready_add(telemetry, "certs");
	cv_ready_add(telemetry, "certs");
	pending = cv_ready_pending(telemetry);
	assert_int_equal(json_array_size(pending), 2);
	assert_string_equal(json_string_value(json_array_get(pending, 0)), "certs");
	json_decref(pending);
	cv_ready_done(telemetry, "nothing of that name");
	cv_ready_done(telemetry, "xds");
	cv_ready_done(telemetry, "certs");
	pending = cv_ready_pending(telemetry);
	assert_int_equal(json_array_size(pending), 0);
	json_decref(pending);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_complete),	TEST(test_failed_inbound), TEST(test_opened),
		TEST(test_plaintext),	TEST(test_early_deny),	   TEST(test_lists),
		TEST(test_closed_ring), TEST(test_snapshot_holds), TEST(test_ready),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
