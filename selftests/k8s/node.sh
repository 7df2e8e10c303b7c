# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2046,SC2154
#
# node.sh: a Kubernetes cluster of one real node with Istio ambient; source ktap.sh first, and this in
# cluster.sh's place, of which it takes the control plane.
#
#	cp: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, name server    10.89.0.1
#	 └─ node1: containerd, runc, kubelet, kube-proxy                                 10.89.0.11 ── pods 10.244.1.0/24
#	     └─ pods, of Istio's own charts: istiod, istio-cni, the node proxy as DaemonSet ztunnel
#
# The node has a network, mounts, processes and cgroups of its own, below one process (node_root.sh): when that
# ends, nothing of it is left. Images are made of this machine's programs (image.sh; tools/image.sh for
# culvert's) and imported into containerd, so that nothing is pulled.

K8S_PROXY_NAMESPACE=ztunnel
K8S_NODES=node1
: "${K8S_CONTROLLERS:=daemonset-controller,deployment-controller,replicaset-controller,endpointslice-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller,garbage-collector-controller,pod-garbage-collector-controller,node-lifecycle-controller}"
. "$CV_SELFTESTS/k8s/cluster.sh"
. "$CV_SELFTESTS/k8s/apps.sh"
. "$CV_SELFTESTS/k8s/bookinfo.sh"

NODE_HUB=lab.example
NODE_BOOKINFO=/usr/local/bin/bookinfo
cleanup node_down

# node_missing: why there can be no such node here, or nothing
node_missing()
{
	reason=$(cluster_missing)
	if [ -n "$reason" ]; then
		echo "$reason"
	elif [ -n "$(sh "$K8S_HERE/tools.sh" missing node)" ]; then
		echo "the Kubernetes lab's real node is not built: make k8s-tools"
	elif ! command -v runc >/dev/null; then
		echo "no runc (sudo make deps)"
	elif [ ! -x "$CV_SELFTESTS/../tools/image.sh" ]; then
		echo "the tests are installed without tools/image.sh"
	fi
}

# node_up: all of it: the node is Ready, istiod, istio-cni and the node proxy are by their own probes
node_up()
{
	node_steps || {
		echo "the node did not come up; the last errors of each log, and the pods:"
		cluster_errors
		kubectl get pods -A --request-timeout=10s
		return 1
	}
}

node_steps()
{
	mkdir -p "$K8S" && sh "$K8S_HERE/tools.sh" link "$K8S_BIN" || return
	node_images &
	k8s_images=$!
	cluster_net && node_ways && cluster_pki && node_pki && etcd_start &&
		api_start --kubelet-client-certificate="$K8S/pki/admin.crt" \
			--kubelet-client-key="$K8S/pki/admin.key" --kubelet-preferred-address-types=InternalIP &&
		controllers_start && scheduler_start && node_objects && api_has_accounts && node_start &&
		wait "$k8s_images" && node_import && mesh_install && mesh_ready
}

# node_down: its first process takes the others along, whatever they are
node_down()
{
	[ ! -e "$K8S/node1/node.pid" ] || k8s_stop node1/node KILL
	cluster_down
	[ ! -e "$K8S/node1/cgroups" ] || wait_for 10 node_cgroups_gone || echo "left: cgroups of $CV_RUN"
}

# The services' addresses lie beyond the node: kube-proxy there knows what is behind them, but only of
# packets that have a way to go.
node_ways()
{
	cp_exec ip route add 10.96.0.0/16 via "$(node_address node1)" &&
		node_exec node1 ip route add default via $K8S_API
}

node_pki()
(
	cd "$K8S/pki" &&
		pki_cert kubelet /O=system:nodes/CN=system:node:node1 extendedKeyUsage=clientAuth 2>>"$K8S/pki.log" &&
		sed 's/admin/kubelet/g' "$KUBECONFIG" >"$K8S/node1/kubelet.kubeconfig"
)

scheduler_start()
{
	k8s_start scheduler cp "$K8S_BIN/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false
}

# ---- images --------------------------------------------------------------------------------------

# image NAME:TAG USER ITEM…
image()
{
	k8s_image=$1 k8s_user=$2
	shift 2
	sh "$K8S_HERE/image.sh" "$K8S/images/${k8s_image%:*}.tar" "$NODE_HUB/$k8s_image" "$k8s_user" "$@"
}

