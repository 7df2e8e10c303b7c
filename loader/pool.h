/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances of the per-pod programs, loaded ahead of need.
 *
 * Verifying pod_egress takes the kernel some 10 to 20 ms, too long for an enrolment; the rest of
 * one waits for RCU anyway. So a thread of low priority keeps a few instances ready, which are
 * told their pod when they are taken. Thread-safe.
 */
#pragma once

#include "loader/clone.h"

struct cv_pool;

/* Templates are borrowed until cv_pool_free; those that all pods share are left alone. */
int cv_pool_new(struct cv_pool **ret, const struct cv_template *templates, size_t n);
void cv_pool_free(struct cv_pool **pool);
/* An instance of templates[index] for a pod: a ready one, else loaded now. Returns its fd. */
int cv_pool_take(struct cv_pool *pool, size_t index, const struct cv_pod_data *pod);
