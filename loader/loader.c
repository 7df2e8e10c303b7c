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

#include "culvert.skel.h"
#include "loader/attach.h"
#include "loader/features.h"
#include "loader/internal.h"
#include "loader/pin.h"
#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

const char *const cv_map_names[CV_MAP_NR] = {
#define CV_MAP_NAME(sym, name) [CV_MAP_##sym] = #name,
	CV_MAPS(CV_MAP_NAME)
#undef CV_MAP_NAME
};

const struct cv_prog_desc cv_progs[CV_PROG_NR] = {
#define CV_PROG_DESC(sym, name, place, type) [CV_PROG_##sym] = { #name, CV_PLACE_##place, type },
	CV_PROGS(CV_PROG_DESC)
#undef CV_PROG_DESC
};

/* A start in progress. */
struct start {
	struct cv_bpf *bpf;
	const struct cv_bpf_opts *opts;
	struct culvert_bpf *skel;
	struct cv_stamp stamp; /* of this binary */
	char base[CV_PIN_DIR + 8]; /* where it pins: DIR, or DIR-next */
	bool same_abi; /* maps in DIR are adopted */
	bool same_object; /* and so are programs and links */
};

static void close_skel(struct culvert_bpf **skel)
{
	culvert_bpf__destroy(*skel);
	*skel = NULL;
}

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

/* --- stamp ---------------------------------------------------------------------------------- */

static uint64_t layout_hash(const struct bpf_object *obj)
{
	uint64_t hash = CV_HASH_START;

	for (enum cv_map_id id = 0; id < CV_MAP_NR; id++) {
		const struct bpf_map *map = bpf_object__find_map_by_name(obj, cv_map_names[id]);
		uint32_t def[5] = {};

		if (map) {
			def[0] = bpf_map__type(map);
			def[1] = bpf_map__key_size(map);
			def[2] = bpf_map__value_size(map);
			def[3] = bpf_map__max_entries(map);
			def[4] = bpf_map__map_flags(map);
		}
		hash = cv_pin_hash(hash, cv_map_names[id], strlen(cv_map_names[id]));
		hash = cv_pin_hash(hash, def, sizeof(def));
	}
	return hash;
}

static void make_stamp(struct start *s)
{
	const struct cv_config *config = (const struct cv_config *)&s->skel->rodata->cv_config;
	uint64_t hash = CV_HASH_START;
	const void *elf;
	size_t size;

	elf = culvert_bpf__elf_bytes(&size);
	hash = cv_pin_hash(hash, elf, size);
	s->stamp.version = CV_ABI_VERSION;
	s->stamp.layout = layout_hash(s->skel->obj);
	s->stamp.object = cv_pin_hash(hash, config, sizeof(*config));
}

static int compare_stamp(struct start *s)
{
	struct cv_stamp pinned;
	int r = cv_pin_stamp_read(s->bpf->dir, &pinned);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	s->same_abi = pinned.version == s->stamp.version && pinned.layout == s->stamp.layout;
	s->same_object = s->same_abi && pinned.object == s->stamp.object;
	return 0;
}

/* --- open, configure, load ------------------------------------------------------------------ */

static int base_path(const struct start *s, const char *folder, const char *name,
		     char path[CV_PIN_PATH])
{
	int n = snprintf(path, CV_PIN_PATH, "%s/%s/%s", s->base, folder, name);

	return n < CV_PIN_PATH ? 0 : -ENAMETOOLONG;
}

static int open_object(struct start *s)
{
	s->skel = culvert_bpf__open();
	if (!s->skel)
		return errno ? -errno : -EINVAL;
	s->skel->rodata->cv_config.set_retval = s->bpf->features.set_retval;
	return 0;
}

