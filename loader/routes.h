/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routing that captured packets need inside a pod, per address family that the pod has:
 *
 *   ip rule fwmark BIT/BIT lookup TABLE priority PRIORITY
 *   ip route local default dev lo table TABLE src <an address of the pod>
 *
 * and net.ipv4.conf.lo.accept_local, for packets with the pod's own source address that come
 * in by lo. The calling thread is in the pod's namespace.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "maps/types.h"

/* Makes it so, replaces an outdated source address, and removes a family's entries when the pod
 * has no address of it. */
int cv_routes_ensure(const struct cv_addr *addrs, size_t n);
/* Removes what ensure makes; what is not there is fine. */
void cv_routes_remove(void);

/* Sets the sysctl; 1 = it was off, 0 = it was on already. */
int cv_accept_local_set(void);
void cv_accept_local_clear(void);
