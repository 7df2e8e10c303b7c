#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# culvertd in ztunnel's place: pods come from a node agent over ZDS, with istio-cni's redirection in
# them, and nothing of BPF is used.
#
#	node1: client  near              node2: far
#	         │       │                        │
#	         └───────┴──── link ──────────────┘       outside: a host that is in no mesh
#
# First both nodes are such, then node2 is a culvert of the full mode.
# timeout: 600

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/lib/inpod.sh"

REFUSED=ECONNRESET,EPIPE,less

plan 75

up()
{
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

from()
{
	from_pod=$1
	shift
	pod_exec "$from_pod" "$CV_TOOLS/tcpcall" "$@"
}

# pending NODE: what keeps it from being ready
pending()
{
	node_exec "$1" curl -sS -m 2 http://127.0.0.1:15021/healthz/ready
}

is_pending()
{
	pending "$1" | grep -qx "not ready, pending: workload proxy manager"
}

# ours POD: sockets that listen on the proxy's ports in the pod
ours()
{
	pod_exec "$1" ss -Hltn "( sport = :15001 or sport = :15006 or sport = :15008 )" | wc -l
}

has_none()
{
	[ "$(ours "$1")" = 0 ]
}

# --- before the agent and after it ---
mesh_pods >"$CV_TMP/up.log" 2>&1 || up
mesh_servers >>"$CV_TMP/up.log" 2>&1 || up
# The daemon's own pod: node1 itself.
printf '%s\n' node=node1 pod=daemon ip4=10.88.0.1 ip6=fd88:0::1 sa=daemon namespace=default protocol=HBONE \
	app=daemon version=v1 extra= >"$LAB/pods/daemon"
mesh_file
inpod_start node1 node1 POD_NAME=daemon POD_NAMESPACE=default SERVICE_ACCOUNT=daemon
inpod_start node2 node2
check "without a node agent: not ready" wait_for 20 is_pending node1
check "node agents come up" eval 'agent_up node1 && agent_up node2'
check "with an empty snapshot: ready" eval 'wait_ready node1 && wait_ready node2'
for pod in client near far; do
	check "$pod is handed over and acknowledged" inpod_enrol $pod
done
check_eq "three pods are listed" "client far near" "$({
	inpod_ctl node1 node1 pod list -o json
	inpod_ctl node2 node2 pod list -o json
} | jq -rs 'add | map(.name) | sort | join(" ")')"
check_eq "the list of a pod that istio-cni owns cannot be changed by hand" 1 "$(
	inpod_ctl node1 node1 pod del default/client 2>&1 | grep -c istio-cni
)"
check_eq "the daemon's process is in the node's namespace" "$(node_exec node1 readlink /proc/self/ns/net)" \
	"$(readlink "/proc/$(daemon_pid node1)/ns/net")"
check "nothing is pinned" sh -c "[ ! -e '$(node_bpffs node1)' ]"

# --- traffic ---
# reaches NAME CLIENT IPV4 IPV6 VIP
reaches()
{
	check "$1: pod address" from "$2" -m echo -n 1000000 "$3" 7000
	check "$1: IPv6 pod address" from "$2" -m echo -n 1000000 "$4" 7000
	check "$1: service address" from "$2" -m echo -n 1000000 "$5" 80
	check "$1: an answer after the client's half-close" from "$2" -m sink -n 100000 "$3" 7002
}

sees_client()
{
	check "$1: the server sees the client's address" from "$2" -e "$(pod_get "$2" ip4):" "$3" 7001
	check "$1: the server sees the client's IPv6 address" from "$2" -e "$(pod_get "$2" ip6)" "$4" 7001
}

only_hbone()
(
	capture_start node1 "$CV_TMP/link.pcap" tcp and not port 15008 || return
	from client -m echo $FAR4 7000 && from far -m echo $NEAR6 7000 || return
	capture_stop node1
	others=$(tcpdump -nn -r "$CV_TMP/link.pcap" 2>/dev/null)
	echo "$others"
	[ -z "$others" ]
)

