/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Istio's resources as the mesh's objects.
 *
 * Unknown fields are ignored, unknown values of an enum refuse the resource, as everything does that
 * could not be served rightly. A match that cannot be understood does not: it is `unclear`.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "userspace/mesh/store.h"

enum { CV_XDS_ERROR = 256 };

#define CV_XDS_TYPE_ADDRESS	  "type.googleapis.com/istio.workload.Address"
#define CV_XDS_TYPE_AUTHORIZATION "type.googleapis.com/istio.security.Authorization"

/* An istio.workload.Address: fills kind, key (a reference) and object. -EINVAL with the reason. */
int cv_xds_decode_address(const uint8_t *data, size_t len, struct cv_delta *ret,
			  char error[CV_XDS_ERROR]);
/* An istio.security.Authorization; key is the resource's name. On -EINVAL the delta holds, where one
 * can be made, a policy of the same scope that denies everything. */
int cv_xds_decode_policy(cv_str name, const uint8_t *data, size_t len, struct cv_delta *ret,
			 char error[CV_XDS_ERROR]);
