/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS messages, as bytes: a query is taken apart, an answer is put together, an upstream's answer
 * is checked and made ours. No sockets and no clock.
 *
 * Names are texts in lower case without the final dot ("" = the root). The question of an answer
 * is the query's own bytes, so whoever mixes cases to tell answers apart finds its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/addr.h"
#include "userspace/base/buf.h"

enum cv_dns_type {
	CV_DNS_A = 1,
	CV_DNS_CNAME = 5,
	CV_DNS_AAAA = 28,
};

enum cv_dns_rcode {
	CV_DNS_NOERROR = 0,
	CV_DNS_FORMERR = 1,
	CV_DNS_SERVFAIL = 2,
	CV_DNS_NXDOMAIN = 3,
	CV_DNS_NOTIMP = 4,
	CV_DNS_REFUSED = 5,
};

enum {
	CV_DNS_HEADER = 12, /* bytes */
	CV_DNS_UDP_SIZE = 512, /* of an answer over UDP, when the query has no EDNS */
	CV_DNS_TCP_SIZE = 65535,
	CV_DNS_NAME_TEXT = 1025, /* longest name as text (every byte escaped), with NUL */
	CV_DNS_TTL_S = 30, /* of our own records */
};

/* What a query asks. Filled as far as the message could be read. */
struct cv_dns_query {
	uint16_t id;
	uint16_t flags; /* second word of the header, host order */
	uint16_t type, class;
	size_t question_end; /* offset of the first byte after the question; 0 = none was read */
	size_t edns_at; /* offset of the OPT record's class, its payload size; 0 = no EDNS */
	uint16_t edns_size; /* what the client takes over UDP, at least 512 */
	uint8_t edns_version;
	bool dnssec_ok;
};

/* CV_DNS_NOERROR: a question that may be answered. Else the code to answer with: not a query,
 * another opcode, not exactly one question, malformed. -EBADMSG: not even a header, not to be
 * answered. name is a buffer of CV_DNS_NAME_TEXT bytes. */
int cv_dns_query_parse(struct cv_span message, struct cv_dns_query *ret, char *name);
/* Longest answer that the client takes over UDP. */
size_t cv_dns_udp_size(const struct cv_dns_query *q);
/* "a", "aaaa", "https", …; "unknown" for types without a name here. */
const char *cv_dns_type_text(uint16_t type);

struct cv_dns_answer {
	enum cv_dns_rcode rcode;
	bool authoritative;
	const char
		*cname; /* the name is an alias of this one, which has the addresses; NULL = none */
	const struct cv_addr *addrs; /* of the family that was asked for */
	size_t nr_addrs;
};
/* Writes the answer into buf; what does not fit in size (at least CV_DNS_UDP_SIZE) is left out and
 * the answer marked as truncated. Returns its length. */
size_t cv_dns_answer_write(struct cv_span query, const struct cv_dns_query *q,
			   const struct cv_dns_answer *a, uint8_t *buf, size_t size);

/* ---- forwarding ---- */

/* Makes a copy of the query, in place, what an upstream gets: an id of ours, and no larger payload
 * over UDP than max. */
void cv_dns_forward(uint8_t *message, const struct cv_dns_query *q, uint16_t id, uint16_t max);
/* Is it the answer to this query, sent under this id? Anybody can send us a datagram. */
bool cv_dns_is_answer(struct cv_span query, const struct cv_dns_query *q, uint16_t id,
		      struct cv_span answer);
/* Of an answer. */
bool cv_dns_is_truncated(struct cv_span answer);
enum cv_dns_rcode cv_dns_rcode(struct cv_span answer);
unsigned cv_dns_nr_answers(struct cv_span answer);
/* The answer as the client gets it, in place: the client's id, recursion available, not
 * authoritative. Longer than max, it is cut to its question and marked as truncated. Returns its
 * length. */
size_t cv_dns_relay(uint8_t *answer, size_t len, const struct cv_dns_query *q, size_t max);
