#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016	# jq's and awk's programs
#
# demo.sh: culvert at work on a real application, step by step; `make demo`.
#
# Two nodes, each with a culvertd, and Bookinfo in six pods over both, plus a client. Each step says
# what it does, shows what came of it, and ends the demo with an error when that is not what it
# should be. KEEP=1 leaves everything up; `demo.sh down`, with CV_RUN and CV_TMP set, takes it down.
set -u

CV_SELFTESTS=$(cd "$(dirname "$0")/.." && pwd)
. "$CV_SELFTESTS/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
BOOKINFO=$O/selftests/bookinfo/bookinfo

# A line of each of the page's parts; what must be on the wire before, and must not be after.
TEXTS='Simple Bookstore App
Every brook should read it twice
GET /'
PODS='productpage details reviews-v1 ratings reviews-v2 reviews-v3 client'
PAGE=http://10.96.0.1:9080/productpage
RATINGS=http://10.96.0.1:9080/api/v1/products/0/ratings
UNAVAILABLE='Ratings service is currently unavailable'

# ---- saying and checking -------------------------------------------------------------------------

now_ms()
{
	echo $(($(date +%s%N) / 1000000))
}

started_ms=$(now_ms)
step_nr=0

step()
{
	step_nr=$((step_nr + 1))
	printf '\n%s %d. %s\n' "$(bold "[$(seconds_since "$started_ms") s]")" "$step_nr" "$*"
}

bold()
{
	if [ -t 1 ]; then printf '\033[1m%s\033[0m' "$*"; else printf '%s' "$*"; fi
}

seconds_since()
{
	awk -v ms=$(($(now_ms) - $1)) 'BEGIN { printf "%.1f", ms / 1000 }'
}

say()
{
	printf '   %s\n' "$*"
}

indent()
{
	sed 's/^/   | /'
}

fail()
{
	printf '\nThe demo stopped: %s\n' "$*"
	for f in "$LAB"/node?.log; do
		[ ! -s "$f" ] || printf -- '--- the end of %s\n%s\n' "${f##*/}" "$(tail -n 15 "$f")"
	done
	exit 1
}

# must WHAT COMMAND…: the command has to succeed.
must()
{
	what=$1
	shift
	out=$("$@" 2>&1) || fail "$what: $* (status $?) $out"
	say "✓ $what"
}

# eventually WHAT COMMAND…: within 10 seconds; how long it took is in $took_ms.
eventually()
{
	what=$1
	shift
	begin_ms=$(now_ms)
	wait_for 10 "$@" || fail "$what: not within 10 seconds: $* $("$@" 2>&1)"
	took_ms=$(($(now_ms) - begin_ms))
	say "✓ $what ($took_ms ms)"
}

# ---- Bookinfo ------------------------------------------------------------------------------------

bookinfo_pod()
{
	pod_add "$1" "$2" "$3" "$4" sa="bookinfo-${2%-v?}" app="${2%-v?}" version="$5" ||
		fail "cannot make the pod $2"
}

make_pods()
{
	lab_up node1 node2 || fail "cannot make the nodes"
	bookinfo_pod node1 productpage 10.244.1.10 fd10:244:1::10 v1
	bookinfo_pod node1 details 10.244.1.11 fd10:244:1::11 v1
	bookinfo_pod node1 reviews-v1 10.244.1.12 fd10:244:1::12 v1
	bookinfo_pod node1 ratings 10.244.1.13 fd10:244:1::13 v1
	bookinfo_pod node2 reviews-v2 10.244.2.10 fd10:244:2::10 v2
	bookinfo_pod node2 reviews-v3 10.244.2.11 fd10:244:2::11 v3
	bookinfo_pod node2 client 10.244.2.20 fd10:244:2::20 v1
	service_add productpage 10.96.0.1 fd96::1 9080 9080 productpage
	service_add details 10.96.0.2 fd96::2 9080 9080 details
	service_add reviews 10.96.0.3 fd96::3 9080 9080 reviews-v1 reviews-v2 reviews-v3
	service_add ratings 10.96.0.4 fd96::4 9080 9080 ratings
	kube_proxy_up || fail "cannot install the services' addresses"
	mesh_file
}

start_app()
{
	pod_start "$@"
	echo "$1 $!" >>"$LAB/apps"
}

