# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2030,SC2031,SC2120,SC2154
#
# cluster.sh: a Kubernetes cluster with Istio ambient out of network namespaces; source ktap.sh first.
#
#	cp: etcd, kube-apiserver, kube-controller-manager, istiod      10.89.0.1
#	 └─ bridge ─┬─ node1: podlet, istio-cni's agent, node proxy    10.89.0.11 ── pods 10.244.1.0/24
#	            └─ node2: the same                                 10.89.0.12 ── pods 10.244.2.0/24
#
# All programs are the real ones but kubelet, whose place podlet.py takes: it makes pods of
# namespaces by the CNI chain to which istio-cni has added itself. The node proxy is culvert, or a real ztunnel
# where NODE.proxy says so. Nothing of it touches the machine's own network namespace, so that ports and
# addresses may be the same in runs side by side; namespaces, cgroups and directories carry CV_RUN.
# Everything lies below $K8S: kubeconfig, logs (*.log), and a directory a node.

K8S=$CV_TMP/k8s
K8S_HERE=$CV_SELFTESTS/k8s
K8S_BIN=$K8S/bin
: "${CULVERT_K8S_CACHE:=/var/cache/culvert/k8s}"
: "${K8S_NODES:=node1 node2}"
: "${K8S_PROXY:=culvert}"
: "${K8S_PROXY_NAMESPACE:=istio-system}"
: "${K8S_PATIENCE:=600}"
: "${K8S_CONTROLLERS:=deployment-controller,replicaset-controller,endpointslice-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller,garbage-collector-controller}"
: "${K8S_PROXY_ENV:=}" "${K8S_ISTIOD_ENV:=}"
: "${K8S_SETUP_PATIENCE:=120}" # seconds for a step of the set-up, which takes 20 in all
K8S_API=10.89.0.1
export CULVERT_K8S_CACHE
# What an interrupted run leaves is found by this variable.
export CV_RUN
export KUBECONFIG="$K8S/kubeconfig"
cleanup cluster_down

# cluster_missing: why there can be no cluster here, or nothing
cluster_missing()
{
	if [ -n "$(sh "$K8S_HERE/tools.sh" missing)" ]; then
		echo "the Kubernetes lab is not built: make k8s-tools"
	elif [ "$(id -u)" != 0 ]; then
		echo "this needs root"
	elif [ ! -x /usr/lib/cni/ptp ]; then
		echo "no /usr/lib/cni/ptp (sudo make deps)"
	fi
}

# cluster_up: all of it, ready for pods. What a step says is in its log below $K8S.
cluster_up()
{
	mkdir -p "$K8S" && sh "$K8S_HERE/tools.sh" link "$K8S_BIN" &&
		cluster_net && cluster_pki && etcd_start && api_start && cluster_objects &&
		controllers_start && istiod_start && api_has_accounts || return
	for k8s_node in $K8S_NODES; do
		agent_start "$k8s_node" && podlet_start "$k8s_node" && proxy_pod "$k8s_node" || return
	done
	set_up istiod istiod_ready && set_up "istiod's root certificate" istio_root || return
	for k8s_node in $K8S_NODES; do
		proxy_start "$k8s_node" || return
	done
	for k8s_node in $K8S_NODES; do
		node_ready "$k8s_node" || return
	done
}

# comes_up NAME COMMAND…: one result, and the end of the test where it is bad, for nothing could follow. How long
# it took is told, and in $k8s_up_seconds; the time to aim at is a minute, with all programs in memory.
comes_up()
{
	k8s_up_began=$(date +%s)
	check "$@"
	k8s_up_seconds=$(($(date +%s) - k8s_up_began))
	comment "up in $k8s_up_seconds s"
	[ "$ktap_failed" = 0 ] || exit 1
}

# set_up WHAT COMMAND…: wait for a step of the set-up; if it does not come, say so, and what the logs say
set_up()
{
	k8s_what=$1
	shift
	wait_for "$K8S_SETUP_PATIENCE" "$@" || {
		echo "not up after $K8S_SETUP_PATIENCE s: $k8s_what; the last errors of each log:"
		cluster_errors
		return 1
	}
}

