/* SPDX-License-Identifier: Apache-2.0 */
/* A hash with linear probing; a removal moves up what follows, so that there are no tombstones. */
#include "userspace/mesh/xds_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum { FIRST_SLOTS = 64 };

static size_t home_of(const struct xds_names *names, cv_str name)
{
	uint64_t h = (uint64_t)(uintptr_t)name * UINT64_C(0x9e3779b97f4a7c15);

	return (size_t)(h >> 20) & (names->nr_slots - 1);
}

static bool is_number(const struct xds_names *names, size_t i)
{
	return names->is_number[i / 8] >> i % 8 & 1;
}

static void set_is_number(struct xds_names *names, size_t i, bool on)
{
	uint8_t bit = (uint8_t)(1 << i % 8);

	names->is_number[i / 8] = on ? names->is_number[i / 8] | bit :
				       names->is_number[i / 8] & (uint8_t)~bit;
}

/* The slot of the name, or the free one where it would be. There is always a free one. */
static size_t find_slot(const struct xds_names *names, cv_str name)
{
	size_t i = home_of(names, name);

	while (names->slots[i].name && names->slots[i].name != name)
		i = (i + 1) & (names->nr_slots - 1);
	return i;
}

static void move_slot(struct xds_names *to, size_t i, const struct xds_names *from, size_t k)
{
	bool number = is_number(from, k);

	to->slots[i] = from->slots[k];
	set_is_number(to, i, number);
}

static void resize(struct xds_names *names, size_t nr_slots)
{
	struct xds_names fresh = { .nr_slots = nr_slots, .n = names->n };

	fresh.slots = calloc(nr_slots, sizeof(*fresh.slots));
	fresh.is_number = calloc(nr_slots / 8, 1);
	if (!fresh.slots || !fresh.is_number)
		abort(); /* as the objects that they name */
	for (size_t i = 0; i < names->nr_slots; i++)
		if (names->slots[i].name)
			move_slot(&fresh, find_slot(&fresh, names->slots[i].name), names, i);
	free(names->slots);
	free(names->is_number);
	*names = fresh;
}

static bool parse_number(const char *version, uint64_t *ret)
{
	char text[XDS_VERSION_TEXT];
	char *end;

	*ret = strtoull(version, &end, 16);
	snprintf(text, sizeof(text), "%" PRIx64, *ret);
	return !*end && strcmp(text, version) == 0;
}

static void put_version(struct xds_names *names, size_t i)
{
	cv_str text;

	if (is_number(names, i))
		return;
	text = (cv_str)(uintptr_t)names->slots[i].version;
	cv_str_put(&text);
}

bool xds_names_has(const struct xds_names *names, cv_str name)
{
	return names->nr_slots && names->slots[find_slot(names, name)].name;
}

void xds_names_set(struct xds_names *names, cv_str name, const char *version)
{
	uint64_t number;
	bool numeric = parse_number(version, &number);
	size_t i;

	if (names->n >= names->nr_slots / 8 * 7)
		resize(names, names->nr_slots ? 2 * names->nr_slots : FIRST_SLOTS);
	i = find_slot(names, name);
	if (names->slots[i].name) {
		put_version(names, i);
	} else {
		names->slots[i].name = cv_str_ref(name);
		names->n++;
	}
	names->slots[i].version = numeric ? number : (uint64_t)(uintptr_t)cv_str_new(version);
	set_is_number(names, i, numeric);
}

void xds_names_remove(struct xds_names *names, cv_str name)
{
	size_t mask = names->nr_slots - 1, hole, i;

	if (!xds_names_has(names, name))
		return;
	hole = find_slot(names, name);
	put_version(names, hole);
	cv_str_put(&names->slots[hole].name);
	names->n--;
	/* What was pushed past the hole comes back to it. */
	for (i = (hole + 1) & mask; names->slots[i].name; i = (i + 1) & mask) {
		size_t home = home_of(names, names->slots[i].name);

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		move_slot(names, hole, names, i);
		names->slots[i].name = NULL;
		hole = i;
	}
	if (names->nr_slots > FIRST_SLOTS && names->n < names->nr_slots / 8)
		resize(names, names->nr_slots / 2);
}

void xds_names_fini(struct xds_names *names)
{
	for (size_t i = 0; i < names->nr_slots; i++) {
		if (!names->slots[i].name)
			continue;
		put_version(names, i);
		cv_str_put(&names->slots[i].name);
	}
	free(names->slots);
	free(names->is_number);
	*names = (struct xds_names){};
}

cv_str xds_names_next(const struct xds_names *names, size_t *at, const char **ret_version,
		      char buf[XDS_VERSION_TEXT])
{
	while (*at < names->nr_slots && !names->slots[*at].name)
		++*at;
	if (*at >= names->nr_slots)
		return NULL;
	if (is_number(names, *at)) {
		snprintf(buf, XDS_VERSION_TEXT, "%" PRIx64, names->slots[*at].version);
		*ret_version = buf;
	} else {
		*ret_version = cv_str_text((cv_str)(uintptr_t)names->slots[*at].version);
	}
	return names->slots[(*at)++].name;
}