static int configure_maps(struct start *s)
{
	char path[CV_PIN_PATH];

	for (enum cv_map_id id = 0; id < CV_MAP_NR; id++) {
		struct bpf_map *map = bpf_object__find_map_by_name(s->skel->obj, cv_map_names[id]);
		int r;

		if (!map)
			return -EINVAL;
		r = base_path(s, "maps", cv_map_names[id], path);
		if (r >= 0) /* libbpf reuses what is pinned there, else pins */
			r = bpf_map__set_pin_path(map, path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Programs that are adopted need not be loaded; templates always are. */
static int configure_progs(struct start *s)
{
	for (enum cv_prog_id id = 0; id < CV_PROG_NR; id++) {
		struct bpf_program *prog =
			bpf_object__find_program_by_name(s->skel->obj, cv_progs[id].name);
		int r;

		if (!prog)
			return -EINVAL;
		r = bpf_program__set_autoload(prog, cv_progs[id].place == CV_PLACE_POD ||
							    !s->same_object);
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_folders(const struct start *s)
{
	static const char *const folders[] = { "maps", "progs", "links", "pods" };
	char path[CV_PIN_PATH];
	int r = cv_pin_mkdir(s->base);

	for (size_t i = 0; r >= 0 && i < CV_ARRAY_SIZE(folders); i++) {
		r = base_path(s, folders[i], "", path);
		if (r >= 0)
			r = cv_pin_mkdir(path);
	}
	return r;
}

static int dup_fd(int fd, int *ret)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (own < 0)
		return -errno;
	*ret = own;
	return 0;
}

static int take_maps(struct start *s)
{
	int r = 0;

	for (enum cv_map_id id = 0; r >= 0 && id < CV_MAP_NR; id++) {
		const struct bpf_map *map =
			bpf_object__find_map_by_name(s->skel->obj, cv_map_names[id]);

		r = dup_fd(bpf_map__fd(map), &s->bpf->maps[id]);
	}
	return r;
}

/* The pinned program when it is the same, else the new one, which is then pinned. */
static int take_prog(struct start *s, enum cv_prog_id id)
{
	const struct bpf_program *prog =
		bpf_object__find_program_by_name(s->skel->obj, cv_progs[id].name);
	char path[CV_PIN_PATH];
	int r = base_path(s, "progs", cv_progs[id].name, path);

	if (r < 0)
		return r;
	if (cv_progs[id].place == CV_PLACE_POD) {
		r = cv_template_init(&s->bpf->templates[id], s->skel->obj, prog);
		if (r < 0)
			return r;
	}
	if (s->same_object) {
		s->bpf->progs[id] = bpf_obj_get(path);
		return s->bpf->progs[id] < 0 ? -errno : 0;
	}
	r = dup_fd(bpf_program__fd(prog), &s->bpf->progs[id]);
	return r < 0 ? r : cv_pin_put(s->bpf->progs[id], path);
}

static int load_object(struct start *s)
{
	int r = make_folders(s);

	if (r < 0)
		return r;
	r = configure_maps(s);
	if (r < 0)
		return r;
	r = configure_progs(s);
	if (r < 0)
		return r;
	r = culvert_bpf__load(s->skel);
	if (r < 0) {
		cv_debug("load: %s", cv_strerror(-r));
		return r;
	}
	r = take_maps(s);
	for (enum cv_prog_id id = 0; r >= 0 && id < CV_PROG_NR; id++)
		r = take_prog(s, id);
	if (r < 0)
		return r;
	return cv_pool_new(&s->bpf->pool, s->bpf->templates, CV_PROG_NR);
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
static int publish(struct start *s)
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

static int attach_and_publish(struct start *s)
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
static int choose_base(struct start *s)
{
	int r;

	if (s->same_abi)
		return snprintf(s->base, sizeof(s->base), "%s", s->bpf->dir) < 0 ? -EINVAL : 0;
	r = next_path(s->bpf, s->base, sizeof(s->base));
	return r < 0 ? r : cv_bpf_retire(s->bpf);
}

static int start(struct cv_bpf *bpf, const struct cv_bpf_opts *opts)
{
	struct start s = { .bpf = bpf, .opts = opts };
	_cleanup_(close_skel) struct culvert_bpf *skel = NULL;
	int r = cv_pin_lock(bpf->dir, &bpf->lock_fd);

	if (r < 0)
		return r;
	r = open_cgroup(bpf, opts->cgroup_dir);
	if (r < 0)
		return r;
	r = open_object(&s);
	skel = s.skel;
	if (r < 0)
		return r;
	make_stamp(&s);
	r = compare_stamp(&s);
	if (r < 0)
		return r;
	r = choose_base(&s);
	if (r < 0)
		return r;
	r = load_object(&s);
	if (r < 0)
		return r;
	bpf->adopted = s.same_abi;
	return attach_and_publish(&s);
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

int cv_bpf_retire(struct cv_bpf *bpf)
{
	char next[CV_PIN_DIR + 8];
	int r = next_path(bpf, next, sizeof(next));

	return r < 0 ? r : remove_state(next, bpf->dir);
}

int cv_bpf_unload(const char *bpffs_dir)
{
	_cleanup_close_ int lock = -1;
	char next[CV_PIN_DIR + 8];
	int r = cv_pin_lock_existing(bpffs_dir, &lock);

	if (r < 0)
		return r;
	snprintf(next, sizeof(next), "%s-next", bpffs_dir);
	r = remove_state(next, NULL);
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