cluster_errors()
(
	for f in "$K8S"/*.log "$K8S"/*/*.log; do
		grep -aiE 'error|fail|refused|cannot' "$f" | tail -n 3 | cut -c -500 | sed "s|^|${f#"$K8S/"}: |"
	done
)

# Everything of this run: processes, namespaces, cgroups.
cluster_down()
(
	for f in "$K8S"/*.pid "$K8S"/*/*.pid; do
		[ ! -e "$f" ] || kill "$(cat "$f")" 2>/dev/null
	done
	for f in "$K8S"/*.pid "$K8S"/*/*.pid; do
		[ ! -e "$f" ] || wait_for 10 ktap_gone "$(cat "$f")" || kill -9 "$(cat "$f")"
	done
	[ ! -d "$(k8s_cgroup)" ] || {
		k8s_cgroup_pids | xargs -r kill -9 2>/dev/null
		wait_for 5 k8s_cgroup_remove || echo "left: $(k8s_cgroup)"
	}
	for ns in /run/netns/cv-"$CV_RUN"-*; do
		[ -e "$ns" ] || continue
		ip netns pids "${ns##*/}" | xargs -r kill -9
		ip netns del "${ns##*/}"
	done
)

# cluster_traces: what is left on this machine of a cluster that is gone. Processes are found by CV_RUN.
cluster_traces()
{
	grep "cv-$CV_RUN\|$K8S" /proc/self/mountinfo
	run_places "$CV_RUN"
	grep -rls "cv-$CV_RUN\|$K8S" /var/lib/cni /var/run/istio-cni /etc/cni
	for k8s_save in iptables-save iptables-legacy-save ip6tables-save ip6tables-legacy-save; do
		$k8s_save 2>/dev/null | grep -E '^:(ISTIO|KUBE)'
	done
	nft list tables 2>/dev/null | grep kube-proxy
}

k8s_cgroup()
{
	echo "$(findmnt -nt cgroup2 -o TARGET | head -n 1)/cv-$CV_RUN"
}

k8s_cgroup_pids()
{
	find "$(k8s_cgroup)" -name cgroup.procs -exec cat '{}' +
}

k8s_cgroup_remove()
{
	find "$(k8s_cgroup)" -depth -type d -exec rmdir {} +
}

# ---- processes -----------------------------------------------------------------------------------

# k8s_start NAME NETNS COMMAND…: in the background, its output appended to $K8S/NAME.log, its pid in
# $K8S/NAME.pid
k8s_start()
{
	k8s_name=$1 k8s_ns=$2
	shift 2
	setsid nsenter --net="/run/netns/$(run_name "$k8s_ns")" -- "$@" \
		>>"$K8S/$k8s_name.log" 2>&1 </dev/null &
	echo $! >"$K8S/$k8s_name.pid"
}

# k8s_stop NAME [SIGNAL]: and wait until it is gone
k8s_stop()
{
	kill "-${2:-TERM}" "$(cat "$K8S/$1.pid")" && wait_for 60 ktap_gone "$(cat "$K8S/$1.pid")" &&
		rm "$K8S/$1.pid"
}

node_exec()
{
	k8s_name=$1
	shift
	nsenter --net="/run/netns/$(run_name "$k8s_name")" -- "$@"
}

cp_exec()
{
	node_exec cp "$@"
}

kubectl()
{
	cp_exec "$K8S_BIN/kubectl" "$@"
}

istioctl()
{
	cp_exec "$K8S_BIN/istioctl" "$@"
}

# kapply: create or change what stands on stdin
kapply()
{
	kubectl apply --validate=false -f - >/dev/null
}

# kapi METHOD PATH [CURL-OPTION…]: the API server by curl, which is much faster than kubectl
kapi()
{
	k8s_method=$1 k8s_path=$2
	shift 2
	cp_exec curl -fsS -m 20 --cacert "$K8S/pki/ca.crt" --cert "$K8S/pki/admin.crt" \
		--key "$K8S/pki/admin.key" -X "$k8s_method" "https://$K8S_API:6443$k8s_path" "$@"
}

