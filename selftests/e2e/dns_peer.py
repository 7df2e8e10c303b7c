#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The two ends around the DNS proxy.

dns_peer.py serve ADDRESS…       an upstream resolver on port $PORT (53), UDP and TCP; prints each query as
                                 `udp CLIENT NAME TYPE`
dns_peer.py flood SERVER N NAME… N queries at once from one socket, names in turn; fails unless each has
                                 one answer without an error, from the server that was asked
dns_peer.py raw SERVER HEX       sends bytes by UDP, prints the answer's in hex
"""
import os
import socket
import socketserver
import struct
import sys
import threading
import time

PORT = int(os.environ.get("PORT", 53))
RECORDS = {
    "plain.example": {1: ["192.0.2.1"], 28: ["2001:db8::1"], 16: ["hello"]},
    "big.example": {1: [f"192.0.2.{i}" for i in range(200)]},
    "mixed.example": {1: ["192.0.2.2"]},
}
CODES = {"refused.example": 5, "broken.example": 2}


def pack_name(name):
    return b"".join(bytes([len(l)]) + l.encode() for l in name.split(".") if l) + b"\0"


def read_name(message, at):
    labels = []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    return ".".join(labels), at + 1


def pack_data(kind, text):
    if kind == 1:
        return socket.inet_aton(text)
    if kind == 28:
        return socket.inet_pton(socket.AF_INET6, text)
    return bytes([len(text)]) + text.encode()


def answer(message, limit):
    """The answer to a query, or None for names that are never answered."""
    ident, flags, _, _, _, additional = struct.unpack(">6H", message[:12])
    name, end = read_name(message, 12)
    kind = struct.unpack(">H", message[end : end + 2])[0]
    question = message[12 : end + 4]
    if name.lower() == "silent.example":
        return name, kind, None
    if additional and limit == 512 and len(message) >= end + 11:
        limit = max(512, struct.unpack(">H", message[end + 7 : end + 9])[0])
    records = RECORDS.get(name.lower())
    code = CODES.get(name.lower(), 3 if records is None else 0)
    body = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(d)) + d
        for d in (pack_data(kind, t) for t in (records or {}).get(kind, []))
    )
    count = len((records or {}).get(kind, []))
    out = 0x8480 | (flags & 0x0100) | code
    if 12 + len(question) + len(body) > limit:
        out, body, count = out | 0x0200, b"", 0
    return name, kind, struct.pack(">6H", ident, out, 1, count, 0, 0) + question + body


def told(proto, client, name, kind):
    print(proto, client, name.lower(), kind, flush=True)


def serve_udp(sock):
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
    while True:
        message, client = sock.recvfrom(65535)
        name, kind, reply = answer(message, 512)
        told("udp", client[0], name, kind)
        if reply:
            # Somebody who guesses: another id, then another name. Only the third is the answer.
            if name.lower() == "mixed.example":
                sock.sendto(bytes([reply[0] ^ 1]) + reply[1:], client)
                sock.sendto(reply[:13] + b"xxxxx" + reply[18:], client)
            sock.sendto(reply, client)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            message = self.rfile.read(struct.unpack(">H", head)[0])
            name, kind, reply = answer(message, 65535)
            told("tcp", self.client_address[0], name, kind)
            if reply:
                # In three pieces: the length alone, one byte, the rest.
                for piece in (struct.pack(">H", len(reply)), reply[:1], reply[1:]):
                    self.wfile.write(piece)
                    self.wfile.flush()


def serve(addresses):
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((address, PORT))
        threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()

        class Server(socketserver.ThreadingTCPServer):
            address_family = family
            allow_reuse_address = True
            daemon_threads = True

        threading.Thread(target=Server((address, PORT), Tcp).serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def flood(server, count, names):
    sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
    for i in range(count):
        name = names[i % len(names)]
        sock.sendto(struct.pack(">6H", i, 0x100, 1, 0, 0, 0) + pack_name(name) + b"\0\1\0\1", (server, 53))
    seen, codes, began = set(), {}, time.monotonic()
    sock.settimeout(10)
    while len(seen) < count:
        try:
            message, source = sock.recvfrom(4096)
        except TimeoutError:
            break
        ident, flags = struct.unpack(">2H", message[:4])
        if source[:2] != (server, 53) or ident in seen:
            sys.exit(f"a stray answer from {source}, id {ident}")
        seen.add(ident)
        codes[flags & 15] = codes.get(flags & 15, 0) + 1
    print(f"{len(seen)} of {count} answers in {time.monotonic() - began:.3f} s, codes {codes}")
    sys.exit(codes != {0: count})


def raw(server, data):
    sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((server, 53))
    sock.send(bytes.fromhex(data))
    print(sock.recv(65535).hex())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    elif sys.argv[1] == "flood":
        flood(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        raw(sys.argv[2], sys.argv[3])
