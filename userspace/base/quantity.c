/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers, durations and Kubernetes quantities: the latter two a number, then a unit from a table,
 * which neither depend on the locale nor take signs. None takes spaces or anything after its end.
 */
#include "userspace/base/quantity.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "userspace/base/cleanup.h"

struct duration_unit {
	const char *name;
	uint64_t ns;
};

static const struct duration_unit duration_units[] = {
	{ "ns", 1 },
	{ "us", 1000 },
	{ "µs", 1000 },
	{ "ms", 1000000 },
	{ "s", 1000000000 },
	{ "m", 60 * 1000000000ull },
	{ "h", 3600 * 1000000000ull },
	{ "d", 86400 * 1000000000ull },
	{ "w", 7 * 86400 * 1000000000ull },
};

struct quantity_unit {
	const char *name;
	double factor;
};

static const struct quantity_unit quantity_units[] = {
	{ "", 1 },	  { "n", 1e-9 },    { "u", 1e-6 },    { "m", 1e-3 },
	{ "k", 1e3 },	  { "M", 1e6 },	    { "G", 1e9 },     { "T", 1e12 },
	{ "P", 1e15 },	  { "E", 1e18 },    { "Ki", 0x1p10 }, { "Mi", 0x1p20 },
	{ "Gi", 0x1p30 }, { "Ti", 0x1p40 }, { "Pi", 0x1p50 }, { "Ei", 0x1p60 },
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Moves *text over its digits. */
static int take_integer(const char **text, uint64_t *ret)
{
	uint64_t n = 0;

	if (!is_digit(**text))
		return -EINVAL;
	for (; is_digit(**text); (*text)++) {
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(**text - '0'), &n))
			return -ERANGE;
	}
	*ret = n;
	return 0;
}

/* Moves *text over its unit: everything up to the next digit or the end. */
static int take_duration_unit(const char **text, uint64_t *ret_ns)
{
	size_t len = strcspn(*text, "0123456789");

	for (size_t i = 0; i < CV_ARRAY_SIZE(duration_units); i++) {
		const struct duration_unit *u = &duration_units[i];

		if (strlen(u->name) == len && !memcmp(u->name, *text, len)) {
			*text += len;
			*ret_ns = u->ns;
			return 0;
		}
	}
	return -EINVAL;
}

int cv_uint_parse(const char *text, uint64_t *ret)
{
	uint64_t n;
	int r;

	text += *text == '+';
	r = take_integer(&text, &n);
	if (r == 0 && *text)
		r = -EINVAL;
	if (r == 0)
		*ret = n;
	return r;
}

int cv_duration_parse(const char *text, uint64_t *ret_ms)
{
	uint64_t n, unit_ns, total_ns = 0;
	bool lone = text[strspn(text, "0123456789")] == '\0';
	int r;

	do {
		r = take_integer(&text, &n);
		if (r)
			return r;
		unit_ns = 1000000000;
		r = lone ? 0 : take_duration_unit(&text, &unit_ns);
		if (r)
			return r;
		if (__builtin_mul_overflow(n, unit_ns, &n) ||
		    __builtin_add_overflow(total_ns, n, &total_ns))
			return -ERANGE;
	} while (*text);
	*ret_ms = total_ns / 1000000;
	return 0;
}

/* Moves *text over "e" and a signed exponent, if that is what stands there. */
static double take_exponent(const char **text)
{
	const char *p = *text;
	double factor = 1;
	bool negative;
	uint64_t n;

	if (*p != 'e' && *p != 'E')
		return 1;
	p++;
	negative = *p == '-';
	if (*p == '-' || *p == '+')
		p++;
	if (take_integer(&p, &n) || n > 18)
		return 1;
	*text = p;
	while (n--)
		factor *= 10;
	return negative ? 1 / factor : factor;
}

int cv_quantity_parse(const char *text, double *ret)
{
	double value = 0, place = 1;
	bool digits = false;

	for (; is_digit(*text); text++, digits = true)
		value = value * 10 + (*text - '0');
	if (*text == '.') {
		for (text++; is_digit(*text); text++, digits = true)
			value += (*text - '0') * (place /= 10);
	}
	if (!digits)
		return -EINVAL;
	value *= take_exponent(&text);
	for (size_t i = 0; i < CV_ARRAY_SIZE(quantity_units); i++) {
		if (!strcmp(text, quantity_units[i].name)) {
			*ret = value * quantity_units[i].factor;
			return 0;
		}
	}
	return -EINVAL;
}
