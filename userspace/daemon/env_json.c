// SPDX-License-Identifier: Apache-2.0
/*
 * The settings in force as the `config` member of config_dump, under ztunnel's keys; a key whose
 * setting does not exist here has the value that says so. Of ztunnel's, dnsResolverCfg and
 * dnsResolverOpts are left out: they are its resolver library's own. developmentCa is ours.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "maps/abi.h"
#include "userspace/base/cleanup.h"
#include "userspace/daemon/env.h"
#include "userspace/daemon/env_metadata.h"
#include "userspace/limits.h"

static json_t *duration(uint64_t ms)
{
	return json_pack("{s:I, s:I}", "secs", (json_int_t)(ms / 1000), "nanos",
			 (json_int_t)(ms % 1000 * 1000000));
}

static json_t *localhost(const struct cv_env *env, int port)
{
	return json_pack("{s:[b, i]}", "Localhost", env->ipv6, port);
}

static json_t *wildcard(const struct cv_env *env, int port)
{
	return json_sprintf("%s:%d", env->ipv6 ? "[::]" : "0.0.0.0", port);
}

static json_t *string_or_null(const char *text)
{
	return text && *text ? json_string(text) : json_null();
}

static void set_listeners(json_t *j, const struct cv_env *env)
{
	json_object_set_new(j, "adminAddr", localhost(env, env->ports.admin));
	json_object_set_new(j, "statsAddr",
			    json_pack("{s:o}", "SocketAddr", wildcard(env, env->ports.metrics)));
	json_object_set_new(j, "readinessAddr",
			    json_pack("{s:o}", "SocketAddr", wildcard(env, 15021)));
	json_object_set_new(j, "inboundAddr", wildcard(env, CV_PORT_HBONE));
	json_object_set_new(j, "inboundPlaintextAddr", wildcard(env, CV_PORT_INBOUND));
	json_object_set_new(j, "outboundAddr", wildcard(env, CV_PORT_OUTBOUND));
	json_object_set_new(j, "socks5Addr", json_null());
	json_object_set_new(j, "illegalPorts",
			    json_pack("[i, i, i]", CV_PORT_HBONE, CV_PORT_INBOUND,
				      CV_PORT_OUTBOUND));
}

static void set_sockets(json_t *j, const struct cv_env *env)
{
	json_object_set_new(j, "socketConfig",
			    json_pack("{s:o, s:o, s:i, s:b, s:b}", "keepaliveTime",
				      duration(env->keepalive_time_ms), "keepaliveInterval",
				      duration(env->keepalive_interval_ms), "keepaliveRetries",
				      (int)env->keepalive_retries, "keepaliveEnabled",
				      env->sock.keepalive, "userTimeoutEnabled",
				      env->sock.user_timeout));
	json_object_set_new(j, "packetMark", json_integer((json_int_t)env->packet_mark));
	json_object_set_new(j, "requireOriginalSource",
			    env->original_src < 0 ? json_null() : json_boolean(env->original_src));
	json_object_set_new(j, "inpodPortReuse", json_boolean(env->port_reuse));
	json_object_set_new(j, "inpodUds", string_or_null(env->inpod_uds));
	json_object_set_new(j, "localhostAppTunnel", json_boolean(env->localhost_app_tunnel));
	json_object_set_new(j, "ipv6Enabled", json_boolean(env->ipv6));
}

static void set_http2(json_t *j, const struct cv_env *env)
{
	json_object_set_new(j, "windowSize", json_integer(CV_LIMIT_STREAM_WINDOW));
	json_object_set_new(j, "connectionWindowSize", json_integer(CV_LIMIT_CONNECTION_WINDOW));
	json_object_set_new(j, "frameSize", json_integer(CV_LIMIT_FRAME_BYTES));
	json_object_set_new(j, "poolMaxStreamsPerConn",
			    json_integer((json_int_t)env->pool_max_streams));
	json_object_set_new(j, "poolUnusedReleaseTimeout", duration(env->pool_idle_ms));
	json_object_set_new(j, "enableEnhancedBaggage", json_boolean(env->response_baggage));
}

static void set_dns(json_t *j, const struct cv_env *env)
{
	char text[CV_SOCKADDR_TEXT];
	bool both = strncmp(env->dns_proxy_addr, CV_ENV_LOCALHOST, strlen(CV_ENV_LOCALHOST)) == 0;

	json_object_set_new(j, "dnsProxy", json_boolean(env->nr_dns_addrs));
	json_object_set_new(j, "dnsProxyAddr",
			    both ? localhost(env, env->dns_addrs[0].port) :
				   json_pack("{s:s}", "SocketAddr",
					     cv_sockaddr_text(&env->dns_addrs[0], text)));
	json_object_set_new(j, "clusterDomain", json_string(env->cluster_domain));
	json_object_set_new(j, "preferedServiceNamespace", string_or_null(env->preferred_ns));
}

/* The daemon's own pod, where all of it is known. */
static void set_own_pod(json_t *j, const struct cv_env *env)
{
	bool known = env->pod_name && env->pod_namespace && env->service_account;

	json_object_set_new(j, "ztunnelIdentity",
			    known ? json_sprintf("spiffe://%s/ns/%s/sa/%s",
						 env->trust_domain ? env->trust_domain : "",
						 env->pod_namespace, env->service_account) :
				    json_null());
	json_object_set_new(j, "ztunnelWorkload",
			    known ? json_pack("{s:s, s:s, s:s}", "name", env->pod_name, "namespace",
					      env->pod_namespace, "serviceAccount",
					      env->service_account) :
				    json_null());
}