# The agent's rules are made by either iptables. No path has a space in it.
iptables_items()
{
	for k8s_program in iptables ip6tables; do
		for k8s_kind in "" -nft -legacy; do
			for k8s_verb in "" -save -restore; do
				echo "/usr/sbin/$k8s_program$k8s_kind$k8s_verb"
			done
		done
	done
	for k8s_module in /usr/lib/*/xtables/*.so; do
		echo "$k8s_module"
	done
}

node_images()
{
	mkdir -p "$K8S/images" && {
		image pause:lab 0 "$CV_TOOLS/pause=/pause" &&
			image apps:lab 0 "$CV_TOOLS/pause=/pause" "$CV_TOOLS/tcpecho=/usr/local/bin/tcpecho" \
				"$CV_TOOLS/tcpcall=/usr/local/bin/tcpcall" \
				"${CV_TOOLS%/tools}/bookinfo/bookinfo=$NODE_BOOKINFO" \
				/usr/bin/curl /usr/bin/dash=/usr/bin/sh /usr/bin/sleep &&
			image pilot:lab-distroless 1337:1337 "$(realpath "$K8S_BIN/pilot-discovery")=/usr/local/bin/pilot-discovery" &&
			image install-cni:lab-distroless 0 "$(realpath "$K8S_BIN/install-cni")=/usr/local/bin/install-cni" \
				"$(realpath "$K8S_BIN/istio-cni")=/opt/cni/bin/istio-cni" $(iptables_items) &&
			"$CV_SELFTESTS/../tools/image.sh" "$(dirname "$CULVERTD")" "$K8S/images/culvert.tar" "$NODE_HUB/culvert:lab" &&
			{ [ ! -x "${ZTUNNEL:-}" ] || image ztunnel:lab 0 "$ZTUNNEL=/usr/local/bin/ztunnel"; }
	} >"$K8S/images.log" 2>&1
}

# import NAME: into the node's containerd
import()
{
	node_inside ctr -n k8s.io images import "$K8S/images/$1.tar" >>"$K8S/images.log" 2>&1 &&
		rm "$K8S/images/$1.tar"
}

node_import()
{
	for k8s_tar in "$K8S"/images/*.tar; do
		import "$(basename "$k8s_tar" .tar)" || return
	done
}

# ---- the node ------------------------------------------------------------------------------------

# What the node is told to be: files below $K8S/node1.
node_configs()
{
	cat >"$K8S/node1/containerd.toml" <<-END
		version = 3
		root = "/var/lib/containerd"
		state = "/run/containerd"
		disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
		 "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile",
		 "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
		[grpc]
		address = "/run/containerd/containerd.sock"
		[plugins."io.containerd.cri.v1.images"]
		snapshotter = "overlayfs"
		[plugins."io.containerd.cri.v1.images".pinned_images]
		sandbox = "$NODE_HUB/pause:lab"
		[plugins."io.containerd.cri.v1.runtime"]
		restrict_oom_score_adj = true
		[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
		runtime_type = "io.containerd.runc.v2"
	END
	cat >"$K8S/node1/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $K8S/pki/ca.crt}}
		authorization: {mode: Webhook}
		cgroupDriver: cgroupfs
		failCgroupV1: false
		failSwapOn: false
		enforceNodeAllocatable: []
		localStorageCapacityIsolation: false
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		clusterDNS: [10.96.0.10]
		clusterDomain: cluster.local
		resolvConf: ""
		maxPods: 200
		evictionHard: {memory.available: 1Mi, nodefs.available: "0%", imagefs.available: "0%"}
		imageGCHighThresholdPercent: 100
		registryPullQPS: 0
		kubeAPIQPS: 200
		kubeAPIBurst: 400
	END
	cat >"$K8S/node1/kube-proxy.yaml" <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		clientConnection: {kubeconfig: $KUBECONFIG}
		hostnameOverride: node1
		mode: nftables
		clusterCIDR: 10.244.0.0/16,fd10:244::/48
		conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
		nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
	END
}

# node_start: containerd, kube-proxy and kubelet, and wait until the node is Ready
node_start()
{
	node_cni node1
	node_configs
	mkdir -p "$K8S/node1/root"
	node_cgroups_make || return
	k8s_start node1/node node1 env NODE_ADDRESS="$(node_address node1)" sh -c '
		for k8s_group in $(cat "$1/node1/cgroups"); do
			echo $$ >"$k8s_group/cgroup.procs"
		done
		exec unshare --mount --pid --fork --kill-child --cgroup --ipc --uts \
			sh "$2/node_root.sh" "$1" node1' sh "$K8S" "$K8S_HERE"
	wait_for "$K8S_PATIENCE" test -e "$K8S/node1/started" &&
		wait_for "$K8S_PATIENCE" kubectl wait node node1 --for=condition=Ready --timeout=10s
}

# A cgroup of this run's in each hierarchy; their names go to $K8S/node1/cgroups.
node_cgroups_make()
{
	findmnt -nlt cgroup,cgroup2 -o TARGET | sed "s|\$|/cv-$CV_RUN|" >"$K8S/node1/cgroups"
	while read -r k8s_group; do
		mkdir -p "$k8s_group" || return
		k8s_mount=${k8s_group%/*}
		for k8s_file in cpuset.cpus cpuset.mems; do
			[ "${k8s_mount##*/}" != cpuset ] || cat "$k8s_mount/$k8s_file" >"$k8s_group/$k8s_file"
		done
	done <"$K8S/node1/cgroups"
}

