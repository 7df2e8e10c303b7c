/* SPDX-License-Identifier: Apache-2.0 */
/* `culvertctl explain`: finds the pod that is asked about, and lends the kernel's tables to
 * node/explain.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "loader/tables.h"
#include "userspace/base/cleanup.h"
#include "userspace/daemon/daemon.h"
#include "userspace/node/explain.h"

struct question {
	struct cv_daemon *d;
	char ns[256];
	const char *name;
	uint32_t pod; /* its number */
	struct cv_addr ip; /* of the family that is dialled */
	bool found;
	struct cv_sockaddr to;
};

static int find_pod(const struct cv_pod_view *pod, void *arg)
{
	struct question *q = arg;

	if (strcmp(pod->ns, q->ns) != 0 || strcmp(pod->name, q->name) != 0)
		return 0;
	q->found = true;
	q->pod = pod->number;
	for (size_t i = 0; i < pod->nr_addrs; i++)
		if (cv_addr_is_v4(&pod->addrs[i]) == cv_addr_is_v4(&q->to.ip))
			q->ip = pod->addrs[i];
	return 1;
}

/* ---- the kernel's tables ----------------------------------------------------------------------- */

static bool kernel_verdict(const struct cv_addr *dst, uint16_t port, struct cv_verdict_entry *ret,
			   void *arg)
{
	const struct question *q = arg;
	struct cv_verdict_key key = { .src_pod = q->pod, .port = htons(port) };
	struct cv_workload_entry w;
	int r;

	*ret = (struct cv_verdict_entry){ .reason = CV_REASON_NO_VERDICT };
	if (cv_table_workload_get(q->d->bpf, dst, &w) || !w.pod)
		return false;
	key.dst_pod = w.pod;
	r = cv_table_verdict_get(q->d->bpf, &key, ret);
	key.port = 0;
	if (r == -ENOENT)
		(void)cv_table_verdict_get(q->d->bpf, &key, ret); /* none: the daemon's */
	return true;
}

static bool kernel_resolves(const struct cv_sockaddr *vip, void *arg)
{
	const struct question *q = arg;
	const struct cv_service_key key = { .vip = vip->ip, .port = htons(vip->port) };
	struct cv_service_entry e;

	return !cv_table_service_get(q->d->bpf, &key, &e) && e.nr_slots;
}

/* ---- the command ------------------------------------------------------------------------------- */

/* NULL, or what is wrong with the question. */
static const char *read_question(struct question *q, const struct cv_control_request *req)
{
	const char *from = cv_control_string(req, "from"), *to = cv_control_string(req, "to");
	const char *slash = from ? strchr(from, '/') : NULL;

	if (!slash || slash == from || !slash[1] || slash - from >= (long)sizeof(q->ns))
		return "from: expected NAMESPACE/NAME of a pod of this node";
	memcpy(q->ns, from, (size_t)(slash - from));
	q->name = slash + 1;
	if (!to || cv_sockaddr_parse(to, &q->to) || !q->to.port)
		return "to: expected ADDRESS:PORT, or [ADDRESS]:PORT for IPv6";
	return NULL;
}

/* In ztunnel's place the record alone tells a pod's addresses. */
static void find_address(struct question *q, const struct cv_workload *src)
{
	for (size_t i = 0; i < src->nr_ips && cv_addr_is_zero(&q->ip); i++)
		if (cv_addr_is_v4(&src->ips[i]) == cv_addr_is_v4(&q->to.ip))
			q->ip = src->ips[i];
}

static json_t *answer(struct question *q, const struct cv_workload *src)
{
	const struct cv_explain_in in = {
		.store = q->d->store,
		.src = src,
		.src_ip = q->ip,
		.dst = q->to,
		.verdict = q->d->bpf ? kernel_verdict : NULL,
		.resolves = q->d->bpf ? kernel_resolves : NULL,
		.arg = q,
	};
	json_t *j = cv_explain(&in);

	json_object_set_new(j, "from", json_sprintf("%s/%s", q->ns, q->name));
	return j;
}

void cv_daemon_explain(struct cv_control_request *req, void *arg)
{
	struct question q = { .d = arg };
	const char *wrong = read_question(&q, req);
	struct cv_workload *src;

	if (wrong) {
		cv_control_refuse(&req, "%s", wrong);
		return;
	}
	cv_daemon_pods_each(q.d, find_pod, &q);
	src = cv_store_workload_local(q.d->store, q.ns, NULL, q.name);
	if (src)
		find_address(&q, src);
	if (!q.found)
		cv_control_refuse(
			&req,
			"%s/%s is not enrolled on this node, so what it sends is not seen "
			"here (culvertctl pod list shows who is)",
			q.ns, q.name);
	else if (!src)
		cv_control_refuse(&req,
				  "%s/%s has no workload record yet: its connections wait for it",
				  q.ns, q.name);
	else
		cv_control_answer(&req, answer(&q, src));
	cv_workload_put(&src);
}
