#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Waypoints: what is dialled through one goes to it as it was dialled, by service and by workload;
# it alone reaches what is behind it; and nothing gets past it when it is away. The waypoint wp is a pod
# of node2 with an application tunnel: its node terminates the HBONE, its application gets the PROXY
# header on loopback, and what that dials is captured like any pod's. The other one, gw, is not enrolled and
# speaks HBONE itself, as a gateway does.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

WP4=10.244.2.20 WP6=fd10:244:2::20 GW4=10.244.2.21 GW6=fd10:244:2::21
GW_VIP4=10.96.0.30 GW_VIP6=fd96::30
tunnel='applicationTunnel: {protocol: PROXY, port: 15088}'
behind='waypoint: {destination: "default/wp.default.svc.cluster.local", hboneMtlsPort: 15008}'
identity=spiffe://cluster.local/ns/default/sa/client

plan 33

waypoint_up()
{
	mesh_pods && pod_add node2 wp $WP4 $WP6 "extra=$tunnel" &&
		service_add wp 10.96.0.20 - 15008 15008 wp || return
	# far is dialled by address, the service echo by its VIP; both are behind the waypoint.
	sed -i "s|^extra=.*|extra='$behind'|" "$LAB/pods/far"
	echo "extra='$behind'" >>"$LAB/services/echo"
	# The service behind-gw names its waypoint by address.
	pod_add node2 gw $GW4 $GW6 && service_add behind-gw $GW_VIP4 $GW_VIP6 80 7000 near || return
	echo "extra='waypoint: {destination: \"/$GW4\", hboneMtlsPort: 15008}'" >>"$LAB/services/behind-gw"
	mesh_file
	mesh_servers && mesh_daemons && mesh_enrol && pod_enrol wp && app_start && gateway_start
}

# A certificate of the lab's root for a service account, in $CV_TMP/ACCOUNT.{crt,key}
certificate()
{
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /O=test \
		-keyout "$CV_TMP/$1.key" 2>/dev/null |
		openssl x509 -req -days 1 -CA "$LAB/ca/root-cert.pem" -CAkey "$LAB/ca/root-key.pem" \
			-set_serial "0x$(openssl rand -hex 8)" -out "$CV_TMP/$1.crt" -extfile /dev/fd/3 2>/dev/null 3<<-END
		subjectAltName = critical, URI:spiffe://cluster.local/ns/default/sa/$1
		keyUsage = digitalSignature
		extendedKeyUsage = serverAuth, clientAuth
	END
}

# gateway_start [ACCOUNT]: with the certificate of this service account (its own)
gateway_start()
{
	certificate "${1:-gw}" || return
	pod_start gw "$CV_TOOLS/waypoint" 15008 "$CV_TMP/${1:-gw}.crt" "$CV_TMP/${1:-gw}.key" \
		"$LAB/ca/root-cert.pem" $GW_VIP4:80=$NEAR4:7000 "[$GW_VIP6]:80=[$NEAR6]:7000"
	gateway=$!
	wait_for 60 pod_listens gw 15008
}

app_start()
{
	pod_start wp "$CV_SELFTESTS/e2e/waypoint_app.py" 15088 "$CV_TMP/app.log" \
		$ECHO_VIP4:80=$NEAR4:7000 "[$ECHO_VIP6]:80=[$NEAR6]:7000"
	app=$!
	wait_for 60 pod_listens wp 15088
}

waypoint_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# told PATTERN: the waypoint's application was told so
told()
{
	wait_for 10 grep -qE "$1" "$CV_TMP/app.log" || {
		cat "$CV_TMP/app.log"
		return 1
	}
}

reset="-m echo -n 100 -x ECONNRESET,less"

# refused_fast ADDRESS PORT: by a reset, within a second (ten on a busy machine)
refused_fast()
{
	timeout 10 nsenter --net="$(pod_netns client)" "$CV_TOOLS/tcpcall" $reset "$1" "$2"
}

explain()
{
	ctl node1 explain --from default/client --to "$1" -o json
}

# --- by service ---
check "service: every byte both ways, half-closes included" call $ECHO_VIP4 80 -m echo -n 1000000
check "service: the waypoint is told what was dialled, by whom" \
	told "^$CLIENT4:[0-9]+ $ECHO_VIP4:80 $identity\$"
check "service, IPv6" call $ECHO_VIP6 80 -m echo -n 100000
check "service, IPv6: the waypoint is told what was dialled, by whom" \
	told "^\[$CLIENT6\]:[0-9]+ \[$ECHO_VIP6\]:80 $identity\$"
