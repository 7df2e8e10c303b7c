/* SPDX-License-Identifier: Apache-2.0 */
/* inotify on the directory of a file, and a timer that waits until a burst of events is over. */
#include "userspace/io/filewatch.h"

#include <errno.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"

struct cv_filewatch {
	int fd;
	char *name; /* file name inside the directory */
	struct event *readable, *settle;
	void (*fn)(void *arg);
	void *arg;
};

/* Events that concern the file, or the `..data` link through which a ConfigMap is swapped. */
static bool is_relevant(const struct cv_filewatch *f, const struct inotify_event *e)
{
	if (e->mask & IN_Q_OVERFLOW)
		return true;
	return e->len && (strcmp(e->name, f->name) == 0 || strcmp(e->name, "..data") == 0);
}

static void on_events(evutil_socket_t fd, short what, void *arg)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const struct timeval settle = { .tv_usec = CV_FILEWATCH_SETTLE_MS * 1000 };
	struct cv_filewatch *f = arg;
	bool relevant = false;
	ssize_t n;

	(void)what; /* only EV_READ is registered */
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		const struct inotify_event *e;

		for (char *p = buf; p < buf + n; p += sizeof(*e) + e->len) {
			e = (const struct inotify_event *)p;
			relevant |= is_relevant(f, e);
		}
	}
	if (relevant)
		event_add(f->settle, &settle);
}

static void on_settled(evutil_socket_t fd, short what, void *arg)
{
	struct cv_filewatch *f = arg;

	(void)fd; /* a timer */
	(void)what;
	f->fn(f->arg);
}

static int watch_directory(struct cv_filewatch *f, const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	f->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (f->fd < 0)
		return -errno;
	if (inotify_add_watch(f->fd, dirname(copy),
			      IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_MODIFY | IN_DELETE) < 0)
		return -errno;
	return 0;
}

int cv_filewatch_start(struct cv_filewatch **ret, struct cv_worker *w, const char *path,
		       void (*fn)(void *arg), void *arg)
{
	_cleanup_(cv_filewatch_stop) struct cv_filewatch *f = calloc(1, sizeof(*f));
	const char *slash = strrchr(path, '/');
	int r;

	if (!f)
		return -ENOMEM;
	f->fd = -1;
	f->fn = fn;
	f->arg = arg;
	f->name = strdup(slash ? slash + 1 : path);
	if (!f->name)
		return -ENOMEM;
	r = watch_directory(f, path);
	if (r < 0)
		return r;
	f->readable = event_new(cv_worker_base(w), f->fd, EV_READ | EV_PERSIST, on_events, f);
	f->settle = event_new(cv_worker_base(w), -1, 0, on_settled, f);
	if (!f->readable || !f->settle || event_add(f->readable, NULL) < 0)
		return -ENOMEM;
	*ret = cv_take_ptr(f);
	return 0;
}

void cv_filewatch_stop(struct cv_filewatch **fp)
{
	struct cv_filewatch *f = *fp;

	*fp = NULL;
	if (!f)
		return;
	if (f->readable)
		event_free(f->readable);
	if (f->settle)
		event_free(f->settle);
	cv_close(&f->fd);
	free(f->name);
	free(f);
}
