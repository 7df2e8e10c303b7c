#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Pods and daemons come and go while connections live: enrolment of a running pod, kill -9 and restart of
# the daemon, removal of a busy pod, and unload, which leaves nothing.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 44

# tick NAME POD ADDRESS PORT [MS]: numbers and echoes every 50 ms, or that many, until it is stopped
tick()
{
	nsenter --net="$(pod_netns "$2")" "$CV_TOOLS/tcpcall" -v -m tick -i "${5:-50}" -t 280000 \
		"$3" "$4" >"$CV_TMP/$1.tick" 2>&1 &
	eval "tick_$1=$!"
	cleanup stop "$!"
	ticks "$CV_TMP/$1.tick"
}

# lost: the client's end of its connection `lost`, whose other end has gone with a daemon
lost()
{
	pod_exec client ss -Htn state close-wait dst $FAR4 | grep -q .
}

# has_no_record POD: node1 does not know it
has_no_record()
{
	ctl node1 workloads -o json | jq -e --arg pod "$1" 'all(.[]; .name != $pod)'
}

# lived NAME: it is still ticking, and ends without an error when told to
lived()
{
	eval "pid=\$tick_$1"
	kill -TERM "$pid" || return
	wait_for 10 ktap_gone "$pid"
	grep -q 'result=ok' "$CV_TMP/$1.tick" || { cat "$CV_TMP/$1.tick"; return 1; }
}

up()
{
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

mesh_pods >"$CV_TMP/up.log" 2>&1 || up
mesh_servers >>"$CV_TMP/up.log" 2>&1 || up

# node1's pins, each program and map with its kernel id: what a restart must not make again
objects()
{
	find "$(node_bpffs node1)" -type f | sort | while read -r pin; do
		echo "$pin $(bpftool -j prog show pinned "$pin" 2>/dev/null | jq .id)" \
			"$(bpftool -j map show pinned "$pin" 2>/dev/null | jq .id)"
	done
}

# --- enrolment of a live pod ---
tick older_same client $NEAR4 7000
tick older_far client $FAR4 7000
mesh_daemons >>"$CV_TMP/up.log" 2>&1 || up
servers_before=$(ip netns pids "$(run_name near)" | sort | tr '\n' ' ')
check "pods are enrolled" mesh_enrol
check "enrolling again changes nothing" mesh_enrol
check_eq "three pods are listed" 3 "$({
	ctl node1 pod list -o json
	ctl node2 pod list -o json
} | jq -s 'add | length')"
check_eq "no process of the pod restarted" "$servers_before" \
	"$(ip netns pids "$(run_name near)" | sort | tr '\n' ' ')"
check "new connections take the mesh" call $FAR4 7000 -m echo -n 1000
[ "$(opened node1 tls)" -ge 1 ] && ok "… and are reported" || not_ok "… and are reported"
sleep 0.5
check "a connection that is older than the enrolment lives on, same node" lived older_same
check "a connection that is older than the enrolment lives on, other node" lived older_far

# --- refused enrolments ---
check_not "refused: a file that is no namespace" ctl node1 pod add default/x --netns /etc/hostname
check_not "refused: the daemon's own namespace" \
	ctl node1 pod add default/x --netns "/run/netns/$(run_name node1)"
check_not "refused: a namespace that is enrolled under another name" \
	ctl node1 pod add default/other --netns "$(pod_netns client)"
check_not "refused: a service account that contradicts the record" \
	ctl node1 pod add default/plain --netns "$(pod_netns plain)" --service-account somebody
check "removing a pod that is not enrolled is no error" ctl node1 pod del default/nobody

