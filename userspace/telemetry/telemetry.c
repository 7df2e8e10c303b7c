// SPDX-License-Identifier: Apache-2.0
/* The telemetry object, and readiness: the tasks that must be done before the node is ready. */
#include "userspace/telemetry/telemetry.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CV_LOG_TARGET "readiness"
#include "userspace/base/log.h"
#include "userspace/telemetry/private.h"

int cv_telemetry_new(struct cv_telemetry **ret, const struct cv_telemetry_opts *opts)
{
	struct cv_telemetry *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (opts->istio_version && *opts->istio_version) {
		t->istio_version = strdup(opts->istio_version);
		if (!t->istio_version) {
			free(t);
			return -ENOMEM;
		}
	}
	cv_series_init(&t->series, opts->max_series ? opts->max_series : CV_LIMIT_SERIES);
	cv_dns_series_init(&t->dns);
	cv_traffic_init(t);
	pthread_mutex_init(&t->metrics_lock, NULL);
	pthread_mutex_init(&t->ready_lock, NULL);
	cv_names_init(t);
	t->started_ms = cv_now_ms();
	*ret = t;
	return 0;
}

void cv_telemetry_free(struct cv_telemetry **telemetry)
{
	struct cv_telemetry *t = *telemetry;

	*telemetry = NULL;
	if (!t)
		return;
	cv_http_stop(t);
	cv_traffic_fini(t);
	cv_series_fini(&t->series);
	cv_dns_series_fini(&t->dns);
	for (struct cv_metric *m = t->metrics, *next; m; m = next) {
		next = m->next;
		free(m->name);
		free(m->help);
		free(m);
	}
	for (struct cv_ready_task *task = t->pending, *next; task; task = next) {
		next = task->next;
		free(task);
	}
	cv_names_fini(t);
	pthread_mutex_destroy(&t->metrics_lock);
	pthread_mutex_destroy(&t->ready_lock);
	free(t->istio_version);
	free(t);
}

/* --- readiness --- */

/* Where the task is, or would be. Under lock. */
static struct cv_ready_task **find_task(struct cv_telemetry *t, const char *name)
{
	struct cv_ready_task **at = &t->pending;

	while (*at && strcmp((*at)->name, name) < 0)
		at = &(*at)->next;
	return at;
}

void cv_ready_add(struct cv_telemetry *t, const char *task)
{
	size_t size = strlen(task) + 1;
	struct cv_ready_task **at, *added;

	pthread_mutex_lock(&t->ready_lock);
	at = find_task(t, task);
	if (!*at || strcmp((*at)->name, task)) {
		added = malloc(sizeof(*added) + size);
		if (!added)
			abort();
		memcpy(added->name, task, size);
		added->next = *at;
		*at = added;
	}
	pthread_mutex_unlock(&t->ready_lock);
}

void cv_ready_done(struct cv_telemetry *t, const char *task)
{
	uint64_t took_ms = cv_now_ms() - t->started_ms;
	struct cv_ready_task **at, *done = NULL;
	bool ready;

	pthread_mutex_lock(&t->ready_lock);
	at = find_task(t, task);
	if (*at && !strcmp((*at)->name, task)) {
		done = *at;
		*at = done->next;
	}
	ready = !t->pending;
	pthread_mutex_unlock(&t->ready_lock);
	if (!done)
		return;
	free(done);
	cv_info("task '%s' complete (%" PRIu64 "ms)%s", task, took_ms,
		ready ? ", marking server ready" : "");
}

json_t *cv_ready_pending(struct cv_telemetry *t)
{
	json_t *names = json_array();

	pthread_mutex_lock(&t->ready_lock);
	for (struct cv_ready_task *task = t->pending; task; task = task->next)
		json_array_append_new(names, json_string(task->name));
	pthread_mutex_unlock(&t->ready_lock);
	return names;
}
