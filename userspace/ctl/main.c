// SPDX-License-Identifier: Apache-2.0
/* culvertctl: enrol pods, and see what the daemon of this machine does. See culvertctl(8). */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "userspace/base/control.h"
#include "userspace/ctl/ctl.h"

static const char *environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

/* Where a daemon in ztunnel's place goes when it cannot make the usual one; nobody else's. */
static const char *default_run_dir(void)
{
	struct stat st;

	if (access(CV_RUN_DIR, F_OK) == 0 || lstat(CV_RUN_DIR_FALLBACK, &st) < 0 ||
	    !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return CV_RUN_DIR;
	return CV_RUN_DIR_FALLBACK;
}

int main(int argc, char **argv)
{
	const struct cv_ctl_command *command = NULL;
	struct cv_ctl ctl = {
		.run_dir = environment("CULVERT_RUN_DIR", default_run_dir()),
		.bpffs = environment("CULVERT_BPFFS", "/sys/fs/bpf/culvert"),
		.out = stdout,
	};
	int r = cv_ctl_parse(&ctl, argc, argv, &command);

	if (r != CV_CTL_OK)
		return r;
	if (ctl.help)
		cv_ctl_help(stdout, command);
	else if (!command)
		printf("culvertctl %s\n", CULVERT_VERSION);
	else
		r = command->run(&ctl);
	if (fflush(stdout) && r == CV_CTL_OK)
		return cv_ctl_fail("standard output cannot be written");
	return r;
}
