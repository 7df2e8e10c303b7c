#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What istioctl asks of a Kubernetes API server in order to look into a node proxy, and no more.

	kube_api.py PORT NODE NAMESPACE/POD…

Serves on 127.0.0.1:PORT, over plain HTTP: one node proxy `ztunnel-NODE` of the DaemonSet
istio-system/ztunnel and the named pods, all on NODE; and a port-forward of any of them (SPDY/3.1)
to port 15000 of the network namespace that this runs in. Prints `ready`.
"""

import http.server
import json
import socket
import struct
import sys
import threading
import urllib.parse
import zlib

ADMIN_PORT = 15000
SYN_STREAM, SYN_REPLY, RST_STREAM, PING = 1, 2, 3, 6
FIN = 1


def pod(namespace, name, node, labels):
    """A running pod, as far as it matters here."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "istio-proxy"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def resources(group_version, name, kind):
    one = {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": True}
    one["verbs"] = ["get", "list"]
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": [one]}


def objects(node, pods):
    """Path -> JSON"""
    proxy = pod("istio-system", f"ztunnel-{node}", node, {"app": "ztunnel"})
    daemon_set = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "ztunnel", "namespace": "istio-system"},
        "spec": {"selector": {"matchLabels": {"app": "ztunnel"}}},
    }
    version = {"groupVersion": "apps/v1", "version": "v1"}
    apps = {"name": "apps", "versions": [version], "preferredVersion": version}
    paths = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [apps]},
        "/api/v1": resources("v1", "pods", "Pod"),
        "/apis/apps/v1": resources("apps/v1", "daemonsets", "DaemonSet"),
        "/apis/apps/v1/namespaces/istio-system/daemonsets/ztunnel": daemon_set,
        "/api/v1/namespaces/istio-system/pods": {
            "apiVersion": "v1",
            "kind": "PodList",
            "items": [proxy],
        },
    }
    every = [proxy] + [pod(*words.split("/"), node, {"app": "test"}) for words in pods]
    for one in every:
        meta = one["metadata"]
        paths[f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"] = one
    return paths


class Forward:
    """One port-forward: its streams come in pairs, for errors (there are none) and for data."""

    def __init__(self, conn, stream):
        self.conn = conn
        self.stream = stream
        self.lock = threading.Lock()
        self.compress = zlib.compressobj()
        self.opened = 0
        self.targets = {}

    def send(self, frame):
        with self.lock:
            self.conn.sendall(frame)

    def send_data(self, stream_id, data, flags=0):
        self.send(struct.pack("!II", stream_id, flags << 24 | len(data)) + data)

    def send_reply(self, stream_id):
        """No headers: their number, compressed."""
        with self.lock:
            block = self.compress.compress(struct.pack("!I", 0))
            block += self.compress.flush(zlib.Z_SYNC_FLUSH)
            head = struct.pack("!HHII", 0x8003, SYN_REPLY, 4 + len(block), stream_id)
            self.conn.sendall(head + block)

    def open(self, stream_id):
        self.opened += 1
        self.send_reply(stream_id)
        if self.opened % 2:
            self.send_data(stream_id, b"", FIN)
            return
        target = socket.create_connection(("127.0.0.1", ADMIN_PORT))
        self.targets[stream_id] = target
        threading.Thread(target=self.answer, args=(stream_id, target), daemon=True).start()

    def answer(self, stream_id, target):
        try:
            while data := target.recv(65536):
                self.send_data(stream_id, data)
            self.send_data(stream_id, b"", FIN)
        except OSError:
            target.close()

    def control(self, kind, body):
        stream_id = struct.unpack("!I", body[:4])[0] if len(body) >= 4 else 0
        if kind == SYN_STREAM:
            self.open(stream_id)
        elif kind == PING:
            self.send(struct.pack("!HHI", 0x8003, PING, len(body)) + body)
        elif kind == RST_STREAM and stream_id in self.targets:
            self.targets.pop(stream_id).close()

    def data(self, stream_id, flags, body):
        target = self.targets.get(stream_id)
        if not target:
            return
        if body:
            target.sendall(body)
        if flags & FIN:
            target.shutdown(socket.SHUT_WR)

    def run(self):
        while len(head := self.stream.read(8)) == 8:
            first, second = struct.unpack("!II", head)
            body = self.stream.read(second & 0xFFFFFF)
            if first >> 31:
                self.control(first & 0xFFFF, body)
            else:
                self.data(first, second >> 24, body)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    paths = {}

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forward(self):
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "SPDY/3.1")
        self.send_header("X-Stream-Protocol-Version", "portforward.k8s.io")
        self.end_headers()
        self.close_connection = True
        try:
            Forward(self.connection, self.rfile).run()
        except OSError:
            pass  # istioctl has what it wanted

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path.endswith("/portforward") and self.headers.get("Upgrade") == "SPDY/3.1":
            self.forward()
        elif path in self.paths:
            self.answer(200, self.paths[path])
        else:
            status = {"kind": "Status", "status": "Failure", "code": 404, "message": path}
            self.answer(404, status)

    do_POST = do_GET

    def log_message(self, format, *args):
        print(format % args, flush=True)


def main():
    Handler.paths = objects(sys.argv[2], sys.argv[3:])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
