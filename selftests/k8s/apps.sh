# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154
#
# apps.sh: what runs in the cluster of most tests; source ktap.sh and cluster.sh first.
#
#	namespace shop (ambient)       node1: client  near     node2: far
#	namespace plain (not ambient)  node1: stranger         node2: outside
#
# near, far and outside run tcpecho on 7000 and 7002 (echo) and 7001 (whoami); each pod has a service account of
# its own name. Services in shop: echo (near and far), near, far, peers (headless: near and far).

# namespace NAME [LABEL]
namespace()
{
	kapply <<-END
		apiVersion: v1
		kind: Namespace
		metadata: {name: $1, labels: {${2:-}}}
	END
}

# app NAMESPACE NAME NODE [LABELS]: a pod that serves
app()
{
	account "$1" "$2"
	cat <<-END
		---
		apiVersion: v1
		kind: Pod
		metadata: {name: $2, namespace: $1, labels: {app: $2, ${4:-}}}
		spec:
		  nodeName: $3
		  serviceAccountName: $2
		  terminationGracePeriodSeconds: 2
		  containers:
		  - {name: echo, image: lab, command: ["$CV_TOOLS/tcpecho", -p, "7000"], readinessProbe: {tcpSocket: {port: 7000}}}
		  - {name: whoami, image: lab, command: ["$CV_TOOLS/tcpecho", -p, "7001", -m, whoami], readinessProbe: {tcpSocket: {port: 7001}}}
		  - {name: other, image: lab, command: ["$CV_TOOLS/tcpecho", -p, "7002"], readinessProbe: {tcpSocket: {port: 7002}}}
	END
}

# idle_app NAMESPACE NAME NODE [LABELS]: a pod that waits to be told by pod_exec
idle_app()
{
	account "$1" "$2"
	cat <<-END
		---
		apiVersion: v1
		kind: Pod
		metadata: {name: $2, namespace: $1, labels: {app: $2, ${4:-}}}
		spec: {nodeName: $3, serviceAccountName: $2, terminationGracePeriodSeconds: 2, containers: [{name: wait, image: lab}]}
	END
}

account()
{
	cat <<-END
		---
		apiVersion: v1
		kind: ServiceAccount
		metadata: {name: $2, namespace: $1}
	END
}

# service NAMESPACE NAME KEY VALUE [FIELDS]: port 80 is echo, port 81 is whoami, of the pods with that label
service()
{
	cat <<-END
		---
		apiVersion: v1
		kind: Service
		metadata: {name: $2, namespace: $1}
		spec:
		  selector: {$3: $4}
		  ports: [{name: tcp-echo, port: 80, targetPort: 7000}, {name: tcp-whoami, port: 81, targetPort: 7001}]
		  ${5:-}
	END
}

# placed: manifests as this cluster wants them; node.sh's wants them otherwise
placed()
{
	cat
}

apps_up()
{
	namespace shop "istio.io/dataplane-mode: ambient" && namespace plain &&
		{
			idle_app shop client node1
			app shop near node1 "role: echo"
			app shop far node2 "role: echo"
			idle_app plain stranger node1
			app plain outside node2
			service shop echo role echo
			service shop near app near
			service shop far app far
			service shop peers role echo "clusterIP: None"
		} | placed | kapply && set_up "pods of shop" all_ready shop 3 && set_up "pods of plain" all_ready plain 2 &&
		set_up "pods and services of shop in the proxies" apps_known
}

# all_ready NAMESPACE N: that many pods are there, and ready
all_ready()
{
	[ "$(kapi GET "/api/v1/namespaces/$1/pods" | jq '[.items[].status.conditions // [] | .[] |
		select(.type == "Ready" and .status == "True")] | length')" = "$2" ]
}

# apps_known: both proxies know the pods of shop as pods that speak HBONE, and the services
apps_known()
{
	for k8s_known in $K8S_NODES; do
		[ "$(proxy_dump "$k8s_known" | jq '[.workloads[] | select(.namespace == "shop" and .protocol == "HBONE")] | length')" = 3 ] &&
			service_known "$k8s_known" shop/echo 2 && service_known "$k8s_known" shop/near 1 &&
			service_known "$k8s_known" shop/far 1 && service_known "$k8s_known" shop/peers 2 || return
	done
}

# service_known NODE NAMESPACE/NAME N: the node's proxy knows the service, with that many endpoints
service_known()
{
	[ "$(proxy_dump "$1" | jq --arg ns "${2%/*}" --arg name "${2#*/}" \
		'.services[] | select(.namespace == $ns and .name == $name) | .endpoints | length')" = "$3" ]
}

# call POD ADDRESS PORT [OPTION…]: tcpcall from the pod (NAMESPACE/NAME)
call()
{
	k8s_from=$1 k8s_to=$2 k8s_port=$3
	shift 3
	pod_exec "$k8s_from" "$CV_TOOLS/tcpcall" "$@" "$k8s_to" "$k8s_port"
}

# service_ip NAMESPACE/NAME
service_ip()
{
	kapi GET "/api/v1/namespaces/${1%/*}/services/${1#*/}" | jq -r .spec.clusterIP
}

# ticking NAME POD ADDRESS PORT: a connection that exchanges bytes until tick_stop NAME; how it ended is
# in $K8S/NAME.log
ticking()
{
	k8s_start "$1" "$(echo "$2" | tr / -)" "$CV_TOOLS/tcpcall" -m tick -v -i 50 -t 3600000 "$3" "$4"
	wait_for 60 grep -q '^ticking' "$K8S/$1.log" && tick_lives "$1"
}

tick_lives()
{
	! ktap_gone "$(cat "$K8S/$1.pid")"
}

tick_dead()
{
	ktap_gone "$(cat "$K8S/$1.pid")"
}

# tick_stop NAME: end it; true if it lived and every byte was right
tick_stop()
{
	tick_lives "$1" && k8s_stop "$1" && grep -q 'result=ok' "$K8S/$1.log"
}

# load NAME POD ADDRESS PORT [SECONDS]: a new connection ten times a second, or every SECONDS, until load_stop;
# this returns when the first one is done.
load()
{
	k8s_start "$1" "$(echo "$2" | tr / -)" sh -c 'trap "exit 0" TERM
	while :; do
		said=$("$0" -m echo -n 1000 -w 30000 "$1" "$2") || said="$said ended=$(date +%T.%3N)"
		echo "$said"
		sleep "$3"
	done' "$CV_TOOLS/tcpcall" "$3" "$4" "${5:-0.1}"
	wait_for 60 grep -q '^result=' "$K8S/$1.log"
}

# load_stop NAME: prints which connections ended otherwise than well, and when; true if none did
load_stop()
{
	k8s_stop "$1"
	! grep -v '^result=ok ' "$K8S/$1.log" && grep -q '^result=ok ' "$K8S/$1.log"
}

# ms_until COMMAND…: how long it takes to become true, in milliseconds; false after 10 s
ms_until()
{
	k8s_began=$(date +%s%3N)
	until "$@" >/dev/null 2>&1; do
		[ $(($(date +%s%3N) - k8s_began)) -lt 10000 ] || break
	done
	echo $(($(date +%s%3N) - k8s_began))
}

cluster_and_apps()
{
	cluster_up && apps_up
}

proxies_ready()
{
	for k8s_node in $K8S_NODES; do
		proxy_ready "$k8s_node" || return
	done
}

istiod_back()
{
	istiod_start && wait_for "$K8S_PATIENCE" istiod_ready
}
