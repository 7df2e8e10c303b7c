/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One unary call a certificate. istiod does not compare the trust domain of what is asked with its
 * own, and its refusals are short; the first is made up for by cert.c, which compares the answer
 * with the question, the second here.
 */
#include "userspace/mesh/istio_ca.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/proto/pb/certificate.pb-c.h"
#include "userspace/base/cleanup.h"
#include "userspace/limits.h"

enum { ERROR_TEXT = 512 };

struct istio_ca {
	struct cv_channel *channel;
	bool closing; /* answers are for nobody */
};

struct call {
	struct istio_ca *ca;
	void (*done)(void *arg, const struct cv_ca_answer *answer);
	void *arg;
	char identity[CV_IDENTITY_TEXT];
};

/* ---- what a refusal means ---- */

/* istiod's two texts of UNAUTHENTICATED: the token, or what it may ask for. */
static void explain_unauthenticated(const char *identity, const char *text, char *ret, size_t size)
{
	if (strstr(text, "impersonation"))
		snprintf(ret, size,
			 "istiod says that no pod of %.200s runs on this node, or that our service "
			 "account may not ask for it (CA_TRUSTED_NODE_ACCOUNTS of istiod): %s",
			 identity, text);
	else
		snprintf(
			ret, size,
			"istiod does not accept our token or cluster (AUTH_TOKEN: it must be bound "
			"to our pod and for audience istio-ca; CLUSTER_ID): %s",
			text);
}

/* Returns whether it means that the CA is away. */
static bool explain(int status, const char *identity, const char *text, char *ret, size_t size)
{
	switch (status) {
	case CV_GRPC_UNAVAILABLE:
	case CV_GRPC_DEADLINE_EXCEEDED:
	case CV_GRPC_CANCELLED:
		snprintf(ret, size, "the CA does not answer: %s", text);
		return true;
	case CV_GRPC_UNAUTHENTICATED:
	case CV_GRPC_PERMISSION_DENIED:
		explain_unauthenticated(identity, text, ret, size);
		return false;
	case CV_GRPC_RESOURCE_EXHAUSTED:
		snprintf(ret, size, "the CA refuses for its load, or its answer is too long: %s",
			 text);
		return false;
	default:
		snprintf(ret, size, "signing gRPC error (%s): %s", cv_grpc_status_name(status),
			 text);
		return false;
	}
}

/* ---- calls ---- */

static void answer_chain(struct call *call, const uint8_t *message, size_t len)
{
	Istio__V1__Auth__IstioCertificateResponse *response =
		istio__v1__auth__istio_certificate_response__unpack(NULL, len, message);
	struct cv_ca_answer answer = {};

	if (response) {
		answer.chain = response->cert_chain;
		answer.nr_chain = response->n_cert_chain;
	} else {
		answer.error = "the CA's answer is not an IstioCertificateResponse";
	}
	call->done(call->arg, &answer);
	if (response)
		istio__v1__auth__istio_certificate_response__free_unpacked(response, NULL);
}

static void on_answer(void *arg, int status, const char *text, const uint8_t *message, size_t len)
{
	_cleanup_free_ struct call *call = arg;
	char error[ERROR_TEXT];
	struct cv_ca_answer answer = { .error = error };

	if (call->ca->closing)
		return;
	if (status == CV_GRPC_OK) {
		answer_chain(call, message, len);
		return;
	}
	answer.unreachable = explain(status, call->identity, text, error, sizeof(error));
	call->done(call->arg, &answer);
}

/* The message; len is set. NULL = no memory. */
static uint8_t *encode_request(const struct cv_ca_request *request, char *identity, size_t *len)
{
	Google__Protobuf__Value impersonated = GOOGLE__PROTOBUF__VALUE__INIT;
	Google__Protobuf__Struct__FieldsEntry entry = GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT,
					      *entries[] = { &entry };
	Google__Protobuf__Struct metadata = GOOGLE__PROTOBUF__STRUCT__INIT;
	Istio__V1__Auth__IstioCertificateRequest message =
		ISTIO__V1__AUTH__ISTIO_CERTIFICATE_REQUEST__INIT;
	uint8_t *bytes;

	impersonated.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	impersonated.string_value = identity;
	entry.key = (char *)"ImpersonatedIdentity";
	entry.value = &impersonated;
	metadata.n_fields = 1;
	metadata.fields = entries;
	message.csr = (char *)request->csr_pem;
	message.validity_duration = request->ttl_s;
	message.metadata = &metadata;
	*len = istio__v1__auth__istio_certificate_request__get_packed_size(&message);
	bytes = malloc(*len);
	if (bytes)
		istio__v1__auth__istio_certificate_request__pack(&message, bytes);
	return bytes;
}

static void sign_csr(void *ctx, const struct cv_ca_request *request)
{
	struct istio_ca *ca = ctx;
	struct call *call = calloc(1, sizeof(*call));
	_cleanup_free_ uint8_t *message = NULL;
	size_t len = 0;

	if (call) {
		cv_identity_text(request->id, call->identity);
		message = encode_request(request, call->identity, &len);
	}
	if (!message) {
		free(call);
		request->done(request->arg, &(struct cv_ca_answer){ .error = "out of memory" });
		return;
	}
	call->ca = ca;
	call->done = request->done;
	call->arg = request->arg;
	cv_channel_unary(ca->channel,
			 &(struct cv_channel_unary){
				 .path = "/istio.v1.auth.IstioCertificateService/CreateCertificate",
				 .message = message,
				 .len = len,
				 .max_len = CV_LIMIT_CA_ANSWER,
				 .timeout_ms = CV_LIMIT_CA_ANSWER_MS,
				 .done = on_answer,
				 .arg = call,
			 });
}

static void free_istio_ca(void *ctx)
{
	struct istio_ca *ca = ctx;

	ca->closing = true;
	cv_channel_free(&ca->channel); /* ends the calls */
	free(ca);
}

int cv_istio_ca_open(struct cv_ca *ret, struct cv_channel *channel)
{
	struct istio_ca *ca = calloc(1, sizeof(*ca));

	if (!ca) {
		cv_channel_free(&channel);
		return -ENOMEM;
	}
	ca->channel = channel;
	*ret = (struct cv_ca){ .ctx = ca, .sign = sign_csr, .free = free_istio_ca };
	return 0;
}
