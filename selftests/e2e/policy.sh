#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# L4 authorisation is the same on the direct tier, HBONE and plaintext inbound: new connections are
# refused in ztunnel's shape (accepted, then reset), established ones are closed by a change, and what
# is allowed again works again. Selector and mesh scopes, dry-run, STRICT, waypoints.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 44
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

reset="-m echo -n 100 -x ECONNRESET,less"

# hold NAME POD ADDRESS PORT: a connection that stays open; its outcome goes to $CV_TMP/NAME.hold
hold()
{
	nsenter --net="$(pod_netns "$2")" "$CV_TOOLS/tcpcall" -v -m tick -i 50 -t 30000 \
		-x ECONNRESET,ECONNABORTED,EPIPE,less "$3" "$4" >"$CV_TMP/$1.hold" 2>&1 &
	eval "hold_$1=$!"
	cleanup stop "$!"
	ticks "$CV_TMP/$1.hold"
}

# died NAME: the held connection has ended within a second (ten times that on a busy machine)
died()
{
	eval "wait_for 10 ktap_gone \$hold_$1"
}

alive()
{
	eval "! ktap_gone \$hold_$1"
}

# steal: another pod dials with the address and port of the client's open connection, which needs no
# privilege. It gets nowhere, but its SYN takes the tuple's attested entry away.
steal()
{
	steal_port=$(pod_exec client ss -Htn state established "dst [$NEAR6]:7000" |
		awk '{ sub(".*:", "", $3); print $3; exit }')
	pod_exec outside python3 -c '
import socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
s.bind((sys.argv[1], int(sys.argv[2])))
s.setblocking(False)
s.connect_ex((sys.argv[3], 7000))' "$CLIENT6" "$steal_port" "$NEAR6"
}

# --- a DENY by port, on every path ---
hold direct client $NEAR4 7000
hold hbone client $FAR4 7000
hold plain outside $NEAR4 7000
check "connections on three paths are open" sh -c "kill -0 $hold_direct $hold_hbone $hold_plain"
policies "$(deny_port 7000)"
check "a policy change closes the established direct flow" died direct
check "a policy change closes the established HBONE flow" died hbone
check "a policy change closes the established plaintext flow" died plain
denied()
{
	metric node1 istio_tcp_connections_failed_total 'response_flags="DENY"'
}

more_denied()
{
	[ "$(denied)" -gt "$1" ]
}
denied_before=$(denied)
check "direct: refused by a reset" call $NEAR4 7000 $reset
check "direct: counted with flag DENY" wait_for 10 more_denied "$denied_before"
# answered STATUS ADDRESS PORT: a reset for the client; its node was told why
answered()
{
	call "$2" "$3" $reset && wait_for 10 grep -q "http status: $1 " "$LAB/node1.log"
}
check "HBONE: refused by a reset, answered with 401" answered 401 $FAR4 7000
check "HBONE: where nobody listens, the same with 503" answered 503 $FAR4 7999
check "plaintext inbound: refused by a reset" pod_exec outside "$CV_TOOLS/tcpcall" $reset $NEAR4 7000
check "by VIP: refused by a reset" call $NEAR_VIP4 80 $reset
explained()
{
	ctl node1 explain --from default/client --to "$2" -o json >"$CV_TMP/explain.json"
	[ $? = "$1" ] && [ "$(jq -r "$3" "$CV_TMP/explain.json")" = "$4" ] ||
		{ cat "$CV_TMP/explain.json"; return 1; }
}
check "explain: the policy that denies, exit code 3" \
	explained 3 $NEAR4:7000 '.paths[0].policy' default/deny-7000
check "explain: what the kernel says" explained 3 $NEAR4:7000 '.paths[0].kernel.answer' deny
check "explain: denied on the other node, too" explained 3 $FAR4:7000 '.verdict' deny
check "explain: another port is direct, exit code 0" explained 0 $NEAR4:7001 '.paths[0].tier' direct
check "explain: by VIP, one path for each endpoint" \
	explained 3 $ECHO_VIP4:80 '[.paths[].destination.name] | sort | join(" ")' "far near"
check "IPv6 direct: refused by a reset" call $NEAR6 7000 $reset
check "IPv6 HBONE: refused by a reset" call $FAR6 7000 $reset
check "another port is not concerned" call $NEAR4 7001 -m line -e $CLIENT4
check "the log says which policy" wait_for 5 grep -q 'explicitly denied by: default/deny-7000' "$LAB/node1.log" "$LAB/node2.log"
no_policies
wait_for 10 call $NEAR6 7000 -m echo -n 100
hold stolen client $NEAR6 7000
check "another pod takes the tuple of an open direct flow" steal
policies "$(deny_port 7000)"
check "a policy change closes the flow all the same" died stolen
no_policies
check "explain: no policy any more" explained 0 $ECHO_VIP4:80 '[.paths[].tier] | sort | join(" ")' \
	"direct tls"
