/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two formats of a log line:
 *
 *   plain  2026-08-20T09:15:02.120345Z⇥info⇥access⇥connection complete⇥src.addr=10.7.0.9:51022 …
 *   json   {"level":"info","time":"2026-…Z","scope":"access","message":"…","src.addr":"…",…}
 *
 * Quoted texts follow Rust's debug format in the plain one (that is what readers of these logs
 * parse) and JSON's rules in the other; bytes that are no UTF-8 become U+FFFD. A message that is
 * too long is cut, a field is left out whole, so that a JSON line stays JSON.
 */
#include "userspace/base/log_line.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CV_LOG_TARGET "log"
#include "userspace/base/log.h"

enum quoting { BARE, QUOTE_DEBUG, QUOTE_JSON };

/* Kept free for what closes a line. */
enum { TAIL_BYTES = 8 };

static const char *const level_names[] = { "off", "error", "warn", "info", "debug", "trace" };

/* Length of the UTF-8 character at text, 0 when the bytes are none. */
static size_t utf8_length(const uint8_t *text, size_t len)
{
	size_t n = *text < 0x80 ? 1 :
		   *text < 0xc2 ? 0 :
		   *text < 0xe0 ? 2 :
		   *text < 0xf0 ? 3 :
		   *text < 0xf5 ? 4 :
				  0;

	if (!n || n > len)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Over-long forms, surrogates, and what lies above U+10FFFF. */
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
	    (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return n;
}

/* The escape for an ASCII character, or NULL when it stands for itself. */
static const char *escape_of(uint8_t c, enum quoting quoting, char scratch[12])
{
	switch (c) {
	case '\n':
		return "\\n";
	case '\r':
		return "\\r";
	case '\t':
		return "\\t";
	case '"':
		return quoting == BARE ? NULL : "\\\"";
	case '\\':
		return quoting == BARE ? NULL : "\\\\";
	default:
		if (c >= 0x20 && c != 0x7f)
			return NULL;
		snprintf(scratch, 12, quoting == QUOTE_JSON ? "\\u%04x" : "\\u{%x}", c);
		return scratch;
	}
}

/* How many characters from here on stand for themselves in every quoting: most of a line does. */
static size_t plain_length(const uint8_t *text, size_t len)
{
	size_t n = 0;

	while (n < len && text[n] >= 0x20 && text[n] < 0x7f && text[n] != '"' && text[n] != '\\')
		n++;
	return n;
}

/* Appends of a run of such characters what has room. */
static int append_plain(struct cv_buf *out, const uint8_t *text, size_t len)
{
	size_t room = out->limit - cv_buf_len(out);

	if (len <= room)
		return cv_buf_append(out, text, len);
	(void)cv_buf_append(out, text, room); /* the line is cut anyway */
	return -ENOBUFS;
}

/* Appends text with its escapes; -ENOBUFS leaves what had room. */
static int append_escaped(struct cv_buf *out, const char *text, enum quoting quoting)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t left = strlen(text);
	char scratch[12];
	int r = 0;

	while (left && !r) {
		size_t n = plain_length(p, left);
		const char *escape;

		if (n) {
			r = append_plain(out, p, n);
		} else {
			n = utf8_length(p, left);
			escape = n == 1 ? escape_of(*p, quoting, scratch) :
				 n	? NULL :
					  "\xef\xbf\xbd";
			r = escape ? cv_buf_append(out, escape, strlen(escape)) :
				     cv_buf_append(out, p, n);
			n = n ? n : 1;
		}
		p += n;
		left -= n;
	}
	return r;
}

static int append_quoted(struct cv_buf *out, const char *text, enum quoting quoting)
{
	int r = cv_buf_append(out, "\"", 1);

	r = r ? r : append_escaped(out, text, quoting);
	return r ? r : cv_buf_append(out, "\"", 1);
}

