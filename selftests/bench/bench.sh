#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# bench.sh: every path against no mesh, on one topology; `make bench [ROUNDS=n] [ZTUNNEL=path]`.
#
#	node1: client  near  near-tls  ──── link ────  node2: far
#
# A round measures all paths one after the other: no mesh (nothing of culvert is in the kernel),
# culvert, with ZTUNNEL that, culvert again in turns with no mesh and with ztunnel, and with capture by TC
# alone; so that what changes on the machine meets all of them, and what is compared most is next to each other.
# report.py makes medians of the rounds, the table, $O/bench.json and $O/bench.svg, and holds the figures
# against what is expected. DURATION is the whole seconds that one figure is measured for; PHASES chooses
# among `plain culvert ztunnel turns tc pods`.
set -u

CV_SELFTESTS=$(cd "$(dirname "$0")/.." && pwd)
. "$CV_SELFTESTS/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/interop/ztunnel.sh"

: "${ROUNDS:=5}"
: "${DURATION:=2}"
: "${PHASES:=plain culvert ${ZTUNNEL:+ztunnel} turns tc pods}"
PINGPONG=$O/selftests/bench/pingpong
NEAR=10.244.1.11 NEAR_TLS=10.244.1.12 FAR=10.244.2.11 NEAR_VIP=10.96.0.1
KEPT_PORT=7000 HOLD_PORT=7001 IPERF_PORT=5201
DIALLERS=8
HELD=1000
NR_PODS=200
TURNS=4
SAMPLES=$CV_TMP/samples
# Pids of the proxies of the phase at hand, in the client's node and in the other.
PROXIES=

die()
{
	echo "bench: $*" >&2
	exit 1
}

say()
{
	echo "bench: $*" >&2
}

# sample PATH METRIC VALUE: of the time $slot; figures of one slot were measured side by side
sample()
{
	case $3 in
	'' | *[!0-9.]*) die "$1: no figure for $2" ;;
	esac
	echo "$1 $2 $slot $3" >>"$SAMPLES"
}

# value NAME: from a line of name=value words on stdin
value()
{
	tr ' ' '\n' | sed -n "s/^$1=//p"
}

# ---- measuring one path --------------------------------------------------------------------------

# pin CPUS PID…: all threads
pin()
{
	cpus=$1
	shift
	for pid; do
		taskset -apc "$cpus" "$pid" >/dev/null || die "cannot pin $pid to $cpus"
	done
}

server_pid()
{
	cat "$LAB/$1.server"
}

# round_trips PATH SERVER-POD ADDRESS SUFFIX CLIENT-CPUS PROXY-CPUS
round_trips()
{
	# shellcheck disable=SC2086	# words
	pin "$6" $PROXIES
	pin "$5" "$(server_pid "$2")"
	line=$(pod_exec client taskset -c "$5" "$PINGPONG" ask "$3" $KEPT_PORT "$DURATION") ||
		die "$1: requests fail"
	sample "$1" "p50$4" "$(echo "$line" | value p50_us)"
	sample "$1" "p99$4" "$(echo "$line" | value p99_us)"
	# shellcheck disable=SC2086	# words
	pin "$ALL_CPUS" $PROXIES "$(server_pid "$2")"
}

# Jiffies that the machine's CPUs were busy.
busy_jiffies()
{
	awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat
}

# throughput PATH ADDRESS STREAMS
throughput()
{
	before=$(busy_jiffies)
	pod_exec client iperf3 -J -c "$2" -p $IPERF_PORT -t "$DURATION" -P "$3" >"$CV_TMP/iperf" ||
		die "$1: iperf3: $(jq -r .error "$CV_TMP/iperf")"
	busy=$(($(busy_jiffies) - before))
	sample "$1" "throughput_$3" \
		"$(jq '.end.sum_received.bits_per_second / 1e9' "$CV_TMP/iperf")"
	[ "$3" != 1 ] || sample "$1" cpu "$(jq --argjson busy $busy \
		--argjson hz "$(getconf CLK_TCK)" '$busy / $hz / .end.sum_received.bytes * 1e9' \
		"$CV_TMP/iperf")"
}

new_connections()
{
	line=$(pod_exec client "$PINGPONG" dial "$2" $KEPT_PORT "$DURATION" $DIALLERS) ||
		die "$1: connections fail"
	failed=$(echo "$line" | value failed)
	[ "$failed" = 0 ] || say "$1: $failed connections failed"
	sample "$1" connections "$(echo "$line" | value per_second)"
}

