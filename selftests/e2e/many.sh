#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Many connections: 500 at once on each path, 10,000 in a row; afterwards nothing is left of them: no
# descriptor, no memory to speak of, no entry of a map.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 16
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

fds()
{
	find "/proc/$(daemon_pid "$1")/fd" -mindepth 1 | wc -l
}

rss_kb()
{
	awk '/^VmRSS/ { print $2 }' "/proc/$(daemon_pid "$1")/status"
}

# code_kb NODE: how much of its programs' code is resident
code_kb()
{
	awk '/^[0-9a-f]+-/ { code = $2 == "r-xp" && $6 ~ /^\// }
		code && /^Rss:/ { kb += $2 }
		END { print kb }' "/proc/$(daemon_pid "$1")/smaps"
}

# gives_back NODE: after a burst, its code that is not called comes to be resident no more. It may have come
# to that between the burst and the look; then another burst tells.
gives_back()
{
	for _ in 1 2 3 4 5; do
		call $FAR4 7000 $many && used=$(code_kb "$1") &&
			wait_for 30 settled code_kb $((used - 200)) "$1" && return
	done
}

entries()
{
	ctl "$1" status -o json | jq ".maps[] | select(.name == \"$2\") | .entries"
}

# settled COMMAND WANT ARG…: the command's number comes down to WANT
settled()
{
	[ "$("$1" $3 $4)" -le "$2" ]
}

many="-m echo -n 20000 -c 500 -w 60000"
check "500 at once, direct" call $NEAR4 7000 $many
check "500 at once, HBONE" call $FAR4 7000 $many
check "500 at once, passthrough" call $OUTSIDE4 7000 $many
check "500 at once, plaintext inbound" pod_exec outside "$CV_TOOLS/tcpcall" $many $NEAR4 7000
wait_for 20 settled entries 0 node1 cv_attested
fds1=$(fds node1) fds2=$(fds node2) rss1=$(rss_kb node1) rss2=$(rss_kb node2)
attested=$(entries node1 cv_attested)
check "10,000 in a row, HBONE" call $FAR4 7000 -m echo -n 1000 -c 10000 -j 8 -w 60000
check "10,000 in a row, direct" call $NEAR4 7000 -m echo -n 1000 -c 10000 -j 8 -w 60000
comment "node1: $fds1 fds, $rss1 kB before, $(fds node1) fds, $(rss_kb node1) kB after"
comment "node2: $fds2 fds, $rss2 kB before, $(fds node2) fds, $(rss_kb node2) kB after"
check "no descriptor is left, node1" wait_for 20 settled fds $((fds1 + 4)) node1
check "no descriptor is left, node2" wait_for 20 settled fds $((fds2 + 4)) node2
check "memory has not grown by more than 4 MB, node1" wait_for 30 settled rss_kb $((rss1 + 4096)) node1
check "memory has not grown by more than 4 MB, node2" wait_for 30 settled rss_kb $((rss2 + 4096)) node2
check "no attested connection is left, node1" wait_for 20 settled entries "$attested" node1 cv_attested
check "no flow record is left, node1" wait_for 20 settled entries 0 node1 cv_flows
check "no attested connection is left, node2" wait_for 20 settled entries "$attested" node2 cv_attested
check "all closed connections were counted" [ "$(opened node1 direct)" -ge 10500 ]

# A connection that has next to nothing to say keeps no memory from being given back.
pod_exec client "$CV_TOOLS/tcpcall" -m tick -v -i 500 -t 3600000 $FAR4 7000 >"$CV_TMP/tick" &
tick=$!
wait_for 20 grep -q '^ticking' "$CV_TMP/tick"
check "code that is not called is given back, with a connection open" gives_back node1
stop "$tick"
check "both daemons are alive" kill -0 "$(daemon_pid node1)" "$(daemon_pid node2)"
