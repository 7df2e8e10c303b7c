#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_node_update.sh: the DaemonSet of one real node is updated under load, as its chart has it (the new
# pod beside the old one, which then drains): culvert by culvert, and with ZTUNNEL=path culvert by a real
# ztunnel and back; istio-cni and istiod are restarted by kubectl too. New connections go on being made all
# the time, and none fails. Then a node proxy that crashes, and istioctl's tables of both proxies.
# timeout: 3000
# only: test-k8s
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/node.sh"

reason=$(node_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 29

shop()
{
	namespace shop "istio.io/dataplane-mode: ambient" && {
		app shop echo node1
		service shop echo app echo
	} | placed | kapply && pods_ready shop && wait_for "$K8S_PATIENCE" shop_known
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

# tables: what istioctl shows of this state, live, without what is each proxy's own (its pod) and the
# certificates' numbers and times
tables()
{
	for k8s_table in workloads services policies; do
		table "$k8s_table" | grep -v '^ztunnel ' | tr -s ' ' || return
	done
	table certificates | awk '{ print $1, $2, $3, $4 }'
}

deny_elsewhere()
{
	kubectl apply -f - <<-END
		apiVersion: security.istio.io/v1
		kind: AuthorizationPolicy
		metadata: {name: deny-elsewhere, namespace: shop}
		spec: {selector: {matchLabels: {app: echo}}, action: DENY, rules: [{to: [{operation: {ports: ["7002"]}}]}]}
	END
}

called()
{
	pod_exec shop/steady tcpcall -m echo -w 5000 "$(service_ip shop/echo)" 80
}

crashed()
{
	kill -KILL "$(container_pids "$K8S_PROXY_NAMESPACE/$(proxy_pod)")"
}

started_again()
{
	kapi GET "/api/v1/namespaces/$K8S_PROXY_NAMESPACE/pods/$(proxy_pod)" |
		jq -e '.status.containerStatuses[0] | .ready and .restartCount == 1'
}

shows_policy()
{
	table policies | grep '^shop *deny-elsewhere '
}

late()
{
	app shop late node1 | placed | kapply && pods_ready shop app=late &&
		wait_for "$K8S_PATIENCE" late_known
}

late_known()
{
	table workloads | grep -E '^shop +late .*HBONE'
}

# settled: every identity has its certificate, that of the pod which came last too
settled()
{
	table certificates | awk '$2 == "Leaf" { n[$1 ~ "/sa/late$"]++; bad += $3 != "Available" }
		END { exit bad || !n[1] }'
}

# same_tables: the proxy that serves now has the same as culvert had, once it is told all
same_tables()
{
	tables | diff "$K8S/culvert.tables" -
}

# restart KIND/NAME NAMESPACE
restart()
{
	kubectl rollout restart "$1" -n "$2" && rolled_out "$1" "$2"
}

comes_up "a node with Istio's charts" node_up
check "and pods of the mesh" shop
check "a load" load_pod steady "$(service_ip shop/echo)" 80
steady steady "before"
old=$(proxy_pod)
check "culvert is updated" restarted
check "another pod of it serves" test "$(proxy_pod)" != "$old"
steady steady "culvert updated"

check "istiod is restarted" restart deployment/istiod istio-system
steady steady "istiod restarted"
check "a policy comes from the new one" deny_elsewhere
check "and arrives" wait_for 120 shows_policy
check "istio-cni is restarted" restart daemonset/istio-cni-node istio-cni
steady steady "istio-cni restarted"
check "a pod that is new is enrolled" late

wait_for 120 settled
tables >"$K8S/culvert.tables"
if [ -x "${ZTUNNEL:-}" ]; then
	check "ztunnel takes culvert's place" becomes ztunnel
	steady steady "culvert to ztunnel"
	check "istioctl shows what it showed of culvert" wait_for 120 same_tables
	check "culvert takes ztunnel's place" becomes culvert
	steady steady "ztunnel to culvert"
else
	for text in "ztunnel takes culvert's place" "the load goes on" "no connection failed" \
		"istioctl shows what it showed of culvert" "culvert takes ztunnel's place" "the load goes on" "no connection failed"; do
		skip "$text" "ZTUNNEL is not set to the path of a ztunnel"
	done
fi
check "no application was started again" test "$(restarts shop)" = 0

check "the node proxy crashes" crashed
check "kubelet starts it again" wait_for "$K8S_PATIENCE" started_again
check "connections are carried again" wait_for 120 called
