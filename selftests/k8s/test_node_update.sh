#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_node_update.sh: the DaemonSet of one real node is updated under load, as its chart has it (the new
# pod beside the old one, which then drains): culvert by culvert, and with ZTUNNEL=path culvert by a real
# ztunnel and back. New connections go on being made all the time, and none fails.
# timeout: 3000
# only: test-k8s
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/node.sh"

reason=$(node_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 16

shop()
{
	namespace shop "istio.io/dataplane-mode: ambient" && {
		app shop echo node1
		service shop echo app echo
	} | in_image | kapply && pods_ready shop && wait_for "$K8S_PATIENCE" shop_known
}

shop_known()
{
	table workloads | grep -E '^shop +echo .*HBONE'
}

# updated: the new pod serves, and the old one has ended
updated()
{
	rolled_out daemonset/ztunnel "$K8S_PROXY_NAMESPACE" && wait_for "$K8S_PATIENCE" one_proxy
}

one_proxy()
{
	[ "$(kapi GET "/api/v1/namespaces/$K8S_PROXY_NAMESPACE/pods?labelSelector=app%3Dztunnel" | jq '.items | length')" = 1 ]
}

restarted()
{
	kubectl rollout restart daemonset/ztunnel -n "$K8S_PROXY_NAMESPACE" && updated
}

# becomes IMAGE
becomes()
{
	kubectl set image daemonset/ztunnel -n "$K8S_PROXY_NAMESPACE" "istio-proxy=$NODE_HUB/$1:lab" && updated
}

# steady LOAD TEXT: two results
steady()
{
	check "$2: the load goes on" load_goes_on "$1"
	check_eq "$2: no connection failed" 0 "$(load_failures "$1")"
}

check "a node with Istio's charts" node_up
check "and pods of the mesh" shop
check "a load" load_pod steady "$(service_ip shop/echo)" 80
steady steady "before"
old=$(proxy_pod)
check "culvert is updated" restarted
check "another pod of it serves" test "$(proxy_pod)" != "$old"
steady steady "culvert updated"

if [ -x "${ZTUNNEL:-}" ]; then
	check "ztunnel takes culvert's place" becomes ztunnel
	steady steady "culvert to ztunnel"
	check "culvert takes ztunnel's place" becomes culvert
	steady steady "ztunnel to culvert"
else
	for text in "ztunnel takes culvert's place" "the load goes on" "no connection failed" \
		"culvert takes ztunnel's place" "the load goes on" "no connection failed"; do
		skip "$text" "ZTUNNEL is not set to the path of a ztunnel"
	done
fi
check "no application was started again" test "$(restarts shop)" = 0
