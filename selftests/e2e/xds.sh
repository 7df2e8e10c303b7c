#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
#
# The control plane over xDS, played by lib/xds_server.py: what it says is served, what is wrong is
# refused by name, and whatever becomes of it (away, slow, flapping, repeating itself, garbage, gone in
# the middle of a message) the last state serves.
#
#	culvertd ── https://, a token ──▶ xds_server.py     both in a namespace of their own, no pods

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/control_plane.sh"

/usr/bin/python3 -c 'import grpc' 2>/dev/null || skip_all "no python3-grpcio here (sudo make deps)"
plan 29

ns=$(netns_add xds)
log=$CV_TMP/culvertd.log
said=$(control_plane_log)
run_dir=$CV_TMP/run
port=15010
mkdir -p "$CV_TMP/ca"
echo secret >"$CV_TMP/token"

# root NAME: a root of this name; certificate: the server's own, of the root `ours`
root()
{
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj "/O=$1" \
		-keyout "$CV_TMP/$1-key.pem" -out "$CV_TMP/$1.pem" \
		-addext "keyUsage=critical,keyCertSign" 2>/dev/null
}

certificate()
{
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /O=istiod \
		-keyout "$CV_TMP/key.pem" -out "$CV_TMP/csr.pem" 2>/dev/null &&
		echo "subjectAltName=DNS:localhost" >"$CV_TMP/names" &&
		openssl x509 -req -in "$CV_TMP/csr.pem" -CA "$CV_TMP/ours.pem" -CAkey "$CV_TMP/ours-key.pem" \
			-CAcreateserial -days 30 -extfile "$CV_TMP/names" -out "$CV_TMP/cert.pem" 2>/dev/null
}

root ours && root theirs && certificate && cp "$CV_TMP/ours.pem" "$CV_TMP/roots.pem" || exit 1

# server_start: with the commands in $CV_TMP/state carried out first
server_start()
{
	control_plane_start "-t secret -c $CV_TMP/cert.pem -k $CV_TMP/key.pem -s $CV_TMP/state $port" \
		ip netns exec "$ns"
}

# Both: a resource, and its push
say()
{
	for command; do
		tell "$command"
	done
	tell push
}

daemon_start()
{
	nsenter --net="/run/netns/$ns" env -i PATH="$PATH" XDS_ADDRESS=https://localhost:$port \
		XDS_ROOT_CA="$CV_TMP/roots.pem" \
		AUTH_TOKEN="$CV_TMP/token" CA_ADDRESS=http://localhost:1 NODE_NAME=node-1 \
		POD_NAME=z POD_NAMESPACE=istio-system CULVERT_RUN_DIR="$run_dir" \
		CULVERT_BPFFS="/sys/fs/bpf/cv-$CV_RUN-xds" CULVERT_CONFIG="$CV_TMP/none/c.yaml" \
		"$CULVERTD" >>"$log" 2>&1 &
	daemon=$!
	cleanup stop $daemon
}

ctl()
{
	env CULVERT_RUN_DIR="$run_dir" "$CULVERTCTL" "$@"
}

get()
{
	ip netns exec "$ns" curl -sS -m 5 "http://127.0.0.1:$1"
}

metric()
{
	get 15020/metrics | awk -v name="$1" 'index($0, name) == 1 { sum += $NF } END { print sum + 0 }'
}

metric_is()
{
	[ "$(metric "$1")" = "$2" ]
}

has_workload()
{
	ctl workloads -o json | grep -q "\"$1\""
}

has_no_workload()
{
	! has_workload "$1"
}

has_policy()
{
	ctl policies -o json | grep -q "\"$1\""
}

ready()
{
	[ "$(ip netns exec "$ns" curl -s -o /dev/null -w '%{http_code}' -m 5 http://127.0.0.1:15021/healthz/ready)" = 200 ]
}

not_ready()
{
	! ready
}

workload='{"uid":"c1//Pod/default/UID","name":"UID","ip":"10.0.0.1","node":"node-1"}'
workload()
{
	echo "workload $(echo "$workload" | sed "s/UID/$1/g;s/10.0.0.1/10.0.0.$2/")"
}

# --- away from the start ---
{
	workload a 1
	echo 'service {"name":"s","hostname":"s.default.svc","vip":"10.96.0.1","ports":{"80":8080}}'
	echo 'policy {"name":"p","ports":[80]}'
} >"$CV_TMP/state"
daemon_start
wait_for 20 grep -q 'ready after' "$log" || {
	comment "$(tail -n 20 "$log")"
	exit 1
}
wait_for 60 grep -q 'warn.*xds.*control plane: Unavailable' "$log"
sleep 1
check "without a control plane it is not ready" not_ready
check_eq "… which the log says once" 1 "$(grep -c 'warn.*xds.*control plane: Unavailable' "$log")"
check "… and a metric too" metric_is culvert_xds_connected 0

