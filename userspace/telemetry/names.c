/* SPDX-License-Identifier: Apache-2.0 */
/*
 * istio_on_demand_dns: how often connections needed the address of a host name, by who asked and
 * for what. One counter per distinct text of labels; bounded, what has no room is counted under
 * "overflow". A lock is good enough: DNS is not asked on the way of most connections.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/identity.h"
#include "userspace/telemetry/private.h"

enum { LABELS = 4096 };

static const char overflow[] = "hostname=\"overflow\"";

struct cv_name_series {
	struct cv_name_series *next;
	uint64_t count;
	char labels[];
};

static int put(char *buf, size_t at, const char *name, const char *value)
{
	char escaped[2 * CV_IDENTITY_TEXT];
	size_t room = at < LABELS ? LABELS - at : 0;

	return snprintf(buf + (room ? at : 0), room, "%s%s=\"%s\"", at ? "," : "", name,
			value && *value ? cv_metric_escape(value, escaped, sizeof(escaped)) :
					  "unknown");
}

static void format_labels(const struct cv_workload *src, const char *hostname, char buf[LABELS])
{
	const struct cv_identity id = { src->group->trust_domain, src->group->ns,
					src->group->service_account };
	char principal[CV_IDENTITY_TEXT];
	const struct {
		const char *name, *value;
	} labels[] = {
		{ "source_workload", src->group->workload_name },
		{ "source_canonical_service", src->group->canonical_name },
		{ "source_canonical_revision", src->group->canonical_revision },
		{ "source_workload_namespace", src->group->ns },
		{ "source_principal", cv_identity_text(&id, principal) },
		{ "source_app", src->group->canonical_name },
		{ "source_version", src->group->canonical_revision },
		{ "source_cluster", src->group->cluster_id },
		{ "hostname", hostname },
	};
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < CV_ARRAY_SIZE(labels); i++)
		at += (size_t)put(buf, at, labels[i].name, labels[i].value);
}

/* Under lock. Where the series is, or would be. */
static struct cv_name_series **find(struct cv_telemetry *t, const char *labels)
{
	struct cv_name_series **at = &t->names;

	while (*at && strcmp((*at)->labels, labels) != 0)
		at = &(*at)->next;
	return at;
}

/* Under lock. Nothing is counted when memory is out. */
static void count(struct cv_telemetry *t, const char *labels)
{
	struct cv_name_series **at = find(t, labels);

	if (!*at && t->nr_names >= CV_LIMIT_NAME_SERIES)
		at = find(t, labels = overflow);
	if (!*at) {
		*at = calloc(1, sizeof(**at) + strlen(labels) + 1);
		if (!*at)
			return;
		memcpy((*at)->labels, labels, strlen(labels) + 1);
		t->nr_names++;
	}
	(*at)->count++;
}

void cv_traffic_name_asked(struct cv_telemetry *t, const struct cv_workload *src,
			   const char *hostname)
{
	char labels[LABELS];

	format_labels(src, hostname, labels);
	pthread_mutex_lock(&t->names_lock);
	count(t, labels);
	pthread_mutex_unlock(&t->names_lock);
}

static void collect(struct cv_metric_sink *sink, void *arg)
{
	struct cv_telemetry *t = arg;

	pthread_mutex_lock(&t->names_lock);
	for (const struct cv_name_series *s = t->names; s; s = s->next)
		cv_metric_sample(sink, s->labels, (double)s->count);
	pthread_mutex_unlock(&t->names_lock);
}

void cv_names_init(struct cv_telemetry *t)
{
	pthread_mutex_init(&t->names_lock, NULL);
	cv_metric_register(t, "istio_on_demand_dns",
			   "The total number of requests that used on-demand DNS (unstable)", true,
			   collect, t);
}

void cv_names_fini(struct cv_telemetry *t)
{
	struct cv_name_series *s, *next;

	for (s = t->names; s; s = next) {
		next = s->next;
		free(s);
	}
	pthread_mutex_destroy(&t->names_lock);
}
