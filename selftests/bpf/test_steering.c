// SPDX-License-Identifier: Apache-2.0
/*
 * pod_lookup through BPF_PROG_RUN: who receives a connection to the pod, for every kind of source,
 * destination and attested entry. Nothing is attached.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <netinet/in.h>

#include "selftests/lib/progrun.h"
#include "userspace/base/cleanup.h"

enum { SPORT = 4000, DPORT = 8080 };

enum { NOBODY = -1, APPLICATION = -2 };

struct dial {
	const char *name, *src, *dst;
	uint16_t dport;
	uint8_t proto; /* 0 = TCP */
	enum cv_kind attested; /* NONE = no entry */
	uint32_t dst_pod; /* of the entry */
	enum cv_answer answer; /* of the pair PROGRUN_PEER -> PROGRUN_POD */
	int want; /* listener slot, APPLICATION or NOBODY */
	enum cv_reason reason;
};

static void attest_dial(const struct dial *d, bool add)
{
	const struct cv_attested_entry e = { .src_pod = PROGRUN_PEER,
					     .dst_pod = d->dst_pod,
					     .kind = d->attested };
	const struct cv_verdict_key pair = { .src_pod = PROGRUN_PEER, .dst_pod = PROGRUN_POD };
	const struct cv_verdict_entry verdict = { .answer = d->answer, .tier = CV_TIER_DIRECT };
	const struct cv_tuple t = { .src = progrun_ip(d->src),
				    .dst = progrun_ip(d->dst),
				    .sport = htons(SPORT),
				    .dport = htons(d->dport) };

	progrun_attest(&t, add && d->attested ? &e : NULL);
	progrun_verdict(&pair, add && d->answer ? &verdict : NULL);
}

static int run_lookup(const struct dial *d)
{
	const struct cv_addr src = progrun_ip(d->src), dst = progrun_ip(d->dst);
	struct bpf_sk_lookup ctx = { .family = AF_INET6 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .ctx_out = &ctx, .ctx_size_out = sizeof(ctx));

	ctx.protocol = d->proto ? d->proto : IPPROTO_TCP;
	ctx.remote_port = htons(SPORT);
	ctx.local_port = d->dport;
	if (cv_addr_is_v4(&src)) {
		ctx.family = AF_INET;
		memcpy(&ctx.remote_ip4, src.b + 12, 4);
		memcpy(&ctx.local_ip4, dst.b + 12, 4);
	} else {
		memcpy(ctx.remote_ip6, src.b, 16);
		memcpy(ctx.local_ip6, dst.b, 16);
	}
	assert_int_equal(bpf_prog_test_run_opts(progrun_fd(PROGRUN_LOOKUP), &opts), 0);
	if (!opts.retval)
		return NOBODY;
	for (int slot = 0; slot < CV_LISTENER_NR; slot++) {
		if (ctx.cookie == progrun_listener_cookie((enum cv_listener)slot))
			return slot;
	}
	return APPLICATION;
}

/* The order: loopback and own, outbound, HBONE, attested, all else. Each row runs twice: a
 * look-up consumes nothing. */
