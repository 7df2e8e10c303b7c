/* SPDX-License-Identifier: Apache-2.0 */
/*
 * culvertd's command line, which is ztunnel's: `proxy` (or nothing) runs, `version`, `help`; and
 * `check-config FILE`, which says whether a culvert.yaml or a file of workloads is good.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/log.h"
#include "userspace/daemon/check_config.h"
#include "userspace/daemon/daemon.h"

static int print_version(void)
{
	printf("culvertd %s\n", CULVERT_VERSION);
	return 0;
}

static int print_help(FILE *to)
{
	fprintf(to, "usage: culvertd [proxy [ztunnel] | version | help | check-config FILE]\n"
		    "\n"
		    "  proxy         run the node dataplane (also without a command)\n"
		    "  proxy ztunnel run it in ztunnel's place: pods come from istio-cni, no BPF\n"
		    "                (also when the program is called as `ztunnel`)\n"
		    "  version       print the version\n"
		    "  check-config  say whether FILE, a culvert.yaml or a file of workloads,\n"
		    "                services and policies, is good: exit 0, else 1\n"
		    "\n");
	if (to != stdout)
		return 1;
	printf("Environment (see culvertd(8)):\n");
	cv_env_print_help(stdout);
	return 0;
}

/* ztunnel's image runs `ztunnel proxy ztunnel`. */
static bool is_drop_in(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');

	return strcmp(slash ? slash + 1 : argv[0], "ztunnel") == 0 ||
	       (argc > 2 && strcmp(argv[2], "ztunnel") == 0);
}

static int run_proxy(int argc, char **argv)
{
	struct cv_daemon d = {};
	char error[512];
	int r;

	if (cv_env_read(&d.env, error, sizeof(error)) < 0) {
		fprintf(stderr, "culvertd: %s\n", error);
		return 1;
	}
	d.env.drop_in = is_drop_in(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	r = cv_log_init(d.env.log_filter,
			d.env.log_format && strcmp(d.env.log_format, "json") == 0);
	if (r < 0) {
		fprintf(stderr,
			"culvertd: RUST_LOG=\"%s\": expected LEVEL or TARGET=LEVEL, comma "
			"separated\n",
			d.env.log_filter);
		cv_env_fini(&d.env);
		return 1;
	}
	r = cv_daemon_start(&d);
	if (r == 0)
		r = cv_daemon_run(&d);
	cv_daemon_stop(&d);
	cv_log_fini();
	cv_env_fini(&d.env);
	return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "proxy";

	if (strcmp(command, "proxy") == 0)
		return run_proxy(argc, argv);
	if (strcmp(command, "version") == 0)
		return print_version();
	if (strcmp(command, "help") == 0 || strcmp(command, "--help") == 0)
		return print_help(stdout);
	if (strcmp(command, "check-config") == 0 && argc == 3)
		return cv_check_config(argv[2]) < 0 ? 1 : 0;
	fprintf(stderr, "culvertd: unknown command: %s\n", command);
	return print_help(stderr);
}
