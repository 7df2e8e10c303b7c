/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Istio's certificate authority as a cv_ca: IstioCertificateService.CreateCertificate over a
 * channel. Every request names the workload's identity as the one to impersonate; the daemon's own
 * token says who asks. What istiod refuses is told as what it means.
 */
#pragma once

#include "userspace/mesh/certs.h"
#include "userspace/mesh/channel.h"

/* Ownership of channel moves. -ENOMEM frees it. */
int cv_istio_ca_open(struct cv_ca *ret, struct cv_channel *channel);
