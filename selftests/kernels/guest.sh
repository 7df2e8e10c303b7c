# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# guest.sh: what a guest does once it sees the host's files: mount what a machine has, run the file `command` of the
# folder that the kernel's command line names (culvert.dir), and say its status in the last line on the first serial
# port. The console is the second.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
dir=$(sed -n 's/.*culvert\.dir=\([^ ]*\).*/\1/p' /proc/cmdline)
stty -F /dev/ttyS0 -opost
sh "$dir/command" >/dev/ttyS0 2>&1 </dev/null
echo "vm: status $?" >/dev/ttyS0
echo o >/proc/sysrq-trigger
sleep 60
