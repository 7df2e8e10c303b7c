/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Revocation lists: what is a list, whom it speaks of, and handshakes of revoked ones while the file
 * changes. What ztunnel does not mind (age, no list) is let through here as well.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "selftests/lib/certlab.h"
#include "userspace/io/worker.h"

/* ---- authorities and lists ---- */

struct authority {
	EVP_PKEY *key;
	X509 *cert;
};

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(ext);
	assert_int_equal(X509_add_ext(cert, ext, -1), 1);
	X509_EXTENSION_free(ext);
}

/* by NULL = itself; usage NULL = none. */
static struct authority make(const char *name, long serial, const struct authority *by,
			     const char *usage)
{
	struct authority a = { .key = EVP_EC_gen("P-256"), .cert = X509_new() };
	X509_NAME *subject = X509_get_subject_name(a.cert);

	by = by ? by : &a;
	X509_set_version(a.cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(a.cert), serial);
	X509_gmtime_adj(X509_getm_notBefore(a.cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(a.cert), 3600);
	X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC, (const unsigned char *)name, -1, -1,
				   0);
	X509_set_issuer_name(a.cert, X509_get_subject_name(by->cert));
	X509_set_pubkey(a.cert, a.key);
	add_extension(a.cert, by->cert, NID_basic_constraints, "critical,CA:TRUE");
	add_extension(a.cert, by->cert, NID_subject_key_identifier, "hash");
	if (usage)
		add_extension(a.cert, by->cert, NID_key_usage, usage);
	assert_true(X509_sign(a.cert, by->key, EVP_sha256()) > 0);
	return a;
}

static void fini(struct authority *a)
{
	X509_free(a->cert);
	EVP_PKEY_free(a->key);
}

struct list_opts {
	long serial; /* who is revoked; 0 = nobody */
	const ASN1_INTEGER *number; /* the same */
	bool expired;
	bool names_key; /* an authority key identifier */
	int critical; /* the NID of a critical extension that is a number */
};

static void add_akid(X509_CRL *list, X509 *issuer)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;

	X509V3_set_ctx(&ctx, issuer, NULL, NULL, list, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, NID_authority_key_identifier, "keyid:always");
	assert_non_null(ext);
	assert_int_equal(X509_CRL_add_ext(list, ext, -1), 1);
	X509_EXTENSION_free(ext);
}

static void add_revoked(X509_CRL *list, const struct list_opts *opts)
{
	X509_REVOKED *entry = X509_REVOKED_new();
	ASN1_INTEGER *serial = opts->number ? ASN1_INTEGER_dup(opts->number) : ASN1_INTEGER_new();
	ASN1_TIME *when = X509_gmtime_adj(NULL, -60);

	if (!opts->number)
		ASN1_INTEGER_set(serial, opts->serial);
	X509_REVOKED_set_serialNumber(entry, serial);
	X509_REVOKED_set_revocationDate(entry, when);
	assert_int_equal(X509_CRL_add0_revoked(list, entry), 1);
	ASN1_INTEGER_free(serial);
	ASN1_TIME_free(when);
}

static X509_CRL *make_list(const struct authority *by, const struct list_opts *opts)
{
	X509_CRL *list = X509_CRL_new();
	ASN1_TIME *last = X509_gmtime_adj(NULL, -7200);
	ASN1_TIME *next = X509_gmtime_adj(NULL, opts->expired ? -3600 : 3600);
	ASN1_INTEGER *one = ASN1_INTEGER_new();

	ASN1_INTEGER_set(one, 1);
	X509_CRL_set_version(list, X509_CRL_VERSION_2);
	X509_CRL_set_issuer_name(list, X509_get_subject_name(by->cert));
	X509_CRL_set1_lastUpdate(list, last);
	X509_CRL_set1_nextUpdate(list, next);
	if (opts->names_key)
		add_akid(list, by->cert);
	if (opts->critical)
		assert_int_equal(X509_CRL_add1_ext_i2d(list, opts->critical, one, 1, 0), 1);
	if (opts->serial || opts->number)
		add_revoked(list, opts);
	assert_true(X509_CRL_sign(list, by->key, EVP_sha256()) > 0);
	ASN1_TIME_free(last);
	ASN1_TIME_free(next);
	ASN1_INTEGER_free(one);
	return list;
}

static char *list_pem(const struct authority *by, const struct list_opts *opts)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new(BIO_s_mem());
	X509_CRL *list = make_list(by, opts);

	PEM_write_bio_X509_CRL(bio, list);
	X509_CRL_free(list);
	return cv_bio_text(bio);
}

/* ---- what is a list ---- */

