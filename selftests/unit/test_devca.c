/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The development CA: one root however many start at once, files that nobody else can read,
 * what a leaf says, and what is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "selftests/lib/scratch.h"
#include "userspace/mesh/certs_private.h"

#define ID "spiffe://cluster.local/ns/shop/sa/web"

struct ca_dir {
	char dir[64], key[96], cert[96], lock[96];
};

static int setup(void **state)
{
	struct ca_dir *d = calloc(1, sizeof(*d));

	if (scratch_dir(d->dir, sizeof(d->dir)))
		return -1;
	snprintf(d->key, sizeof(d->key), "%s/root-key.pem", d->dir);
	snprintf(d->cert, sizeof(d->cert), "%s/root-cert.pem", d->dir);
	snprintf(d->lock, sizeof(d->lock), "%s/.lock", d->dir);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct ca_dir *d = *state;

	unlink(d->key);
	unlink(d->cert);
	unlink(d->lock);
	rmdir(d->dir);
	free(d);
	return 0;
}

static char *read_text(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 8192);

	if (f) {
		assert_true(fread(text, 1, 8191, f) > 0);
		fclose(f);
	}
	return text;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static int open_ca(const struct ca_dir *d, char error[256])
{
	struct cv_ca ca;
	int r = cv_devca_open(&ca, d->dir, error);

	if (r == 0)
		ca.free(ca.ctx);
	return r;
}

/* Made once, with the modes that keep others out; then loaded; nothing else is left behind. */
static void test_made_once(void **state)
{
	struct ca_dir *d = *state;
	_cleanup_free_ char *first = NULL, *second = NULL;
	char error[256] = "";
	struct dirent *e;
	int files = 0;
	DIR *dir;

	assert_int_equal(rmdir(d->dir), 0);
	umask(0);
	assert_int_equal(open_ca(d, error), 0);
	assert_int_equal(mode_of(d->dir), 0700);
	assert_int_equal(mode_of(d->key), 0600);
	assert_int_equal(mode_of(d->cert), 0644);
	first = read_text(d->cert);
	assert_int_equal(open_ca(d, error), 0);
	second = read_text(d->cert);
	assert_string_equal(first, second);
	dir = opendir(d->dir);
	while ((e = readdir(dir)))
		files += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(dir);
	assert_int_equal(files, 3); /* key, certificate, lock */
}

/* Processes that start together agree on one root, and none sees half of it. */
static void test_race(void **state)
{
	struct ca_dir *d = *state;
	enum { PROCESSES = 8 };

	for (int round = 0; round < 5; round++) {
		pid_t pids[PROCESSES];
		char out[96];

		for (int i = 0; i < PROCESSES; i++) {
			pids[i] = fork();
			if (!pids[i]) {
				char error[256] = "";
				int r = open_ca(d, error);
				_cleanup_free_ char *text = read_text(d->cert);
				FILE *f;

				snprintf(out, sizeof(out), "%s.%d", d->dir, i);
				f = fopen(out, "w");
				fputs(text, f);
				fclose(f);
				_exit(r == 0 ? 0 : 1);
			}
		}
		_cleanup_free_ char *want = NULL;

		for (int i = 0; i < PROCESSES; i++) {
			_cleanup_free_ char *got = NULL;
			int status;

			assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
			assert_int_equal(status, 0);
			if (!want)
				want = read_text(d->cert);
			snprintf(out, sizeof(out), "%s.%d", d->dir, i);
			got = read_text(out);
			unlink(out);
			assert_string_equal(got, want);
		}
		unlink(d->key);
		unlink(d->cert);
	}
}

static void test_loose_modes_are_refused(void **state)
{
	struct ca_dir *d = *state;
	char error[256] = "";

	assert_int_equal(open_ca(d, error), 0);
	assert_int_equal(chmod(d->dir, 0750), 0);
	assert_int_equal(open_ca(d, error), -EACCES);
	assert_non_null(strstr(error, "mode 0750"));
	assert_int_equal(chmod(d->dir, 0700), 0);
	assert_int_equal(chmod(d->key, 0640), 0);
	assert_int_equal(open_ca(d, error), -EACCES);
	assert_non_null(strstr(error, "root-key.pem: mode 0640"));
	assert_int_equal(chmod(d->key, 0600), 0);
	assert_int_equal(open_ca(d, error), 0);
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	fputs(text, f);
	fclose(f);
}

/* A start that was cut off after the key is completed with that key; a certificate without its
 * key, of another key, or no PEM is refused and left as it is. */
