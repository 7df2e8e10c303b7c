/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resolver: c-ares asks and parses; here are its sockets and timer on the event loop, the
 * cache, and who waits. An entry is pending (c-ares has it) or settled until it expires; settled
 * ones are evicted, the one that was used longest ago first.
 */
#include "userspace/io/resolve.h"

#include <ares.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/strs.h"
#include "userspace/io/netns.h"
#include "userspace/io/worker.h"
#include "userspace/limits.h"

enum {
	BUCKETS = 256,
	TIMEOUT_MS = 2000, /* first try at a server; c-ares doubles it for the second */
	TRIES = 2,
	NAME_MAX_LEN = 253,
	TTL_MAX_S = 3600,
	FAILURE_MS = 1000, /* how long a failure is remembered, and a TTL of zero */
};

struct cv_resolve_entry {
	LIST_ENTRY(cv_resolve_entry) bucket;
	TAILQ_ENTRY(cv_resolve_entry) used; /* in the order of use; the last one is the latest */
	struct cv_resolver *resolver;
	cv_str name;
	bool pending;
	bool busy; /* its waiters are being told: not to be freed */
	int result;
	uint64_t expires_ms;
	struct cv_addr *addrs; /* owned */
	size_t n;
	TAILQ_HEAD(, cv_resolve_wait) waiting;
};

/* A socket of c-ares. */
struct watch {
	LIST_ENTRY(watch) node;
	struct cv_resolver *resolver;
	ares_socket_t fd;
	struct event ev;
};

struct cv_resolver {
	struct cv_resolver_opts opts;
	ares_channel channel;
	struct event timer;
	bool discarded; /* the loop is gone */
	bool ending; /* nobody is told any more */
	LIST_HEAD(, watch) watches;
	LIST_HEAD(, cv_resolve_entry) buckets[BUCKETS];
	TAILQ_HEAD(, cv_resolve_entry) used;
	unsigned nr_entries, nr_pending;
};

/* ---- c-ares on the loop -------------------------------------------------------------------- */

static void arm_timer(struct cv_resolver *r)
{
	struct timeval buf, *next = ares_timeout(r->channel, NULL, &buf);

	if (next)
		event_add(&r->timer, next);
	else
		event_del(&r->timer);
}

/* c-ares opens its sockets where the thread is, and a worker may be in a pod's namespace. */
static void process(struct cv_resolver *r, ares_socket_t rd, ares_socket_t wr)
{
	if (cv_netns_enter(NULL))
		return; /* asked again by the timer */
	ares_process_fd(r->channel, rd, wr);
	arm_timer(r);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	process(arg, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	struct watch *w = arg;

	process(w->resolver, what & EV_READ ? fd : ARES_SOCKET_BAD,
		what & EV_WRITE ? fd : ARES_SOCKET_BAD);
}

static struct watch *find_watch(struct cv_resolver *r, ares_socket_t fd)
{
	struct watch *w;

	LIST_FOREACH(w, &r->watches, node)
	if (w->fd == fd)
		return w;
	return NULL;
}

/* c-ares tells what it waits for; neither = the socket is about to be closed. */
static void on_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct cv_resolver *r = arg;
	struct watch *w = find_watch(r, fd);
	short what = EV_PERSIST | (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0);

	if (w) {
		if (!r->discarded)
			event_del(&w->ev);
	} else {
		w = calloc(1, sizeof(*w));
		if (!w)
			abort();
		w->resolver = r;
		w->fd = fd;
		LIST_INSERT_HEAD(&r->watches, w, node);
	}
	if (!readable && !writable) {
		LIST_REMOVE(w, node);
		free(w);
	} else if (!r->discarded) {
		event_assign(&w->ev, r->opts.base, fd, what, on_socket, w);
		event_add(&w->ev, NULL);
	}
}

/* ---- the cache ----------------------------------------------------------------------------- */

/* Interned names are equal when their pointers are. */
static unsigned bucket_of(cv_str name)
{
	return (unsigned)((uintptr_t)name >> 4) % BUCKETS;
}

