#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# culvert on one node and a real ztunnel on the other understand each other, both ways: addresses,
# services, half-close, resets, many connections, many bytes, policies on either side, restarts.
#
#	node1, culvert: ours  ──── link ────  node2, ztunnel: theirs
#
# With CV_OURS=inpod (test_inpod.sh) culvert is in ztunnel's place as well. Both pods run the same
# servers. ZTUNNEL=path of a ztunnel; skipped without it.
# timeout: 900
# shellcheck disable=SC2154

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/interop/ztunnel.sh"

ECHO=7000 WHOAMI=7001 SINK=7002 RESETS=7003 NOT_OURS=7004 NOT_THEIRS=7005
REFUSED=ECONNRESET,EPIPE,less
GIGABYTE=1000000000

missing=$(interop_missing)
[ -z "$missing" ] || skip_all "$missing"

# ---- set-up --------------------------------------------------------------------------------------

start_servers()
{
	for pod in ours theirs; do
		pod_start $pod "$CV_TOOLS/tcpecho" -v -p $ECHO
		pod_start $pod "$CV_TOOLS/tcpecho" -p $WHOAMI -m whoami
		pod_start $pod "$CV_TOOLS/tcpecho" -p $SINK -m sink
		pod_start $pod "$CV_TOOLS/tcpecho" -p $RESETS -m reset
		pod_start $pod "$CV_TOOLS/tcpecho" -p $NOT_OURS
		pod_start $pod "$CV_TOOLS/tcpecho" -p $NOT_THEIRS
	done
}

# deny_account PORT SERVICE-ACCOUNT: nobody of this account gets to this port
deny_account()
{
	cat <<-END
		- name: deny-$2
		  namespace: default
		  scope: Namespace
		  action: Deny
		  dryRun: false
		  rules:
		  - - - serviceAccounts: [{namespace: default, serviceAccount: $2}]
		    - - destinationPorts: [$1]
	END
}

ours_start()
{
	if [ "${CV_OURS:-}" = inpod ]; then
		inpod_start node1 node1 && wait_ready node1
	else
		daemon_start node1 && wait_ready node1
	fi
}

ours_up()
{
	if [ "${CV_OURS:-}" = inpod ]; then
		agent_up node1 && ours_start && inpod_enrol ours
	else
		ours_start && pod_enrol ours
	fi
}

set_up()
{
	lab_up node1 node2 &&
		pod_add node1 ours 10.244.1.10 fd10:244:1::10 &&
		pod_add node2 theirs 10.244.2.10 fd10:244:2::10 &&
		service_add ours 10.96.0.1 fd96::1 80 $ECHO ours &&
		service_add theirs 10.96.0.2 fd96::2 80 $ECHO theirs || return
	deny_account $NOT_OURS ours >"$LAB/policies.yaml"
	deny_account $NOT_THEIRS theirs >>"$LAB/policies.yaml"
	mesh_file
	start_servers
	# culvertd first: it makes the root that the peer's certificates are signed with.
	ours_up && peer_up node2 && peer_start node2 && wait_ready node2 && peer_enrol theirs
}

# from POD OPTION… ADDRESS PORT
from()
{
	from_pod=$1
	shift
	pod_exec "$from_pod" "$CV_TOOLS/tcpcall" -w 30000 "$@"
}

# ---- one direction -------------------------------------------------------------------------------

# A client that resets ends the server's connection. (HBONE carries an end, not a reset.)
reset_ends()
(
	before=$(grep -c '^peer=' "$LAB/$2.log")
	from "$1" -m tick -t 300 -i 10 -r "$3" $ECHO || return
	wait_for 10 more_ended "$2" "$before"
)

more_ended()
{
	[ "$(grep -c '^peer=' "$LAB/$1.log")" -gt "$2" ]
}

# addresses CLIENT SERVER IPV4 IPV6 VIP4 VIP6
addresses()
{
	check "$1 → $2: pod address" from "$1" -m echo -n 1000000 "$3" $ECHO
	check "$1 → $2: IPv6 pod address" from "$1" -m echo -n 1000000 "$4" $ECHO
	check "$1 → $2: service address" from "$1" -m echo -n 1000000 "$5" 80
	check "$1 → $2: IPv6 service address" from "$1" -m echo -n 1000000 "$6" 80
	check "$1 → $2: the server sees the client's address" \
		from "$1" -e "$(pod_get "$1" ip4):" "$3" $WHOAMI
}

# streams CLIENT SERVER IPV4
streams()
{
	check "$1 → $2: an answer after the client's half-close" \
		from "$1" -m sink -n 100000 "$3" $SINK
	check "$1 → $2: the server's reset ends it" \
		from "$1" -m echo -n 1000 -x $REFUSED "$3" $RESETS
	check "$1 → $2: the client's reset ends it" reset_ends "$1" "$2" "$3"
	check "$1 → $2: 1,000 connections at once" \
		from "$1" -m tick -t 2000 -i 500 -c 1000 "$3" $ECHO
	check "$1 → $2: 1 GB, every byte compared" \
		from "$1" -m sink -n $GIGABYTE -w 120000 "$3" $SINK
}

# policies CLIENT SERVER IPV4 DENIED-PORT ALLOWED-PORT
policies()
{
	check "$1 → $2: refused by the server's node, for who it is" \
		from "$1" -m echo -x $REFUSED "$3" "$4"
	check "$1 → $2: not what is refused to others" from "$1" -m echo "$3" "$5"
}

both_ways()
{
	wait_for 20 from ours -m echo 10.244.2.10 $ECHO &&
		wait_for 20 from theirs -m echo 10.244.1.10 $ECHO
}

# Nothing but HBONE goes over the link.
only_hbone()
(
	capture_start node1 "$CV_TMP/link.pcap" tcp and not port 15008 || return
	from ours -m echo 10.244.2.10 $ECHO && from theirs -m echo 10.244.1.10 $ECHO || return
	capture_stop node1
	others=$(tcpdump -nn -r "$CV_TMP/link.pcap" 2>/dev/null)
	echo "$others"
	[ -z "$others" ]
)

restart_theirs()
{
	daemon_stop node2 && peer_start node2 && wait_ready node2 && both_ways
}

restart_ours()
{
	daemon_stop node1 KILL && ours_start && both_ways
}

plan 30
check "culvert on node1, ztunnel on node2" set_up
check "they connect, both ways" both_ways
addresses ours theirs 10.244.2.10 fd10:244:2::10 10.96.0.2 fd96::2
addresses theirs ours 10.244.1.10 fd10:244:1::10 10.96.0.1 fd96::1
streams ours theirs 10.244.2.10
streams theirs ours 10.244.1.10
policies ours theirs 10.244.2.10 $NOT_OURS $NOT_THEIRS
policies theirs ours 10.244.1.10 $NOT_THEIRS $NOT_OURS
check "nothing but HBONE is on the link" only_hbone
check "ztunnel restarts" restart_theirs
check "culvertd is killed and restarts" restart_ours
check "policy holds after the restarts" from theirs -m echo -x $REFUSED 10.244.1.10 $NOT_THEIRS
[ "$ktap_failed" = 0 ] || comment "$(tail -n 40 "$LAB/node1.log" "$LAB/node2.ztunnel.log")"
