/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of what runs the daemon: the control thread, the workers, signals, and giving back the
 * memory that an idle node does not need.
 */
#include "userspace/daemon/stages.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/log.h"
#include "userspace/base/memory.h"

int cv_start_control(struct cv_daemon *d)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			cv_warn("open files stay limited to %lu: %s", (unsigned long)files.rlim_cur,
				cv_strerror(errno));
	}
	return cv_worker_control(&d->control);
}

void cv_stop_control(struct cv_daemon *d)
{
	cv_worker_free(&d->control);
}

int cv_start_workers(struct cv_daemon *d)
{
	for (; d->nr_workers < d->env.nr_workers; d->nr_workers++) {
		int r = cv_worker_start(&d->workers[d->nr_workers], d->nr_workers);

		if (r < 0)
			return r;
	}
	return 0;
}

void cv_stop_workers(struct cv_daemon *d)
{
	while (d->nr_workers)
		cv_worker_stop(&d->workers[--d->nr_workers]);
}

/* After the workers: threads inherit the scheduling of the one that starts them. */
int cv_start_batch(struct cv_daemon *d)
{
	const struct sched_param param = {};

	d->nice = getpriority(PRIO_PROCESS, 0);
	d->in_batch = true;
	if (sched_setscheduler(0, SCHED_BATCH, &param) < 0 || setpriority(PRIO_PROCESS, 0, 19) < 0)
		cv_debug("the control thread keeps its priority: %s", cv_strerror(errno));
	return 0;
}

void cv_end_batch(struct cv_daemon *d)
{
	const struct sched_param param = {};

	if (!d->in_batch)
		return;
	if (sched_setscheduler(0, SCHED_OTHER, &param) < 0 ||
	    setpriority(PRIO_PROCESS, 0, d->nice) < 0)
		cv_debug("the control thread's priority stays low: %s", cv_strerror(errno));
}

enum {
	TRIM_EVERY_S = 5,
	TRIM_IDLE_PERCENT = 1, /* of a processor, over that time */
};

/* Whether the process had next to nothing to do since it was last asked. Open connections that carry little
 * are no work: most nodes have some at any time. */
static bool was_idle(struct cv_daemon *d)
{
	uint64_t used, since;
	struct timespec cpu;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	used = (uint64_t)cpu.tv_sec * 1000000000 + (uint64_t)cpu.tv_nsec;
	since = used - d->trim_cpu_ns;
	d->trim_cpu_ns = used;
	return since < (uint64_t)TRIM_EVERY_S * 1000000000 / 100 * TRIM_IDLE_PERCENT;
}

/* Not while it carries traffic, which would only fault everything in again. */
static void on_trim_due(evutil_socket_t fd, short what, void *arg)
{
	struct cv_daemon *d = arg;
	struct cv_proxy_stats stats;
	bool idle = was_idle(d);

	(void)fd; /* a timer */
	(void)what;
	cv_proxy_stats(d->proxy, &stats);
	if (idle || !stats.connections)
		cv_memory_trim();
}

/* Enrolment, certificates and bursts of traffic leave memory behind that an idle node does not
 * need; coming back costs a page fault for each 64 KiB of code. */
int cv_start_trim(struct cv_daemon *d)
{
	const struct timeval every = { .tv_sec = TRIM_EVERY_S };

	d->trim = event_new(cv_worker_base(d->control), -1, EV_PERSIST, on_trim_due, d);
	return d->trim && event_add(d->trim, &every) == 0 ? 0 : -ENOMEM;
}

void cv_stop_trim(struct cv_daemon *d)
{
	if (d->trim)
		event_free(d->trim);
	d->trim = NULL;
}

static void on_sigterm(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	cv_info("signal %d: draining", (int)fd);
	cv_daemon_shutdown(arg);
}

static void on_sigint(evutil_socket_t fd, short what, void *arg)
{
	struct cv_daemon *d = arg;

	(void)fd;
	(void)what;
	if (d->draining)
		_exit(0);
	cv_info("interrupted: draining; once more ends at once");
	cv_daemon_shutdown(d);
}

int cv_start_signals(struct cv_daemon *d)
{
	struct event_base *base = cv_worker_base(d->control);

	d->on_sigterm = evsignal_new(base, SIGTERM, on_sigterm, d);
	d->on_sigint = evsignal_new(base, SIGINT, on_sigint, d);
	if (!d->on_sigterm || !d->on_sigint || event_add(d->on_sigterm, NULL) < 0 ||
	    event_add(d->on_sigint, NULL) < 0)
		return -ENOMEM;
	return 0;
}

void cv_stop_signals(struct cv_daemon *d)
{
	if (d->on_sigterm)
		event_free(d->on_sigterm);
	if (d->on_sigint)
		event_free(d->on_sigint);
	d->on_sigterm = d->on_sigint = NULL;
}
