/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cv_buf: one block of storage between head and tail, grown by doubling up to its limit.
 *
 * Room is made by moving what is readable to the start, then by growing. With ASan the
 * storage of small buffers moves on every reserve, so that a span that outlived its reserve is
 * caught on its first use and not on the day the buffer happens to grow.
 */
#include "userspace/base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

/* Debug builds move small storage on every reserve, so that a stale span is caught at once. */
static bool moves_always(const struct cv_buf *b, size_t len)
{
#if defined(__SANITIZE_ADDRESS__)
	return b->storage && len < 4096;
#else
	(void)b;
	(void)len;
	return false;
#endif
}

static void validate(const struct cv_buf *b)
{
	assert(b->head <= b->tail && b->tail <= b->cap && b->cap <= b->limit);
	assert(!b->cap == !b->storage);
}

void cv_buf_init(struct cv_buf *b, size_t limit)
{
	*b = (struct cv_buf){ .limit = limit };
}

void cv_buf_fini(struct cv_buf *b)
{
	free(b->storage);
	cv_buf_init(b, b->limit);
}

size_t cv_buf_len(const struct cv_buf *b)
{
	return b->tail - b->head;
}

size_t cv_buf_room(const struct cv_buf *b)
{
	return b->limit - cv_buf_len(b);
}

/* Storage of another size with the readable bytes at its start. */
static int resize(struct cv_buf *b, size_t cap)
{
	size_t len = cv_buf_len(b);
	uint8_t *storage = malloc(cap);

	if (!storage)
		return -ENOMEM;
	if (len)
		memcpy(storage, b->storage + b->head, len);
	free(b->storage);
	b->storage = storage;
	b->head = 0;
	b->tail = len;
	b->cap = cap;
	return 0;
}

static size_t grown_capacity(const struct cv_buf *b, size_t want)
{
	size_t cap = b->cap ? b->cap : FIRST_CAPACITY;

	while (cap < want && cap <= b->limit / 2)
		cap *= 2;
	return cap < want || cap > b->limit ? b->limit : cap;
}

uint8_t *cv_buf_reserve(struct cv_buf *b, size_t n)
{
	size_t len = cv_buf_len(b);

	validate(b);
	if (n > b->limit - len)
		return NULL;
	if (len + n > b->cap || moves_always(b, len)) {
		if (resize(b, grown_capacity(b, len + n)))
			return NULL;
	} else if (n > b->cap - b->tail) {
		memmove(b->storage, b->storage + b->head, len);
		b->head = 0;
		b->tail = len;
	}
	return b->storage + b->tail;
}

void cv_buf_commit(struct cv_buf *b, size_t n)
{
	assert(n <= b->cap - b->tail);
	b->tail += n;
}

struct cv_span cv_buf_peek(const struct cv_buf *b)
{
	return (struct cv_span){ .data = b->storage + b->head, .len = cv_buf_len(b) };
}

void cv_buf_consume(struct cv_buf *b, size_t n)
{
	assert(n <= cv_buf_len(b));
	b->head += n;
	if (b->head == b->tail)
		b->head = b->tail = 0;
}

int cv_buf_append(struct cv_buf *b, const void *data, size_t n)
{
	uint8_t *room;

	if (!n)
		return 0;
	room = cv_buf_reserve(b, n);
	if (!room)
		return -ENOBUFS;
	memcpy(room, data, n);
	cv_buf_commit(b, n);
	return 0;
}

int cv_buf_printf(struct cv_buf *b, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = cv_buf_vprintf(b, fmt, ap);
	va_end(ap);
	return r;
}

int cv_buf_vprintf(struct cv_buf *b, const char *fmt, va_list ap)
{
	size_t room = b->cap - b->tail;
	va_list again;
	uint8_t *out;
	int n;

	/* Most texts fit into what is there; the others are printed twice. */
	va_copy(again, ap);
	n = vsnprintf(room ? (char *)b->storage + b->tail : NULL, room, fmt, ap);
	if (n >= 0 && (size_t)n < room) {
		cv_buf_commit(b, (size_t)n);
		n = 0;
	} else if (n >= 0) {
		out = cv_buf_reserve(b, (size_t)n + 1);
		if (out)
			cv_buf_commit(b, (size_t)vsnprintf((char *)out, (size_t)n + 1, fmt, again));
		n = out ? 0 : -ENOBUFS;
	} else {
		n = -EINVAL;
	}
	va_end(again);
	return n;
}

void cv_buf_trim(struct cv_buf *b)
{
	if (!cv_buf_len(b))
		cv_buf_fini(b);
}
