/* SPDX-License-Identifier: Apache-2.0 */
/* What this kernel can do, asked by trying; never by its version. */
#pragma once

#include "loader/loader.h"

/* TCX attach types, which the user-space headers of Debian 12 do not have yet. */
enum { CV_BPF_TCX_INGRESS = 46, CV_BPF_TCX_EGRESS = 47 };
/* Of bpf_link_create: before all others on the hook. */
enum { CV_BPF_F_BEFORE = 1 << 3 };

/* Fills everything but fastpath. Never fails: what cannot be probed counts as missing. */
void cv_features_probe(struct cv_bpf_features *ret);
/* Names something that the programs cannot do without and this kernel lacks; NULL = nothing is
 * known to be missing. For the message after a failed load. */
const char *cv_features_missing(void);
