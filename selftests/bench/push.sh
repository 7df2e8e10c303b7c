#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# push.sh: what a push of a large mesh does to a connection; `make bench-push [ROUNDS=n]`.
#
#	client ── node1 ══ HBONE ══ node2 ── far
#	            └─ xds_server.py, istio_ca.py
#
# node1 gets 50,000 workloads and 5,000 services over xDS, all of them changed, again and again, while a 1 KB request
# goes back and forth; and in turns nothing is pushed. The third turn pushes the same to a second daemon, in which the
# connection has no part: what differs between the last two is what the push does inside a daemon, and not what it takes
# to send and to receive it on this machine. Pods and workers are on the first CPU, the server on the last; the control
# threads are where the kernel puts them. Medians of ROUNDS.
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/lib/control_plane.sh"

: "${ROUNDS:=5}"
: "${SECONDS_EACH:=6}"
WORKLOADS=50000 SERVICES=5000
CA_PORT=15912 XDS_PORT=15910
PINGPONG=$O/selftests/bench/pingpong
SAMPLES=$CV_TMP/samples

die()
{
	echo "bench: $*" >&2
	exit 1
}

# record POD: its workload, as a command
record()
{
	echo "workload {\"uid\":\"Kubernetes//Pod/default/$1\",\"name\":\"$1\",\"ip\":\"$(pod_get "$1" ip4)\"," \
		"\"node\":\"$(pod_get "$1" node)\",\"sa\":\"$1\",\"workload\":\"$1\"}"
}

# say_mesh GENERATION: a large mesh beside our two pods; pushed and answered
say_mesh()
{
	tell "mesh $WORKLOADS $SERVICES $1" && tell "$(record client)" && tell "$(record far)" &&
		pushed address push
}

# other_start: the daemon that has no part in the connection, in a namespace with its control plane
other_start()
{
	CONTROL_PLANE=other
	control_plane_start $XDS_PORT ip netns exec "$other" || return
	nsenter --net="/run/netns/$other" env -i PATH="$PATH" XDS_ADDRESS=http://localhost:$XDS_PORT \
		CA_ADDRESS=http://localhost:1 NODE_NAME=other POD_NAME=z POD_NAMESPACE=istio-system \
		CULVERT_RUN_DIR="$CV_TMP/other" CULVERT_BPFFS="/sys/fs/bpf/cv-$CV_RUN-other" \
		CULVERT_CONFIG="$CV_TMP/none/c.yaml" DNS_PROXY=false "$CULVERTD" >"$CV_TMP/other.daemon" 2>&1 &
	cleanup rm -rf "/sys/fs/bpf/cv-$CV_RUN-other"
	cleanup stop $!
	say_mesh 1 && say_mesh 0
}

node1_start()
{
	CONTROL_PLANE=node1
	control_plane_start $XDS_PORT nsenter --net="$(pod_netns node1)" -- || return
	tell "$(record client)" && tell "$(record far)" &&
		daemon_start node1 LOCAL_XDS_PATH= CULVERT_DEV_CA= ISTIO_META_DNS_CAPTURE=false \
			XDS_ADDRESS=http://localhost:$XDS_PORT CA_ADDRESS=https://localhost:$CA_PORT \
			CA_ROOT_CA="$LAB/ca/root-cert.pem" && wait_ready node1 && say_mesh 1 &&
		say_mesh 0
}

# pin_workers NODE: to the first CPU
pin_workers()
{
	for task in /proc/"$(daemon_pid "$1")"/task/*; do
		case $(cat "$task/comm") in
		culvert-[0-9]*) taskset -pc 0 "${task##*/}" >/dev/null || return ;;
		esac
	done
}

# pushing: again and again, until the file is gone
pushing()
{
	generation=0
	while [ -e "$CV_TMP/pushing" ]; do
		generation=$((1 - generation))
		say_mesh $generation || break
		echo >>"$CV_TMP/pushes.$CONTROL_PLANE"
	done
}

# turn NAME [CONTROL-PLANE]: round trips, while that one pushes
turn()
{
	pusher=
	[ -z "${2:-}" ] || {
		CONTROL_PLANE=$2
		touch "$CV_TMP/pushing"
		pushing &
		pusher=$!
		sleep 1
	}
	line=$(pod_exec client taskset -c 0 "$PINGPONG" ask "$FAR4" 7100 "$SECONDS_EACH") || die "$1: requests fail"
	echo "$1 $line" >>"$SAMPLES"
	echo "bench: round $round: $1 $line" >&2
	[ -z "$pusher" ] || {
		rm "$CV_TMP/pushing"
		wait $pusher
	}
}

# table: medians, in µs
table()
{
	python3 - "$SAMPLES" <<-'END'
		import collections, statistics, sys
		rows = collections.defaultdict(lambda: collections.defaultdict(list))
		for line in open(sys.argv[1]):
		    name, *words = line.split()
		    for word in words:
		        key, value = word.split("=")
		        rows[name][key].append(float(value))
		keys = "p50_us p99_us p999_us max_us".split()
		print("%-22s" % "median (least, most)", *("%26s" % key for key in keys))
		for name, row in rows.items():
		    print("%-22s" % name, *("%26s" % "%.0f (%.0f, %.0f)" % (
		        statistics.median(row[key]), min(row[key]), max(row[key])) for key in keys))
	END
}

other=$(netns_add other)
{
	mesh_pods && mesh_servers && daemon_start node2 && wait_ready node2 && istio_ca_start node1 $CA_PORT && node1_start &&
		pod_enrol client && pod_enrol far && other_start
} >"$CV_TMP/up.log" 2>&1 || die "$(tail -n 20 "$CV_TMP/up.log" "$LAB"/*.log)"
lab_exec='exec' pod_exec far taskset -c 0 "$PINGPONG" serve 7100 &
cleanup stop $!
wait_for 10 pod_listens far 7100 || die "no server"
pin_workers node1 && pin_workers node2 || die "cannot pin"
for round in $(seq "$ROUNDS"); do
	turn no-push
	turn push-to-another other
	turn push-to-node1 node1
done
table
echo "pushes: $(wc -l <"$CV_TMP/pushes.node1") to node1, $(wc -l <"$CV_TMP/pushes.other") to another"