check "service: reported with the waypoint as the workload and the service that was dialled" \
	wait_for 10 sh -c "nsenter --net=/run/netns/$(run_name node1) \
		curl -fsS -m 5 http://127.0.0.1:15020/metrics | grep 'connections_opened_total{' |
		grep 'reporter=\"source\"' | grep 'destination_workload=\"wp\"' |
		grep -q 'destination_service=\"$(service_host echo)\"'"
check "service: 100 connections" call $ECHO_VIP4 80 -m echo -n 100 -c 100 -j 4
check "service: from a pod of the waypoint's own node" \
	pod_exec far "$CV_TOOLS/tcpcall" -m echo -n 100000 $ECHO_VIP4 80
check_eq "explain: the waypoint decides" "true allow wp" \
	"$(explain $ECHO_VIP4:80 | jq -r '.paths[0] | "\(.waypoint) \(.verdict) \(.destination.name)"')"

# --- by workload ---
check "workload: every byte both ways" call $FAR4 7000 -m echo -n 1000000
check "workload: the waypoint is told what was dialled, by whom" \
	told "^$CLIENT4:[0-9]+ $FAR4:7000 $identity\$"
check "workload: the destination sees the waypoint's address" call $FAR4 7001 -m line -e $WP4
check "workload, IPv6: the destination sees the waypoint's address" call $FAR6 7001 -m line -e $WP6
check "the waypoint's own connections go to the workload itself" \
	pod_exec wp "$CV_TOOLS/tcpcall" -m line -e $WP4 $FAR4 7001
# far is an endpoint of this service, which has no waypoint: the workload's is for who dials the workload.
check "by a service without a waypoint the workload's is not in the way" \
	call $FAR_VIP4 80 -m echo -n 1000
check "… and the waypoint was not asked" sh -c "! grep -q '$FAR_VIP4' '$CV_TMP/app.log'"

# --- the waypoint alone is admitted ---
sed -i "s|^extra=.*|extra='$behind\n  authorizationPolicies: [default/only-wp]'|" "$LAB/pods/far"
policies "- name: only-wp
  namespace: default
  scope: WorkloadSelector
  action: Allow
  dryRun: false
  rules:
  - - - serviceAccounts: [{namespace: default, serviceAccount: wp}]"
check "policy for the waypoint alone: through it" call $FAR4 7000 -m echo -n 1000
check "policy for the waypoint alone: past it is refused" refused_fast $FAR_VIP4 80
check "policy for the waypoint alone: a stranger is refused" \
	pod_exec outside "$CV_TOOLS/tcpcall" $reset $FAR4 7000
no_policies

# --- loops ---
check "a waypoint that dials a service of its own is refused" \
	pod_exec wp "$CV_TOOLS/tcpcall" $reset $ECHO_VIP4 80
check "… and the log says why" wait_for 10 grep -q 'recursive call to ourselves: wp is a waypoint of' "$LAB/node2.log"

# --- a gateway that speaks HBONE itself ---
gateway_told()
{
	wait_for 10 grep -qE "$1" "$LAB/gw.log" || {
		cat "$LAB/gw.log"
		return 1
	}
}

check "gateway: every byte both ways, half-closes included" call $GW_VIP4 80 -m echo -n 1000000
check "gateway: authority, identity, forwarded, baggage, trace id" gateway_told \
	"^$GW_VIP4:80 identity=$identity host=$(service_host behind-gw) ns=default workload=client service=client trace=32\$"
check "gateway, IPv6: every byte both ways" call $GW_VIP6 80 -m echo -n 100000
check "gateway, IPv6: by the waypoint's IPv4 address, as it is named" \
	wait_for 10 grep -q "dst.addr=$GW4:15008 dst.hbone_addr=\[$GW_VIP6\]:80" "$LAB/node1.log"
check "gateway: 200 connections" call $GW_VIP4 80 -m echo -n 100 -c 200 -j 8
kill "$gateway"
wait_for 10 ktap_gone "$gateway"
check "gateway away: refused" refused_fast $GW_VIP4 80
gateway_start impostor
check "gateway: one with another identity is refused" refused_fast $GW_VIP4 80
check "… and the log says why" wait_for 10 grep -q 'did not present the expected SAN.*sa/gw.*sa/impostor' "$LAB/node1.log"

# --- away ---
kill "$app"
wait_for 10 ktap_gone "$app"
check "application away: refused" refused_fast $ECHO_VIP4 80
app_start
check "application back" wait_for 10 call $ECHO_VIP4 80 -m echo -n 1000
pod_unenrol wp >"$CV_TMP/unenrol.log" 2>&1
check "waypoint away: by service refused" refused_fast $ECHO_VIP4 80
check "waypoint away: by workload refused" refused_fast $FAR4 7000
check "both daemons are alive" kill -0 "$(daemon_pid node1)" "$(daemon_pid node2)"
