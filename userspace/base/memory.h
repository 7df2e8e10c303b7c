/* SPDX-License-Identifier: Apache-2.0 */
/* What the process gives back to the kernel when start-up is over. */
#pragma once

/* Sets the allocator up for few arenas and early return of memory; before any thread starts. */
void cv_memory_init(void);
/* Returns free heap, and drops the mapped pages of code and constants, of which start-up alone needed most
 * (loading BPF, reading files, relocation); what is still needed is mapped again from the page cache. */
void cv_memory_trim(void);
