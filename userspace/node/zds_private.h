/* SPDX-License-Identifier: Apache-2.0 */
/* What the connection (zds_link.c) and the pods (zds_pods.c) of ZDS share. */
#pragma once

#include <event2/event.h>
#include <sys/queue.h>

#include "userspace/base/backoff.h"
#include "userspace/io/netns.h"
#include "userspace/node/zds.h"
#include "userspace/proto/zds.h"

struct zds_pod {
	TAILQ_ENTRY(zds_pod) node;
	struct cv_zds *zds;
	struct cv_pod_view view; /* its strings are owned by the members below */
	char *uid, *name, *ns, *service_account;
	struct cv_netns netns;
	void *handle; /* of opts.start */
	bool named; /* by the snapshot that is under way */
};
TAILQ_HEAD(zds_pods, zds_pod);

struct cv_zds {
	struct cv_zds_opts opts;
	struct cv_netns own;
	/* the connection */
	int fd; /* -1 = none */
	struct event *readable, *again, *retry;
	struct cv_backoff backoff; /* of attempts to connect that led to nothing */
	bool at_once; /* the next attempt */
	bool ready;
	bool unreachable_told;
	/* the pods */
	struct zds_pods pods; /* running or pending */
	struct zds_pods leaving; /* until their last socket is closed */
	struct cv_zds_counts counts;
};

/* What to do after a request, beside the answer. */
enum zds_verdict {
	ZDS_OK,
	ZDS_TRY_AGAIN, /* refused: the pod is pending, or the agent must send another */
	ZDS_MISMATCH, /* against the protocol: the connection has to end */
};

/* A connection begins: nothing is named yet, and what could not be started is forgotten. */
void zds_pods_begin(struct cv_zds *z);
/* Takes netns_fd in any case. The text of a refusal is in error. */
enum zds_verdict zds_pods_process(struct cv_zds *z, const struct cv_zds_request *request,
				  int netns_fd, char error[CV_ZDS_ERROR]);
/* Tries every pending pod again. */
void zds_pods_retry(struct cv_zds *z);
void zds_pods_free(struct cv_zds *z);
