/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a daemon that idles most of the time: few arenas, and start-up's pages given back. */
#include "userspace/base/memory.h"

#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void cv_memory_init(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_TRIM_THRESHOLD, 256 << 10);
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
}

/* Code and constants: what an object's headers call read-only is never written, not even when it is
 * relocated (that is the part of a writable segment which is protected afterwards), so nothing is lost. */
static int drop_constants(struct dl_phdr_info *object, size_t size, void *arg)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)size;
	(void)arg;
	if (strncmp(object->dlpi_name, "linux-", 6) == 0) /* the kernel's own is in no file */
		return 0;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
		uintptr_t from = object->dlpi_addr + segment->p_vaddr;
		uintptr_t to = (from + segment->p_memsz) & ~(page - 1);

		from = (from + page - 1) & ~(page - 1);
		if (segment->p_type == PT_LOAD && !(segment->p_flags & PF_W) && from < to)
			(void)madvise((void *)from, to - from, MADV_DONTNEED); /* best effort */
	}
	return 0;
}

void cv_memory_trim(void)
{
	malloc_trim(0);
	dl_iterate_phdr(drop_constants, NULL);
}
