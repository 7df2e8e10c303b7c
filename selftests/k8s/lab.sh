# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154
#
# lab.sh: the tests' cluster for a developer's own use.
#
#	sh lab.sh up              a cluster of two nodes; K8S_PROXY=ztunnel ZTUNNEL=path for a real ztunnel
#	sh lab.sh up-node         the cluster of one real node instead
#	sh lab.sh inside …        a command in the real node: ctr -n k8s.io containers ls
#	sh lab.sh apps            the pods of the tests (namespaces shop and plain)
#	sh lab.sh kubectl …       and istioctl …
#	sh lab.sh node NODE …     a command in the node's network: curl localhost:15000/config_dump
#	sh lab.sh pod NS/NAME …   a command in the pod's
#	sh lab.sh dir             where logs and state are
#	sh lab.sh down            all of it goes
#
# LAB=name (lab) has several side by side. LAB=run is that of a test which KEEP=1 has left up, or a kill.
set -u

: "${LAB:=lab}"
export CV_RUN="$LAB"
CV_TMP=${TMPDIR:-/tmp}/culvert-k8s-$LAB
for dir in "${TMPDIR:-/tmp}/cv-$LAB-"*; do
	[ ! -d "$dir/k8s" ] || CV_TMP=$dir
done
KEEP=1
export KEEP

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
# The real node's way up says of the lab which of the two it is.
if [ "${1:-}" = up-node ] || [ -e "$CV_TMP/k8s/node1/kubelet.yaml" ]; then
	. "$CV_SELFTESTS/k8s/node.sh"
	lab_missing=node_missing lab_up=node_up lab_down=node_down
else
	. "$CV_SELFTESTS/k8s/cluster.sh"
	. "$CV_SELFTESTS/k8s/apps.sh"
	lab_missing=cluster_missing lab_up=cluster_up lab_down=cluster_down
fi
# What KEEP=1 says at the end is for tests.
trap - EXIT INT TERM HUP

usage()
{
	sed -n 's/^#\t//p' "$0" >&2
	exit 2
}

up()
{
	reason=$($lab_missing)
	[ -z "$reason" ] || { echo "lab.sh: $reason" >&2; exit 1; }
	[ ! -e "$K8S" ] || { echo "lab.sh: $LAB is up, or was left by a crash: lab.sh down" >&2; exit 1; }
	$lab_up || { echo "lab.sh: the cluster did not come up; its logs are in $K8S" >&2; exit 1; }
	kubectl get nodes
}

# strays SIGNAL: to what a killed `up` was in the middle of, which is in no namespace of the lab's; true if
# there is nothing of it
strays()
(
	unset CV_RUN
	k8s_strays=$(run_processes "$LAB")
	for k8s_stray in $k8s_strays; do
		kill "-$1" "${k8s_stray#/proc/}" 2>/dev/null
	done
	[ -z "$k8s_strays" ]
)

down()
{
	$lab_down
	wait_for 10 strays TERM || wait_for 10 strays KILL || echo "lab.sh: processes of $LAB are left" >&2
	rm -rf "$CV_TMP"
}

verb=${1:-}
[ -z "$verb" ] || shift
case $verb in
up | up-node) up ;;
inside) node_inside "$@" ;;
apps) apps_up && kubectl get pods -A ;;
kubectl) kubectl "$@" ;;
istioctl) istioctl "$@" ;;
node) node_exec "$@" ;;
pod) pod_exec "$@" ;;
dir) echo "$K8S" ;;
down) down ;;
*) usage ;;
esac
