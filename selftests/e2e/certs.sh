#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Certificates of Istio's CA, which istio_ca.py plays on each node: renewal under load, roots that
# change while connections go on, refusals, a CA that is away, identities that leave the node. The
# certificates live for 12 seconds, HBONE connections end as soon as they are idle, so nearly every call
# is a handshake with the certificates of the moment.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

/usr/bin/python3 -c 'import cryptography, grpc' 2>/dev/null ||
	skip_all "python3-grpcio and python3-cryptography are missing"

plan 22

CA=$CV_TMP/ca
CA_PORT=15912
TOKEN=$CV_TMP/token
SPIFFE=spiffe://cluster.local/ns/default/sa
mkdir -m 0700 "$CA"

# make_root NAME
make_root()
{
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj "/O=$1" \
		-keyout "$CA/$1-key.pem" -out "$CA/$1-cert.pem" \
		-addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
}

# use_root NAME: the CA signs with it from now on.
use_root()
{
	cp "$CA/$1-key.pem" "$CA/new" && mv "$CA/new" "$CA/root-key.pem" &&
		cp "$CA/$1-cert.pem" "$CA/new" && mv "$CA/new" "$CA/root-cert.pem"
}

# ca_start NODE
ca_start()
{
	lab_exec='exec' node_exec "$1" /usr/bin/python3 "$CV_SELFTESTS/interop/istio_ca.py" "$CA" $CA_PORT \
		a-token >>"$LAB/$1.ca.log" 2>&1 &
	echo $! >"$LAB/daemons/$1-ca.pid"
	wait_for 60 ca_serves "$1"
}

ca_serves()
{
	node_exec "$1" ss -Hltn "sport = :$CA_PORT" | grep -q .
}

ca_stop()
{
	stop "$(cat "$LAB/daemons/$1-ca.pid")"
}

# how_often NODE WHAT IDENTITY: lines of its CA
how_often()
{
	grep -c "^$2 $SPIFFE/$3\$" "$LAB/$1.ca.log"
}

renewed()
{
	[ "$(how_often "$1" signed "$2")" -ge "$3" ]
}

# All certificates of both nodes: the number of their roots, and who signed the leaf.
roots_are()
{
	for node in node1 node2; do
		ctl $node certificates -o json | jq -e --argjson n "$1" \
			'length > 0 and all(.[]; .rootCerts | length == $n)' >/dev/null || return
	done
}

# calls SECONDS NAME: calls to the other node all the time; what failed is in $CV_TMP/NAME.failed
calls()
{
	: >"$CV_TMP/$2.failed"
	calls_end=$(($(date +%s) + $1))
	while [ "$(date +%s)" -lt $calls_end ]; do
		call $FAR4 7000 -m echo -n 100 >"$CV_TMP/$2.out" 2>&1 ||
			cat "$CV_TMP/$2.out" >>"$CV_TMP/$2.failed"
		sleep 0.05
	done
}

none_failed()
{
	[ ! -s "$CV_TMP/$1.failed" ] || { head -5 "$CV_TMP/$1.failed"; return 1; }
}

# certificate NODE NAME: its state
certificate()
{
	ctl "$1" certificates -o json | jq -r ".[] | select(.identity == \"$SPIFFE/$2\") | .state"
}

is_available()
{
	[ "$(certificate "$1" "$2")" = Available ]
}

logged()
{
	grep -q "$2" "$LAB/$1.log"
}

up()
{
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

make_root old && make_root new && use_root old || up
echo a-token >"$TOKEN"
{
	mesh_pods && mesh_servers
} >"$CV_TMP/up.log" 2>&1 || up

# The root file names both: the CA's own certificate is of the one that it started with.
cat "$CA/old-cert.pem" "$CA/new-cert.pem" >"$CA/both.pem"

# --- a CA that is not there yet ---
mesh_daemons CULVERT_DEV_CA= CA_ADDRESS=https://localhost:$CA_PORT CA_ROOT_CA="$CA/both.pem" \
	AUTH_TOKEN="$TOKEN" SECRET_TTL=12s POOL_UNUSED_RELEASE_TIMEOUT=1ms >>"$CV_TMP/up.log" 2>&1 || up
ok "daemons are ready without their CA"
check "pods are enrolled" mesh_enrol
check "the log says that it is away" wait_for 10 logged node1 "the CA cannot be reached"
check_not "no connection without a certificate" call $FAR4 7000 -m echo -w 4000
ca_start node1 >>"$CV_TMP/up.log" 2>&1 || up
ca_start node2 >>"$CV_TMP/up.log" 2>&1 || up
check "it is there: certificates come" wait_for 30 is_available node1 client
check "… on the other node" wait_for 30 is_available node2 far
check "… and connections" call $FAR4 7000 -m echo -n 1000
check_eq "the log has said it once" 1 "$(grep -c "the CA cannot be reached" "$LAB/node1.log")"

# --- renewal under load ---
before=$(how_often node1 signed client)
calls 30 load &
load=$!
nsenter --net="$(pod_netns client)" "$CV_TOOLS/tcpcall" -v -m tick -i 50 -t 120000 $FAR4 7000 \
	>"$CV_TMP/tick" 2>&1 &
tick=$!
cleanup stop "$tick"
check "certificates are renewed" wait_for 60 renewed node1 client $((before + 3))
wait $load
check "no call failed meanwhile" none_failed load

# --- roots change under load ---
calls 60 rotation &
load=$!
cp "$CA/both.pem" "$CA/new" && mv "$CA/new" "$CA/roots.pem"
check "both roots are trusted" wait_for 60 roots_are 2
use_root new
before=$(how_often node1 signed client)
far_before=$(how_often node2 signed far)
check "certificates of the new root" wait_for 60 renewed node1 client $((before + 2))
check "… on both nodes" wait_for 60 renewed node2 far $((far_before + 2))
rm "$CA/roots.pem"
check "the old root is trusted no more" wait_for 60 roots_are 1
kill $load 2>/dev/null
wait $load
check "no call failed meanwhile" none_failed rotation

# --- the CA is away for a moment ---
ca_stop node1
calls 4 away
check "no call failed without the CA" none_failed away
ca_start node1 >>"$CV_TMP/up.log" 2>&1
before=$(how_often node1 signed client)
check "renewed when it is back" wait_for 30 renewed node1 client $((before + 1))

# --- refusals ---
check "a pod leaves" pod_unenrol near
check_eq "its identity has no certificate any more" "" "$(certificate node1 near)"
echo "$SPIFFE/near" >"$CA/refused"
pod_enrol near
check "a refusal is told as what it means" wait_for 20 logged node1 \
	"istiod says that no pod of $SPIFFE/near runs on this node"
rm "$CA/refused"
check "asked again later" wait_for 60 is_available node1 near

# --- what must not be seen ---
kill -TERM $tick
wait_for 10 ktap_gone $tick
grep -q 'result=ok' "$CV_TMP/tick" || comment "$(cat "$CV_TMP/tick")"
node_exec node1 curl -fsS -m 20 http://127.0.0.1:15000/config_dump >"$LAB/config_dump.log"
grep -q certChain "$LAB/config_dump.log" || not_ok "config_dump has certificates"
check_eq "keys and tokens are nowhere but in memory" "" \
	"$(grep -rl -e 'PRIVATE KEY' -e a-token "$LAB"/*.log "$(node_run_dir node1)" 2>/dev/null)"
