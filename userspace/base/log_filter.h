/* SPDX-License-Identifier: Apache-2.0 */
/* The log filter: directives in RUST_LOG's syntax, and which level they let through for a target.
 * The public half (cv_log_filter_add, cv_log_filter_text, cv_log_enabled) is in base/log.h. */
#pragma once

/* Replaces the filter and the one that a reset goes back to. -EINVAL changes nothing. */
int cv_log_filter_set_initial(const char *directives);
