// SPDX-License-Identifier: Apache-2.0
/*
 * From the embedded object to attached programs, in stages: lock → stamp → configure → load →
 * attach → publish. What is pinned with the same ABI is adopted; with another ABI, or half made,
 * a new directory is built aside and exchanged with the old one.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/loader.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "loader/attach.h"
#include "loader/features.h"
#include "loader/internal.h"
#include "loader/object.h"
#include "loader/pin.h"
#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

/* --- libbpf's messages ---------------------------------------------------------------------- */

static bool print_all;

__attribute__((format(printf, 2, 0))) static int print_libbpf(enum libbpf_print_level level,
							      const char *fmt, va_list args)
{
	char line[1024];
	int n;

	if (level == LIBBPF_DEBUG && !print_all)
		return 0;
	n = vsnprintf(line, sizeof(line), fmt, args);
	if (n > 0 && (size_t)n < sizeof(line) && line[n - 1] == '\n')
		line[n - 1] = '\0';
	cv_debug("%s", line);
	return n;
}

/* --- attach, publish ------------------------------------------------------------------------ */

static int find_cgroup(char *buf, size_t size)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[4096], dir[512], type[64];
	int r = -ENOENT;

	if (!f)
		return -errno;
	while (r < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %511s %63s", dir, type) == 2 && !strcmp(type, "cgroup2"))
			r = snprintf(buf, size, "%s", dir) < (int)size ? 0 : -ENAMETOOLONG;
	}
	fclose(f);
	return r;
}

static int open_cgroup(struct cv_bpf *bpf, const char *dir)
{
	char found[512];
	int r;

	if (!dir) {
		r = find_cgroup(found, sizeof(found));
		if (r < 0) {
			cv_error("cgroup v2 is not mounted");
			return r == -ENOENT ? -EOPNOTSUPP : r;
		}
		dir = found;
	}
	bpf->cgroup_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return bpf->cgroup_fd < 0 ? -errno : 0;
}

static int set_fastpath(struct cv_bpf *bpf, bool on)
{
	struct cv_control_entry control = {};
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(bpf->maps[CV_MAP_CONTROL], &zero, &control) < 0)
		return -errno;
	control.flags = on ? control.flags | CV_CONTROL_FASTPATH :
			     control.flags & ~CV_CONTROL_FASTPATH;
	bpf->features.fastpath = on;
	return bpf_map_update_elem(bpf->maps[CV_MAP_CONTROL], &zero, &control, BPF_ANY) < 0 ?
		       -errno :
		       0;
}

static int next_path(const struct cv_bpf *bpf, char *buf, size_t size)
{
	return snprintf(buf, size, "%s-next", bpf->dir) < (int)size ? 0 : -ENAMETOOLONG;
}

/* Everything new is complete in DIR-next: stamp it, lock it, put it in DIR's place. The old
 * directory stays, attached, until cv_bpf_retire. */
static int publish(struct cv_start *s)
{
	struct cv_bpf *bpf = s->bpf;
	int lock = -1;
	int r = cv_pin_stamp_write(s->base, &s->stamp);

	if (r < 0 || s->same_abi)
		return r;
	r = cv_pin_lock(s->base, &lock);
	if (r < 0)
		return r;
	r = cv_pin_exchange(s->base, bpf->dir);
	if (r < 0) {
		cv_close(&lock);
		return r;
	}
	cv_close(&bpf->lock_fd);
	bpf->lock_fd = lock;
	(void)rmdir(s->base); /* works when nothing was there before, which is what matters */
	return 0;
}

static int attach_and_publish(struct cv_start *s)
{
	int r = set_fastpath(s->bpf, !s->opts->no_fastpath);

	if (r < 0)
		return r;
	r = cv_attach_cgroup(s->bpf, s->base, !s->same_object);
	if (r < 0)
		return r;
	if (s->same_abi) {
		r = cv_attach_prune(s->bpf);
		if (r >= 0 && !s->same_object)
			r = cv_attach_update_pods(s->bpf);
		if (r < 0)
			return r;
	}
	return publish(s);
}

/* --- whole starts --------------------------------------------------------------------------- */

/* What an interrupted build left in DIR-next is no use; what an exchange left there is, until
 * every pod is attached by the new one, so that is removed only when its place is needed. */
