# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# vm.sh: run a command under one of Debian's kernels, in QEMU by software emulation: slow, and to be had anywhere.
#
#	vm.sh SERIES COMMAND    SERIES: see kernel.sh; the status is the command's, 125 if the guest gave none
#
# The guest sees the host's files, read-only; what it writes lies in its memory and is gone with it. It has two CPUs,
# root, a bpffs, a cgroup v2 and no network but what the command makes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${VM_MEMORY:=3G}"
kernel=$(sh "$here/kernel.sh" path "${1:?vm.sh SERIES COMMAND}")
dir=$(mktemp -d "${CV_TMP:-${TMPDIR:-/tmp}}/vm-XXXXXX")
trap 'rm -rf "$dir"' EXIT
printf '%s\n' "${2:?vm.sh SERIES COMMAND}" >"$dir/command"

share()
{
	echo "-fsdev local,id=$1,path=$2,security_model=none,readonly=on,multidevs=remap" \
		"-device virtio-9p-pci,fsdev=$1,mount_tag=$1"
}

# shellcheck disable=SC2046	# words
qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "$VM_MEMORY" -nodefaults -no-reboot -display none \
	-serial stdio -serial "file:$dir/console" -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
	-append "console=ttyS1 panic=-1 culvert.guest=$here/guest.sh culvert.dir=$dir" \
	$(share host /) $(share modules "$kernel/modules") </dev/null |
	awk -v status="$dir/status" '/^vm: status [0-9]+$/ { print $3 >status; next } { print; fflush() }'
[ -s "$dir/status" ] || { echo "vm.sh: the guest gave no status; the end of its console:" && tail -n 20 "$dir/console"; } >&2
exit "$(cat "$dir/status" 2>/dev/null || echo 125)"