start_apps()
{
	start_app productpage "$BOOKINFO" productpage -n productpage \
		-d 10.96.0.2:9080 -r 10.96.0.3:9080 -R 10.96.0.4:9080
	start_app details "$BOOKINFO" details -n details
	for v in v1 v2 v3; do
		start_app reviews-$v "$BOOKINFO" reviews -n reviews-$v -v $v -R 10.96.0.4:9080
	done
	start_app ratings "$BOOKINFO" ratings -n ratings
	start_app ratings "$CV_TOOLS/tcpecho" -p 7000
	start_app details "$CV_TOOLS/tcpecho" -p 7000
}

# Pod, pid and start time of every application: the same before and after is the same process.
processes()
{
	while read -r pod pid; do
		echo "$pod $pid $(awk '{ print $22 }' "/proc/$pid/stat")"
	done <"$LAB/apps"
}

get()
{
	pod_exec client curl -fsS -m 10 "$@"
}

page_has()
{
	get $PAGE | grep -q "$1"
}

# Both calls of the page are answered by every version of reviews.
page_is_whole()
{
	page_has '<title>Simple Bookstore App</title>' && page_has Pontifex && page_has Reviewer1
}

# reviews_from VERSION: the text of the reviews section when that version answered it
reviews_from()
{
	get $PAGE | grep "\"podname\": \"reviews-$1\""
}

# version_says VERSION TEXT: within some requests that version answers, and has the text.
version_says()
(
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		section=$(reviews_from "$1") && break
	done
	printf '%s\n' "$section" | grep -q "$2"
)

# ---- long-lived connections ----------------------------------------------------------------------

# keep_talking NAME POD ADDRESS: a number and its echo every 100 ms until told to end
keep_talking()
{
	lab_exec='exec' pod_exec "$2" "$CV_TOOLS/tcpcall" -m tick -i 100 -t 3600000 -w 5000 "$3" 7000 \
		>"$LAB/$1.talk" 2>&1 &
	echo $! >"$LAB/$1.talk.pid"
}

is_talking()
{
	kill -0 "$(cat "$LAB/$1.talk.pid")" && [ ! -s "$LAB/$1.talk" ]
}

# hang_up NAME: end it, and show how it was: 9 bytes an exchange
hang_up()
{
	kill "$(cat "$LAB/$1.talk.pid")" 2>/dev/null
	wait_for 10 test -s "$LAB/$1.talk"
	line=$(cat "$LAB/$1.talk")
	case $line in
	result=ok*) ;;
	*) fail "the $1 connection did not live: $line" ;;
	esac
	printf '%s\n' "$line" | tr ' ' '\n' | awk -F= -v name="$1" '{ v[$1] = $2 }
		END { printf "   ✓ %s: %d numbers sent and echoed in order over %.1f s, longest gap %.0f ms\n",
			name, v["received"] / 9, v["total_ms"] / 1000, v["gap_ms"] }'
}

# ---- the wire ------------------------------------------------------------------------------------

# Requests until every version of reviews has answered, so that everything has been on the wire.
every_version()
{
	for v in v1 v2 v3; do
		wait_for 10 reviews_from $v || fail "reviews-$v never answers"
	done
}

record_pages()
{
	capture_start node1 "$1" || fail "tcpdump: $(cat "$LAB/node1.tcpdump")"
	every_version
	capture_stop node1
}

# texts_in FILE: how often each of the texts is in the capture
texts_in()
{
	printf '%s\n' "$TEXTS" | while read -r text; do
		echo "$(grep -a -o -F "$text" "$1" | wc -l) × \"$text\""
	done
}

# packets FILE FILTER: how many
packets()
{
	tcpdump -r "$1" -nn "$2" 2>/dev/null | wc -l
}

# ---- what culvert knows --------------------------------------------------------------------------

# flow NODE JQ-CONDITION: the latest such flow, as one line
flow()
{
	ctl "$1" flows -o json | jq -er "map(select($2)) | last |
		\"\\(.source.workload) → \\(.destination.workload)  tier=\\(.tier)  \" +
		\"\\(.sourceIdentity) → \\(.destinationIdentity)  sent=\\(.sent) received=\\(.received)\" +
		if .error then \"  \\(.result): \\(.error)\" else \"\" end"
}

# between SOURCE DESTINATION: the jq condition for these workloads
between()
{
	echo ".source.workload == \"$1\" and .destination.workload == \"$2\""
}

is_flow()
{
	flow "$@" >/dev/null
}

show_flow()
{
	flow "$@" | indent
}

memory_kb()
{
	awk '/^VmRSS/ { print $2 }' "/proc/$(daemon_pid "$1")/status"
}

