/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What else than variables configures ztunnel, and variables that leave no choice.
 *
 * The mesh config file and PROXY_CONFIG are older ways to say what variables say: what they hold is
 * put into the environment where it does not say otherwise, before the variables are read.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CV_MESH_CONFIG "./etc/istio/config/mesh"

/* Ports that no variable names; 0 = not said. */
struct cv_env_ports {
	uint16_t admin, metrics;
};

/* Reads path (CV_MESH_CONFIG; it may be missing) and PROXY_CONFIG, which wins. 0, or -EINVAL with
 * one line in error. Nothing but setenv() of what is unset is done. */
int cv_env_apply_config(const char *path, struct cv_env_ports *ret, char *error, size_t size);

/* Variables of ztunnel's that have one possible value here: -EINVAL, with variable, value and what
 * to do in error, when one is set to another. */
int cv_env_check_fixed(char *error, size_t size);
/* PROXY_CONFIG, those, and the ones that are accepted without an effect, for --help. */
void cv_env_print_fixed(FILE *out);