# Resident memory of the larger proxy in MB.
proxy_memory()
{
	for pid in $PROXIES; do
		awk '/^VmRSS/ { print $2 * 1024 / 1e6 }' "/proc/$pid/status"
	done | sort -n | tail -n 1
}

holds_connections()
{
	[ "$(pod_exec client ss -Htn state established "dport = :$HOLD_PORT" | wc -l)" -ge $HELD ]
}

# memory_held PATH ADDRESS: with idle connections on this path
memory_held()
{
	lab_exec='exec' pod_exec client "$CV_TOOLS/tcpcall" -m hold -r -c $HELD -t 60000 "$2" $HOLD_PORT \
		>"$CV_TMP/held" &
	holder=$!
	wait_for 20 holds_connections || die "$1: $HELD connections: $(head -n 1 "$CV_TMP/held")"
	sleep 0.5
	sample "$1" memory_held "$(proxy_memory)"
	kill $holder
	wait $holder
}

# warm_up PATH ADDRESS: what the first connection alone pays for is not measured
warm_up()
{
	pod_exec client "$PINGPONG" ask "$2" $KEPT_PORT 0.2 >/dev/null || die "$1: no connection"
}

# measure PATH SERVER-POD ADDRESS
measure()
{
	say "round $round: $1"
	warm_up "$1" "$3"
	round_trips "$1" "$2" "$3" "" "$ALL_CPUS" "$ALL_CPUS"
	round_trips "$1" "$2" "$3" _split 0 "$LAST_CPU"
	round_trips "$1" "$2" "$3" _one 0 0
	throughput "$1" "$3" 1
	throughput "$1" "$3" 16
	new_connections "$1" "$3"
	[ -z "$PROXIES" ] || memory_held "$1" "$3"
}

# ---- phases --------------------------------------------------------------------------------------

phase_plain()
{
	PROXIES=
	measure none-across far $FAR
	measure none-same near $NEAR
}

# culvert_up FAST-PATH: both nodes, pods enrolled
culvert_up()
{
	printf 'sameNode:\n  pods:\n    default/near-tls: tls\ncapture:\n  fastPath: %s\n' "$1" \
		>"$LAB/node1.culvert.yaml"
	cp "$LAB/node1.culvert.yaml" "$LAB/node2.culvert.yaml"
	for node in node1 node2; do
		daemon_start $node
	done
	for node in node1 node2; do
		wait_ready $node || die "culvert is not ready on $node"
	done
	for pod in client near near-tls far; do
		pod_enrol $pod >/dev/null || die "cannot enrol $pod"
	done
	PROXIES="$(daemon_pid node1) $(daemon_pid node2)"
}

# idle PATH…: memory of the proxies before any connection, once start-up and enrolment are digested
idle()
{
	sleep 6
	for path; do
		sample "$path" memory_idle "$(proxy_memory)"
	done
}

culvert_down()
{
	PROXIES=
	for pod in client near near-tls far; do
		pod_unenrol $pod >/dev/null
	done
	for node in node1 node2; do
		daemon_stop $node
		lab_unload $node
	done
}

phase_culvert()
{
	culvert_up true
	idle direct direct-vip tls-same hbone
	measure direct near $NEAR
	measure direct-vip near $NEAR_VIP
	measure tls-same near-tls $NEAR_TLS
	measure hbone far $FAR
	culvert_down
}

# turn_same PATH: on one node, the figures of which one a round tells nothing
turn_same()
{
	warm_up "$1" $NEAR
	round_trips "$1" near $NEAR "" "$ALL_CPUS" "$ALL_CPUS"
	throughput "$1" $NEAR 1
	throughput "$1" $NEAR 16
}

# turn_across PATH: the same across nodes, where those are the latencies over both CPUs
turn_across()
{
	warm_up "$1" $FAR
	round_trips "$1" far $FAR "" "$ALL_CPUS" "$ALL_CPUS"
	round_trips "$1" far $FAR _split 0 "$LAST_CPU"
}

turn_ztunnel()
{
	ztunnel_up
	turn_across ztunnel-across
	ztunnel_down
}

# No mesh and direct, and with ZTUNNEL both proxies across nodes, one right after the other and several times:
# on two CPUs such a figure is anything between one value and three times that, as the scheduler and the
# machine's other guests have it, so one a round tells nothing.
phase_turns()
{
	for nr in $(seq $TURNS); do
		say "round $round: turn $nr"
		slot=$round.$nr
		turn_same none-same
		culvert_up true
		turn_same direct
		turn_across hbone
		culvert_down
		[ -z "${ZTUNNEL:-}" ] || turn_ztunnel
	done
	slot=$round
}

