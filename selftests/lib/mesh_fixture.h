/* SPDX-License-Identifier: Apache-2.0 */
/* For unit tests: a store that is filled from YAML in the file format. */
#pragma once

#include "userspace/mesh/store.h"

/* The calling thread must be a registered RCU thread. */
struct cv_store *cv_fixture_store(const char *network, const char *node);
/* Adds or updates every object of the YAML text, as one batch. */
void cv_fixture_apply(struct cv_store *s, const char *yaml);
void cv_fixture_remove(struct cv_store *s, enum cv_delta_kind kind, const char *key);
struct cv_addr cv_fixture_ip(const char *text);
