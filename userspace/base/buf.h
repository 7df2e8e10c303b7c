/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte buffers. cv_buf owns storage with a hard limit; cv_span borrows.
 *
 *   storage ── head ── tail ── cap        readable = [head, tail)   writable = [tail, cap)
 *
 * A span is valid until the next reserve on the same buffer. Reaching the limit stops the
 * source (back-pressure); nothing is dropped.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cv_span {
	const uint8_t *data;
	size_t len;
};

struct cv_buf {
	uint8_t *storage;
	size_t head, tail, cap, limit;
};

void cv_buf_init(struct cv_buf *b, size_t limit); /* no storage yet */
void cv_buf_fini(struct cv_buf *b); /* frees; the buffer may be used again */
size_t cv_buf_len(const struct cv_buf *b);
size_t cv_buf_room(const struct cv_buf *b); /* limit - len */
/* At least n writable bytes; NULL when over the limit or out of memory. */
uint8_t *cv_buf_reserve(struct cv_buf *b, size_t n);
void cv_buf_commit(struct cv_buf *b, size_t n);
struct cv_span cv_buf_peek(const struct cv_buf *b);
void cv_buf_consume(struct cv_buf *b, size_t n); /* an emptied buffer starts at its beginning */
int cv_buf_append(struct cv_buf *b, const void *data, size_t n); /* -ENOBUFS */
/* Appends text without its NUL; 0, or -ENOBUFS and nothing was appended. */
int cv_buf_printf(struct cv_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cv_buf_vprintf(struct cv_buf *b, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));
/* Give the storage back when empty (idle connections hold no memory). */
void cv_buf_trim(struct cv_buf *b);