# ---- network and certificates --------------------------------------------------------------------

node_number()
{
	echo "${1#node}"
}

node_address()
{
	echo "10.89.0.1$(node_number "$1")"
}

cluster_net()
{
	netns_add cp >/dev/null && cp_exec ip link add br0 type bridge &&
		cp_exec ip addr add $K8S_API/24 dev br0 && cp_exec ip addr add fd89::1/64 dev br0 nodad &&
		cp_exec ip link set br0 up || return
	for k8s_node in $K8S_NODES; do
		node_net "$k8s_node" || return
	done
	for k8s_node in $K8S_NODES; do
		for k8s_other in cp $K8S_NODES; do
			[ "$k8s_other" = "$k8s_node" ] || node_routes "$k8s_other" "$k8s_node" || return
		done
	done
}

node_net()
{
	nr=$(node_number "$1")
	mkdir -p "$K8S/$1" && netns_add "$1" >/dev/null &&
		node_exec "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
			net.ipv6.conf.default.accept_dad=0 &&
		ip link add eth0 netns "$(run_name "$1")" type veth \
			peer name "n$nr" netns "$(run_name cp)" &&
		cp_exec ip link set "n$nr" master br0 up &&
		node_exec "$1" ip link set eth0 up &&
		node_exec "$1" ip addr add "$(node_address "$1")/24" dev eth0 &&
		node_exec "$1" ip addr add "fd89::1$nr/64" dev eth0 nodad && init_start "$1"
}

# init_start NODE: the process that stands for the node's first one. It has to be one of its own: what
# /proc/PID/ns/net of a Go program says is where its main thread is, and the agent's may stay in a pod.
init_start()
{
	k8s_start "$1/init" "$1" sleep infinity
	wait_for 60 grep -qx sleep "/proc/$(cat "$K8S/$1/init.pid")/comm"
}

# node_routes FROM TO: the way to the pods of node TO
node_routes()
{
	nr=$(node_number "$2")
	node_exec "$1" ip route add "10.244.$nr.0/24" via "$(node_address "$2")" &&
		node_exec "$1" ip route add "fd10:244:$nr::/64" via "fd89::1$nr"
}

cluster_pki()
(
	mkdir -p "$K8S/pki" && cd "$K8S/pki" || exit
	{
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 \
			-subj /CN=kubernetes -keyout ca.key -out ca.crt \
			-addext keyUsage=critical,keyCertSign,cRLSign &&
			openssl genrsa -out sa.key 2048 && openssl rsa -in sa.key -pubout -out sa.pub &&
			pki_cert apiserver /CN=kube-apiserver "subjectAltName=IP:$K8S_API,IP:10.96.0.1,DNS:kubernetes.default.svc" &&
			pki_cert admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
	} 2>"$K8S/pki.log" || exit
	cat >"$KUBECONFIG" <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: lab, cluster: {server: 'https://$K8S_API:6443', certificate-authority: '$K8S/pki/ca.crt'}}]
		users: [{name: admin, user: {client-certificate: '$K8S/pki/admin.crt', client-key: '$K8S/pki/admin.key'}}]
		contexts: [{name: lab, context: {cluster: lab, user: admin}}]
		current-context: lab
	END
)

# pki_cert NAME SUBJECT EXTENSION
pki_cert()
{
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "$2" -keyout "$1.key" \
		-addext "$3" -out "$1.csr" &&
		openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
			-copy_extensions copyall -out "$1.crt"
}

# ---- control plane -------------------------------------------------------------------------------

etcd_start()
{
	k8s_start etcd cp "$K8S_BIN/etcd" --data-dir "$K8S/etcd" --unsafe-no-fsync --log-level warn \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
		--listen-peer-urls http://127.0.0.1:2380
}

