/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a whole file of the local format: bytes, YAML, objects. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/limits.h"
#include "userspace/mesh/file_decode.h"
#include "userspace/mesh/mesh_file.h"

static const struct cv_yaml_field file_fields[] = {
	{ "workloads", cv_file_workloads, NULL, 0, 0 },
	{ "services", cv_file_services, NULL, 0, 0 },
	{ "policies", cv_file_policies, NULL, 0, 0 },
};

int cv_mesh_file_parse(const char *name, const char *text, size_t len, struct cv_mesh_file *ret,
		       char *error, size_t error_size)
{
	_cleanup_(cv_mesh_file_fini) struct cv_mesh_file f = {};
	_cleanup_yaml_ struct cv_yaml *y = NULL;
	int r = cv_yaml_parse(&y, name, text, len, error, error_size);

	if (r == 0)
		r = cv_yaml_struct(y, cv_yaml_root(y), CV_YAML_FIELDS(file_fields), &f);
	if (r == -ENOMEM)
		snprintf(error, error_size, "%s: out of memory", name);
	if (r < 0)
		return r;
	*ret = f;
	f = (struct cv_mesh_file){};
	return 0;
}

void cv_mesh_file_fini(struct cv_mesh_file *f)
{
	for (size_t i = 0; i < f->nr_workloads; i++)
		cv_workload_put(&f->workloads[i]);
	for (size_t i = 0; i < f->nr_services; i++)
		cv_service_put(&f->services[i]);
	for (size_t i = 0; i < f->nr_policies; i++)
		cv_policy_put(&f->policies[i]);
	free(f->workloads);
	free(f->services);
	free(f->policies);
	*f = (struct cv_mesh_file){};
}

static int fail_read(const char *path, int r, char *error, size_t error_size)
{
	snprintf(error, error_size, "%s: cannot be read: %s", path, cv_strerror(-r));
	return r;
}

/* Reads until the end, growing by doubling: the size that stat tells may change meanwhile. */
static int read_all(int fd, char **ret_text, size_t *ret_len)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0, room = 0;
	ssize_t n;

	do {
		if (len == room) {
			char *grown = realloc(text, room ? 2 * room : 16384);

			if (!grown)
				return -ENOMEM;
			text = grown;
			room = room ? 2 * room : 16384;
		}
		n = read(fd, text + len, room - len);
		if (n < 0 && errno != EINTR)
			return -errno;
		len += n > 0 ? (size_t)n : 0;
		if (len > CV_LIMIT_FILE_BYTES)
			return -EFBIG;
	} while (n);
	*ret_text = cv_take_ptr(text);
	*ret_len = len;
	return 0;
}

int cv_mesh_file_load(const char *path, char **ret_text, size_t *ret_len, char *error,
		      size_t error_size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fail_read(path, -errno, error, error_size);
	if (!S_ISREG(st.st_mode)) {
		snprintf(error, error_size, "%s: is not a regular file", path);
		return -EINVAL;
	}
	r = read_all(fd, ret_text, ret_len);
	return r < 0 ? fail_read(path, r, error, error_size) : 0;
}

int cv_mesh_file_read(const char *path, struct cv_mesh_file *ret, char *error, size_t error_size)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = cv_mesh_file_load(path, &text, &len, error, error_size);

	return r < 0 ? r : cv_mesh_file_parse(path, text, len, ret, error, error_size);
}
