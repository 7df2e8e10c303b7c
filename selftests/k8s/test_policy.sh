#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_policy.sh: routes and policies as istiod makes them of what a user applies with kubectl, and their
# reach: pod addresses, services of each kind, entries from outside the cluster, new and open connections.
# timeout: 3000
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 27

# In force within 300 ms after kubectl returns; a test allows ten times that.
FORCE_MS=3000

# closed NAME TICK: an open connection ends in that time. A ztunnel looks at its open connections when a
# policy comes, which is before the workload says that the policy's selector takes it.
closed()
{
	if [ "$K8S_PROXY" = ztunnel ]; then
		skip "$1" "ztunnel leaves them open"
	else
		in_force "$1" tick_dead "$2"
	fi
}

# in_force NAME COMMAND…: the command becomes true in that time
in_force()
{
	name=$1
	shift
	ms=$(ms_until "$@")
	comment "$name: $ms ms"
	check "$name" test "$ms" -lt $FORCE_MS
}

whoami_says()
{
	call "$1" "$2" 7001 -m line -e "$3"
}

# called POD ADDRESS PORT: a new connection carries bytes
called()
{
	call "$1" "$2" "$3" -m echo -w 3000
}

refused()
{
	call "$1" "$2" "$3" -m echo -w 3000 -x ECONNRESET,ECONNREFUSED
}

policy()
{
	kapply <<-END
		apiVersion: security.istio.io/v1
		kind: $1
		metadata: {name: $2, namespace: $3}
		spec: $4
	END
}

removed()
{
	kubectl delete "$1" "$2" -n "$3" >/dev/null
}

comes_up "a cluster of two nodes comes up" cluster_up
check "within ten times a minute" test "$k8s_up_seconds" -lt 600
check "pods come up by the CNI chain, and are enrolled" apps_up

near=$(pod_ip shop/near) far=$(pod_ip shop/far) outside=$(pod_ip plain/outside) client=$(pod_ip shop/client)

# ---- routes --------------------------------------------------------------------------------------

check "pod address on the same node" called shop/client "$near" 7000
check "pod address on the other node" called shop/client "$far" 7000
check "the server sees the client's address" whoami_says shop/client "$far" "$client"
check "a pod outside the mesh can be called" called shop/client "$outside" 7000
check "and can call" called plain/outside "$far" 7000
check "service address" called shop/client "$(service_ip shop/echo)" 80

resolved()
{
	pod_exec shop/client getent ahostsv4 "$1" | awk '$2 == "STREAM" { print $1 }' | sort | tr '\n' ' '
}
check_eq "service name" "$(service_ip shop/far) " "$(resolved far)"
check_eq "headless service name" "$(printf '%s\n' "$near" "$far" | sort | tr '\n' ' ')" \
	"$(resolved peers.shop.svc.cluster.local)"

# A program on the node itself stands for a machine outside the cluster.
k8s_start machine node2 "$CV_TOOLS/tcpecho" -p 7100
kapply <<-END
	apiVersion: networking.istio.io/v1
	kind: ServiceEntry
	metadata: {name: direct, namespace: shop}
	spec:
	  hosts: [direct.example.com]
	  addresses: [240.1.0.1]
	  ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 7100}]
	  resolution: STATIC
	  endpoints: [{address: $(node_address node2)}]
	---
	apiVersion: networking.istio.io/v1
	kind: ServiceEntry
	metadata: {name: chosen, namespace: shop}
	spec:
	  hosts: [chosen.example.com]
	  ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 7100}]
	  resolution: STATIC
	  workloadSelector: {labels: {entry: machine}}
	---
	apiVersion: networking.istio.io/v1
	kind: WorkloadEntry
	metadata: {name: machine, namespace: shop}
	spec: {address: $(node_address node2), labels: {entry: machine}}
END
# Until the entry is there, a connection to its address waits in vain.
entry()
{
	call shop/client 240.1.0.1 80 -m echo -w 500
}
in_force "ServiceEntry with an endpoint" entry
chosen()
{
	address=$(resolved chosen.example.com)
	[ -n "$address" ] && called shop/client "${address% }" 80
}
in_force "ServiceEntry of a WorkloadEntry, by the address that istiod gave it" chosen

# ---- PeerAuthentication --------------------------------------------------------------------------

ticking plaintext plain/outside "$far" 7000
ticking meshed shop/client "$far" 7000
policy PeerAuthentication strict shop '{mtls: {mode: STRICT}}'
in_force "STRICT: a new plaintext connection is refused" refused plain/outside "$far" 7000
closed "STRICT: an open plaintext connection is closed" plaintext
check "STRICT: one from the mesh is carried" called shop/client "$far" 7000
check "STRICT: the node's own plaintext, as a probe's, is carried" node_exec node2 \
	"$CV_TOOLS/tcpcall" -m echo "$far" 7000
removed PeerAuthentication strict shop
in_force "without it plaintext is carried again" called plain/outside "$far" 7000

# ---- AuthorizationPolicy -------------------------------------------------------------------------

policy AuthorizationPolicy deny-client shop '{selector: {matchLabels: {app: far}}, action: DENY,
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}'
in_force "DENY: a new connection is refused" refused shop/client "$far" 7000
closed "DENY: an open connection is closed" meshed
check "DENY: another pod is not concerned" called shop/client "$near" 7000
removed AuthorizationPolicy deny-client shop
in_force "without it connections are carried again" called shop/client "$far" 7000
policy AuthorizationPolicy only-near shop '{selector: {matchLabels: {app: far}}, action: ALLOW,
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/near]}}], to: [{operation: {ports: ["7000"]}}]}]}'
in_force "ALLOW: who is not named is refused" refused shop/client "$far" 7000
check "ALLOW: who is named is carried" called shop/near "$far" 7000
removed AuthorizationPolicy only-near shop

# ---- istioctl ------------------------------------------------------------------------------------

proxy_dump node1 >"$K8S/dump.json"
# NAMESPACE, POD NAME, PROTOCOL
table()
{
	istioctl ztunnel-config workloads -f "$K8S/dump.json" | awk '{ print $1, $2, $NF }' | sort
}
check_eq "istioctl's workloads table" "plain outside TCP
plain stranger TCP
shop client HBONE
shop far HBONE
shop near HBONE" "$(table | grep -E ' (client|far|near|outside|stranger) ')"

# Processes that stay are found by whoever runs this test.
left=$(cluster_down 2>&1)
check_eq "the cluster goes down" "" "$left"
check_eq "without a trace" "" "$(cluster_traces)"
