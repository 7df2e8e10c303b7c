/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Istio's CA behind a channel that is the test's own: what is asked, what an answer becomes, and
 * what a refusal is told as.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/istio_ca.h"
#include "userspace/proto/pb/certificate.pb-c.h"

enum { MAX_CALLS = 4 };

/* In the channel's place: keeps calls until they are answered. */
static struct channel {
	struct cv_channel_unary calls[MAX_CALLS];
	uint8_t message[4096];
	size_t nr_calls;
	bool freed;
} channel;

void cv_channel_unary(struct cv_channel *c, const struct cv_channel_unary *call)
{
	assert_ptr_equal(c, &channel);
	assert_true(channel.nr_calls < MAX_CALLS && call->len <= sizeof(channel.message));
	memcpy(channel.message, call->message, call->len);
	channel.calls[channel.nr_calls++] = *call;
}

void cv_channel_free(struct cv_channel **c)
{
	assert_ptr_equal(*c, &channel);
	*c = NULL;
	channel.freed = true;
	while (channel.nr_calls) {
		const struct cv_channel_unary *call = &channel.calls[--channel.nr_calls];

		call->done(call->arg, CV_GRPC_CANCELLED, "the channel is closed", NULL, 0);
	}
}

/* What the cache hears. */
static struct heard {
	int calls;
	bool unreachable;
	char error[512];
	char chain[64]; /* joined by "+" */
} heard;

static void on_answer(void *arg, const struct cv_ca_answer *answer)
{
	(void)arg; /* the only one */
	heard.calls++;
	heard.unreachable = answer->unreachable;
	snprintf(heard.error, sizeof(heard.error), "%s", answer->error ? answer->error : "");
	heard.chain[0] = '\0';
	for (size_t i = 0; i < answer->nr_chain; i++) {
		size_t len = strlen(heard.chain);

		snprintf(heard.chain + len, sizeof(heard.chain) - len, "%s%s", i ? "+" : "",
			 answer->chain[i]);
	}
}

static struct cv_ca ca;
static struct cv_identity web;

static int setup(void **state)
{
	(void)state;
	channel = (struct channel){};
	heard = (struct heard){};
	cv_identity_set(&web, cv_str_new("td"), cv_str_new("shop"), cv_str_new("web"));
	return cv_istio_ca_open(&ca, (struct cv_channel *)&channel);
}

static int teardown(void **state)
{
	(void)state;
	ca.free(ca.ctx);
	cv_identity_fini(&web);
	return !channel.freed || cv_str_count() != 0;
}

static void ask(void)
{
	ca.sign(ca.ctx, &(struct cv_ca_request){ &web, "the CSR", 3600, on_answer, NULL });
}

static void reply(int status, const char *text, const uint8_t *message, size_t len)
{
	const struct cv_channel_unary *call = &channel.calls[--channel.nr_calls];

	call->done(call->arg, status, text, message, len);
}

/* The request names whom it is for, and the identity to impersonate. */
static void test_request(void **state)
{
	Istio__V1__Auth__IstioCertificateRequest *r;
	const struct cv_channel_unary *call = &channel.calls[0];

	(void)state;
	ask();
	assert_string_equal(call->path, "/istio.v1.auth.IstioCertificateService/CreateCertificate");
	assert_in_range(call->max_len, 65536, 1 << 20);
	assert_in_range(call->timeout_ms, 1000, 60000);
	r = istio__v1__auth__istio_certificate_request__unpack(NULL, call->len, channel.message);
	assert_non_null(r);
	assert_string_equal(r->csr, "the CSR");
	assert_int_equal(r->validity_duration, 3600);
	assert_int_equal(r->metadata->n_fields, 1);
	assert_string_equal(r->metadata->fields[0]->key, "ImpersonatedIdentity");
	assert_string_equal(r->metadata->fields[0]->value->string_value,
			    "spiffe://td/ns/shop/sa/web");
	istio__v1__auth__istio_certificate_request__free_unpacked(r, NULL);
}

static void test_signed(void **state)
{
	static const uint8_t message[] = "\x0a\x04leaf\x0a\x05"
					 "inter\x12\x01?\x0a\x05roots"; /* and an unknown field */

	(void)state;
	ask();
	reply(CV_GRPC_OK, "", message, sizeof(message) - 1);
	assert_int_equal(heard.calls, 1);
	assert_string_equal(heard.error, "");
	assert_string_equal(heard.chain, "leaf+inter+roots");
	ask();
	reply(CV_GRPC_OK, "", message, 5); /* cut off */
	assert_int_equal(heard.calls, 2);
	assert_string_equal(heard.error, "the CA's answer is not an IstioCertificateResponse");
	assert_false(heard.unreachable);
	ask();
	reply(CV_GRPC_OK, "", message, 0);
	assert_string_equal(heard.error, "");
	assert_string_equal(heard.chain, "");
}

static void test_refusals(void **state)
{
	static const struct {
		int status;
		bool unreachable;
		const char *text, *parts[2];
	} rows[] = {
		{ CV_GRPC_UNAUTHENTICATED,
		  false,
		  "request impersonation authentication failure",
		  { "istiod says that no pod of spiffe://td/ns/shop/sa/web runs on this node",
		    "request impersonation authentication failure" } },
		{ CV_GRPC_UNAUTHENTICATED,
		  false,
		  "request authenticate failure",
		  { "istiod does not accept our token or cluster (AUTH_TOKEN",
		    "request authenticate failure" } },
		{ CV_GRPC_INTERNAL,
		  false,
		  "CSR signing error",
		  { "signing gRPC error (Internal): CSR signing error", "" } },
		{ CV_GRPC_RESOURCE_EXHAUSTED, false, "slow down", { "for its load", "slow down" } },
		{ CV_GRPC_UNAVAILABLE,
		  true,
		  "Connection refused",
		  { "the CA does not answer: Connection refused", "" } },
		{ CV_GRPC_DEADLINE_EXCEEDED, true, "10 s", { "the CA does not answer: 10 s", "" } },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		ask();
		reply(rows[i].status, rows[i].text, NULL, 0);
		assert_int_equal(heard.calls, i + 1);
		assert_non_null(strstr(heard.error, rows[i].parts[0]));
		assert_non_null(strstr(heard.error, rows[i].parts[1]));
		assert_int_equal(heard.unreachable, rows[i].unreachable);
	}
}

/* A text as long as the peer likes. */
static void test_long_refusal(void **state)
{
	char text[2048];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	ask();
	reply(CV_GRPC_UNAUTHENTICATED, text, NULL, 0);
	assert_int_equal(strlen(heard.error), sizeof(heard.error) - 1);
}

/* Nobody hears of calls that are open at the end. */
static void test_close(void **state)
{
	(void)state;
	ask();
	ask();
	ca.free(ca.ctx);
	assert_true(channel.freed);
	assert_int_equal(heard.calls, 0);
	assert_int_equal(cv_istio_ca_open(&ca, (struct cv_channel *)&channel), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_request, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_refusal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_close, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