phase_tc()
{
	culvert_up false
	idle hbone-tc
	measure hbone-tc far $FAR
	culvert_down
}

ztunnel_up()
{
	for node in node1 node2; do
		peer_start $node
	done
	for node in node1 node2; do
		wait_ready $node || die "ztunnel is not ready on $node"
	done
	for pod in client near far; do
		peer_enrol $pod || die "ztunnel does not take $pod"
	done
	PROXIES="$(daemon_pid node1) $(daemon_pid node2)"
}

ztunnel_down()
{
	PROXIES=
	for pod in client near far; do
		peer_unenrol $pod
	done
	for node in node1 node2; do
		daemon_stop $node
	done
}

phase_ztunnel()
{
	ztunnel_up
	idle ztunnel-same ztunnel-across
	measure ztunnel-across far $FAR
	measure ztunnel-same near $NEAR
	ztunnel_down
}

# How long enrolling a pod takes the daemon, of many, and what two TCX attaches take the kernel: a
# grace period each, which is longer while the daemon loads the next pod's programs, so it is measured
# between the enrolments, in a pod that stays out. Once, for it is the same in every round.
phase_pods()
{
	[ "$round" = 1 ] || return 0
	say "enrolling $NR_PODS pods"
	for nr in $(seq $NR_PODS); do
		bench_pod node1 "p$nr" "10.244.1.$((nr + 20))" "fd10:244:1::1:$nr"
	done
	mesh_file
	daemon_start node1 RUST_LOG=info,node=debug
	wait_ready node1 || die "culvert is not ready"
	for nr in $(seq $NR_PODS); do
		pod_enrol "p$nr" >/dev/null || die "cannot enrol p$nr"
		pod_exec client "$O/selftests/bench/tcxattach" eth0 1 >>"$CV_TMP/tcx" ||
			die "TCX cannot be measured"
	done
	sed "s/^/tcx-attaches milliseconds $slot /" "$CV_TMP/tcx" >>"$SAMPLES"
	sed -n 's|.*/p[0-9]*: enrolled in \([0-9]*\) us$|\1|p' "$LAB/node1.log" |
		awk -v slot="$slot" '{ print "enrolment milliseconds", slot, $1 / 1000 }' >>"$SAMPLES"
	daemon_stop node1
	lab_unload node1
	for nr in $(seq $NR_PODS); do
		pod_del "p$nr"
	done
	mesh_file
}

# ---- the run -------------------------------------------------------------------------------------

start_servers()
{
	for pod in near near-tls far; do
		pod_start $pod "$PINGPONG" serve $KEPT_PORT
		echo $! >"$LAB/$pod.server"
		pod_start $pod "$CV_TOOLS/tcpecho" -m hold -p $HOLD_PORT
		pod_start $pod iperf3 -s -p $IPERF_PORT
	done
}

bench_pod()
{
	pod_add "$@" || die "cannot make the pod $2"
}

lab()
{
	lab_up node1 node2 || die "cannot make the nodes"
	bench_pod node1 client 10.244.1.10 fd10:244:1::10
	bench_pod node1 near $NEAR fd10:244:1::11
	bench_pod node1 near-tls $NEAR_TLS fd10:244:1::12
	bench_pod node2 far $FAR fd10:244:2::11
	service_add near $NEAR_VIP - $KEPT_PORT $KEPT_PORT near
	service_port_add near $HOLD_PORT $HOLD_PORT
	service_port_add near $IPERF_PORT $IPERF_PORT
	mesh_file
	start_servers
}

main()
{
	ALL_CPUS=0-$(($(nproc) - 1))
	LAST_CPU=$(($(nproc) - 1))
	lab
	case " $PHASES ${ZTUNNEL:+ztunnel} " in
	*" ztunnel "*)
		why=$(interop_missing)
		[ -z "$why" ] || die "$why"
		for node in node1 node2; do
			peer_up $node || die "the helpers of ztunnel do not start"
		done
		;;
	esac
	for round in $(seq "$ROUNDS"); do
		slot=$round
		for phase in $PHASES; do
			"phase_$phase"
		done
	done
	python3 "$CV_SELFTESTS/bench/report.py" "$SAMPLES" "$O"
}

main