static int choose_base(struct cv_start *s)
{
	int r;

	if (s->same_abi)
		return snprintf(s->base, sizeof(s->base), "%s", s->bpf->dir) < 0 ? -EINVAL : 0;
	r = next_path(s->bpf, s->base, sizeof(s->base));
	return r < 0 ? r : cv_bpf_retire(s->bpf);
}

static int run_start(struct cv_start *s)
{
	int r = cv_object_open(s);

	if (r < 0)
		return r;
	r = cv_object_compare(s);
	if (r < 0)
		return r;
	r = choose_base(s);
	if (r < 0)
		return r;
	r = cv_object_load(s);
	if (r < 0)
		return r;
	s->bpf->adopted = s->same_abi;
	return attach_and_publish(s);
}

static int start(struct cv_bpf *bpf, const struct cv_bpf_opts *opts)
{
	struct cv_start s = { .bpf = bpf, .opts = opts };
	int r = cv_pin_lock(bpf->dir, &bpf->lock_fd);

	if (r < 0)
		return r;
	r = open_cgroup(bpf, opts->cgroup_dir);
	if (r < 0)
		return r;
	r = run_start(&s);
	cv_object_close(&s);
	return r;
}

/* Only reads: no lock, no object. */
static int open_pinned(struct cv_bpf *bpf)
{
	struct cv_control_entry control;
	char path[CV_PIN_PATH];
	struct cv_stamp stamp;
	uint32_t zero = 0;
	int r = cv_pin_stamp_read(bpf->dir, &stamp);

	if (r < 0)
		return r;
	if (stamp.version != CV_ABI_VERSION)
		return -EPROTO;
	for (enum cv_map_id id = 0; id < CV_MAP_NR; id++) {
		snprintf(path, sizeof(path), "%s/maps/%s", bpf->dir, cv_map_names[id]);
		bpf->maps[id] = bpf_obj_get(path);
		if (bpf->maps[id] < 0)
			return -errno;
	}
	for (enum cv_prog_id id = 0; id < CV_PROG_NR; id++) {
		snprintf(path, sizeof(path), "%s/progs/%s", bpf->dir, cv_progs[id].name);
		bpf->progs[id] = bpf_obj_get(path);
		if (bpf->progs[id] < 0)
			return -errno;
	}
	if (bpf_map_lookup_elem(bpf->maps[CV_MAP_CONTROL], &zero, &control) < 0)
		return -errno;
	bpf->features.fastpath = control.flags & CV_CONTROL_FASTPATH;
	bpf->adopted = true;
	return 0;
}

static struct cv_bpf *new_bpf(const char *dir)
{
	struct cv_bpf *bpf = calloc(1, sizeof(*bpf));

	if (!bpf)
		return NULL;
	bpf->lock_fd = bpf->cgroup_fd = -1;
	for (size_t i = 0; i < CV_MAP_NR; i++)
		bpf->maps[i] = -1;
	for (size_t i = 0; i < CV_PROG_NR; i++)
		bpf->progs[i] = -1;
	bpf->dir = strdup(dir);
	if (!bpf->dir)
		cv_bpf_close(&bpf);
	return bpf;
}

int cv_bpf_open(struct cv_bpf **ret, const struct cv_bpf_opts *opts)
{
	_cleanup_(cv_bpf_close) struct cv_bpf *bpf = NULL;
	int r;

	if (strlen(opts->bpffs_dir) >= CV_PIN_DIR)
		return -ENAMETOOLONG;
	bpf = new_bpf(opts->bpffs_dir);
	if (!bpf)
		return -ENOMEM;
	print_all = opts->debug;
	libbpf_set_print(print_libbpf);
	cv_features_probe(&bpf->features);
	bpf->features.tcx = bpf->features.tcx && !opts->no_tcx;
	r = opts->adopt_only ? open_pinned(bpf) : start(bpf, opts);
	/* Loading parses the kernel's type data: tens of megabytes, given back here. */
	malloc_trim(0);
	if (r < 0)
		return r;
	*ret = cv_take_ptr(bpf);
	return 0;
}

void cv_bpf_close(struct cv_bpf **pbpf)
{
	struct cv_bpf *bpf = *pbpf;

	if (!bpf)
		return;
	ring_buffer__free(bpf->ring);
	cv_pool_free(&bpf->pool);
	for (size_t i = 0; i < CV_PROG_NR; i++) {
		cv_template_fini(&bpf->templates[i]);
		cv_close(&bpf->progs[i]);
	}
	for (size_t i = 0; i < CV_MAP_NR; i++)
		cv_close(&bpf->maps[i]);
	cv_close(&bpf->cgroup_fd);
	cv_close(&bpf->lock_fd);
	free(bpf->dir);
	free(bpf);
	*pbpf = NULL;
}

