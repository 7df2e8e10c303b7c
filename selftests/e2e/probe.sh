#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Who the node's own processes are: outside the pods' cgroup they are probes, which reach the application
# whatever policy says; below it (host-network pods) they are plaintext strangers, and policy judges them.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 7
cgroup_root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
pods_cgroup=$(run_name pods)
[ -n "$cgroup_root" ] || skip_all "cgroup v2 is not mounted"
mkdir "$cgroup_root/$pods_cgroup" "$cgroup_root/$pods_cgroup/host-network-pod"
cleanup rmdir "$cgroup_root/$pods_cgroup/host-network-pod" "$cgroup_root/$pods_cgroup"
mesh_pods >"$CV_TMP/up.log" 2>&1 || exit 1
echo "capture: {podsCgroup: /$pods_cgroup}" >"$LAB/node1.culvert.yaml"
{ mesh_servers && mesh_daemons && mesh_enrol; } >>"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# below COMMAND…: from a process of a host-network pod
below()
{
	node_exec node1 sh -c "echo \$\$ >$cgroup_root/$pods_cgroup/host-network-pod/cgroup.procs && exec $*"
}

echoes="$CV_TOOLS/tcpcall -m echo -n 1000"
before=$(reason node1 probe)
check "the node's process reaches the application" node_exec node1 $echoes $NEAR4 7000
check "… and is counted as a probe" [ "$(reason node1 probe)" -gt "$before" ]
inbound=$(reason node1 inbound)
check "a host-network pod reaches it too" below "$echoes $NEAR4 7000"
check "… through 15006" [ "$(reason node1 inbound)" -gt "$inbound" ]
policies "$(deny_port 7000)"
check "a policy does not stop the node's probes" node_exec node1 $echoes $NEAR4 7000
check "a policy stops host-network pods" below "$echoes -x ECONNRESET,less $NEAR4 7000"
check "IPv6 probes pass" node_exec node1 $echoes $NEAR6 7000
