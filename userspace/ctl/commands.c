// SPDX-License-Identifier: Apache-2.0
/* The table of sub-commands, and those that only look: ask the daemon, then print. */
#include <string.h>
#include <time.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"

/* One command that shows a list. */
struct view {
	const char *command;
	bool services, workloads; /* what its table needs beside the list */
	void (*table)(FILE *out, const struct cv_ctl_data *d);
};

/* Keeps the objects of a list whose member `key` is `value`; takes and returns a reference. */
static json_t *keep(json_t *list, const char *key, const char *value)
{
	json_t *kept, *o;
	size_t i;

	if (!value)
		return list;
	kept = json_array();
	json_array_foreach(list, i, o)
		if (!strcmp(cv_field_text(o, key), value))
			json_array_append(kept, o);
	json_decref(list);
	return kept;
}

static int show_table(struct cv_ctl *ctl, const struct view *v, json_t *list)
{
	json_t *services = v->services ? cv_ctl_ask(ctl, "services", NULL, -1) : json_array();
	json_t *workloads = v->workloads ? cv_ctl_ask(ctl, "workloads", NULL, -1) : json_array();
	bool complete = services && workloads;
	time_t seconds = time(NULL);
	char now[32];
	struct tm tm;

	strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
	if (complete)
		v->table(ctl->out, &(struct cv_ctl_data){ .list = list,
							  .services = services,
							  .workloads = workloads,
							  .ns = ctl->ns,
							  .now = now });
	json_decref(list);
	json_decref(services);
	json_decref(workloads);
	return complete ? CV_CTL_OK : CV_CTL_FAILED;
}

static int show(struct cv_ctl *ctl, const struct view *v)
{
	json_t *list = cv_ctl_ask(ctl, v->command, NULL, -1);

	if (!list)
		return CV_CTL_FAILED;
	list = keep(list, "direction", ctl->direction);
	if (ctl->format == CV_CTL_TABLE)
		return show_table(ctl, v, list);
	return cv_ctl_print(ctl, keep(list, "namespace", ctl->ns));
}

static int show_workloads(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "workloads", true, false, cv_ctl_table_workloads });
}

static int show_services(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "services", false, true, cv_ctl_table_services });
}

static int show_policies(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "policies", false, false, cv_ctl_table_policies });
}

static int show_certificates(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "certificates", false, false, cv_ctl_table_certificates });
}

static int show_connections(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "connections", !ctl->raw, !ctl->raw,
					 cv_ctl_table_connections });
}

static int show_flows(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "flows", false, false, cv_ctl_table_flows });
}

static int show_pods(struct cv_ctl *ctl)
{
	return show(ctl, &(struct view){ "pod-list", false, false, cv_ctl_table_pods });
}

static int show_status(struct cv_ctl *ctl)
{
	json_t *status = cv_ctl_ask(ctl, "status", NULL, -1);

	if (!status)
		return CV_CTL_FAILED;
	if (ctl->format != CV_CTL_TABLE)
		return cv_ctl_print(ctl, status);
	cv_ctl_print_status(ctl->out, status);
	json_decref(status);
	return CV_CTL_OK;
}

static int change_log(struct cv_ctl *ctl)
{
	json_t *args = json_pack("{s:s* s:b}", "level", ctl->level, "reset", ctl->reset);
	json_t *answer = cv_ctl_ask(ctl, "logging", args, -1);

	if (!answer)
		return CV_CTL_FAILED;
	if (ctl->format != CV_CTL_TABLE)
		return cv_ctl_print(ctl, answer);
	fprintf(ctl->out, "current log level is %s\n", cv_field_text(answer, "level"));
	json_decref(answer);
	return CV_CTL_OK;
}

const struct cv_ctl_command cv_ctl_commands[] = {
	{ "workloads", NULL, "on", "workloads of the mesh", show_workloads },
	{ "services", NULL, "on", "services, their addresses and endpoints", show_services },
	{ "policies", NULL, "on", "authorisation policies", show_policies },
	{ "certificates", NULL, "o", "workload certificates of this node", show_certificates },
	{ "connections", NULL, "ondR", "live connections of the enrolled pods", show_connections },
	{ "flows", NULL, "ond", "live and latest connections with tier, identities and bytes",
	  show_flows },
	{ "status", NULL, "o", "the daemon, the kernel's maps, programs and reasons", show_status },
	{ "log", NULL, "oLE", "show or change the daemon's log level", change_log },
	{ "pod add", "NAMESPACE/NAME", "oNSU", "enrol a pod (--netns PATH)", cv_ctl_pod_add },
	{ "pod del", "NAMESPACE/NAME", "o", "end a pod's enrolment", cv_ctl_pod_del },
	{ "pod list", NULL, "on", "enrolled pods", show_pods },
	{ "explain", NULL, "oFT", "what becomes of a connection (--from POD --to ADDRESS:PORT)",
	  cv_ctl_explain },
	{ "unload", NULL, "", "remove all from the kernel, when no daemon runs", cv_ctl_unload },
};
const size_t cv_ctl_nr_commands = CV_ARRAY_SIZE(cv_ctl_commands);
