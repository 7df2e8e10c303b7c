/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pin directory: a small database on bpffs that outlives the daemon.
 *
 *   DIR/abi                            stamp (struct cv_stamp), written last
 *   DIR/maps/<name>  progs/<name>  links/<name>
 *   DIR/pods/<number>/lookup           link of pod_lookup
 *   DIR/pods/<number>/egress-<ifindex>, ingress-<ifindex>   TCX links
 *   DIR/pods/<number>/tc-egress-<ifindex>, tc-ingress-<ifindex>
 *                                      programs, where clsact filters stand in for TCX
 *
 * bpffs holds directories and BPF objects only, and no name with a dot. So the lock is flock()
 * on the directory itself, and what is built aside is built in DIR-next, then exchanged.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
	CV_PIN_PATH = 512, /* longest path below the directory, with NUL */
	CV_PIN_DIR = 256, /* longest CULVERT_BPFFS, with NUL */
};

/* What the pinned state was made by. Another version or layout cannot be adopted; another
 * object means: keep the maps, replace the programs. */
struct cv_stamp {
	uint32_t version; /* CV_ABI_VERSION */
	uint32_t pad;
	uint64_t layout; /* hash of every map's definition */
	uint64_t object; /* hash of the programs and their configuration */
};

/* FNV-1a, for the stamp. Start with CV_HASH_START. */
#define CV_HASH_START 0xcbf29ce484222325ull
uint64_t cv_pin_hash(uint64_t hash, const void *data, size_t len);

/* Makes the directory if it is missing and takes its lock. -EBUSY: another process has it;
 * -EOPNOTSUPP: not on a bpf file system. */
int cv_pin_lock(const char *dir, int *ret_fd);
/* As above, but -ENOENT when there is no directory. */
int cv_pin_lock_existing(const char *dir, int *ret_fd);

int cv_pin_stamp_read(const char *dir, struct cv_stamp *ret); /* -ENOENT: none */
int cv_pin_stamp_write(const char *dir, const struct cv_stamp *stamp);

/* mkdir, fine when it is there. */
int cv_pin_mkdir(const char *path);
/* Pins, replacing what has that name. */
int cv_pin_put(int fd, const char *path);
int cv_pin_unlink(const char *path); /* 0 when it is not there */
/* Removes a directory and all below it; 0 when it is not there. */
int cv_pin_remove_tree(const char *path);
/* Puts the directory `next` in the place of `dir`, and the other way round; at once where the
 * kernel can. */
int cv_pin_exchange(const char *next, const char *dir);

/* fn for each name in a directory; a negative return stops the walk and is returned.
 * 0 when the directory is not there. */
int cv_pin_each(const char *path, int (*fn)(const char *path, const char *name, void *arg),
		void *arg);
