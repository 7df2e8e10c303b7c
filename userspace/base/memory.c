/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a daemon that idles most of the time: few arenas, and start-up's pages given back. */
#include "userspace/base/memory.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

void cv_memory_init(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_TRIM_THRESHOLD, 256 << 10);
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
}

void cv_memory_trim(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	uintptr_t from, to, offset;
	char perms[5], line[512];
	unsigned long inode;

	malloc_trim(0);
	if (!maps)
		return;
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNxPTR " %*s %lu", &from, &to,
			   perms, &offset, &inode) != 5)
			continue;
		/* Executable, private, from a file: never written, so nothing can be lost. */
		if (inode && strcmp(perms, "r-xp") == 0)
			(void)madvise((void *)from, to - from, MADV_DONTNEED); /* best effort */
	}
	fclose(maps);
}
