/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The logger: lines are made by the caller, queued in a ring, and written by one thread in
 * batches of up to 64 with writev. It is woken for the first line and lets others gather for 2 ms
 * before it writes, so that a busy node pays for one wake-up where it would have paid for many.
 *
 *   cv_log_write ─ format ─▶ ring of CV_LIMIT_LOG_LINES ─▶ writer thread ─ writev ─▶ stdout
 *
 * A full ring makes callers wait. Without a writer (before cv_log_init, after cv_log_fini) a
 * line goes straight to stderr. Log text is data: control characters are escaped in both
 * formats, so one call is one line whatever a peer managed to put into it.
 */
#define CV_LOG_TARGET "log"
#include "userspace/base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "userspace/base/buf.h"
#include "userspace/base/cleanup.h"
#include "userspace/base/log_filter.h"
#include "userspace/base/log_line.h"
#include "userspace/limits.h"

enum { BATCH_LINES = 64, FLUSH_SECONDS = 1, GATHER_NS = 2000000, USUAL_BYTES = 1000 };

struct line {
	char *text; /* owned */
	size_t len;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t not_empty, not_full, drained;
	struct line *ring; /* CV_LIMIT_LOG_LINES of them; NULL = no writer */
	size_t first, count;
	bool writing; /* a batch is out of the ring and not yet written */
	bool stop;
	pthread_t writer;
} queue = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.not_empty = PTHREAD_COND_INITIALIZER,
	.not_full = PTHREAD_COND_INITIALIZER,
	.drained = PTHREAD_COND_INITIALIZER,
};
static _Atomic bool json_format;

