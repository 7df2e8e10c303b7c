/* SPDX-License-Identifier: Apache-2.0 */
/* Visits to pods' network namespaces: enter, do something, be back where the thread was. */
#pragma once

#include <linux/types.h>
#include <stdint.h>

/* Switches the calling thread; *ret_back is what cv_netns_visit_end needs. */
int cv_netns_visit(int netns_fd, int *ret_back);
/* Goes back and closes *back (-1 = nothing to do). A thread that cannot go back would act in the
 * wrong namespace from then on, so that ends the process. */
void cv_netns_visit_end(int *back);

/* SO_NETNS_COOKIE of the calling thread's namespace. */
int cv_netns_visit_cookie(__u64 *ret);
/* Opens the namespace with this inode number, found among the processes' and the mounted ones.
 * Returns an fd or -ENOENT. */
int cv_netns_find(uint64_t inode);