# api_start [FLAG…]: and wait until it is ready
api_start()
{
	k8s_start apiserver cp "$K8S_BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
		--bind-address=$K8S_API --secure-port=6443 --advertise-address=$K8S_API \
		--tls-cert-file="$K8S/pki/apiserver.crt" --tls-private-key-file="$K8S/pki/apiserver.key" \
		--client-ca-file="$K8S/pki/ca.crt" --authorization-mode=Node,RBAC \
		--service-account-issuer=https://kubernetes.default.svc \
		--service-account-key-file="$K8S/pki/sa.pub" \
		--service-account-signing-key-file="$K8S/pki/sa.key" \
		--service-cluster-ip-range=10.96.0.0/16,fd10:96::/112 --allow-privileged=true \
		--endpoint-reconciler-type=lease "$@"
	set_up "the API server" kapi GET /readyz
}

# Namespaces, nodes, CRDs, accounts and their rights; api_has_accounts waits for what the
# controllers add to them.
cluster_objects()
{
	kubectl create --validate=false -f "$(sh "$K8S_HERE/tools.sh" path crds.yaml)" -f "$K8S_HERE/manifests" \
		>"$K8S/objects.log" 2>&1 && proxy_account || return
	for k8s_node in $K8S_NODES; do
		kapi POST /api/v1/nodes -H 'Content-Type: application/yaml' --data-binary @- <<-END || return
			apiVersion: v1
			kind: Node
			metadata:
			  name: $k8s_node
			  labels: {kubernetes.io/hostname: $k8s_node, topology.kubernetes.io/region: lab, topology.kubernetes.io/zone: $k8s_node}
		END
		kapi PATCH "/api/v1/nodes/$k8s_node/status" -H 'Content-Type: application/merge-patch+json' \
			-d '{"status": {"addresses": [{"type": "InternalIP", "address": "'"$(node_address "$k8s_node")"'"}],
			"conditions": [{"type": "Ready", "status": "True", "reason": "Lab"}]}}' || return
	done >>"$K8S/objects.log"
}

proxy_account()
{
	[ "$K8S_PROXY_NAMESPACE" = istio-system ] || kubectl create namespace "$K8S_PROXY_NAMESPACE" || return
	kubectl create serviceaccount ztunnel -n "$K8S_PROXY_NAMESPACE"
} >/dev/null

controllers_start()
{
	k8s_start controllers cp "$K8S_BIN/kube-controller-manager" --kubeconfig="$KUBECONFIG" \
		--leader-elect=false --use-service-account-credentials=false \
		--service-account-private-key-file="$K8S/pki/sa.key" --root-ca-file="$K8S/pki/ca.crt" \
		--controllers="$K8S_CONTROLLERS" \
		--concurrent-deployment-syncs=2
}

api_has_accounts()
{
	set_up "the service accounts" kapi GET /api/v1/namespaces/default/serviceaccounts/default
}

# istiod_start [VAR=VALUE…]: with more environment, beside that in K8S_ISTIOD_ENV
istiod_start()
{
	# One word a variable.
	# shellcheck disable=SC2086
	k8s_start istiod cp env POD_NAMESPACE=istio-system POD_NAME=istiod-0 SERVICE_ACCOUNT=istiod \
		REVISION=default CLUSTER_ID=Kubernetes PILOT_ENABLE_AMBIENT=true PILOT_CERT_PROVIDER=istiod \
		CA_TRUSTED_NODE_ACCOUNTS="$K8S_PROXY_NAMESPACE/ztunnel" ISTIOD_CUSTOM_HOST=$K8S_API \
		VALIDATION_WEBHOOK_CONFIG_NAME= INJECTION_WEBHOOK_CONFIG_NAME= $K8S_ISTIOD_ENV "$@" \
		"$K8S_BIN/pilot-discovery" discovery --kubeconfig="$KUBECONFIG" --domain cluster.local
}

istiod_ready()
{
	cp_exec curl -fsS -m 2 http://127.0.0.1:8080/ready
}

istio_root()
{
	kapi GET "/api/v1/namespaces/$K8S_PROXY_NAMESPACE/configmaps/istio-ca-root-cert"
}

