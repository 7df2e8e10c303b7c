/* SPDX-License-Identifier: Apache-2.0 */
/*
 * culvertctl: what one run was asked to do, and the sub-commands.
 *
 * A sub-command gets its data from the daemon as JSON (userspace/base/control.h) and prints it as
 * a table, or as it came.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum cv_ctl_format { CV_CTL_TABLE, CV_CTL_JSON, CV_CTL_YAML };

enum { /* exit codes */
       CV_CTL_OK = 0,
       CV_CTL_FAILED = 1,
       CV_CTL_USAGE = 2,
       /* of explain: */
       CV_CTL_DENIED = 3, /* by policy */
       CV_CTL_REFUSED = 4, /* there is no way */
       CV_CTL_MIXED = 5, /* it depends on the endpoint */
};

struct cv_ctl {
	const char *run_dir, *bpffs; /* CULVERT_RUN_DIR, CULVERT_BPFFS */
	const char *operand; /* NAMESPACE/NAME; NULL = none */
	/* Options; NULL = not given. See the table in options.c. */
	const char *output, *ns, *direction, *netns, *service_account, *uid, *level, *from, *to;
	bool raw, reset, help, version;
	enum cv_ctl_format format; /* from output */
	FILE *out;
};

struct cv_ctl_command {
	const char *words; /* "pod add" */
	const char *operand; /* NULL = takes none */
	const char *options; /* letters of the options that it takes, beside -h */
	const char *help;
	int (*run)(struct cv_ctl *ctl); /* exit code; errors were printed */
};
extern const struct cv_ctl_command cv_ctl_commands[];
extern const size_t cv_ctl_nr_commands;

/* options.c */
/* Finds the command and fills in the rest. CV_CTL_OK; CV_CTL_USAGE when it is wrong, the reason
 * was printed. *ret_command NULL = none was given (--help, --version). */
int cv_ctl_parse(struct cv_ctl *ctl, int argc, char **argv,
		 const struct cv_ctl_command **ret_command);
void cv_ctl_help(FILE *out, const struct cv_ctl_command *command); /* NULL = all */

/* client.c */
/* Connects to the daemon. Returns the fd or -errno. */
int cv_ctl_connect(const char *run_dir);
/* Asks the daemon. args: reference moves, may be NULL; fd is passed along, -1 = none. NULL when it failed; the reason was
 * printed. */
json_t *cv_ctl_ask(const struct cv_ctl *ctl, const char *command, json_t *args, int fd);

/* output.c */
/* Prints "culvertctl: …" on stderr; returns CV_CTL_FAILED. */
int cv_ctl_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints JSON or YAML, as asked; returns an exit code. Takes the reference. */
int cv_ctl_print(const struct cv_ctl *ctl, json_t *data);
int cv_ctl_print_yaml(FILE *out, const json_t *data); /* 0 or -errno */

/* What a table is made of, apart from where it came from. */
struct cv_ctl_data {
	const json_t *list; /* the rows */
	const json_t *services, *workloads; /* for names and states; NULL = none */
	const char *ns; /* rows outside it are left out; NULL = none */
	const char *now; /* RFC 3339 */
};
void cv_ctl_table_workloads(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_services(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_policies(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_certificates(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_connections(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_flows(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_table_pods(FILE *out, const struct cv_ctl_data *d);
void cv_ctl_print_status(FILE *out, json_t *status);

/* explain.c */
int cv_ctl_explain(struct cv_ctl *ctl);
void cv_ctl_print_explain(FILE *out, const json_t *answer);
int cv_ctl_explain_code(const json_t *answer); /* the exit code that its verdict gives */

/* pods.c: the sub-commands that change something */
int cv_ctl_pod_add(struct cv_ctl *ctl);
int cv_ctl_pod_del(struct cv_ctl *ctl);
int cv_ctl_unload(struct cv_ctl *ctl);
