# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# image.sh: images for the lab's real node out of programs of this machine, without a registry: the files
# that are named, and the libraries that they are linked with. They never leave the machine; culvert's
# own image is tools/image.sh's.
#
#	sh image.sh FILE.tar NAME:TAG USER ITEM…
#
# ITEM is FILE, or FILE=PATH for another place in the image; a symbolic link stays one, with what it
# points to. The first item is the entry point.
set -eu

image=$1 name=$2 user=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/tmp" "$root/run" "$root/etc" "$root/proc" "$root/sys" "$root/dev"
# As a Debian machine has them: a library's path may begin with either.
mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
ln -s usr/lib usr/lib64 usr/bin usr/sbin "$root/"
mkdir -p "$root/var"
ln -s ../run "$root/var/run"
chmod 1777 "$root/tmp"
echo "root:x:0:0::/:/" >"$root/etc/passwd"
echo "hosts: files dns" >"$root/etc/nsswitch.conf"

# put FILE PATH: a file, with its libraries where they are on this machine
put()
{
	if [ -L "$1" ] && [ "$1" = "$2" ]; then
		put "$(readlink -f "$1")" "$(readlink -f "$1")"
		mkdir -p "$root$(dirname "$2")"
		ln -sf "$(readlink -f "$1")" "$root$2"
		return
	fi
	[ ! -e "$root$2" ] || return 0
	mkdir -p "$root$(dirname "$2")"
	cp -L "$1" "$root$2"
	chmod 755 "$root$2"
	# What is linked statically, or no program, has no libraries.
	ldd "$1" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }
		$1 ~ /^\// && NF == 2 { print $1 }' >"$work/libraries.$$"
	while read -r library; do
		[ -e "$root$library" ] || { mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"; }
	done <"$work/libraries.$$"
}

entry=
for item; do
	put "${item%%=*}" "${item#*=}"
	: "${entry:=${item#*=}}"
done

tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
jq -n --arg user "$user" --arg entry "$entry" --arg arch "$(dpkg --print-architecture)" \
	--arg layer "$(sha256sum "$work/layer.tar" | cut -d' ' -f1)" '{
	architecture: $arch, os: "linux",
	config: {User: $user, WorkingDir: "/", Entrypoint: [$entry],
		Env: ["PATH=/usr/local/bin:/usr/bin:/usr/sbin"]},
	rootfs: {type: "layers", diff_ids: ["sha256:\($layer)"]}}' >"$work/config.json"
jq -n --arg name "$name" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' \
	>"$work/manifest.json"
tar -C "$work" -cf "$image" manifest.json config.json layer.tar
