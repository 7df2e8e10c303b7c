/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes that test programs send: a function of the offset alone, so that whoever receives them
 * can tell what is missing, repeated or out of order, without a copy of what was sent.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The byte at this offset of any stream. */
static inline uint8_t pattern_at(uint64_t offset)
{
	uint64_t word = (offset >> 3) * 0x9e3779b97f4a7c15u;

	return (word ^ word >> 29) >> (offset & 7) * 8;
}

/* Writes the bytes from this offset on. */
static inline void pattern_fill(uint8_t *buf, size_t len, uint64_t offset)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern_at(offset + i);
}

/* How many leading bytes are as they should be; len when all of them are. */
static inline size_t pattern_match(const uint8_t *buf, size_t len, uint64_t offset)
{
	size_t i = 0;

	while (i < len && buf[i] == pattern_at(offset + i))
		i++;
	return i;
}
