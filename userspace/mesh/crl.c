/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Revocation lists: the set in force is immutable and reference-counted, so a handshake checks
 * against one set while the control thread reads the next.
 *
 * The check is our own walk over the verified chain. OpenSSL's (X509_V_FLAG_CRL_CHECK_ALL) refuses
 * what no list speaks of and what an expired list speaks of, and can't be asked about a chain that
 * was verified earlier.
 */
#include "userspace/mesh/crl.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define CV_LOG_TARGET "tls::crl"

#include "userspace/base/file.h"
#include "userspace/base/log.h"
#include "userspace/io/filewatch.h"
#include "userspace/limits.h"
#include "userspace/mesh/certs_private.h"

struct crl_set {
	int ref; /* atomic */
	STACK_OF(X509_CRL) * lists;
};

struct cv_crl {
	char *path;
	struct cv_filewatch *watch; /* NULL = its directory can't be watched */
	void (*changed)(void *arg);
	void *arg;
	pthread_mutex_t lock; /* of what follows */
	struct crl_set *set; /* NULL = none has been read yet */
};

/* ---- sets ---- */

static void put_set(struct crl_set **p)
{
	struct crl_set *set = cv_take_ptr(*p);

	if (!set || __atomic_fetch_sub(&set->ref, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	sk_X509_CRL_pop_free(set->lists, X509_CRL_free);
	free(set);
}

static struct crl_set *get_set(struct cv_crl *crl)
{
	struct crl_set *set;

	pthread_mutex_lock(&crl->lock);
	set = crl->set;
	if (set)
		__atomic_fetch_add(&set->ref, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&crl->lock);
	return set;
}

/* ---- parsing ---- */

/* Is it a list that this code understands whole? A delta list or an indirect one is none. */
static bool is_plain(const X509_CRL *list)
{
	ISSUING_DIST_POINT *point;
	bool plain;

	for (int i = 0; i < X509_CRL_get_ext_count(list); i++) {
		X509_EXTENSION *ext = X509_CRL_get_ext(list, i);

		if (X509_EXTENSION_get_critical(ext) &&
		    OBJ_obj2nid(X509_EXTENSION_get_object(ext)) != NID_issuing_distribution_point)
			return false;
	}
	point = X509_CRL_get_ext_d2i(list, NID_issuing_distribution_point, NULL, NULL);
	plain = !point || (point->indirectCRL <= 0 && !point->onlysomereasons);
	ISSUING_DIST_POINT_free(point);
	return plain;
}

static bool add_list(STACK_OF(X509_CRL) * lists, X509_CRL *list, const char **why)
{
	if (!is_plain(list))
		*why = "it holds a delta or indirect list, or one with an unknown critical extension";
	else if (!sk_X509_CRL_push(lists, list))
		*why = "out of memory";
	else
		return true;
	X509_CRL_free(list);
	return false;
}

/* All lists among what there is; other PEM objects are passed over. */
static bool read_pem(STACK_OF(X509_CRL) * lists, BIO *bio, const char **why)
{
	X509_CRL *list;

	while ((list = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)))
		if (!add_list(lists, list, why))
			return false;
	if (ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE)
		return true;
	*why = "a PEM block in it is broken";
	return false;
}

static bool read_der(STACK_OF(X509_CRL) * lists, const char *text, size_t len, const char **why)
{
	const unsigned char *at = (const unsigned char *)text;
	X509_CRL *list = d2i_X509_CRL(NULL, &at, (long)len);

	if (list && at == (const unsigned char *)text + len)
		return add_list(lists, list, why);
	X509_CRL_free(list);
	*why = "it is neither PEM nor one DER list";
	return false;
}

STACK_OF(X509_CRL) * cv_crl_parse(const char *text, size_t len, const char **why)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new_mem_buf(text, (int)len);
	STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
	bool ok = false;

	*why = "out of memory";
	if (bio && lists)
		ok = !len ||
		     (memmem(text, len, "-----BEGIN", 10) ? read_pem(lists, bio, why) :
							    read_der(lists, text, len, why));
	ERR_clear_error();
	if (ok)
		return lists;
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	return NULL;
}

/* ---- the check ---- */

/* Of two authorities of one name, the one whose key the list names, if it names one. */
static bool is_of(const X509_CRL *list, X509 *issuer)
{
	AUTHORITY_KEYID *akid;
	bool same;

	if (X509_NAME_cmp(X509_CRL_get_issuer(list), X509_get_subject_name(issuer)) != 0)
		return false;
	(void)X509_check_purpose(issuer, -1, 0); /* finds its key identifier, for the next */
	akid = X509_CRL_get_ext_d2i(list, NID_authority_key_identifier, NULL, NULL);
	same = !akid || X509_check_akid(issuer, akid) == X509_V_OK;
	AUTHORITY_KEYID_free(akid);
	return same;
}

