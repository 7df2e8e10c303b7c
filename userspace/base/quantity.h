/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities as operators write them: numbers, durations ("1h30m"), Kubernetes quantities ("500m"). */
#pragma once

#include <stdint.h>

/* Decimal digits, which a plus sign may precede. -EINVAL, -ERANGE. */
int cv_uint_parse(const char *text, uint64_t *ret);

/* Numbers with a unit each, one after the other: ns, us or µs, ms, s, m, h, d, w; a lone number
 * counts seconds. Parts of a millisecond are cut. -EINVAL, -ERANGE. */
int cv_duration_parse(const char *text, uint64_t *ret_ms);

/* A decimal number, with an exponent or one of n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei.
 * -EINVAL. */
int cv_quantity_parse(const char *text, double *ret);
