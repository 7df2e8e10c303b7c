/* SPDX-License-Identifier: Apache-2.0 */
/* protobuf-c does not look at what a string holds; everything behind it (JSON, logs) relies on UTF-8. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

bool cv_utf8_is_valid(const char *text);
/* Name of the first string field, at any depth, that is not UTF-8; NULL = all of them are. */
const char *cv_utf8_bad_field(const ProtobufCMessage *m);
