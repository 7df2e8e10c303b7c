/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS as a transformer between a socket and plaintext spans (OpenSSL, TLS 1.3).
 *
 * The caller owns the socket and its events. Reads: cv_tls_fill() takes what the socket has
 * in one large recv(), cv_tls_read() decrypts record by record into the caller's memory.
 * Writes: cv_tls_write() encrypts into a bounded output buffer, cv_tls_flush() sends it with
 * as few calls as it can. Nothing blocks. One thread.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cv_tls;

/* SSL_CTX of one role with ztunnel's settings: TLS 1.3 only (1.2 with its four suites when
 * tls12), AES-GCM suites, ALPN h2, no tickets, peer certificate required. The caller adds
 * certificate, key, roots. Returns NULL on no memory. */
SSL_CTX *cv_tls_ctx_new(bool server, bool tls12);

/* New connection over fd (borrowed). ctx is referenced by the connection. */
int cv_tls_new(struct cv_tls **ret, SSL_CTX *ctx, bool server, int fd);
void cv_tls_free(struct cv_tls **tls); /* does not close fd; does not send close_notify */

/* Drives the handshake: 1 = done, 0 = in progress (flush, then wait for the socket),
 * -EPROTO = failed; cv_tls_error_text says why. A client never sees 1 before the peer's
 * certificate has been verified by the context's verify callback. */
int cv_tls_handshake(struct cv_tls *tls);

/* recv() once into the input buffer. >0 bytes, 0 = EOF, -EAGAIN, -ENOBUFS = read first, -errno. */
ssize_t cv_tls_fill(struct cv_tls *tls);
/* Decrypt at most len bytes of what was filled. >0, 0 = close_notify, -EAGAIN = fill more, -EPROTO. */
ssize_t cv_tls_read(struct cv_tls *tls, uint8_t *data, size_t len);
/* Encrypt all of data into the output buffer. 0, -ENOBUFS when CV_LIMIT_TLS_OUT would be
 * exceeded by far (callers stop at cv_tls_out_room() == 0), -EPROTO. */
int cv_tls_write(struct cv_tls *tls, const uint8_t *data, size_t len);
/* Plaintext bytes that may be written before the producer should stop. */
size_t cv_tls_out_room(const struct cv_tls *tls);
size_t cv_tls_out_pending(const struct cv_tls *tls);
/* send() the output buffer. 0 = all sent, -EAGAIN = wait for writable, -errno. */
int cv_tls_flush(struct cv_tls *tls);
/* Queue close_notify; flush afterwards. */
void cv_tls_close_notify(struct cv_tls *tls);

/* Peer's leaf certificate, borrowed, NULL before the handshake is done. */
X509 *cv_tls_peer(const struct cv_tls *tls);
SSL *cv_tls_ssl(struct cv_tls *tls);
/* Why the last call failed, for the log; never NULL. */
const char *cv_tls_error_text(const struct cv_tls *tls);
