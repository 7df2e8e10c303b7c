/* SPDX-License-Identifier: Apache-2.0 */
/* Between store_services.c (published services) and store_slots.c (what they are made of). */
#pragma once

#include "userspace/mesh/store_private.h"

int cv_store_slots_init(struct cv_store *s);
void cv_store_slots_fini(struct cv_store *s);
/* `new` (borrowed) takes the place of the published service of this name; NULL = none does. */
void cv_store_service_publish(struct cv_store *s, cv_str ns, cv_str host, struct cv_service *new);
