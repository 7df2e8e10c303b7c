#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The DNS proxy with the kernel's capture: an enrolled pod asks a resolver that it has always asked, and
# is answered by the daemon for what the mesh knows, and by that resolver, through the daemon, for the
# rest.
#
#	client (enrolled)        resolver (not enrolled): dns_peer.py on 10.244.1.53 and fd10:244:1::53
#	near, near2 (enrolled)   endpoints of the services

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 73
RESOLVER4=10.244.1.53 RESOLVER6=fd10:244:1::53
peer="python3 $CV_SELFTESTS/e2e/dns_peer.py"

service_entries()
{
	cat <<-END
		- {name: out, namespace: default, hostname: www.out.example, vips: ["/10.96.9.1"], ports: {80: 80}}
		- {name: wild, namespace: default, hostname: "*.wild.example", vips: ["/10.96.9.2"], ports: {80: 80}}
		- {name: hidden, namespace: other, hostname: hidden.example, vips: ["/10.96.9.3"], ports: {80: 80}, visibility: Namespace}
		- {name: broad, namespace: default, hostname: broad.example, vips: [$(seq -s, -f '"/10.97.0.%g"' 1 100)], ports: {80: 80}}
	END
}

up()
{
	lab_up node1 &&
		pod_add node1 client $CLIENT4 $CLIENT6 &&
		pod_add node1 near $NEAR4 $NEAR6 &&
		pod_add node1 near2 10.244.1.21 fd10:244:1::21 &&
		pod_add node1 resolver $RESOLVER4 $RESOLVER6 absent=1 &&
		service_add echo $ECHO_VIP4 $ECHO_VIP6 80 7000 near &&
		service_add four $NEAR_VIP4 - 80 7000 near &&
		service_add headless - - 80 7000 near near2 &&
		mesh_file && service_entries >"$LAB/entries" &&
		sed -i "/^services:\$/r $LAB/entries" "$LAB/mesh.yaml" || return
	pod_start resolver $peer serve $RESOLVER4 $RESOLVER6
	resolver_pid=$!
	wait_for 30 grep -q ready "$LAB/resolver.log" &&
		daemon_start node1 RUST_LOG=info,dns=debug && wait_ready node1 &&
		pod_enrol client
}

# digs [OPTION…] NAME: what the client's dig prints
digs()
{
	pod_exec client dig +tries=1 +timeout=10 "$@"
}

# found WANT [OPTION…]: the answers, sorted and joined by blanks
found()
{
	want=$1
	shift
	got=$(digs +short "$@" | sort | tr '\n' ' ' | sed 's/ $//')
	[ "$got" = "$want" ] || { echo "got '$got', expected '$want'"; return 1; }
}

# shows PATTERN [OPTION…]: dig's whole output has it
shows()
{
	pattern=$1
	shift
	digs "$@" >"$CV_TMP/dig.out"
	grep -q -- "$pattern" "$CV_TMP/dig.out" || { cat "$CV_TMP/dig.out"; return 1; }
}

# asked PROTO NAME: how often the resolver was
asked()
{
	grep -c "^$1 .* $2 " "$LAB/resolver.log"
}

fds_are()
{
	[ "$(metric node1 process_open_fds)" -le "$1" ]
}

# listens POD ADDRESS PORT: somebody there does, by UDP
listens()
{
	pod_exec "$1" ss -Huln "sport = :$3" | grep -qF "$2"
}

# bpf_reason NAME: the kernel's counter, without the daemon
bpf_reason()
{
	bpftool map dump pinned "$(node_bpffs node1)/maps/cv_reasons" -j |
		jq "[.[0].formatted.values[].value.$1] | add"
}

