#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The application of a waypoint pod behind an application tunnel.

	waypoint_app.py PORT LOG [VIP:PORT=IP:PORT…]

Listens on loopback, reads the PROXY header (version 2) that stands in front of each connection,
writes `SOURCE DESTINATION IDENTITY` to LOG, and connects to the destination (what the list makes of it, if
it is there) and copies. What begins with anything else is closed.
"""

import socket
import struct
import sys
import threading

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TLV_IDENTITY = 0xD0


def read_exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise ValueError("ends within the header")
        data += more
    return data


def read_header(s):
    head = read_exactly(s, 16)
    if head[:12] != SIGNATURE or head[12] != 0x21:
        raise ValueError(f"no PROXY header: {head!r}")
    rest = read_exactly(s, struct.unpack(">H", head[14:16])[0])
    family, size = (socket.AF_INET, 4) if head[13] == 0x11 else (socket.AF_INET6, 16)
    src = socket.inet_ntop(family, rest[:size])
    dst = socket.inet_ntop(family, rest[size:2 * size])
    sport, dport = struct.unpack(">HH", rest[2 * size:2 * size + 4])
    tlvs, identity = rest[2 * size + 4:], "-"
    while len(tlvs) >= 3:
        kind, length = struct.unpack(">BH", tlvs[:3])
        if kind == TLV_IDENTITY:
            identity = tlvs[3:3 + length].decode()
        tlvs = tlvs[3 + length:]
    return (src, sport), (dst, dport), identity


def text(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address


def parse(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for s in (source, sink):
            s.close()


def serve(s, log, routes):
    try:
        src, dst, identity = read_header(s)
        log.write(f"{text(src)} {text(dst)} {identity}\n")
        upstream = socket.create_connection(parse(routes.get(text(dst), text(dst))), 10)
    except (OSError, ValueError) as e:
        log.write(f"failed: {e}\n")
        s.close()
        return
    upstream.settimeout(None)
    back = threading.Thread(target=copy, args=(upstream, s), daemon=True)
    back.start()
    copy(s, upstream)
    back.join()
    s.close()
    upstream.close()


def listen(host, port, log, routes):
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host
                                    else socket.AF_INET, backlog=100)
    while True:
        s, _ = listener.accept()
        threading.Thread(target=serve, args=(s, log, routes), daemon=True).start()


def main():
    port, log = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1, encoding="utf-8")
    routes = dict(word.split("=") for word in sys.argv[3:])
    threading.Thread(target=listen, args=("::1", port, log, routes), daemon=True).start()
    listen("127.0.0.1", port, log, routes)


if __name__ == "__main__":
    main()
