#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Files and start-up: changes apply within a second, bad files are refused with file, line and reason and
# change nothing, and a daemon that must not start says why.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 26
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# fails_with TEXT COMMAND…: it fails, and says TEXT
fails_with()
{
	text=$1
	shift
	out=$("$@" 2>&1)
	status=$?
	[ $status -ne 0 ] && [ $status -ne 124 ] || { echo "status $status: $out"; return 1; }
	echo "$out" | grep -q -- "$text" || { echo "$out"; return 1; }
}

logs()
{
	wait_for 10 grep -q -- "$1" "$LAB/node1.log"
}

# --- the file of workloads ---
cp "$LAB/mesh.yaml" "$CV_TMP/good.yaml"
{
	cat "$CV_TMP/good.yaml"
	echo "nonsense: 1"
} >"$LAB/mesh.yaml"
bad_line=$(grep -n nonsense "$LAB/mesh.yaml" | cut -d: -f1)
check "a bad file is refused by file and line" logs "mesh.yaml:$bad_line: .*nonsense"
check "… the last good state serves" call $FAR4 7000 -m echo -n 1000
refused_is()
{
	[ "$(metric node1 culvert_file_refused)" = "$1" ]
}
check "… a metric says so" wait_for 10 refused_is 1
check "… and status too" sh -c "[ \"\$(env CULVERT_RUN_DIR=$(node_run_dir node1) $CULVERTCTL status -o json | jq -r .fileError)\" != null ]"
cp "$CV_TMP/good.yaml" "$LAB/mesh.yaml"
check "the good file is taken again" wait_for 10 sh -c "[ \"\$(env CULVERT_RUN_DIR=$(node_run_dir node1) $CULVERTCTL status -o json | jq -r .fileError)\" = null ]"
printf '%s\n' "$(deny_port 7000)" >"$LAB/policies.yaml"
start=$(date +%s%N)
mesh_file
check "a change applies" wait_for 10 call $NEAR4 7000 -m echo -n 100 -x ECONNRESET,less
ms=$((($(date +%s%N) - start) / 1000000))
check "… within a second (ten on a busy machine): $ms ms" [ $ms -le 10000 ]
no_policies

# --- culvert.yaml ---
echo "sameNode: {mesh: quick}" >"$LAB/node1.culvert.yaml"
check "a bad culvert.yaml is refused by file and line" logs "culvert.yaml:1: .*quick"
check "… the last good settings stay" call $NEAR4 7000 -m echo -n 100
rm -f "$LAB/node1.culvert.yaml"

# --- check-config ---
check "check-config takes the good file" "$CULVERTD" check-config "$CV_TMP/good.yaml"
echo "workloads: [{uid: a}]" >"$CV_TMP/bad.yaml"
check "check-config refuses a bad file of workloads" fails_with "bad.yaml:1" "$CULVERTD" check-config "$CV_TMP/bad.yaml"
echo "sameNode: {mesh: tls}" >"$CV_TMP/settings.yaml"
check "check-config takes culvert.yaml" "$CULVERTD" check-config "$CV_TMP/settings.yaml"
echo "sameNode: {mash: tls}" >"$CV_TMP/settings.yaml"
check "check-config refuses a bad culvert.yaml" fails_with "settings.yaml:1.*mash" "$CULVERTD" check-config "$CV_TMP/settings.yaml"

# --- a daemon that must not start ---
start_with()
{
	node_env node1 env CULVERT_RUN_DIR="$CV_TMP/run2" CULVERT_BPFFS="/sys/fs/bpf/cv-$CV_RUN-other" "$@" \
		timeout 20 "$CULVERTD"
}
check "refused: the development CA beside CA_ADDRESS" fails_with CA_ADDRESS start_with CA_ADDRESS=x
check "refused: the development CA beside XDS_ADDRESS" fails_with XDS_ADDRESS start_with XDS_ADDRESS=x
check "refused: the development CA in Kubernetes" fails_with KUBERNETES_SERVICE_HOST start_with KUBERNETES_SERVICE_HOST=x
chmod 644 "$LAB/ca/root-key.pem"
check "refused: a root key that others can read" fails_with "root-key.pem: mode 0644" start_with X=
chmod 600 "$LAB/ca/root-key.pem"
chmod 755 "$LAB/ca"
check "refused: a CA directory that others can read" fails_with "ca: mode 0755" start_with X=
chmod 700 "$LAB/ca"
check "refused: a bad culvert.yaml at start" fails_with "settings.yaml:1" start_with CULVERT_CONFIG="$CV_TMP/settings.yaml"
check "refused: a bad file of workloads at start" fails_with "bad.yaml:1" start_with LOCAL_XDS_PATH="$CV_TMP/bad.yaml"
check "refused: a bad value" fails_with "IPV6_ENABLED" start_with IPV6_ENABLED=maybe
check "refused: a second daemon on the same run directory" fails_with "another daemon" \
	node_env node1 timeout 20 "$CULVERTD"
check "refused: an unknown command" fails_with usage "$CULVERTD" dance

# --- certificates are renewed in time ---
daemon_stop node2
daemon_start node2 SECRET_TTL=4s
check "a daemon with 4-second certificates serves" wait_ready node2
serial()
{
	ctl node2 certificates -o json | jq -r '.[0].certChain[0].serialNumber'
}
wait_for 10 call $FAR4 7000 -m echo -n 100
first=$(serial)
sleep 5
renewed()
{
	[ "$(serial)" != "$first" ]
}
check "they are renewed" wait_for 10 renewed
check "connections go on after the first ones have expired" call $FAR4 7000 -m echo -n 100