static void test_damaged_directory(void **state)
{
	struct ca_dir *d = *state;
	_cleanup_free_ char *key = NULL, *again = NULL, *cert = NULL;
	char error[256] = "", moved[128];

	assert_int_equal(open_ca(d, error), 0);
	key = read_text(d->key);
	cert = read_text(d->cert);
	unlink(d->cert);
	assert_int_equal(open_ca(d, error), 0);
	again = read_text(d->key);
	assert_string_equal(key, again);
	snprintf(moved, sizeof(moved), "%s.moved", d->key);
	assert_int_equal(rename(d->key, moved), 0);
	assert_int_equal(open_ca(d, error), -ENOENT);
	assert_non_null(strstr(error, "no root-key.pem"));
	assert_int_not_equal(access(d->key, F_OK), 0);
	unlink(d->cert);
	assert_int_equal(open_ca(d, error), 0); /* a new key and root */
	write_text(d->cert, cert);
	assert_int_equal(open_ca(d, error), -EINVAL);
	assert_non_null(strstr(error, "is not for root-key.pem"));
	write_text(d->key, "nonsense");
	assert_int_equal(open_ca(d, error), -EINVAL);
	unlink(d->key);
	assert_int_equal(symlink(moved, d->key), 0);
	assert_int_not_equal(open_ca(d, error), 0); /* no links */
	unlink(moved);
}

/* ---- leaves ---- */

struct signed_cert {
	X509 *leaf, *root;
	char error[256];
};

static X509 *cert_of(const char *pem)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new_mem_buf(pem, -1);

	return PEM_read_bio_X509(bio, NULL, NULL, NULL);
}

static void on_signed(void *arg, const struct cv_ca_answer *answer)
{
	struct signed_cert *s = arg;

	snprintf(s->error, sizeof(s->error), "%s", answer->error ? answer->error : "");
	if (answer->error)
		return;
	assert_int_equal(answer->nr_chain, 2);
	s->leaf = cert_of(answer->chain[0]);
	s->root = cert_of(answer->chain[1]);
}

static time_t time_of(const ASN1_TIME *t)
{
	struct tm tm;

	assert_int_equal(ASN1_TIME_to_tm(t, &tm), 1);
	return timegm(&tm);
}

static void sign(struct cv_ca *ca, const struct cv_identity *id, const char *csr, unsigned ttl_s,
		 struct signed_cert *ret)
{
	ca->sign(ca->ctx, &(struct cv_ca_request){ id, csr, ttl_s, on_signed, ret });
}

/* Nobody's wish is a day. */
static void check_default_lifetime(struct cv_ca *ca, const struct cv_identity *id, const char *csr)
{
	struct signed_cert got = {};

	sign(ca, id, csr, 0, &got);
	assert_non_null(got.leaf);
	assert_in_range(time_of(X509_get0_notAfter(got.leaf)) - time(NULL), 86400 - 100, 86400);
	X509_free(got.leaf);
	X509_free(got.root);
}

static void check_leaf(X509 *leaf, X509 *root)
{
	_cleanup_(cv_free_pkey) EVP_PKEY *root_key = X509_get_pubkey(root);
	struct cv_identity id;
	char text[CV_IDENTITY_TEXT];
	int san = X509_get_ext_by_NID(leaf, NID_subject_alt_name, -1);

	assert_int_equal(X509_verify(leaf, root_key), 1);
	assert_int_equal(cv_identity_of_cert(leaf, &id), 0);
	assert_string_equal(cv_identity_text(&id, text), ID);
	cv_identity_fini(&id);
	assert_true(san >= 0 && X509_EXTENSION_get_critical(X509_get_ext(leaf, san)));
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(leaf)), 0);
	assert_int_equal(X509_get_key_usage(leaf), KU_DIGITAL_SIGNATURE);
	assert_int_equal(X509_get_extended_key_usage(leaf), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	assert_false(X509_check_ca(leaf));
	assert_int_equal(X509_check_issued(root, leaf), X509_V_OK);
	assert_in_range(time(NULL) - time_of(X509_get0_notBefore(leaf)), 59, 75);
	assert_in_range(time_of(X509_get0_notAfter(leaf)) - time(NULL), 85, 100);
}

static void test_leaf(void **state)
{
	struct ca_dir *d = *state;
	struct signed_cert a = {}, b = {};
	char error[256] = "";
	struct cv_identity id;
	EVP_PKEY *key = cv_key_new();
	_cleanup_free_ char *csr = NULL;
	struct cv_ca ca;

	assert_int_equal(cv_identity_parse(ID, strlen(ID), &id), 0);
	csr = cv_csr_new(key, &id);
	assert_int_equal(cv_devca_open(&ca, d->dir, error), 0);
	sign(&ca, &id, csr, 100, &a);
	sign(&ca, &id, csr, 100, &b);
	check_leaf(a.leaf, a.root);
	assert_true(X509_check_private_key(a.leaf, key));
	assert_int_equal(X509_check_ca(a.root), 1);
	assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(a.leaf),
					      X509_get0_serialNumber(b.leaf)),
			     0);
	check_default_lifetime(&ca, &id, csr);
	/* A request that was tampered with proves no key. */
	csr[strlen(csr) / 2] ^= 1;
	X509_free(b.leaf);
	X509_free(b.root);
	b = (struct signed_cert){};
	sign(&ca, &id, csr, 100, &b);
	assert_null(b.leaf);
	assert_string_not_equal(b.error, "");
	X509_free(a.leaf);
	X509_free(a.root);
	EVP_PKEY_free(key);
	cv_identity_fini(&id);
	ca.free(ca.ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_made_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_race, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loose_modes_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leaf, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
