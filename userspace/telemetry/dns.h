/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told about DNS queries: the istio_dns_* families, and a debug line a query under the log
 * target `dns`. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "userspace/mesh/types.h"
#include "userspace/telemetry/telemetry.h"

struct cv_dns_info {
	const char *type; /* "a", "aaaa", …: one of a small set of static texts */
	bool tcp;
	const struct cv_workload *src; /* NULL = unknown */
	const char *name; /* that was asked for; for the log alone */
};

/* Every query, once it is known what becomes of it. */
void cv_dns_count_query(struct cv_telemetry *t, const struct cv_dns_info *info);
/* A query that was forwarded, when it is over. */
void cv_dns_count_upstream(struct cv_telemetry *t, const struct cv_dns_info *info, uint64_t took_ns,
			   bool failed);
/* result: "success", "forwarded", …; records: how many were in the answer. */
void cv_dns_log(const struct cv_dns_info *info, const char *result, unsigned records);
