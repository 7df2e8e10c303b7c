/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections whose peer has been revoked. The chain that the handshake has verified is asked about
 * again, not verified again: that its certificates have expired since is no reason to end a
 * connection. One whose handshake is not over is looked at as well, for it may have been checked
 * against the lists of before.
 */
#define CV_LOG_TARGET "proxy::hbone"
#include "userspace/proxy/revoke.h"

#include "userspace/mesh/crl.h"
#include "userspace/proxy/lane.h"
#include "userspace/proxy/session.h"

static void count(const struct cv_hbone_conn *c)
{
	cv_traffic_revoked(c->lane->pod->proxy->opts.telemetry,
			   c->server ? CV_REPORTER_DESTINATION : CV_REPORTER_SOURCE);
}

void cv_revoke_count_refused(const struct cv_hbone_conn *c)
{
	if (SSL_get_verify_result(cv_tls_ssl(c->tls)) == X509_V_ERR_CERT_REVOKED)
		count(c);
}

static bool is_revoked(const struct cv_hbone_conn *c)
{
	STACK_OF(X509) * chain;

	if (c->state == CV_HBONE_DEAD || !c->tls || !c->cert->crl)
		return false;
	chain = SSL_get0_verified_chain(cv_tls_ssl(c->tls));
	return chain && cv_crl_check(c->cert->crl, chain) == X509_V_ERR_CERT_REVOKED;
}

static void end(struct cv_hbone_conn *c)
{
	static const char error[] = "connection closed: peer certificate revoked by CRL";
	struct cv_session *s;

	count(c);
	/* What is failed stays in its list until after this round. */
	TAILQ_FOREACH(s, &c->lane->sessions, node)
	if (s->tunnel.end[0].conn == c || s->tunnel.end[1].conn == c)
		cv_session_fail(s, CV_FLAG_CERT_REVOKED, error);
	if (c->server)
		cv_hbone_conn_shutdown(c); /* tells the client, if it goes at once */
	cv_hbone_conn_kill(c, CV_FLAG_CERT_REVOKED, error);
}

void cv_revoke_judge_again(struct cv_lane *lane)
{
	struct cv_hbone_conn *c;

	TAILQ_FOREACH(c, &lane->conns, node)
	if (is_revoked(c))
		end(c);
}
