# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC1090,SC2030,SC2031,SC2154
#
# inpod.sh: pods as istio-cni hands them to a proxy in ztunnel's place; source lab.sh first. zds.py
# plays the node agent on $LAB/NODE.zds, redirect.nft its rules in a pod.

# agent_up NODE: a node agent that knows no pod; again after agent_down with the pods it knew
agent_up()
{
	[ -e "$LAB/$1.pods" ] || : >"$LAB/$1.pods"
	: >"$LAB/$1.zds.log"
	rm -f "$LAB/$1.zds"
	/usr/bin/python3 "$CV_SELFTESTS/lib/zds.py" "$LAB/$1.zds" "$LAB/$1.pods" >"$LAB/$1.zds.log" 2>&1 &
	echo $! >"$LAB/daemons/$1-zds.pid"
	wait_for 20 grep -q ready "$LAB/$1.zds.log"
}

agent_down()
{
	stop "$(cat "$LAB/daemons/$1-zds.pid")"
	rm -f "$LAB/daemons/$1-zds.pid"
}

# inpod_enrol POD: the redirection, then the pod to whoever is in ztunnel's place on its node
inpod_enrol()
{
	inpod_redirect "$1" && inpod_hand_over "$1"
}

inpod_redirect()
(
	ns=$(run_name "$1")
	for family in -4 -6; do
		ip "$family" -n "$ns" rule add fwmark 0x111/0xfff pref 32764 lookup 100
		ip "$family" -n "$ns" route add local default dev lo table 100
	done
	pod_exec "$1" nft -f "$CV_SELFTESTS/lib/redirect.nft"
)

inpod_hand_over()
(
	. "$LAB/pods/$1"
	echo "uid-$1 $pod $namespace $sa $(pod_netns "$1")" >>"$LAB/$node.pods"
	before=$(grep -c "^added uid-$1\$" "$LAB/$node.zds.log")
	kill -HUP "$(cat "$LAB/daemons/$node-zds.pid")"
	wait_for 10 agent_added "$node" "$1" "$before"
)

# agent_added NODE POD TIMES: more often than that
agent_added()
{
	[ "$(grep -c "^added uid-$2\$" "$LAB/$1.zds.log")" -gt "$3" ]
}

# inpod_forget POD: the agent lets go of it; its rules stay, as when it is deleted
inpod_forget()
(
	. "$LAB/pods/$1"
	before=$(grep -c "^deleted uid-$1\$" "$LAB/$node.zds.log")
	sed -i "/^uid-$1 /d" "$LAB/$node.pods"
	kill -HUP "$(cat "$LAB/daemons/$node-zds.pid")"
	wait_for 10 agent_deleted "$node" "$1" "$before"
)

agent_deleted()
{
	[ "$(grep -c "^deleted uid-$2\$" "$LAB/$1.zds.log")" -gt "$3" ]
}

inpod_unenrol()
(
	ns=$(run_name "$1")
	pod_exec "$1" nft delete table inet ambient
	for family in -4 -6; do
		ip "$family" -n "$ns" rule del fwmark 0x111/0xfff pref 32764 lookup 100
		ip "$family" -n "$ns" route flush table 100
	done
	inpod_forget "$1"
)

# inpod_env NODE INSTANCE COMMAND…: the command in the instance's namespace, with the environment of
# a culvertd in ztunnel's place on the node
inpod_env()
{
	lab_node=$1 lab_instance=$2
	shift 2
	node_exec "$lab_instance" env NODE_NAME="$lab_node" CULVERT_RUN_DIR="$(node_run_dir "$lab_instance")" \
		CULVERT_BPFFS="$(node_bpffs "$lab_instance")" CULVERT_CONFIG="$LAB/$lab_node.culvert.yaml" \
		CULVERT_DEV_CA="$LAB/ca" LOCAL_XDS_PATH="$LAB/mesh.yaml" INPOD_UDS="$LAB/$lab_node.zds" "$@"
}

# inpod_start NODE INSTANCE [VAR=VALUE…]: a culvertd in ztunnel's place. The instance is the node
# itself, or a namespace beside it (netns_add), as a node's pods of one DaemonSet have. daemon_stop
# INSTANCE ends it.
inpod_start()
{
	lab_node=$1 lab_daemon=$2
	shift 2
	[ -e "$LAB/mesh.yaml" ] || mesh_file
	lab_exec='exec' inpod_env "$lab_node" "$lab_daemon" "$@" "$CULVERTD" proxy ztunnel \
		>>"$LAB/$lab_daemon.log" 2>&1 &
	echo $! >"$LAB/daemons/$lab_daemon.pid"
}

# inpod_ctl NODE INSTANCE ARGUMENT…
inpod_ctl()
{
	lab_node=$1 lab_instance=$2
	shift 2
	inpod_env "$lab_node" "$lab_instance" "$CULVERTCTL" "$@"
}