node_cgroups_gone()
{
	while read -r k8s_group; do
		[ ! -d "$k8s_group" ] || find "$k8s_group" -depth -type d -exec rmdir {} + || return
	done <"$K8S/node1/cgroups"
}

# node_init: the node's first process, as this machine counts
node_init()
{
	cat "/proc/$(cat "$K8S/node1/node.pid")/task/$(cat "$K8S/node1/node.pid")/children"
}

# node_inside COMMAND…: among the node's mounts and processes, in its network
node_inside()
{
	nsenter -t "$(node_init | tr -d ' ')" -m -p -n -C -r -w -- env PATH="$K8S_BIN:$PATH" "$@"
}

# ---- the mesh ------------------------------------------------------------------------------------

# Namespaces, definitions of resources, and the way to the name server.
node_objects()
{
	for k8s_namespace in istio-system istio-cni ztunnel; do
		kubectl create namespace "$k8s_namespace" || return
	done >"$K8S/objects.log" 2>&1
	kubectl create --validate=false -f "$(sh "$K8S_HERE/tools.sh" path crds.yaml)" >>"$K8S/objects.log" 2>&1 &&
		kapply <<-END
			apiVersion: v1
			kind: Service
			metadata: {name: kube-dns, namespace: kube-system}
			spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}]}
			---
			apiVersion: discovery.k8s.io/v1
			kind: EndpointSlice
			metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
			addressType: IPv4
			ports: [{name: dns, port: 53, protocol: UDP}]
			endpoints: [{addresses: [$K8S_API]}]
		END
}

# mesh_manifests IMAGE: Istio's charts, the node proxy's with that image and no other change
mesh_manifests()
{
	cat >"$K8S/mesh.overlay" <<-END
		apiVersion: install.istio.io/v1alpha1
		kind: IstioOperator
		spec:
		  profile: ambient
		  components:
		    cni: {namespace: istio-cni}
		    ztunnel: {namespace: $K8S_PROXY_NAMESPACE}
		  values:
		    global: {hub: $NODE_HUB, tag: lab}
		    pilot: {trustedZtunnelNamespace: $K8S_PROXY_NAMESPACE}
		    ztunnel: {image: $1}
	END
	istioctl manifest generate -f "$K8S/mesh.overlay" |
		awk 'BEGIN { RS = "\n---\n"; ORS = "\n---\n" } !/kind: CustomResourceDefinition/'
}

mesh_install()
{
	mesh_manifests "$NODE_HUB/${K8S_PROXY}:lab" >"$K8S/mesh.yaml" &&
		kubectl create --validate=false -f "$K8S/mesh.yaml" >"$K8S/mesh.log" 2>&1 && names_start
}

# names_start: the cluster's names that are asked for outside the mesh
names_start()
{
	k8s_start names cp /usr/bin/python3 "$CV_SELFTESTS/e2e/name_server.py" $K8S_API "$K8S/questions.log" \
		"istiod.istio-system.svc.cluster.local=$(kapi GET /api/v1/namespaces/istio-system/services/istiod | jq -r .spec.clusterIP)"
}

mesh_ready()
{
	rolled_out deployment/istiod istio-system && rolled_out daemonset/istio-cni-node istio-cni &&
		rolled_out daemonset/ztunnel "$K8S_PROXY_NAMESPACE"
}

# rolled_out KIND/NAME NAMESPACE: all of its pods are of the newest template, and ready
rolled_out()
{
	kubectl rollout status "$1" -n "$2" --timeout="${K8S_PATIENCE}s" >/dev/null
}

# ---- pods ----------------------------------------------------------------------------------------

# placed: manifests of apps.sh and bookinfo.sh, which name programs of this machine and two nodes, as ones
# of this node's image
placed()
{
	sed "s|image: lab\\>|image: $NODE_HUB/apps:lab|; s|$CV_TOOLS/|/usr/local/bin/|g; s|$BOOKINFO|$NODE_BOOKINFO|; s|nodeName: node2|nodeName: node1|"
}

