#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Waypoints between culvert on one node and a real ztunnel on the other: either finds the waypoint
# behind the other, by service and by workload, and the waypoint's application is told the same by
# both.
#
#	node1, culvert: ours, wp1  ──── link ────  node2, ztunnel: theirs, wp2
#
# wp1 is the waypoint of what is on node1, wp2 of what is on node2. ZTUNNEL=path of a ztunnel; skipped
# without it.
# shellcheck disable=SC2154

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/interop/ztunnel.sh"

missing=$(interop_missing)
[ -z "$missing" ] || skip_all "$missing"

OURS4=10.244.1.10 OURS6=fd10:244:1::10 THEIRS4=10.244.2.10 THEIRS6=fd10:244:2::10
OUR_VIP4=10.96.0.1 OUR_VIP6=fd96::1 THEIR_VIP4=10.96.0.2 THEIR_VIP6=fd96::2
tunnel='applicationTunnel: {protocol: PROXY, port: 15088}'

# behind WAYPOINT: the line of a record
behind()
{
	echo "waypoint: {destination: \"default/$(service_host "$1")\", hboneMtlsPort: 15008}"
}

# app_start WAYPOINT VIP4 VIP6 IPV4 IPV6
app_start()
{
	pod_start "$1" "$CV_SELFTESTS/e2e/waypoint_app.py" 15088 "$CV_TMP/$1.log" \
		"$2:80=$4:7000" "[$3]:80=[$5]:7000"
}

set_up()
{
	lab_up node1 node2 &&
		pod_add node1 ours $OURS4 $OURS6 "extra=$(behind wp1)" &&
		pod_add node1 wp1 10.244.1.20 fd10:244:1::20 "extra=$tunnel" &&
		pod_add node2 theirs $THEIRS4 $THEIRS6 "extra=$(behind wp2)" &&
		pod_add node2 wp2 10.244.2.20 fd10:244:2::20 "extra=$tunnel" &&
		service_add ours $OUR_VIP4 $OUR_VIP6 80 7000 ours &&
		service_add theirs $THEIR_VIP4 $THEIR_VIP6 80 7000 theirs &&
		service_add wp1 10.96.0.11 fd96::11 15008 15008 wp1 &&
		service_add wp2 10.96.0.12 fd96::12 15008 15008 wp2 || return
	echo "extra='$(behind wp1)'" >>"$LAB/services/ours"
	echo "extra='$(behind wp2)'" >>"$LAB/services/theirs"
	mesh_file
	for pod in ours theirs; do
		pod_start $pod "$CV_TOOLS/tcpecho" -p 7000
		pod_start $pod "$CV_TOOLS/tcpecho" -p 7001 -m whoami
	done
	app_start wp1 $OUR_VIP4 $OUR_VIP6 $OURS4 $OURS6
	app_start wp2 $THEIR_VIP4 $THEIR_VIP6 $THEIRS4 $THEIRS6
	daemon_start node1 && wait_ready node1 && pod_enrol ours && pod_enrol wp1 &&
		peer_up node2 && peer_start node2 && wait_ready node2 && peer_enrol theirs &&
		peer_enrol wp2
}

# told WAYPOINT PATTERN: its application was told so
told()
{
	wait_for 10 grep -qE "$2" "$CV_TMP/$1.log" || {
		cat "$CV_TMP/$1.log"
		return 1
	}
}

# direction CLIENT CLIENT4 CLIENT6 WAYPOINT WAYPOINT4 IPV4 IPV6 VIP4 VIP6
direction()
{
	identity=spiffe://cluster.local/ns/default/sa/$1
	check "$1 → $4: by service" pod_exec "$1" "$CV_TOOLS/tcpcall" -m echo -n 1000000 "$8" 80
	check "$1 → $4: by service, what the waypoint is told" told "$4" "^$2:[0-9]+ $8:80 $identity\$"
	check "$1 → $4: by service, IPv6" pod_exec "$1" "$CV_TOOLS/tcpcall" -m echo -n 100000 "$9" 80
	check "$1 → $4: by service, IPv6, what the waypoint is told" \
		told "$4" "^\[$3\]:[0-9]+ \[$9\]:80 $identity\$"
	check "$1 → $4: by workload, which sees the waypoint's address" \
		pod_exec "$1" "$CV_TOOLS/tcpcall" -m line -e "$5" "$6" 7001
	check "$1 → $4: by workload, what the waypoint is told" told "$4" "^$2:[0-9]+ $6:7001 $identity\$"
	check "$1 → $4: by workload, IPv6" \
		pod_exec "$1" "$CV_TOOLS/tcpcall" -m echo -n 100000 "$7" 7000
}

plan 14
set_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}
direction ours $OURS4 $OURS6 wp2 10.244.2.20 $THEIRS4 $THEIRS6 $THEIR_VIP4 $THEIR_VIP6
direction theirs $THEIRS4 $THEIRS6 wp1 10.244.1.20 $OURS4 $OURS6 $OUR_VIP4 $OUR_VIP6
