/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host name means to a pod: which service, and with which addresses.
 *
 * A name is tried as it is, as the Kubernetes names that it may be short for, and without the
 * search domains that the pod's own resolver may have appended; each of them exactly, then with
 * more and more labels replaced by a wildcard. The first service that is found, is visible to the
 * pod and has addresses to give (or is a headless Kubernetes service) answers. Everything else is
 * for the upstream resolver.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "userspace/mesh/store.h"

enum { CV_DNS_NAME_MAX = 254 }; /* a host name as text, with NUL */

/* How this node understands names. */
struct cv_dns_zone {
	const char *domain; /* CLUSTER_DOMAIN */
	const char *preferred_ns; /* PREFERED_SERVICE_NAMESPACE, NULL = none */
	bool ipv6; /* IPV6_ENABLED: else no name has an AAAA record */
};

enum cv_dns_outcome {
	CV_DNS_UNKNOWN, /* no service: forward */
	CV_DNS_SUCCESS,
	CV_DNS_NO_RECORDS, /* the service has no address of this family that the client may use */
	CV_DNS_UNSUPPORTED, /* the service is not of this family */
};

struct cv_dns_records {
	char cname[CV_DNS_NAME_MAX]; /* not empty: the owner of the addresses, the name is its alias */
	struct cv_addr *addrs; /* owned, in random order */
	size_t n;
};

struct cv_dns_ask {
	const struct cv_workload *client;
	const char *name; /* lower case, without the final dot */
	bool v6; /* AAAA, else A */
	uint64_t random; /* shuffles the addresses */
};
/* Fills ret, which is the caller's to fini in any case. Any RCU thread. */
enum cv_dns_outcome cv_dns_names_find(struct cv_store *s, const struct cv_dns_zone *zone,
				      const struct cv_dns_ask *ask, struct cv_dns_records *ret);
void cv_dns_records_fini(struct cv_dns_records *r);