# --- kill -9 ---
tick direct client $NEAR4 7000
tick fixed client $FAR4 7000
tick lost client $FAR4 7000 250000
kill -STOP "$tick_lost" # an application that does not look
objects_before=$(objects)
capture_start node1 "$CV_TMP/dead.pcap" tcp
daemon_stop node1 KILL
check "a new direct flow opens without the daemon" call $NEAR4 7000 -m echo -n 100000
refused=$(call $FAR4 7000 -s secret-of-the-test -x ECONNREFUSED -v)
check "a new flow that needs the daemon is refused" test -n "$(echo "$refused" | grep ECONNREFUSED)"
ms=$(echo "$refused" | sed -n 's/.*total_ms=\([0-9]*\).*/\1/p' | head -n 1)
check "… within 100 ms (ten times that on a busy machine): ${ms:-?} ms" [ "${ms:-9999}" -le 1000 ]
check "IPv6: refused too" call $FAR6 7000 -s secret-of-the-test -x ECONNREFUSED
check "plain destinations are refused too" call $OUTSIDE4 7000 -s secret-of-the-test -x ECONNREFUSED
check "service VIPs of the other node are refused too" \
	call $FAR_VIP4 80 -s secret-of-the-test -x ECONNREFUSED,ECONNRESET
capture_stop node1
check_not "no plaintext of a captured flow is on the wire" grep -qa secret-of-the-test "$CV_TMP/dead.pcap"
check_eq "programs, maps and links stay" "$objects_before" "$(objects)"
daemon_start node1
check "the daemon starts again" wait_ready node1
check_eq "it adopted both pods" 2 "$(ctl node1 pod list -o json | jq length)"
check_eq "nothing was loaded twice" "$objects_before" "$(objects)"
check "HBONE works again" wait_for 10 call $FAR4 7000 -m echo -n 1000
check "direct works again" call $NEAR4 7000 -m echo -n 1000
check "the direct flow never noticed" lived direct
kill "$tick_fixed" 2>/dev/null

# --- no record yet: captured, waits, then refused ---
sed -i '$ a absent=1' "$LAB/pods/client"
mesh_file
wait_for 60 has_no_record client
start=$(date +%s)
check "without its record the pod's connections are refused" \
	call $FAR4 7000 -m echo -n 10 -w 20000 -x ECONNRESET,less
check "… after about 5 s" [ $(($(date +%s) - start)) -ge 4 ]
sed -i '/^absent=1/d' "$LAB/pods/client"
mesh_file
check "with it they work" wait_for 10 call $FAR4 7000 -m echo -n 1000

# --- removal of a busy pod ---
tick busy client $FAR4 7000
check "an application still has its end of a connection that died with the daemon" wait_for 10 lost
check "a busy pod is removed" pod_unenrol client
check "its proxied connections are closed" wait_for 10 ktap_gone "$tick_busy"
check_not "… and so is what the application could go on to send on" lost
kill -CONT "$tick_lost"
check "what it opens now goes past culvert" call $FAR4 7000 -m echo -n 1000
check "the namespace can go: nothing holds it" sh -c "
	ip netns pids $(run_name client) | xargs -r kill; ip netns del $(run_name client)"

# --- the end of a daemon ---
# priority PID: scheduling class and nice value of it, which is a daemon's control thread
priority()
{
	ps -o cls=,ni= -p "$1" | tr -d ' '
}

tick last near $FAR4 7000
check_eq "the control thread works below all others" B19 "$(priority "$(daemon_pid node2)")"
kill -TERM "$(daemon_pid node2)"
check "… but ends with the priority of all others, ours" \
	wait_for 10 eval '[ "$(priority "$(daemon_pid node2)")" = "$(priority $$)" ]'
kill "$tick_last" 2>/dev/null
wait_for 30 ktap_gone "$(daemon_pid node2)"
daemon_start node2
wait_ready node2

# --- unload ---
pod_unenrol near >/dev/null 2>&1
pod_unenrol far >/dev/null 2>&1
for node in node1 node2; do
	check "$node's daemon drains and ends" daemon_stop $node
	check "$node: unload" ctl $node unload
done
check "unload leaves no pins" [ ! -e "$(node_bpffs node1)" -a ! -e "$(node_bpffs node2)" ]
check "unload leaves no rules, routes or settings in the pods" sh -c \
	"[ '$(pod_exec near ip rule | grep -c 15001)$(pod_exec near ip -6 rule | grep -c 15001)$(pod_exec near ip route show table 15001 2>/dev/null | wc -l)' = 000 ]"
