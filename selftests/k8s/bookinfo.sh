# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154
#
# bookinfo.sh: Bookinfo as Deployments and Services in namespace bookinfo, and a pod to ask it from; source
# apps.sh first.

BOOKINFO=${CV_TOOLS%/tools}/bookinfo/bookinfo

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

bookinfo_manifests()
{
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
}

bookinfo_ready()
{
	for deployment in details-v1 ratings-v1 reviews-v1 reviews-v2 reviews-v3 productpage-v1; do
		kubectl rollout status "deployment/$deployment" -n bookinfo --timeout="${K8S_PATIENCE}s" || return
	done
	pods_ready bookinfo app=curl
}
