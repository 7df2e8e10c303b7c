// SPDX-License-Identifier: Apache-2.0
/* config_dump: certificates and the version, in ztunnel's JSON. Private keys never come here. */
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <time.h>

#include "userspace/base/cleanup.h"
#include "userspace/telemetry/dump.h"
#include "userspace/telemetry/telemetry.h"

static json_t *serial_number(X509 *cert)
{
	BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
	char *text = bn ? BN_bn2dec(bn) : NULL;
	json_t *s = json_string(text ? text : "");

	OPENSSL_free(text);
	BN_free(bn);
	return s;
}

static json_t *rfc3339(const ASN1_TIME *at)
{
	char text[32];
	struct tm tm;

	if (!ASN1_TIME_to_tm(at, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		return json_string("");
	return json_string(text);
}

/* The PEM text, in base64 once more: what a Go []byte decodes. */
static json_t *base64_of_pem(X509 *cert)
{
	BIO *bio = BIO_new(BIO_s_mem());
	json_t *s = NULL;
	char *pem;
	long len;

	if (bio && PEM_write_bio_X509(bio, cert)) {
		len = BIO_get_mem_data(bio, &pem);
		_cleanup_free_ unsigned char *text = malloc(4 * ((len + 2) / 3) + 1);

		if (text)
			EVP_EncodeBlock(text, (unsigned char *)pem, (int)len);
		s = json_string(text ? (char *)text : "");
	}
	BIO_free(bio);
	return s ? s : json_string("");
}

json_t *cv_dump_x509(X509 *cert)
{
	return json_pack("{s:o s:o s:o s:o}", "pem", base64_of_pem(cert), "serialNumber",
			 serial_number(cert), "validFrom", rfc3339(X509_get0_notBefore(cert)),
			 "expirationTime", rfc3339(X509_get0_notAfter(cert)));
}

static void append_certs(json_t *array, const STACK_OF(X509) * certs)
{
	for (int i = 0; i < sk_X509_num(certs); i++)
		json_array_append_new(array, cv_dump_x509(sk_X509_value(certs, i)));
}

static int append_identity(const struct cv_identity *id, const char *state,
			   const struct cv_cert *cert, void *arg)
{
	json_t *chain = json_array(), *roots = json_array();
	char text[CV_IDENTITY_TEXT];

	if (cert) {
		json_array_append_new(chain, cv_dump_x509(cert->leaf));
		append_certs(chain, cert->chain);
		append_certs(roots, cert->trust->roots);
	}
	json_array_append_new(arg,
			      json_pack("{s:s s:s s:o s:o}", "identity", cv_identity_text(id, text),
					"state", state, "certChain", chain, "rootCerts", roots));
	return 0;
}

json_t *cv_dump_certificates(struct cv_certs *c)
{
	static const char *const keys[] = { "identity", NULL };
	json_t *array = json_array();

	cv_certs_each(c, append_identity, array);
	cv_dump_sort(array, keys);
	return array;
}

/* rustVersion is a key that readers know; it names the compiler. */
json_t *cv_dump_version(const char *istio_version)
{
	return json_pack("{s:s s:s s:s s:s s:s s:s s:s}", "version", CULVERT_VERSION, "gitRevision",
			 "unknown", "rustVersion", __VERSION__, "buildProfile", "release",
			 "buildStatus", "unknown", "istioVersion",
			 istio_version ? istio_version : "unknown", "cryptoProvider",
			 OpenSSL_version(OPENSSL_VERSION));
}
