/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificate revocation lists (CRL_PATH): a file of PEM lists, or one DER list, read again when
 * it changes. What is not listed is allowed, whatever the age of a list; a list speaks only for the
 * issuer whose name it bears and whose key has signed it.
 */
#pragma once

#include <openssl/x509.h>

#include "userspace/io/worker.h"

struct cv_crl;

/* Reads the file and watches it. A file that is missing or can't be read is a warning: nothing is
 * revoked by it, until it can be read; later, the last good lists stay. changed(arg) runs on the
 * control thread after other lists have come into force. -ENOMEM. */
int cv_crl_start(struct cv_crl **ret, struct cv_worker *control, const char *path,
		 void (*changed)(void *arg), void *arg);
/* Control thread, after the workers have ended. */
void cv_crl_stop(struct cv_crl **crl);

/* Any thread. chain: verified, the leaf first, the root last. X509_V_OK, or X509_V_ERR_…: revoked, or a
 * list of one of its issuers whose signature is wrong. */
int cv_crl_check(struct cv_crl *crl, STACK_OF(X509) * chain);

/* The lists of one text of len bytes, PEM or DER; a new stack, empty when there is none in it.
 * NULL = it can't be used; why is a constant. */
STACK_OF(X509_CRL) * cv_crl_parse(const char *text, size_t len, const char **why);