up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/*.log)"
	exit 1
}

# --- names of the mesh, from the resolver's own address ---
for family in 4 6; do
	eval "resolver=@\$RESOLVER$family"
	for proto in +notcp +tcp; do
		on="IPv$family $proto"
		check "$on: a service by its whole name" found $ECHO_VIP4 "$resolver" $proto echo.default.svc.cluster.local
		check "$on: AAAA" found $ECHO_VIP6 "$resolver" $proto AAAA echo.default.svc.cluster.local
		check "$on: the answer comes from the server that was asked" \
			shows "SERVER: ${resolver#@}#53" "$resolver" $proto echo.default
		check "$on: a name that the mesh does not know is forwarded" found 192.0.2.1 "$resolver" $proto plain.example
		check "$on: … to the server that was asked" [ "$(asked '...' plain.example)" -gt 0 ]
		check "$on: NXDOMAIN stays NXDOMAIN" shows 'status: NXDOMAIN' "$resolver" $proto nobody.example
	done
done
at=@$RESOLVER4
check_eq "nothing of the mesh's names went upstream" 0 "$(grep -c cluster.local "$LAB/resolver.log")"
check "the resolver sees the pod's address" grep -q "^udp $CLIENT4 plain.example" "$LAB/resolver.log"
check "our answers are authoritative" shows 'flags: qr aa rd ra' $at echo.default
check "forwarded ones are not" shows 'flags: qr rd ra;' $at plain.example
check "other types are forwarded" found '"hello"' $at TXT plain.example
check "short name" found $ECHO_VIP4 $at echo
check "with the search domain: an alias and the address" found "$ECHO_VIP4 echo.default." \
	$at echo.default.default.svc.cluster.local
check "a service without IPv6 has no AAAA, and exists" shows 'status: NOERROR.*\|ANSWER: 0' $at AAAA four.default
check "headless: every endpoint" found "$NEAR4 10.244.1.21" $at headless
check "headless: AAAA" found "$NEAR6 fd10:244:1::21" $at AAAA headless
check "external host" found 10.96.9.1 $at www.out.example
check "external host behind the search domain" found "10.96.9.1 www.out.example." $at www.out.example.svc.cluster.local
check "wildcard" found 10.96.9.2 $at a.b.wild.example
check "a service that this namespace must not see is forwarded" shows 'status: NXDOMAIN' $at hidden.example

# --- sizes ---
check "own answer, cut for 512 bytes" shows 'flags: qr aa tc' $at +ignore +noedns broad.example
check_eq "own answer, whole by TCP" 100 "$(digs +short $at +noedns broad.example | wc -l)"
check "upstream's answer, cut" shows 'flags: qr tc' $at +ignore big.example
check_eq "upstream's answer, whole by TCP" 200 "$(digs +short $at big.example | wc -l)"
check "… fetched by TCP" [ "$(asked tcp big.example)" -gt 0 ]

# --- trouble ---
check "guessed answers are not taken" found 192.0.2.2 $at mixed.example
check "REFUSED stays REFUSED" shows 'status: REFUSED' $at refused.example
check_eq "another opcode: not implemented" 1234a084 \
	"$(pod_exec client $peer raw $RESOLVER4 12342000000100000000000001610000010001 | cut -c 1-8)"
check_eq "a message that is an answer: malformed" 12348081 \
	"$(pod_exec client $peer raw $RESOLVER4 12348000000100000000000001610000010001 | cut -c 1-8)"
fds_before=$(metric node1 process_open_fds)
check "1000 queries at once, half of them forwarded" \
	pod_exec client $peer flood $RESOLVER4 1000 echo.default.svc.cluster.local plain.example
check "IPv6: 1000 queries at once" \
	pod_exec client $peer flood $RESOLVER6 1000 echo.default.svc.cluster.local plain.example
check "no socket is left of them" wait_for 10 fds_are "$fds_before"

# --- what is no DNS of the pod's own is left alone ---
pod_enrol near
PORT=5300 pod_start resolver $peer serve $RESOLVER4
wait_for 30 listens resolver $RESOLVER4 5300
check "another port passes" shows 'status: NXDOMAIN' $at -p 5300 echo.default
pod_start near $peer serve $NEAR4 $NEAR6
wait_for 30 listens near $NEAR4 53
check "an enrolled pod serves DNS by UDP" sh -c \
	"nsenter --net=$(pod_netns resolver) dig +short +timeout=5 @$NEAR4 plain.example | grep -qx 192.0.2.1"
check "… and by TCP" sh -c \
	"nsenter --net=$(pod_netns resolver) dig +tcp +short +timeout=5 @$NEAR6 plain.example | grep -qx 192.0.2.1"
check "a direct pair's DNS by TCP is the daemon's too" found $ECHO_VIP4 @$NEAR4 +tcp echo.default

# --- what is told ---
check "queries are counted" \
	[ "$(metric node1 istio_dns_requests_total 'type="a"' 'protocol="udp"' 'canonical_service="client"')" -gt 1000 ]
check "by TCP, too" [ "$(metric node1 istio_dns_requests_total 'type="aaaa"' 'protocol="tcp"')" -gt 0 ]
check "forwarded ones are counted" [ "$(metric node1 istio_dns_upstream_requests_total)" -gt 1000 ]
check "failures are counted" [ "$(metric node1 istio_dns_upstream_failures_total)" -gt 0 ]
check_eq "and timed" "$(metric node1 istio_dns_upstream_requests_total)" \
	"$(metric node1 istio_dns_upstream_request_duration_seconds_count)"
check "the log has a line for one" grep -q \
	'debug	dns	.*src.workload="client" src.namespace="default" query="A" domain="www.out.example." result="success" endpoints=1' \
	"$LAB/node1.log"

# --- the daemon is away ---
daemon_stop node1 KILL
check "killed: the resolver is asked directly" found 192.0.2.1 $at plain.example
check "killed: it does not know the mesh's names" shows 'status: NXDOMAIN' $at echo.default
check "killed: counted" [ "$(bpf_reason dns_unserved)" -gt 0 ]
check "killed: TCP is refused at once" shows 'connection refused' $at +tcp plain.example
daemon_start node1 ISTIO_META_DNS_CAPTURE=false && wait_ready node1
check "switched off: the resolver is asked" shows 'status: NXDOMAIN' $at echo.default
check "switched off: by TCP through the daemon, as any connection" found 192.0.2.1 $at +tcp plain.example
daemon_stop node1
daemon_start node1 && wait_ready node1
check "back: the mesh's names are answered" wait_for 10 found $ECHO_VIP4 $at echo
check "back: by TCP" found $ECHO_VIP4 $at +tcp echo

# --- the upstream is away ---
kill "$resolver_pid"
wait_for 10 ktap_gone "$resolver_pid"
check "no upstream: SERVFAIL, soon" shows 'status: SERVFAIL' $at +timeout=3 plain.example
check "… by TCP as well" shows 'status: SERVFAIL' $at +timeout=3 +tcp plain.example
check "the mesh's names are still answered" found $ECHO_VIP4 $at echo

# --- the pod leaves ---
pod_start resolver $peer serve $RESOLVER4
wait_for 30 listens resolver $RESOLVER4 53
pod_unenrol client
check "unenrolled: the resolver is asked" shows 'status: NXDOMAIN' $at echo.default
check "unenrolled: nothing of the proxy is left in the pod" sh -c "! nsenter --net=$(pod_netns client) ss -Huln | grep ."
