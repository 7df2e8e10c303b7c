# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC1090,SC2030,SC2031,SC2154
#
# lab.sh: a cluster out of network namespaces, for tests, demo and bench; source ktap.sh first.
#
#	  pod ── eth0 ─┐                                ┌─ eth0 ── pod
#	  pod ── eth0 ─┤ node1 ── up0 ────── up0 ─ node2 ┤
#	10.244.1.x     │     10.88.0.1    10.88.0.2      │      10.244.2.x
#
# Nodes route; nothing is bridged, and nothing of it touches the machine's own namespace, so that
# addresses may be the same in runs side by side; namespaces, pins and directories carry CV_RUN. A
# pod's address is a /32 (/128), its gateway a link-local address that its node answers for. A
# node's culvertd runs in the node's namespace. What is known of pods and services lies as
# VAR=value files below $LAB; mesh_file makes the control plane's YAML of it.

LAB=$CV_TMP/lab
: "${LAB_NAMESPACE:=default}"
cleanup lab_down

# ---- nodes ---------------------------------------------------------------------------------------

# lab_up NODE…: the nodes; two or more are linked in a chain, their pods' routes included.
lab_up()
{
	mkdir -p "$LAB/pods" "$LAB/services" "$LAB/daemons" "$LAB/captures" "$LAB/ca"
	chmod 700 "$LAB/ca"
	lab_nr=0
	lab_last=
	for lab_node; do
		lab_nr=$((lab_nr + 1))
		netns_add "$lab_node" >/dev/null || return
		echo "$lab_nr" >"$LAB/$lab_node.number"
		node_exec "$lab_node" sysctl -qw net.ipv4.ip_forward=1 \
			net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 || return
		[ -z "$lab_last" ] || lab_link "$lab_last" "$lab_node" || return
		lab_last=$lab_node
	done
}

# lab_link NODE NODE: the second is the one with the next higher number.
lab_link()
(
	a=$(cat "$LAB/$1.number")
	b=$(cat "$LAB/$2.number")
	left=up0
	[ "$a" = 1 ] || left=up1
	ip link add "$left" netns "$(run_name "$1")" type veth \
		peer name up0 netns "$(run_name "$2")" || return
	node_address "$1" "$left" "10.88.$((a - 1)).1/24" "fd88:$((a - 1))::1/64"
	node_address "$2" up0 "10.88.$((a - 1)).2/24" "fd88:$((a - 1))::2/64"
	node_route "$1" "$b" "10.88.$((a - 1)).2" "fd88:$((a - 1))::2"
	node_route "$2" "$a" "10.88.$((a - 1)).1" "fd88:$((a - 1))::1"
)

# node_address NODE DEVICE IPV4 IPV6
node_address()
{
	ip -n "$(run_name "$1")" addr add "$3" dev "$2"
	ip -n "$(run_name "$1")" addr add "$4" dev "$2" nodad
	ip -n "$(run_name "$1")" link set "$2" up
}

# node_route NODE NUMBER VIA4 VIA6: where the other node's pods are
node_route()
{
	ip -n "$(run_name "$1")" route add "10.244.$2.0/24" via "$3"
	ip -n "$(run_name "$1")" route add "fd10:244:$2::/64" via "$4"
}

# node_exec NODE COMMAND…; pod_exec POD COMMAND… below. In the background, `lab_exec='exec' pod_exec … &`
# makes $! the command's own pid and not that of a shell around it.
node_exec()
{
	lab_name=$1
	shift
	${lab_exec-} nsenter --net="/run/netns/$(run_name "$lab_name")" -- "$@"
}

lab_nodes()
(
	for f in "$LAB"/*.number; do
		f=${f##*/}
		echo "${f%.number}"
	done
)

