/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DeltaDiscoveryResponse, split into its parts while its bytes arrive.
 *
 * The response may be hundreds of megabytes and its resources come first, so it is never held: each
 * resource, name and text is told as soon as its last byte is there. What lies whole in the bytes
 * that were fed is not even copied.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "userspace/base/buf.h"

/* What is told; data is borrowed. */
struct cv_xds_response_ops {
	void (*on_resource)(void *arg, const uint8_t *data, size_t len); /* discovery.Resource */
	void (*on_removed)(void *arg, const char *name, size_t len);
	void (*on_type_url)(void *arg, const char *text, size_t len);
	void (*on_nonce)(void *arg, const char *text, size_t len);
	/* A resource of len bytes is longer than CV_LIMIT_XDS_RESOURCE and was skipped. */
	void (*on_too_long)(void *arg, size_t len);
};

struct cv_xds_response {
	const struct cv_xds_response_ops *ops;
	void *arg;
	/* The field that is being read. */
	enum { CV_XDS_TAG, CV_XDS_LENGTH, CV_XDS_VARINT, CV_XDS_FIELD, CV_XDS_SKIP } state;
	uint64_t number; /* of the varint that is being read */
	unsigned shift;
	unsigned field;
	uint64_t left; /* bytes of it that are missing */
	struct cv_buf held; /* its bytes so far, when it came in pieces */
};

void cv_xds_response_init(struct cv_xds_response *r, const struct cv_xds_response_ops *ops,
			  void *arg);
void cv_xds_response_fini(struct cv_xds_response *r);
/* A new message begins. */
void cv_xds_response_reset(struct cv_xds_response *r);
/* The next bytes. -EBADMSG: this is no protobuf message, nothing more of it can be understood;
 * -ENOMEM. */
int cv_xds_response_feed(struct cv_xds_response *r, const uint8_t *data, size_t len);
/* The message has ended: -EBADMSG when it ends inside a field. */
int cv_xds_response_end(const struct cv_xds_response *r);
