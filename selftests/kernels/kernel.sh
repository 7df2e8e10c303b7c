# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# kernel.sh: Debian's kernels, fetched by apt and made ready for a guest.
#
#	kernel.sh path SERIES     the folder of one (6.1, 6.12): vmlinuz, initrd, modules/
#	kernel.sh fetch SERIES…   get those that are missing
#
# They lie in CULVERT_KERNELS_CACHE. apt is asked with lists of its own, made of the mirror that this
# machine uses, so that neither the machine's packages nor its lists are touched. A folder appears by
# rename, whole.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${CULVERT_KERNELS_CACHE:=/var/cache/culvert/kernels}"
# What the guest needs to see the host's files, in the order of loading.
BOOT_MODULES="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci netfs fscache
	9pnet 9pnet_virtio 9p overlay"

die()
{
	echo "kernel.sh: $*" >&2
	exit 1
}

# suite SERIES: where Debian 12 has it
suite()
{
	case $1 in
	6.1) echo bookworm ;;
	6.12) echo bookworm-backports ;;
	*) die "$1: Debian 12 has the kernels 6.1 and 6.12" ;;
	esac
}

# mirror: where this machine gets Debian from
mirror()
{
	# shellcheck disable=SC2016	# for apt
	apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
		awk '$2 == "bookworm" { print $1; exit }'
}

# own_apt PROGRAM ARGUMENT…: apt-get or apt-cache with the lists below $work
own_apt()
{
	program=$1
	shift
	"$program" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" \
		-o Dir::Etc::Preferences="$work/preferences" -o APT::Sandbox::User=root "$@"
}

# download PACKAGE: into $work, unpacked to $work/PACKAGE
download()
{
	(cd "$work" && own_apt apt-get download "$1") >>"$work/log" 2>&1 &&
		dpkg-deb -x "$work/$1"_*.deb "$work/$1"
}

# kernel_package: what the series' newest is called; a meta package depends on it
kernel_package()
{
	own_apt apt-cache depends linux-image-amd64 |
		sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1
}

# boot_modules FROM TO: copy those that are not built in, and their order
boot_modules()
{
	for module in $BOOT_MODULES; do
		file=$(find "$1" -name "$module.ko*")
		case $file in
		'') continue ;;
		*.xz) xz -dc "$file" >"$2/$module.ko" ;;
		*) cp "$file" "$2/$module.ko" ;;
		esac
		echo "$module.ko" >>"$2/order"
	done
}

# initrd MODULES FILE: busybox, the modules that boot needs, and our init
initrd()
{
	mkdir -p "$work/initrd/bin" "$work/initrd/modules"
	cp "$work/busybox-static/bin/busybox" "$work/initrd/bin/"
	install -m 755 "$here/init" "$work/initrd/init"
	boot_modules "$1" "$work/initrd/modules"
	(cd "$work/initrd" && find . | bin/busybox cpio -o -H newc 2>/dev/null) | gzip >"$2"
}

# fetch SERIES
fetch()
{
	target=$CULVERT_KERNELS_CACHE/$1
	[ ! -e "$target" ] || return 0
	suite=$(suite "$1")
	mirror=$(mirror)
	[ -n "$mirror" ] || die "this machine's apt knows no mirror of Debian 12"
	mkdir -p "$CULVERT_KERNELS_CACHE"
	work=$(mktemp -d "$CULVERT_KERNELS_CACHE/.fetch-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/new"
	for each in bookworm "$suite"; do
		echo "deb $mirror $each main"
	done | sort -u >"$work/sources.list"
	own_apt apt-get update >"$work/log" 2>&1 || { cat "$work/log" >&2; die "no package lists"; }
	[ "$suite" = bookworm ] || printf 'Package: linux-image-*\nPin: release n=%s\nPin-Priority: 900\n' \
		"$suite" >"$work/preferences"
	package=$(kernel_package)
	for each in busybox-static "$package"; do
		download "$each" || { cat "$work/log" >&2; die "cannot download $each"; }
	done
	release=$(basename "$work/$package"/lib/modules/*)
	depmod -b "$work/$package" "$release"
	initrd "$work/$package/lib/modules/$release" "$work/new/initrd"
	mv "$work/$package/boot/vmlinuz-$release" "$work/new/vmlinuz"
	mv "$work/$package/lib/modules" "$work/new/modules"
	mv -T "$work/new" "$target"
	rm -rf "$work"
	trap - EXIT
	echo "fetched $package"
}

case ${1:-} in
path) echo "$CULVERT_KERNELS_CACHE/${2:?kernel.sh path SERIES}" ;;
fetch)
	shift
	for series; do
		fetch "$series"
	done
	;;
*) sed -n 's/^#\t//p' "$0" >&2 && exit 2 ;;
esac
