/* SPDX-License-Identifier: Apache-2.0 */
/* What compile.c and compile_services.c share. */
#pragma once

#include "userspace/node/compile.h"
#include "userspace/node/table.h"

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
	struct cv_sorted services; /* struct cv_service_row, as last written */
	uint32_t generation; /* of what is being written */
	uint32_t last_service; /* id given out last */
	bool changed; /* this run wrote something */
	bool stale; /* the last run failed: what `services` says may not be what is written */
};

/* Brings cv_services and cv_endpoints up to date. */
int cv_compile_services(struct cv_compile *c);
/* Takes over what an earlier daemon wrote to them. */
int cv_compile_services_load(struct cv_compile *c);
void cv_compile_services_fini(struct cv_sorted *services);