static void free_entry(struct cv_resolve_entry *e)
{
	struct cv_resolve_wait *w;

	while ((w = TAILQ_FIRST(&e->waiting)))
		cv_resolve_cancel(w);
	LIST_REMOVE(e, bucket);
	TAILQ_REMOVE(&e->resolver->used, e, used);
	e->resolver->nr_entries--;
	cv_str_put(&e->name);
	free(e->addrs);
	free(e);
}

static void evict(struct cv_resolver *r)
{
	struct cv_resolve_entry *e;

	TAILQ_FOREACH(e, &r->used, used)
	{
		if (e->pending || e->busy)
			continue;
		free_entry(e);
		return;
	}
}

/* Takes the reference to name. */
static struct cv_resolve_entry *find_entry(struct cv_resolver *r, cv_str name)
{
	unsigned bucket = bucket_of(name);
	struct cv_resolve_entry *e;

	LIST_FOREACH(e, &r->buckets[bucket], bucket)
	{
		if (e->name != name)
			continue;
		cv_str_put(&name);
		TAILQ_REMOVE(&r->used, e, used);
		TAILQ_INSERT_TAIL(&r->used, e, used);
		return e;
	}
	if (r->nr_entries >= CV_LIMIT_RESOLVE_NAMES)
		evict(r);
	e = calloc(1, sizeof(*e));
	if (!e)
		abort();
	e->resolver = r;
	e->name = name;
	TAILQ_INIT(&e->waiting);
	LIST_INSERT_HEAD(&r->buckets[bucket], e, bucket);
	TAILQ_INSERT_TAIL(&r->used, e, used);
	r->nr_entries++;
	return e;
}

static void tell(struct cv_resolve_wait *w, const struct cv_resolve_entry *e)
{
	w->done(w, e->result, e->addrs, e->n);
}

static void settle(struct cv_resolve_entry *e, int result, uint64_t ttl_ms)
{
	struct cv_resolve_wait *w;

	e->pending = false;
	e->resolver->nr_pending--;
	e->result = result;
	e->expires_ms = cv_now_ms() + ttl_ms;
	e->busy = true;
	while ((w = TAILQ_FIRST(&e->waiting))) {
		cv_resolve_cancel(w);
		tell(w, e);
	}
	e->busy = false;
}

/* ---- asking -------------------------------------------------------------------------------- */

static int error_of(int status)
{
	switch (status) {
	case ARES_ENODATA:
	case ARES_ENOTFOUND:
		return -ENOENT;
	case ARES_ETIMEOUT:
		return -ETIMEDOUT;
	default:
		return -EIO;
	}
}

/* The addresses of an answer; returns how long they are good, in seconds. */
static int take_addrs(struct cv_resolve_entry *e, const struct ares_addrinfo *info)
{
	const struct ares_addrinfo_node *node;
	int ttl = TTL_MAX_S;

	free(e->addrs);
	e->n = 0;
	e->addrs = calloc(CV_LIMIT_RESOLVE_ADDRS, sizeof(*e->addrs));
	if (!e->addrs)
		abort();
	for (node = info->nodes; node && e->n < CV_LIMIT_RESOLVE_ADDRS; node = node->ai_next) {
		struct cv_sockaddr a;

		if (cv_sockaddr_from_native(node->ai_addr, &a))
			continue;
		e->addrs[e->n++] = a.ip;
		if (node->ai_ttl < ttl)
			ttl = node->ai_ttl;
	}
	return ttl;
}

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
	struct cv_resolve_entry *e = arg;
	int ttl = 0;

	(void)timeouts;
	if (status == ARES_SUCCESS)
		ttl = take_addrs(e, info);
	if (info)
		ares_freeaddrinfo(info);
	if (e->resolver->ending)
		return;
	if (status == ARES_SUCCESS && e->n)
		settle(e, 0, ttl > 0 ? (uint64_t)ttl * 1000 : FAILURE_MS);
	else
		settle(e, status == ARES_SUCCESS ? -ENOENT : error_of(status), FAILURE_MS);
}

