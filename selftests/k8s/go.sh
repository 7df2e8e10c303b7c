# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# go.sh: print a PATH on which `go` is at least what go.mod asks for. An older one is enough to fetch
# the right one, for the toolchain is a module like any other; it is kept in CULVERT_K8S_CACHE.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${CULVERT_K8S_CACHE:=/var/cache/culvert/k8s}"
want=$(awk '$1 == "go" { print $2; exit }' "$here/go.mod")

if ! command -v go >/dev/null; then
	echo "go.sh: no go here: sudo make deps installs one" >&2
	exit 1
fi
have=$(cd / && GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]; then
	echo "$PATH"
	exit
fi

kept=$CULVERT_K8S_CACHE/go$want
if [ ! -x "$kept/bin/go" ]; then
	module=golang.org/toolchain@v0.0.1-go$want.$(go env GOOS)-$(go env GOARCH)
	echo "go.sh: go $have is older than $want: fetching $module" >&2
	said=$(cd / && GOFLAGS=-mod=mod GO111MODULE=on go mod download -json "$module") || :
	fetched=$(echo "$said" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	if [ -z "$fetched" ]; then
		echo "go.sh: $module cannot be fetched: $(echo "$said" | sed -n 's/^\t"Error": //p')" >&2
		exit 1
	fi
	mkdir -p "$CULVERT_K8S_CACHE"
	trap 'rm -rf "$kept.$$"' EXIT
	trap 'exit 1' INT TERM
	cp -r "$fetched" "$kept.$$"
	# A module has no executable files.
	chmod -R u+w "$kept.$$"
	chmod +x "$kept.$$"/bin/* "$kept.$$"/pkg/tool/*/*
	rm -rf "$kept"
	mv "$kept.$$" "$kept"
fi
echo "$kept/bin:$PATH"
