/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the two files it is follows from its top-level keys: workloads, services and policies
 * are ztunnel's format, everything else is judged as culvert.yaml. */
#include "userspace/daemon/check_config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/daemon/settings.h"
#include "userspace/mesh/local_file.h"

/* Does a line of the file begin with one of the mesh file's keys? */
static int is_mesh_file(const char *path, bool *ret)
{
	static const char *const keys[] = { "workloads:", "services:", "policies:" };
	FILE *f = fopen(path, "re");
	char line[4096];

	if (!f)
		return -errno;
	*ret = false;
	while (!*ret && fgets(line, sizeof(line), f))
		for (size_t i = 0; i < CV_ARRAY_SIZE(keys); i++)
			*ret |= strncmp(line, keys[i], strlen(keys[i])) == 0;
	fclose(f);
	return 0;
}

static int check_mesh(const char *path)
{
	struct cv_mesh_file mesh = {};
	char error[512];
	int r = cv_mesh_file_read(path, &mesh, error, sizeof(error));

	if (r < 0) {
		fprintf(stderr, "%s\n", error);
		return r;
	}
	printf("%s: good: %zu workloads, %zu services, %zu policies\n", path, mesh.nr_workloads,
	       mesh.nr_services, mesh.nr_policies);
	cv_mesh_file_fini(&mesh);
	return 0;
}

static int check_settings(const char *path)
{
	struct cv_settings settings;
	char error[512];
	int r;

	cv_settings_init(&settings);
	r = cv_settings_read(path, &settings, error, sizeof(error));
	if (r < 0)
		fprintf(stderr, "%s\n", error);
	else
		printf("%s: good: settings of culvert.yaml\n", path);
	cv_settings_fini(&settings);
	return r;
}

int cv_check_config(const char *path)
{
	bool mesh;
	int r = is_mesh_file(path, &mesh);

	if (r < 0) {
		fprintf(stderr, "%s: cannot be read: %s\n", path, strerror(-r));
		return r;
	}
	return mesh ? check_mesh(path) : check_settings(path);
}
