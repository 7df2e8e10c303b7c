// SPDX-License-Identifier: Apache-2.0
/*
 * The command line. One table of options drives parsing and --help; a command lists the letters
 * of those it takes.
 */
#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"

struct option_row {
	const char *name;
	char letter; /* what cv_ctl_command.options says; upper case = long form only */
	const char *value; /* NULL = a flag */
	size_t offset; /* of const char * or bool in struct cv_ctl */
	const char *help;
};

#define FIELD(name) offsetof(struct cv_ctl, name)

static const struct option_row options[] = {
	{ "output", 'o', "FORMAT", FIELD(output), "table (default), json or yaml" },
	{ "namespace", 'n', "NAMESPACE", FIELD(ns), "this namespace alone" },
	{ "direction", 'd', "DIRECTION", FIELD(direction), "inbound or outbound alone" },
	{ "raw", 'R', NULL, FIELD(raw), "addresses, not names" },
	{ "netns", 'N', "PATH", FIELD(netns), "the pod's network namespace" },
	{ "service-account", 'S', "NAME", FIELD(service_account), "the pod's service account" },
	{ "uid", 'U', "UID", FIELD(uid), "the pod's UID" },
	{ "level", 'L', "LEVEL", FIELD(level), "a level, or TARGET=LEVEL; more with commas" },
	{ "reset", 'E', NULL, FIELD(reset), "back to the level at start first" },
	{ "from", 'F', "NAMESPACE/NAME", FIELD(from), "the pod that connects" },
	{ "to", 'T', "ADDRESS:PORT", FIELD(to), "what it connects to" },
	{ "help", 'h', NULL, FIELD(help), "what there is" },
	{ "version", 'V', NULL, FIELD(version), "culvertctl's version" },
};

static bool takes(const struct cv_ctl_command *command, char letter)
{
	return letter == 'h' || !command || strchr(command->options, letter);
}

static bool has_letter(char letter)
{
	return letter >= 'a' || letter == 'V';
}

static void print_option(FILE *out, const struct option_row *o)
{
	char shape[64];

	snprintf(shape, sizeof(shape), "--%s%s%s", o->name, o->value ? " " : "",
		 o->value ? o->value : "");
	if (has_letter(o->letter))
		fprintf(out, "  -%c, %-24s %s\n", o->letter, shape, o->help);
	else
		fprintf(out, "      %-24s %s\n", shape, o->help);
}

static void print_command(FILE *out, const struct cv_ctl_command *c)
{
	char shape[64];

	snprintf(shape, sizeof(shape), "%s%s%s", c->words, c->operand ? " " : "",
		 c->operand ? c->operand : "");
	fprintf(out, "  %-28s %s\n", shape, c->help);
}

void cv_ctl_help(FILE *out, const struct cv_ctl_command *command)
{
	if (command) {
		fprintf(out, "usage: culvertctl %s%s%s [options]\n\n%s\n\noptions:\n",
			command->words, command->operand ? " " : "",
			command->operand ? command->operand : "", command->help);
	} else {
		fprintf(out, "usage: culvertctl COMMAND [options]\n\ncommands:\n");
		for (size_t i = 0; i < cv_ctl_nr_commands; i++)
			print_command(out, &cv_ctl_commands[i]);
		fprintf(out, "\noptions (culvertctl COMMAND --help says which a command takes):\n");
	}
	for (size_t i = 0; i < CV_ARRAY_SIZE(options); i++)
		if (takes(command, options[i].letter))
			print_option(out, &options[i]);
	if (!command)
		fprintf(out, "\nenvironment: CULVERT_RUN_DIR (/run/culvert), "
			     "CULVERT_BPFFS (/sys/fs/bpf/culvert)\n");
}

static int usage_error(const struct cv_ctl_command *command, const char *what, const char *which)
{
	fprintf(stderr, "culvertctl: %s%s%s (culvertctl %s%s--help)\n", what, *which ? ": " : "",
		which, command ? command->words : "", command ? " " : "");
	return CV_CTL_USAGE;
}

