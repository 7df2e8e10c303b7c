/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Series of the istio_dns_* families, inside of struct cv_telemetry. A pod chooses the type of its
 * queries, from a small set of texts; so series are bounded by that set and the mesh's workloads, and
 * by a limit beyond which they are counted together.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "userspace/base/strs.h"

enum { CV_DNS_SERIES_BUCKETS = 256, CV_DNS_TIME_BUCKETS = 6 };

struct cv_dns_series {
	struct cv_dns_series *same_bucket; /* immutable once published */
	struct cv_dns_series *_Atomic next; /* in order of creation */
	const char *type; /* static */
	cv_str service, revision; /* of the source; references */
	bool tcp;
	_Atomic uint64_t queries, upstream, failures;
	_Atomic uint64_t took_ns; /* sum */
	_Atomic uint64_t took[CV_DNS_TIME_BUCKETS + 1]; /* not cumulative; the last: slower */
	char *labels;
};

struct cv_dns_series_table {
	struct cv_dns_series *_Atomic bucket[CV_DNS_SERIES_BUCKETS];
	struct cv_dns_series *_Atomic first;
	struct cv_dns_series *last; /* under lock */
	unsigned n; /* under lock */
	pthread_mutex_t lock; /* writers */
};

void cv_dns_series_init(struct cv_dns_series_table *t);
void cv_dns_series_fini(struct cv_dns_series_table *t);
/* Every family in the exposition format. */
void cv_dns_series_print(struct cv_dns_series_table *t, FILE *out);
