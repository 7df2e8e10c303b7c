/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The development CA: a root in a directory, shared by every node that is given the directory.
 *
 *	DIR/              0700
 *	DIR/.lock         held while the files are looked at or made
 *	DIR/root-key.pem  0600, published first, by rename
 *	DIR/root-cert.pem published last: when it is there, the key is, too
 *
 * A daemon that dies between the two leaves a key without a certificate; the next one makes the
 * certificate for that key. Signing happens at once, on the control thread.
 */
#include "userspace/mesh/certs.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "userspace/base/log.h"
#include "userspace/mesh/certs_private.h"

#define KEY_FILE  "root-key.pem"
#define CERT_FILE "root-cert.pem"

enum {
	ROOT_YEARS = 10,
	BACKDATE_S = 60, /* clocks of nodes differ */
	DEFAULT_TTL_S = 86400, /* of a request that leaves it to us */
	MAX_PEM = 65536,
	ERROR_TEXT = 256,
};

struct devca {
	EVP_PKEY *key;
	X509 *root;
	char *root_pem;
};

static void free_devca(void *ctx)
{
	struct devca *ca = ctx;

	if (!ca)
		return;
	EVP_PKEY_free(ca->key);
	X509_free(ca->root);
	free(ca->root_pem);
	free(ca);
}

static void free_devca_cleanup(struct devca **ca)
{
	free_devca(*ca);
	*ca = NULL;
}

static int fail(int r, char *error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fail(int r, char *error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, ERROR_TEXT, fmt, ap);
	va_end(ap);
	ERR_clear_error();
	return r;
}

/* ---- making certificates ---- */

static bool add_extension(X509 *cert, X509V3_CTX *ctx, int nid, const char *value)
{
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
	bool ok = ext && X509_add_ext(cert, ext, -1);

	X509_EXTENSION_free(ext);
	return ok;
}

static bool set_random_serial(X509 *cert)
{
	BIGNUM *bn = BN_new();
	bool ok = bn && BN_rand(bn, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
		  BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert));

	BN_free(bn);
	return ok;
}

static X509 *make_root(EVP_PKEY *key)
{
	_cleanup_(cv_free_x509) X509 *cert = X509_new();
	X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;
	X509V3_CTX ctx;

	if (!cert)
		return NULL;
	X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
	if (!X509_set_version(cert, X509_VERSION_3) || !set_random_serial(cert) ||
	    !X509_gmtime_adj(X509_getm_notBefore(cert), -BACKDATE_S) ||
	    !X509_time_adj_ex(X509_getm_notAfter(cert), ROOT_YEARS * 365, 0, NULL) ||
	    !X509_NAME_add_entry_by_NID(name, NID_organizationName, MBSTRING_UTF8,
					(const unsigned char *)"culvert development CA", -1, -1,
					0) ||
	    !X509_set_issuer_name(cert, name) || !X509_set_pubkey(cert, key) ||
	    !add_extension(cert, &ctx, NID_basic_constraints, "critical,CA:TRUE") ||
	    !add_extension(cert, &ctx, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !add_extension(cert, &ctx, NID_subject_key_identifier, "hash") ||
	    !X509_sign(cert, key, EVP_sha256()))
		return NULL;
	return cv_take_ptr(cert);
}

static bool add_san(X509 *cert, const struct cv_identity *id)
{
	X509_EXTENSION *ext = cv_san_extension(id);
	bool ok = ext && X509_add_ext(cert, ext, -1);

	X509_EXTENSION_free(ext);
	return ok;
}

static X509 *make_leaf(const struct devca *ca, EVP_PKEY *key, const struct cv_identity *id,
		       unsigned ttl_s)
{
	_cleanup_(cv_free_x509) X509 *cert = X509_new();
	X509V3_CTX ctx;

	if (!cert)
		return NULL;
	X509V3_set_ctx(&ctx, ca->root, cert, NULL, NULL, 0);
	if (!X509_set_version(cert, X509_VERSION_3) || !set_random_serial(cert) ||
	    !X509_gmtime_adj(X509_getm_notBefore(cert), -BACKDATE_S) ||
	    !X509_gmtime_adj(X509_getm_notAfter(cert), ttl_s ? (long)ttl_s : DEFAULT_TTL_S) ||
	    !X509_set_issuer_name(cert, X509_get_subject_name(ca->root)) ||
	    !X509_set_pubkey(cert, key) || !add_san(cert, id) ||
	    !add_extension(cert, &ctx, NID_basic_constraints, "critical,CA:FALSE") ||
	    !add_extension(cert, &ctx, NID_key_usage, "critical,digitalSignature") ||
	    !add_extension(cert, &ctx, NID_ext_key_usage, "serverAuth,clientAuth") ||
	    !add_extension(cert, &ctx, NID_authority_key_identifier, "keyid:always") ||
	    !X509_sign(cert, ca->key, EVP_sha256()))
		return NULL;
	return cv_take_ptr(cert);
}

static char *pem_of(X509 *cert)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new(BIO_s_mem());

	return bio && PEM_write_bio_X509(bio, cert) ? cv_bio_text(bio) : NULL;
}

