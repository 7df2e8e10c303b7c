#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# image.sh BIN-DIRECTORY FILE.tar NAME[:TAG]: an OCI image of culvertd and culvertctl in one tar, made without a
# registry, a network or a container engine: the two programs, the libraries that they are linked
# with and those libraries' licences, and nothing else: no shell, no package manager.
#
# It stands in for ztunnel's image: /usr/local/bin/ztunnel is culvertd, which takes ztunnel's
# arguments. The same input gives the same bits: names are sorted, owners are 0, and every time is
# SOURCE_DATE_EPOCH (default: that of the last commit). The tar is also what `docker load` reads.
set -eu

bin=$1 image=$2 name=$3
case $name in
*:*) ;;
*) name=$name:latest ;;
esac
here=$(cd "$(dirname "$0")/.." && pwd)
version=$("$bin/culvertd" version | awk '{ print $2; exit }')
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
root=$work/root
blobs=$work/oci/blobs/sha256
umask 022

# ---- the root file system ------------------------------------------------------------------------

# The files that the programs are linked with, as `ldd` names them: libraries and the loader.
libraries()
{
	ldd "$bin/culvertd" "$bin/culvertctl" |
		awk '/not found/ { print "image.sh: " $0 > "/dev/stderr"; bad = 1 }
			$2 == "=>" && $3 ~ /^\// { print $3 }
			$1 ~ /^\// && NF == 2 && $2 ~ /^\(/ { print $1 }
			END { exit bad }' | sort -u
}

# The licence of the Debian package that a library is of; Debian merges /lib and /usr/lib.
add_licence()
{
	real=$(realpath "$1")
	package=$(dpkg -S "$1" "$real" "${real#/usr}" 2>/dev/null | sed 's/[:,].*//;q')
	licence=/usr/share/doc/$package/copyright
	if [ -z "$package" ] || [ ! -f "$licence" ]; then
		echo "image.sh: no Debian package with a licence text has $1" >&2
		return 1
	fi
	install -D -m 644 "$licence" "$root$licence"
}

# The kernel mounts over proc, sys and dev; the pod's volumes over what is below tmp and var/run.
make_root()
{
	mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/var/run" "$root/etc"
	chmod 1777 "$root/tmp"
	echo "hosts: files dns" >"$root/etc/nsswitch.conf"
	echo "root:x:0:0::/:/" >"$root/etc/passwd"
	for program in culvertd culvertctl; do
		install -D -m 755 "$bin/$program" "$root/usr/local/bin/$program"
		strip "$root/usr/local/bin/$program"
	done
	ln -s culvertd "$root/usr/local/bin/ztunnel"
	list=$(libraries)
	for library in $list; do
		install -D -m 755 "$library" "$root$library"
		add_licence "$library"
	done
	# Roots for XDS_ROOT_CA=SYSTEM and CA_ROOT_CA=SYSTEM.
	install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
	install -D -m 644 /usr/share/doc/ca-certificates/copyright \
		"$root/usr/share/doc/ca-certificates/copyright"
	install -D -m 644 "$here/LICENSES/Apache-2.0.txt" "$root/usr/share/doc/culvert/Apache-2.0.txt"
	install -D -m 644 "$here/LICENSES/GPL-2.0-only.txt" "$root/usr/share/doc/culvert/GPL-2.0-only.txt"
}

# ---- the image -----------------------------------------------------------------------------------

# packed DIRECTORY: a tar of it on stdout, the same for the same files
packed()
{
	(cd "$1" && find . -mindepth 1 | LC_ALL=C sort | sed 's|^\./||' |
		tar -c --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
			--no-recursion --files-from=-)
}

digest()
{
	sha256sum "$1" | cut -d' ' -f1
}

# blob FILE: moves it to where its digest says; prints the digest
blob()
{
	sum=$(digest "$1")
	mv "$1" "$blobs/$sum"
	echo "$sum"
}

# descriptor MEDIA-TYPE DIGEST: what points to a blob
descriptor()
{
	jq -cn --arg type "$1" --arg sum "$2" --argjson size "$(stat -c %s "$blobs/$2")" \
		'{mediaType: $type, digest: "sha256:\($sum)", size: $size}'
}

config_json()
{
	jq -cn --arg created "$created" --arg layer "$1" --arg version "$version" \
		--arg arch "$(dpkg --print-architecture)" '{
		created: $created, architecture: $arch, os: "linux",
		config: {
			User: "0", WorkingDir: "/",
			Env: ["PATH=/usr/local/bin"],
			Entrypoint: ["/usr/local/bin/culvertd"],
			ExposedPorts: {"15020/tcp": {}, "15021/tcp": {}},
			Labels: {
				"org.opencontainers.image.title": "culvert",
				"org.opencontainers.image.version": $version,
				"org.opencontainers.image.licenses": "Apache-2.0 AND GPL-2.0-only"
			}
		},
		rootfs: {type: "layers", diff_ids: ["sha256:\($layer)"]},
		history: [{created: $created, created_by: "culvert: make image"}]
	}'
}

make_image()
{
	mkdir -p "$blobs"
	packed "$root" >"$work/layer.tar"
	unpacked=$(digest "$work/layer.tar")
	gzip -9n "$work/layer.tar"
	layer=$(blob "$work/layer.tar.gz")
	config_json "$unpacked" >"$work/config.json"
	config=$(blob "$work/config.json")
	jq -cn --argjson config "$(descriptor application/vnd.oci.image.config.v1+json "$config")" \
		--argjson layer "$(descriptor application/vnd.oci.image.layer.v1.tar+gzip "$layer")" '{
		schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
		config: $config, layers: [$layer]}' >"$work/manifest"
	manifest=$(blob "$work/manifest")
	echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
	jq -cn --arg name "$name" \
		--argjson manifest "$(descriptor application/vnd.oci.image.manifest.v1+json "$manifest")" '{
		schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
		manifests: [$manifest + {annotations: {
			"io.containerd.image.name": $name,
			"org.opencontainers.image.ref.name": ($name | sub(".*:"; ""))}}]}' \
		>"$work/oci/index.json"
	jq -cn --arg name "$name" --arg config "$config" --arg layer "$layer" '[{
		Config: "blobs/sha256/\($config)", RepoTags: [$name],
		Layers: ["blobs/sha256/\($layer)"]}]' >"$work/oci/manifest.json"
	packed "$work/oci" >"$image.new"
	mv "$image.new" "$image"
}

make_root
make_image
echo "$image: $name, $(($(stat -c %s "$image") / 1000)) kB, $(du -sb "$root" | cut -f1) bytes unpacked"
