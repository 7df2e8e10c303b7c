/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of what the daemon knows: settings, telemetry, certificates, and the store with the
 * source that feeds it.
 */
#include "userspace/daemon/stages.h"

#include <errno.h>

#define CV_LOG_TARGET "main"

#include "userspace/base/log.h"
#include "userspace/daemon/env_metadata.h"
#include "userspace/daemon/wiring.h"
#include "userspace/mesh/istio_ca.h"

/* The file is optional: one that is missing means the defaults, until it is made. */
int cv_start_settings(struct cv_daemon *d)
{
	const char *path = d->env.config_path;
	char error[512];
	int r;

	cv_settings_init(&d->settings);
	r = cv_settings_read(path, &d->settings, error, sizeof(error));
	if (r < 0 && r != -ENOENT) {
		cv_error("%s", error);
		return r;
	}
	r = cv_settings_watch(&d->settings_watch, d->control, path, &d->settings,
			      cv_on_settings_changed, d);
	if (r == -ENOENT) {
		cv_debug("%s: no such directory; the defaults stay", path);
		return 0;
	}
	return r;
}

void cv_stop_settings(struct cv_daemon *d)
{
	cv_settings_unwatch(&d->settings_watch);
	cv_settings_fini(&d->settings);
}

int cv_start_telemetry(struct cv_daemon *d)
{
	const struct cv_telemetry_opts opts = {
		.istio_version = d->env.istio_version,
		.max_series = d->settings.max_series,
	};
	int r = cv_telemetry_new(&d->telemetry, &opts);

	if (r < 0)
		return r;
	cv_ready_add(d->telemetry, "state manager");
	cv_ready_add(d->telemetry, "proxy");
	cv_ready_add(d->telemetry, "workload proxy manager");
	return 0;
}

void cv_stop_telemetry(struct cv_daemon *d)
{
	cv_telemetry_free(&d->telemetry);
}

static int open_istio_ca(struct cv_daemon *d, struct cv_ca *ret)
{
	const struct cv_channel_opts opts = {
		.control = d->control,
		.address = d->env.ca_address,
		.alt_hostname = d->env.alt_ca_hostname,
		.root_ca = d->env.ca_root_ca,
		.auth_token = d->env.auth_token,
		.cluster_id = d->env.cluster_id,
		.headers = d->env.ca_headers.list,
		.nr_headers = d->env.ca_headers.n,
		.tls12 = d->env.tls12,
	};
	struct cv_channel *channel;
	char error[256];
	int r = cv_channel_new(&channel, &opts, error, sizeof(error));

	if (r < 0) {
		cv_error("CA_ADDRESS: %s", error);
		return r;
	}
	cv_info("certificates come from %s", d->env.ca_address);
	return cv_istio_ca_open(ret, channel);
}

static int open_devca(struct cv_daemon *d, struct cv_ca *ret)
{
	char error[256];
	int r = cv_devca_open(ret, d->env.dev_ca, error);

	if (r < 0) {
		cv_error("CULVERT_DEV_CA: %s", error);
		return r;
	}
	cv_warn("certificates come from the development CA in %s: not for production",
		d->env.dev_ca);
	return 0;
}

int cv_start_certs(struct cv_daemon *d)
{
	struct cv_certs_opts opts = {
		.control = d->control,
		.ttl_s = (unsigned)(d->env.secret_ttl_ms / 1000),
		.tls12 = d->env.tls12,
	};
	int r = d->env.dev_ca ? open_devca(d, &opts.ca) : open_istio_ca(d, &opts.ca);

	if (r == 0 && d->env.crl_path)
		r = cv_crl_start(&d->crl, d->control, d->env.crl_path, cv_on_revocations_changed,
				 d);
	opts.crl = d->crl;
	return r < 0 ? r : cv_certs_new(&d->certs, &opts);
}

void cv_stop_certs(struct cv_daemon *d)
{
	cv_certs_free(&d->certs);
	cv_crl_stop(&d->crl);
}

int cv_start_store(struct cv_daemon *d)
{
	const struct cv_store_opts opts = {
		.network = d->env.network ? d->env.network : "",
		.node = d->env.node_name,
	};
	int r = cv_store_new(&d->store, &opts);

	if (r == 0)
		cv_store_subscribe(d->store, cv_on_store_changed, d);
	return r;
}

void cv_stop_store(struct cv_daemon *d)
{
	cv_store_free(&d->store);
}

static int start_file(struct cv_daemon *d)
{
	char error[512];
	int r;

	if (!d->env.local_xds && !d->env.local_xds_path)
		return 0;
	if (d->env.local_xds)
		r = cv_local_inline(d->store, d->env.local_xds, error, sizeof(error));
	else
		r = cv_local_file_start(&d->file, d->control, d->store, d->env.local_xds_path,
					error, sizeof(error));
	if (r < 0)
		cv_error("%s", error);
	return r;
}

static void on_xds_warm(void *arg)
{
	cv_on_warm(arg);
}

static int start_xds(struct cv_daemon *d)
{
	const struct cv_channel_opts channel = {
		.control = d->control,
		.address = d->env.xds_address,
		.alt_hostname = d->env.alt_xds_hostname,
		.root_ca = d->env.xds_root_ca,
		.auth_token = d->env.auth_token,
		.cluster_id = d->env.cluster_id,
		.headers = d->env.xds_headers.list,
		.nr_headers = d->env.xds_headers.n,
		.tls12 = d->env.tls12,
	};
	json_t *metadata = cv_env_metadata();
	const struct cv_xds_opts opts = {
		.control = d->control,
		.store = d->store,
		.channel = &channel,
		.instance_ip = d->env.instance_ip,
		.pod_name = d->env.pod_name,
		.pod_namespace = d->env.pod_namespace,
		.node_name = d->env.node_name,
		.metadata = metadata,
		.on_demand = d->env.xds_on_demand,
		.on_warm = on_xds_warm,
		.arg = d,
	};
	char error[512];
	int r = cv_xds_start(&d->xds, &opts, error, sizeof(error));

	json_decref(metadata);
	if (r < 0)
		cv_error("XDS_ADDRESS: %s", error);
	else
		cv_info("workloads come from %s", d->env.xds_address);
	return r;
}

/* Before the kernel is touched: a bad file at start must leave nothing behind. The first whole state
 * of the control plane is waited for by who lets in, not here. */
int cv_start_source(struct cv_daemon *d)
{
	int r = start_file(d);

	if (r == 0 && d->env.xds_address)
		r = start_xds(d);
	else if (r == 0)
		cv_on_warm(d);
	return r;
}

void cv_stop_source(struct cv_daemon *d)
{
	cv_xds_stop(&d->xds);
	cv_local_file_stop(&d->file);
}
