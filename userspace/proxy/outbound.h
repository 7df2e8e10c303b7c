/* SPDX-License-Identifier: Apache-2.0 */
/* Captured outbound connections (15001): route, then plain TCP or an HBONE stream. */
#pragma once

#include "userspace/base/addr.h"

struct cv_lane;
struct cv_session;

/* Takes an accepted socket; dst is what the client dialled, as the socket knows it. */
void cv_outbound_start(struct cv_lane *lane, int fd, const struct cv_sockaddr *client,
		       const struct cv_sockaddr *dst);
/* The peer has answered the CONNECT. */
void cv_outbound_on_response(struct cv_session *s, int status);
/* Policy changed: closes a connection that its destination cannot judge, and that is now denied. */
void cv_outbound_judge_again(struct cv_session *s);