/* All of iov to fd; what can't be written (a closed pipe) is given up. */
static void write_all(int fd, struct iovec *iov, int n)
{
	while (n) {
		ssize_t sent = writev(fd, iov, n);

		if (sent < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };

			(void)poll(&p, 1, -1); /* tells no more than the next writev */
			continue;
		}
		if (sent < 0 && errno != EINTR)
			return;
		for (; n && sent >= (ssize_t)iov->iov_len; iov++, n--)
			sent -= (ssize_t)iov->iov_len;
		if (n && sent > 0) {
			iov->iov_base = (char *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
}

static void write_batch(struct line *lines, int n)
{
	struct iovec iov[BATCH_LINES];

	for (int i = 0; i < n; i++)
		iov[i] = (struct iovec){ .iov_base = lines[i].text, .iov_len = lines[i].len };
	write_all(STDOUT_FILENO, iov, n);
	for (int i = 0; i < n; i++)
		free(lines[i].text);
}

/* Called with the lock held; moves up to BATCH_LINES out of the ring. */
static int take_batch(struct line *lines)
{
	int n = 0;

	for (; n < BATCH_LINES && queue.count; n++, queue.count--) {
		lines[n] = queue.ring[queue.first];
		queue.first = (queue.first + 1) % CV_LIMIT_LOG_LINES;
	}
	return n;
}

/* Called with the lock held, which is free meanwhile. */
static void let_lines_gather(void)
{
	const struct timespec pause = { .tv_nsec = GATHER_NS };

	if (queue.stop)
		return;
	pthread_mutex_unlock(&queue.lock);
	nanosleep(&pause, NULL);
	pthread_mutex_lock(&queue.lock);
}

static void *run_writer(void *arg)
{
	struct line lines[BATCH_LINES];
	int n;

	(void)arg;
	pthread_mutex_lock(&queue.lock);
	while (queue.count || !queue.stop) {
		if (!queue.count) {
			pthread_cond_wait(&queue.not_empty, &queue.lock);
			let_lines_gather();
			continue;
		}
		n = take_batch(lines);
		queue.writing = true;
		pthread_cond_broadcast(&queue.not_full);
		pthread_mutex_unlock(&queue.lock);
		write_batch(lines, n);
		pthread_mutex_lock(&queue.lock);
		queue.writing = false;
		if (!queue.count)
			pthread_cond_broadcast(&queue.drained);
	}
	pthread_mutex_unlock(&queue.lock);
	return NULL;
}

/* Takes the line's text. */
static void enqueue(struct line line)
{
	bool queued = false;

	pthread_mutex_lock(&queue.lock);
	while (queue.ring && !queue.stop && queue.count == CV_LIMIT_LOG_LINES)
		pthread_cond_wait(&queue.not_full, &queue.lock);
	if (queue.ring && !queue.stop) {
		queue.ring[(queue.first + queue.count++) % CV_LIMIT_LOG_LINES] = line;
		queued = true;
		if (queue.count == 1)
			pthread_cond_signal(&queue.not_empty);
	}
	pthread_mutex_unlock(&queue.lock);
	if (queued)
		return;
	write_all(STDERR_FILENO, &(struct iovec){ .iov_base = line.text, .iov_len = line.len }, 1);
	free(line.text);
}

static int start_writer(void)
{
	sigset_t all, old;
	int r;

	queue.ring = calloc(CV_LIMIT_LOG_LINES, sizeof(*queue.ring));
	if (!queue.ring)
		return -ENOMEM;
	queue.stop = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&queue.writer, NULL, run_writer, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		free(queue.ring);
		queue.ring = NULL;
		return r;
	}
	pthread_setname_np(queue.writer, "culvert-log");
	return 0;
}

int cv_log_init(const char *filter, bool json)
{
	int r = cv_log_filter_set_initial(filter ? filter : "info");

	if (r)
		return r;
	json_format = json;
	pthread_mutex_lock(&queue.lock);
	r = queue.ring ? -EALREADY : start_writer();
	pthread_mutex_unlock(&queue.lock);
	return r;
}

void cv_log_fini(void)
{
	struct timespec until;
	bool drained;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FLUSH_SECONDS;
	pthread_mutex_lock(&queue.lock);
	if (!queue.ring) {
		pthread_mutex_unlock(&queue.lock);
		return;
	}
	queue.stop = true;
	pthread_cond_signal(&queue.not_empty);
	pthread_cond_broadcast(&queue.not_full);
	while ((queue.count || queue.writing) &&
	       pthread_cond_timedwait(&queue.drained, &queue.lock, &until) != ETIMEDOUT)
		;
	drained = !queue.count && !queue.writing;
	pthread_mutex_unlock(&queue.lock);
	if (!drained) {
		/* The reader of stdout has stopped: the writer and its ring die with the process. */
		pthread_detach(queue.writer);
		return;
	}
	pthread_join(queue.writer, NULL);
	pthread_mutex_lock(&queue.lock);
	free(queue.ring);
	queue.ring = NULL;
	pthread_mutex_unlock(&queue.lock);
}

void cv_log_write(enum cv_log_level level, const char *target, const char *fmt, ...)
{
	char small[512];
	char *large = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(small, sizeof(small), fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(small)) {
		va_start(ap, fmt);
		if (vasprintf(&large, fmt, ap) < 0)
			large = NULL;
		va_end(ap);
	}
	cv_log_fields(level, target, large ? large : small, NULL, 0);
	free(large);
}

void cv_log_fields(enum cv_log_level level, const char *target, const char *message,
		   const struct cv_log_field *fields, size_t n)
{
	struct cv_log_line line = {
		.level = level,
		.target = target,
		.message = message,
		.fields = fields,
		.nr_fields = n,
	};
	int saved = errno;
	struct cv_buf text;

	if (!cv_log_enabled(level, target))
		return;
	clock_gettime(CLOCK_REALTIME, &line.time);
	cv_buf_init(&text, CV_LOG_LINE_BYTES);
	if (n)
		(void)cv_buf_reserve(&text, USUAL_BYTES); /* instead of growing step by step */
	if (json_format)
		cv_log_line_json(&line, &text);
	else
		cv_log_line_plain(&line, &text);
	if (cv_buf_len(&text))
		enqueue((struct line){ .text = (char *)text.storage, .len = cv_buf_len(&text) });
	errno = saved;
}

const char *cv_strerror(int err)
{
	static _Thread_local char unknown[24];
	const char *text = strerrordesc_np(err);

	if (text)
		return text;
	snprintf(unknown, sizeof(unknown), "errno %d", err);
	return unknown;
}

const char *cv_os_error(int err)
{
	static _Thread_local char text[96];

	snprintf(text, sizeof(text), "%s (os error %d)", cv_strerror(err), err);
	return text;
}
