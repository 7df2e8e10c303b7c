/* SPDX-License-Identifier: Apache-2.0 */
/* ZDS messages, by protobuf-c. */
#include "userspace/proto/zds.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "userspace/proto/pb/zds.pb-c.h"

typedef Istio__Workload__Zds__WorkloadRequest request;

static int refuse(char error[CV_ZDS_ERROR], const char *why)
{
	snprintf(error, CV_ZDS_ERROR, "%s", why);
	return -EBADMSG;
}

static void take_info(const Istio__Workload__Zds__WorkloadInfo *info, struct cv_zds_request *ret)
{
	ret->name = info->name;
	ret->ns = info->namespace_;
	ret->service_account = info->service_account;
}

static int take_payload(const request *r, struct cv_zds_request *ret)
{
	switch (r->payload_case) {
	case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_ADD:
		ret->kind = CV_ZDS_ADD;
		ret->uid = r->add->uid;
		if (r->add->workload_info)
			take_info(r->add->workload_info, ret);
		return 0;
	case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_DEL:
		ret->kind = CV_ZDS_DEL;
		ret->uid = r->del->uid;
		return 0;
	case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_KEEP:
		ret->kind = CV_ZDS_KEEP;
		ret->uid = r->keep->uid;
		return 0;
	case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_SNAPSHOT_SENT:
		ret->kind = CV_ZDS_SNAPSHOT;
		return 0;
	default:
		return -EBADMSG;
	}
}

static int check(const struct cv_zds_request *r, unsigned nr_fds, char error[CV_ZDS_ERROR])
{
	if (r->uid && !*r->uid)
		return refuse(error, "the message names no uid");
	if (r->kind == CV_ZDS_ADD && nr_fds != 1) {
		snprintf(error, CV_ZDS_ERROR,
			 "an add of %.256s needs one descriptor, %u came with it", r->uid, nr_fds);
		return -EBADMSG;
	}
	if (r->kind != CV_ZDS_ADD && nr_fds)
		return refuse(error, "descriptors came with a message that is no add");
	return 0;
}

int cv_zds_decode(const void *packet, size_t len, unsigned nr_fds, struct cv_zds_request *ret,
		  char error[CV_ZDS_ERROR])
{
	struct cv_zds_request r = {};
	int result;

	if (len > CV_ZDS_PACKET)
		return refuse(error, "the packet is too long");
	r.message = istio__workload__zds__workload_request__unpack(NULL, len, packet);
	if (!r.message)
		return refuse(error, "the packet is no WorkloadRequest");
	result = take_payload(r.message, &r);
	if (result)
		refuse(error, "the request has no payload that is known here");
	else
		result = check(&r, nr_fds, error);
	if (result)
		cv_zds_request_fini(&r);
	else
		*ret = r;
	return result;
}

void cv_zds_request_fini(struct cv_zds_request *r)
{
	istio__workload__zds__workload_request__free_unpacked(r->message, NULL);
	*r = (struct cv_zds_request){};
}

size_t cv_zds_encode_hello(uint8_t packet[CV_ZDS_PACKET])
{
	Istio__Workload__Zds__ZdsHello hello = ISTIO__WORKLOAD__ZDS__ZDS_HELLO__INIT;

	hello.version = ISTIO__WORKLOAD__ZDS__VERSION__V1;
	return istio__workload__zds__zds_hello__pack(&hello, packet);
}

size_t cv_zds_encode_ack(const char *error, uint8_t packet[CV_ZDS_PACKET])
{
	Istio__Workload__Zds__WorkloadResponse response =
		ISTIO__WORKLOAD__ZDS__WORKLOAD_RESPONSE__INIT;
	Istio__Workload__Zds__Ack ack = ISTIO__WORKLOAD__ZDS__ACK__INIT;
	char text[CV_ZDS_ERROR];

	snprintf(text, sizeof(text), "%s", error ? error : "");
	ack.error = text;
	response.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_RESPONSE__PAYLOAD_ACK;
	response.ack = &ack;
	return istio__workload__zds__workload_response__pack(&response, packet);
}