/* The command line behind the program's name, its words with blanks between. */
static json_t *arguments(void)
{
	_cleanup_close_ int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	char text[4096];
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	char *words = n > 0 ? memchr(text, '\0', (size_t)n) : NULL;

	text[n > 0 ? n : 0] = '\0';
	if (!words || words + 1 >= text + n)
		return json_string("");
	for (char *at = ++words; at < text + n - 1; at++)
		if (!*at)
			*at = ' ';
	return json_string(words);
}

/* What is a string of the metadata that istiod is told. */
static json_t *metadata(void)
{
	json_t *all = cv_env_metadata(), *strings = json_object(), *value;
	const char *key;

	json_object_foreach(all, key, value)
		if (json_is_string(value))
			json_object_set(strings, key, value);
	json_decref(all);
	return strings;
}

static void set_who(json_t *j, const struct cv_env *env)
{
	json_object_set_new(j, "network", json_string(env->network ? env->network : ""));
	json_object_set_new(j, "localNode", string_or_null(env->node_name));
	json_object_set_new(j, "clusterId", json_string(env->cluster_id ? env->cluster_id : ""));
	json_object_set_new(j, "proxyMode", json_string("Shared"));
	json_object_set_new(j, "proxyWorkloadInformation", json_null());
	json_object_set_new(j, "proxyArgs", arguments());
	json_object_set_new(j, "proxyMetadata", metadata());
	set_own_pod(j, env);
}

/* Where roots come from: a file, the system, or (not shown) the text itself. */
static json_t *root_cert(const char *root)
{
	if (root && access(root, F_OK) == 0)
		return json_pack("{s:s}", "File", root);
	return json_string(root && !strcmp(root, "SYSTEM") ? "Default" : "Static");
}

static json_t *headers(const struct cv_env_headers *h)
{
	json_t *list = json_array();

	for (size_t i = 0; i < h->n; i++)
		json_array_append_new(list, json_pack("[s, s]", h->list[i].name, h->list[i].value));
	return list;
}

/* Where workloads and certificates come from. */
static void set_sources(json_t *j, const struct cv_env *env)
{
	json_object_set_new(j, "xdsAddress", string_or_null(env->xds_address));
	json_object_set_new(j, "xdsRootCert", root_cert(env->xds_root_ca));
	json_object_set_new(j, "altXdsHostname", string_or_null(env->alt_xds_hostname));
	json_object_set_new(j, "xdsHeaders", headers(&env->xds_headers));
	json_object_set_new(j, "xdsOnDemand", json_boolean(env->xds_on_demand));
	json_object_set_new(j, "caAddress", string_or_null(env->ca_address));
	json_object_set_new(j, "caRootCert", root_cert(env->ca_root_ca));
	json_object_set_new(j, "altCaHostname", string_or_null(env->alt_ca_hostname));
	json_object_set_new(j, "caHeaders", headers(&env->ca_headers));
	json_object_set_new(j, "crlPath", string_or_null(env->crl_path));
	json_object_set_new(j, "developmentCa", string_or_null(env->dev_ca));
	json_object_set_new(j, "secretTtl", duration(env->secret_ttl_ms));
}

json_t *cv_env_json(const struct cv_env *env)
{
	json_t *j = json_object();

	json_object_set_new(j, "proxy", json_true());
	json_object_set_new(j, "fakeCa", json_false());
	json_object_set_new(j, "fakeSelfInbound", json_false());
	json_object_set_new(j, "numWorkerThreads", json_integer(env->nr_workers));
	json_object_set_new(j, "selfTerminationDeadline", duration(env->termination_deadline_ms));
	set_sources(j, env);
	set_who(j, env);
	set_listeners(j, env);
	set_sockets(j, env);
	set_http2(j, env);
	set_dns(j, env);
	return j;
}