# ---- nodes ---------------------------------------------------------------------------------------

podlet_start()
{
	k8s_start "$1/podlet" "$1" env CNI_PATH="/usr/lib/cni:$K8S/$1/cni/bin" \
		NETCONFPATH="$K8S/$1/cni/net.d" CV_TOOLS="$CV_TOOLS" /usr/bin/python3 "$K8S_HERE/podlet.py" --node "$1" \
		--address "$(node_address "$1")" --server $K8S_API:6443 --ca "$K8S/pki/ca.crt" \
		--cert "$K8S/pki/admin.crt" --key "$K8S/pki/admin.key" --state "$K8S/$1" \
		--cnitool "$K8S_BIN/cnitool" --network lab --cgroup "$(k8s_cgroup)" \
		--prefix "cv-$CV_RUN" --dns 10.96.0.10
}

# The node's own CNI network, before istio-cni adds itself to it.
node_cni()
{
	nr=$(node_number "$1")
	mkdir -p "$K8S/$1/cni/net.d" "$K8S/$1/cni/bin" "$K8S/$1/cni/data" "$K8S/$1/cni/lib/cni"
	cat >"$K8S/$1/cni/net.d/10-lab.conflist" <<-END
		{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "ptp",
		 "ipam": {"type": "host-local", "dataDir": "$K8S/$1/cni/data",
		  "ranges": [[{"subnet": "10.244.$nr.0/24"}], [{"subnet": "fd10:244:$nr::/64"}]],
		  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}]}
	END
}

# agent_start NODE: istio-cni's agent, in a root directory of its own as in its image: the machine's
# below, what it expects of its pod on top. Its /host/proc/1 is the node's init, for that is how it finds
# the host's namespaces.
agent_start()
{
	k8s_root=$K8S/$1/agent
	[ -e "$K8S/$1/cni/net.d/10-lab.conflist" ] || node_cni "$1"
	mkdir -p "$k8s_root" "$K8S/$1/serviceaccount" "$K8S/$1/run" &&
		kubectl create token istio-cni -n istio-system --duration 24h \
			>"$K8S/$1/serviceaccount/token" &&
		cp "$K8S/pki/ca.crt" "$K8S/$1/serviceaccount/ca.crt" || return
	k8s_start "$1/agent" "$1" env NODE_NAME="$1" POD_NAME="istio-cni-node-$1" POD_NAMESPACE=istio-system \
		SYSTEM_NAMESPACE="$K8S_PROXY_NAMESPACE" REVISION=default AMBIENT_ENABLED=true AMBIENT_DNS_CAPTURE=true \
		AMBIENT_IPV6=true AMBIENT_RECONCILE_POD_RULES_ON_STARTUP=true REPAIR_ENABLED=false \
		CHAINED_CNI_PLUGIN=true EXCLUDE_NAMESPACES=kube-system LOG_LEVEL=info \
		AMBIENT_ENABLEMENT_SELECTOR="$(cat "$K8S_HERE/manifests/enablement.txt")" \
		KUBERNETES_SERVICE_HOST=$K8S_API KUBERNETES_SERVICE_PORT=6443 \
		MOUNTED_CNI_NET_DIR="$K8S/$1/cni/net.d" CNI_AGENT_RUN_DIR="$K8S/$1/run" \
		ZTUNNEL_UDS_ADDRESS="$K8S/$1/run/ztunnel.sock" ALLOW_SWITCH_TO_HOST_NS=true \
		unshare -m --propagation slave sh "$K8S_HERE/agent.sh" "$K8S" "$1"
}

agent_ready()
{
	node_exec "$1" curl -fsS -m 2 http://127.0.0.1:8000/readyz
}

# node_ready NODE: its agent has changed the CNI chain and its proxy has all it needs
node_ready()
{
	set_up "$1's agent" agent_ready "$1" &&
		set_up "$1's CNI chain" grep -q istio-cni "$K8S/$1/cni/net.d/10-lab.conflist" &&
		set_up "$1's proxy" proxy_ready "$1"
}