/* How many lists the text has; -1 = it is refused. */
static int parsed(const char *text, size_t len)
{
	const char *why;
	STACK_OF(X509_CRL) *lists = cv_crl_parse(text, len, &why);
	int n = sk_X509_CRL_num(lists);

	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	return n;
}

static void test_parse(void **state)
{
	struct authority root = make("root", 1, NULL, NULL);
	_cleanup_free_ char *pem = list_pem(&root, &(struct list_opts){ .serial = 7 });
	_cleanup_free_ char *delta =
		list_pem(&root, &(struct list_opts){ .critical = NID_delta_crl });
	_cleanup_free_ char *two = NULL, *broken = strdup(pem);
	X509_CRL *list = make_list(&root, &(struct list_opts){});
	unsigned char *der = NULL;
	int len = i2d_X509_CRL(list, &der);

	(void)state;
	assert_true(asprintf(&two, "a comment\n%s\n%s", pem, pem) > 0);
	memcpy(strchr(broken, '\n') + 1, "????", 4);
	assert_int_equal(parsed("", 0), 0);
	assert_int_equal(parsed(pem, strlen(pem)), 1);
	assert_int_equal(parsed(two, strlen(two)), 2);
	assert_int_equal(parsed((char *)der, (size_t)len), 1);
	assert_int_equal(parsed((char *)der, (size_t)len - 1), -1);
	assert_int_equal(parsed("nonsense", 8), -1);
	assert_int_equal(parsed(broken, strlen(broken)), -1);
	assert_int_equal(parsed(delta, strlen(delta)), -1);
	OPENSSL_free(der);
	X509_CRL_free(list);
	fini(&root);
}

/* ---- whom it speaks of ---- */

static char list_path[96];
static int changes;

static void on_changed(void *arg)
{
	(void)arg; /* the only one */
	changes++;
}

/* The whole at once, as a ConfigMap does it. NULL = it goes away. */
static void write_list(const char *text)
{
	char path[100];
	FILE *f;

	if (!text) {
		unlink(list_path);
		return;
	}
	snprintf(path, sizeof(path), "%s.new", list_path);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(rename(path, list_path), 0);
}

static int setup(void **state)
{
	int r = certlab_setup(state);

	snprintf(list_path, sizeof(list_path), "%s/crl.pem", certlab.dir[0]);
	changes = 0;
	return r;
}

static int teardown(void **state)
{
	unlink(list_path);
	return certlab_teardown(state);
}

static struct cv_crl *start(const char *text)
{
	struct cv_crl *crl;

	write_list(text);
	assert_int_equal(cv_crl_start(&crl, certlab.control, list_path, on_changed, NULL), 0);
	return crl;
}

/* What the list of by says of a chain of these, which it does not own. */
static int verdict(const struct authority *by, const struct list_opts *opts,
		   const struct authority *chain, int n)
{
	_cleanup_free_ char *pem = list_pem(by, opts);
	struct cv_crl *crl = start(pem);
	STACK_OF(X509) *certs = sk_X509_new_null();
	int r;

	for (int i = 0; i < n; i++)
		sk_X509_push(certs, chain[i].cert);
	r = cv_crl_check(crl, certs);
	sk_X509_free(certs);
	cv_crl_stop(&crl);
	return r;
}

static void test_check(void **state)
{
	struct authority root = make("root", 1, NULL, "critical,keyCertSign");
	struct authority twin = make("root", 2, NULL, NULL);
	struct authority other = make("other", 3, NULL, NULL);
	struct authority middle = make("middle", 4, &root, "critical,keyCertSign,cRLSign");
	struct authority mute = make("mute", 5, &root, "critical,keyCertSign");
	const struct authority chain[] = { make("leaf", 7, &middle, NULL), middle, root };
	const struct authority mute_chain[] = { make("leaf", 7, &mute, NULL), mute, root };

	(void)state;
	assert_int_equal(verdict(&middle, &(struct list_opts){ .serial = 7 }, chain, 3),
			 X509_V_ERR_CERT_REVOKED);
	assert_int_equal(verdict(&middle, &(struct list_opts){ .serial = 8 }, chain, 3), X509_V_OK);
	assert_int_equal(verdict(&middle, &(struct list_opts){ .serial = 7, .expired = true },
				 chain, 3),
			 X509_V_ERR_CERT_REVOKED);
	/* An intermediate; a root may sign lists whatever it says of itself. */
	assert_int_equal(verdict(&root, &(struct list_opts){ .serial = 4 }, chain, 3),
			 X509_V_ERR_CERT_REVOKED);
	/* The serial of the leaf, but of another issuer. */
	assert_int_equal(verdict(&root, &(struct list_opts){ .serial = 7 }, chain, 3), X509_V_OK);
	assert_int_equal(verdict(&other, &(struct list_opts){ .serial = 7 }, chain, 3), X509_V_OK);
	assert_int_equal(verdict(&mute, &(struct list_opts){ .serial = 8 }, mute_chain, 3),
			 X509_V_ERR_KEYUSAGE_NO_CRL_SIGN);
	/* Of the same name: another authority, or a forged list. */
	assert_int_equal(verdict(&twin, &(struct list_opts){ .serial = 4, .names_key = true },
				 chain, 3),
			 X509_V_OK);
	assert_int_equal(verdict(&twin, &(struct list_opts){ .serial = 4 }, chain, 3),
			 X509_V_ERR_CRL_SIGNATURE_FAILURE);
	fini((struct authority *)&chain[0]);
	fini((struct authority *)&mute_chain[0]);
	fini(&root);
	fini(&twin);
	fini(&other);
	fini(&middle);
	fini(&mute);
}

