# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# agent.sh K8S NODE: become istio-cni's agent, in a private mount namespace that the caller has made and
# in a root directory of its own; cluster.sh's agent_start has the rest. All mounts go with the process.
set -e

k8s=$1 node=$2
root=$k8s/$node/agent
mount -t tmpfs tmpfs "$root"
mkdir -p "$root/upper" "$root/work" "$root/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/root"
root=$root/root
for dir in proc sys dev run/netns; do
	mount --rbind "/$dir" "$root/$dir"
done
# /var/run is a link to /run, which from here would be the machine's.
mkdir -p "$root/host/proc" "$root/host/opt/cni/bin" "$root/host/var/run/netns" "$root/opt/cni/bin" \
	"$root/run/secrets/kubernetes.io/serviceaccount" "$root/$k8s"
mount --bind "$k8s" "$root/$k8s"
mount --rbind /proc "$root/host/proc"
mount --bind "/proc/$(cat "$k8s/$node/init.pid")" "$root/host/proc/1"
mount --rbind /run/netns "$root/host/var/run/netns"
mount --bind "$k8s/$node/cni/bin" "$root/host/opt/cni/bin"
mount --bind "$k8s/$node/serviceaccount" "$root/run/secrets/kubernetes.io/serviceaccount"
mkdir -p "$root/$CULVERT_K8S_CACHE"
mount --bind "$CULVERT_K8S_CACHE" "$root/$CULVERT_K8S_CACHE"
touch "$root/opt/cni/bin/istio-cni"
mount --bind "$(readlink -f "$k8s/bin/istio-cni")" "$root/opt/cni/bin/istio-cni"
exec chroot "$root" "$k8s/bin/install-cni"