# ---- node proxy ----------------------------------------------------------------------------------

# proxy_kind NODE: what runs there: culvert or ztunnel; `echo ztunnel >$K8S/NODE/proxy.kind` changes
# that for its next start.
proxy_kind()
{
	cat "$K8S/$1/proxy.kind" 2>/dev/null || echo "$K8S_PROXY"
}

# proxy_ns NODE: the network namespace that it is in: the node's, or that of a pod of its own
proxy_ns()
{
	cat "$K8S/$1/proxy.ns" 2>/dev/null || echo "$1"
}

# proxy_net NODE: make the latter
proxy_net()
{
	[ ! -e "/run/netns/$(run_name "$1-pod")" ] || return 0
	nr=$(node_number "$1")
	netns_add "$1-pod" >/dev/null &&
		ip link add eth0 netns "$(run_name "$1-pod")" type veth peer name proxy netns "$(run_name "$1")" &&
		node_exec "$1" ip addr add "10.245.$nr.1/24" dev proxy && node_exec "$1" ip link set proxy up &&
		node_exec "$1-pod" ip addr add "10.245.$nr.2/24" dev eth0 && node_exec "$1-pod" ip link set eth0 up &&
		node_exec "$1-pod" ip route add default via "10.245.$nr.1" &&
		cp_exec ip route add "10.245.$nr.0/24" via "$(node_address "$1")"
}

# proxy_pod NODE: the pod that istiod believes the proxy to be
proxy_pod()
{
	k8s_pods=/api/v1/namespaces/$K8S_PROXY_NAMESPACE/pods
	kapi POST "$k8s_pods" -H 'Content-Type: application/yaml' --data-binary @- <<-END >/dev/null || return
		apiVersion: v1
		kind: Pod
		metadata: {name: ztunnel-$1, labels: {app: ztunnel, istio.io/dataplane-mode: none}}
		spec:
		  nodeName: $1
		  hostNetwork: true
		  serviceAccountName: ztunnel
		  containers: [{name: istio-proxy, image: lab}]
	END
	kapi PATCH "$k8s_pods/ztunnel-$1/status" -H 'Content-Type: application/merge-patch+json' \
		-d '{"status": {"phase": "Running", "hostIP": "'"$(node_address "$1")"'",
		"podIP": "'"$(node_address "$1")"'", "podIPs": [{"ip": "'"$(node_address "$1")"'"}],
		"conditions": [{"type": "Ready", "status": "True"}]}}' >/dev/null
}

# proxy_files NODE: what a projected volume and a ConfigMap give it, by rename as a kubelet does
proxy_files()
{
	k8s_files=$K8S/$1/proxy/var/run/secrets
	mkdir -p "$k8s_files/tokens" "$k8s_files/istio"
	kubectl create token ztunnel -n "$K8S_PROXY_NAMESPACE" --audience istio-ca --duration 12h \
		--bound-object-kind Pod --bound-object-name "ztunnel-$1" >"$k8s_files/token" &&
		mv "$k8s_files/token" "$k8s_files/tokens/istio-token" &&
		istio_root | jq -er '.data["root-cert.pem"]' >"$k8s_files/root" &&
		mv "$k8s_files/root" "$k8s_files/istio/root-cert.pem"
}

# proxy_start NODE [VAR=VALUE…]: with more environment, beside that in K8S_PROXY_ENV
proxy_start()
{
	proxy_files "$1" && proxy_run "$@"
}