# Everything of this run: processes first, then pins, then namespaces.
lab_down()
(
	set -- "$LAB"/captures/*.pid "$LAB"/daemons/*.pid
	for f; do # all at once, as each may take seconds
		[ ! -e "$f" ] || kill "$(cat "$f")" 2>/dev/null
	done
	for f; do
		[ ! -e "$f" ] || stop "$(cat "$f")"
	done
	for node in $(lab_nodes); do
		[ ! -e "$LAB/daemons/$node.started" ] || lab_unload "$node"
	done
	for ns in /run/netns/cv-"$CV_RUN"-*; do
		[ -e "$ns" ] || continue
		ip netns pids "${ns##*/}" | xargs -r kill -9
		ip netns del "${ns##*/}"
	done
	rm -rf "$(node_run_dir '')"* # of daemons in ztunnel's place, which have nothing to unload
)

# lab_unload NODE: no pins and no run directory of the node's daemon stay; says what did.
lab_unload()
{
	ctl "$1" unload >/dev/null || echo "$1: culvertctl unload failed"
	[ ! -e "$(node_bpffs "$1")" ] || {
		find "$(node_bpffs "$1")" | sed 's/^/left: /'
		rm -rf "$(node_bpffs "$1")"
	}
	rm -rf "$(node_run_dir "$1")"
}

# ---- pods ----------------------------------------------------------------------------------------

# pod_add NODE POD IPV4 IPV6 [VAR=VALUE…]: a pod, not enrolled. VAR: sa (the pod's name), namespace,
# protocol (HBONE), app (the pod's name), version, extra (a line of YAML for its record).
pod_add()
(
	node=$1 pod=$2 ip4=$3 ip6=$4
	shift 4
	ns=$(netns_add "$pod") || return
	nr=$(($(find "$LAB/pods" -type f | wc -l) + 1))
	nsenter --net="/run/netns/$ns" sysctl -qw net.ipv6.conf.default.accept_dad=0
	ip link add eth0 netns "$ns" type veth peer name "pod$nr" netns "$(run_name "$node")" ||
		return
	ip -n "$ns" addr add "$ip4/32" dev eth0
	ip -n "$ns" addr add "$ip6/128" dev eth0 nodad
	ip -n "$ns" link set eth0 up
	node_address "$node" "pod$nr" 169.254.1.1/32 fe80::1/64
	ip -n "$ns" route add default via 169.254.1.1 dev eth0 onlink
	ip -n "$ns" route add default via fe80::1 dev eth0
	ip -n "$(run_name "$node")" route add "$ip4/32" dev "pod$nr"
	ip -n "$(run_name "$node")" route add "$ip6/128" dev "pod$nr"
	{
		printf '%s\n' "node='$node'" "pod='$pod'" "ip4='$ip4'" "ip6='$ip6'" "device='pod$nr'" \
			"sa='$pod'" "namespace='$LAB_NAMESPACE'" "protocol=HBONE" "app='$pod'" \
			"version=v1" "extra="
		for word; do
			printf "%s='%s'\n" "${word%%=*}" "${word#*=}"
		done
	} >"$LAB/pods/$pod"
)

# pod_get POD VAR
pod_get()
(
	. "$LAB/pods/$1"
	eval "echo \"\$$2\""
)

pod_names()
{
	ls "$LAB/pods"
}

pod_netns()
{
	echo "/run/netns/$(run_name "$1")"
}

pod_exec()
{
	lab_name=$1
	shift
	${lab_exec-} nsenter --net="/run/netns/$(run_name "$lab_name")" -- "$@"
}

# pod_start POD COMMAND…: in the background until the lab goes down, output in $LAB/POD.log; the pid
# is in $!.
pod_start()
{
	lab_exec='exec' pod_exec "$@" >>"$LAB/$1.log" 2>&1 &
}

# pod_del POD: its processes, namespace and record, as a runtime does it (not the enrolment).
pod_del()
{
	ip netns pids "$(run_name "$1")" | xargs -r kill -9
	ip netns del "$(run_name "$1")"
	rm -f "$LAB/pods/$1"
}

# ---- services and the mesh file ------------------------------------------------------------------

