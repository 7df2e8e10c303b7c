#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# XDS_ON_DEMAND: a node that subscribes to what its connections need. lib/xds_server.py answers as
# istiod does; the node across the link has the whole mesh from a file.
#
#	client ── node1 (on demand) ── node2 ── far, outside
#	              └─ xds_server.py, istio_ca.py

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/lib/control_plane.sh"

/usr/bin/python3 -c 'import cryptography, grpc' 2>/dev/null ||
	skip_all "python3-grpcio and python3-cryptography are missing"

plan 26

CA_PORT=15912 XDS_PORT=15910
said=$(control_plane_log)
FAR=Kubernetes//Pod/default/far
ECHO=default/echo.default.svc.cluster.local

# server_start: with the commands in $CV_TMP/state carried out first
server_start()
{
	control_plane_start "-s $CV_TMP/state $XDS_PORT" nsenter --net="$(pod_netns node1)" --
}

# workload UID POD [MEMBERSHIPS]: the pod's record under this uid, as a command
workload()
{
	echo "workload {\"uid\":\"$1\",\"name\":\"$2\",\"ip\":\"$(pod_get "$2" ip4)\"," \
		"\"node\":\"$(pod_get "$2" node)\",\"sa\":\"$2\",\"workload\":\"$2\",\"services\":{${3:-}}}"
}

# server UID: far, the one pod of the service
server()
{
	workload "$1" far "\"$ECHO\":{\"80\":7000}"
}

holds()
{
	ctl node1 workloads -o json | grep -q "\"$1\""
}

lacks()
{
	! holds "$1"
}

# asked WHAT NAME: lines of the server
asked()
{
	grep -c "^$1 $2\$" "$said"
}

was()
{
	[ "$(asked "$1" "$2")" = "$3" ]
}

works()
{
	call "$@" -m echo -n 100 -w 60000
}

by_hbone()
{
	[ "$(opened node1 tls)" -ge "$1" ]
}

log_says()
{
	grep -q "$1" "$LAB/node1.log"
}

{
	mesh_pods && mesh_servers && daemon_start node2 && wait_ready node2 && istio_ca_start node1 $CA_PORT
} >"$CV_TMP/up.log" 2>&1
{
	workload Kubernetes//Pod/default/client client
	server $FAR
	echo "service {\"name\":\"echo\",\"hostname\":\"echo.default.svc.cluster.local\",\"vip\":\"$ECHO_VIP4\"," \
		'"ports":{"80":7000}}'
} >"$CV_TMP/state"
{
	server_start && daemon_start node1 LOCAL_XDS_PATH= CULVERT_DEV_CA= XDS_ON_DEMAND=true \
		ISTIO_META_DNS_CAPTURE=false XDS_ADDRESS=http://localhost:$XDS_PORT \
		CA_ADDRESS=https://localhost:$CA_PORT CA_ROOT_CA="$LAB/ca/root-cert.pem" && wait_ready node1
} >>"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/*.log)"
	exit 1
}
pod_enrol client >>"$CV_TMP/up.log" && pod_enrol far >>"$CV_TMP/up.log"

# --- what a connection needs ---
check "workloads of the node come unasked" wait_for 30 holds Kubernetes//Pod/default/client
check "… and no others" lacks $FAR
check "an address is asked for before it is judged" works $FAR4 7000
check "… so it is reached by HBONE" wait_for 30 by_hbone 1
check "… and known now" holds $FAR
check_eq "it was asked for once" 1 "$(asked subscribe /$FAR4)"
check "… and the address given back" wait_for 30 was unsubscribe /$FAR4 1
check "what is known is not asked for again" works $FAR4 7000
check_eq "… it was not" 1 "$(asked subscribe /$FAR4)"

# --- a service ---
check "a service is asked for" works $ECHO_VIP4 80
check "… and reached by HBONE" wait_for 30 by_hbone 3
check_eq "… once" 1 "$(asked subscribe /$ECHO_VIP4)"

# --- what is in no mesh ---
check "what leads to nothing is passed through" works $OUTSIDE4 7000
check "… after asking" was subscribe /$OUTSIDE4 1
check "… and the key is given back" wait_for 30 was unsubscribe /$OUTSIDE4 1

# --- an address that changes hands ---
tell "remove address $FAR"
tell push
check "what goes is gone" wait_for 30 lacks $FAR
tell "$(server Kubernetes//Pod/default/far-2)"
check "who has the address then is asked for" works $FAR4 7000
check "… and reached by HBONE" wait_for 30 by_hbone 4
check "… under its own name" holds Kubernetes//Pod/default/far-2
check_not "nothing was asked for that had been answered" grep -q '^unanswered' "$said"

# --- without a control plane ---
server Kubernetes//Pod/default/far-2 >>"$CV_TMP/state"
sed -i "\\|\"$FAR\"|d" "$CV_TMP/state"
control_plane_kill
check "without a control plane what is known is reached" works $FAR4 7000
check_not "… what is not known is refused" works $PLAIN4 7000
check "… for that reason" wait_for 30 log_says "the control plane did not say what /$PLAIN4 is"
server_start
check "it is back and told what we hold" wait_for 60 grep -q '^request address initial=[2-9]' "$said"
check "what is not known is asked for again" works $PLAIN4 7000
check "… on the new stream" was subscribe /$PLAIN4 1
