#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A DNS server with a handful of names.

	name_server.py ADDRESS LOG NAME=IP[,IP…]…

Answers A and AAAA over UDP on port 53 with a TTL of one second; NXDOMAIN for any other name. Each
question goes to LOG as `TYPE NAME`. A name of the form silent.* gets no answer.
"""

import ipaddress
import socket
import struct
import sys

TYPES = {1: "A", 28: "AAAA"}


def read_name(message):
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels).lower(), at + 1


def answer(message, names, log):
    name, end = read_name(message)
    kind = struct.unpack(">H", message[end:end + 2])[0]
    log.write(f"{TYPES.get(kind, kind)} {name}\n")
    if name.startswith("silent."):
        return None
    known = name in names
    records = b""
    count = 0
    for address in names.get(name, []):
        if TYPES.get(kind) != ("A" if address.version == 4 else "AAAA"):
            continue
        records += struct.pack(">HHHIH", 0xC00C, kind, 1, 1, len(address.packed)) + address.packed
        count += 1
    flags = 0x8580 | (0 if known else 3)
    head = message[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0)
    return head + message[12:end + 4] + records


def main():
    names = {}
    for word in sys.argv[3:]:
        name, addresses = word.split("=")
        names[name] = [ipaddress.ip_address(a) for a in addresses.split(",")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, \
            open(sys.argv[2], "a", buffering=1, encoding="utf-8") as log:
        s.bind((sys.argv[1], 53))
        while True:
            message, client = s.recvfrom(4096)
            reply = answer(message, names, log)
            if reply:
                s.sendto(reply, client)


if __name__ == "__main__":
    main()
