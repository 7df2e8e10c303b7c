# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# tools.sh: the programs of the Kubernetes lab, built from the modules that go.mod pins.
#
#	tools.sh build    build what is missing, one line a program
#	tools.sh missing  print the names of those of the two-node lab that are missing
#	tools.sh missing node     and of the one real node
#	tools.sh link DIR put them into DIR under their plain names
#	tools.sh path NAME where one of them is
#
# They lie in CULVERT_K8S_CACHE, each named with its module's version, so that another pin builds
# anew and two checkouts share what they have in common. A program appears by rename, whole.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${CULVERT_K8S_CACHE:=/var/cache/culvert/k8s}"

# name:package:module:folder of the go.mod, the ones that everything waits for first
tools()
{
	cat <<-END
		crds.yaml::$i
		cnitool:github.com/containernetworking/cni/cnitool:github.com/containernetworking/cni
		etcd:go.etcd.io/etcd/server/v3:go.etcd.io/etcd/server/v3
		kube-apiserver:$k/cmd/kube-apiserver:$k
		pilot-discovery:$i/pilot/cmd/pilot-discovery:$i
		istio-cni:$i/cni/cmd/istio-cni:$i
		install-cni:$i/cni/cmd/install-cni:$i
		kubectl:$k/cmd/kubectl:$k
		kube-controller-manager:$k/cmd/kube-controller-manager:$k
		istioctl:$i/istioctl/cmd/istioctl:$i
	END
}

# What the one real node needs beside these.
node_tools()
{
	c=github.com/containerd/containerd/v2
	cat <<-END
		containerd:$c/cmd/containerd:$c:containerd
		containerd-shim-runc-v2:$c/cmd/containerd-shim-runc-v2:$c:containerd
		ctr:$c/cmd/ctr:$c:containerd
		kube-scheduler:$k/cmd/kube-scheduler:$k
		kubelet:$k/cmd/kubelet:$k
		kube-proxy:$k/cmd/kube-proxy:$k
	END
}

all_tools()
{
	tools
	node_tools
}

# version MODULE FOLDER: what the go.mod there requires
version()
{
	awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$here/$2/go.mod"
}

# path NAME MODULE FOLDER
path()
{
	echo "$CULVERT_K8S_CACHE/$1-$(version "$2" "$3")"
}

# each LIST COMMAND: run it for every tool of the list, with NAME PACKAGE MODULE FOLDER
each()
{
	k=k8s.io/kubernetes
	i=istio.io/istio
	"$1" | while IFS=: read -r name package module folder; do
		"$2" "$name" "$package" "$module" "$folder" </dev/null || exit
	done
}

print_missing()
{
	[ -e "$(path "$1" "$3" "$4")" ] || echo "$1"
}

# stamps MODULE FOLDER: how the program learns its own version
stamps()
{
	v=$(version "$1" "$2")
	case $1 in
	k8s.io/kubernetes)
		for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
			minor=${v#v*.}
			echo "-X $p.gitVersion=$v -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*}"
		done
		;;
	istio.io/istio) echo "-X istio.io/istio/pkg/version.buildVersion=$v" ;;
	github.com/containerd/containerd/v2) echo "-X $1/version.Version=$v" ;;
	esac
}

# build_crds FILE: the resources of Istio and of the Gateway API, from the modules' own folders
build_crds()
{
	(cd "$here" && go mod download istio.io/istio sigs.k8s.io/gateway-api) || return
	istio=$(cd "$here" && go list -m -f '{{.Dir}}' istio.io/istio) &&
		gateway=$(cd "$here" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api) || return
	for f in "$istio/manifests/charts/base/files/crd-all.gen.yaml" "$gateway"/config/crd/standard/*.yaml; do
		echo ---
		cat "$f" || return
	done >"$1"
}

# build_part FILE NAME PACKAGE MODULE FOLDER
build_part()
{
	if [ -z "$3" ]; then
		build_crds "$1"
	else
		go build -C "$here/$5" -mod=readonly -trimpath \
			-ldflags "-s -w $(stamps "$4" "$5" | tr '\n' ' ')" -o "$1" "$3"
	fi
}

# build NAME PACKAGE MODULE FOLDER
build()
{
	target=$(path "$1" "$3" "$4")
	[ ! -e "$target" ] || return 0
	started=$(date +%s)
	if ! build_part "$target.part" "$@"; then
		rm -f "$target.part"
		echo "tools.sh: $1 $(version "$3" "$4") is not built, nor what comes after it; make k8s-tools again goes on here" >&2
		return 1
	fi
	mv "$target.part" "$target"
	echo "built $1 $(version "$3" "$4"): $(($(date +%s) - started)) s"
}

build_all()
{
	[ -n "$(each all_tools print_missing)" ] || return 0
	mkdir -p "$CULVERT_K8S_CACHE"
	PATH=$(sh "$here/go.sh") || exit
	export PATH CGO_ENABLED=0
	exec 9>"$CULVERT_K8S_CACHE/.lock"
	flock 9
	# Of a build that was killed.
	rm -f "$CULVERT_K8S_CACHE"/*.part
	each all_tools build
}

link_one()
{
	ln -sf "$(path "$1" "$3" "$4")" "$link_to/$1"
}

print_path()
{
	[ "$1" != "$wanted" ] || path "$1" "$3" "$4"
}

case ${1:-} in
build) build_all ;;
missing)
	case ${2:-} in
	node) each all_tools print_missing ;;
	*) each tools print_missing ;;
	esac
	;;
link) link_to=${2:?tools.sh link DIR} && mkdir -p "$link_to" && each all_tools link_one ;;
path) wanted=${2:?tools.sh path NAME} && each all_tools print_path ;;
*) sed -n '/^#\t/s/^#\t//p' "$0" >&2 && exit 2 ;;
esac
