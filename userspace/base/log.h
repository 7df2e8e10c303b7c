/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's log: ztunnel's plain and JSON formats, on stdout.
 *
 * A line is `<RFC 3339 µs Z>\t<level>\t<target>\t<message>\t<k=v …>` (or a JSON object with
 * LOG_FORMAT=json). Lines go through a bounded queue to one writer thread, which writes them
 * in batches; when the queue is full the caller waits (nothing is lost). Any thread may log.
 * base/, io/, proto/ and loader/ log at debug or trace only; the first caller above reports.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cv_log_level {
	CV_LOG_OFF,
	CV_LOG_ERROR,
	CV_LOG_WARN,
	CV_LOG_INFO,
	CV_LOG_DEBUG,
	CV_LOG_TRACE,
};

/* Starts the writer thread. filter is RUST_LOG's syntax: `level` and `target=level`, comma
 * separated (NULL = info); -EINVAL names nothing and changes nothing when it is malformed. */
int cv_log_init(const char *filter, bool json);
/* Flushes (for at most a second) and stops the writer. */
void cv_log_fini(void);
/* Before cv_log_init lines go straight to stderr, so tests need no set-up. */

/* Appends directives to the filter in force; `reset` goes back to the initial one first. */
int cv_log_filter_add(const char *directives, bool reset);
/* The filter in force, into buf; returns its length as snprintf does. */
int cv_log_filter_text(char *buf, size_t size);
bool cv_log_enabled(enum cv_log_level level, const char *target);

void cv_log_write(enum cv_log_level level, const char *target, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* A line with ztunnel-style fields after the message. String values are quoted in plain
 * format unless `bare` (addresses, numbers). NULL text = the field is omitted. */
struct cv_log_field {
	const char *key;
	const char *text;
	bool bare;
};
void cv_log_fields(enum cv_log_level level, const char *target, const char *message,
		   const struct cv_log_field *fields, size_t n);

/* CV_LOG_TARGET is defined by each .c file before its first include of this header. */
#define cv_log(level, ...)                                               \
	do {                                                             \
		if (cv_log_enabled(level, CV_LOG_TARGET))                \
			cv_log_write(level, CV_LOG_TARGET, __VA_ARGS__); \
	} while (0)
#define cv_error(...) cv_log(CV_LOG_ERROR, __VA_ARGS__)
#define cv_warn(...)  cv_log(CV_LOG_WARN, __VA_ARGS__)
#define cv_info(...)  cv_log(CV_LOG_INFO, __VA_ARGS__)
#define cv_debug(...) cv_log(CV_LOG_DEBUG, __VA_ARGS__)
#define cv_trace(...) cv_log(CV_LOG_TRACE, __VA_ARGS__)

/* `return cv_log_err(r, "attach %s", hook);` logs with the text of -errno r and returns r. */
#define cv_log_err(r, fmt, ...)                                           \
	({                                                                \
		int _cv_r = (r);                                          \
		cv_error(fmt ": %s", ##__VA_ARGS__, cv_strerror(-_cv_r)); \
		_cv_r;                                                    \
	})
/* Thread-safe text of an errno value; static or thread-local storage. */
const char *cv_strerror(int err);
/* The same with its number, as ztunnel's access log has errors: `Connection refused (os error 111)`.
 * Thread-local storage. */
const char *cv_os_error(int err);
