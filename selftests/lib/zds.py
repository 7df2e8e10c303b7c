#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Plays istio-cni to a ztunnel: the server side of the ZDS socket.

	zds.py SOCKET PODS

PODS is a file with one pod a line, `UID NAME NAMESPACE SERVICE-ACCOUNT NETNS-PATH`, read at the
start and again at SIGHUP. A ztunnel that connects gets all of them and the end of the snapshot;
later a new pod goes to the ztunnel that connected last, and what is gone to every one. Each message awaits its acknowledgement, and
what is acknowledged goes to stdout (`added UID`, `deleted UID`, `snapshot`).
"""

import os
import select
import signal
import socket
import sys

HELLO_V1 = b"\x08\x01"


def field(number, value):
    """A length-delimited protobuf field."""
    if isinstance(value, str):
        value = value.encode()
    length = b""
    left = len(value)
    while left > 0x7F:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + value


def read_pods(path):
    """The pods of the file: uid -> (name, namespace, service account, netns path)"""
    with open(path, encoding="utf-8") as lines:
        return {words[0]: tuple(words[1:]) for words in map(str.split, lines) if words}


def ask(conn, message, fds=()):
    """Sends one message; what the ztunnel has against it, or an empty string."""
    socket.send_fds(conn, [message], fds)
    answer = conn.recv(1024)
    if not answer:
        raise ConnectionError("ztunnel closed the connection")
    # WorkloadResponse.ack (1) holds Ack.error (1), which is not sent when it is empty.
    return answer[4:].decode() if len(answer) > 4 else ""


def add(conn, uid, pod):
    name, namespace, account, netns = pod
    info = field(1, name) + field(2, namespace) + field(3, account)
    fd = os.open(netns, os.O_RDONLY)
    try:
        error = ask(conn, field(1, field(1, uid) + field(2, info)), [fd])
    finally:
        os.close(fd)
    print(f"refused {uid}: {error}" if error else f"added {uid}", flush=True)


def delete(conn, uid):
    ask(conn, field(2, field(2, uid)))
    print(f"deleted {uid}", flush=True)


def greet(conn, pods):
    """The beginning of a session: hello, every pod, the end of the snapshot."""
    conn.settimeout(5)
    hello = conn.recv(1024)
    if hello != HELLO_V1:
        raise ConnectionError(f"not a hello: {hello!r}")
    for uid, pod in pods.items():
        add(conn, uid, pod)
    ask(conn, field(3, b""))
    print("snapshot", flush=True)


def update(conn, old, new, is_last):
    for uid in old.keys() - new.keys():
        delete(conn, uid)
    for uid in new.keys() - old.keys() if is_last else ():
        add(conn, uid, new[uid])


class Server:
    def __init__(self, path, pods_path):
        self.pods_path = pods_path
        self.pods = read_pods(pods_path)
        self.conns = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen()

    def guard(self, conn, what, *arguments):
        """Does something with a ztunnel, which may be gone."""
        try:
            what(conn, *arguments)
            return True
        except OSError as error:
            print(f"lost a ztunnel: {error}", flush=True)
            conn.close()
            return False

    def reload(self):
        old, self.pods = self.pods, read_pods(self.pods_path)
        last = self.conns[-1:]
        self.conns = [
            c for c in self.conns if self.guard(c, update, old, self.pods, c in last)
        ]

    def accept(self):
        conn, _ = self.listener.accept()
        if self.guard(conn, greet, self.pods):
            self.conns.append(conn)

    def close(self, conn):
        self.conns.remove(conn)
        conn.close()

    def run(self, wake):
        while True:
            readable, _, _ = select.select([self.listener, wake, *self.conns], [], [])
            if wake in readable:
                wake.recv(64)
                self.reload()
            if self.listener in readable:
                self.accept()
            # A ztunnel says nothing unasked: what is readable is its end.
            for conn in [c for c in self.conns if c in readable]:
                self.close(conn)


def main():
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGHUP, lambda *_: None)
    server = Server(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    server.run(wake)


if __name__ == "__main__":
    main()
