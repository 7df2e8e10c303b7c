/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One TLS connection: OpenSSL between two buffers, which are the only things that touch the socket.
 *
 *   socket ─ recv ─▶ thread's read buffer ─ BIO ─▶ OpenSSL ─▶ caller
 *   socket ◀─ sendmsg ─ list of blocks ◀── BIO ── OpenSSL ◀── caller
 *
 * Input is read into a buffer that the thread shares: a caller who reads until -EAGAIN leaves it
 * empty, because OpenSSL keeps the part of an unfinished record. Who stops earlier keeps a copy of
 * the rest when the next connection wants the buffer.
 */
#include "userspace/io/tls.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/scratch.h"
#include "userspace/limits.h"

enum {
	/* Beyond this a writer that ignores cv_tls_out_room is an error. */
	OUT_MAX = 2 * CV_LIMIT_TLS_OUT,
	/* Less room than a full record is none: small records waste both ends' time. */
	OUT_LEAST = 16 << 10,
	SEND_BLOCKS = OUT_MAX / CV_BLOCK_BYTES + 1,
	/* AES-GCM's keys are good for 2^24.5 full records (RFC 8446, 5.5). */
	REKEY_RECORDS = 1 << 24,
	ERROR_BYTES = 256,
};

struct cv_tls {
	SSL *ssl;
	int fd; /* borrowed */
	bool eof; /* the socket is at its end */
	struct cv_read_holder holder;
	const uint8_t *in; /* in the thread's read buffer or in `saved` */
	size_t in_len;
	uint8_t *saved; /* own copy of unread input, usually NULL */
	struct cv_block *out_first, *out_last;
	size_t out_len;
	uint32_t records; /* sent since the last key */
	char *error;
};

/* ---- the BIO ------------------------------------------------------------------------------- */

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static int bio_read(BIO *bio, char *data, size_t len, size_t *ret)
{
	struct cv_tls *tls = BIO_get_data(bio);
	size_t n = len < tls->in_len ? len : tls->in_len;

	BIO_clear_retry_flags(bio);
	if (!n) {
		if (!tls->eof)
			BIO_set_retry_read(bio);
		return 0;
	}
	memcpy(data, tls->in, n);
	tls->in += n;
	tls->in_len -= n;
	if (!tls->in_len)
		free(cv_take_ptr(tls->saved));
	*ret = n;
	return 1;
}

/* A block with room at the end of the output list. */
static struct cv_block *last_block(struct cv_tls *tls)
{
	struct cv_block *b = tls->out_last;

	if (b && b->tail < CV_BLOCK_BYTES)
		return b;
	b = cv_block_get();
	if (!b)
		return NULL;
	if (tls->out_last)
		tls->out_last->next = b;
	else
		tls->out_first = b;
	tls->out_last = b;
	return b;
}

/* All of a record or nothing: OpenSSL would not know what to do with the rest. */
static int bio_write(BIO *bio, const char *data, size_t len, size_t *ret)
{
	struct cv_tls *tls = BIO_get_data(bio);
	struct cv_block *b;
	size_t left = len, n;

	BIO_clear_retry_flags(bio);
	if (len > OUT_MAX - tls->out_len)
		return 0;
	while (left) {
		b = last_block(tls);
		if (!b)
			return 0;
		n = CV_BLOCK_BYTES - b->tail;
		n = n < left ? n : left;
		memcpy(b->data + b->tail, data, n);
		b->tail += (uint32_t)n;
		data += n;
		left -= n;
		tls->out_len += n;
	}
	tls->records++;
	*ret = len;
	return 1;
}

static long bio_ctrl(BIO *bio, int command, long arg, void *ptr)
{
	(void)bio;
	(void)arg;
	(void)ptr;
	return command == BIO_CTRL_FLUSH; /* cv_tls_flush is the caller's; all else is unknown */
}

static void make_bio_method(void)
{
	bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "culvert");
	if (!bio_method || !BIO_meth_set_read_ex(bio_method, bio_read) ||
	    !BIO_meth_set_write_ex(bio_method, bio_write) ||
	    !BIO_meth_set_ctrl(bio_method, bio_ctrl))
		abort();
}

/* ---- contexts ------------------------------------------------------------------------------ */

