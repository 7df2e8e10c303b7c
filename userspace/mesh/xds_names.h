/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane has given us of one type: names and versions, which it is told when we come
 * back. One thread. Compact, because there is one of each workload of the mesh: istiod's versions
 * are 64-bit hashes in hexadecimal and kept as such.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/base/strs.h"

struct xds_name {
	cv_str name; /* a reference; NULL = free slot */
	uint64_t version; /* a number, or a cv_str with a reference */
};

struct xds_names {
	struct xds_name *slots;
	uint8_t *is_number; /* a bit a slot */
	size_t nr_slots, n; /* nr_slots 0 or a power of two */
};

enum { XDS_VERSION_TEXT = 17 };

bool xds_names_has(const struct xds_names *names, cv_str name);
/* Adds, or gives it another version; references what it keeps. */
void xds_names_set(struct xds_names *names, cv_str name, const char *version);
void xds_names_remove(struct xds_names *names, cv_str name);
void xds_names_fini(struct xds_names *names);
/* The name at or after *at, which moves on; NULL = no more. *ret_version is in buf or lives as long as
 * the entry. */
cv_str xds_names_next(const struct xds_names *names, size_t *at, const char **ret_version,
		      char buf[XDS_VERSION_TEXT]);