for pod in near far; do
	pod_start $pod "$CV_TOOLS/tcpecho" -p 7002 -m sink
	wait_for 60 pod_listens $pod 7002
done
tls_before=$(opened node1 tls)
reaches "to another node" client $FAR4 $FAR6 $FAR_VIP4
sees_client "to another node" client $FAR4 $FAR6
reaches "on one node" client $NEAR4 $NEAR6 $NEAR_VIP4
sees_client "on one node" client $NEAR4 $NEAR6
reaches "the other way" far $NEAR4 $NEAR6 $NEAR_VIP4
check "nothing but HBONE is on the link" only_hbone
check "all of it went by tls" sh -c "[ $(($(opened node1 tls) - tls_before)) -ge 12 ]"
check "1,000 connections at once" from client -m tick -t 2000 -i 500 -c 1000 -w 30000 $FAR4 7000
check "from outside: plaintext with the client's address" from outside -e "$OUTSIDE4:" $NEAR4 7001
check "from outside: plaintext over IPv6" from outside -e "$OUTSIDE6" $NEAR6 7001
check "to outside: passed through" from client -m echo -n 100000 $OUTSIDE4 7000
check "a pod reaches itself" from near -m echo -n 1000 $NEAR4 7000
check "a pod reaches itself by its service" from near -m echo -n 1000 $NEAR_VIP4 80
check "the proxy's own ports are no way in" from client -m echo -x $REFUSED,ECONNREFUSED $CLIENT4 15001

# --- our own pod ---
scrape()
{
	pod_exec client curl -fsS -m 10 http://10.88.0.1:15020/metrics | grep -q '^istio_build'
}

own_before=$(metric node1 istio_tcp_connections_opened_total 'reporter="destination"' \
	'destination_workload="daemon"' 'connection_security_policy="mutual_tls"')
check "metrics can be asked for over HBONE" scrape
check "… and were" sh -c "[ $(metric node1 istio_tcp_connections_opened_total 'reporter="destination"' \
	'destination_workload="daemon"' 'connection_security_policy="mutual_tls"') -gt $own_before ]"
check_eq "of our own pod nothing but 15008 is listened on" "15008" \
	"$(node_exec node1 ss -Hltn "( sport = :15001 or sport = :15006 or sport = :15008 )" |
		sed 's/.*:\(150[0-9]*\) .*/\1/' | sort -u)"
check_eq "our own pod is in no list" 3 "$({
	inpod_ctl node1 node1 pod list -o json
	inpod_ctl node2 node2 pod list -o json
} | jq -s 'add | length')"

# --- policy ---
policies "- name: strict
  namespace: default
  scope: Namespace
  action: Deny
  dryRun: false
  rules:
  - - - notPrincipals: [!Presence []]"
check "STRICT: mutual TLS passes, from another node" from far -m echo -n 1000 $NEAR4 7000
check "STRICT: mutual TLS passes, on one node" from client -m echo -n 1000 $NEAR4 7000
check "STRICT: plaintext is refused" from outside -m echo -x $REFUSED $NEAR4 7000
policies "$(deny_port 7000)"
check "a denied port is refused, to another node" from client -m echo -x $REFUSED $FAR4 7000
check "a denied port is refused, on one node" from client -m echo -x $REFUSED $NEAR6 7000
no_policies

# --- the agent goes and comes ---
# tick NAME POD ADDRESS PORT: numbers and echoes every 50 ms until it is stopped
tick()
{
	nsenter --net="$(pod_netns "$2")" "$CV_TOOLS/tcpcall" -v -m tick -i 50 -t 120000 \
		"$3" "$4" >"$CV_TMP/$1.tick" 2>&1 &
	eval "tick_$1=$!"
	cleanup stop "$!"
	ticks "$CV_TMP/$1.tick"
}

