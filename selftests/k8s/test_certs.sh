#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_certs.sh: what a node proxy is given only for a time, under load: certificates of 90 seconds, the
# roots that they are verified by, and the token that the proxy shows istiod. Nothing of it is started
# again when these change, and no connection fails.
# timeout: 4800
# only: test-k8s
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

# An HBONE connection that is idle for two seconds ends, so that the load every three makes a new one,
# with the certificates of that moment; the one without a pause keeps its own.
export K8S_PROXY_ENV="SECRET_TTL=90s POOL_UNUSED_RELEASE_TIMEOUT=2s"
CACERTS=$CV_TMP/cacerts
export K8S_ISTIOD_ENV="ROOT_CA_DIR=$CACERTS ISTIO_MULTIROOT_MESH=true"

reason=$(cluster_missing)
[ -z "$reason" ] || skip_all "$reason"
plan 27

called()
{
	call "$1" "$2" "$3" -m echo -w 5000
}

refused()
{
	call "$1" "$2" "$3" -m echo -w 5000 -x ECONNRESET,ECONNREFUSED
}

# ---- the mesh's own CA ---------------------------------------------------------------------------

# authority NAME: a root and an intermediate of it
authority()
(
	mkdir -p "$CV_TMP/pki" && cd "$CV_TMP/pki" || exit
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj "/O=$1/CN=root" \
		-keyout "$1-root.key" -out "$1-root.crt" -addext keyUsage=critical,keyCertSign,cRLSign &&
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/O=$1/CN=istiod" \
			-addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign \
			-keyout "$1-ca.key" -out "$1-ca.csr" &&
		openssl x509 -req -in "$1-ca.csr" -CA "$1-root.crt" -CAkey "$1-root.key" -CAcreateserial -days 30 \
			-copy_extensions copyall -out "$1-ca.crt"
)

# cacerts SIGNER ROOT…: what the Secret cacerts holds
cacerts()
{
	signer=$CV_TMP/pki/$1-ca
	mkdir -p "$CACERTS"
	shift
	for root; do
		cat "$CV_TMP/pki/$root-root.crt"
	done >"$CACERTS/root-cert.pem"
	cp "$signer.crt" "$CACERTS/cert-chain.pem" && cp "$signer.key" "$CACERTS/ca-key.pem" &&
		cp "$signer.crt" "$CACERTS/ca-cert.pem"
}

# issuers NODE: who signed the certificates that its proxy has, each once
issuers()
{
	proxy_dump "$1" | jq -r '.certificates[].certChain[0].pem' | while read -r pem; do
		echo "$pem" | base64 -d | openssl x509 -noout -issuer -nameopt multiline |
			awk '$1 == "organizationName" { print $3 }'
	done | sort -u
}

# roots NODE: how many roots came with them, each figure once
roots()
{
	proxy_dump "$1" | jq '.certificates[].rootCerts | length' | sort -u
}

# everywhere FUNCTION WANT: it prints that for every node
everywhere()
{
	for k8s_node in $K8S_NODES; do
		[ "$($1 "$k8s_node")" = "$2" ] || return
	done
}

# root_volumes: the ConfigMap is what istiod serves, and the proxies' volumes are the ConfigMap
root_volumes()
{
	istio_root | jq -er '.data["root-cert.pem"]' | grep . | cmp -s - "$CACERTS/root-cert.pem" || return
	for k8s_node in $K8S_NODES; do
		proxy_files "$k8s_node" || return
	done
}

serial()
{
	proxy_dump "$1" | jq -er --arg id "spiffe://cluster.local/ns/shop/sa/$2" \
		'.certificates[] | select(.identity == $id) | .certChain[0].serialNumber'
}

# another_serial NODE ACCOUNT OLD
another_serial()
{
	now=$(serial "$1" "$2") && [ "$now" != "$3" ]
}

# renewed TEXT: two results: client's and server's certificate are other ones than now
renewed()
{
	old_client=$(serial node1 client) old_far=$(serial node2 far)
	check "$1: the client's" wait_for "$K8S_PATIENCE" another_serial node1 client "$old_client"
	check "$1: the server's" wait_for "$K8S_PATIENCE" another_serial node2 far "$old_far"
}

made()
{
	grep -c ^result= "$K8S/$1.log"
}

