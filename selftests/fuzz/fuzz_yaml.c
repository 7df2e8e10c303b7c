/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local file: any bytes either give a whole mesh or an error that names the file, and leave
 * nothing behind. What is read is read the same way twice, and its policies can be asked.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "userspace/mesh/local_file.h"
#include "userspace/mesh/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare(const struct cv_mesh_file *a, const struct cv_mesh_file *b)
{
	assert(a->nr_workloads == b->nr_workloads);
	assert(a->nr_services == b->nr_services);
	assert(a->nr_policies == b->nr_policies);
	for (size_t i = 0; i < a->nr_workloads; i++)
		assert(cv_workload_eq(a->workloads[i], b->workloads[i]));
	for (size_t i = 0; i < a->nr_services; i++)
		assert(cv_service_eq(a->services[i], b->services[i]));
	for (size_t i = 0; i < a->nr_policies; i++)
		assert(cv_policy_eq(a->policies[i], b->policies[i]));
}

static void ask(const struct cv_mesh_file *f)
{
	const struct cv_policy_set set = { .policies = f->policies, .n = f->nr_policies };
	const struct cv_authz_conn conn = { .src = cv_addr_v4(0x0a000001),
					    .dst = cv_addr_v4(0x0a000002),
					    .dst_port = 80 };
	struct cv_authz_result result;
	uint16_t ports[4];

	cv_policy_evaluate(&set, &conn, &result);
	(void)cv_policy_set_ports(&set, ports, 4); /* too many is an answer */
	(void)cv_policy_set_uses_addresses(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cv_mesh_file a, b;
	char error[256] = "";

	if (cv_mesh_file_parse("fuzz", (const char *)data, size, &a, error, sizeof(error)) < 0) {
		assert(!strncmp(error, "fuzz:", 5));
	} else {
		assert(cv_mesh_file_parse("fuzz", (const char *)data, size, &b, error,
					  sizeof(error)) == 0);
		compare(&a, &b);
		ask(&a);
		cv_mesh_file_fini(&a);
		cv_mesh_file_fini(&b);
	}
	assert(cv_str_count() == 0);
	return 0;
}
