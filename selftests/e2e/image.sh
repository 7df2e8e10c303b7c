#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The image that `make image` makes: the same bits from the same input, a layout whose digests are
# right, small, without a shell, and a daemon that runs in it as ztunnel's chart starts ztunnel:
# `proxy ztunnel`, a read-only root, a writable /tmp, three capabilities, and the socket of a CNI agent.
# shellcheck disable=SC2154

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"

MAKE_IMAGE=$CV_SELFTESTS/../tools/image.sh
ROOT=$CV_TMP/root

[ -x "$MAKE_IMAGE" ] || skip_all "the tests are installed without tools/image.sh"
for program in jq strip dpkg-query /usr/bin/python3; do
	command -v "$program" >/dev/null || skip_all "$program is missing (make deps)"
done

# ---- the image as a file -------------------------------------------------------------------------

make_image()
{
	"$MAKE_IMAGE" "$(dirname "$CULVERTD")" "$1" culvert:test
}

blob_path()
{
	echo "$CV_TMP/oci/blobs/sha256/${1#sha256:}"
}

# descriptor JSON: what it points to is there, with its size and digest
descriptor()
{
	path=$(blob_path "$(echo "$1" | jq -r .digest)")
	[ "$(stat -c %s "$path")" = "$(echo "$1" | jq .size)" ] &&
		echo "$(echo "$1" | jq -r '.digest | sub("sha256:"; "")')  $path" | sha256sum -c --status
}

manifest()
{
	blob_path "$(jq -r '.manifests[0].digest' "$CV_TMP/oci/index.json")"
}

config()
{
	blob_path "$(jq -r .config.digest "$(manifest)")"
}

layer()
{
	blob_path "$(jq -r '.layers[0].digest' "$(manifest)")"
}

unpack()
{
	mkdir -p "$CV_TMP/oci" "$ROOT" && tar -C "$CV_TMP/oci" -xf "$CV_TMP/image.tar" &&
		tar -C "$ROOT" -xzf "$(layer)"
}

layout()
{
	[ "$(jq -r .imageLayoutVersion "$CV_TMP/oci/oci-layout")" = 1.0.0 ] &&
		descriptor "$(jq -c '.manifests[0]' "$CV_TMP/oci/index.json")" &&
		descriptor "$(jq -c .config "$(manifest)")" &&
		descriptor "$(jq -c '.layers[0]' "$(manifest)")" &&
		[ "$(jq -r '.rootfs.diff_ids[0]' "$(config)")" = \
			"sha256:$(zcat "$(layer)" | sha256sum | cut -d' ' -f1)" ] &&
		[ "$(jq -r '.config.Entrypoint[0]' "$(config)")" = /usr/local/bin/culvertd ]
}

# What runs in it: our programs, the loader, libraries. Anything else is one thing more to patch.
contents()
{
	others=$(find "$ROOT" -type f -perm /111 | sed "s|^$ROOT||" |
		grep -vE '^/usr/local/bin/culvert(d|ctl)$|^/(usr/)?lib(64)?/.*\.so[.0-9]*$')
	echo "$others"
	[ -z "$others" ]
}

# ---- the image as a container --------------------------------------------------------------------

# as_container COMMAND…: in the image's root, read-only but for /tmp, in its own network namespace,
# with the chart's capabilities. In the background, `container_exec=exec as_container … &` makes $! its pid.
as_container()
{
	${container_exec-} /usr/bin/nsenter --net="/run/netns/$netns" unshare -m -p -f --kill-child \
		/usr/bin/python3 -c '
import ctypes, os, subprocess, sys
root, keep = sys.argv[1], {12, 13, 21}  # NET_ADMIN, NET_RAW, SYS_ADMIN
run = lambda *words: subprocess.run(words, check=True)
run("mount", "--bind", root, root)
run("mount", "-t", "proc", "proc", root + "/proc")
run("mount", "-t", "tmpfs", "tmp", root + "/tmp")
run("mount", "--bind", sys.argv[2], root + "/var/run")
run("mount", "-o", "remount,ro,bind", root)
os.chroot(root)
os.chdir("/")
libc = ctypes.CDLL(None)
for capability in range(64):
    if capability not in keep:
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execve(sys.argv[3], sys.argv[3:], dict(os.environ, PATH="/usr/local/bin"))
' "$ROOT" "$CV_TMP/run" "$@"
}

# What the chart gives a node proxy, with a file and a development CA in istiod's place.
start()
{
	mkdir -p "$CV_TMP/run/ztunnel" "$CV_TMP/run/culvert-ca" && chmod 700 "$CV_TMP/run/culvert-ca"
	: >"$CV_TMP/pods"
	background /usr/bin/python3 "$CV_SELFTESTS/lib/zds.py" "$CV_TMP/run/ztunnel/ztunnel.sock" \
		"$CV_TMP/pods"
	wait_for 20 test -S "$CV_TMP/run/ztunnel/ztunnel.sock" || return
	NODE_NAME=node LOCAL_XDS="{workloads: [], services: [], policies: []}" XDS_ADDRESS='' \
		CULVERT_DEV_CA=/var/run/culvert-ca RUST_LOG=info \
		container_exec=exec as_container /usr/local/bin/ztunnel proxy ztunnel >"$CV_TMP/log" 2>&1 &
	cleanup stop_container "$!"
	wait_for 30 ready
}

ready()
{
	nsenter --net="/run/netns/$netns" curl -fsS -m 2 http://127.0.0.1:15021/healthz/ready
}

serves()
{
	nsenter --net="/run/netns/$netns" curl -fsS -m 2 "http://127.0.0.1:$1" | grep -q "$2"
}

daemon_pid()
{
	ip netns pids "$netns" | while read -r pid; do
		[ "$(readlink "/proc/$pid/exe" | sed 's|.*/||')" != culvertd ] || echo "$pid"
	done
}

# unshare heeds no SIGTERM, and ends with the daemon.
stop_container()
{
	daemon_pid | xargs -r kill
	wait_for 10 ktap_gone "$1" || kill -9 "$1"
}

capabilities()
{
	grep -x "CapEff:	0000000000203000" "/proc/$(daemon_pid)/status"
}

# As `kubectl exec` does it.
asks()
{
	nsenter --target "$(daemon_pid)" --mount --net --root --wd /usr/local/bin/culvertctl "$@"
}

calm()
{
	! grep -P '\terror\t' "$CV_TMP/log"
}

plan 13
check "the image is made" make_image "$CV_TMP/image.tar"
check "it unpacks" unpack
check "its digests and sizes are right" layout
check "again, from the same input: the same bits" eval \
	'make_image "$CV_TMP/again.tar" && cmp "$CV_TMP/image.tar" "$CV_TMP/again.tar"'
check "it is under 30 MB" [ "$(du -sm "$ROOT" | cut -f1)" -lt 30 ]
check "there is nothing to run in it but culvert" contents
# Some nodes have IPv6 switched off on lo.
netns=$(netns_add image)
nsenter --net="/run/netns/$netns" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6'
mkdir -p "$CV_TMP/run"
check "version" as_container /usr/local/bin/culvertd version
start && ok "proxy ztunnel starts and is ready, with a read-only root and without ::1" ||
	not_ok "proxy ztunnel starts and is ready, with a read-only root and without ::1"
check "it has three capabilities" capabilities
check "culvertctl asks it" asks status
check "it says nothing of errors" calm
check "it serves metrics" serves 15020/metrics istio_build
check "it serves config_dump" serves 15000/config_dump workloadState
[ "$ktap_failed" = 0 ] || comment "$(tail -n 20 "$CV_TMP/log")"