# set_policy FILE|-: make it the policy that the ratings pod selects, or none
set_policy()
{
	if [ "$1" = - ]; then
		rm -f "$LAB/policies.yaml"
		echo "extra=" >>"$LAB/pods/ratings"
	else
		cp "$1" "$LAB/policies.yaml"
		echo "extra='authorizationPolicies: [\"default/no-ratings\"]'" >>"$LAB/pods/ratings"
	fi
	mesh_file
}

# ---- steps ---------------------------------------------------------------------------------------

step_pods()
{
	step "Two nodes (network namespaces), Bookinfo in six pods over both, and a client"
	make_pods
	start_apps
	indent <<-END
		node1: productpage  details  reviews-v1  ratings     node2: reviews-v2  reviews-v3  client
		       10.244.1.10  .11      .12         .13                10.244.2.10 .11         .20
		       └──────────────── 10.88.0.1 ──── link ──── 10.88.0.2 ──────────────┘
	END
	eventually "the page is served, without any mesh yet" page_is_whole
	say "$(get $PAGE | grep title)"
}

step_plain_wire()
{
	step "Without a mesh everybody on the link between the nodes can read the page"
	record_pages "$LAB/before.pcap"
	texts_in "$LAB/before.pcap" | indent
	if texts_in "$LAB/before.pcap" | grep -q '^0 '; then
		fail "the search does not find the page's text where it is"
	fi
}

step_talk()
{
	step "Two long-lived connections are opened: client → ratings (across), productpage → details"
	keep_talking across client 10.244.1.13
	keep_talking same-node productpage 10.244.1.11
	sleep 0.5
	must "numbers go back and forth" is_talking across
	must "on both" is_talking same-node
}

step_enrol()
{
	step "A culvertd starts on each node, and the pods are enrolled while they run"
	processes >"$LAB/before.processes"
	for node in node1 node2; do
		daemon_start $node
	done
	for node in node1 node2; do
		must "$node is ready" wait_ready $node
	done
	for pod in $PODS; do
		begin_ms=$(now_ms)
		ctl_out=$(pod_enrol "$pod" 2>&1) || fail "enrolling $pod: $ctl_out"
		echo $(($(now_ms) - begin_ms)) >>"$LAB/enrolments"
	done
	say "✓ 7 pods enrolled; ms each, the command included: $(tr '\n' ' ' <"$LAB/enrolments")"
	processes >"$LAB/after.processes"
	must "no application was restarted: same processes, same start times" \
		cmp "$LAB/before.processes" "$LAB/after.processes"
	must "the connection across the nodes lives" is_talking across
	must "the connection on the node lives" is_talking same-node
}

step_workloads()
{
	step "What culvert knows of the mesh: culvertctl workloads"
	table=$(ctl node1 workloads) || fail "culvertctl workloads"
	printf '%s\n' "$table" | indent
	for pod in $PODS; do
		printf '%s\n' "$table" | grep -q " $pod .*HBONE" || fail "$pod is not in the table"
	done
}

step_page()
{
	step "The client asks for the page again"
	must "the page is served" page_is_whole
	say "$(get $PAGE | grep title)"
	every_version
	say "✓ all three versions of reviews answer"
	must "reviews v2 and v3 show the stars that ratings gives" version_says v2 '"stars": 5'
}

