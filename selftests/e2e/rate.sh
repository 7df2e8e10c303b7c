#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Short connections for a minute on the direct tier and across nodes: their rate, as a share of what two
# pods outside the mesh reach in the same seconds, is at the end what it was at first. Ports and TIME_WAIT
# must not accumulate against us.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 4
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# The callers' own TIME_WAIT is not what is tested: without this, a pod that dials one port stalls for
# seconds after 28,000 connections, with and without a mesh.
for pod in client plain; do
	pod_exec $pod sysctl -qw net.ipv4.tcp_tw_reuse=1
done

# burst POD ADDRESS: milliseconds for 2,000 connections of 100 bytes there and back; the failed ones,
# and what the daemons say of them, on standard error
burst()
{
	burst_start=$(date +%s%N)
	pod_exec "$1" "$CV_TOOLS/tcpcall" -m echo -n 100 -c 2000 -j 4 -w 30000 "$2" 7000 \
		>"$CV_TMP/burst.$2" ||
		{ { cat "$CV_TMP/burst.$2"; grep -h 'error=' "$LAB"/node?.log | tail -n 20; } >&2; return 1; }
	echo $((($(date +%s%N) - burst_start) / 1000000))
}

# share ADDRESS: median of three of 100 * rate in the mesh / rate outside it, side by side
share()
{
	for _ in 1 2 3; do
		share_mesh=$(burst client "$1") && share_none=$(burst plain $OUTSIDE4) || return
		echo $((100 * share_none / (share_mesh + 1)))
	done | sort -n | sed -n 2p
}

# churn ADDRESS SECONDS: as many connections as there can be
churn()
{
	churn_end=$(($(date +%s) + $2))
	churn_n=0
	while [ "$(date +%s)" -lt $churn_end ]; do
		burst client "$1" >/dev/null || return
		churn_n=$((churn_n + 2000))
	done
	comment "$churn_n connections to $1 in $2 s"
}

# holds FIRST ADDRESS: two thirds of that share at least, in one of five measurements: what accumulates stays,
# what else the machine does comes and goes
holds()
{
	for _ in 1 2 3 4 5; do
		last=$(share "$2") || return
		echo "$1 % of the rate without a mesh at first, now $last %"
		[ "$last" -lt $(($1 * 2 / 3)) ] || return 0
	done
	return 1
}

# churned STATUS FILE: how a churn in the background has ended, and what it said
churned()
{
	cat "$2"
	return "$1"
}

direct=$(share $NEAR4)
hbone=$(share $FAR4)
churn $NEAR4 60 >"$CV_TMP/direct" 2>&1 &
pid=$!
check "HBONE: no connection failed for 60 s" churn $FAR4 60
wait $pid
check "direct: no connection failed for 60 s" churned $? "$CV_TMP/direct"
check "direct: the rate holds" holds "${direct:-100}" $NEAR4
check "HBONE: the rate holds" holds "${hbone:-100}" $FAR4
