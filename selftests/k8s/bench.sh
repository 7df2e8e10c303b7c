# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# bench.sh: how long a user of the mesh waits for the node proxy, under a real istiod and istio-cni, and what
# the proxy takes of the node; culvert, and with ZTUNNEL=path a real ztunnel, in turns on the same cluster.
# One table, medians of ROUNDS (5); the samples are in $O/bench-k8s.json. `make bench-k8s` runs it.
#
#   lab     from nothing to a cluster that is ready, with culvert: of two nodes, and of one real node where its
#           programs are built; once each
#   ready   from the proxy's start to its readiness, with 100 pods on its node, each of an account of its own
#   memory  resident, with istiod connected and certificates for 50 such pods, when idle for 12 seconds
#   first   a new pod of a new account: the end of its first exchange with a pod of the other node, after the later
#           of the start of its container (which is when the CNI plugin has returned) and istiod's push of its record
#   policy  a DENY that concerns an open connection and new ones, from the return of kubectl
set -u

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"

: "${ROUNDS:=5}"
SAMPLES=$CV_TMP/samples
ADMIN=http://127.0.0.1:15000

die()
{
	echo "bench.sh: $*; logs: $K8S" >&2
	export KEEP=1
	exit 1
}

now_ms()
{
	date +%s%3N
}

# sample METRIC KIND VALUE
sample()
{
	echo "$*" >>"$SAMPLES"
}

# ---- the proxy of node1 --------------------------------------------------------------------------

# Prints the time when the readiness port says yes; "polling" when it has begun to ask.
READY='import http.client, time
print("polling", flush=True)
while True:
    try:
        c = http.client.HTTPConnection("127.0.0.1", 15021, timeout=5)
        c.request("GET", "/healthz/ready")
        if c.getresponse().status == 200:
            break
    except OSError:
        pass
    time.sleep(0.002)
print(int(time.time() * 1000), flush=True)'

polled()
{
	[ "$(wc -l <"$K8S/ready.log")" -ge "$1" ]
}

# fresh KIND: in the place of the proxy that runs; prints the milliseconds until it was ready
fresh()
{
	k8s_stop node1/proxy || return
	echo "$1" >"$K8S/node1/proxy.kind"
	proxy_files node1 || return
	: >"$K8S/ready.log"
	k8s_start ready node1 /usr/bin/python3 -c "$READY"
	wait_for 60 polled 1 || return
	fresh_began=$(now_ms)
	proxy_run node1
	wait_for 60 polled 2 || return
	echo $(($(tail -n 1 "$K8S/ready.log") - fresh_began))
}

# certified COUNT: node1's proxy has that many certificates
certified()
{
	[ "$(node_exec node1 curl -fsS $ADMIN/config_dump | jq '[.certificates[] | select(.certChain | length > 0)] | length')" -ge "$1" ]
}

resident_mb()
{
	awk '/^VmRSS/ { printf "%.1f\n", $2 * 1024 / 1e6 }' "/proc/$(cat "$K8S/node1/proxy.pid")/status"
}

# ---- pods ----------------------------------------------------------------------------------------

# residents FROM TO: pods of node1, each of an account of its own
residents()
{
	for k8s_nr in $(seq "$1" "$2"); do
		idle_app shop "resident$k8s_nr" node1
	done | kapply && pods_ready shop
}

knows()
{
	proxy_dump node1 | jq -e --arg name "$1" "[.workloads[] | select(.name == \$name)] | length == $2"
}

# newcomer NAME: milliseconds
newcomer()
{
	k8s_log=$K8S/node1/logs/shop-$1.call.log
	k8s_pushes=$(wc -c <"$K8S/istiod.log")
	{
		account shop "$1"
		cat <<-END
			---
			apiVersion: v1
			kind: Pod
			metadata: {name: $1, namespace: shop}
			spec:
			  nodeName: node1
			  serviceAccountName: $1
			  terminationGracePeriodSeconds: 1
			  containers:
			  - name: call
			    image: lab
			    command: [sh, -c, "date +%s%3N; until $CV_TOOLS/tcpcall -m echo -n 100 -w 10000 $far 7000 >&2; do :; done; date +%s%3N; exec sleep infinity"]
		END
	} | kapply && wait_for 60 called_once "$k8s_log" || return
	began=$(grep -x '[0-9]*' "$k8s_log" | head -n 1) ended=$(grep -x '[0-9]*' "$k8s_log" | tail -n 1)
	pushed=$(tail -c "+$k8s_pushes" "$K8S/istiod.log" | awk '/WDS: PUSH for node:ztunnel-node1/ { print $1; exit }')
	pushed=$(date -d "$pushed" +%s%3N)
	kubectl delete pod "$1" -n shop >/dev/null && wait_for 60 knows "$1" 0 || return
	echo $((ended - (began > pushed ? began : pushed)))
}

called_once()
{
	[ "$(grep -cx '[0-9]*' "$1")" = 2 ]
}

# ---- policies ------------------------------------------------------------------------------------

calls_are()
{
	tail -n 1 "$K8S/calls.log" | grep -q " result=$1"
}

