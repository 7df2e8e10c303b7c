/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's metadata, which istiod shows and decides by: ISTIO_META_NAME as a string under NAME,
 * ISTIO_METAJSON_NAME as JSON. */
#pragma once

#include <jansson.h>

/* From the process's environment, which holds PROXY_CONFIG's by then. JSON that cannot be read is
 * logged and left out. New reference. */
json_t *cv_env_metadata(void);
