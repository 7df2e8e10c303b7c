#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# A large mesh: 50,000 workloads and 5,000 services over xDS, rolled out anew again and again:
# memory is bounded and flat, and is given back when the mesh is gone.
#
#	culvertd ── http:// ──▶ xds_server.py     both in a namespace of their own, no pods
#
# PUSHES is how many times. What a push does to connections is for bench/push.sh.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/control_plane.sh"

/usr/bin/python3 -c 'import grpc' 2>/dev/null || skip_all "no python3-grpcio here (sudo make deps)"

: "${PUSHES:=6}"
WORKLOADS=50000
SERVICES=5000
MOST_KB=25600 # resident, behind a push: 25 MiB
GROWTH_KB=1000 # from the second push to the last one
LEFT_KB=17000 # when the mesh is gone: what is small and long-lived keeps some pages of the heap
PUSH_CPU_MS=20000 # of the client, for one push: ten times what a push may take
port=15010
ns=$(netns_add scale)

# start NAME COMMAND…: a client of the control plane; its pid in $client
start()
{
	log=$CV_TMP/$1.log
	shift
	nsenter --net="/run/netns/$ns" env -i PATH="$PATH" XDS_ADDRESS=http://localhost:$port \
		CA_ADDRESS=http://localhost:1 NODE_NAME=node-1 POD_NAME=z POD_NAMESPACE=istio-system \
		CULVERT_RUN_DIR="$CV_TMP/run" CULVERT_BPFFS="$bpffs" \
		CULVERT_CONFIG="$CV_TMP/none/c.yaml" INPOD_ENABLED=false DNS_PROXY=false \
		ZTUNNEL_WORKER_THREADS=2 \
		"$@" >>"$log" 2>&1 &
	client=$!
	cleanup stop $client
}

rss_kb()
{
	awk '/^VmRSS/ { print $2 }' "/proc/$client/status"
}

cpu_ms()
{
	awk -v hz="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / hz) }' "/proc/$client/stat"
}

rss_at_most()
{
	[ "$(rss_kb)" -le "$1" ]
}

# push WORKLOADS SERVICES GENERATION: … and wait until it is in, and told
push()
{
	tell "mesh $1 $2 $3" && pushed address push || return
	comment "$1 workloads, $2 services: in after $(push_seconds address) s, $(rss_kb) kB"
}

# push_all: the mesh, PUSHES times
push_all()
{
	failed=0
	for i in $(seq "$PUSHES"); do
		push $WORKLOADS $SERVICES $((i % 2)) || failed=$((failed + 1))
		[ "$i" != 2 ] || rss_second=$(rss_kb)
	done
}

bpffs=/sys/fs/bpf/cv-$CV_RUN-scale
plan 5
control_plane_start $port ip netns exec "$ns"
start culvertd "$CULVERTD"
wait_for 60 grep -q 'ready after' "$log" || {
	comment "$(tail -n 20 "$log")"
	exit 1
}
wait_for 30 rss_at_most 9000 # what start-up needed has been given back
comment "without a mesh: $(rss_kb) kB"
spent=$(cpu_ms)
push_all
check_eq "all pushes are answered" 0 $failed
spent=$((($(cpu_ms) - spent) / PUSHES))
comment "a push costs $spent ms of CPU time"
check "… each costs at most $PUSH_CPU_MS ms of CPU time" [ $spent -le $PUSH_CPU_MS ]
check "memory comes down to at most $MOST_KB kB" wait_for 60 rss_at_most $MOST_KB
check "… and is flat" wait_for 60 rss_at_most $((rss_second + GROWTH_KB))
comment "with the mesh: $(rss_kb) kB; $(grep Pss: "/proc/$client/smaps_rollup" | tr -s ' ')"
push 0 0 0
check "when the mesh is gone, much of the memory is, too" wait_for 60 rss_at_most $LEFT_KB
comment "without it again: $(rss_kb) kB"
stop $client
rm -rf "$bpffs"