# denied KIND: samples of a policy on node1's own pod near
denied()
{
	: >"$K8S/calls.log"
	: >"$K8S/open.log"
	k8s_start calls shop-client sh -c 'while :; do
		result=$("$0" -m echo -n 100 -w 5000 "$1" 7000)
		echo "$(date +%s%3N) $result"
	done' "$CV_TOOLS/tcpcall" "$near"
	k8s_start open shop-client sh -c '"$0" -m tick -i 10 -t 3600000 "$1" 7000; date +%s%3N' \
		"$CV_TOOLS/tcpcall" "$near"
	wait_for 60 calls_are ok || return
	kapply <<-END || return
		apiVersion: security.istio.io/v1
		kind: AuthorizationPolicy
		metadata: {name: bench, namespace: shop}
		spec: {selector: {matchLabels: {app: near}}, action: DENY, rules: [{to: [{operation: {ports: ["7000"]}}]}]}
	END
	applied=$(now_ms)
	wait_for 60 calls_are '[^o]' || return
	refused=$(awk '!/ result=ok / { print $1; exit }' "$K8S/calls.log")
	sample policy-new "$1" $((refused > applied ? refused - applied : 0))
	if wait_for 5 grep -qx '[0-9]*' "$K8S/open.log"; then
		closed=$(tail -n 1 "$K8S/open.log")
		sample policy-open "$1" $((closed > applied ? closed - applied : 0))
	fi
	kubectl delete authorizationpolicy bench -n shop >/dev/null
	wait_for 60 calls_are ok || return
	k8s_stop calls
	[ -z "$(ktap_gone "$(cat "$K8S/open.pid")" && echo gone)" ] && kill -- "-$(cat "$K8S/open.pid")"
	rm "$K8S/open.pid"
}

# ---- the table -----------------------------------------------------------------------------------

# results: METRIC KIND MEDIAN MIN MAX COUNT
results()
{
	sort -k1,1 -k2,2 -k3,3n "$SAMPLES" | awk '
	function end() { if (n) print key, v[int((n + 1) / 2)], v[1], v[n], n; n = 0 }
	{ k = $1 " " $2; if (k != key) end(); key = k; v[++n] = $3 }
	END { end() }'
}

table()
{
	results >"$CV_TMP/results"
	printf '| %-58s | %9s | %-22s | %-22s |\n' "medians of $ROUNDS (least–most)" bar culvert ztunnel
	echo "|---|---|---|---|"
	row lab "the lab of two nodes is up" "60 s"
	row lab-node "the lab of one real node is up" "60 s"
	row ready "start to ready, 100 pods on the node" "1000 ms"
	row memory "resident, 50 pods on the node" "8.0 MB"
	row first "a new pod's first connection" "50 ms"
	row policy-new "a policy on new connections, after kubectl" "300 ms"
	row policy-open "a policy on an open connection, after kubectl" "300 ms"
}

# row METRIC TEXT BAR
row()
{
	awk -v metric="$1" -v text="$2" -v bar="$3" '
	BEGIN { split(bar, b, " ") }
	$1 == metric { cell[$2] = sprintf("%s %s (%s–%s)", $3, b[2], $4, $5); value[$2] = $3 }
	END {
		for (k in cell) if (k == "culvert" && value[k] > b[1] + 0) cell[k] = cell[k] " missed"
		printf "| %-58s | %9s | %-22s | %-22s |\n", text, bar, cell["culvert"], cell["ztunnel"]
	}' "$CV_TMP/results"
}

json()
{
	results | jq -Rn '[inputs | split(" ") | {metric: .[0], proxy: .[1], median: (.[2] | tonumber),
		min: (.[3] | tonumber), max: (.[4] | tonumber), rounds: (.[5] | tonumber)}]'
}

# turns FUNCTION: ROUNDS times for each kind of proxy, one after the other
turns()
{
	for round in $(seq "$ROUNDS"); do
		for kind in $kinds; do
			"$1" "$kind" || die "round $round of $1 with $kind failed"
		done
	done
}

memory_turn()
{
	fresh "$1" >/dev/null && wait_for 60 certified 52 || return
	# What a proxy gives back when it has nothing to do, it gives back by then.
	sleep 12
	sample memory "$1" "$(resident_mb)"
}

pods_turn()
{
	ms=$(fresh "$1") || return
	sample ready "$1" "$ms"
	wait_for 60 certified 102 || return
	ms=$(newcomer "new$1$round") || return
	sample first "$1" "$ms"
	denied "$1"
}

# seconds COMMAND…: how long it takes
seconds()
{
	seconds_began=$(now_ms)
	"$@" >&2 || return
	echo $((($(now_ms) - seconds_began + 500) / 1000))
}

# node_lab VERB: of the one real node, which is another cluster
node_lab()
{
	LAB=$CV_RUN-node sh "$K8S_HERE/lab.sh" "$1"
}

node_lab_turn()
{
	cleanup node_lab down
	s=$(seconds node_lab up-node) && sample lab-node culvert "$s" && node_lab down
}

reason=$(cluster_missing)
[ -z "$reason" ] || { echo "bench.sh: $reason" >&2; exit 1; }
kinds=culvert
[ ! -x "${ZTUNNEL:-}" ] || kinds="culvert ztunnel"
: >"$SAMPLES"
[ -n "$(sh "$K8S_HERE/tools.sh" missing node)" ] || node_lab_turn || die "the one real node did not come up"
s=$(seconds cluster_up) || die "the cluster did not come up"
sample lab culvert "$s"
apps_up || die "its pods did not come up"
near=$(pod_ip shop/near) far=$(pod_ip shop/far)
residents 1 50 || die "50 pods did not come up"
turns memory_turn
residents 51 100 || die "100 pods did not come up"
turns pods_turn
table
json >"$O/bench-k8s.json"