static void test_steering(void **state)
{
#define PEER "10.88.0.2"
#define OWN  "10.88.0.1"
#define WIRE "10.99.0.1"
	static const struct dial rows[] = {
		{ "loopback", "127.0.0.1", "127.0.0.1", .dport = DPORT, .want = APPLICATION,
		  .reason = CV_REASON_LOOPBACK },
		{ "IPv6 loopback", "::1", "::1", .dport = DPORT, .want = APPLICATION,
		  .reason = CV_REASON_LOOPBACK },
		{ "own address", OWN, OWN, .dport = CV_PORT_HBONE, .want = APPLICATION,
		  .reason = CV_REASON_LOOPBACK },
		{ "captured", OWN, WIRE, .dport = DPORT, .want = CV_LISTENER_OUTBOUND,
		  .reason = CV_REASON_CAPTURED },
		{ "captured, to another's HBONE port", OWN, WIRE, .dport = CV_PORT_HBONE,
		  .want = CV_LISTENER_OUTBOUND, .reason = CV_REASON_CAPTURED },
		{ "captured, IPv6", "fd88::1", "fd99::1", .dport = DPORT,
		  .want = CV_LISTENER_OUTBOUND, .reason = CV_REASON_CAPTURED },
		{ "neither end is the pod's", WIRE, PEER, .dport = DPORT, .want = NOBODY,
		  .reason = CV_REASON_FORGED_SOURCE },
		{ "HBONE", WIRE, OWN, .dport = CV_PORT_HBONE, .want = CV_LISTENER_HBONE,
		  .reason = CV_REASON_HBONE },
		{ "HBONE, even if attested", PEER, OWN, .dport = CV_PORT_HBONE,
		  .attested = CV_KIND_DIRECT, .dst_pod = PROGRUN_POD, .answer = CV_ANSWER_ALLOW,
		  .want = CV_LISTENER_HBONE, .reason = CV_REASON_HBONE },
		{ "plain, from the wire", WIRE, OWN, .dport = DPORT, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "plain, IPv6", "fd99::1", "fd88::1", .dport = DPORT, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "the daemon's own port", WIRE, OWN, .dport = CV_PORT_OUTBOUND,
		  .want = CV_LISTENER_INBOUND, .reason = CV_REASON_INBOUND },
		{ "direct", PEER, OWN, .dport = DPORT, .attested = CV_KIND_DIRECT,
		  .dst_pod = PROGRUN_POD, .answer = CV_ANSWER_ALLOW, .want = APPLICATION,
		  .reason = CV_REASON_DIRECT },
		{ "direct, meanwhile denied", PEER, OWN, .dport = DPORT, .attested = CV_KIND_DIRECT,
		  .dst_pod = PROGRUN_POD, .answer = CV_ANSWER_DENY, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "direct, verdict gone", PEER, OWN, .dport = DPORT, .attested = CV_KIND_DIRECT,
		  .dst_pod = PROGRUN_POD, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "attested for another pod", PEER, OWN, .dport = DPORT, .attested = CV_KIND_DIRECT,
		  .dst_pod = 3, .answer = CV_ANSWER_ALLOW, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "captured at its source", PEER, OWN, .dport = DPORT, .attested = CV_KIND_CAPTURED,
		  .dst_pod = PROGRUN_POD, .answer = CV_ANSWER_ALLOW, .want = CV_LISTENER_INBOUND,
		  .reason = CV_REASON_INBOUND },
		{ "probe", WIRE, OWN, .dport = DPORT, .attested = CV_KIND_PROBE,
		  .dst_pod = PROGRUN_POD, .want = APPLICATION, .reason = CV_REASON_PROBE },
		{ "the daemon's leg", WIRE, OWN, .dport = DPORT, .attested = CV_KIND_DAEMON_LEG,
		  .dst_pod = PROGRUN_POD, .want = APPLICATION, .reason = CV_REASON_DAEMON_SOCKET },
		{ "UDP", WIRE, OWN, .dport = DPORT, .proto = IPPROTO_UDP, .want = APPLICATION,
		  .reason = CV_REASON_NOT_TCP },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++) {
		attest_dial(&rows[i], true);
		progrun_clear(NULL);
		for (uint64_t run = 1; run <= 2; run++) {
			int got = run_lookup(&rows[i]);

			if (got != rows[i].want || progrun_count(rows[i].reason) != run)
				fail_msg("%s: %d, want %d", rows[i].name, got, rows[i].want);
		}
		attest_dial(&rows[i], false);
	}
}

/* An empty slot is a refusal, never somebody else. */
static void test_steering_without_listeners(void **state)
{
	static const struct dial rows[] = {
		{ "outbound", OWN, WIRE, .dport = DPORT },
		{ "HBONE", WIRE, OWN, .dport = CV_PORT_HBONE },
		{ "inbound", WIRE, OWN, .dport = DPORT },
	};

	(void)state;
	for (int slot = 0; slot < CV_LISTENER_NR; slot++)
		progrun_listen((enum cv_listener)slot, false);
	for (size_t i = 0; i < CV_ARRAY_SIZE(rows); i++)
		assert_int_equal(run_lookup(&rows[i]), NOBODY);
	assert_int_equal(progrun_count(CV_REASON_NO_LISTENER), CV_ARRAY_SIZE(rows));
	for (int slot = 0; slot < CV_LISTENER_NR; slot++)
		progrun_listen((enum cv_listener)slot, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_steering, progrun_clear),
		cmocka_unit_test_setup(test_steering_without_listeners, progrun_clear),
	};

	return cmocka_run_group_tests(tests, progrun_up, progrun_down);
}
