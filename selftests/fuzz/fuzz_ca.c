/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a certificate authority answers: the message, its PEM texts, the certificates in them. The
 * channel is replaced by one that answers with the input.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/mesh/certs_private.h"
#include "userspace/mesh/istio_ca.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const uint8_t *input;
static size_t input_len;

void cv_channel_unary(struct cv_channel *c, const struct cv_channel_unary *call)
{
	(void)c; /* none */
	call->done(call->arg, CV_GRPC_OK, "", input, input_len);
}

void cv_channel_free(struct cv_channel **c)
{
	*c = NULL;
}

static struct cv_ca ca;
static struct cv_identity id;
static struct cv_cert_shared shared;
static EVP_PKEY *key;

/* A certificate for our key can't be among the inputs. */
static void on_answer(void *arg, const struct cv_ca_answer *answer)
{
	struct cv_cert *cert = NULL;
	char error[512] = "";

	(void)arg; /* nothing to remember */
	if (answer->error)
		return;
	assert(cv_cert_new(&cert, &shared, &id, key, answer, error) < 0 && !cert && error[0]);
}

static void setup(void)
{
	static const char text[] = "spiffe://cluster.local/ns/default/sa/web";

	if (cv_identity_parse(text, strlen(text), &id) < 0 ||
	    cv_cert_shared_init(&shared, false) < 0 || cv_istio_ca_open(&ca, NULL) < 0)
		abort();
	key = cv_key_new();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct cv_ca_request request = { &id, "a CSR", 60, on_answer, NULL };

	if (!key)
		setup();
	input = data;
	input_len = len;
	ca.sign(ca.ctx, &request);
	return 0;
}
