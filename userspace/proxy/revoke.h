/* SPDX-License-Identifier: Apache-2.0 */
/* What revocation lists do to HBONE connections. The connection's worker. */
#pragma once

#include "userspace/proxy/hbone_conn.h"

/* The handshake has failed: counted, if it was for a revoked certificate. */
void cv_revoke_count_refused(const struct cv_hbone_conn *c);
/* Other lists are in force: connections of peers that are revoked now end, with their streams. */
void cv_revoke_judge_again(struct cv_lane *lane);
