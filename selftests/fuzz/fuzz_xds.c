/* SPDX-License-Identifier: Apache-2.0 */
/* A control plane's responses from bytes, in pieces that the first byte chooses, into a store; twice,
 * so that updates and removals meet what was there. Nothing may be left when it is gone. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <urcu.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/mesh/xds_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void feed(struct cv_xds *x, const uint8_t *data, size_t len, size_t piece)
{
	int r = 0;

	xds_response_clear(x);
	for (size_t at = 0; at < len && r == 0; at += piece)
		r = cv_xds_response_feed(&x->splitter, data + at,
					 at + piece < len ? piece : len - at);
	if (r == 0 && cv_xds_response_end(&x->splitter) == 0)
		xds_apply_end(x, xds_type_find(x->type_url));
	else
		xds_batch_apply(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct cv_store_opts opts = { .network = "" };
	static struct cv_worker *control;
	struct cv_xds *x = calloc(1, sizeof(*x));

	if (!control) {
		rcu_register_thread();
		assert(!cv_log_init("off", false) && !cv_worker_control(&control));
	}
	x->control = control;
	assert(cv_store_new(&x->store, &opts) == 0 && xds_hold_init(x) == 0 &&
	       xds_demand_init(x, false) == 0);
	cv_xds_response_init(&x->splitter, &xds_response_ops, x);
	cv_buf_init(&x->refusals, CV_LIMIT_XDS_REFUSALS);
	if (len) {
		feed(x, data + 1, len - 1, data[0] % 32 + 1);
		cv_store_set_warm(x->store);
		feed(x, data + 1, len - 1, len);
		xds_hold_release(x);
		xds_batch_apply(x);
	}
	xds_demand_fini(x);
	xds_hold_fini(x);
	xds_response_clear(x);
	cv_xds_response_fini(&x->splitter);
	xds_batch_fini(&x->batch);
	for (int i = 0; i < CV_XDS_TYPE_NR; i++)
		xds_names_fini(&x->types[i].names);
	cv_store_free(&x->store);
	free(x);
	assert(!cv_str_count());
	return 0;
}
