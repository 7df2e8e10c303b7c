/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate tests' CA: two development CAs behind a switch. */
#include "selftests/lib/certlab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "selftests/lib/scratch.h"
#include "userspace/io/worker.h"

struct certlab certlab;

/* ---- the CA ---- */

static void hold(const struct cv_ca_request *request)
{
	int i = certlab.held++;

	assert_true(i < CERTLAB_PENDING);
	cv_identity_copy(&certlab.pending[i].id, request->id);
	certlab.pending[i].csr = strdup(request->csr_pem);
	certlab.pending[i].request = *request;
}

static char *read_root(int i)
{
	char path[96], text[4096];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/root-cert.pem", certlab.dir[i]);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	return strdup(text);
}

/* The development CA has signed: which roots come with it is ours to say. */
static void on_dev_signed(void *arg, const struct cv_ca_answer *answer)
{
	const struct cv_ca_request *request = arg;
	_cleanup_free_ char *a = read_root(certlab.root), *b = read_root(!certlab.root);
	_cleanup_free_ char *both = NULL;
	char *chain[2];

	assert_null(answer->error);
	assert_true(asprintf(&both, "%s%s", a, b) > 0);
	chain[0] = answer->chain[0];
	chain[1] = certlab.both_roots ? both : certlab.other_root ? b : a;
	request->done(request->arg, &(struct cv_ca_answer){ .chain = chain, .nr_chain = 2 });
}

static void dev_sign(const struct cv_ca_request *asked)
{
	const char *other = certlab.sign_for;
	struct cv_ca *dev = &certlab.dev[certlab.root];
	struct cv_ca_request request = *asked;
	struct cv_identity id = {};

	if (other) {
		assert_int_equal(cv_identity_parse(other, strlen(other), &id), 0);
		request.id = &id;
	}
	request.ttl_s = certlab.ttl_s ? certlab.ttl_s : request.ttl_s;
	request.done = on_dev_signed;
	request.arg = (void *)asked;
	dev->sign(dev->ctx, &request);
	cv_identity_fini(&id);
}

static void sign(void *ctx, const struct cv_ca_request *request)
{
	const struct cv_ca_answer refusal = { .error = certlab.refusal,
					      .unreachable = certlab.unreachable };
	size_t len = strlen(certlab.order);

	(void)ctx; /* the only one */
	certlab.asked++;
	snprintf(certlab.order + len, sizeof(certlab.order) - len, "%s ",
		 cv_str_text(request->id->sa));
	if (certlab.refusal)
		request->done(request->arg, &refusal);
	else if (certlab.holding)
		hold(request);
	else
		dev_sign(request);
}

static void free_pending(int i)
{
	cv_identity_fini(&certlab.pending[i].id);
	free(certlab.pending[i].csr);
}

void certlab_release(void)
{
	struct cv_ca_request request = certlab.pending[0].request;
	struct cv_identity id = certlab.pending[0].id;
	char *csr = certlab.pending[0].csr;

	assert_true(certlab.held > 0);
	memmove(&certlab.pending[0], &certlab.pending[1],
		(size_t)--certlab.held * sizeof(certlab.pending[0]));
	request.id = &id;
	request.csr_pem = csr;
	dev_sign(&request);
	cv_identity_fini(&id);
	free(csr);
}

static void free_ca(void *ctx)
{
	(void)ctx; /* the only one */
	for (int i = 0; i < certlab.held; i++)
		free_pending(i);
	for (int i = 0; i < CERTLAB_ROOTS; i++)
		certlab.dev[i].free(certlab.dev[i].ctx);
}

/* ---- setup ---- */

int certlab_setup(void **state)
{
	struct cv_certs_opts opts = { .ca = { &certlab, sign, free_ca }, .ttl_s = 86400 };
	char error[256];

	(void)state;
	certlab = (struct certlab){};
	for (int i = 0; i < CERTLAB_ROOTS; i++) {
		if (scratch_dir(certlab.dir[i], sizeof(certlab.dir[i])) < 0 ||
		    cv_devca_open(&certlab.dev[i], certlab.dir[i], error) < 0)
			return -1;
	}
	if (cv_worker_control(&certlab.control) < 0)
		return -1;
	opts.control = certlab.control;
	return cv_certs_new(&certlab.certs, &opts);
}

static void remove_dir(const char *dir)
{
	static const char *const files[] = { "root-key.pem", "root-cert.pem", ".lock" };
	char path[96];

	for (size_t i = 0; i < CV_ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	rmdir(dir);
}

int certlab_teardown(void **state)
{
	(void)state;
	cv_certs_free(&certlab.certs);
	cv_worker_free(&certlab.control);
	for (int i = 0; i < CERTLAB_ROOTS; i++)
		remove_dir(certlab.dir[i]);
	return cv_str_count() != 0;
}

/* ---- asking ---- */

struct cv_identity certlab_identity(const char *td, const char *sa)
{
	struct cv_identity id;

	cv_identity_set(&id, cv_str_new(td), cv_str_new("shop"), cv_str_new(sa));
	return id;
}

void certlab_run_until(const int *n, int want, int ms)
{
	uint64_t end = cv_now_ms() + (uint64_t)ms;

	do {
		event_base_loop(cv_worker_base(certlab.control), EVLOOP_NONBLOCK);
		if (*n >= want)
			return;
		usleep(1000);
	} while (cv_now_ms() < end);
}

void certlab_on_cert(struct cv_cert *cert, const char *error, void *arg)
{
	struct certlab_answer *a = arg;

	a->calls++;
	cv_cert_put(&a->cert);
	a->cert = cert;
	snprintf(a->error, sizeof(a->error), "%s", error ? error : "");
	assert_int_equal(!cert, error != NULL);
}

struct cv_cert *certlab_get(const char *td, const char *sa)
{
	struct cv_identity id = certlab_identity(td, sa);
	struct certlab_answer a = {};

	cv_certs_get(certlab.certs, &id, certlab_on_cert, &a);
	certlab_run_until(&a.calls, 1, 5000);
	assert_int_equal(a.calls, 1);
	assert_string_equal(a.error, "");
	cv_identity_fini(&id);
	return a.cert;
}

void certlab_sign(const struct cv_identity *id, EVP_PKEY *key,
		  void (*done)(void *arg, const struct cv_ca_answer *answer), void *arg)
{
	_cleanup_free_ char *csr = cv_csr_new(key, id);

	assert_non_null(csr);
	dev_sign(&(struct cv_ca_request){ id, csr, 1000, done, arg });
}

static int state_of(const struct cv_identity *id, const char *state, const struct cv_cert *cert,
		    void *arg)
{
	(void)id, (void)cert; /* the state is what is asked for */
	snprintf(arg, 600, "%s", state);
	return 0;
}

const char *certlab_only_state(void)
{
	static char text[600];

	text[0] = '\0';
	assert_int_equal(cv_certs_each(certlab.certs, state_of, text), 0);
	return text;
}
