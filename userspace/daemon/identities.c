/* SPDX-License-Identifier: Apache-2.0 */
/* Which identities this node needs certificates for, from the enrolled pods' records. */
#include "userspace/daemon/daemon.h"

#include <stdbool.h>
#include <stdlib.h>

struct sync {
	struct cv_store *store;
	struct cv_identities now;
};

static bool holds(const struct cv_identities *ids, const struct cv_identity *id)
{
	for (size_t i = 0; i < ids->n; i++)
		if (cv_identity_eq(&ids->held[i], id))
			return true;
	return false;
}

/* A pod without a record, or no memory: no prefetch; its first connection asks. */
static int add_pod(const struct cv_pod_view *pod, void *arg)
{
	struct sync *s = arg;
	struct cv_workload *w =
		cv_store_workload_local(s->store, pod->ns, pod->service_account, pod->name);
	struct cv_identity id = {}, *grown;

	if (!w)
		return 0;
	cv_identity_set(&id, cv_str_ref(w->trust_domain), cv_str_ref(w->ns),
			cv_str_ref(w->service_account));
	cv_workload_put(&w);
	grown = holds(&s->now, &id) ? NULL :
				      realloc(s->now.held, (s->now.n + 1) * sizeof(*s->now.held));
	if (!grown) {
		cv_identity_fini(&id);
		return 0;
	}
	s->now.held = grown;
	s->now.held[s->now.n++] = id;
	return 0;
}

void cv_identities_sync(struct cv_daemon *d)
{
	struct cv_identities *ids = &d->identities;
	struct sync s = { .store = d->store };

	cv_daemon_pods_each(d, add_pod, &s);
	for (size_t i = 0; i < s.now.n; i++)
		if (!holds(ids, &s.now.held[i]))
			cv_certs_prefetch(d->certs, &s.now.held[i]);
	for (size_t i = 0; i < ids->n; i++)
		if (!holds(&s.now, &ids->held[i]))
			cv_certs_forget(d->certs, &ids->held[i]);
	cv_identities_fini(ids);
	*ids = s.now;
}

void cv_identities_fini(struct cv_identities *ids)
{
	for (size_t i = 0; i < ids->n; i++)
		cv_identity_fini(&ids->held[i]);
	free(ids->held);
	*ids = (struct cv_identities){};
}
