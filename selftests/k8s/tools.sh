# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# tools.sh: the programs of the Kubernetes lab, built from the modules that go.mod pins.
#
#	tools.sh build    build what is missing, one line a program
#	tools.sh missing  print the names of those that are missing
#	tools.sh link DIR put them into DIR under their plain names
#	tools.sh path NAME where one of them is
#
# They lie in CULVERT_K8S_CACHE, each named with its module's version, so that another pin builds
# anew and two checkouts share what they have in common. A program appears by rename, whole.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${CULVERT_K8S_CACHE:=/var/cache/culvert/k8s}"

# name:package:module, the ones that everything waits for first
tools()
{
	k=k8s.io/kubernetes
	i=istio.io/istio
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

# version MODULE: what go.mod requires
version()
{
	awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$here/go.mod"
}

# path NAME MODULE
path()
{
	echo "$CULVERT_K8S_CACHE/$1-$(version "$2")"
}

# each COMMAND: run it for every tool, with NAME PACKAGE MODULE
each()
{
	tools | while IFS=: read -r name package module; do
		"$1" "$name" "$package" "$module" </dev/null || exit
	done
}

print_missing()
{
	[ -e "$(path "$1" "$3")" ] || echo "$1"
}

# stamps PACKAGE MODULE: how the program learns its own version
stamps()
{
	v=$(version "$2")
	case $2 in
	k8s.io/kubernetes)
		for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
			minor=${v#v*.}
			echo "-X $p.gitVersion=$v -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*}"
		done
		;;
	istio.io/istio) echo "-X istio.io/istio/pkg/version.buildVersion=$v" ;;
	esac
}

# build_crds FILE: the resources of Istio and of the Gateway API, from the modules' own folders
build_crds()
{
	istio=$(cd "$here" && go list -m -f '{{.Dir}}' istio.io/istio) &&
		gateway=$(cd "$here" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api) || return
	for f in "$istio/manifests/charts/base/files/crd-all.gen.yaml" "$gateway"/config/crd/standard/*.yaml; do
		echo ---
		cat "$f" || return
	done >"$1"
}

# build NAME PACKAGE MODULE
build()
{
	target=$(path "$1" "$3")
	[ ! -e "$target" ] || return 0
	if [ -z "$2" ]; then
		build_crds "$target.$$" && mv "$target.$$" "$target"
		return
	fi
	started=$(date +%s)
	go build -C "$here" -mod=readonly -trimpath -ldflags "-s -w $(stamps "$2" "$3" | tr '\n' ' ')" \
		-o "$target.$$" "$2" || return
	mv "$target.$$" "$target"
	echo "built $1 $(version "$3"): $(($(date +%s) - started)) s"
}

build_all()
{
	[ -n "$(each print_missing)" ] || return 0
	mkdir -p "$CULVERT_K8S_CACHE"
	PATH=$(sh "$here/go.sh") || exit
	export PATH CGO_ENABLED=0
	exec 9>"$CULVERT_K8S_CACHE/.lock"
	flock 9
	each build
}

link_one()
{
	ln -sf "$(path "$1" "$3")" "$link_to/$1"
}

print_path()
{
	[ "$1" != "$wanted" ] || path "$1" "$3"
}

case ${1:-} in
build) build_all ;;
missing) each print_missing ;;
link) link_to=${2:?tools.sh link DIR} && mkdir -p "$link_to" && each link_one ;;
path) wanted=${2:?tools.sh path NAME} && each print_path ;;
*) sed -n '/^#\t/s/^#\t//p' "$0" >&2 && exit 2 ;;
esac
