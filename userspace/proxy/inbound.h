/* SPDX-License-Identifier: Apache-2.0 */
/* Inbound connections: requests of HBONE connections (15008) and plain TCP (15006). */
#pragma once

#include "userspace/base/addr.h"
#include "userspace/proto/h2.h"

struct cv_hbone_conn;
struct cv_lane;

/* A CONNECT (or what should be one) on an inbound HBONE connection. */
void cv_inbound_on_request(struct cv_hbone_conn *conn, struct cv_h2_stream *stream,
			   const struct cv_hbone_request *request);
/* Takes an accepted 15006 socket; dst is where it was going. */
void cv_plain_start(struct cv_lane *lane, int fd, const struct cv_sockaddr *client,
		    const struct cv_sockaddr *dst);
/* Policy changed: judges every session of the lane again, closes the denied ones. */
void cv_inbound_judge_again(struct cv_lane *lane);
