/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two HTTP/2 sessions back to back in memory: what one writes the other is fed, until both are
 * quiet. Every stream has a flow at each end that records what its callbacks said.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/buf.h"
#include "userspace/proto/h2.h"

struct h2end;

/* One end of one stream. */
struct h2flow {
	struct h2flow *next;
	struct h2end *end;
	struct cv_h2_stream *s; /* NULL once closed */
	struct cv_hbone_request request; /* server: texts without their cv_strs */
	char forwarded_host[64], workload[64];
	int status; /* client: of the response, 0 = none yet */
	char cluster[64]; /* client: from the response's baggage */
	uint64_t received, checksum;
	size_t unconsumed; /* received and held back */
	bool hold; /* do not consume by itself */
	unsigned data_calls, sent_calls;
	bool eof, closed;
	uint32_t code;
	uint8_t *memory, *payload; /* of h2flow_send, with headroom */
	uint64_t to_send; /* what is left to offer, in pieces */
	size_t piece;
	uint64_t sent_checksum;
	void (*on_data)(struct h2flow *f); /* runs inside the callback */
};

struct h2end {
	struct cv_h2 *h2;
	struct cv_buf out;
	size_t room; /* SIZE_MAX = no limit; what ops->room says */
	bool limit_room; /* room shrinks with every write */
	int write_result; /* what ops->write returns */
	unsigned writes;
	size_t largest_write;
	struct h2flow *flows; /* latest first */
	unsigned nr_flows;
	int respond; /* server: status to answer with at once, 0 = the test answers */
	bool hold; /* new flows hold what they receive */
	unsigned goaways;
	int result; /* last of cv_h2_input and cv_h2_output that was not 0 */
};

struct h2pair {
	struct h2end client, server;
	uint64_t now_ms;
};

void h2pair_init(struct h2pair *p);
void h2pair_fini(struct h2pair *p);
/* One end alone, for hostile peers. */
void h2end_init(struct h2end *e, bool server, uint64_t now_ms);
void h2end_fini(struct h2end *e);
/* Moves bytes both ways until nothing moves. chunk = bytes of one cv_h2_input, 0 = all. */
void h2pair_pump(struct h2pair *p, size_t chunk);
/* Output of `from` to `to`; returns the bytes moved. */
size_t h2pair_move(struct h2end *from, struct h2end *to, size_t chunk, uint64_t now_ms);

/* Opens a stream; NULL when the session refuses. */
struct h2flow *h2pair_connect(struct h2pair *p, const struct cv_h2_connect *req);
/* The server's flow of the request that came last. */
struct h2flow *h2pair_latest(struct h2pair *p);
/* Offers `total` bytes of a pattern, `piece` at a time. */
void h2flow_send(struct h2flow *f, uint64_t total, size_t piece);
/* Announces what was held back as consumed. */
void h2flow_consume(struct h2flow *f);
