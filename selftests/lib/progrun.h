/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs, loaded for BPF_PROG_RUN and attached to nothing: one enrolled pod, number
 * PROGRUN_POD, with the addresses 10.88.0.1 and fd88::1 and all its listeners.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "maps/reasons.h"
#include "maps/types.h"
#include "userspace/base/addr.h"

enum { PROGRUN_POD = 1, PROGRUN_PEER = 2 };

/* The programs, as names of bpf_program__fd. */
enum progrun_prog { PROGRUN_EGRESS, PROGRUN_INGRESS, PROGRUN_LOOKUP };

/* cmocka fixtures; 0 or -1. */
int progrun_up(void **state);
int progrun_down(void **state);
/* Zeroes the counters; of a signature for a test's set-up. */
int progrun_clear(void **state);

int progrun_fd(enum progrun_prog prog);
uint64_t progrun_count(enum cv_reason reason);
void progrun_capture(bool on);
void progrun_listen(enum cv_listener slot, bool up);
uint64_t progrun_listener_cookie(enum cv_listener slot);
/* The daemon's DNS sockets: none there until this makes one. */
void progrun_dns(enum cv_dns_slot slot, bool up);
uint64_t progrun_dns_cookie(enum cv_dns_slot slot);
/* NULL removes the entry. */
void progrun_attest(const struct cv_tuple *t, const struct cv_attested_entry *e);
void progrun_verdict(const struct cv_verdict_key *key, const struct cv_verdict_entry *entry);
/* Fails the running test when the text is no address. */
struct cv_addr progrun_ip(const char *text);
