#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Revocation lists (CRL_PATH): a node whose list names a peer's certificate refuses it, as a client
# and as a server, and ends what is open with it; each node has a list of its own.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 21

# serial_of NODE IDENTITY: of the certificate that it has now, in hex
serial_of()
{
	ctl "$1" certificates -o json | jq -r ".[] | select(.identity | endswith(\"/sa/$2\")) | .certChain[0].pem" |
		base64 -d | openssl x509 -noout -serial | sed 's/.*=//'
}

# revoke NODE [SERIAL]: the node's list, signed by the CA, of this certificate or of none
revoke()
{
	: >"$CV_TMP/index.txt"
	[ -z "${2:-}" ] ||
		printf 'R\t401231235959Z\t200101000000Z\t%s\tunknown\t/CN=x\n' "$2" >"$CV_TMP/index.txt"
	printf '[ca]\ndefault_ca = lists\n[lists]\ndatabase = %s\n' "$CV_TMP/index.txt" >"$CV_TMP/ca.cnf"
	openssl ca -config "$CV_TMP/ca.cnf" -gencrl -md sha256 -crldays 30 -keyfile "$LAB/ca/root-key.pem" \
		-cert "$LAB/ca/root-cert.pem" -out "$CV_TMP/$1/new" 2>>"$CV_TMP/openssl.log" &&
		mv "$CV_TMP/$1/new" "$CV_TMP/$1/lists.pem"
}

# tick_start: a connection from client to far that goes on; its pid in $tick
tick_start()
{
	lab_exec='exec' pod_exec client "$CV_TOOLS/tcpcall" -v -m tick -i 50 -t 120000 $FAR4 7000 \
		>"$CV_TMP/tick" 2>&1 &
	tick=$!
	cleanup stop "$tick"
	wait_for 30 sh -c "nsenter --net=$(pod_netns far) ss -Hnt state established 'sport = :7000' | grep -q ."
}

tick_goes_on()
{
	! ktap_gone "$tick"
}

logged()
{
	grep -q -- "$2" "$LAB/$1.log"
}

# rejected NODE REPORTER COUNT: at least
rejected()
{
	[ "$(metric "$1" istio_crl_policy_rejections_total "reporter=\"$2\"")" -ge "$3" ]
}

# lists NODE N: it has read a file of so many
lists()
{
	logged "$1" "revocation lists: $2"
}

works()
{
	call $FAR4 7000 -m echo -n 100
}

fails()
{
	! works
}

mkdir "$CV_TMP/node1" "$CV_TMP/node2"
{
	mesh_pods && mesh_servers &&
		daemon_start node1 CRL_PATH="$CV_TMP/node1/lists.pem" &&
		daemon_start node2 CRL_PATH="$CV_TMP/node2/lists.pem" &&
		wait_ready node1 && wait_ready node2 && mesh_enrol
} >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# --- no list yet ---
check "without the file connections work" works
check "… and the log says so" logged node2 "lists.pem: cannot be read: No such file or directory"
if tick_start; then ok "a connection goes on"; else not_ok "a connection goes on"; fi

# --- the server's node revokes the client ---
revoke node2 "$(serial_of node1 client)"
check "the client is revoked: its connection ends" wait_for 30 ktap_gone "$tick"
check "… for that reason" wait_for 30 logged node2 "connection closed: peer certificate revoked by CRL"
check "… with its flag" wait_for 30 \
	sh -c "[ \"\$(ip netns exec $(run_name node2) curl -s http://127.0.0.1:15020/metrics |
		grep -c 'istio_tcp_connections_failed_total.*response_flags=\"CERT_REVOKED\"')\" -gt 0 ]"
check "… and counted" wait_for 30 rejected node2 destination 1
check "a new one is refused" fails
check "… and counted as well" wait_for 30 rejected node2 destination 2
check "another client is not" pod_exec near "$CV_TOOLS/tcpcall" -m echo -n 100 $FAR4 7000

# --- a list of nobody ---
revoke node2
check "a list without it lets it in again" wait_for 30 works
if tick_start; then ok "a connection goes on"; else not_ok "a connection goes on"; fi

# --- the client's node revokes the server; another's certificate is no reason ---
revoke node1 1234
check "a list of somebody else is read" wait_for 30 lists node1 1
check "… the connection goes on" tick_goes_on
revoke node1 "$(serial_of node2 far)"
check "the server is revoked: the connection ends" wait_for 30 ktap_gone "$tick"
check "… and is counted" wait_for 30 rejected node1 source 1
check "a new one is refused" fails
check "… for that reason" wait_for 30 logged node1 "io error: certificate revoked"

# --- a file that can't be used changes nothing ---
echo nonsense >"$CV_TMP/node1/new" && mv "$CV_TMP/node1/new" "$CV_TMP/node1/lists.pem"
check "a broken file is told of" wait_for 30 logged node1 "it is neither PEM nor one DER list"
check "… and the lists stay" fails
: >"$CV_TMP/node1/new" && mv "$CV_TMP/node1/new" "$CV_TMP/node1/lists.pem"
check "an empty one is one without lists" wait_for 30 works
