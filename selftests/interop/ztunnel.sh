# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC1090,SC2030,SC2031,SC2154
#
# ztunnel.sh: a real ztunnel as a node's dataplane in the lab; source lab.sh first, and give
# ZTUNNEL=path of its binary. It runs in the node's namespace with its pods handed over by zds.py,
# certificates from istio_ca.py (signed with the development root that culvert's nodes share), and
# the lab's mesh file.

. "$CV_SELFTESTS/lib/inpod.sh"

INTEROP=$CV_SELFTESTS/interop
INTEROP_CA_PORT=15912
INTEROP_TOKEN=lab-token

# interop_missing: why these helpers can't run here, or nothing
interop_missing()
{
	if [ -z "${ZTUNNEL:-}" ]; then
		echo "ZTUNNEL is not set to the path of a ztunnel"
	elif [ ! -x "$ZTUNNEL" ]; then
		echo "ZTUNNEL=$ZTUNNEL is no program"
	elif ! /usr/bin/python3 -c 'import cryptography, grpc' 2>/dev/null; then
		echo "python3-grpcio and python3-cryptography are missing"
	fi
}

# The development root, if no culvertd made it yet.
dev_root()
{
	[ ! -e "$LAB/ca/root-cert.pem" ] || return 0
	(
		umask 077
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 \
			-subj "/O=cluster.local" -keyout "$LAB/ca/root-key.pem" \
			-out "$LAB/ca/root-cert.pem" \
			-addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
	)
}

# peer_up NODE: the helpers of a ztunnel on that node
peer_up()
{
	dev_root || return
	agent_up "$1" || return
	lab_exec='exec' node_exec "$1" /usr/bin/python3 "$INTEROP/istio_ca.py" "$LAB/ca" $INTEROP_CA_PORT \
		$INTEROP_TOKEN >"$LAB/$1.ca.log" 2>&1 &
	echo $! >"$LAB/daemons/$1-ca.pid"
	wait_for 20 grep -q ready "$LAB/$1.ca.log"
}

# peer_start NODE: a ztunnel; it reads the mesh file as it is now, once.
peer_start()
{
	lab_exec='exec' peer_env "$1" "$ZTUNNEL" proxy ztunnel >>"$LAB/$1.ztunnel.log" 2>&1 &
	echo $! >"$LAB/daemons/$1.pid"
}

# peer_env NODE [VAR=VALUE…] COMMAND…: the command in the node, with a ztunnel's environment
peer_env()
{
	peer_node=$1
	shift
	node_exec "$peer_node" env NODE_NAME="$peer_node" LOCAL_XDS_PATH="$LAB/mesh.yaml" XDS_ADDRESS= \
		CA_ADDRESS=https://localhost:$INTEROP_CA_PORT CA_ROOT_CA="$LAB/ca/root-cert.pem" \
		AUTH_TOKEN=$INTEROP_TOKEN INPOD_UDS="$LAB/$peer_node.zds" ISTIO_META_DNS_CAPTURE=false \
		RUST_LOG="${ZTUNNEL_LOG:-info}" "$@"
}

# peer_enrol POD: the redirection, then the pod to its node's ztunnel.
peer_enrol()
{
	inpod_enrol "$1"
}

peer_unenrol()
{
	inpod_unenrol "$1"
}