/* ---- handshakes ---- */

/* Both ends over a pair of memory BIOs; what the one that verifies last says, X509_V_OK = they talk. */
static long shake(struct cv_cert *client, struct cv_cert *server, long *ret_server)
{
	SSL *c = SSL_new(client->client), *s = SSL_new(server->server);
	bool c_done = false, s_done = false;
	long verdict_of_client;
	BIO *a, *b;

	assert_int_equal(cv_cert_use(client, c), 0);
	assert_int_equal(cv_cert_use(server, s), 0);
	assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(c, a, a);
	SSL_set_bio(s, b, b);
	SSL_set_connect_state(c);
	SSL_set_accept_state(s);
	for (int i = 0; i < 20; i++) {
		c_done = SSL_do_handshake(c) == 1;
		s_done = SSL_do_handshake(s) == 1;
	}
	verdict_of_client = SSL_get_verify_result(c);
	*ret_server = SSL_get_verify_result(s);
	assert_int_equal(c_done && s_done,
			 verdict_of_client == X509_V_OK && *ret_server == X509_V_OK);
	SSL_free(c);
	SSL_free(s);
	ERR_clear_error();
	return verdict_of_client;
}

static struct authority dev_root(void)
{
	struct authority root;
	char path[96];
	FILE *f;

	snprintf(path, sizeof(path), "%s/root-key.pem", certlab.dir[0]);
	f = fopen(path, "r");
	assert_non_null(f);
	root.key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	fclose(f);
	snprintf(path, sizeof(path), "%s/root-cert.pem", certlab.dir[0]);
	f = fopen(path, "r");
	assert_non_null(f);
	root.cert = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	return root;
}

/* The file comes, changes, breaks, and goes. */
static void test_handshakes(void **state)
{
	struct cv_cert *web = certlab_get("td", "web"), *db = certlab_get("td", "db");
	struct authority root = dev_root();
	const struct list_opts no_web = { .number = X509_get0_serialNumber(web->leaf) };
	_cleanup_free_ char *revokes = list_pem(&root, &no_web);
	struct cv_crl *crl = start(NULL);
	long of_server;

	(void)state;
	web->crl = db->crl = crl;
	assert_int_equal(shake(web, db, &of_server), X509_V_OK);
	assert_int_equal(of_server, X509_V_OK);
	write_list(revokes);
	certlab_run_until(&changes, 1, 20000);
	assert_int_equal(changes, 1);
	assert_int_equal(shake(web, db, &of_server), X509_V_OK);
	assert_int_equal(of_server, X509_V_ERR_CERT_REVOKED);
	assert_int_equal(shake(db, web, &of_server), X509_V_ERR_CERT_REVOKED);
	assert_int_equal(shake(db, db, &of_server), X509_V_OK);
	assert_int_equal(of_server, X509_V_OK);
	/* What can't be read leaves the lists that were. */
	write_list("nonsense");
	certlab_run_until(&changes, 2, 1000);
	write_list(NULL);
	certlab_run_until(&changes, 2, 1000);
	assert_int_equal(changes, 1);
	assert_int_equal(shake(db, web, &of_server), X509_V_ERR_CERT_REVOKED);
	write_list("");
	certlab_run_until(&changes, 2, 20000);
	assert_int_equal(changes, 2);
	assert_int_equal(shake(db, web, &of_server), X509_V_OK);
	assert_int_equal(of_server, X509_V_OK);
	cv_crl_stop(&crl);
	fini(&root);
	cv_cert_put(&web);
	cv_cert_put(&db);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test_setup_teardown(test_check, setup, teardown),
		cmocka_unit_test_setup_teardown(test_handshakes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
