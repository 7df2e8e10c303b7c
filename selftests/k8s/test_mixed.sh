#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_mixed.sh: culvert on one node and a real ztunnel (ZTUNNEL=path) on the other, under one istiod;
# then the move from one to the other and back, node by node.
# timeout: 3000
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
[ -x "${ZTUNNEL:-}" ] || skip_all "ZTUNNEL is not set to the path of a ztunnel"
plan 18

called()
{
	call "$1" "$2" "$3" -m echo -w 5000
}

refused()
{
	call "$1" "$2" "$3" -m echo -w 5000 -x ECONNRESET,ECONNREFUSED
}

# replace NODE KIND: another proxy in the place of the one that runs, which ends first: both would want the
# same ports of the node
replace()
{
	k8s_stop "$1/proxy" && echo "$2" >"$K8S/$1/proxy.kind" && proxy_start "$1" && proxy_takes_pods "$1"
}

# proxy_takes_pods NODE: ready, and the agent has told it the node's pods
proxy_takes_pods()
{
	wait_for "$K8S_PATIENCE" proxy_ready "$1" && wait_for "$K8S_PATIENCE" proxy_has_pods "$1"
}

proxy_has_pods()
{
	proxy_dump "$1" | jq -e '[.workloadState[] | select(.state == "Up")] | length > 0'
}

# both_ways TEXT: four results
both_ways()
{
	check "$1: to the other node" called shop/client "$far" 7000
	check "$1: from the other node" called shop/far "$near" 7000
	check "$1: by service address" called shop/client "$(service_ip shop/far)" 80
	check "$1: 20 MB and back" call shop/client "$far" 7000 -m echo -n 20000000 -w 60000
}

mkdir -p "$K8S/node1" "$K8S/node2"
echo culvert >"$K8S/node1/proxy.kind"
echo ztunnel >"$K8S/node2/proxy.kind"
comes_up "culvert on node1, ztunnel on node2" cluster_and_apps
near=$(pod_ip shop/near) far=$(pod_ip shop/far)
both_ways "culvert and ztunnel"

kapply <<-END
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: deny, namespace: shop}
	spec: {action: DENY, rules: [{to: [{operation: {ports: ["7002"]}}]}]}
END
check "ztunnel enforces a policy on culvert's client" wait_for 30 refused shop/client "$far" 7002
check "culvert enforces a policy on ztunnel's client" wait_for 30 refused shop/far "$near" 7002

check "node2 moves to culvert" replace node2 culvert
check "node1 moves to ztunnel" replace node1 ztunnel
both_ways "ztunnel and culvert"
check "node1 moves back" replace node1 culvert
both_ways "culvert and culvert"
