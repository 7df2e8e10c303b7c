#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make vmlinux/<arch>/vmlinux.h, the kernel's types for BPF programs.

The types come from a kernel's BTF: the running kernel's, a BTF or kernel image file, or the image in
a Debian kernel package, which is how the header of another architecture is made. All types of a
kernel are 130,000 lines, so the header holds

  - the types in SEEDS and the enums with values of SEED_VALUES,
  - every type, enumerator or typedef that a source in bpf/, maps/ or selftests/bpf/, or one of
    libbpf's headers for BPF programs, mentions,
  - what those hold by value, all the way down,
  - what those point to (POINTER_DEPTH pointers deep), and

deeper pointers lead to types that are only declared. Layouts of the kernel at hand do not matter:
CO-RE (the preserve_access_index pragma) relocates each access when the program is loaded.
"""

import argparse
import lzma
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARCHS = {"x86": "amd64", "arm64": "arm64"}
POINTER_DEPTH = 1
SOURCES = ("bpf", "maps", "selftests/bpf", "/usr/include/bpf")

# What BPF programs of this project's hooks work on, wherever they mention it or not.
SEEDS = """
__sk_buff bpf_sock bpf_sock_addr bpf_sock_ops bpf_sock_tuple bpf_sockopt bpf_sk_lookup bpf_tcp_sock
sk_msg_md xdp_md bpf_iter__tcp bpf_iter_meta seq_file bpf_perf_event_data pt_regs user_pt_regs
sk_buff sock sock_common inet_sock inet_connection_sock tcp_sock tcp6_sock request_sock
inet_request_sock tcp_request_sock inet_timewait_sock tcp_timewait_sock udp_sock udp6_sock unix_sock
socket net net_device ethhdr iphdr ipv6hdr tcphdr udphdr icmphdr icmp6hdr ipv6_opt_hdr ipv6_rt_hdr
frag_hdr ip_auth_hdr vlan_hdr arphdr in_addr in6_addr sockaddr_in sockaddr_in6 bpf_sock_ops_kern
bpf_sk_lookup_kern bpf_dynptr bpf_timer bpf_spin_lock bpf_map bpf_cpumask tcx_action_base
""".split()
SEED_VALUES = re.compile(r"(__)?(BPF|TCP|TCX|TC|SK|IPPROTO)_")

BTF_MAGIC = b"\x9f\xeb\x01\x00"
PREAMBLE = """#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif
"""
POSTAMBLE = """#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif
"""


def run(*cmd, **kw):
    return subprocess.run(cmd, check=True, stdout=subprocess.PIPE, **kw).stdout


def unpacked(image):
    """The image itself, then whatever the compressed streams in it unpack to."""
    yield image
    makers = (
        (b"\x1f\x8b\x08", lambda d: zlib.decompressobj(31).decompress(d)),
        (b"\xfd7zXZ\x00", lambda d: lzma.LZMADecompressor().decompress(d)),
        (b"\x28\xb5\x2f\xfd", unzstd),
    )
    for magic, unpack in makers:
        for m in re.finditer(re.escape(magic), image):
            try:
                yield unpack(image[m.start():])
            except (zlib.error, lzma.LZMAError, OSError):
                continue


def unzstd(data):
    return subprocess.run(["zstd", "-dc", "-"], input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False).stdout


def btf_in(image):
    """The largest BTF blob in a kernel image: vmlinux's own."""
    best = b""
    for data in unpacked(image):
        for m in re.finditer(re.escape(BTF_MAGIC), data):
            head = data[m.start():m.start() + 24]
            if len(head) < 24:
                continue
            hlen, toff, tlen, soff, slen = struct.unpack("<IIIII", head[4:])
            if hlen != 24 or toff != 0 or soff != tlen:
                continue
            blob = data[m.start():m.start() + hlen + soff + slen]
            if len(blob) == hlen + soff + slen and len(blob) > len(best):
                best = blob
        if best:
            return best
    sys.exit("no BTF in this image")


def debian_image(arch, suite, directory):
    """Fetch the newest cloud kernel of a Debian suite with an apt configuration of its own."""
    for d in ("lists/partial", "cache/archives/partial", "etc"):
        os.makedirs(f"{directory}/{d}")
    open(f"{directory}/status", "w").close()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    with open(f"{directory}/etc/sources.list", "w") as f:
        f.write(f"deb [signed-by={key}] http://deb.debian.org/debian {suite} main\n")
    with open(f"{directory}/apt.conf", "w") as f:
        f.write(f'Dir::State "{directory}"; Dir::State::Lists "{directory}/lists";\n'
                f'Dir::State::status "{directory}/status"; Dir::Cache "{directory}/cache";\n'
                f'Dir::Etc::sourcelist "{directory}/etc/sources.list"; Dir::Etc::sourceparts "-";\n'
                f'APT::Architecture "{ARCHS[arch]}"; APT::Architectures "{ARCHS[arch]}";\n'
                f'APT::Sandbox::User "root";\n')
    env = dict(os.environ, APT_CONFIG=f"{directory}/apt.conf")
    run("apt-get", "-qq", "update", env=env)
    names = run("apt-cache", "pkgnames", "linux-image-", env=env, text=True).split()
    pattern = re.compile(r"linux-image-(\d+)\.(\d+)\.(\d+)\S*-cloud-" + ARCHS[arch] + "(-unsigned)?$")
    found = [(tuple(map(int, m.groups()[:3])), n) for n in names if (m := pattern.match(n))]
    if not found:
        sys.exit(f"{suite} has no cloud kernel for {arch}")
    run("apt-get", "-qq", "download", max(found)[1], env=env, cwd=directory)
    deb = next(f for f in os.listdir(directory) if f.endswith(".deb"))
    run("dpkg-deb", "-x", f"{directory}/{deb}", f"{directory}/x")
    boot = f"{directory}/x/boot"
    return next(f"{boot}/{f}" for f in sorted(os.listdir(boot)) if f.startswith("vmlinuz-"))


