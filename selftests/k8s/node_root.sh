# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# node_root.sh K8S NODE: the first process of the real node; node.sh's node_start has called it in
# namespaces of its own (mounts, processes, cgroups, network) and in a cgroup of its own. It gives the node
# a root directory that nothing outlives, starts containerd, kube-proxy and kubelet in it, and stays until it
# is killed, with which all of the node ends.
set -e

k8s=$1 node=$2
dir=$k8s/$node

# cgroups VERSION-1-OR-2 mounts: as they look from the node's own cgroup, which is their root
mount_cgroups()
{
	mount -t tmpfs -o mode=755 tmpfs "$1"
	while IFS=: read -r number names _; do
		if [ "$number" = 0 ]; then
			unified=1
		else
			name=${names#name=}
			mkdir "$1/$name"
			mount -t cgroup -o "$names" cgroup "$1/$name"
		fi
	done </proc/self/cgroup
	[ -n "${unified:-}" ] || return 0
	if [ -e "$1/memory" ]; then
		mkdir "$1/unified"
		mount -t cgroup2 cgroup2 "$1/unified"
	else
		umount "$1"
		mount -t cgroup2 cgroup2 "$1"
		# A cgroup that has processes of its own cannot give its children controllers.
		mkdir -p "$1/init"
		while read -r pid; do
			echo "$pid" >"$1/init/cgroup.procs"
		done <"$1/cgroup.procs"
	fi
}

# A root directory that is the machine's with changes in memory.
mount -t tmpfs tmpfs "$dir/root"
mkdir "$dir/root/upper" "$dir/root/work" "$dir/root/root"
root=$dir/root/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/root/upper,workdir=$dir/root/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount_cgroups "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mkdir -p "$root/var/lib/containerd" "$root/var/lib/kubelet" "$root/opt/cni/bin" "$root/etc/cni/net.d"
# Containers' root directories are overlays, whose changes cannot lie on another.
for path in run var/lib/containerd var/lib/kubelet; do
	mount -t tmpfs -o mode=755 tmpfs "$root/$path"
done
for path in "$k8s" "$CULVERT_K8S_CACHE"; do
	mkdir -p "$root/$path"
	mount --bind "$path" "$root/$path"
done
cp /usr/lib/cni/ptp /usr/lib/cni/host-local /usr/lib/cni/loopback "$root/opt/cni/bin/"
cp "$dir/cni/net.d/"* "$root/etc/cni/net.d/"
cd "$root"
pivot_root . .
umount -l .
cd /
mount --make-rshared /

PATH=$k8s/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
containerd --config "$dir/containerd.toml" >>"$dir/containerd.log" 2>&1 &
kube-proxy --config="$dir/kube-proxy.yaml" >>"$dir/kube-proxy.log" 2>&1 &
until ctr --connect-timeout 1s version >/dev/null 2>&1; do
	sleep 0.1
done
kubelet --config="$dir/kubelet.yaml" --kubeconfig="$dir/kubelet.kubeconfig" --hostname-override="$node" \
	--node-ip="$NODE_ADDRESS" --root-dir=/var/lib/kubelet --cert-dir=/var/lib/kubelet/pki >>"$dir/kubelet.log" 2>&1 &
: >"$dir/started"
wait
