/* SPDX-License-Identifier: Apache-2.0 */
/* config_dump: objects of the local file come out as ztunnel's JSON, compared whole with texts that
 * were written by hand; certificates have the fields that istioctl decodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <urcu.h>

#include "userspace/base/cleanup.h"
#include "userspace/mesh/local_file.h"
#include "userspace/telemetry/dump.h"
#include "userspace/telemetry/telemetry.h"

static const char mesh[] =
	"workloads:\n"
	"- uid: c1//Pod/shop/web-0\n"
	"  name: web-0\n"
	"  namespace: shop\n"
	"  workloadIps: [\"10.7.0.9\"]\n"
	"  services: {}\n"
	"- uid: c1//Pod/shop/cart-0\n"
	"  name: cart-0\n"
	"  namespace: shop\n"
	"  serviceAccount: cart\n"
	"  trustDomain: cluster.local\n"
	"  network: net1\n"
	"  workloadIps: [\"10.7.0.4\", \"2001:db8::4\"]\n"
	"  workloadName: cart\n"
	"  workloadType: pod\n"
	"  canonicalName: cart\n"
	"  canonicalRevision: v1\n"
	"  hostname: cart-0.example\n"
	"  node: worker-a\n"
	"  protocol: HBONE\n"
	"  networkMode: HostNetwork\n"
	"  nativeTunnel: true\n"
	"  applicationTunnel: {protocol: PROXY}\n"
	"  waypoint: {destination: \"net1/10.0.0.1\", hboneMtlsPort: 15008}\n"
	"  networkGateway: {destination: \"shop/gw.shop.svc\", hboneMtlsPort: 15009}\n"
	"  authorizationPolicies: [shop/only-web]\n"
	"  status: Unhealthy\n"
	"  clusterId: Kubernetes\n"
	"  locality: {region: eu, zone: eu-1, subzone: \"\"}\n"
	"  capacity: 3\n"
	"  services: {\"shop/cart.shop.svc\": {80: 8080}, \"shop/later.shop.svc\": {1: 2}}\n"
	"services:\n"
	"- name: cart\n"
	"  namespace: shop\n"
	"  hostname: cart.shop.svc\n"
	"  vips: [\"net1/10.96.3.3\", \"/2001:db8::3\"]\n"
	"  ports: {80: 8080, 443: 8443}\n"
	"  cidrVips: [{network: net1, cidr: 10.97.0.0/16}]\n"
	"  subjectAltNames: [\"spiffe://cluster.local/ns/shop/sa/cart\"]\n"
	"  waypoint: {destination: \"shop/wp.shop.svc\", hboneMtlsPort: 15008}\n"
	"  loadBalancer: {routingPreferences: [Region, Node], mode: Failover, "
	"healthPolicy: AllowAll}\n"
	"  ipFamilies: Dual\n"
	"  canonical: true\n"
	"  visibility: Namespace\n"
	"- name: a\n"
	"  namespace: zoo\n"
	"  hostname: a.zoo.svc\n"
	"  vips: []\n"
	"  ports: {}\n"
	"policies:\n"
	"- name: only-web\n"
	"  namespace: shop\n"
	"  scope: WorkloadSelector\n"
	"  action: Allow\n"
	"  dryRun: false\n"
	"  rules:\n"
	"  - - - namespaces: [!Exact a, !Prefix b, !Suffix c, !Presence []]\n"
	"        notPrincipals: [!Exact cluster.local/ns/x/sa/y]\n"
	"        serviceAccounts: [{namespace: shop, serviceAccount: web}]\n"
	"        sourceIps: [\"10.0.0.0/8\"]\n"
	"        notDestinationIps: [\"2001:db8::/32\"]\n"
	"    - - destinationPorts: [8080]\n"
	"        notDestinationPorts: [22]\n"
	"- name: deny-all\n"
	"  namespace: istio-system\n"
	"  scope: Global\n"
	"  action: Deny\n"
	"  dryRun: true\n"
	"  rules: []\n";

static const char workloads[] =
	"[{\"uid\":\"c1//Pod/shop/cart-0\",\"name\":\"cart-0\",\"namespace\":\"shop\","
	"\"serviceAccount\":\"cart\",\"trustDomain\":\"cluster.local\",\"network\":\"net1\","
	"\"workloadIps\":[\"10.7.0.4\",\"2001:db8::4\"],\"workloadName\":\"cart\","
	"\"workloadType\":\"pod\",\"canonicalName\":\"cart\",\"canonicalRevision\":\"v1\","
	"\"hostname\":\"cart-0.example\",\"node\":\"worker-a\",\"protocol\":\"HBONE\","
	"\"networkMode\":\"HostNetwork\",\"nativeTunnel\":true,"
	"\"applicationTunnel\":{\"protocol\":\"PROXY\",\"port\":null},"
	"\"waypoint\":{\"destination\":\"net1/10.0.0.1\",\"hboneMtlsPort\":15008},"
	"\"networkGateway\":{\"destination\":\"shop/gw.shop.svc\",\"hboneMtlsPort\":15009},"
	"\"authorizationPolicies\":[\"shop/only-web\"],\"status\":\"Unhealthy\","
	"\"clusterId\":\"Kubernetes\",\"locality\":{\"region\":\"eu\",\"zone\":\"eu-1\","
	"\"subzone\":\"\"},\"capacity\":3,"
	"\"services\":[\"shop/cart.shop.svc\",\"shop/later.shop.svc\"]},"
	"{\"uid\":\"c1//Pod/shop/web-0\",\"name\":\"web-0\",\"namespace\":\"shop\","
	"\"workloadIps\":[\"10.7.0.9\"],\"protocol\":\"TCP\",\"networkMode\":\"Standard\","
	"\"status\":\"Healthy\",\"clusterId\":\"\",\"capacity\":1}]";

static const char services[] =
	"[{\"name\":\"a\",\"namespace\":\"zoo\",\"hostname\":\"a.zoo.svc\",\"vips\":[],"
	"\"ports\":{},\"endpoints\":{},\"subjectAltNames\":[],\"canonical\":false,"
	"\"visibility\":\"Public\"},"
	"{\"name\":\"cart\",\"namespace\":\"shop\",\"hostname\":\"cart.shop.svc\","
	"\"vips\":[\"net1/10.96.3.3\",\"/2001:db8::3\"],\"ports\":{\"80\":8080,\"443\":8443},"
	"\"cidrVips\":[{\"network\":\"net1\",\"cidr\":\"10.97.0.0/16\"}],"
	"\"subjectAltNames\":[\"spiffe://cluster.local/ns/shop/sa/cart\"],"
	"\"waypoint\":{\"destination\":\"shop/wp.shop.svc\",\"hboneMtlsPort\":15008},"
	"\"loadBalancer\":{\"routingPreferences\":[\"Region\",\"Node\"],\"mode\":\"Failover\","
	"\"healthPolicy\":\"AllowAll\"},\"ipFamilies\":\"Dual\",\"canonical\":true,"
	"\"visibility\":\"Namespace\",\"endpoints\":{\"c1//Pod/shop/cart-0\":{"
	"\"workloadUid\":\"c1//Pod/shop/cart-0\",\"port\":{\"80\":8080},"
	"\"status\":\"Unhealthy\"}}}]";

static const char staged[] =
	"{\"shop/later.shop.svc\":{\"c1//Pod/shop/cart-0\":{\"workloadUid\":"
	"\"c1//Pod/shop/cart-0\",\"port\":{\"1\":2},\"status\":\"Unhealthy\"}}}";

static const char policies[] =
	"[{\"name\":\"deny-all\",\"namespace\":\"istio-system\",\"scope\":\"Global\","
	"\"action\":\"Deny\",\"dryRun\":true,\"rules\":[]},"
	"{\"name\":\"only-web\",\"namespace\":\"shop\",\"scope\":\"WorkloadSelector\","
	"\"action\":\"Allow\",\"dryRun\":false,\"rules\":[[[{\"namespaces\":[{\"Exact\":\"a\"},"
	"{\"Prefix\":\"b\"},{\"Suffix\":\"c\"},{\"Presence\":[]}],"
	"\"notPrincipals\":[{\"Exact\":\"cluster.local/ns/x/sa/y\"}],"
	"\"serviceAccounts\":[{\"namespace\":\"shop\",\"serviceAccount\":\"web\"}],"
	"\"sourceIps\":[\"10.0.0.0/8\"],\"notDestinationIps\":[\"2001:db8::/32\"]}],"
	"[{\"destinationPorts\":[8080],\"notDestinationPorts\":[22]}]]]}]";

static struct cv_store *store;

static int setup(void **state)
{
	const struct cv_store_opts opts = { .network = "net1", .node = "worker-a" };
	char error[512] = "";

	(void)state;
	if (cv_store_new(&store, &opts) < 0)
		return -1;
	if (cv_local_inline(store, mesh, error, sizeof(error)) < 0) {
		print_error("%s\n", error);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_store_free(&store);
	return 0;
}

/* Same value, and the same order of an array's objects. */
static void assert_json(json_t *actual, const char *expected)
{
	json_t *value = json_loads(expected, 0, NULL);
	_cleanup_free_ char *text = json_dumps(actual, JSON_SORT_KEYS | JSON_INDENT(1));

	assert_non_null(value);
	if (!json_equal(actual, value)) {
		_cleanup_free_ char *wanted = json_dumps(value, JSON_SORT_KEYS | JSON_INDENT(1));

		fail_msg("expected:\n%s\ngot:\n%s", wanted, text);
	}
	json_decref(actual);
	json_decref(value);
}