/* A root's word about what it may sign is nobody's: it is trusted as it is. */
static int check_signature(X509_CRL *list, X509 *issuer, bool is_root)
{
	if (!is_root && !(X509_get_key_usage(issuer) & KU_CRL_SIGN))
		return X509_V_ERR_KEYUSAGE_NO_CRL_SIGN;
	if (X509_CRL_verify(list, X509_get0_pubkey(issuer)) != 1)
		return X509_V_ERR_CRL_SIGNATURE_FAILURE;
	return X509_V_OK;
}

static int check_one(X509_CRL *list, X509 *cert, X509 *issuer, bool root_issues)
{
	X509_REVOKED *entry;
	int r;

	if (!is_of(list, issuer))
		return X509_V_OK;
	r = check_signature(list, issuer, root_issues);
	if (r == X509_V_OK && X509_CRL_get0_by_cert(list, &entry, cert) == 1)
		r = X509_V_ERR_CERT_REVOKED;
	return r;
}

int cv_crl_check(struct cv_crl *crl, STACK_OF(X509) * chain)
{
	_cleanup_(put_set) struct crl_set *set = get_set(crl);
	int n = sk_X509_num(chain), r = X509_V_OK;

	for (int i = 0; set && r == X509_V_OK && i + 1 < n; i++)
		for (int k = 0; r == X509_V_OK && k < sk_X509_CRL_num(set->lists); k++)
			r = check_one(sk_X509_CRL_value(set->lists, k), sk_X509_value(chain, i),
				      sk_X509_value(chain, i + 1), i + 2 == n);
	ERR_clear_error();
	return r;
}

/* ---- the file ---- */

/* 0, or -errno: what was in force stays. */
static int reload(struct cv_crl *crl)
{
	_cleanup_(put_set) struct crl_set *set = calloc(1, sizeof(*set));
	_cleanup_free_ char *text = NULL;
	const char *why = "out of memory";
	struct crl_set *old;
	size_t len;
	int r;

	if (set)
		set->ref = 1;
	r = cv_file_read(crl->path, CV_LIMIT_CRL_BYTES, &text, &len);
	if (r < 0) {
		cv_warn("%s: cannot be read: %s; revocation lists stay as they are", crl->path,
			cv_strerror(-r));
		return r;
	}
	if (set)
		set->lists = cv_crl_parse(text, len, &why);
	if (!set || !set->lists) {
		cv_warn("%s: %s; revocation lists stay as they are", crl->path, why);
		return -EINVAL;
	}
	cv_info("%s: revocation lists: %d", crl->path, sk_X509_CRL_num(set->lists));
	pthread_mutex_lock(&crl->lock);
	old = crl->set;
	crl->set = cv_take_ptr(set);
	pthread_mutex_unlock(&crl->lock);
	put_set(&old);
	return 0;
}

static void on_changed(void *arg)
{
	struct cv_crl *crl = arg;

	if (reload(crl) == 0)
		crl->changed(crl->arg);
}

int cv_crl_start(struct cv_crl **ret, struct cv_worker *control, const char *path,
		 void (*changed)(void *arg), void *arg)
{
	struct cv_crl *crl = calloc(1, sizeof(*crl));
	int r;

	if (!crl)
		return -ENOMEM;
	pthread_mutex_init(&crl->lock, NULL);
	crl->changed = changed;
	crl->arg = arg;
	crl->path = strdup(path);
	if (!crl->path) {
		cv_crl_stop(&crl);
		return -ENOMEM;
	}
	/* Watch first: a change between reading and watching would go unseen. */
	r = cv_filewatch_start(&crl->watch, control, path, on_changed, crl);
	if (r < 0)
		cv_warn("%s: cannot be watched: %s; its changes count after a restart", path,
			cv_strerror(-r));
	(void)reload(crl); /* it has said why; without lists nothing is revoked */
	*ret = crl;
	return 0;
}

void cv_crl_stop(struct cv_crl **p)
{
	struct cv_crl *crl = cv_take_ptr(*p);

	if (!crl)
		return;
	cv_filewatch_stop(&crl->watch);
	put_set(&crl->set);
	pthread_mutex_destroy(&crl->lock);
	free(crl->path);
	free(crl);
}
