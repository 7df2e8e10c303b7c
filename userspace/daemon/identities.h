/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The identities of the enrolled pods: their certificates are fetched before traffic asks for
 * them and forgotten when the last pod of an identity has gone. Control thread only.
 */
#pragma once

#include <stddef.h>

#include "userspace/mesh/certs.h"
#include "userspace/mesh/store.h"
#include "userspace/node/pods.h"

struct cv_identities {
	struct cv_identity *held;
	size_t n;
};

/* Compares the daemon's with the pods that are enrolled now: prefetches the new, forgets the gone. */
struct cv_daemon;
void cv_identities_sync(struct cv_daemon *d);
void cv_identities_fini(struct cv_identities *ids);