static int remove_state(const char *dir, const char *heir_dir)
{
	int r = cv_attach_remove_pods(dir, heir_dir);

	return r < 0 ? r : cv_pin_remove_tree(dir);
}

/* What is beside a directory: of a build or an exchange that was interrupted, or replaced. */
static int remove_beside(const char *dir, const char *heir_dir)
{
	static const char *const suffixes[] = { "-next", "-aside" };
	int r = 0;

	for (size_t i = 0; r >= 0 && i < CV_ARRAY_SIZE(suffixes); i++) {
		char path[CV_PIN_DIR + 8];

		snprintf(path, sizeof(path), "%s%s", dir, suffixes[i]);
		r = remove_state(path, heir_dir);
	}
	return r;
}

int cv_bpf_retire(struct cv_bpf *bpf)
{
	return remove_beside(bpf->dir, bpf->dir);
}

int cv_bpf_unload(const char *bpffs_dir)
{
	_cleanup_close_ int lock = -1;
	int r = cv_pin_lock_existing(bpffs_dir, &lock);

	if (r < 0)
		return r;
	r = remove_beside(bpffs_dir, NULL);
	return r < 0 ? r : remove_state(bpffs_dir, NULL);
}

bool cv_bpf_adopted(const struct cv_bpf *bpf)
{
	return bpf->adopted;
}

void cv_bpf_features(const struct cv_bpf *bpf, struct cv_bpf_features *ret)
{
	*ret = bpf->features;
}

int cv_bpf_progs(const struct cv_bpf *bpf, struct cv_bpf_prog_info *ret, size_t max)
{
	for (size_t i = 0; i < CV_PROG_NR && i < max; i++) {
		struct bpf_prog_info info = {};
		uint32_t len = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf->progs[i], &info, &len) < 0)
			return -errno;
		ret[i] = (struct cv_bpf_prog_info){
			.id = info.id,
			.verified_insns = info.verified_insns,
			.xlated_bytes = info.xlated_prog_len,
			.jited_bytes = info.jited_prog_len,
		};
		snprintf(ret[i].name, sizeof(ret[i].name), "%s", cv_progs[i].name);
	}
	return CV_PROG_NR;
}

/* --- iterators ------------------------------------------------------------------------------ */

/* Runs an iterator over the calling thread's namespace; returns the bytes that it wrote. */
static int run_iterator(int prog)
{
	_cleanup_close_ int link = -1;
	_cleanup_close_ int iter = -1;
	char buf[4096];
	ssize_t n;
	int total = 0;

	link = bpf_link_create(prog, 0, BPF_TRACE_ITER, NULL);
	if (link < 0)
		return -errno;
	iter = bpf_iter_create(link);
	if (iter < 0)
		return -errno;
	while ((n = read(iter, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		total += n > 0 ? (int)n : 0;
	}
	return total;
}

int cv_bpf_mark_older(struct cv_bpf *bpf)
{
	return run_iterator(bpf->progs[CV_PROG_MARK_OLDER]);
}

int cv_bpf_sweep(struct cv_bpf *bpf)
{
	int r = run_iterator(bpf->progs[CV_PROG_SWEEP_ATTESTED]);

	return r < 0 ? r : 0;
}

/* How many cgroups deep a path leads: its components. */
static uint32_t cgroup_level(const char *path)
{
	uint32_t level = 0;

	for (; *path; path++)
		level += *path != '/' && (path[1] == '/' || !path[1]);
	return level;
}

int cv_bpf_set_pods_cgroup(struct cv_bpf *bpf, const char *path)
{
	_cleanup_close_ int fd = -1;
	struct cv_control_entry control;
	struct stat st = {};
	int r = cv_table_control_get(bpf, &control);

	if (r < 0)
		return r;
	if (path) {
		fd = openat(bpf->cgroup_fd, path + strspn(path, "/"),
			    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0)
			return -errno;
	}
	/* A cgroup v2 directory's inode number is the id that the helpers give. */
	control.pods_cgroup = st.st_ino;
	control.pods_cgroup_level = path ? cgroup_level(path) : 0;
	return cv_table_control_set(bpf, &control);
}