# proxy_run NODE [VAR=VALUE…]: the same with the files that are there
proxy_run()
{
	k8s_node=$1
	shift
	case $(proxy_kind "$k8s_node") in
	culvert) k8s_program=$CULVERTD ;;
	*) k8s_program=$ZTUNNEL ;;
	esac
	k8s_ns=$(proxy_ns "$k8s_node")
	# One word a variable.
	# shellcheck disable=SC2086
	k8s_start "$k8s_node/proxy" "$k8s_ns" env -C "$K8S/$k8s_node/proxy" \
		XDS_ADDRESS=https://$K8S_API:15012 CA_ADDRESS=https://$K8S_API:15012 \
		ALT_XDS_HOSTNAME=istiod.istio-system.svc ALT_CA_HOSTNAME=istiod.istio-system.svc \
		NODE_NAME="$k8s_node" POD_NAME="ztunnel-$k8s_node" POD_NAMESPACE="$K8S_PROXY_NAMESPACE" \
		SERVICE_ACCOUNT=ztunnel INSTANCE_IP="$(node_address "$k8s_node")" PROXY_MODE=shared \
		ISTIO_META_CLUSTER_ID=Kubernetes INPOD_UDS="$K8S/$k8s_node/run/ztunnel.sock" \
		CULVERT_RUN_DIR="$K8S/$k8s_node/run/culvert-$k8s_ns" RUST_LOG="${K8S_PROXY_LOG:-info}" $K8S_PROXY_ENV "$@" \
		"$k8s_program" proxy ztunnel
}

proxy_ready()
{
	proxy_exec "$1" curl -fsS -m 2 http://127.0.0.1:15021/healthz/ready
}

# proxy_dump NODE: its config_dump
proxy_dump()
{
	proxy_exec "$1" curl -fsS -m 20 http://127.0.0.1:15000/config_dump
}

# proxy_exec NODE COMMAND…: in the network namespace of its proxy
proxy_exec()
{
	k8s_ns=$(proxy_ns "$1")
	shift
	node_exec "$k8s_ns" "$@"
}

# proxy_pods NODE: how many pods the agent has told it
proxy_pods()
{
	proxy_dump "$1" | jq '[.workloadState[] | select(.state == "Up")] | length'
}

# proxy_has_pods NODE COUNT
proxy_has_pods()
{
	[ "$(proxy_pods "$1")" = "$2" ]
}

# proxy_replace NODE KIND: as a DaemonSet with maxSurge updates: the new one starts beside the old one, in
# another network namespace, and the old one is told to end when the new one is ready.
proxy_replace()
{
	k8s_count=$(proxy_pods "$1")
	case $(proxy_ns "$1") in
	"$1") proxy_net "$1" && echo "$1-pod" >"$K8S/$1/proxy.ns" ;;
	*) rm "$K8S/$1/proxy.ns" ;;
	esac
	echo "$2" >"$K8S/$1/proxy.kind"
	mv "$K8S/$1/proxy.pid" "$K8S/$1/proxy-old.pid" && proxy_start "$1" &&
		wait_for "$K8S_PATIENCE" proxy_ready "$1" &&
		wait_for "$K8S_PATIENCE" proxy_has_pods "$1" "$k8s_count" && k8s_stop "$1/proxy-old"
}

# ---- pods ----------------------------------------------------------------------------------------

# pod_netns NAMESPACE/NAME
pod_netns()
{
	echo "/run/netns/cv-$CV_RUN-$(echo "$1" | tr / -)"
}

# pod_exec NAMESPACE/NAME COMMAND…: in the pod's network, with its resolv.conf
pod_exec()
{
	k8s_pod=$1
	shift
	k8s_resolv=$(find "$K8S"/node*/ -maxdepth 1 -name "resolv.${k8s_pod%%/*}" | head -n 1)
	nsenter --net="$(pod_netns "$k8s_pod")" unshare -m sh -c \
		'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"' sh "$k8s_resolv" "$@"
}

# pod_of NAMESPACE APP: one of its pods
pod_of()
{
	kubectl get pods -n "$1" -l "app=$2" -o jsonpath='{.items[0].metadata.name}'
}

pod_ip()
{
	kapi GET "/api/v1/namespaces/${1%/*}/pods/${1#*/}" | jq -r .status.podIP
}

# pods_ready NAMESPACE [SELECTOR]: all that are there are ready
pods_ready()
{
	kubectl wait -n "$1" pod "${2:+-l}${2:---all}" --for=condition=Ready --timeout="${K8S_PATIENCE}s" >/dev/null
}
