#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Short connections for a minute on the direct tier and across nodes: none fails, and they keep their rate. A rate
# says little on a machine that others use, so what it hangs on is looked at: ports and TIME_WAIT do not accumulate
# against us, and a connection costs at the end the processor time that it cost at first.
#
# timeout: 900

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

: "${RATE_SECONDS:=60}"
BURST=1000
LEAST=6000 # connections of a churn: more than there are ports for legs
LEG_FIRST=61000 # the ports for legs: from here to 65535
HELD=24 # connections to each of three places, through PORTS ports
PORTS=64

plan 7
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# hold ADDRESS PORT: HELD connections of the client's that stay open
hold()
{
	nsenter --net="$(pod_netns client)" "$CV_TOOLS/tcpcall" -m tick -i 1000 -t 300000 -c $HELD -w 60000 \
		"$1" "$2" >"$CV_TMP/held.$1.$2" 2>&1 &
	cleanup stop $!
	held="$held $!"
}

# all_held: the client's sockets and the daemon's, both in the client's pod
all_held()
{
	[ "$(pod_exec client ss -Htn state established "dport = :7000 or dport = :7002" | wc -l)" = $((6 * HELD)) ]
}

# --- the legs of plain destinations: a port serves as many of them as there are places to go to ---
held=
pod_exec client sysctl -qw net.ipv4.ip_local_port_range="40000 $((40000 + PORTS - 1))"
pod_start outside "$CV_TOOLS/tcpecho" -p 7002
wait_for 60 pod_listens outside 7002
hold $OUTSIDE4 7000
hold $OUTSIDE4 7002
hold $PLAIN4 7000
check "$((3 * HELD)) connections and their legs share $PORTS ports" wait_for 60 all_held
for pid in $held; do
	kill "$pid" 2>/dev/null
	wait_for 20 ktap_gone "$pid"
done
pod_exec client sysctl -qw net.ipv4.ip_local_port_range="32768 60999"

# The callers' own TIME_WAIT is not what is tested: without this, a pod that dials one port stalls for
# seconds after 28,000 connections, with and without a mesh.
pod_exec client sysctl -qw net.ipv4.tcp_tw_reuse=1

# burst ADDRESS: BURST connections of 100 bytes there and back; prints the milliseconds of processor time that the
# caller took, the kernel's included; the failed ones, and what the daemons say of them, on standard error
burst()
{
	pod_exec client sh -c '"$@"; status=$?; times; exit $status' sh \
		"$CV_TOOLS/tcpcall" -m echo -n 100 -c $BURST -j 4 -w 30000 "$1" 7000 >"$CV_TMP/burst.$1" ||
		{ { cat "$CV_TMP/burst.$1"; grep -h 'error=' "$LAB"/node?.log | tail -n 20; } >&2; return 1; }
	tail -n 1 "$CV_TMP/burst.$1" | sed 's/[ms]/ /g' |
		awk '{ printf "%d\n", ($1 + $3) * 60000 + ($2 + $4) * 1000 }'
}

# daemons_ms: the processor time that the daemons' threads have had
daemons_ms()
{
	cat /proc/"$(daemon_pid node1)"/task/*/schedstat /proc/"$(daemon_pid node2)"/task/*/schedstat |
		awk '{ sum += $1 } END { printf "%d\n", sum / 1000000 }'
}

# cost ADDRESS: milliseconds of processor time for a burst, of the caller and of the daemons
cost()
{
	cost_before=$(daemons_ms)
	cost_caller=$(burst "$1") || return
	echo $((cost_caller + $(daemons_ms) - cost_before))
}

# costs ADDRESS: of three bursts, the cheapest first
costs()
{
	for _ in 1 2 3; do
		cost "$1" || return
	done | sort -n
}

# churn ADDRESS SECONDS: as many connections as there can be, LEAST at least
churn()
{
	churn_end=$(($(date +%s) + $2))
	churn_n=0
	while [ "$(date +%s)" -lt $churn_end ] || [ $churn_n -lt $LEAST ]; do
		burst "$1" >/dev/null || return
		churn_n=$((churn_n + BURST))
	done
	comment "$churn_n connections to $1 in $2 s"
}

# churned STATUS FILE: how a churn in the background has ended, and what it said
churned()
{
	cat "$2"
	return "$1"
}

# holds FIRST ADDRESS: the cheapest burst costs no more than twice what the dearest at first did
holds()
{
	last=$(costs "$2" | tr '\n' ' ')
	echo "$BURST connections took $1 ms of processor time at first, now one of $last"
	[ "${last%% *}" -le $((2 * $1)) ]
}

# few_left: far's node has used the ports that are for the client's legs alone, TIME_WAIT included, and no others
few_left()
{
	pod_exec far ss -Htan "src $CLIENT4 and dst $FAR4" | awk -v first=$LEG_FIRST '
		{ legs++; sub(/.*:/, "", $4) }
		$4 < first { others++ }
		END { printf "%d legs, %d of them on other ports\n", legs, others; exit !legs || others > 0 }'
}

# few_pooled: how many HBONE connections it took, as far as the client's pod knows
few_pooled()
{
	pooled=$(pod_exec client ss -Htan "dst $FAR4:15008" | wc -l)
	echo "$pooled connections to $FAR4:15008"
	[ "$pooled" -ge 1 ] && [ "$pooled" -le 64 ]
}

direct=$(costs $NEAR4 | tail -n 1)
hbone=$(costs $FAR4 | tail -n 1)
churn $NEAR4 $RATE_SECONDS >"$CV_TMP/direct" 2>&1 &
pid=$!
check "HBONE: no connection failed for a minute" churn $FAR4 $RATE_SECONDS
wait $pid
check "direct: no connection failed for a minute" churned $? "$CV_TMP/direct"
check "TIME_WAIT of the legs does not accumulate: their ports are used again" few_left
check "direct: a connection costs what it did" holds "${direct:-0}" $NEAR4
check "HBONE: a connection costs what it did" holds "${hbone:-0}" $FAR4
check "HBONE: connections share a few" few_pooled
