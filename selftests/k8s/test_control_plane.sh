#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_control_plane.sh: what a user of the mesh notices when istiod or the API server goes away under
# load and comes back, when a proxy asks istiod on demand, and when istiod refuses a node's certificates.
# timeout: 2400
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

# How long istiod is away: the minute is for make test-k8s.
: "${AWAY_S:=$([ "${SLOW:-}" = 1 ] && echo 60 || echo 5)}"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 26
comes_up "a cluster with pods" cluster_and_apps

far=$(pod_ip shop/far) near=$(pod_ip shop/near)

called()
{
	call "$1" "$2" "$3" -m echo -w 5000
}

refused()
{
	call "$1" "$2" "$3" -m echo -w 5000 -x ECONNRESET,ECONNREFUSED
}

deny()
{
	kapply <<-END
		apiVersion: security.istio.io/v1
		kind: AuthorizationPolicy
		metadata: {name: $1, namespace: shop}
		spec: {selector: {matchLabels: {app: far}}, action: DENY, rules: [{to: [{operation: {ports: ["$2"]}}]}]}
	END
}

check "before" called shop/client "$far" 7000

# ---- istiod killed under load --------------------------------------------------------------------

ticking open shop/client "$far" 7000
load steady shop/client "$far" 7000
k8s_stop istiod KILL
sleep "$AWAY_S"
deny while-away 7002
check "istiod away for $AWAY_S s: no connection fails" load_stop steady
check "istiod away: an open connection lives" tick_lives open
check "istiod away: the proxies stay ready" proxies_ready
check "istiod comes back" istiod_back
check "a policy of the meantime comes into force" wait_for 60 refused shop/client "$far" 7002
check "the open connection saw nothing of it" tick_stop open
kubectl delete authorizationpolicy while-away -n shop >/dev/null
check "and goes when it is deleted" wait_for 60 called shop/client "$far" 7002

# ---- API server restarted ------------------------------------------------------------------------

load steady2 shop/client "$far" 7000
k8s_stop apiserver KILL && sleep 2 && api_start
check "API server restarted: no connection fails" load_stop steady2
deny after-restart 7002
check "API server restarted: policies arrive" wait_for 60 refused shop/client "$far" 7002

# ---- on demand -----------------------------------------------------------------------------------

# known NAME COUNT: so many workloads of this name are held on node1
known()
{
	[ "$(proxy_dump node1 | jq --arg name "$1" '[.workloads[] | select(.name == $name)] | length')" = "$2" ]
}

# asked NAME COMMAND…: a check, but not of a ztunnel: its connection waits for a resource of the very name that it
# asked for, and istiod answers an address with the names of what has it.
asked()
{
	if [ "$K8S_PROXY" = ztunnel ]; then
		skip "$1" "a ztunnel waits in vain"
	else
		check "$@"
	fi
}

k8s_stop node1/proxy
check "on demand: a proxy starts" proxy_start node1 XDS_ON_DEMAND=true ISTIO_META_DNS_CAPTURE=false
check "pods of the node come unasked" wait_for 60 known client 1
check "and no others" known far 0
asked "an address is asked for" wait_for 60 called shop/client "$far" 7000
asked "and is known then" known far 1
asked "a service is asked for" wait_for 60 called shop/client "$(service_ip shop/echo)" 80
asked "after an answer the node's own pods are still known" known client 1
k8s_stop istiod KILL
asked "istiod away: what is known is served" wait_for 60 called shop/client "$far" 7000
check "istiod comes back again" istiod_back
asked "and is asked for what is not known" wait_for 60 called shop/client "$(service_ip shop/far)" 80

# ---- certificates refused ------------------------------------------------------------------------

k8s_stop istiod
istiod_start CA_TRUSTED_NODE_ACCOUNTS=elsewhere/ztunnel
check "an istiod that does not trust the node's account" wait_for "$K8S_PATIENCE" istiod_ready
k8s_stop node1/proxy
: >"$K8S/node1/proxy.log"
check "a proxy starts without certificates" proxy_start node1
check "its pods' connections are refused" wait_for 60 refused shop/client "$far" 7000
# A ztunnel gives istiod's own word for it.
why="istiod says that no pod of spiffe://cluster.local/ns/shop/sa/client runs on this node, or.*CA_TRUSTED_NODE_ACCOUNTS"
[ "$K8S_PROXY" = culvert ] || why=unauthenticated
check "its log says why, and for whom" wait_for 60 grep -qi "$why" "$K8S/node1/proxy.log"
k8s_stop istiod
istiod_start
check "with the account trusted again they are carried" wait_for 120 called shop/client "$near" 7000