def dump(path):
    return run(os.environ.get("BPFTOOL", "/usr/sbin/bpftool"), "btf", "dump", "file", path,
               "format", "c", text=True)


def blocks(text):
    """Split bpftool's output into top-level declarations, each a string."""
    body = text.split("#endif\n", 1)[1].rsplit("#ifndef BPF_NO_PRESERVE_ACCESS_INDEX", 1)[0]
    return [b.strip("\n") for b in re.split(r"\n\n+", body) if b.strip()]


DEFINES = re.compile(r"(struct|union|enum) (\w+) \{")


class Declaration:
    def __init__(self, text):
        self.text = text
        self.keys = set()
        m = DEFINES.match(text)
        self.forward = re.fullmatch(r"(?:struct|union|enum) \w+;", text) is not None
        if m:
            self.keys.add(m.group(2))
        if text.startswith("enum"):
            self.keys |= set(re.findall(r"^\t(\w+)", text, re.M))
        if text.startswith("typedef"):
            last = text.splitlines()[-1]
            name = re.search(r"\(\* ?(?:const )?(\w+)[()\[]", last)
            name = name or re.search(r"(\w+)(?:\[\d*\]|\(.*\))*;$", last)
            if name is None:
                raise ValueError(f"cannot read: {text}")
            self.keys.add(name.group(1))

    def references(self):
        """Names that this declaration uses: (by value, by pointer)."""
        pointed = set(re.findall(r"(?:struct|union) (\w+) (?:const )?\*", self.text))
        for args in re.findall(r"\)\((.*)\);$", self.text, re.M):
            pointed |= set(re.findall(r"\w+", args))
        by_value = set(re.findall(r"\w+", self.text)) - pointed
        by_value |= set(re.findall(r"(?:struct|union) (\w+) (?![*\w]*\*)\w", self.text))
        return by_value - self.keys, pointed - self.keys


def mentioned():
    words = set(SEEDS)
    for top in SOURCES:
        for folder, _, files in os.walk(os.path.join(ROOT, top)):
            for name in files:
                if name.endswith((".h", ".c")) and not name.startswith(("libbpf", "btf", "bpf.h")):
                    with open(os.path.join(folder, name)) as f:
                        words |= set(re.findall(r"[A-Za-z_]\w+", f.read()))
    return words


def reduce(text, words):
    decls = [Declaration(b) for b in blocks(text)]
    by_key = {}
    for d in decls:
        if not d.forward:
            for k in d.keys:
                by_key.setdefault(k, []).append(d)
    kept, used = {}, set()
    work = [(w, 0) for w in words | set(filter(SEED_VALUES.match, by_key))]
    while work:
        key, depth = work.pop()
        for d in by_key.get(key, ()):
            if kept.get(id(d), POINTER_DEPTH + 2) <= depth:
                continue
            if depth > POINTER_DEPTH and DEFINES.match(d.text) and not d.text.startswith("enum"):
                continue
            kept[id(d)] = depth
            by_value, pointed = d.references()
            used |= by_value | pointed
            work += [(k, depth) for k in by_value]
            work += [(k, min(depth, POINTER_DEPTH) + 1) for k in pointed]
    out, declared = [], set()
    for d in decls:
        m = DEFINES.match(d.text)
        if id(d) in kept:
            out.append(d.text)
        elif m and m.group(1) != "enum" and m.group(2) in used:
            declared.add(f"{m.group(1)} {m.group(2)};")
        elif d.forward and d.text.split()[1][:-1] in used:
            declared.add(d.text)
    return sorted(declared) + out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("arch", nargs="*", help="x86, arm64 (default: both)")
    p.add_argument("--suite", default="bookworm-backports",
                   help="Debian suite of the kernel package (default: %(default)s)")
    p.add_argument("--image", help="take this BTF file or kernel image instead, for one arch;\n"
                   "/sys/kernel/btf/vmlinux is the running kernel")
    p.add_argument("--release", help="the kernel release to name with --image (default: uname -r)")
    p.add_argument("--all-types", action="store_true", help="do not reduce")
    args = p.parse_args()
    archs = args.arch or list(ARCHS)
    if args.image and len(archs) != 1:
        p.error("--image goes with one arch")
    words = mentioned()
    for arch in archs:
        with tempfile.TemporaryDirectory() as tmp:
            image = args.image or debian_image(arch, args.suite, tmp)
            release = (args.release or os.uname().release) if args.image else \
                os.path.basename(image)[len("vmlinuz-"):]
            with open(image, "rb") as f:
                btf = btf_in(f.read())
            with open(f"{tmp}/btf", "wb") as f:
                f.write(btf)
            text = dump(f"{tmp}/btf")
        parts = blocks(text) if args.all_types else reduce(text, words)
        path = f"{ROOT}/vmlinux/{arch}/vmlinux.h"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(f"/* SPDX-License-Identifier: GPL-2.0-only */ /* Linux {release}, {arch}: generated "
                    "by vmlinux/generate.py, do not edit */\n")
            f.write(PREAMBLE + "\n" + "\n\n".join(parts) + "\n\n" + POSTAMBLE)
        print(f"vmlinux/{arch}/vmlinux.h: Linux {release}, {len(parts)} declarations")


if __name__ == "__main__":
    main()
