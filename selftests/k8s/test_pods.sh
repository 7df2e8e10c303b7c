#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_pods.sh: pods that come and go: labelled into the mesh and out of it, a rolling update under load,
# and a crowd created and deleted, after which nothing is left of it.
#
# In ztunnel's place a connection that is older than its pod's enrolment is reset, whatever the proxy: with
# istio-cni's rules the kernel begins to track it, takes it for a new one, and redirects it. So the connection
# that is held open here is one of other pods.
# timeout: 3000
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

# The crowd comes in waves.
: "${WAVES:=5}"
: "${WAVE_PODS:=40}"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 16

called()
{
	call "$1" "$2" "$3" -m echo -w 5000
}

redirection()
{
	kapi GET "/api/v1/namespaces/${1%/*}/pods/${1#*/}" |
		jq -r '.metadata.annotations["ambient.istio.io/redirection"] // "none"'
}

# is_enrolled POD WANT: the agent says so
is_enrolled()
{
	[ "$(redirection "$1")" = "$2" ]
}

# protocol NODE NAMESPACE NAME: of the workload, as the node's proxy knows it
protocol()
{
	proxy_dump "$1" | jq -r --arg ns "$2" --arg name "$3" \
		'.workloads[] | select(.namespace == $ns and .name == $name) | .protocol'
}

is_protocol()
{
	[ "$(protocol "$1" "$2" "$3")" = "$4" ]
}

restarts()
{
	kubectl get pods -n "$1" -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}' |
		tr ' ' '\n' | awk '{ s += $1 } END { print s + 0 }'
}

# meshed_connections: how many connections node2 took by mutual TLS
meshed_connections()
{
	node_exec node2 curl -fsS http://127.0.0.1:15020/metrics |
		awk '/^istio_tcp_connections_opened_total.*reporter="destination".*mutual_tls/ { s += $NF }
			END { print s + 0 }'
}

comes_up "a cluster with pods" cluster_and_apps

# ---- into the mesh and out of it -----------------------------------------------------------------

namespace late
{
	idle_app late caller node1
	app late server node2
} | kapply
pods_ready late
server=$(pod_ip late/server)
check "pods outside the mesh" called late/caller "$server" 7000
ticking other shop/client "$(pod_ip shop/far)" 7000
before=$(meshed_connections)
kubectl label namespace late istio.io/dataplane-mode=ambient >/dev/null
check "a namespace is labelled: the client is enrolled" wait_for 60 is_enrolled late/caller enabled
check "and the server" wait_for 60 is_enrolled late/server enabled
check "the other node learns it" wait_for 60 is_protocol node1 late server HBONE
check "new connections are carried" called late/caller "$server" 7000
check "by mutual TLS" test "$(meshed_connections)" -gt "$before"
kubectl label pod server -n late istio.io/dataplane-mode=none >/dev/null
check "a pod is labelled out" wait_for 60 is_enrolled late/server none
check "the other node learns it" wait_for 60 is_protocol node1 late server TCP
check "new connections are carried in plaintext" called late/caller "$server" 7000
check "an open connection of other pods saw nothing of it" tick_stop other
check_eq "and no container was started again" 0 "$(restarts late)"

# ---- rolling update ------------------------------------------------------------------------------

rolling()
{
	kapply <<-END
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: web, namespace: shop}
		spec:
		  replicas: 2
		  selector: {matchLabels: {app: web}}
		  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
		  template:
		    metadata: {labels: {app: web, round: "$1"}}
		    spec:
		      nodeName: node2
		      terminationGracePeriodSeconds: 10
		      containers:
		      - name: echo
		        image: lab
		        command: ["$CV_TOOLS/tcpecho", -p, "7000"]
		        readinessProbe: {tcpSocket: {port: 7000}}
		        lifecycle: {preStop: {sleep: {seconds: 5}}}
	END
	kubectl rollout status deployment web -n shop --timeout="${K8S_PATIENCE}s" >/dev/null
}

service shop web app web | kapply
rolling 1
wait_for 60 service_known node1 shop/web 2
load steady shop/client "$(service_ip shop/web)" 80
rolling 2
rolling 3
sleep 1
check "an application is updated twice: no connection fails" load_stop steady

# ---- a crowd -------------------------------------------------------------------------------------

crowd()
{
	for k8s_nr in 1 2; do
		kapply <<-END
			apiVersion: apps/v1
			kind: Deployment
			metadata: {name: crowd$k8s_nr, namespace: shop}
			spec:
			  replicas: $(($1 / 2))
			  selector: {matchLabels: {app: crowd$k8s_nr}}
			  template:
			    metadata: {labels: {app: crowd$k8s_nr}}
			    spec: {nodeName: node$k8s_nr, terminationGracePeriodSeconds: 1, containers: [{name: wait, image: lab}]}
		END
	done
	wait_for "$K8S_PATIENCE" crowd_is "$1"
}

# crowd_is N: so many of them are there and known by their node's proxy
crowd_is()
{
	[ "$(crowd_known node1)" = $(($1 / 2)) ] && [ "$(crowd_known node2)" = $(($1 / 2)) ]
}

crowd_known()
{
	proxy_dump "$1" | jq '[.workloadState[] | select(.info.name | startswith("crowd"))] | length'
}

# What a proxy holds: its open files, and the pods' namespaces.
held()
{
	for k8s_node in $K8S_NODES; do
		find "/proc/$(cat "$K8S/$k8s_node/proxy.pid")/fd" -type l 2>/dev/null | wc -l
	done
	find /run/netns -name "cv-$CV_RUN-*" | wc -l
}

crowd 2 && crowd 0
sleep 5
before=$(held)
waves()
{
	for k8s_wave in $(seq "$WAVES"); do
		crowd "$WAVE_PODS" && crowd 0 || return
		comment "wave $k8s_wave: $(held | tr '\n' ' ')"
	done
}
check "$((WAVES * WAVE_PODS)) pods come and go" waves
# not_more: each figure is at most 3 above what it was
not_more()
{
	printf '%s\n%s\n' "$before" "$(held)" | awk '{ v[NR] = $1 }
		END { n = NR / 2; for (i = 1; i <= n; i++) if (v[n + i] > v[i] + 3) exit 1 }'
}
check "and leave no file and no namespace open" wait_for 60 not_more
check "the others are served" called shop/client "$(service_ip shop/echo)" 80