has_made()
{
	[ "$(made "$1")" -ge "$2" ]
}

# loads_well TEXT: both loads go on, and all that they made since they began went well
loads_well()
{
	for load in steady paced; do
		wait_for "$K8S_PATIENCE" has_made $load $(($(made $load) + 3))
	done
	comment "$(made steady) and $(made paced) connections"
	check_eq "$1" "" "$(cat "$K8S/steady.log" "$K8S/paced.log" | grep -v '^result=ok ')"
}

{ authority old && authority new; } 2>"$CV_TMP/openssl.log"
cacerts old old
comes_up "a cluster with a CA of its own" cluster_and_apps
far=$(pod_ip shop/far)
check "it signs the workloads' certificates" everywhere issuers old
load steady shop/client "$far" 7000
load paced shop/near "$far" 7000 3
ticking open shop/client "$far" 7002

# ---- 90 seconds ----------------------------------------------------------------------------------

lifetime=$(proxy_dump node1 | jq '[.certificates[].certChain[0] |
	(.expirationTime | fromdate) - now] | max | . <= 90')
check_eq "certificates live 90 seconds" true "$lifetime"
renewed "a first renewal"
renewed "a second"
loads_well "90-second certificates: no connection fails"

# ---- roots ---------------------------------------------------------------------------------------

check "both roots are given to istiod" cacerts old old new
check "it tells them" wait_for "$K8S_PATIENCE" root_volumes
check "the workloads trust both" wait_for "$K8S_PATIENCE" everywhere roots 2
check "the new one signs" cacerts new old new
check "the workloads' certificates are of the new one" wait_for "$K8S_PATIENCE" everywhere issuers new
check "the old root goes" cacerts new new
check "istiod tells the one that is left" wait_for "$K8S_PATIENCE" root_volumes
check "the workloads trust it alone" wait_for "$K8S_PATIENCE" everywhere roots 1
loads_well "roots rotated: no connection fails"

# Its own certificate is of the new root, too: only a connection made with the new file is verified.
k8s_stop istiod
check "istiod starts again" istiod_back
kapply <<-END
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: after, namespace: shop}
	spec: {selector: {matchLabels: {app: far}}, action: DENY, rules: [{to: [{operation: {ports: ["7003"]}}]}]}
END
policy_known()
{
	proxy_dump "$1" | jq -e '[.policies[] | select(.name == "after")] | length == 1'
}
check "the proxies verify it by the new root" wait_for "$K8S_PATIENCE" policy_known node2

# ---- token ---------------------------------------------------------------------------------------

# token_is NODE WANT: what the API server says of the token in the proxy's volume
token_is()
{
	jq -n --rawfile token "$K8S/$1/proxy/var/run/secrets/tokens/istio-token" \
		'{apiVersion: "authentication.k8s.io/v1", kind: "TokenReview",
		spec: {token: ($token | rtrimstr("\n")), audiences: ["istio-ca"]}}' |
		kapi POST /apis/authentication.k8s.io/v1/tokenreviews -H 'Content-Type: application/json' \
			--data-binary @- | jq -e ".status.authenticated == $2"
}

# latecomer NAME: a pod of an account that has no certificate yet
latecomer()
{
	idle_app shop "$1" node1 | kapply && pods_ready shop "app=$1"
}

check "the token is good" token_is node1 true
proxy_log=$(wc -c <"$K8S/node1/proxy.log")
kubectl delete pod ztunnel-node1 -n "$K8S_PROXY_NAMESPACE" --force --grace-period=0 >/dev/null 2>&1
proxy_pod node1
check "it ends with the pod that it is bound to" wait_for "$K8S_PATIENCE" token_is node1 'null'
check "a pod that comes now" latecomer late
check "has no certificate: its connections are refused" wait_for 60 refused shop/late "$far" 7000
reason='unauthenticated'
[ "$K8S_PROXY" = ztunnel ] || reason='certs.*istiod does not accept our token'
token_told()
{
	tail -c "+$proxy_log" "$K8S/node1/proxy.log" | grep -qi "$reason"
}
check "the log says that the token is not accepted" wait_for 60 token_told
proxy_files node1
check "with the file's new token they are carried" wait_for "$K8S_PATIENCE" called shop/late "$far" 7000
loads_well "token rotated: no connection fails"
check "the connection that was open all the time lives" tick_stop open
