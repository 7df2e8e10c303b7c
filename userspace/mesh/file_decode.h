/* SPDX-License-Identifier: Apache-2.0 */
/* The file format's tables, split by kind of object: file_decode.c has what they share. */
#pragma once

#include "userspace/mesh/local_file.h"
#include "userspace/proto/yaml_reader.h"

/* Decoders (cv_yaml_decode); the type that out points to is in the comment. */
int cv_file_addr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
		 void *out); /* struct cv_addr */
int cv_file_network_addr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			 void *out); /* struct cv_network_addr, "network/ip" */
int cv_file_cidr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
		 void *out); /* struct cv_cidr */
int cv_file_ports(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
		  void *out); /* struct cv_port_map */
int cv_file_gateway(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
		    void *out); /* struct cv_gateway */
int cv_file_gateway_ptr(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg,
			void *out); /* struct cv_gateway *, allocated */
/* "ns/hostname" */
int cv_file_ns_host(struct cv_yaml *y, const struct cv_yaml_node *n, struct cv_ns_host *ret);
extern const struct cv_yaml_words cv_file_health; /* enum cv_health */

/* The three lists of the file; out is the struct cv_mesh_file. */
int cv_file_workloads(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_file_services(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);
int cv_file_policies(struct cv_yaml *y, const struct cv_yaml_node *n, const void *arg, void *out);

/* No two of the list's items have the same key: keys[i] belongs to n's item i. */
int cv_file_check_unique(struct cv_yaml *y, const struct cv_yaml_node *n, const cv_str *keys,
			 const char *what);
/* "a/b" */
cv_str cv_file_key(cv_str a, cv_str b);
