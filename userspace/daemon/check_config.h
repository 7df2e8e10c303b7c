/* SPDX-License-Identifier: Apache-2.0 */
/* `culvertd check-config FILE`: validates culvert.yaml or a file of workloads. */
#pragma once

/* Prints what the file is and holds, or what is wrong with it. 0 or -errno. */
int cv_check_config(const char *path);
