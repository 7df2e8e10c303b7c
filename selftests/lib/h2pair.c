/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 sessions back to back, see h2pair.h. */
#include "selftests/lib/h2pair.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum { OUT_LIMIT = 64 << 20 };

/* Order matters to it, so that bytes that were swapped are noticed. */
static uint64_t mix(uint64_t sum, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum = sum * 31 + data[i];
	return sum;
}

static struct h2flow *flow_new(struct h2end *e, struct cv_h2_stream *s)
{
	struct h2flow *f = calloc(1, sizeof(*f));

	assert(f);
	f->end = e;
	f->s = s;
	f->hold = e->hold;
	f->next = e->flows;
	e->flows = f;
	e->nr_flows++;
	return f;
}

static int on_write(void *conn, const uint8_t *data, size_t len)
{
	struct h2end *e = conn;

	e->writes++;
	e->largest_write = len > e->largest_write ? len : e->largest_write;
	if (e->write_result < 0)
		return e->write_result;
	if (e->limit_room)
		e->room -= len < e->room ? len : e->room;
	return cv_buf_append(&e->out, data, len);
}

static size_t on_room(void *conn)
{
	struct h2end *e = conn;

	return e->room;
}

static void on_request(void *conn, struct cv_h2_stream *s, const struct cv_hbone_request *r)
{
	struct h2end *e = conn;
	struct h2flow *f = flow_new(e, s);

	cv_h2_stream_set_user(s, f);
	f->request = *r;
	snprintf(f->forwarded_host, sizeof(f->forwarded_host), "%s",
		 cv_str_text(r->forwarded_host));
	snprintf(f->workload, sizeof(f->workload), "%s", cv_str_text(r->baggage.workload_name));
	if (e->respond)
		cv_h2_respond(s, e->respond, NULL);
}

static void on_response(void *conn, struct cv_h2_stream *s, int status,
			const struct cv_baggage *baggage)
{
	struct h2flow *f = cv_h2_stream_user(s);

	(void)conn;
	assert(!f->status);
	f->status = status;
	if (baggage)
		snprintf(f->cluster, sizeof(f->cluster), "%s", cv_str_text(baggage->cluster));
}

static void on_data(void *conn, struct cv_h2_stream *s, const uint8_t *data, size_t len)
{
	struct h2flow *f = cv_h2_stream_user(s);

	(void)conn;
	assert(!f->closed && !f->eof);
	f->data_calls++;
	f->received += len;
	f->checksum = mix(f->checksum, data, len);
	f->unconsumed += len;
	if (!f->hold)
		h2flow_consume(f);
	if (f->on_data)
		f->on_data(f);
}

static void on_eof(void *conn, struct cv_h2_stream *s)
{
	struct h2flow *f = cv_h2_stream_user(s);

	(void)conn;
	assert(!f->eof && !f->closed);
	f->eof = true;
}

/* Offers the next piece. */
static void offer(struct h2flow *f)
{
	size_t n = f->to_send < f->piece ? f->to_send : f->piece;
	int r;

	if (!n)
		return;
	for (size_t i = 0; i < n; i++)
		f->payload[i] = (uint8_t)(f->to_send * 7 + i);
	f->sent_checksum = mix(f->sent_checksum, f->payload, n);
	f->to_send -= n;
	r = cv_h2_send(f->s, f->payload, n);
	assert(!r);
}

static void on_sent(void *conn, struct cv_h2_stream *s)
{
	struct h2flow *f = cv_h2_stream_user(s);

	(void)conn;
	f->sent_calls++;
	if (!cv_h2_send_pending(s))
		offer(f);
}

static void on_closed(void *conn, struct cv_h2_stream *s, uint32_t code)
{
	struct h2flow *f = cv_h2_stream_user(s);

	(void)conn;
	if (!f)
		return; /* a request that never came to be one */
	assert(!f->closed);
	f->closed = true;
	f->code = code;
	f->s = NULL;
}

static void on_goaway(void *conn)
{
	struct h2end *e = conn;

	e->goaways++;
}

static const struct cv_h2_ops ops = {
	.write = on_write,
	.room = on_room,
	.on_request = on_request,
	.on_response = on_response,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_sent = on_sent,
	.on_closed = on_closed,
	.on_goaway = on_goaway,
};

void h2end_init(struct h2end *e, bool server, uint64_t now_ms)
{
	int r;

	*e = (struct h2end){ .room = SIZE_MAX, .respond = 200 };
	cv_buf_init(&e->out, OUT_LIMIT);
	r = cv_h2_new(&e->h2, server, &ops, e, now_ms);
	assert(!r);
}

void h2end_fini(struct h2end *e)
{
	cv_h2_free(&e->h2);
	for (struct h2flow *f = e->flows, *next; f; f = next) {
		next = f->next;
		assert(f->closed);
		free(f->memory);
		free(f);
	}
	cv_buf_fini(&e->out);
}

void h2pair_init(struct h2pair *p)
{
	p->now_ms = 1000;
	h2end_init(&p->client, false, p->now_ms);
	h2end_init(&p->server, true, p->now_ms);
	h2pair_pump(p, 0);
}

void h2pair_fini(struct h2pair *p)
{
	h2end_fini(&p->client);
	h2end_fini(&p->server);
}

static void note(struct h2end *e, int r)
{
	if (r)
		e->result = r;
}

size_t h2pair_move(struct h2end *from, struct h2end *to, size_t chunk, uint64_t now_ms)
{
	_cleanup_free_ uint8_t *copy = NULL;
	size_t len, n;

	note(from, cv_h2_output(from->h2));
	len = cv_buf_len(&from->out);
	if (!len)
		return 0;
	/* Memory of its own: who reads beyond a chunk is caught. */
	for (size_t at = 0; at < len; at += n) {
		n = chunk && len - at > chunk ? chunk : len - at;
		free(copy);
		copy = malloc(n);
		assert(copy);
		memcpy(copy, cv_buf_peek(&from->out).data + at, n);
		note(to, cv_h2_input(to->h2, copy, n, now_ms));
	}
	cv_buf_consume(&from->out, len);
	return len;
}

void h2pair_pump(struct h2pair *p, size_t chunk)
{
	size_t moved;

	do {
		moved = h2pair_move(&p->client, &p->server, chunk, p->now_ms);
		moved += h2pair_move(&p->server, &p->client, chunk, p->now_ms);
	} while (moved);
}

struct h2flow *h2pair_connect(struct h2pair *p, const struct cv_h2_connect *req)
{
	static const struct cv_h2_connect plain = { .authority = "10.0.0.1:80" };
	struct h2flow *f = flow_new(&p->client, NULL);

	if (cv_h2_connect(p->client.h2, req ? req : &plain, f, &f->s)) {
		f->closed = true;
		return NULL;
	}
	return f;
}

struct h2flow *h2pair_latest(struct h2pair *p)
{
	return p->server.flows;
}

void h2flow_send(struct h2flow *f, uint64_t total, size_t piece)
{
	free(f->memory);
	f->memory = malloc(piece + CV_H2_HEADROOM);
	assert(f->memory);
	f->payload = f->memory + CV_H2_HEADROOM;
	f->piece = piece;
	f->to_send = total;
	offer(f);
}

void h2flow_consume(struct h2flow *f)
{
	size_t n = f->unconsumed;

	f->unconsumed = 0;
	if (f->s && n)
		cv_h2_consume(f->s, n);
}