static void test_workloads(void **state)
{
	(void)state;
	assert_json(cv_dump_workloads(store), workloads);
}

static void test_services(void **state)
{
	(void)state;
	assert_json(cv_dump_services(store), services);
}

static void test_staged(void **state)
{
	(void)state;
	assert_json(cv_dump_staged_services(store), staged);
}

static void test_policies(void **state)
{
	(void)state;
	assert_json(cv_dump_policies(store), policies);
}

/* The file's own order and shape: services of a workload with their ports, and no endpoint that the
 * file does not give the service itself. */
static void test_static_config(void **state)
{
	struct cv_mesh_file file;
	json_t *config, *first, *second;
	char error[256];

	(void)state;
	assert_int_equal(
		cv_mesh_file_parse("mesh", mesh, strlen(mesh), &file, error, sizeof(error)), 0);
	config = cv_dump_static_config(&file);
	first = json_array_get(json_object_get(config, "workloads"), 0);
	second = json_array_get(json_object_get(config, "workloads"), 1);
	assert_string_equal(json_string_value(json_object_get(first, "name")), "web-0");
	assert_json(json_incref(json_object_get(first, "services")), "{}");
	assert_json(json_incref(json_object_get(second, "services")),
		    "{\"shop/cart.shop.svc\":{\"80\":8080},\"shop/later.shop.svc\":{\"1\":2}}");
	first = json_array_get(json_object_get(config, "services"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "hostname")), "cart.shop.svc");
	assert_json(json_incref(json_object_get(first, "endpoints")), "{}");
	assert_int_equal(json_array_size(json_object_get(config, "policies")), file.nr_policies);
	json_decref(config);
	cv_mesh_file_fini(&file);
}

