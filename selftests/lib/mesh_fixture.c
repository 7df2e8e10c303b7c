/* SPDX-License-Identifier: Apache-2.0 */
/* A store for unit tests, filled from YAML. What goes wrong here ends the test program. */
#include "selftests/lib/mesh_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/local_file.h"

static void die(const char *what)
{
	fprintf(stderr, "fixture: %s\n", what);
	abort();
}

struct cv_store *cv_fixture_store(const char *network, const char *node)
{
	const struct cv_store_opts opts = { .network = network, .node = node };
	struct cv_store *s;

	if (cv_store_new(&s, &opts) < 0)
		die("no store");
	return s;
}

struct cv_addr cv_fixture_ip(const char *text)
{
	struct cv_addr ip;

	if (cv_addr_parse(text, &ip) < 0)
		die(text);
	return ip;
}

static cv_str make_key(cv_str a, cv_str b)
{
	char text[512];

	snprintf(text, sizeof(text), "%s/%s", cv_str_text(a), cv_str_text(b));
	return cv_str_new(text);
}

void cv_fixture_apply(struct cv_store *s, const char *yaml)
{
	_cleanup_(cv_mesh_file_fini) struct cv_mesh_file f = {};
	_cleanup_free_ struct cv_delta *d = NULL;
	char error[512];
	size_t n = 0;

	if (cv_mesh_file_parse("fixture", yaml, strlen(yaml), &f, error, sizeof(error)) < 0)
		die(error);
	d = calloc(f.nr_workloads + f.nr_services + f.nr_policies + 1, sizeof(*d));
	if (!d)
		die("no memory");
	for (size_t i = 0; i < f.nr_workloads; i++)
		d[n++] = (struct cv_delta){ CV_DELTA_WORKLOAD, cv_str_ref(f.workloads[i]->uid),
					    .workload = cv_workload_ref(f.workloads[i]) };
	for (size_t i = 0; i < f.nr_services; i++)
		d[n++] = (struct cv_delta){ CV_DELTA_SERVICE,
					    make_key(f.services[i]->ns, f.services[i]->hostname),
					    .service = cv_service_ref(f.services[i]) };
	for (size_t i = 0; i < f.nr_policies; i++)
		d[n++] = (struct cv_delta){ CV_DELTA_POLICY,
					    make_key(f.policies[i]->ns, f.policies[i]->name),
					    .policy = cv_policy_ref(f.policies[i]) };
	cv_store_apply(s, d, n);
	for (size_t i = 0; i < n; i++)
		cv_str_put(&d[i].key);
}

void cv_fixture_remove(struct cv_store *s, enum cv_delta_kind kind, const char *key)
{
	struct cv_delta d = { .kind = kind, .key = cv_str_new(key) };

	cv_store_apply(s, &d, 1);
	cv_str_put(&d.key);
}
