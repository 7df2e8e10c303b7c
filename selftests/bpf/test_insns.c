// SPDX-License-Identifier: Apache-2.0
/*
 * What each program costs the verifier: at most 20 % more instructions than insns.txt records for
 * this kernel's series. A series that the record does not know is printed, ready to be added.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/types.h>
#include <stdio.h>
#include <sys/utsname.h>

#include "maps/types.h"
#include "culvert.skel.h"

enum { GROWTH_PERCENT = 20, MAX_ROWS = 512 };

/* One line of the record: SERIES PROGRAM INSTRUCTIONS. */
struct row {
	char series[16], prog[32];
	unsigned insns;
};

static struct row rows[MAX_ROWS];
static size_t nr_rows;
static char series[16];

static int read_record(void **state)
{
	const char *dir = getenv("CV_SELFTESTS");
	struct utsname uts;
	unsigned major, minor;
	char path[4096], line[256];
	FILE *f;

	(void)state;
	if (uname(&uts) || sscanf(uts.release, "%u.%u", &major, &minor) != 2)
		return -1;
	snprintf(series, sizeof(series), "%u.%u", major, minor);
	snprintf(path, sizeof(path), "%s/bpf/insns.txt", dir ? dir : "selftests");
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (nr_rows < MAX_ROWS && fgets(line, sizeof(line), f)) {
		struct row *r = &rows[nr_rows];

		if (sscanf(line, "%15s %31s %u", r->series, r->prog, &r->insns) == 3)
			nr_rows++;
	}
	fclose(f);
	return 0;
}

/* Instructions on record for this series; 0 = none. */
static unsigned recorded(const char *prog)
{
	for (size_t i = 0; i < nr_rows; i++) {
		if (!strcmp(rows[i].series, series) && !strcmp(rows[i].prog, prog))
			return rows[i].insns;
	}
	return 0;
}

static bool knows_series(void)
{
	for (size_t i = 0; i < nr_rows; i++) {
		if (!strcmp(rows[i].series, series))
			return true;
	}
	return false;
}

static unsigned verified(const struct bpf_program *prog)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);

	assert_int_equal(bpf_obj_get_info_by_fd(bpf_program__fd(prog), &info, &len), 0);
	return info.verified_insns;
}

static void test_growth(void **state)
{
	struct culvert_bpf *skel = culvert_bpf__open();
	struct bpf_program *prog;
	bool known = knows_series();

	(void)state;
	assert_non_null(skel);
	skel->rodata->cv_config.set_retval = 1;
	assert_int_equal(culvert_bpf__load(skel), 0);
	bpf_object__for_each_program(prog, skel->obj) {
		const char *name = bpf_program__name(prog);
		unsigned now = verified(prog), before = recorded(name);

		if (!known)
			print_message("# %s %s %u\n", series, name, now);
		else if (!before)
			fail_msg("%s is not on record: %s %s %u", name, series, name, now);
		else if (now * 100 > before * (100 + GROWTH_PERCENT))
			fail_msg("%s took the verifier %u instructions, now %u", name, before, now);
	}
	culvert_bpf__destroy(skel);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_growth) };

	return cmocka_run_group_tests(tests, read_record, NULL);
}
