/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clsact filters, for kernels without TCX. A filter is no link, so the program is pinned where
 * the link would be, and only a filter that runs a program of ours is taken away. The
 * clsact qdisc stays: it may be somebody else's by now, and does nothing without filters.
 *
 * The calling thread is in the device's network namespace.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Does a filter of ours run there? */
bool cv_tc_is_attached(uint32_t ifindex, bool egress);
/* Attaches prog, or gives it to the filter of ours that is there, and pins it at path. */
int cv_tc_attach(uint32_t ifindex, bool egress, int prog, const char *path);
/* name is "egress-<ifindex>" or "ingress-<ifindex>". The pin stays the caller's to remove. */
void cv_tc_detach(const char *name);
