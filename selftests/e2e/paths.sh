#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every path that a connection can take carries every byte both ways and both half-closes, in IPv4
# and IPv6; is reported with its tier; and shows the application the addresses it expects.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 31
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# took TIER COMMAND…: does it, and one more connection of the tier is reported. Direct ones are reported a moment
# after they were made; so that none is taken for one of a later check, each is waited for.
took()
{
	tier=$1
	shift
	before=$(opened node1 "$tier")
	"$@" || return
	wait_for 10 more_opened "$tier" "$before" ||
		{ echo "no new connection of tier $tier: still $before"; return 1; }
}

more_opened()
{
	[ "$(opened node1 "$1")" -gt "$2" ]
}

# switches TIER ADDRESS PORT: sooner or later connections to there take this tier
switches()
{
	tier=$1
	shift
	before=$(opened node1 "$tier")
	wait_for 30 switched "$@" || { echo "still no connection of tier $tier"; return 1; }
}

switched()
{
	call "$@" -m echo -n 1000
	more_opened "$tier" "$before"
}

echoes="-m echo -n 3000000"

for family in 4 6; do
	eval "near=\$NEAR$family far=\$FAR$family plain=\$PLAIN$family outside=\$OUTSIDE$family"
	eval "client=\$CLIENT$family"
	check "IPv$family direct: echo with half-close" took direct call "$near" 7000 $echoes
	check "IPv$family HBONE: echo with half-close" took tls call "$far" 7000 $echoes
	check "IPv$family plain workload of the mesh" took passthrough call "$plain" 7000 $echoes
	check "IPv$family unknown destination" took passthrough call "$outside" 7000 $echoes
	check "IPv$family direct: the server sees the client's address" \
		took direct call "$near" 7001 -m line -e "$client"
	check "IPv$family HBONE: the server sees the client's address" \
		took tls call "$far" 7001 -m line -e "$client"
	check "IPv$family inbound plain TCP of a stranger" \
		pod_exec outside "$CV_TOOLS/tcpcall" $echoes "$near" 7000
	check "IPv$family inbound plain TCP: the server sees the stranger's address" \
		pod_exec outside "$CV_TOOLS/tcpcall" -m line -e "$outside" "$far" 7001
done

# --- service VIPs ---
check "VIP with a local endpoint is direct" took direct call $NEAR_VIP4 80 $echoes
check "VIP with a remote endpoint is HBONE" took tls call $FAR_VIP4 80 $echoes
# shows_vip VIP: getpeername() says that it is the peer
shows_vip()
{
	call "$1" 80 -v -s x | grep -q "peer=.*$1"
}
check "getpeername shows the VIP on the direct tier" took direct shows_vip $NEAR_VIP4
check "getpeername shows the VIP across nodes" took tls shows_vip $FAR_VIP4

# counted N: so many more of either tier are reported
counted()
{
	[ $(($(opened node1 direct) + $(opened node1 tls) - direct_before - tls_before)) -ge "$1" ]
}
direct_before=$(opened node1 direct)
tls_before=$(opened node1 tls)
check "200 connections to a VIP with two endpoints" call $ECHO_VIP4 80 -m echo -n 100 -c 200 -j 4
wait_for 30 counted 200
direct=$(($(opened node1 direct) - direct_before))
tls=$(($(opened node1 tls) - tls_before))
comment "local $direct, remote $tls"
check_eq "each connection took one of the two" 200 $((direct + tls))
check "both endpoints have their share (60 to 140 of 200: 1 in 10^8 by chance)" \
	[ "$direct" -ge 60 -a "$direct" -le 140 ]
check "IPv6 VIP" call $ECHO_VIP6 80 $echoes

# --- the tls tier on one node ---
cat >"$LAB/node1.culvert.yaml" <<END
sameNode:
  pods: {default/near: tls}
END
check "sameNode: tls takes effect within seconds" switches tls $NEAR4 7000
check "sameNode: tls by VIP" took tls call $NEAR_VIP4 80 $echoes
check "sameNode: tls, the server sees the client's address" call $NEAR4 7001 -m line -e $CLIENT4
rm "$LAB/node1.culvert.yaml"
echo "sameNode: {mesh: direct}" >"$LAB/node1.culvert.yaml"
check "back to direct" switches direct $NEAR4 7000

# --- nothing is left of any of them ---
check "no live connection is listed when all are closed" wait_for 10 sh -c \
	"[ \"\$(nsenter --net=/run/netns/$(run_name node1) env CULVERT_RUN_DIR=$(node_run_dir node1) \
		CULVERT_BPFFS=$(node_bpffs node1) $CULVERTCTL connections -o json | jq length)\" = 0 ]"
check "metrics text ends as OpenMetrics asks" sh -c \
	"nsenter --net=/run/netns/$(run_name node1) curl -fsS http://127.0.0.1:15020/metrics | tail -n 1 | grep -qx '# EOF'"
check "readiness says ready" sh -c \
	"nsenter --net=/run/netns/$(run_name node1) curl -fsS http://127.0.0.1:15021/healthz/ready | grep -qx ready"
