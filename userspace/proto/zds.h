/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ZDS messages: what istio-cni's node agent tells the node's proxy about pods, and the answers.
 * One message is one packet; the descriptors that came with it are the caller's, only their
 * number is judged here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CV_ZDS_PACKET = 1024, /* what either side reads of one packet at most */
	CV_ZDS_ERROR = 512, /* text of an error, NUL included */
};

enum cv_zds_kind { CV_ZDS_ADD, CV_ZDS_KEEP, CV_ZDS_DEL, CV_ZDS_SNAPSHOT };

struct cv_zds_request {
	enum cv_zds_kind kind;
	const char *uid; /* the pod's Kubernetes UID; NULL for CV_ZDS_SNAPSHOT */
	/* CV_ZDS_ADD; name NULL = the message had no workload_info. "" is possible in all three. */
	const char *name, *ns, *service_account;
	void *message; /* owns the strings */
};

/* 0: ret is the caller's to fini. -EBADMSG: not a request, or the wrong number of descriptors for
 * it (one with an add, none with others); error says what. -ENOMEM. */
int cv_zds_decode(const void *packet, size_t len, unsigned nr_fds, struct cv_zds_request *ret,
		  char error[CV_ZDS_ERROR]);
void cv_zds_request_fini(struct cv_zds_request *r);

/* Bytes written. */
size_t cv_zds_encode_hello(uint8_t packet[CV_ZDS_PACKET]);
/* error NULL = success; a long one is cut. */
size_t cv_zds_encode_ack(const char *error, uint8_t packet[CV_ZDS_PACKET]);
