/* SPDX-License-Identifier: Apache-2.0 */
/* Which identities this node needs certificates for, from the enrolled pods' records. */
#include "userspace/daemon/daemon.h"

#include <stdbool.h>
#include <stdlib.h>

#include "userspace/base/cleanup.h"

struct sync {
	struct cv_store *store;
	cv_str trust_domain; /* for pods without a record; NULL = they are left out */
	struct cv_identities now;
};

static bool holds(const struct cv_identities *ids, const struct cv_identity *id)
{
	for (size_t i = 0; i < ids->n; i++)
		if (cv_identity_eq(&ids->held[i], id))
			return true;
	return false;
}

/* False: not known yet. The node agent names the account before the control plane has the pod's
 * address, and there is nothing to do in between but to fetch the certificate. */
static bool identity_of(struct sync *s, const struct cv_pod_view *pod, struct cv_identity *ret)
{
	struct cv_workload *w =
		cv_store_workload_local(s->store, pod->ns, pod->service_account, pod->name);

	if (w) {
		cv_identity_set(ret, cv_str_ref(w->group->trust_domain), cv_str_ref(w->group->ns),
				cv_str_ref(w->group->service_account));
		cv_workload_put(&w);
		return true;
	}
	if (!s->trust_domain || !pod->service_account)
		return false;
	cv_identity_set(ret, cv_str_ref(s->trust_domain), cv_str_new(pod->ns),
			cv_str_new(pod->service_account));
	return true;
}

/* An identity that is not known, or no memory: no prefetch; its first connection asks. */
static int add_pod(const struct cv_pod_view *pod, void *arg)
{
	struct sync *s = arg;
	struct cv_identity id = {}, *grown;

	if (!identity_of(s, pod, &id))
		return 0;
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
	_cleanup_(cv_str_put) cv_str own = NULL;
	struct sync s = { .store = d->store };

	/* What the records of other pods say, before what we were told of ourselves. */
	if (d->env.drop_in && ids->n)
		s.trust_domain = own = cv_str_ref(ids->held[0].trust_domain);
	else if (d->env.drop_in)
		s.trust_domain = own = cv_str_new(d->env.trust_domain);
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
