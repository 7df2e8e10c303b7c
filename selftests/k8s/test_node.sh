#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_node.sh: one real node, from kubelet to istioctl: Istio's charts with culvert's image for ztunnel's,
# Bookinfo as Deployments, labels on the namespace and on a pod with a connection open and nothing
# restarted, every live table of istioctl, and what fifty pods cost.
# timeout: 3000
# only: test-k8s
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/node.sh"

# The pods that the node has when its proxy is weighed.
: "${PODS:=50}"
# And what the proxy may hold then, in kB: its process, and its container, the kernel's memory for it included.
: "${PROXY_KB:=8000}"

reason=$(node_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 34

bookinfo()
{
	namespace bookinfo && bookinfo_manifests | placed | kapply
}

# title: of the page, as the documentation has it asked for
title()
{
	kubectl exec -n bookinfo deploy/ratings-v1 -c ratings -- curl -sS -m 20 http://productpage:9080/productpage |
		grep -o '<title>.*</title>'
}

# rows PROTOCOL: how many of Bookinfo's pods the live table has with it
rows()
{
	table workloads | awk -v p="$1" '$1 == "bookinfo" && $NF == p' | wc -l
}

rows_are()
{
	[ "$(rows "$1")" = "$2" ]
}

# shows WHAT PATTERN: a line of the table matches
shows()
{
	table "$1" | grep -E "$2"
}

proxy_logs()
{
	kubectl logs -n "$K8S_PROXY_NAMESPACE" "$(proxy_pod)" | grep "$1"
}

# proxy_status: istiod says that the node proxy is with it, and to which resources it subscribes
proxy_status()
{
	istioctl proxy-status | grep -E "^$(proxy_pod)\.$K8S_PROXY_NAMESPACE .*WADS,WDS"
}

curl_out()
{
	kubectl label pod curl -n bookinfo --overwrite "istio.io/dataplane-mode=$1"
}

shop()
{
	namespace shop "istio.io/dataplane-mode: ambient" && app shop echo node1 | placed | kapply &&
		pods_ready shop && tick_pod open "$(pod_ip shop/echo)" 7000
}

deny_page()
{
	kubectl apply -f - <<-END
		apiVersion: security.istio.io/v1
		kind: AuthorizationPolicy
		metadata: {name: deny-page, namespace: bookinfo}
		spec: {selector: {matchLabels: {app: productpage}}, action: DENY, rules: [{from: [{source: {principals: ["cluster.local/ns/bookinfo/sa/bookinfo-ratings"]}}]}]}
	END
}

# page_denied: curl's status for a connection that the other side reset
page_denied()
{
	kubectl exec -n bookinfo deploy/ratings-v1 -c ratings -- curl -sS -m 20 -o /dev/null http://productpage:9080/productpage
	[ $? = 56 ]
}

# crowd N: so many pods in shop beside the others
crowd()
{
	kapply <<-END
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: crowd, namespace: shop}
		spec:
		  replicas: $1
		  selector: {matchLabels: {app: crowd}}
		  template:
		    metadata: {labels: {app: crowd}}
		    spec:
		      terminationGracePeriodSeconds: 1
		      containers: [{name: wait, image: "$NODE_HUB/apps:lab"}]
	END
	rolled_out deployment/crowd shop
}

# enrolled: how many pods the proxy serves
enrolled()
{
	pod_exec "$K8S_PROXY_NAMESPACE/$(proxy_pod)" culvertctl status | awk '$1 == "pods" { print $2 }'
}

enrolled_is()
{
	[ "$(enrolled)" = "$1" ]
}

# resident: the proxy's process in kB, its program and libraries, which lie in the image, included
resident()
{
	awk '/^VmRSS/ { print int($2 * 1.024) }' "/proc/$(container_pids "$K8S_PROXY_NAMESPACE/$(proxy_pod)")/status"
}

