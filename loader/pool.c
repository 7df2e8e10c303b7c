// SPDX-License-Identifier: Apache-2.0
/*
 * The pool's thread and its stock. The stock is small: enrolments that come in a row take one
 * RCU grace period a hook each, in which the thread loads the next instance.
 */
#define CV_LOG_TARGET "bpf"
#include "loader/pool.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"

enum {
	READY = 12, /* instances of each template */
	NICE = 10,
};

struct instance {
	int prog, data; /* fds of the program and of its .data.pod map */
};

struct stock {
	struct instance ready[READY];
	size_t n;
};

struct cv_pool {
	pthread_t thread;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t taken;
	bool stop;
	bool failed; /* the kernel refuses: nothing is loaded ahead any more */
	const struct cv_template *templates;
	size_t nr_templates;
	struct stock stocks[]; /* one a template */
};

/* Index of the template with the fewest instances, or -1 when all are full. */
static int find_shortage(const struct cv_pool *p)
{
	int found = -1;

	for (size_t i = 0; i < p->nr_templates; i++) {
		if (!p->templates[i].nr_pod_refs || p->stocks[i].n == READY)
			continue;
		if (found < 0 || p->stocks[i].n < p->stocks[found].n)
			found = (int)i;
	}
	return found;
}

static void load_one(struct cv_pool *p, int index)
{
	const struct cv_pod_data nobody = {};
	struct instance made;

	pthread_mutex_unlock(&p->lock);
	made.prog = cv_template_load(&p->templates[index], &nobody, &made.data);
	pthread_mutex_lock(&p->lock);
	if (made.prog < 0) {
		cv_debug("load ahead: %s", cv_strerror(-made.prog));
		p->failed = true;
		return;
	}
	p->stocks[index].ready[p->stocks[index].n++] = made;
}

static void *run(void *arg)
{
	struct cv_pool *p = arg;

	pthread_setname_np(pthread_self(), "culvert-load");
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* only makes it nicer */
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		int index = p->failed ? -1 : find_shortage(p);

		if (index < 0)
			pthread_cond_wait(&p->taken, &p->lock);
		else
			load_one(p, index);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static int start_thread(struct cv_pool *p)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&p->thread, NULL, run, p);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

int cv_pool_new(struct cv_pool **ret, const struct cv_template *templates, size_t n)
{
	struct cv_pool *p = calloc(1, sizeof(*p) + n * sizeof(p->stocks[0]));
	int r;

	if (!p)
		return -ENOMEM;
	p->templates = templates;
	p->nr_templates = n;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->taken, NULL);
	r = start_thread(p);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void cv_pool_free(struct cv_pool **pool)
{
	struct cv_pool *p = *pool;

	*pool = NULL;
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->taken);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	for (size_t i = 0; i < p->nr_templates; i++) {
		for (size_t k = 0; k < p->stocks[i].n; k++) {
			close(p->stocks[i].ready[k].prog);
			close(p->stocks[i].ready[k].data);
		}
	}
	pthread_cond_destroy(&p->taken);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static bool take_ready(struct cv_pool *p, size_t index, struct instance *ret)
{
	bool found;

	pthread_mutex_lock(&p->lock);
	found = p->stocks[index].n;
	if (found)
		*ret = p->stocks[index].ready[--p->stocks[index].n];
	pthread_cond_signal(&p->taken);
	pthread_mutex_unlock(&p->lock);
	return found;
}

int cv_pool_take(struct cv_pool *p, size_t index, const struct cv_pod_data *pod)
{
	struct instance made = { -1, -1 };
	uint32_t zero = 0;
	int r;

	if (!take_ready(p, index, &made)) {
		made.prog = cv_template_load(&p->templates[index], pod, &made.data);
		cv_close(&made.data);
		return made.prog;
	}
	r = bpf_map_update_elem(made.data, &zero, pod, BPF_ANY) < 0 ? -errno : 0;
	cv_close(&made.data);
	if (r < 0) {
		cv_close(&made.prog);
		return r;
	}
	return made.prog;
}
