/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stages of the daemon's start, called by the table in daemon.c alone. A start returns 0 or
 * -errno and has logged what to do where the name of the stage does not say it; a stop tolerates
 * what was never started.
 */
#pragma once

#include "userspace/daemon/daemon.h"

/* stages_run.c */
int cv_start_control(struct cv_daemon *d);
void cv_stop_control(struct cv_daemon *d);
int cv_start_workers(struct cv_daemon *d);
void cv_stop_workers(struct cv_daemon *d);
int cv_start_batch(struct cv_daemon *d);
/* Gives the calling thread its former priority back for the drain, which has to be over before the node's patience is;
 * best effort: without CAP_SYS_NICE only the policy goes back. */
void cv_end_batch(struct cv_daemon *d);
int cv_start_signals(struct cv_daemon *d);
void cv_stop_signals(struct cv_daemon *d);
int cv_start_trim(struct cv_daemon *d);
void cv_stop_trim(struct cv_daemon *d);

/* stages_mesh.c */
int cv_start_settings(struct cv_daemon *d);
void cv_stop_settings(struct cv_daemon *d);
int cv_start_telemetry(struct cv_daemon *d);
void cv_stop_telemetry(struct cv_daemon *d);
int cv_start_certs(struct cv_daemon *d);
void cv_stop_certs(struct cv_daemon *d);
int cv_start_store(struct cv_daemon *d);
void cv_stop_store(struct cv_daemon *d);
int cv_start_source(struct cv_daemon *d);
void cv_stop_source(struct cv_daemon *d);

/* stages_node.c */
int cv_start_bpf(struct cv_daemon *d);
void cv_stop_bpf(struct cv_daemon *d);
int cv_start_proxy(struct cv_daemon *d);
void cv_stop_proxy(struct cv_daemon *d);
int cv_start_node(struct cv_daemon *d);
void cv_stop_node(struct cv_daemon *d);
int cv_start_pods(struct cv_daemon *d);

/* stages_inpod.c */
int cv_start_privileges(struct cv_daemon *d);
int cv_start_inpod(struct cv_daemon *d);
void cv_stop_inpod(struct cv_daemon *d);
int cv_start_inpod_pods(struct cv_daemon *d);

/* stages_serve.c */
int cv_start_control_socket(struct cv_daemon *d);
void cv_stop_control_socket(struct cv_daemon *d);
int cv_start_http(struct cv_daemon *d);
void cv_stop_http(struct cv_daemon *d);
