/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables with aligned columns: each is as wide as its widest cell and the padding, the last one
 * is not filled up, so that lines have no trailing blanks.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

enum { CV_TABLE_COLUMNS = 16 };

struct cv_table {
	unsigned columns, padding;
	size_t rows, room;
	char **cells; /* rows * columns, owned */
};

/* The header is the first row: texts of which NULL is the last. */
void cv_table_init(struct cv_table *t, unsigned padding, const char *const *header);
/* Copies as many texts as there are columns; NULL and control characters become "". */
void cv_table_row(struct cv_table *t, const char *const *cells);
/* Sorts the rows below the header by these columns, as bytes. */
void cv_table_sort(struct cv_table *t, unsigned first, unsigned second, unsigned third);
void cv_table_print(const struct cv_table *t, FILE *out);
void cv_table_fini(struct cv_table *t);
