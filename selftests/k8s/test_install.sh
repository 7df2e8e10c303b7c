#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_install.sh: an installation as Istio's documentation walks a user through it: the node proxy in a
# namespace of its own that istiod is told to trust, Bookinfo, discovery selectors, labels on the
# namespace and on single pods without a restart, the workloads table.
# timeout: 2400
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
export K8S_PROXY_NAMESPACE=ztunnel
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"
. "$CV_SELFTESTS/k8s/bookinfo.sh"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 16

bookinfo()
{
	namespace bookinfo "team: books" && bookinfo_manifests | kapply
}

# title: of the page, as the curl pod gets it by the service's name
title()
{
	pod_exec bookinfo/curl curl -fsS -m 20 http://productpage:9080/productpage | grep -o '<title>.*</title>'
}

# rows NODE PROTOCOL: how many of Bookinfo's pods the node's proxy shows in istioctl's table with it
rows()
{
	proxy_dump "$1" >"$K8S/$1.dump" &&
		istioctl ztunnel-config workloads -f "$K8S/$1.dump" |
		awk -v p="$2" '$1 == "bookinfo" && $NF == p' | wc -l
}

rows_are()
{
	[ "$(rows "$1" "$2")" = "$3" ]
}

restarts()
{
	kubectl get pods -n bookinfo -o json |
		jq '[.items[].status.containerStatuses[].restartCount] | add'
}

# discovers SELECTORS: istiod's discovery selectors, as YAML in one line
discovers()
{
	kapply <<-END
		apiVersion: v1
		kind: ConfigMap
		metadata: {name: istio, namespace: istio-system}
		data:
		  meshNetworks: 'networks: {}'
		  mesh: |
		    rootNamespace: istio-system
		    trustDomain: cluster.local
		    discoverySelectors: $1
	END
}

comes_up "a cluster with the node proxy in a namespace of its own" cluster_up
check "Bookinfo is deployed" bookinfo
check "and is ready" bookinfo_ready
check "all of it is outside the mesh" wait_for 60 rows_are node1 TCP 7

kubectl label namespace bookinfo istio.io/dataplane-mode=ambient >/dev/null
check "the namespace is labelled: all of it is in the mesh" wait_for 120 rows_are node1 HBONE 7
check "on the other node as well" wait_for 60 rows_are node2 HBONE 7
check_eq "the page, by the service's name" "<title>Simple Bookstore App</title>" "$(title)"
check_eq "no container was started again" 0 "$(restarts)"

curl_out()
{
	kubectl label pod curl -n bookinfo --overwrite "istio.io/dataplane-mode=$1"
}
check "a single pod is labelled out" curl_out none
check "the table shows it" wait_for 60 rows_are node1 HBONE 6
check "a single pod is labelled in" curl_out ambient
check "the table shows it" wait_for 60 rows_are node1 HBONE 7

discovers '[{matchLabels: {kubernetes.io/metadata.name: ztunnel}}]'
check "a namespace that no discovery selector takes vanishes" wait_for 60 rows_are node1 HBONE 0
discovers '[{matchLabels: {team: books}}, {matchLabels: {kubernetes.io/metadata.name: ztunnel}}]'
check "and comes back with one that does" wait_for 60 rows_are node1 HBONE 7
discovers '[{matchLabels: {kubernetes.io/metadata.name: ztunnel}}]'
check "it vanishes again" wait_for 60 rows_are node1 HBONE 0
discovers '[]'
check "and comes back when there are no selectors" wait_for 60 rows_are node1 HBONE 7