# lived NAME: it is still ticking, and ends without an error when told to
lived()
{
	eval "pid=\$tick_$1"
	kill -TERM "$pid" || return
	wait_for 10 ktap_gone "$pid"
	grep -q 'result=ok' "$CV_TMP/$1.tick" || { cat "$CV_TMP/$1.tick"; return 1; }
}

tick agent client $FAR4 7000
agent_down node1
check "the agent is gone: not ready" wait_for 10 is_pending node1
check "… and traffic goes on" from client -m echo -n 1000 $FAR4 7000
agent_up node1
check "the agent is back: ready" wait_ready node1
check "… and the old connection lives" lived agent
check_eq "… and no pod was started anew" "2 0" "$(metric node1 workload_manager_proxies_started_total) \
$(metric node1 workload_manager_proxies_stopped_total)"

# --- a rolling update under load ---
# load NAME POD ADDRESS PORT: connections one after another, four at a time, until the file goes
load()
{
	(
		while [ -e "$CV_TMP/load" ]; do
			nsenter --net="$(pod_netns "$2")" "$CV_TOOLS/tcpcall" -v -m echo -c 20 -j 4 "$3" "$4"
		done
	) >"$CV_TMP/$1.load" 2>&1 &
	eval "load_$1=$!"
	cleanup stop "$!"
}

# unfailed NAME: it has ended, and every connection of it was good
unfailed()
{
	eval "wait_for 30 ktap_gone \$load_$1" || return
	grep 'result=' "$CV_TMP/$1.load" | grep -v 'result=ok' && return 1
	[ "$(grep -c 'result=ok' "$CV_TMP/$1.load")" -gt 100 ]
}

: >"$CV_TMP/load"
load out client $FAR4 7000
load in far $NEAR4 7000
load same client $NEAR4 7000
load plain outside $NEAR4 7000
sleep 1
netns_add next >/dev/null
node_exec next ip link set lo up
inpod_start node1 next
check "rolling update: the next one gets ready beside the first" wait_ready next
check_eq "… both listen" 12 "$(ours near)"
tick roll client $FAR4 7000
kill -TERM "$tick_roll"
check "… the first one ends by itself" daemon_stop node1
sleep 2
rm "$CV_TMP/load"
check "… no connection out has failed" unfailed out
check "… none in" unfailed in
check "… none on one node" unfailed same
check "… none in plaintext" unfailed plain
check "the last words of the first one" grep -q "drained" "$LAB/node1.log"

# --- pods go ---
tick gone far $NEAR4 7000
check "a pod that the agent deletes" inpod_forget near
check "… has no sockets of ours" wait_for 10 has_none near
check "… and no connections" wait_for 10 ktap_gone "$tick_gone"
check "… the others go on" from client -m echo -n 1000 $FAR4 7000
check "the pod comes back" inpod_hand_over near
check "… and is reached" wait_for 10 from far -m echo -n 1000 $NEAR4 7000

# --- a pod that the control plane does not know yet ---
printf '%s\n' node=node1 pod=early sa=early namespace=default >"$LAB/pods/early"
netns_add early >/dev/null
has_certificate()
{
	inpod_ctl node1 next certificates -o json | grep -q "spiffe://cluster.local/ns/default/sa/$1"
}
check "a pod without a record is handed over" inpod_hand_over early
check "its certificate is there before its record" wait_for 10 has_certificate early
check "it goes" inpod_forget early
rm "$LAB/pods/early"

# --- the other node in full mode ---
full_mode()
{
	daemon_stop node2 && agent_down node2 &&
		pod_exec far nft delete table inet ambient &&
		daemon_start node2 && wait_ready node2 && pod_enrol far
}

check "node2 changes to the full mode" full_mode
reaches "to the full mode" client $FAR4 $FAR6 $FAR_VIP4
reaches "from the full mode" far $NEAR4 $NEAR6 $NEAR_VIP4
[ "$ktap_failed" = 0 ] || comment "$(tail -n 60 "$LAB/node1.log" "$LAB/next.log" "$LAB/node2.log")"
