// SPDX-License-Identifier: Apache-2.0
/*
 * config_dump's staticConfig: what stands in the local file, in the file's order and shape: a
 * workload names its services with their ports, and a service has the endpoints that the file
 * gives it alone.
 */
#include "userspace/telemetry/dump.h"
#include "userspace/telemetry/telemetry.h"

static json_t *workload(const struct cv_workload *w)
{
	json_t *o = cv_dump_workload(w), *services = json_object(), *name;

	for (size_t i = 0; i < w->group->nr_services; i++) {
		const struct cv_membership *m = &w->group->services[i];

		name = cv_dump_pair(m->service.ns, cv_str_text(m->service.host));
		json_object_set_new(services, json_string_value(name), cv_dump_port_map(&m->ports));
		json_decref(name);
	}
	json_object_set_new(o, "services", services);
	return o;
}

json_t *cv_dump_static_config(const struct cv_mesh_file *f)
{
	json_t *workloads = json_array(), *services = json_array(), *policies = json_array();

	for (size_t i = 0; i < f->nr_workloads; i++)
		json_array_append_new(workloads, workload(f->workloads[i]));
	for (size_t i = 0; i < f->nr_services; i++)
		json_array_append_new(services, cv_dump_service(f->services[i]));
	for (size_t i = 0; i < f->nr_policies; i++)
		json_array_append_new(policies, cv_dump_policy(f->policies[i]));
	return json_pack("{s:o s:o s:o}", "workloads", workloads, "services", services, "policies",
			 policies);
}