static const unsigned char alpn_h2[] = "\x02h2";

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
		       const unsigned char *in, unsigned in_len, void *arg)
{
	(void)ssl;
	(void)arg;
	if (SSL_select_next_proto((unsigned char **)out, out_len, alpn_h2, sizeof(alpn_h2) - 1, in,
				  in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	return SSL_TLSEXT_ERR_OK;
}

static int set_protocol(SSL_CTX *ctx, bool tls12)
{
	return SSL_CTX_set_min_proto_version(ctx, tls12 ? TLS1_2_VERSION : TLS1_3_VERSION) &&
	       SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) &&
	       SSL_CTX_set_ciphersuites(ctx, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256") &&
	       SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES256-GCM-SHA384:"
					    "ECDHE-ECDSA-AES128-GCM-SHA256:"
					    "ECDHE-RSA-AES256-GCM-SHA384:"
					    "ECDHE-RSA-AES128-GCM-SHA256") &&
	       SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") &&
	       SSL_CTX_set_num_tickets(ctx, 0);
}

SSL_CTX *cv_tls_ctx_new(bool server, bool tls12)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	if (!ctx)
		return NULL;
	/* ALPN's setter is the one that returns 0 for success. */
	if (!set_protocol(ctx, tls12) ||
	    (!server && SSL_CTX_set_alpn_protos(ctx, alpn_h2, sizeof(alpn_h2) - 1))) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
					 SSL_OP_NO_COMPRESSION |
					 (server ? SSL_OP_CIPHER_SERVER_PREFERENCE : 0));
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (server)
		SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
	return ctx;
}

/* ---- a connection -------------------------------------------------------------------------- */

/* The thread's buffer goes to another connection: keep what is unread. Without memory the
 * connection can't go on, which its next read tells. */
static void save_input(struct cv_read_holder *h)
{
	struct cv_tls *tls = cv_container_of(h, struct cv_tls, holder);
	uint8_t *copy;

	if (!tls->in_len)
		return;
	copy = malloc(tls->in_len);
	if (copy) {
		memcpy(copy, tls->in, tls->in_len);
	} else {
		tls->in_len = 0;
		tls->eof = true;
	}
	tls->saved = copy;
	tls->in = copy;
}

int cv_tls_new(struct cv_tls **ret, SSL_CTX *ctx, bool server, int fd)
{
	struct cv_tls *tls = calloc(1, sizeof(*tls));
	BIO *bio;

	if (!tls)
		return -ENOMEM;
	pthread_once(&bio_once, make_bio_method);
	tls->fd = fd;
	tls->holder.save = save_input;
	tls->ssl = SSL_new(ctx);
	bio = tls->ssl ? BIO_new(bio_method) : NULL;
	if (!bio) {
		cv_tls_free(&tls);
		return -ENOMEM;
	}
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	if (server)
		SSL_set_accept_state(tls->ssl);
	else
		SSL_set_connect_state(tls->ssl);
	*ret = tls;
	return 0;
}

void cv_tls_free(struct cv_tls **p)
{
	struct cv_tls *tls = *p;
	struct cv_block *next;

	if (!tls)
		return;
	cv_read_buffer_release(&tls->holder);
	SSL_free(tls->ssl);
	for (struct cv_block *b = tls->out_first; b; b = next) {
		next = b->next;
		cv_block_put(b);
	}
	free(tls->saved);
	free(tls->error);
	free(tls);
	*p = NULL;
}

static void set_error(struct cv_tls *tls, const char *text)
{
	free(tls->error);
	tls->error = strdup(text); /* NULL reads as "unknown error" */
}

/* Turns OpenSSL's error queue into the connection's error text. */
static int fail(struct cv_tls *tls, int ssl_error)
{
	long verify = SSL_get_verify_result(tls->ssl);
	unsigned long code = ERR_get_error();
	char text[ERROR_BYTES];

	if (verify != X509_V_OK)
		set_error(tls, X509_verify_cert_error_string(verify));
	else if (code && ERR_reason_error_string(code))
		set_error(tls, ERR_reason_error_string(code));
	else if (tls->eof)
		set_error(tls, "peer closed the connection");
	else {
		snprintf(text, sizeof(text), "TLS error %d", ssl_error);
		set_error(tls, text);
	}
	ERR_clear_error();
	return -EPROTO;
}