static void ask(struct cv_resolve_entry *e)
{
	struct cv_resolver *r = e->resolver;
	const struct ares_addrinfo_hints hints = {
		.ai_flags = ARES_AI_NOSORT,
		.ai_family = r->opts.ipv4_only ? AF_INET : AF_UNSPEC,
	};
	int err = r->nr_pending >= CV_LIMIT_RESOLVE_PENDING ? -EAGAIN : cv_netns_enter(NULL);

	e->pending = true;
	r->nr_pending++;
	if (err) {
		settle(e, err, 0);
		return;
	}
	ares_getaddrinfo(r->channel, e->name, NULL, &hints, on_answer, e);
	arm_timer(r);
}

void cv_resolve(struct cv_resolver *r, const char *name, struct cv_resolve_wait *w)
{
	size_t len = strlen(name);
	struct cv_resolve_entry *e;
	struct cv_addr literal;

	if (cv_addr_parse(name, &literal) == 0) {
		w->done(w, 0, &literal, 1);
		return;
	}
	if (!len || len > NAME_MAX_LEN) {
		w->done(w, -ENOENT, NULL, 0);
		return;
	}
	e = find_entry(r, cv_str_new_len(name, len));
	if (!e->pending && cv_now_ms() < e->expires_ms) {
		tell(w, e);
		return;
	}
	w->entry = e;
	TAILQ_INSERT_TAIL(&e->waiting, w, node);
	if (!e->pending && !e->busy)
		ask(e);
}

void cv_resolve_cancel(struct cv_resolve_wait *w)
{
	if (!w->entry)
		return;
	TAILQ_REMOVE(&w->entry->waiting, w, node);
	w->entry = NULL;
}

const struct cv_addr *cv_resolve_pick(const struct cv_addr *addrs, size_t n,
				      const struct cv_addr *like, uint64_t random)
{
	size_t same = 0, nth;

	for (size_t i = 0; i < n; i++)
		same += cv_addr_is_v4(&addrs[i]) == cv_addr_is_v4(like);
	if (!same)
		return &addrs[random % n];
	nth = random % same;
	for (size_t i = 0; i < n; i++)
		if (cv_addr_is_v4(&addrs[i]) == cv_addr_is_v4(like) && !nth--)
			return &addrs[i];
	return addrs;
}

/* ---- life ---------------------------------------------------------------------------------- */

static pthread_once_t library = PTHREAD_ONCE_INIT;

static void init_library(void)
{
	(void)ares_library_init(ARES_LIB_INIT_ALL); /* does nothing that could fail on Linux */
}

static int open_channel(struct cv_resolver *r)
{
	struct ares_options options = {
		.timeout = TIMEOUT_MS,
		.tries = TRIES,
		.sock_state_cb = on_state,
		.sock_state_cb_data = r,
		.lookups = (char *)"b",
	};
	int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
	int status;

	if (r->opts.server)
		mask |= ARES_OPT_LOOKUPS;
	status = ares_init_options(&r->channel, &options, mask);
	if (status == ARES_SUCCESS && r->opts.server)
		status = ares_set_servers_ports_csv(r->channel, r->opts.server);
	return status == ARES_SUCCESS ? 0 : status == ARES_ENOMEM ? -ENOMEM : -EINVAL;
}

int cv_resolver_new(struct cv_resolver **ret, const struct cv_resolver_opts *opts)
{
	struct cv_resolver *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	pthread_once(&library, init_library);
	r->opts = *opts;
	LIST_INIT(&r->watches);
	TAILQ_INIT(&r->used);
	event_assign(&r->timer, opts->base, -1, 0, on_timer, r);
	err = open_channel(r);
	if (err)
		cv_resolver_free(&r);
	else
		*ret = r;
	return err;
}

void cv_resolver_free(struct cv_resolver **pr)
{
	struct cv_resolver *r = *pr;
	struct cv_resolve_entry *e;

	*pr = NULL;
	if (!r)
		return;
	r->ending = true;
	if (r->channel)
		ares_destroy(r->channel);
	if (!r->discarded)
		event_del(&r->timer);
	while ((e = TAILQ_FIRST(&r->used)))
		free_entry(e);
	free(r);
}

void cv_resolver_discard(struct cv_resolver **pr)
{
	if (*pr)
		(*pr)->discarded = true;
	cv_resolver_free(pr);
}
