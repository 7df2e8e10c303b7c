/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter is a short list of {target prefix, level}; the longest prefix that matches a target
 * decides, the empty one is the default. Most calls are settled by one relaxed load: nothing above
 * the highest level of any directive can be enabled.
 */
#include "userspace/base/log_filter.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "userspace/base/cleanup.h"
#define CV_LOG_TARGET "log"
#include "userspace/base/log.h"

enum { MAX_DIRECTIVES = 64, TARGET_BYTES = 64 };

struct directive {
	char target[TARGET_BYTES]; /* "" = every target */
	enum cv_log_level level;
};

struct filter {
	struct directive list[MAX_DIRECTIVES];
	size_t n;
};

static const char *const level_names[] = {
	[CV_LOG_OFF] = "off",	[CV_LOG_ERROR] = "error", [CV_LOG_WARN] = "warn",
	[CV_LOG_INFO] = "info", [CV_LOG_DEBUG] = "debug", [CV_LOG_TRACE] = "trace",
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct filter current = { .list = { { .level = CV_LOG_INFO } }, .n = 1 };
static struct filter initial = { .list = { { .level = CV_LOG_INFO } }, .n = 1 };
static _Atomic int highest = CV_LOG_INFO;

static int parse_level(const char *text, size_t len, enum cv_log_level *ret)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(level_names); i++) {
		if (strlen(level_names[i]) == len && !strncasecmp(level_names[i], text, len)) {
			*ret = (enum cv_log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* Our targets carry no crate name; operators who write one mean the rest of it. */
static void strip_crate(const char **target, size_t *len)
{
	static const char crate[] = "ztunnel";
	size_t n = sizeof(crate) - 1;

	if (*len < n || memcmp(*target, crate, n))
		return;
	if (*len == n) {
		*len = 0;
	} else if (*len > n + 2 && !memcmp(*target + n, "::", 2)) {
		*target += n + 2;
		*len -= n + 2;
	}
}

/* `level`, `target=level` or `target:level`. */
static int parse_directive(const char *text, size_t len, struct directive *ret)
{
	const char *end = text + len, *level = text;
	const char *sep = memrchr(text, '=', len);
	size_t target_len = 0;

	if (!sep)
		sep = memrchr(text, ':', len);
	if (sep == text)
		return -EINVAL;
	if (sep) {
		level = sep + 1;
		target_len = (size_t)(sep - text);
		strip_crate(&text, &target_len);
	}
	if (target_len >= TARGET_BYTES)
		return -EINVAL;
	memcpy(ret->target, text, target_len);
	ret->target[target_len] = '\0';
	return parse_level(level, (size_t)(end - level), &ret->level);
}

/* The longer target first, as the field's tools list them; the default is last. */
static int compare_targets(const char *a, const char *b)
{
	size_t a_len = strlen(a), b_len = strlen(b);

	return a_len == b_len ? strcmp(b, a) : a_len < b_len ? 1 : -1;
}

/* A directive for a target that is already there replaces it. */
static int add_directive(struct filter *f, const struct directive *d)
{
	size_t i = 0;

	while (i < f->n && compare_targets(f->list[i].target, d->target) < 0)
		i++;
	if (i < f->n && !strcmp(f->list[i].target, d->target)) {
		f->list[i] = *d;
		return 0;
	}
	if (f->n == MAX_DIRECTIVES)
		return -E2BIG;
	memmove(&f->list[i + 1], &f->list[i], (f->n - i) * sizeof(*d));
	f->list[i] = *d;
	f->n++;
	return 0;
}

static int add_directives(struct filter *f, const char *text)
{
	struct directive d;
	size_t len;
	int r;

	while (*text) {
		len = strcspn(text, ",");
		r = len ? parse_directive(text, len, &d) : 0;
		if (!r && len)
			r = add_directive(f, &d);
		if (r)
			return r;
		text += len + (text[len] == ',');
	}
	return 0;
}

/* Called with the lock held for writing. */
static void publish(const struct filter *f)
{
	int max = CV_LOG_OFF;

	for (size_t i = 0; i < f->n; i++) {
		if ((int)f->list[i].level > max)
			max = (int)f->list[i].level;
	}
	current = *f;
	atomic_store_explicit(&highest, max, memory_order_relaxed);
}

int cv_log_filter_set_initial(const char *directives)
{
	struct filter f = {};
	int r = add_directives(&f, directives);

	if (r)
		return r;
	pthread_rwlock_wrlock(&lock);
	initial = f;
	publish(&f);
	pthread_rwlock_unlock(&lock);
	return 0;
}

int cv_log_filter_add(const char *directives, bool reset)
{
	struct filter f;
	int r;

	pthread_rwlock_wrlock(&lock);
	f = reset ? initial : current;
	r = add_directives(&f, directives ? directives : "");
	if (!r)
		publish(&f);
	pthread_rwlock_unlock(&lock);
	return r;
}

int cv_log_filter_text(char *buf, size_t size)
{
	size_t at = 0;
	int n;

	if (size)
		buf[0] = '\0';
	pthread_rwlock_rdlock(&lock);
	for (size_t i = 0; i < current.n; i++) {
		const struct directive *d = &current.list[i];

		n = snprintf(at < size ? buf + at : NULL, at < size ? size - at : 0, "%s%s%s%s",
			     i ? "," : "", d->target, *d->target ? "=" : "", level_names[d->level]);
		at += (size_t)n;
	}
	pthread_rwlock_unlock(&lock);
	return (int)at;
}

static enum cv_log_level level_of(const struct filter *f, const char *target)
{
	enum cv_log_level level = CV_LOG_OFF;
	size_t best = 0;

	for (size_t i = 0; i < f->n; i++) {
		size_t len = strlen(f->list[i].target);

		if (len >= best && !strncmp(target, f->list[i].target, len)) {
			best = len;
			level = f->list[i].level;
		}
	}
	return level;
}

bool cv_log_enabled(enum cv_log_level level, const char *target)
{
	bool enabled;

	if (level == CV_LOG_OFF ||
	    (int)level > atomic_load_explicit(&highest, memory_order_relaxed))
		return false;
	pthread_rwlock_rdlock(&lock);
	enabled = level <= level_of(&current, target);
	pthread_rwlock_unlock(&lock);
	return enabled;
}
