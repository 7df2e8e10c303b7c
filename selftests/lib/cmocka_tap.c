// SPDX-License-Identifier: Apache-2.0
/*
 * Linked into every cmocka program (the Makefile names the symbol): they print TAP whoever starts
 * them, and go on to do so when a test clears the environment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

void cv_cmocka_tap(void);

__attribute__((constructor)) void cv_cmocka_tap(void)
{
	cmocka_set_message_output(CM_OUTPUT_TAP);
}