static void sign_csr(void *ctx, const struct cv_ca_request *request)
{
	const struct devca *ca = ctx;
	_cleanup_(cv_free_bio) BIO *bio = BIO_new_mem_buf(request->csr_pem, -1);
	_cleanup_(cv_free_x509_req)
		X509_REQ *req = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;
	EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;
	_cleanup_(cv_free_x509) X509 *leaf = NULL;
	struct cv_ca_answer answer = { .error = "the development CA cannot sign the request" };
	_cleanup_free_ char *pem = NULL;
	char *chain[2];

	if (key && X509_REQ_verify(req, key) > 0)
		leaf = make_leaf(ca, key, request->id, request->ttl_s);
	if (leaf)
		pem = pem_of(leaf);
	ERR_clear_error();
	chain[0] = pem;
	chain[1] = ca->root_pem;
	if (pem)
		answer = (struct cv_ca_answer){ .chain = chain, .nr_chain = 2 };
	request->done(request->arg, &answer);
}

/* ---- the directory ---- */

/* Ours, and nobody else may do anything with it. */
static int check_private(int fd, const char *path, mode_t type, char *error)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fail(-errno, error, "%s: %m", path);
	if ((st.st_mode & S_IFMT) != type)
		return fail(-EACCES, error, "%s: is not a %s", path,
			    type == S_IFDIR ? "directory" : "regular file");
	if (st.st_uid != geteuid())
		return fail(-EACCES, error, "%s: belongs to another user", path);
	if (st.st_mode & 077)
		return fail(-EACCES, error, "%s: mode %04o lets others in, must be %04o", path,
			    st.st_mode & 07777, type == S_IFDIR ? 0700 : 0600);
	return 0;
}

static int open_directory(const char *dir, char *error)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fail(-errno, error, "%s: cannot be made: %m", dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(-errno, error, "%s: %m", dir);
	r = check_private(fd, dir, S_IFDIR, error);
	return r < 0 ? r : cv_take_fd(fd);
}

static int lock_directory(int dirfd, char *error)
{
	_cleanup_close_ int fd =
		openat(dirfd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return fail(-errno, error, ".lock: %m");
	return cv_take_fd(fd);
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

/* The file appears under its name whole and on disk, or not at all. */
static int publish(int dirfd, const char *name, const char *text, mode_t mode, char *error)
{
	char tmp[64];
	_cleanup_close_ int fd = -1;
	int r;

	snprintf(tmp, sizeof(tmp), ".%s.new", name);
	if (unlinkat(dirfd, tmp, 0) < 0 && errno != ENOENT)
		return fail(-errno, error, "%s: %m", tmp);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return fail(-errno, error, "%s: %m", tmp);
	r = write_all(fd, text, strlen(text));
	if (r == 0 && (renameat(dirfd, tmp, dirfd, name) < 0 || fsync(dirfd) < 0))
		r = -errno;
	if (r < 0) {
		unlinkat(dirfd, tmp, 0);
		return fail(r, error, "%s: cannot be written: %s", name, cv_strerror(-r));
	}
	return 0;
}

/* 0 and the text in a memory BIO, -ENOENT without a message, or an error. */
static int read_file(int dirfd, const char *name, bool private, BIO **ret, char *error)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[MAX_PEM];
	ssize_t n;
	int r = 0;

	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0)
		return fail(-errno, error, "%s: %m", name);
	if (private)
		r = check_private(fd, name, S_IFREG, error);
	if (r < 0)
		return r;
	n = read(fd, text, sizeof(text));
	if (n < 0)
		return fail(-errno, error, "%s: %m", name);
	*ret = BIO_new(BIO_s_mem());
	if (*ret && n)
		BIO_write(*ret, text, (int)n);
	explicit_bzero(text, sizeof(text));
	return *ret ? 0 : fail(-ENOMEM, error, "out of memory");
}