/* Getopt's two descriptions of the table. */
static void describe(struct option *longs, char *shorts)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(options); i++) {
		const struct option_row *o = &options[i];

		longs[i] = (struct option){ o->name, o->value ? required_argument : no_argument,
					    NULL, o->letter };
		if (!has_letter(o->letter))
			continue;
		*shorts++ = o->letter;
		if (o->value)
			*shorts++ = ':';
	}
	longs[CV_ARRAY_SIZE(options)] = (struct option){};
	*shorts = '\0';
}

static const struct option_row *find_option(int letter)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(options); i++)
		if (options[i].letter == letter)
			return &options[i];
	return NULL;
}

/* Sets what was given; used[] says in which order, for the check against the command. */
static int parse_options(struct cv_ctl *ctl, int argc, char **argv, char *used)
{
	struct option longs[CV_ARRAY_SIZE(options) + 1];
	char shorts[2 * CV_ARRAY_SIZE(options) + 1];
	const struct option_row *o;
	int letter;

	describe(longs, shorts);
	optind = 0; /* glibc: from the beginning, for tests that parse twice */
	opterr = 0;
	while ((letter = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		o = find_option(letter);
		if (!o)
			return usage_error(NULL, "unknown option, or its value is missing",
					   argv[optind - 1]);
		if (o->value)
			*(const char **)((char *)ctl + o->offset) = optarg;
		else
			*(bool *)((char *)ctl + o->offset) = true;
		if (!strchr(used, letter))
			used[strlen(used)] = (char)letter;
	}
	return CV_CTL_OK;
}

static int parse_format(struct cv_ctl *ctl, const struct cv_ctl_command *command)
{
	static const char *const names[] = {
		[CV_CTL_TABLE] = "table",
		[CV_CTL_JSON] = "json",
		[CV_CTL_YAML] = "yaml",
	};

	ctl->format = CV_CTL_TABLE;
	if (!ctl->output)
		return CV_CTL_OK;
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		if (strcmp(ctl->output, names[i]))
			continue;
		ctl->format = i;
		return CV_CTL_OK;
	}
	return usage_error(command, "no such output format", ctl->output);
}

/* The words of a command lead the operands; *ret_words says how many there are. */
static const struct cv_ctl_command *find_command(int argc, char **argv, int *ret_words)
{
	char two[64] = "";

	if (argc > 1)
		snprintf(two, sizeof(two), "%s %s", argv[0], argv[1]);
	for (size_t i = 0; argc && i < cv_ctl_nr_commands; i++) {
		const struct cv_ctl_command *c = &cv_ctl_commands[i];

		*ret_words = strchr(c->words, ' ') ? 2 : 1;
		if (!strcmp(c->words, *ret_words == 2 ? two : argv[0]))
			return c;
	}
	return NULL;
}

static int check_options(const struct cv_ctl *ctl, const struct cv_ctl_command *command,
			 const char *used)
{
	for (; *used; used++)
		if (!takes(command, *used))
			return usage_error(command, "this command has no option",
					   find_option(*used)->name);
	if (ctl->direction && strcmp(ctl->direction, "inbound") &&
	    strcmp(ctl->direction, "outbound"))
		return usage_error(command, "no such direction", ctl->direction);
	return CV_CTL_OK;
}

int cv_ctl_parse(struct cv_ctl *ctl, int argc, char **argv,
		 const struct cv_ctl_command **ret_command)
{
	char used[CV_ARRAY_SIZE(options) + 1] = "";
	const struct cv_ctl_command *command;
	int words = 0, r = parse_options(ctl, argc, argv, used);

	if (r != CV_CTL_OK)
		return r;
	argc -= optind;
	argv += optind;
	command = find_command(argc, argv, &words);
	*ret_command = command;
	if (ctl->help || (ctl->version && !command))
		return CV_CTL_OK;
	if (!command)
		return usage_error(NULL, argc ? "no such command" : "a command is missing",
				   argc ? argv[0] : "");
	r = check_options(ctl, command, used);
	if (r != CV_CTL_OK)
		return r;
	if (argc - words != (command->operand ? 1 : 0))
		return usage_error(command, command->operand ? "expected" : "too many arguments",
				   command->operand ? command->operand : argv[words]);
	ctl->operand = command->operand ? argv[words] : NULL;
	return parse_format(ctl, command);
}
