// SPDX-License-Identifier: Apache-2.0
/*
 * The ring buffer as an fd for somebody's loop. One consumer: the control thread.
 */
#include <bpf/libbpf.h>
#include <errno.h>

#include "loader/internal.h"
#include "loader/tables.h"

enum { EVENTS_PER_CALL = 4096 }; /* the fd stays readable while there are more */

static int on_sample(void *ctx, void *data, size_t size)
{
	struct cv_bpf *bpf = ctx;

	if (size >= sizeof(struct cv_event) && bpf->event_fn)
		bpf->event_fn(data, bpf->event_arg);
	return ++bpf->events < EVENTS_PER_CALL ? 0 : -EAGAIN;
}

int cv_events_fd(struct cv_bpf *bpf)
{
	if (!bpf->ring)
		bpf->ring = ring_buffer__new(bpf->maps[CV_MAP_EVENTS], on_sample, bpf, NULL);
	return bpf->ring ? ring_buffer__epoll_fd(bpf->ring) : -errno;
}

int cv_events_consume(struct cv_bpf *bpf, void (*fn)(const struct cv_event *event, void *arg),
		      void *arg)
{
	int r = cv_events_fd(bpf);

	if (r < 0)
		return r;
	bpf->event_fn = fn;
	bpf->event_arg = arg;
	bpf->events = 0;
	r = ring_buffer__consume(bpf->ring);
	bpf->event_fn = NULL;
	return r == -EAGAIN ? bpf->events : r;
}
