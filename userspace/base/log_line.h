/* SPDX-License-Identifier: Apache-2.0 */
/* One log line as text, in both formats. */
#pragma once

#include <stddef.h>
#include <time.h>

#include "userspace/base/buf.h"

enum { CV_LOG_LINE_BYTES = 16384 }; /* what is longer is cut */

struct cv_log_field;

struct cv_log_line {
	struct timespec time; /* CLOCK_REALTIME */
	int level; /* enum cv_log_level */
	const char *target, *message;
	const struct cv_log_field *fields;
	size_t nr_fields;
};

/* Append the line with its newline. Nothing is appended when there is no memory. */
void cv_log_line_plain(const struct cv_log_line *line, struct cv_buf *out);
void cv_log_line_json(const struct cv_log_line *line, struct cv_buf *out);
