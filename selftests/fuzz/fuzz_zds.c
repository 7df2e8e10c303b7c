/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of a node agent: the first byte is the number of descriptors that came along, the rest
 * the message. What is accepted has the strings that its kind promises. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "userspace/proto/zds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cv_zds_request r;
	char error[CV_ZDS_ERROR] = "";
	uint8_t packet[CV_ZDS_PACKET];

	if (!len)
		return 0;
	if (cv_zds_decode(data + 1, len - 1, data[0], &r, error)) {
		assert(*error && cv_zds_encode_ack(error, packet) <= sizeof(packet));
		return 0;
	}
	assert((r.kind == CV_ZDS_ADD) == (data[0] == 1));
	assert((r.kind == CV_ZDS_SNAPSHOT) == !r.uid);
	assert(!r.uid || strlen(r.uid) > 0);
	assert(!r.name || (r.kind == CV_ZDS_ADD && r.ns && r.service_account));
	cv_zds_request_fini(&r);
	return 0;
}