# is_small COMMAND: what it prints is at most $PROXY_KB; a proxy gives back what it does not need when it has
# been idle for some seconds
is_small()
{
	[ "$($1)" -le "$PROXY_KB" ]
}

charged()
{
	container_kb "$K8S_PROXY_NAMESPACE/$(proxy_pod)"
}

# capabilities: NET_ADMIN is bit 12, NET_RAW 13, SYS_ADMIN 21
capabilities()
{
	awk '/^CapPrm/ { print $2 }' "/proc/$(container_pids "$K8S_PROXY_NAMESPACE/$(proxy_pod)")/status"
}

comes_up "a node with Istio's charts is up, ready by its own probes" node_up
check "within ten times a minute" test "$k8s_up_seconds" -lt 600
check_eq "the node proxy has the three capabilities of its chart" 0000000000203000 "$(capabilities)"
check "the node proxy's log, by kubectl" proxy_logs 'istiod.istio-system.svc:15012'
check "istioctl proxy-status has it" wait_for 60 proxy_status
check "pods of the mesh with a connection open" shop

# ---- Bookinfo ------------------------------------------------------------------------------------

check "Bookinfo is deployed" bookinfo
check "and is ready" bookinfo_ready
check "all of it is outside the mesh" wait_for 120 rows_are TCP 7
kubectl label namespace bookinfo istio.io/dataplane-mode=ambient >/dev/null
check "the namespace is labelled: all of it is in the mesh" wait_for 300 rows_are HBONE 7
check_eq "the page, by kubectl exec" "<title>Simple Bookstore App</title>" "$(title)"
check "kubectl logs tells of its connections" wait_for 60 \
	proxy_logs 'connection complete.*dst.workload="productpage-v1-.*direction="inbound"'
check "a policy by kubectl, past istiod's webhook" deny_page
check "is in force" wait_for 60 page_denied
check "istioctl shows it" shows policies '^bookinfo +deny-page +Deny'
kubectl delete authorizationpolicy deny-page -n bookinfo >/dev/null
check "and out of force when it is deleted" wait_for 60 title

check "a single pod is labelled out" curl_out none
check "the live table shows it" wait_for 120 rows_are HBONE 6
check "a single pod is labelled in" curl_out ambient
check "the live table shows it" wait_for 120 rows_are HBONE 7
check_eq "no container was started again" 0 "$(restarts bookinfo)"
check "the open connection of other pods saw nothing of it" tick_pod_lives open

# ---- istioctl ------------------------------------------------------------------------------------

check "istioctl ztunnel-config services" shows services '^bookinfo +productpage +10\.96\.9\.4 +None +1/1'
check "istioctl ztunnel-config certificates" \
	shows certificates '^spiffe://cluster.local/ns/bookinfo/sa/bookinfo-ratings +Leaf +Available +true'
check "istioctl ztunnel-config connections" shows connections '^open\.shop +Outbound .*echo'
check "istioctl ztunnel-config all" shows all '^bookinfo .*HBONE'
check "istioctl ztunnel-config log" istioctl ztunnel-config log -i "$K8S_PROXY_NAMESPACE" --level debug

# ---- a full node ---------------------------------------------------------------------------------

# Bookinfo's seven, and the two of shop.
check "$PODS pods of the mesh" crowd $((PODS - 9))
wait_for "$K8S_PATIENCE" enrolled_is "$PODS"
comment "with $PODS pods at once: container $(charged) kB, resident $(resident) kB"
check "the node proxy's container holds at most $PROXY_KB kB" wait_for 100 is_small charged
check "its process, with program and libraries, is no larger" wait_for 100 is_small resident
comment "and when idle: container $(charged) kB, resident $(resident) kB"
check "the pods go" crowd 0
check "and the node proxy forgets them" wait_for "$K8S_PATIENCE" enrolled_is 9
check_eq "the node goes down" "" "$(node_down 2>&1)"
check_eq "without a trace" "" "$(cluster_traces)"
