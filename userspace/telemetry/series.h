/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Series of the istio_tcp_* families: one per distinct set of labels.
 *
 * All that labels are made of is interned, so the key of a series is an array of pointers and a
 * connection finds its series without printing a label. response_flags is no part of the key: a
 * connection gets its series when it opens, and its flag when it closes, so each series counts
 * closings per flag. Series are never removed while the table lives, so a pointer to one stays
 * good and counting takes no lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "userspace/telemetry/traffic.h"

enum { CV_SERIES_BUCKETS = 4096 };

/* What one end contributes. */
struct cv_series_end {
	cv_str workload_name, canonical_name, canonical_revision, ns, cluster_id;
	cv_str region, zone;
	struct cv_identity principal; /* empty = unknown */
};

/* Compared as bytes: no padding. */
struct cv_series_key {
	struct cv_series_end src, dst;
	cv_str service_host, service_ns, service_name;
	uint32_t reporter; /* enum cv_reporter */
	uint32_t tier; /* enum cv_tier */
	uint32_t mtls;
	uint32_t located; /* a workload is known: with locality labels */
};

struct cv_series {
	struct cv_series *same_bucket; /* immutable once published */
	struct cv_series *_Atomic next; /* in order of creation */
	struct cv_series_key key; /* holds references */
	_Atomic uint64_t opened, client_to_server, server_to_client;
	_Atomic uint64_t closed[CV_FLAG_NR];
	char *labels; /* `reporter="source",…,response_flags="",…` */
	size_t flags_at; /* the value of response_flags goes here in labels */
};

struct cv_series_table {
	struct cv_series *_Atomic bucket[CV_SERIES_BUCKETS];
	struct cv_series *_Atomic first;
	struct cv_series *last; /* under lock */
	unsigned n, max; /* n under lock; the series of the overflow do not count */
	_Atomic uint64_t overflowed; /* connections whose labels had no room */
	cv_str overflow; /* the workloads' name in the series of the overflow */
	pthread_mutex_t lock; /* writers */
};

void cv_series_init(struct cv_series_table *t, unsigned max);
void cv_series_fini(struct cv_series_table *t);

/* The series of a connection; when the table is full, one whose workloads are "overflow".
 * NULL only when memory is out. Any thread. */
struct cv_series *cv_series_get(struct cv_series_table *t, const struct cv_traffic_info *info);
