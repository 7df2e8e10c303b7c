#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What operators see of a node is the same with culvert as with a real ztunnel. One mesh file, one set
# of pods, environment and connections; first with culvert on both nodes, then with ztunnel. Compared are
# config_dump, every `istioctl ztunnel-config` sub-command on it, /logging, the other paths of the
# admin port, metrics and access log; ports that the kernel chose, times and serial numbers aside.
#
#	node1: client, near   ──── link ────   node2: far, and `outside`, which is in no mesh
#
# ZTUNNEL=path of a ztunnel; istioctl as istioctl.sh finds it. What was compared stays in
# $CV_TMP/culvert and $CV_TMP/ztunnel with KEEP=1.
# timeout: 900
# shellcheck disable=SC2154

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/interop/ztunnel.sh"
. "$CV_SELFTESTS/interop/istioctl.sh"

RICH=$CV_SELFTESTS/interop/rich
DENIED=7002 API_PORT=16443

missing=$(interop_missing)
missing=${missing:-$(istioctl_missing)}
[ -z "$missing" ] || skip_all "$missing"

# ---- one state, twice ----------------------------------------------------------------------------

# A file of the lab, or a list of YAML that is there already.
item()
{
	case $2 in
	*.yaml) grep -v '^#' "$2" ;;
	*) "$1" "$2" ;;
	esac
}

workload_item() { item mesh_workload "$1"; }
service_item() { item mesh_service "$1"; }

