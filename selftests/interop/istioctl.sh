# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# istioctl.sh: sets ISTIOCTL, unless it is set, to the istioctl on PATH or to the one that
# `make k8s-tools` has built.

istioctl_built()
{
	find "${CULVERT_K8S_CACHE:-/var/cache/culvert/k8s}" -maxdepth 1 -name 'istioctl-*' -perm -111 \
		2>/dev/null | sort | tail -n 1
}

: "${ISTIOCTL:=$(command -v istioctl || istioctl_built)}"

# istioctl_missing: why there is none, or nothing
istioctl_missing()
{
	[ -x "$ISTIOCTL" ] || echo "ISTIOCTL is not set to the path of an istioctl, and none is built (make k8s-tools)"
}
