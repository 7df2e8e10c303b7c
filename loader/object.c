// SPDX-License-Identifier: Apache-2.0
/*
 * libbpf's part of a start. One object means one load: programs that are adopted are switched off
 * before it, per-pod programs are always loaded, because their instructions become templates.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "culvert.skel.h"
#include "loader/features.h"
#include "loader/internal.h"
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

static void make_stamp(struct cv_start *s)
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

int cv_object_compare(struct cv_start *s)
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

static int base_path(const struct cv_start *s, const char *folder, const char *name,
		     char path[CV_PIN_PATH])
{
	int n = snprintf(path, CV_PIN_PATH, "%s/%s/%s", s->base, folder, name);

	return n < CV_PIN_PATH ? 0 : -ENAMETOOLONG;
}

int cv_object_open(struct cv_start *s)
{
	s->skel = culvert_bpf__open();
	if (!s->skel)
		return errno ? -errno : -EINVAL;
	s->skel->rodata->cv_config.set_retval = s->bpf->features.set_retval;
	make_stamp(s);
	return 0;
}

static int configure_maps(struct cv_start *s)
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
static int configure_progs(struct cv_start *s)
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

static int make_folders(const struct cv_start *s)
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

static int take_maps(struct cv_start *s)
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
static int take_prog(struct cv_start *s, enum cv_prog_id id)
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

/* The verifier's answer says what went wrong, the probes why. */
static int explain(int r)
{
	const char *missing = cv_features_missing();

	cv_debug("load: %s", cv_strerror(-r));
	if (!missing)
		return r;
	cv_error("this kernel lacks %s", missing);
	return -EOPNOTSUPP;
}

int cv_object_load(struct cv_start *s)
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
	if (r < 0)
		return explain(r);
	r = take_maps(s);
	for (enum cv_prog_id id = 0; r >= 0 && id < CV_PROG_NR; id++)
		r = take_prog(s, id);
	if (r < 0)
		return r;
	return cv_pool_new(&s->bpf->pool, s->bpf->templates, CV_PROG_NR);
}

void cv_object_close(struct cv_start *s)
{
	culvert_bpf__destroy(s->skel);
	s->skel = NULL;
}