rich_mesh()
{
	deny_port $DENIED >"$LAB/deny.yaml"
	{
		mesh_list workloads workload_item "$LAB"/pods/* "$RICH/workloads.yaml"
		mesh_list services service_item "$LAB"/services/* "$RICH/services.yaml"
		mesh_list policies workload_item "$LAB/deny.yaml" "$RICH/policies.yaml"
	} >"$LAB/mesh.yaml"
}

set_up()
{
	mesh_pods && rich_mesh && mesh_servers || return
	for pod in near far; do
		pod_start $pod "$CV_TOOLS/tcpecho" -p $DENIED
		wait_for 60 pod_listens $pod $DENIED || return
	done
}

# The node agents, and the redirection in the pods: the same for both.
agents_up()
{
	peer_up node1 && peer_up node2
}

# culvert_start NODE: with ztunnel's environment, in a PID namespace as in a container, where culvertd sees
# that it has the network namespace to itself.
culvert_start()
{
	lab_exec='exec' peer_env "$1" CULVERT_RUN_DIR="$(node_run_dir "$1")" \
		unshare --mount-proc -p -f --kill-child=TERM "$CULVERTD" proxy ztunnel \
		>>"$LAB/$1.log" 2>&1 &
	echo $! >"$LAB/daemons/$1.pid"
}

culvert_up()
{
	culvert_start node1 && culvert_start node2 && wait_ready node1 && wait_ready node2 &&
		inpod_enrol client && inpod_enrol near && inpod_enrol far
}

# unshare heeds no SIGTERM; culvertd gets one when unshare is gone.
culvert_down()
{
	daemon_stop node1 KILL && daemon_stop node2 KILL && wait_for 30 is_silent node1 && wait_for 30 is_silent node2
}

is_silent()
{
	! node_exec "$1" curl -sS -m 2 -o /dev/null http://127.0.0.1:15021/healthz/ready
}

# ztunnel gets the pods, which are redirected already, from the agents.
ztunnel_up()
{
	peer_start node1 && peer_start node2 && wait_ready node1 && wait_ready node2
}

# ---- traffic -------------------------------------------------------------------------------------

# Every kind of connection once, with known bytes.
short_calls()
{
	call $FAR4 7000 -m echo -n 1000 &&
		call $FAR_VIP4 80 -m echo -n 2000 &&
		call $FAR6 7000 -m echo -n 3000 &&
		call $NEAR4 7000 -m echo -n 4000 &&
		call $NEAR_VIP4 80 -m echo -n 5000 &&
		call $PLAIN4 7000 -m echo -n 6000 &&
		call $OUTSIDE4 7000 -m echo -n 7000 &&
		pod_exec outside "$CV_TOOLS/tcpcall" -m echo -n 8000 $NEAR4 7000 &&
		pod_exec far "$CV_TOOLS/tcpcall" -m echo -n 9000 $NEAR4 7000 &&
		call $NEAR4 7999 -m echo -x ECONNRESET,EPIPE,less &&
		call $FAR4 7999 -m echo -x ECONNRESET,EPIPE,less &&
		call $NEAR4 $DENIED -m echo -x ECONNRESET,EPIPE,less &&
		call $FAR4 $DENIED -m echo -x ECONNRESET,EPIPE,less &&
		pod_exec outside "$CV_TOOLS/tcpcall" -m echo -x ECONNRESET,EPIPE,less $NEAR4 $DENIED
}

# hold POD LOCAL-PORT ADDRESS PORT: a connection that stays until let_go
hold()
{
	hold_from=$(pod_get "$1" ip4)
	case $3 in *:*) hold_from=$(pod_get "$1" ip6) ;; esac
	lab_exec='exec' pod_exec "$1" "$CV_TOOLS/tcpcall" -m hold -t 120000 \
		-b "$hold_from,$2" "$3" "$4" >"$LAB/hold-$2.log" 2>&1 &
	holds="$holds $!"
}

hold_all()
{
	holds=
	hold client 20001 $FAR4 7000
	hold client 20002 $FAR_VIP4 80
	hold client 20003 $FAR6 7000
	hold client 20004 $NEAR_VIP4 80
	hold client 20005 $PLAIN4 7000
	hold client 20006 $OUTSIDE4 7000
	hold outside 20007 $NEAR4 7000
	hold far 20008 $NEAR4 7000
	wait_for 20 is_held
}

# Each connection, as its own end and as the other: near, far and client have ten in all on node1.
is_held()
{
	[ "$(admin node1 config_dump | jq '[.workloadState[].connections | .inbound + .outbound |
		.[]] | length')" = 9 ]
}

let_go()
{
	for pid in $holds; do
		kill "$pid"
		wait "$pid"
	done
	wait_for 10 nothing_open
}

nothing_open()
{
	[ "$(metric node1 istio_tcp_connections_opened_total)" = \
		"$(metric node1 istio_tcp_connections_closed_total)" ]
}

# ---- what operators see --------------------------------------------------------------------------

# admin NODE PATH [CURL-OPTION…]
admin()
{
	admin_node=$1 admin_path=$2
	shift 2
	node_exec "$admin_node" curl -sS -m 10 "$@" "http://127.0.0.1:15000/$admin_path"
}

# Ports that the kernel chose, times, serial numbers, keys.
normalise()
{
	sed -E -e 's/:(3[2-9]|4[0-9]|5[0-9]|6[0-5])[0-9]{3}\b/:EPHEM/g' \
		-e 's/20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:.]+Z/TIME/g' \
		-e '/pem"?: /s/[A-Za-z0-9+\/=]{20,}/TEXT/' \
		-e '/serialNumber"?: /s/[0-9]{20,60}/DECIMAL/' \
		-e 's/[0-9a-f]{24,40} +TIME +TIME/SERIAL TIME TIME/'
}

# live NAME COMMAND…: `istioctl ztunnel-config` on the running proxy, through the API server
live()
{
	live_name=$1
	shift
	node_exec node1 timeout 60 "$ISTIOCTL" --kubeconfig "$LAB/kubeconfig" ztunnel-config "$@" \
		>"$seen/live-$live_name" 2>"$seen/live-$live_name.err" ||
		{ echo "status $?"; cat "$seen/live-$live_name.err"; } >>"$seen/live-$live_name"
}

LIVE="workload service policy certificate connections all log level scope reset"
live_all()
{
	live workload workloads ztunnel-node1.istio-system
	live service services
	live policy policies --policy-namespace shop
	live certificate certificates --node node1
	live connections connections client.default
	live all all --with-headers
	live log log
	live level log ztunnel-node1.istio-system --level warning
	live scope log --level access=debug,proxy=trace,error
	live reset log --reset
}

api_up()
{
	lab_exec='exec' node_exec node1 /usr/bin/python3 "$CV_SELFTESTS/interop/kube_api.py" $API_PORT node1 \
		default/client default/near >"$LAB/api.log" 2>&1 &
	api_pid=$!
	cat >"$LAB/kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: lab, cluster: {server: "http://127.0.0.1:$API_PORT"}}]
		contexts: [{name: lab, context: {cluster: lab}}]
		current-context: lab
	END
	wait_for 20 grep -q ready "$LAB/api.log"
}

# culvertctl's own tables of the same. It names every address of a pod, istioctl the first alone.
TABLES="workloads services policies certificates connections"
table_options()
{
	[ "$1" != connections ] || echo --raw
}

tables()
{
	for table in $TABLES; do
		# shellcheck disable=SC2046
		inpod_ctl node1 node1 "$table" $(table_options "$table") >"$seen/ctl-$table" 2>&1
	done
}

# collect SIDE LOG-SUFFIX [COMMAND]: everything into $CV_TMP/SIDE
collect()
{
	seen=$CV_TMP/$1
	mkdir -p "$seen"
	hold_all || return
	admin node1 config_dump >"$seen/config_dump.json" || return
	api_up && live_all
	stop $api_pid
	[ -z "${3:-}" ] || "$3"
	let_go || return
	node_exec node1 curl -sS -m 10 http://127.0.0.1:15020/metrics >"$seen/metrics"
	cp "$LAB/node1$2.log" "$seen/log"
	paths >"$seen/paths"
}

# Status, type and, where it is a contract, text of each path that ztunnel serves.
paths()
{
	for node_path in 15000/nothing 15000/config_dump 15020/metrics 15020/stats/prometheus \
		15020/nothing 15021/healthz/ready 15021/nothing 15000/; do
		for method in GET POST; do
			echo "$method $node_path $(node_exec node1 curl -sS -m 10 -X $method -o /dev/null \
				-w '%{http_code} %{content_type}' "http://127.0.0.1:$node_path")"
		done
	done
	echo "open metrics: $(node_exec node1 curl -sS -m 10 -o /dev/null -w '%{content_type}' \
		-H 'Accept: application/openmetrics-text; version=1.0.0' http://127.0.0.1:15020/metrics)"
	for query in '' '?level=debug' '?level=access=warn,info' '?level=loud' '?level=access' \
		'?level=info&reset' '?reset' '?level='; do
		echo "POST logging$query $(admin node1 "logging$query" -X POST -w ' %{http_code}' | head -n 1)"
	done
	echo "GET logging $(admin node1 logging -o /dev/null -w '%{http_code}')"
	echo "GET quitquitquit $(admin node1 quitquitquit -o /dev/null -w '%{http_code}')"
}

# ---- comparisons ---------------------------------------------------------------------------------

# same NAME COMMAND…: the command prints the same with side=culvert as with side=ztunnel
same()
{
	same_name=$1
	shift
	for side in culvert ztunnel; do
		"$@" >"$CV_TMP/$side.out" 2>&1 || echo "status $?" >>"$CV_TMP/$side.out"
	done
	if [ ! -s "$CV_TMP/ztunnel.out" ]; then
		not_ok "$same_name" "nothing to compare"
	elif ktap_out=$(diff -U2 "$CV_TMP/ztunnel.out" "$CV_TMP/culvert.out"); then
		ok "$same_name"
	else
		not_ok "$same_name" "$ktap_out"
	fi
}

config() { normalise <"$CV_TMP/$side/config_dump.json" | jq -S "$@"; }

# ztunnel sorts services by host name alone, and keeps nothing of which services a file's workload is in.
workloads() { config '.workloads | map(del(.services))'; }
services() { config '.services | sort_by(.hostname, .namespace)'; }
static() { config '.staticConfig | .services |= sort_by(.hostname, .namespace)'; }
versions() { config '.version | keys'; }
states()
{
	config '.workloadState | .[].connections |= (.inbound |= (map(del(.originalDst)) | sort_by(.src)) |
		.outbound |= sort_by(.src))'
}

# Not where things lie in this test, nor the settings of parts that this side has not.
settings()
{
	config '.config | del(.dnsResolverCfg, .dnsResolverOpts, .developmentCa) | .illegalPorts |= sort'
}

# Lists of connections are in no order, here and there, and which service an inbound one was meant for
# is not known to a ztunnel that has its workloads from a file.
zc()
{
	jq '.workloadState[].connections |= (.inbound |= (map(.originalDst = null) | sort_by(.src)) |
		.outbound |= sort_by(.src, .actualDst))' "$CV_TMP/$side/config_dump.json" |
		"$ISTIOCTL" ztunnel-config "$@" -f - | normalise
}

# Families that dashboards know; those of ztunnel's runtime have no counterpart.
metric_families()
{
	grep -E '^# TYPE (istio|workload_manager|process)_' "$CV_TMP/$side/metrics" | sort
}

# Samples of connections; tier is a label of ours. An inbound connection's service is left out: ztunnel
# does not know it where workloads come from a file.
traffic_samples()
{
	grep -E '^istio_(tcp_connections|tcp_(received|sent)_bytes)' "$CV_TMP/$side/metrics" |
		grep -v 'tcp_.*_bytes.* 0$' | sed -E -e 's/,tier="[a-z]*"//' \
		-e '/reporter="destination"/s/(destination_service[a-z_]*)="[^"]*"/\1=""/g' |
		awk '{ sum[$1] += $2 } END { for (labels in sum) print labels, sum[labels] }' | sort
}

other_labels()
{
	grep -E '^istio_(build|tcp_sockets_open)' "$CV_TMP/$side/metrics" | sed 's/ [0-9]*$//' | sort
}

access_log()
{
	grep -P '\taccess\t' "$CV_TMP/$side/log" | cut -f2- | sed -E -e 's/ tier="[a-z]*"//' \
		-e 's/duration="[0-9]+ms"/duration="N"/' \
		-e '/direction="inbound"/s/ dst.service="[^"]*"//' | normalise | sort
}

of() { cat "$CV_TMP/$side/$1"; }

# The dump as it is; its members are compared one by one above.
all_json() { zc all -o json | jq -S 'map_values(type)'; }

seen_live()
{
	normalise <"$CV_TMP/$side/live-$1" |
		awk '/ Inbound /{ print $1, $2, $3, $4, $NF; next } { print }' | sort
}

plan 56
check "the pods" set_up
check "the node agents" agents_up
check "culvert on both nodes" culvert_up
check "culvert: traffic" short_calls
check "culvert: what is seen" collect culvert "" tables
check "culvert goes" culvert_down
check "ztunnel on both nodes" ztunnel_up
check "ztunnel: traffic" short_calls
check "ztunnel: what is seen" collect ztunnel .ztunnel

for key in workloads services static states settings versions; do
	same "config_dump: $key" $key
done
for key in policies stagedServices certificates; do
	same "config_dump: $key" config ".$key"
done
same "config_dump: members" config keys
same "metrics: families and types" metric_families
same "metrics: connections and bytes, with their labels" traffic_samples
same "metrics: other labels" other_labels
same "access log" access_log
same "paths, status codes and /logging" of paths
for command in workload service policy certificate connections; do
	same "istioctl ztunnel-config $command" zc $command
	same "istioctl ztunnel-config $command -o json" zc $command -o json
	same "istioctl ztunnel-config $command -o yaml" zc $command -o yaml
done
same "istioctl ztunnel-config all" zc all
same "istioctl ztunnel-config all -o json" all_json
for table in $TABLES; do
	# shellcheck disable=SC2046
	check_eq "culvertctl $table prints istioctl's table" \
		"$("$ISTIOCTL" ztunnel-config "$table" $(table_options "$table") -f "$CV_TMP/culvert/config_dump.json" | sort)" \
		"$(sort "$CV_TMP/culvert/ctl-$table")"
done
for command in $LIVE; do
	same "istioctl ztunnel-config, live: $command" seen_live "$command"
done
