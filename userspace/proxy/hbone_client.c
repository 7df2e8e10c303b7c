/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dialling a peer's 15008: own certificate, TCP from inside the pod's namespace, TLS. The rest is
 * hbone_conn.c's. Errors have ztunnel's texts.
 */
#define CV_LOG_TARGET "proxy::hbone"
#include "userspace/proxy/hbone_conn.h"

#include <errno.h>
#include <stdio.h>

#include "userspace/base/cleanup.h"
#include "userspace/base/log.h"
#include "userspace/proxy/lane.h"

static void fail_connect(struct cv_hbone_conn *c, int r)
{
	char error[256];

	if (r == -ETIMEDOUT) {
		snprintf(
			error, sizeof(error),
			"connection timed out, maybe a NetworkPolicy is blocking HBONE port %u: %s",
			CV_PORT_HBONE, "deadline has elapsed");
		cv_hbone_conn_kill(c, CV_FLAG_NETWORK_POLICY, error);
		return;
	}
	snprintf(error, sizeof(error), "io error: %s", cv_os_error(-r));
	cv_hbone_conn_kill(c, CV_FLAG_CONNECT, error);
}

static void on_connected(struct cv_dial *d, int fd)
{
	struct cv_hbone_conn *c = cv_container_of(d, struct cv_hbone_conn, dial);
	int r = fd;

	if (fd >= 0)
		r = cv_hbone_conn_start(c, fd);
	if (r < 0)
		fail_connect(c, r);
}

static void on_cert(struct cv_cert *cert, const char *error, void *arg)
{
	struct cv_hbone_conn *c = arg;
	char text[320];

	if (c->state == CV_HBONE_DEAD) {
		cv_cert_put(&cert);
	} else if (!cert) {
		snprintf(text, sizeof(text), "identity error: %s", error);
		cv_hbone_conn_kill(c, CV_FLAG_IDENTITY_ERROR, text);
	} else {
		const struct cv_dial_opts opts = { .dst = c->entry->key.next_hop };

		c->cert = cert;
		cv_dial_start(&c->dial, &opts);
	}
	cv_hbone_conn_put(c);
}

struct cv_hbone_conn *cv_hbone_client_new(struct cv_pool_entry *entry)
{
	struct cv_hbone_conn *c = cv_hbone_conn_new(entry->key.lane, false);

	if (!c)
		return NULL;
	c->entry = entry;
	c->peer = entry->key.next_hop;
	cv_dial_init(&c->dial, c->lane, on_connected);
	return c;
}

void cv_hbone_client_dial(struct cv_hbone_conn *c)
{
	c->refs++;
	cv_certs_get(c->lane->pod->proxy->opts.certs, &c->entry->key.identity, on_cert, c);
}
