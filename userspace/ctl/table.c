// SPDX-License-Identifier: Apache-2.0
/* Tables with aligned columns. Widths count characters of UTF-8, not bytes. */
#include "userspace/ctl/table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static size_t width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

/* A cell holds one line: names come from outside, and a terminal obeys control characters. */
static char *copy_cell(const char *text)
{
	char *copy = strdup(text ? text : "");

	if (!copy)
		abort();
	for (char *c = copy; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return copy;
}

void cv_table_row(struct cv_table *t, const char *const *cells)
{
	if (t->rows == t->room) {
		t->room = t->room ? 2 * t->room : 64;
		t->cells = reallocarray(t->cells, t->room * t->columns, sizeof(*t->cells));
		if (!t->cells)
			abort();
	}
	for (unsigned i = 0; i < t->columns; i++)
		t->cells[t->rows * t->columns + i] = copy_cell(cells[i]);
	t->rows++;
}

void cv_table_init(struct cv_table *t, unsigned padding, const char *const *header)
{
	*t = (struct cv_table){ .padding = padding };
	while (header[t->columns])
		t->columns++;
	cv_table_row(t, header);
}

enum { SORT_KEYS = 3 };

static int compare_rows(const void *a, const void *b, void *arg)
{
	const unsigned *by = arg;
	char *const *x = a, *const *y = b;
	int r = 0;

	for (unsigned i = 0; !r && i < SORT_KEYS; i++)
		r = strcmp(x[by[i]], y[by[i]]);
	return r;
}

void cv_table_sort(struct cv_table *t, unsigned first, unsigned second, unsigned third)
{
	unsigned by[SORT_KEYS] = { first, second, third };

	qsort_r(t->cells + t->columns, t->rows - 1, t->columns * sizeof(*t->cells), compare_rows,
		by);
}

static void print_row(const struct cv_table *t, char **row, const size_t *widths, FILE *out)
{
	for (unsigned i = 0; i < t->columns; i++) {
		bool last = i + 1 == t->columns;
		int fill = last ? 0 : (int)(widths[i] + t->padding - width(row[i]));

		fprintf(out, "%s%*s", row[i], fill, "");
	}
	fputc('\n', out);
}

void cv_table_print(const struct cv_table *t, FILE *out)
{
	size_t widths[CV_TABLE_COLUMNS] = {};

	for (size_t i = 0; i < t->rows * t->columns; i++) {
		size_t w = width(t->cells[i]);

		if (w > widths[i % t->columns])
			widths[i % t->columns] = w;
	}
	for (size_t i = 0; i < t->rows; i++)
		print_row(t, &t->cells[i * t->columns], widths, out);
}

void cv_table_fini(struct cv_table *t)
{
	for (size_t i = 0; i < t->rows * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct cv_table){};
}