step_flows()
{
	step "Each hop, its tier, identities and bytes: culvertctl flows"
	get $RATINGS >/dev/null || fail "the ratings are not served"
	for hop in "client productpage tls" "productpage details direct" \
		"productpage reviews-v1 direct" "productpage reviews-v2 tls" \
		"productpage reviews-v3 tls" "reviews-v2 ratings tls" "reviews-v3 ratings tls" \
		"productpage ratings direct"; do
		# shellcheck disable=SC2086	# three words
		set -- $hop
		want="$(between "$1" "$2") and .tier == \"$3\" and .state == \"closed\" and
			.sent > 0 and .received > 0 and (.sourceIdentity | startswith(\"spiffe://\"))"
		node=$(pod_get "$1" node)
		wait_for 5 is_flow "$node" "$want" ||
			fail "no flow $1 → $2 on tier $3: $(ctl "$node" flows)"
		show_flow "$node" "$want"
	done
	say "✓ on one node: direct, admitted by the kernel; between nodes: tls"
}

step_wire()
{
	step "The same recording of the link as before"
	record_pages "$LAB/after.pcap"
	texts_in "$LAB/after.pcap" | indent
	if texts_in "$LAB/after.pcap" | grep -qv '^0 '; then
		fail "the page's text is on the wire"
	fi
	# Content type 23 (application data), version 3.x: at the start of TCP's payload.
	tls=$(packets "$LAB/after.pcap" 'tcp port 15008 and tcp[((tcp[12] & 0xf0) >> 2)] = 23 and
		tcp[((tcp[12] & 0xf0) >> 2) + 1] = 3')
	other=$(packets "$LAB/after.pcap" 'tcp and not port 15008 and not port 7000')
	say "$tls packets begin with a TLS record; $other packets of TCP are neither HBONE nor the old connection"
	[ "$tls" -gt 0 ] || fail "there is no TLS on the wire"
	[ "$other" = 0 ] || fail "something went around: $(packets "$LAB/after.pcap" tcp)"
	say "✓ the bytes between the nodes are TLS, and the page's text is not in them"
}

step_deny()
{
	step "A policy that denies ratings goes into the mesh file"
	cat >"$LAB/no-ratings.yaml" <<-END
		- name: no-ratings
		  namespace: default
		  scope: WorkloadSelector
		  action: Deny
		  dryRun: false
		  rules:
		  - - - namespaces: [!Exact default]
	END
	indent <"$LAB/no-ratings.yaml"
	set_policy "$LAB/no-ratings.yaml"
	eventually "reviews v3 says: $UNAVAILABLE" version_says v3 "$UNAVAILABLE"
	deny_ms=$took_ms
	get -o /dev/null $RATINGS 2>/dev/null && fail "productpage still gets ratings"
	must "the page itself still works" page_is_whole
	denied='.error != null and (.error | contains("explicitly denied by: default/no-ratings"))'
	for hop in "reviews-v3 ratings" "productpage ratings"; do
		# shellcheck disable=SC2086	# two words
		want="$(between ${hop% *} ${hop#* }) and $denied"
		wait_for 5 is_flow node1 "$want" || fail "no refused flow $hop: $(ctl node1 flows)"
		show_flow node1 "$want"
	done
	say "✓ refused on both paths, with the reason; in the log of node1:"
	grep 'explicitly denied' "$LAB/node1.log" | tail -n 1 | indent
}

step_allow()
{
	step "The policy is taken back"
	set_policy -
	eventually "reviews v3 shows stars again" version_says v3 '"stars": 5'
	allow_ms=$took_ms
	eventually "productpage gets ratings again" get -o /dev/null $RATINGS
}

step_inside()
{
	step "Inside: reasons, maps, memory, timings"
	say "why programs ended early, on node1 (culvertctl status):"
	ctl node1 status | indent
	say "the maps of node1, and what cv_pods holds (bpftool):"
	find "$(node_bpffs node1)" -name 'cv_*' | sort | while read -r pin; do
		bpftool map show pinned "$pin" 2>/dev/null | head -n 1
	done | indent
	bpftool -j map dump pinned "$(find "$(node_bpffs node1)" -name cv_pods)" |
		jq -c '.[].formatted.value' | indent
	for node in node1 node2; do
		say "resident memory of $node's culvertd: $(memory_kb $node) kB"
	done
	sort -n "$LAB/enrolments" | awk '{ v[NR] = $1 } END { printf "   enrolment of a pod: median %d ms, the command included\n", v[int((NR + 1) / 2)] }'
	say "policy in force after the file was written: $deny_ms ms; taken back: $allow_ms ms"
}

step_hang_up()
{
	step "The long-lived connections, opened before culvert was there"
	hang_up across
	hang_up same-node
}

look_around()
{
	cat <<-END

		Left up. To look around:
		   nsenter --net=$(pod_netns client) curl $PAGE
		   CULVERT_RUN_DIR=$(node_run_dir node1) CULVERT_BPFFS=$(node_bpffs node1) $CULVERTCTL flows
		   $LAB/mesh.yaml is the control plane: edit it; logs are $LAB/node1.log and node2.log
		To take it down: CV_RUN=$CV_RUN CV_TMP=$CV_TMP $0 down
	END
}

main()
{
	step_pods
	step_plain_wire
	step_talk
	step_enrol
	step_workloads
	step_page
	step_flows
	step_wire
	step_deny
	step_allow
	step_hang_up
	step_inside
	printf '\nAll as it should be, in %s s.\n' "$(seconds_since "$started_ms")"
	[ "${KEEP:-0}" != 1 ] || look_around
}

case ${1:-} in
down)
	lab_down
	rm -rf "$CV_TMP"
	;;
*)
	main
	;;
esac
