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

BOOKINFO=${CV_TOOLS%/tools}/bookinfo/bookinfo

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 14

# deployment NAME VERSION NODE OPTIONS: of Bookinfo, the options as a list in YAML
deployment()
{
	cat <<-END
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: $1-$2, namespace: bookinfo}
		spec:
		  selector: {matchLabels: {app: $1, version: $2}}
		  template:
		    metadata: {labels: {app: $1, version: $2}}
		    spec:
		      nodeName: $3
		      serviceAccountName: bookinfo-$1
		      terminationGracePeriodSeconds: 1
		      containers:
		      - name: $1
		        image: lab
		        command: ["$BOOKINFO", $1, $4]
		        readinessProbe: {tcpSocket: {port: 9080}}
	END
}

# bookinfo_service NAME ADDRESS
bookinfo_service()
{
	account bookinfo "bookinfo-$1"
	cat <<-END
		---
		apiVersion: v1
		kind: Service
		metadata: {name: $1, namespace: bookinfo, labels: {app: $1}}
		spec: {clusterIP: $2, selector: {app: $1}, ports: [{name: http, port: 9080}]}
	END
}

bookinfo()
{
	namespace bookinfo "team: books" && {
		bookinfo_service details 10.96.9.1
		bookinfo_service ratings 10.96.9.2
		bookinfo_service reviews 10.96.9.3
		bookinfo_service productpage 10.96.9.4
		deployment details v1 node1 '-n, details-v1'
		deployment ratings v1 node2 '-n, ratings-v1'
		deployment reviews v1 node1 '-v, v1'
		deployment reviews v2 node2 '-v, v2, -R, "10.96.9.2:9080"'
		deployment reviews v3 node2 '-v, v3, -R, "10.96.9.2:9080"'
		deployment productpage v1 node1 '-d, "10.96.9.1:9080", -r, "10.96.9.3:9080", -R, "10.96.9.2:9080"'
		idle_app bookinfo curl node2
	} | kapply
}

bookinfo_ready()
{
	for deployment in details-v1 ratings-v1 reviews-v1 reviews-v2 reviews-v3 productpage-v1; do
		kubectl rollout status "deployment/$deployment" -n bookinfo --timeout="${K8S_PATIENCE}s" || return
	done
	pods_ready bookinfo app=curl
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

check "a cluster with the node proxy in a namespace of its own" cluster_up
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
