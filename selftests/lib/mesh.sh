# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154
#
# mesh.sh: the mesh that most end-to-end tests use; source ktap.sh and lab.sh first.
#
#	node1: client  near   plain        node2: far
#	         │       │      │                  │
#	         └───────┴──────┴──── link ────────┘       outside: a host that is in no mesh
#
# client, near and far are enrolled; plain is a pod of node1 that is not enrolled and speaks TCP
# alone; outside hangs on node2. near, far, plain and outside run tcpecho on 7000 (echo) and 7001
# (whoami); near and far are the endpoints of the service `echo` (VIP 10.96.0.10, port 80).

CLIENT4=10.244.1.10 CLIENT6=fd10:244:1::10
NEAR4=10.244.1.11 NEAR6=fd10:244:1::11
PLAIN4=10.244.1.12 PLAIN6=fd10:244:1::12
FAR4=10.244.2.10 FAR6=fd10:244:2::10
OUTSIDE4=10.244.2.99 OUTSIDE6=fd10:244:2::99
ECHO_VIP4=10.96.0.10 ECHO_VIP6=fd96::10
NEAR_VIP4=10.96.0.11 FAR_VIP4=10.96.0.12

# mesh_up: everything up, enrolled and ready. Daemons get the arguments as environment.
mesh_up()
{
	mesh_pods && mesh_servers && mesh_daemons "$@" && mesh_enrol
}

mesh_pods()
{
	lab_up node1 node2 &&
		pod_add node1 client $CLIENT4 $CLIENT6 &&
		pod_add node1 near $NEAR4 $NEAR6 &&
		pod_add node1 plain $PLAIN4 $PLAIN6 protocol=TCP &&
		pod_add node2 far $FAR4 $FAR6 &&
		pod_add node2 outside $OUTSIDE4 $OUTSIDE6 absent=1 &&
		service_add echo $ECHO_VIP4 $ECHO_VIP6 80 7000 near far &&
		service_add near $NEAR_VIP4 - 80 7000 near &&
		service_add far $FAR_VIP4 - 80 7000 far &&
		mesh_file
}

mesh_servers()
{
	for mesh_pod in near far plain outside; do
		pod_start $mesh_pod "$CV_TOOLS/tcpecho" -p 7000
		pod_start $mesh_pod "$CV_TOOLS/tcpecho" -p 7001 -m whoami
		for mesh_port in 7000 7001; do
			wait_for 60 pod_listens $mesh_pod $mesh_port || return
		done
	done
}

mesh_daemons()
{
	daemon_start node1 "$@" && daemon_start node2 "$@" && wait_ready node1 && wait_ready node2
}

mesh_enrol()
{
	pod_enrol client && pod_enrol near && pod_enrol far
}

# pod_listens POD PORT
pod_listens()
{
	pod_exec "$1" ss -Hltn "sport = :$2" | grep -q .
}

# call ADDRESS PORT [OPTION…]: tcpcall from the client pod
call()
{
	mesh_to=$1 mesh_port=$2
	shift 2
	pod_exec client "$CV_TOOLS/tcpcall" "$@" "$mesh_to" "$mesh_port"
}

# ticks FILE: tcpcall -v -m tick, whose output goes there, has its connection open
ticks()
{
	wait_for 60 grep -qs '^ticking' "$1"
}

# metric NODE NAME GREP…: sum of a metric's samples whose line has every pattern
metric()
(
	node=$1 name=$2
	shift 2
	lines=$(node_exec "$node" curl -fsS -m 5 http://127.0.0.1:15020/metrics | grep "^${name}[{ ]")
	for pattern; do
		lines=$(printf '%s\n' "$lines" | grep -- "$pattern")
	done
	printf '%s\n' "$lines" | awk 'NF { sum += $NF } END { printf "%d\n", sum }'
)

# reason NODE NAME: how often a BPF program left for this reason
reason()
{
	metric "$1" culvert_bpf_reasons_total "reason=\"$2\""
}

# opened NODE TIER: connections that the source reported as opened on a tier
opened()
{
	metric "$1" istio_tcp_connections_opened_total 'reporter="source"' "tier=\"$2\""
}

# policies TEXT: what the mesh file has under `policies`, in force when this returns.
policies()
{
	printf '%s\n' "$1" >"$LAB/policies.yaml"
	mesh_apply
}

no_policies()
{
	rm -f "$LAB/policies.yaml"
	mesh_apply
}

# mesh_apply: write the file and wait until both daemons have the same policies.
mesh_apply()
{
	mesh_file
	for mesh_node in node1 node2; do
		wait_for 10 mesh_has_policies "$mesh_node" || return
	done
	sleep 0.2
}

mesh_has_policies()
{
	mesh_want=$(grep -c '^- name:' "$LAB/policies.yaml" 2>/dev/null)
	[ "$(ctl "$1" policies -o json | jq length)" = "${mesh_want:-0}" ]
}

# deny_port PORT [NAMESPACE]: a policy that denies this port in the namespace
deny_port()
{
	cat <<-END
		- name: deny-$1
		  namespace: ${2:-default}
		  scope: Namespace
		  action: Deny
		  dryRun: false
		  rules:
		  - - - destinationPorts: [$1]
	END
}
