/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces that the parts of config_dump share. */
#pragma once

#include <jansson.h>
#include <openssl/x509.h>

#include "userspace/base/strs.h"
#include "userspace/mesh/types.h"

/* Sets a string member; the empty string is left out. */
void cv_dump_set(json_t *object, const char *key, cv_str text);
/* "network/address" or "namespace/host"; new reference. */
json_t *cv_dump_pair(cv_str first, const char *second);
/* {"service port": target port}; new reference. */
json_t *cv_dump_port_map(const struct cv_port_map *m);
/* Sorts an array of objects by string members; keys is a list that ends with NULL. */
void cv_dump_sort(json_t *array, const char *const *keys);
/* {pem (base64 of the PEM text), serialNumber (decimal), validFrom, expirationTime}. */
json_t *cv_dump_x509(X509 *cert);