static int load_key(struct devca *ca, int dirfd, char *error)
{
	_cleanup_(cv_free_bio) BIO *bio = NULL;
	int r = read_file(dirfd, KEY_FILE, true, &bio, error);

	if (r < 0)
		return r;
	ca->key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	return ca->key ? 0 : fail(-EINVAL, error, KEY_FILE ": is no private key in PEM");
}

static int load_root(struct devca *ca, int dirfd, char *error)
{
	_cleanup_(cv_free_bio) BIO *bio = NULL;
	int r = read_file(dirfd, CERT_FILE, false, &bio, error);

	if (r < 0)
		return r;
	ca->root = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	if (!ca->root)
		return fail(-EINVAL, error, CERT_FILE ": is no certificate in PEM");
	if (!X509_check_private_key(ca->root, ca->key))
		return fail(-EINVAL, error, CERT_FILE ": is not for " KEY_FILE);
	if (X509_cmp_current_time(X509_get0_notAfter(ca->root)) <= 0)
		return fail(-EINVAL, error, CERT_FILE ": has expired");
	return 0;
}

static int create_key(struct devca *ca, int dirfd, char *error)
{
	_cleanup_(cv_free_bio) BIO *bio = BIO_new(BIO_s_secmem());
	char *text;
	int r;

	ca->key = cv_key_new();
	if (!bio || !ca->key ||
	    !PEM_write_bio_PKCS8PrivateKey(bio, ca->key, NULL, NULL, 0, NULL, NULL))
		return fail(-ENOMEM, error, "no root key could be made");
	text = cv_bio_text(bio);
	if (!text)
		return fail(-ENOMEM, error, "out of memory");
	r = publish(dirfd, KEY_FILE, text, 0600, error);
	explicit_bzero(text, strlen(text));
	free(text);
	return r;
}

static int create_root(struct devca *ca, int dirfd, char *error)
{
	_cleanup_free_ char *text = NULL;

	ca->root = make_root(ca->key);
	if (ca->root)
		text = pem_of(ca->root);
	if (!text)
		return fail(-ENOMEM, error, "no root certificate could be made");
	return publish(dirfd, CERT_FILE, text, 0644, error);
}

/* Under the directory's lock. */
static int load_or_create(struct devca *ca, int dirfd, char *error)
{
	int r = load_key(ca, dirfd, error);

	if (r == -ENOENT) {
		if (faccessat(dirfd, CERT_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return fail(-ENOENT, error, CERT_FILE " is there, but no " KEY_FILE);
		r = create_key(ca, dirfd, error);
	}
	if (r == 0) {
		r = load_root(ca, dirfd, error);
		if (r == -ENOENT)
			r = create_root(ca, dirfd, error);
	}
	return r;
}

int cv_devca_open(struct cv_ca *ret, const char *dir, char error[256])
{
	_cleanup_(free_devca_cleanup) struct devca *ca = calloc(1, sizeof(*ca));
	_cleanup_close_ int dirfd = -1, lock = -1;
	int r;

	if (!ca)
		return fail(-ENOMEM, error, "out of memory");
	dirfd = open_directory(dir, error);
	if (dirfd < 0)
		return dirfd;
	lock = lock_directory(dirfd, error);
	if (lock < 0)
		return lock;
	r = load_or_create(ca, dirfd, error);
	if (r < 0)
		return r;
	ca->root_pem = pem_of(ca->root);
	if (!ca->root_pem)
		return fail(-ENOMEM, error, "out of memory");
	*ret = (struct cv_ca){ .ctx = cv_take_ptr(ca), .sign = sign_csr, .free = free_devca };
	return 0;
}
