#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The DNS proxy in ztunnel's place: istio-cni's rules redirect a pod's queries to 15053, whoever they
# were for, and what the mesh does not know is asked of the servers in the daemon's resolv.conf.
#
#	client (handed over)     resolver (not enrolled): dns_peer.py, named in resolv.conf
#	near                     endpoint of the service; nobody is at 10.244.1.99

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/lib/inpod.sh"

plan 21
RESOLVER4=10.244.1.53 RESOLVER6=fd10:244:1::53
peer="python3 $CV_SELFTESTS/e2e/dns_peer.py"

# A culvertd that sees another resolv.conf than we do.
cat >"$CV_TMP/culvertd" <<END
#!/bin/sh
exec unshare -m sh -c 'mount --bind "$CV_TMP/resolv.conf" /etc/resolv.conf && exec "$CULVERTD" "\$@"' - "\$@"
END
chmod +x "$CV_TMP/culvertd"
printf 'nameserver %s\nnameserver %s\noptions timeout:2\n' $RESOLVER4 $RESOLVER6 >"$CV_TMP/resolv.conf"
CULVERTD=$CV_TMP/culvertd

up()
{
	lab_up node1 &&
		pod_add node1 client $CLIENT4 $CLIENT6 &&
		pod_add node1 near $NEAR4 $NEAR6 &&
		pod_add node1 resolver $RESOLVER4 $RESOLVER6 absent=1 &&
		service_add echo $ECHO_VIP4 $ECHO_VIP6 80 7000 near &&
		mesh_file || return
	pod_start resolver $peer serve $RESOLVER4
	resolver_pid=$!
	wait_for 30 grep -q ready "$LAB/resolver.log" &&
		agent_up node1 && inpod_start node1 node1 RUST_LOG=info,dns=debug && wait_ready node1 &&
		inpod_enrol client && pod_exec client nft -f "$CV_SELFTESTS/lib/redirect_dns.nft"
}

# found WANT [OPTION…]: the answers that the client's dig gets, joined by blanks
found()
{
	want=$1
	shift
	got=$(pod_exec client dig +tries=1 +timeout=10 +short "$@" | sort | tr '\n' ' ' | sed 's/ $//')
	[ "$got" = "$want" ] || { echo "got '$got', expected '$want'"; return 1; }
}

# shows PATTERN [OPTION…]: dig's whole output has it
shows()
{
	pattern=$1
	shift
	pod_exec client dig +tries=1 +timeout=10 "$@" >"$CV_TMP/dig.out"
	grep -q -- "$pattern" "$CV_TMP/dig.out" || { cat "$CV_TMP/dig.out"; return 1; }
}

up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/*.log)"
	exit 1
}

check "nothing is pinned" [ ! -e "$(node_bpffs node1)" ]
check "the proxy listens on the pod's loopback, both families" sh -c \
	"nsenter --net=$(pod_netns client) ss -Huln 'sport = :15053' | awk '{ print \$4 }' | sort -u | tr '\n' ' ' | grep -qx '127.0.0.1:15053 \[::1\]:15053 '"
for server in $RESOLVER4 10.244.1.99 $RESOLVER6; do
	for proto in +notcp +tcp; do
		check "@$server $proto: a service" found $ECHO_VIP4 @$server $proto echo.default
		check "@$server $proto: forwarded to resolv.conf's" found 192.0.2.1 @$server $proto plain.example
	done
done
check "the resolver sees the pod's address" grep -q "^udp $CLIENT4 plain.example" "$LAB/resolver.log"
check "the proxy's own queries are not redirected again: each arrives once" \
	[ "$(grep -c plain.example "$LAB/resolver.log")" = 6 ]
check "NXDOMAIN stays NXDOMAIN" shows 'status: NXDOMAIN' @$RESOLVER4 nobody.example
check "big answers by TCP" sh -c \
	"[ \$(nsenter --net=$(pod_netns client) dig +short +timeout=10 @$RESOLVER4 big.example | wc -l) = 200 ]"
check "1000 queries at once, half of them forwarded" \
	pod_exec client $peer flood $RESOLVER4 1000 echo.default.svc.cluster.local plain.example
check "the first server is away: the second is asked" sh -c "kill $resolver_pid"
pod_start resolver $peer serve $RESOLVER6
wait_for 30 eval "pod_exec resolver ss -Huln 'sport = :53' | grep -qF $RESOLVER6"
check "… and answers" found 192.0.2.1 @$RESOLVER4 plain.example