# service_add NAME VIP4 VIP6 PORT TARGET-PORT POD…: a VIP of "-" is left out. A line of YAML more for
# its record: echo "extra='…'" >>"$LAB/services/NAME".
service_add()
(
	name=$1 vip4=$2 vip6=$3 port=$4 target=$5
	shift 5
	printf '%s\n' "name='$name'" "vip4='${vip4#-}'" "vip6='${vip6#-}'" \
		"ports='$port:$target'" "members='$*'" >"$LAB/services/$name"
)

# service_port_add NAME PORT TARGET-PORT: one more
service_port_add()
{
	echo "ports=\"\$ports $2:$3\"" >>"$LAB/services/$1"
}

service_host()
{
	echo "$1.$LAB_NAMESPACE.svc.cluster.local"
}

# Stands in for kube-proxy, for pods that are not enrolled: each node maps VIPs to endpoints.
kube_proxy_up()
(
	for node in $(lab_nodes); do
		kube_proxy_rules | node_exec "$node" nft -f - || return
	done
)

kube_proxy_rules()
(
	echo "table inet kube-proxy"
	echo "delete table inet kube-proxy"
	echo "table inet kube-proxy {"
	echo "	chain services {"
	echo "		type nat hook prerouting priority dstnat;"
	for f in "$LAB"/services/*; do
		. "$f"
		for port in $ports; do
			[ -z "$vip4" ] || kube_proxy_rule ip "$vip4" ip4
			[ -z "$vip6" ] || kube_proxy_rule ip6 "$vip6" ip6
		done
	done
	echo "	}"
	echo "}"
)

# kube_proxy_rule FAMILY VIP ADDRESS-VAR: with the service's port, target and members around it
kube_proxy_rule()
(
	nr=0
	map=
	for pod in $members; do
		map="$map${map:+, }$nr : $(pod_get "$pod" "$3") . ${port#*:}"
		nr=$((nr + 1))
	done
	echo "		$1 daddr $2 tcp dport ${port%:*} dnat $1 to numgen inc mod $nr map { $map }"
)

# mesh_file: (re)writes $LAB/mesh.yaml, by rename, of the pods, the services, and the policies in
# $LAB/policies.yaml (a list in YAML, if it is there). A pod with absent=1 is left out.
mesh_file()
{
	{
		mesh_list workloads mesh_workload "$LAB"/pods/*
		mesh_list services mesh_service "$LAB"/services/*
		mesh_list policies cat "$LAB"/policies.yaml
	} >"$LAB/mesh.yaml.new"
	mv "$LAB/mesh.yaml.new" "$LAB/mesh.yaml"
}

# mesh_list NAME COMMAND FILE…: a list of what the command makes of each file that is there
mesh_list()
(
	name=$1 command=$2
	shift 2
	items=$(for f; do [ ! -e "$f" ] || "$command" "$f"; done)
	if [ -n "$items" ]; then
		printf '%s:\n%s\n' "$name" "$items"
	else
		echo "$name: []"
	fi
)

mesh_workload()
(
	. "$1"
	[ -z "${absent:-}" ] || return 0
	cat <<-END
		- uid: Kubernetes//Pod/$namespace/$pod
		  name: $pod
		  namespace: $namespace
		  trustDomain: cluster.local
		  serviceAccount: $sa
		  workloadIps: ["$ip4", "$ip6"]
		  protocol: $protocol
		  node: $node
		  workloadName: $pod
		  workloadType: deployment
		  canonicalName: $app
		  canonicalRevision: $version
		  clusterId: Kubernetes
		  services: {$(mesh_memberships "$pod")}
	END
	[ -z "$extra" ] || echo "  $extra"
)

# mesh_memberships POD: the services that it is in, as entries of a YAML map
mesh_memberships()
(
	sep=
	for f in "$LAB"/services/*; do
		[ -e "$f" ] || continue
		. "$f"
		case " $members " in
		*" $1 "*) ;;
		*) continue ;;
		esac
		printf '%s"%s": %s' "$sep" "$LAB_NAMESPACE/$(service_host "$name")" "$(mesh_ports)"
		sep=", "
	done
)

# The ports of the service at hand as a YAML map.
mesh_ports()
{
	echo "{$(echo "$ports" | sed 's/ /, /g; s/:/: /g')}"
}

mesh_service()
(
	extra=
	. "$1"
	vips=
	[ -z "$vip4" ] || vips="\"/$vip4\""
	[ -z "$vip6" ] || vips="$vips${vips:+, }\"/$vip6\""
	cat <<-END
		- name: $name
		  namespace: $LAB_NAMESPACE
		  hostname: $(service_host "$name")
		  vips: [$vips]
		  ports: $(mesh_ports)
	END
	[ -z "$extra" ] || echo "  $extra"
)

# ---- culvert -------------------------------------------------------------------------------------

node_run_dir()
{
	echo "/run/cv-$CV_RUN-$1"
}

node_bpffs()
{
	echo "/sys/fs/bpf/cv-$CV_RUN-$1"
}

# node_env NODE COMMAND…: the command in the node, with the environment of its daemon
node_env()
{
	lab_node=$1
	shift
	node_exec "$lab_node" env NODE_NAME="$lab_node" CULVERT_RUN_DIR="$(node_run_dir "$lab_node")" \
		CULVERT_BPFFS="$(node_bpffs "$lab_node")" CULVERT_CONFIG="$LAB/$lab_node.culvert.yaml" \
		CULVERT_DEV_CA="$LAB/ca" LOCAL_XDS_PATH="$LAB/mesh.yaml" "$@"
}

# daemon_start NODE [VAR=VALUE…]: its culvertd, with more environment; its log is $LAB/NODE.log, its
# settings, if any, are in $LAB/NODE.culvert.yaml.
daemon_start()
{
	lab_daemon=$1
	shift
	[ -e "$LAB/mesh.yaml" ] || mesh_file
	: >"$LAB/daemons/$lab_daemon.started"
	lab_exec='exec' node_env "$lab_daemon" "$@" "$CULVERTD" proxy >>"$LAB/$lab_daemon.log" 2>&1 &
	echo $! >"$LAB/daemons/$lab_daemon.pid"
}

daemon_pid()
{
	cat "$LAB/daemons/$1.pid"
}

# daemon_stop NODE [SIGNAL]: and wait until it is gone.
daemon_stop()
{
	lab_pid=$(daemon_pid "$1")
	rm -f "$LAB/daemons/$1.pid"
	kill -"${2:-TERM}" "$lab_pid" 2>/dev/null
	wait_for 30 ktap_gone "$lab_pid"
}

# wait_ready NODE: until its readiness port says so.
wait_ready()
{
	wait_for 30 node_exec "$1" curl -fsS -m 2 -o /dev/null http://127.0.0.1:15021/healthz/ready ||
		{
			comment "$1 is not ready; the end of its log:"
			comment "$(tail -n 20 "$LAB/$1.log")"
			return 1
		}
}

# ctl NODE ARGUMENT…: culvertctl of that node.
ctl()
{
	lab_name=$1
	shift
	node_env "$lab_name" "$CULVERTCTL" "$@"
}

pod_enrol()
{
	ctl "$(pod_get "$1" node)" pod add "$(pod_get "$1" namespace)/$1" --netns "$(pod_netns "$1")"
}

pod_unenrol()
{
	ctl "$(pod_get "$1" node)" pod del "$(pod_get "$1" namespace)/$1"
}

# ---- what is on the wire -------------------------------------------------------------------------

# capture_start NODE FILE [FILTER…]: record the node's link; capture_stop NODE ends it.
capture_start()
{
	lab_name=$1 lab_file=$2
	shift 2
	lab_exec='exec' node_exec "$lab_name" tcpdump -i up0 -U --immediate-mode -s 0 -w "$lab_file" "$@" \
		2>"$LAB/$lab_name.tcpdump" &
	echo $! >"$LAB/captures/$lab_name.pid"
	wait_for 10 grep -q "listening on" "$LAB/$lab_name.tcpdump"
}

capture_stop()
{
	sleep 0.2
	stop "$(cat "$LAB/captures/$1.pid")"
	rm -f "$LAB/captures/$1.pid"
}
