#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Endpoints that are no ready pod of our network: workloads of which only a host name is known (asked
# of DNS, from the node's own namespace), unhealthy ones, ones on another network, services whose
# addresses are passed through.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 20

# entry NAME VIP [REST]: a service without pods, on port 80
entry()
{
	echo "- {name: $1, namespace: default, hostname: $1.example, vips: [\"/$2\"], ports: {80: 7000}${3:+, }${3:-}}"
}

# workload NAME SERVICE REST [ACCOUNT]: a member of a service, not of the lab
workload()
{
	echo "- {uid: entry/$1, name: $1, namespace: default, trustDomain: cluster.local, serviceAccount: ${4:-$1}," \
		"services: {default/$2.example: {80: 7000}}, $3}"
}

more_workloads()
{
	workload named named 'workloadIps: [], hostname: outside.example'
	workload away away 'workloadIps: [], hostname: nowhere.example'
	workload silent silent 'workloadIps: [], hostname: silent.example'
	# of the mesh: the answer leads to the pod far
	workload hbone hbone 'workloadIps: [], hostname: far.example, protocol: HBONE' far
	workload sick sick "workloadIps: [$OUTSIDE4], status: Unhealthy"
	workload sick2 anyway "workloadIps: [$OUTSIDE4], status: Unhealthy"
	workload here mixed "workloadIps: [$OUTSIDE4]"
	workload there mixed 'workloadIps: [192.0.2.1], network: far, capacity: 100'
	workload alone farway 'workloadIps: [192.0.2.1], network: far'
}

more_services()
{
	entry named 10.96.1.1
	entry away 10.96.1.2
	entry silent 10.96.1.3
	entry hbone 10.96.1.4
	entry sick 10.96.1.5
	entry anyway 10.96.1.6 'loadBalancer: {mode: Standard, healthPolicy: AllowAll}'
	entry mixed 10.96.1.7
	entry farway 10.96.1.8
	entry empty 10.96.1.9
	# an address of its own that answers: what is behind it is its own matter
	entry pass $OUTSIDE4 'loadBalancer: {mode: Passthrough}'
}

endpoints_up()
{
	mesh_pods || return
	{
		sed '/^services:/,$d' "$LAB/mesh.yaml"
		more_workloads
		sed -n '/^services:/,/^policies:/p' "$LAB/mesh.yaml" | sed '/^policies:/d'
		more_services
		echo "policies: []"
	} >"$LAB/mesh.yaml.new"
	mv "$LAB/mesh.yaml.new" "$LAB/mesh.yaml"
	mesh_servers || return
	echo "nameserver 127.0.0.1" >"$CV_TMP/resolv.conf"
	cat >"$CV_TMP/culvertd" <<-END
		#!/bin/sh
		mount --bind "$CV_TMP/resolv.conf" /etc/resolv.conf && exec "$CULVERTD" "\$@"
	END
	chmod +x "$CV_TMP/culvertd"
	lab_exec='exec' node_exec node1 "$CV_SELFTESTS/e2e/name_server.py" 127.0.0.1 "$CV_TMP/dns.log" \
		outside.example=$OUTSIDE4,$OUTSIDE6 far.example=$FAR4 &
	cleanup stop "$!"
	wait_for 30 sh -c "nsenter --net=/run/netns/$(run_name node1) ss -Hlun 'sport = :53' | grep -q ." ||
		return
	unshared
	mesh_enrol
}

# node1's daemon in a mount namespace of its own, where another resolv.conf is
unshared()
(
	real=$CULVERTD
	CULVERTD="unshare --mount --propagation private $CV_TMP/culvertd"
	cat >"$CV_TMP/unshared" <<-END
		#!/bin/sh
		exec $CULVERTD "\$@"
	END
	chmod +x "$CV_TMP/unshared"
	CULVERTD=$CV_TMP/unshared
	daemon_start node1
	CULVERTD=$real
	daemon_start node2 && wait_ready node1 && wait_ready node2
)

endpoints_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

reset="-m echo -n 100 -x ECONNRESET,less"

# verdict ADDRESS: what explain says, and why
explain()
{
	ctl node1 explain --from default/client --to "$1" -o json
}

asked()
{
	grep -c "^A $1\$" "$CV_TMP/dns.log"
}

# --- names ---
check "a workload that DNS knows: every byte both ways" call 10.96.1.1 80 -m echo -n 100000
check "… of both families, the client's is taken" \
	sh -c "grep -q '^AAAA outside.example' '$CV_TMP/dns.log' && grep -q '^A outside.example' '$CV_TMP/dns.log'"
before=$(asked outside.example)
check "100 connections" call 10.96.1.1 80 -m echo -n 100 -c 100 -j 8
after=$(asked outside.example)
check "… ask DNS about once a second (TTL), not 100 times" [ $((after - before)) -lt 50 ]
check "a workload of the mesh that DNS knows" call 10.96.1.4 80 -m echo -n 1000
check "… by HBONE, with its identity" wait_for 10 grep -q "hbone_addr=$FAR4:7000 .*sa/far" "$LAB/node1.log"
check "asked names are counted" wait_for 10 sh -c "nsenter --net=/run/netns/$(run_name node1) \
	curl -fsS -m 5 http://127.0.0.1:15020/metrics |
	grep -q 'on_demand_dns_total{.*source_workload=\"client\".*hostname=\"outside.example\"}'"
check "a name that does not exist: refused" call 10.96.1.2 80 $reset
check "… and the log says which" wait_for 10 grep -q 'no ip addresses were resolved.*nowhere.example' "$LAB/node1.log"
check "a name server that is silent holds up nobody else" sh -c "
	nsenter --net=$(pod_netns client) timeout 60 $CV_TOOLS/tcpcall $reset 10.96.1.3 80 &
	sleep 0.3
	timeout 10 nsenter --net=$(pod_netns client) $CV_TOOLS/tcpcall -m echo -n 1000 $FAR4 7000"
check "… and its client is refused in the end" wait_for 60 \
	grep -q 'no ip addresses were resolved.*silent.example' "$LAB/node1.log"
check_eq "explain: the name" "allow outside.example" \
	"$(explain 10.96.1.1:80 | jq -r '"\(.verdict) \(.paths[0].hostname)"')"

# --- health ---
check "an unhealthy endpoint is none" call 10.96.1.5 80 $reset
check "… unless the service takes all (publishNotReadyAddresses)" call 10.96.1.6 80 -m echo -n 1000
check "a service without endpoints is refused" call 10.96.1.9 80 $reset
check "a port that the service has not is refused" call 10.96.1.1 81 $reset

# --- networks ---
check "endpoints of another network are skipped while there are others" \
	call 10.96.1.7 80 -m echo -n 100 -c 50 -j 4
check "… and refused when there is nothing else" call 10.96.1.8 80 $reset
check_eq "explain: no way" "refuse 4" "$(explain 10.96.1.8:80 | jq -r .verdict) $(
	explain 10.96.1.8:80 >/dev/null
	echo $?
)"

# --- passed through ---
check "a passthrough service is left alone" call $OUTSIDE4 7000 -m echo -n 1000
