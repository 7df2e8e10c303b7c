/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's (or container's) resolv.conf(5): which servers, how long and how often to ask. Its
 * search list is not of interest: whoever asks us has applied its own. */
#pragma once

#include "userspace/base/addr.h"
#include "userspace/limits.h"

struct cv_resolv_conf {
	struct cv_sockaddr servers[CV_LIMIT_DNS_SERVERS];
	unsigned nr_servers;
	unsigned timeout_ms; /* of one try */
	unsigned attempts; /* of each server */
};

/* Reads the file anew, as libc understands it (RES_OPTIONS included): without a file the
 * server is 127.0.0.1. -EIO: libc gave up. */
int cv_resolv_conf_read(struct cv_resolv_conf *ret);