int cv_tls_handshake(struct cv_tls *tls)
{
	ssize_t n;
	int r, error;

	for (;;) {
		ERR_clear_error();
		r = SSL_do_handshake(tls->ssl);
		if (r == 1)
			return 1;
		error = SSL_get_error(tls->ssl, r);
		if (error != SSL_ERROR_WANT_READ)
			return fail(tls, error);
		n = cv_tls_fill(tls);
		if (n == -EAGAIN)
			return 0;
		if (n < 0) {
			set_error(tls, strerrordesc_np((int)-n));
			return -EPROTO;
		}
	}
}

ssize_t cv_tls_fill(struct cv_tls *tls)
{
	uint8_t *buf;
	ssize_t n;

	if (tls->in_len)
		return -ENOBUFS;
	buf = cv_read_buffer_claim(&tls->holder);
	if (!buf)
		return -ENOMEM;
	do {
		n = recv(tls->fd, buf, CV_LIMIT_TCP_READ, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	tls->in = buf;
	tls->in_len = (size_t)n;
	if (!n)
		tls->eof = true;
	return n;
}

ssize_t cv_tls_read(struct cv_tls *tls, uint8_t *data, size_t len)
{
	size_t n;
	int error;

	ERR_clear_error();
	if (SSL_read_ex(tls->ssl, data, len, &n))
		return (ssize_t)n;
	error = SSL_get_error(tls->ssl, 0);
	if (error == SSL_ERROR_WANT_READ)
		return -EAGAIN;
	if (error == SSL_ERROR_ZERO_RETURN)
		return 0;
	return fail(tls, error);
}

/* A new key before the old one has been used too often. */
static int rekey_when_due(struct cv_tls *tls)
{
	if (tls->records < REKEY_RECORDS || SSL_version(tls->ssl) != TLS1_3_VERSION)
		return 0;
	tls->records = 0;
	return SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) ? 0 : -EPROTO;
}

int cv_tls_write(struct cv_tls *tls, const uint8_t *data, size_t len)
{
	size_t n;

	if (!len)
		return 0;
	if (tls->out_len + len > OUT_MAX)
		return -ENOBUFS;
	ERR_clear_error();
	if (rekey_when_due(tls) || !SSL_write_ex(tls->ssl, data, len, &n))
		return fail(tls, SSL_get_error(tls->ssl, 0));
	assert(n == len); /* without SSL_MODE_ENABLE_PARTIAL_WRITE */
	return 0;
}

size_t cv_tls_out_room(const struct cv_tls *tls)
{
	size_t room = tls->out_len < CV_LIMIT_TLS_OUT ? CV_LIMIT_TLS_OUT - tls->out_len : 0;

	return room < OUT_LEAST ? 0 : room;
}

size_t cv_tls_out_pending(const struct cv_tls *tls)
{
	return tls->out_len;
}

/* n bytes of the output are with the kernel. */
static void consume_output(struct cv_tls *tls, size_t n)
{
	tls->out_len -= n;
	while (n) {
		struct cv_block *b = tls->out_first;
		size_t held = b->tail - b->head;

		if (n < held) {
			b->head += (uint32_t)n;
			return;
		}
		n -= held;
		tls->out_first = b->next;
		if (!b->next)
			tls->out_last = NULL;
		cv_block_put(b);
	}
}

int cv_tls_flush(struct cv_tls *tls)
{
	struct iovec iov[SEND_BLOCKS];
	struct msghdr msg;
	ssize_t n;

	while (tls->out_len) {
		msg = (struct msghdr){ .msg_iov = iov };
		for (struct cv_block *b = tls->out_first; b && msg.msg_iovlen < SEND_BLOCKS;
		     b = b->next)
			iov[msg.msg_iovlen++] = (struct iovec){ .iov_base = b->data + b->head,
								.iov_len = b->tail - b->head };
		n = sendmsg(tls->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			consume_output(tls, (size_t)n);
	}
	return 0;
}

void cv_tls_close_notify(struct cv_tls *tls)
{
	ERR_clear_error();
	if (SSL_is_init_finished(tls->ssl))
		(void)SSL_shutdown(tls->ssl); /* 0: sent, the peer's may follow */
	ERR_clear_error();
}

X509 *cv_tls_peer(const struct cv_tls *tls)
{
	return SSL_is_init_finished(tls->ssl) ? SSL_get0_peer_certificate(tls->ssl) : NULL;
}

SSL *cv_tls_ssl(struct cv_tls *tls)
{
	return tls->ssl;
}

const char *cv_tls_error_text(const struct cv_tls *tls)
{
	return tls->error ? tls->error : "unknown error";
}