# --- it comes ---
server_start
check "the control plane comes: its state is in" wait_for 60 has_workload a
check "… its policy too" wait_for 20 has_policy p
check "… and it is ready" wait_for 60 ready
check "the node names itself as ztunnel's does" grep -q 'node ztunnel~1.1.1.1~z.istio-system~istio-system.svc.cluster.local' "$said"
check "… the age is zero" metric_is culvert_xds_age_seconds 0

# --- changes ---
say "$(workload b 2)"
check "a new workload is in" wait_for 20 has_workload b
say "remove address c1//Pod/default/b"
check "a removed one is gone" wait_for 20 has_no_workload b
say "$(workload c 3)" "raw address bad 0a020a"
check "of a response with a bad resource the good one counts" wait_for 20 has_workload c
check "… the bad one is refused by name" wait_for 20 grep -q 'error=bad: not an istio.workload.Address' "$said"
tell "remove address bad"
say 'policy {"name":"q","scope":"selector"}'
check "a policy is in" wait_for 20 has_policy q
before=$(metric istio_xds_message_total)
tell resend
more_messages()
{
	[ "$(metric istio_xds_message_total)" -gt "$before" ]
}
check "everything again is taken" wait_for 20 more_messages

# --- away ---
control_plane_kill
check "it goes: a metric shows how long ago" wait_for 30 sh -c "ip netns exec $ns curl -s 127.0.0.1:15020/metrics | grep -q '^culvert_xds_age_seconds [1-9]'"
check "… the last state serves" has_workload a
check "… it stays ready" ready
{
	workload a 1
	workload d 4
	echo 'service {"name":"s","hostname":"s.default.svc","vip":"10.96.0.1","ports":{"80":8080}}'
	echo 'policy {"name":"p","ports":[80]}'
} >"$CV_TMP/state"
server_start
check "it is back, it is told what we hold" wait_for 60 grep -q 'request address initial=3' "$said"
check "… what is new is in" wait_for 20 has_workload d
check "… what went meanwhile is gone" wait_for 20 has_no_workload c
check "… and only what we lack was sent" grep -q 'sent address 1 ' "$said"

# --- flapping and garbage ---
for _ in 1 2 3; do
	tell "end UNAVAILABLE transport is closing"
	sleep 0.5
done
tell "end PERMISSION_DENIED not you"
tell "message 0a"
tell "message ffffffffffff"
sleep 1
say "$(workload e 5)"
check "after flapping and garbage it goes on" wait_for 60 has_workload e
tell "refuse on"
tell "end UNKNOWN going"
wait_for 60 grep -q 'warn.*caches are not ready' "$log"
sleep 3
check_eq "a control plane that refuses is told of once" 1 "$(grep -c 'warn.*caches are not ready' "$log")"
tell "refuse off"
say "$(workload f 6)"
check "… and taken again" wait_for 60 has_workload f

# --- the token is read anew ---
control_plane_kill
echo other >"$CV_TMP/token"
server_start
check "a wrong token is refused, and told" wait_for 60 grep -q 'Unauthenticated: authentication failure' "$log"
echo secret >"$CV_TMP/token"
check "a rotated token is read anew" wait_for 60 grep -q 'request address initial=' "$said"

# --- and so are the roots ---
control_plane_kill
cp "$CV_TMP/theirs.pem" "$CV_TMP/roots.pem"
server_start
check "a certificate of another root is refused, and told" \
	wait_for 60 grep -q 'Unavailable: localhost:.* TLS: .*issuer certificate' "$log"
cp "$CV_TMP/ours.pem" "$CV_TMP/roots.pem"
check "a rotated root is read anew" wait_for 60 grep -q 'request address initial=' "$said"

# --- half a message ---
tell "fill 20000 2000"
tell_soon push
wait_for 30 grep -q 'sent address 2[0-9][0-9][0-9][0-9]' "$said"
control_plane_kill
kill -0 "$daemon" && has_workload a && ok "gone in the middle of a message: the last state serves" ||
	not_ok "gone in the middle of a message: the last state serves" "$(tail -n 5 "$log")"
stop "$daemon"
rm -rf "/sys/fs/bpf/cv-$CV_RUN-xds"