/* --- certificates --- */

static X509 *make_cert(EVP_PKEY *key)
{
	X509 *cert = X509_new();
	ASN1_TIME *at = ASN1_TIME_new();
	BIGNUM *serial = NULL;

	BN_dec2bn(&serial, "340282366920938463463374607431768211456"); /* 2^128 */
	BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(cert));
	BN_free(serial);
	ASN1_TIME_set_string_X509(at, "20260102030405Z");
	X509_set1_notBefore(cert, at);
	ASN1_TIME_set_string_X509(at, "20270102030405Z");
	X509_set1_notAfter(cert, at);
	ASN1_TIME_free(at);
	X509_set_pubkey(cert, key);
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	return cert;
}

static void test_certificate(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = make_cert(key), *decoded;
	json_t *o = cv_dump_x509(cert);
	const char *base64 = json_string_value(json_object_get(o, "pem"));
	unsigned char pem[4096];
	BIO *bio;
	int n;

	(void)state;
	assert_string_equal(json_string_value(json_object_get(o, "serialNumber")),
			    "340282366920938463463374607431768211456");
	assert_string_equal(json_string_value(json_object_get(o, "validFrom")),
			    "2026-01-02T03:04:05Z");
	assert_string_equal(json_string_value(json_object_get(o, "expirationTime")),
			    "2027-01-02T03:04:05Z");
	/* base64 of PEM text, from which the same certificate can be read. */
	n = EVP_DecodeBlock(pem, (const unsigned char *)base64, (int)strlen(base64));
	assert_true(n > 0);
	bio = BIO_new_mem_buf(pem, n);
	decoded = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	assert_non_null(decoded);
	assert_int_equal(X509_cmp(cert, decoded), 0);
	BIO_free(bio);
	X509_free(decoded);
	X509_free(cert);
	EVP_PKEY_free(key);
	json_decref(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_workloads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_services, setup, teardown),
		cmocka_unit_test_setup_teardown(test_staged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policies, setup, teardown),
		cmocka_unit_test(test_static_config),
		cmocka_unit_test(test_certificate),
	};
	int r;

	rcu_register_thread();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_unregister_thread();
	return r;
}