# pod_exec NAMESPACE/NAME COMMAND…
pod_exec()
{
	k8s_pod=$1
	shift
	kubectl exec -n "${k8s_pod%%/*}" "${k8s_pod#*/}" -- "$@"
}

# proxy_pod: the name of the node proxy's pod that is not about to end
proxy_pod()
{
	kapi GET "/api/v1/namespaces/$K8S_PROXY_NAMESPACE/pods?labelSelector=app%3Dztunnel" |
		jq -er '[.items[] | select(.metadata.deletionTimestamp == null)][0].metadata.name'
}

# proxy_exec NODE COMMAND…: in the network of the proxy's pod, which is its pause process's: a thread of the
# proxy may be in that of a pod which it serves
proxy_exec()
{
	shift
	nsenter -t "$(pause_pid "$K8S_PROXY_NAMESPACE/$(proxy_pod)")" -n "$@"
}

# pause_pid NAMESPACE/NAME
pause_pid()
{
	container_files "$1" cgroup.procs | while read -r k8s_file; do
		cat "${k8s_file%/*/*}"/*/cgroup.procs
	done | sort -u | while read -r k8s_pid; do
		[ "$(cat "/proc/$k8s_pid/comm")" != pause ] || echo "$k8s_pid"
	done | head -n 1
}

# table WHAT: istioctl's, live: through the API server and kubelet from the proxy's admin port
table()
{
	istioctl ztunnel-config "$1" -i "$K8S_PROXY_NAMESPACE"
}

# container_files NAMESPACE/NAME FILE: its first container's files of that name in the cgroup hierarchies
container_files()
{
	k8s_id=$(kapi GET "/api/v1/namespaces/${1%/*}/pods/${1#*/}" |
		jq -er '.status.containerStatuses[0].containerID | sub(".*/"; "")') &&
		while read -r k8s_group; do
			find "$k8s_group" -path "*/$k8s_id/$2"
		done <"$K8S/node1/cgroups"
}

# container_pids NAMESPACE/NAME: its processes, as this machine counts
container_pids()
{
	container_files "$1" cgroup.procs | xargs cat | sort -u
}

# container_kb NAMESPACE/NAME: the memory that it is charged with, whichever cgroup version says so
container_kb()
{
	{ container_files "$1" memory.usage_in_bytes && container_files "$1" memory.current; } |
		xargs cat | awk '{ print int($1 / 1000); exit }'
}

# restarts NAMESPACE: of all its pods' containers
restarts()
{
	kapi GET "/api/v1/namespaces/$1/pods" | jq '[.items[].status.containerStatuses[]?.restartCount] | add'
}

# caller_pod NAME POLICY COMMAND: a pod of the applications' image in shop; POLICY says when it is started again
caller_pod()
{
	kapply <<-END && pods_ready shop "app=$1"
		apiVersion: v1
		kind: Pod
		metadata: {name: $1, namespace: shop, labels: {app: $1}}
		spec:
		  nodeName: node1
		  restartPolicy: $2
		  terminationGracePeriodSeconds: 1
		  containers:
		  - {name: caller, image: $NODE_HUB/apps:lab, command: [sh, -c, "$3"]}
	END
}

# load_pod NAME ADDRESS PORT: a pod that makes a new connection ten times a second and logs how each ended;
# load_failures NAME says how many did not end well
load_pod()
{
	caller_pod "$1" Always "while :; do tcpcall -m echo -n 1000 -w 20000 $2 $3; sleep 0.1; done"
}

# load_lines NAME: how many connections there were
load_lines()
{
	kubectl logs -n shop "$1" | grep -c '^result='
}

# load_goes_on NAME: so many are made after this is asked that the change of before is behind them
load_goes_on()
{
	k8s_lines=$(load_lines "$1")
	wait_for "$K8S_PATIENCE" load_past "$1" $((k8s_lines + 20))
}

load_past()
{
	[ "$(load_lines "$1")" -ge "$2" ]
}

load_failures()
{
	kubectl logs -n shop "$1" | grep '^result=' | grep -vc '^result=ok '
}

# tick_pod NAME ADDRESS PORT: a pod with one connection that exchanges bytes until it is told to end; as long as
# it is well, tick_pod_lives
tick_pod()
{
	caller_pod "$1" Never "exec tcpcall -m tick -v -i 50 -t 3600000 $2 $3"
}

tick_pod_lives()
{
	[ "$(kapi GET "/api/v1/namespaces/shop/pods/$1" | jq -r .status.phase)" = Running ]
}
