/* SPDX-License-Identifier: Apache-2.0 */
/* What compile.c, compile_verdicts.c and compile_services.c share. */
#pragma once

#include "userspace/limits.h"
#include "userspace/node/compile.h"
#include "userspace/node/table.h"

/* An enrolled pod that has a workload record: all that its verdicts depend on. */
struct cv_local {
	uint32_t number, epoch;
	struct cv_workload *workload; /* reference */
	struct cv_policy_set policies; /* references */
	struct cv_addr *addrs; /* owned */
	size_t nr_addrs;
	uint16_t ports[CV_LIMIT_POLICY_PORTS]; /* that policies name */
	size_t nr_ports;
	enum cv_same_node same_node;
	bool changed; /* since the last run */
};
struct cv_locals {
	struct cv_local *pods; /* owned */
	size_t n;
};

struct cv_verdict_row { /* of cv_verdicts */
	struct cv_verdict_key key;
	struct cv_verdict_entry value;
};

struct cv_service_row { /* of cv_services */
	struct cv_service_key key;
	struct cv_service_entry value;
	struct cv_endpoint_entry *slots; /* owned; NULL = an earlier daemon's, not known */
};

struct cv_compile {
	struct cv_compile_opts opts;
	struct cv_locals locals; /* of the last run */
	struct cv_sorted verdicts; /* struct cv_verdict_row, as last written */
	struct cv_sorted services; /* struct cv_service_row, as last written */
	uint32_t generation; /* of what is being written */
	uint32_t last_service; /* id given out last */
	bool changed; /* this run wrote something */
	bool full; /* something did not fit */
	bool stale; /* something failed or did not fit: what is written must be read again */
};

/* Brings cv_verdicts up to date: only pairs of which one end has changed are looked at. */
int cv_compile_verdicts(struct cv_compile *c);
/* Forgets what is remembered, and takes what is in the map instead. */
int cv_compile_verdicts_load(struct cv_compile *c);
void cv_compile_verdicts_fini(struct cv_compile *c);

/* Brings cv_services and cv_endpoints up to date. */
int cv_compile_services(struct cv_compile *c);
/* Forgets what is remembered, and takes what is in the maps instead. */
int cv_compile_services_load(struct cv_compile *c);
void cv_compile_services_fini(struct cv_sorted *services);