/* Appends "2026-08-20T09:15:02.120345Z". The calendar part is made once a second per thread. */
static int append_time(struct cv_buf *out, const struct timespec *t)
{
	static _Thread_local char calendar[sizeof("2026-08-20T09:15:02")];
	static _Thread_local time_t calendar_of = -1;
	struct tm tm;

	if (t->tv_sec != calendar_of) {
		gmtime_r(&t->tv_sec, &tm);
		strftime(calendar, sizeof(calendar), "%Y-%m-%dT%H:%M:%S", &tm);
		calendar_of = t->tv_sec;
	}
	return cv_buf_printf(out, "%s.%06ldZ", calendar, t->tv_nsec / 1000);
}

/* An integer as JSON writes it; longer ones would lose digits in most readers. */
static bool is_json_integer(const char *text)
{
	size_t digits;

	text += *text == '-';
	digits = strspn(text, "0123456789");
	return digits && digits <= 15 && !text[digits] && (digits == 1 || *text != '0');
}

static int append_field_plain(struct cv_buf *out, const struct cv_log_field *f, bool first)
{
	int r = cv_buf_append(out, first ? "\t" : " ", 1);

	r = r ? r : cv_buf_append(out, f->key, strlen(f->key));
	r = r ? r : cv_buf_append(out, "=", 1);
	if (r)
		return r;
	return f->bare ? append_escaped(out, f->text, BARE) :
			 append_quoted(out, f->text, QUOTE_DEBUG);
}

static int append_field_json(struct cv_buf *out, const struct cv_log_field *f)
{
	int r = cv_buf_append(out, ",", 1);

	r = r ? r : append_quoted(out, f->key, QUOTE_JSON);
	r = r ? r : cv_buf_append(out, ":", 1);
	if (r)
		return r;
	return f->bare && is_json_integer(f->text) ? append_escaped(out, f->text, BARE) :
						     append_quoted(out, f->text, QUOTE_JSON);
}

static void append_fields(const struct cv_log_line *line, struct cv_buf *out, bool json)
{
	bool first = true;

	for (size_t i = 0; i < line->nr_fields; i++) {
		const struct cv_log_field *f = &line->fields[i];
		size_t mark = out->tail;

		if (!f->text)
			continue;
		if (json ? append_field_json(out, f) : append_field_plain(out, f, first))
			out->tail = mark;
		else
			first = false;
	}
}

/* Closes a line whose body was written under a limit of TAIL_BYTES less. */
static void finish(struct cv_buf *out, int r, const char *tail)
{
	out->limit += TAIL_BYTES;
	if (r || cv_buf_append(out, tail, strlen(tail)))
		cv_buf_fini(out);
}

void cv_log_line_plain(const struct cv_log_line *line, struct cv_buf *out)
{
	int r;

	out->limit -= TAIL_BYTES;
	r = append_time(out, &line->time);
	r = r ? r : cv_buf_printf(out, "\t%s\t%s\t", level_names[line->level], line->target);
	if (!r && !append_escaped(out, line->message, BARE))
		append_fields(line, out, false);
	finish(out, r, "\n");
}

void cv_log_line_json(const struct cv_log_line *line, struct cv_buf *out)
{
	bool cut;
	int r;

	out->limit -= TAIL_BYTES;
	r = cv_buf_printf(out, "{\"level\":\"%s\",\"time\":\"", level_names[line->level]);
	r = r ? r : append_time(out, &line->time);
	r = r ? r : cv_buf_append(out, "\",\"scope\":", strlen("\",\"scope\":"));
	r = r ? r : append_quoted(out, line->target, QUOTE_JSON);
	r = r ? r : cv_buf_append(out, ",\"message\":\"", strlen(",\"message\":\""));
	cut = !r && append_escaped(out, line->message, QUOTE_JSON);
	if (!r && !cut && !cv_buf_append(out, "\"", 1)) {
		append_fields(line, out, true);
		finish(out, r, "}\n");
	} else {
		finish(out, r, "\"}\n");
	}
}