check_not "explain: a pod of the other node is not answered for" \
	ctl node1 explain --from default/far --to $NEAR4:7000
check "taken back: direct works" call $NEAR4 7000 -m echo -n 1000
check "taken back: HBONE works" call $FAR4 7000 -m echo -n 1000
check "taken back: plaintext works" pod_exec outside "$CV_TOOLS/tcpcall" -m echo -n 1000 $NEAR4 7000

# --- ALLOW by identity: the kernel's attested identity counts on the direct tier ---
policies "- name: only-client
  namespace: default
  scope: Namespace
  action: Allow
  dryRun: false
  rules:
  - - - serviceAccounts: [{namespace: default, serviceAccount: client}]"
check "ALLOW by service account: direct" call $NEAR4 7000 -m echo -n 1000
check "ALLOW by service account: HBONE" call $FAR4 7000 -m echo -n 1000
check "ALLOW by service account: a stranger without identity is refused" \
	pod_exec outside "$CV_TOOLS/tcpcall" $reset $NEAR4 7000
check "ALLOW by service account: another pod is refused, same node" \
	pod_exec near "$CV_TOOLS/tcpcall" $reset $CLIENT4 7000
check "ALLOW by service account: another pod is refused, across nodes" \
	pod_exec near "$CV_TOOLS/tcpcall" $reset $FAR4 7000

# --- STRICT, as the control plane converts it: deny whoever has no principal ---
policies "- name: strict
  namespace: istio-system
  scope: Global
  action: Deny
  dryRun: false
  rules:
  - - - notPrincipals: [!Presence []]"
check "STRICT: direct is attested and passes" call $NEAR4 7000 -m echo -n 1000
check "STRICT: HBONE passes" call $FAR4 7000 -m echo -n 1000
check "STRICT: plaintext is refused" pod_exec outside "$CV_TOOLS/tcpcall" $reset $NEAR4 7000

# --- a record that says TCP, of an enrolled pod that is not reached directly: its 15006 is told no identity, the
# client's side has it ---
# takes TIER: a connection to near is of this tier
takes()
{
	before=$(opened node1 "$1")
	call $NEAR4 7000 -m echo -n 100 && wait_for 1 more_opened "$1" "$before"
}

more_opened()
{
	[ "$(opened node1 "$1")" -gt "$2" ]
}
echo "sameNode: {pods: {default/near: tls}}" >"$LAB/node1.culvert.yaml"
sed -i "s/^protocol=.*/protocol=TCP/" "$LAB/pods/near"
no_policies
check "the record says TCP, not directly: plain TCP by the daemon" wait_for 30 takes passthrough
hold tcp client $NEAR4 7000
policies "- name: not-client
  namespace: default
  scope: Namespace
  action: Deny
  dryRun: false
  rules:
  - - - serviceAccounts: [{namespace: default, serviceAccount: client}]"
check "DENY by service account: the record says TCP: closed by the change" died tcp
check "DENY by service account: the record says TCP: refused by a reset" call $NEAR4 7000 $reset
sed -i "s/^protocol=.*/protocol=HBONE/" "$LAB/pods/near"
echo "sameNode: {mesh: direct}" >"$LAB/node1.culvert.yaml"
no_policies
check "taken back: direct works again" wait_for 30 takes direct

# --- dry-run decides nothing ---
policies "$(deny_port 7000 | sed 's/dryRun: false/dryRun: true/')"
check "dry-run: direct passes" call $NEAR4 7000 -m echo -n 1000
check "dry-run: plaintext passes" pod_exec outside "$CV_TOOLS/tcpcall" -m echo -n 1000 $NEAR4 7000

# --- a waypoint: never direct, never past it ---
no_policies
sed -i "s/^extra=.*/extra='waypoint: {destination: \"\/10.96.0.99\", hboneMtlsPort: 15008}'/" "$LAB/pods/near"
mesh_file
check "a destination whose waypoint nobody knows is refused" wait_for 10 call $NEAR4 7000 $reset
check "the reason is waypoint" wait_for 5 sh -c "grep -qi waypoint '$LAB/node1.log'"
sed -i "s/^extra=.*/extra=/" "$LAB/pods/near"
mesh_file
check "without the waypoint it works again" wait_for 10 call $NEAR4 7000 -m echo -n 1000
check "both daemons are alive" kill -0 "$(daemon_pid node1)" "$(daemon_pid node2)"
