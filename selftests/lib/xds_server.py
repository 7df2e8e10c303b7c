#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A control plane for tests: delta ADS over gRPC, driven by lines on standard input.

	xds_server.py [-c CERTIFICATE -k KEY] [-t BEARER-TOKEN] PORT

Commands, one a line:

	workload JSON     {"uid", "name", "ns", "ip", "node", "hbone", "services", "policies", …}
	service JSON      {"name", "ns", "hostname", "vip", "ports"}
	policy JSON       {"name", "ns", "scope", "action", "ports"}
	raw TYPE NAME HEX a resource with these bytes; TYPE is address or authorization
	remove TYPE NAME
	fill W S          W workloads and S services of a large mesh
	push              send what changed since the last push to every stream
	resend            send everything again
	message HEX       send these bytes as a response
	end CODE TEXT     end every stream with this status
	refuse on|off     end new streams at once (UNAVAILABLE)

On standard output: `ready`, `request TYPE initial=N nonce=… error=…` for what a client sends,
`sent TYPE RESOURCES BYTES`, `done COMMAND` once a command has been carried out.
"""

import argparse
import concurrent.futures
import hashlib
import ipaddress
import json
import queue
import sys
import threading

import grpc

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
URLS = {
    "address": "type.googleapis.com/istio.workload.Address",
    "authorization": "type.googleapis.com/istio.security.Authorization",
}


# ---- protobuf -------------------------------------------------------------------------------


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """A field: numbers as varints (0 is left out), texts, bytes and messages with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def text(number, value):
    return field(number, value) if value else b""


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def decode(data):
    """number -> list of values of a message without fixed-size fields"""
    fields = {}
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if tag & 7 == 2:
            value, at = data[at : at + value], at + value
        fields.setdefault(tag >> 3, []).append(value)
    return fields


# ---- resources ------------------------------------------------------------------------------


def port(service, target):
    return field(1, service) + field(2, target)


def workload(w):
    """The fields of istio.workload.Workload that tests need, wrapped as an Address."""
    out = text(20, w["uid"]) + text(1, w.get("name")) + text(2, w.get("ns", "default"))
    for ip in w.get("ips", [w["ip"]] if "ip" in w else []):
        out += field(3, ipaddress.ip_address(ip).packed)
    out += field(5, 1 if w.get("hbone", True) else 0)
    out += text(7, w.get("sa")) + text(9, w.get("node"))
    out += text(10, w.get("canonical")) + text(13, w.get("workload"))
    out += field(12, w.get("type", 0)) + field(17, w.get("status", 0))
    out += text(18, w.get("cluster", "Kubernetes"))
    for name in w.get("policies", []):
        out += field(16, name)
    for name, ports in w.get("services", {}).items():
        listed = b"".join(field(1, port(int(s), t)) for s, t in ports.items())
        out += field(22, field(1, name) + field(2, listed))
    return field(1, out)


def service(s):
    out = text(1, s["name"]) + text(2, s.get("ns", "default")) + text(3, s["hostname"])
    for vip in s.get("vips", [s["vip"]] if "vip" in s else []):
        out += field(4, field(2, ipaddress.ip_address(vip).packed))
    for listed, target in s.get("ports", {}).items():
        out += field(5, port(int(listed), target))
    return field(2, out + field(11, 1))


def policy(p):
    """One rule: everything, or the ports that it names."""
    out = text(1, p["name"]) + text(2, p.get("ns", "default"))
    out += field(3, {"global": 0, "namespace": 1, "selector": 2}[p.get("scope", "namespace")])
    out += field(4, {"allow": 0, "deny": 1}[p.get("action", "deny")])
    ports = b"".join(varint(one) for one in p.get("ports", []))
    match = field(9, ports) if ports else b""
    return out + field(5, field(1, field(2, match)) if match else b"")


def large_mesh(workloads, services):
    """As a mesh of istiod's: deployments of ten pods, a service each."""
    per = max(1, workloads // max(1, services))
    for i in range(services):
        host = f"service-{i}.namespace-{i % 100}.svc.cluster.local"
        vip = str(ipaddress.ip_address(0x0A600000 + i))
        yield f"namespace-{i % 100}/{host}", service(
            {"name": f"service-{i}", "ns": f"namespace-{i % 100}", "hostname": host,
             "vip": vip, "ports": {"80": 8080, "443": 8443}})
    for i in range(workloads):
        owner = i // per % max(1, services)
        ns = f"namespace-{owner % 100}"
        suffix = hashlib.md5(str(i).encode()).hexdigest()
        name = f"deployment-{owner}-{suffix[:10]}-{suffix[10:15]}"
        host = f"service-{owner}.{ns}.svc.cluster.local"
        yield f"Kubernetes//Pod/{ns}/{name}", workload(
            {"uid": f"Kubernetes//Pod/{ns}/{name}", "name": name, "ns": ns,
             "ip": str(ipaddress.ip_address(0x0B000000 + i)), "sa": f"account-{owner}",
             "node": f"node-{i % 500}", "canonical": f"deployment-{owner}",
             "workload": f"deployment-{owner}",
             "services": {f"{ns}/{host}": {"80": 8080, "443": 8443}}})


class State:
    """Resources by type and name, and the streams that are told of changes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.resources = {kind: {} for kind in URLS}
        self.changed = {kind: {} for kind in URLS}  # name -> True = there, False = removed
        self.streams = []
        self.refusing = False
        self.nonce = 0

    def set(self, kind, name, data):
        version = hashlib.sha256(data).hexdigest()[:16].lstrip("0")
        entry = field(1, version) + field(2, field(1, URLS[kind]) + field(2, data))
        self.resources[kind][name] = (version, field(2, entry + field(3, name)))
        self.changed[kind][name] = True

    def remove(self, kind, name):
        self.resources[kind].pop(name, None)
        self.changed[kind][name] = False

    def response(self, kind, names, removed):
        self.nonce += 1
        parts = [self.resources[kind][name][1] for name in names]
        parts += [field(4, URLS[kind]), field(5, f"nonce-{self.nonce}")]
        parts += [field(6, name) for name in removed]
        data = b"".join(parts)
        print(f"sent {kind} {len(names)} {len(data)}", flush=True)
        return data


class Stream:
    def __init__(self, state, context):
        self.state = state
        self.context = context
        self.queue = queue.Queue()
        self.types = set()

    def on_request(self, data):
        fields = decode(data)
        url = fields.get(2, [b""])[0].decode()
        kind = next((k for k, u in URLS.items() if u == url), None)
        nonce = fields.get(6, [b""])[0].decode()
        error = decode(fields[7][0])[2][0].decode() if 7 in fields else ""
        entries = [decode(entry) for entry in fields.get(5, [])]
        initial = {e[1][0].decode(): e[2][0].decode() for e in entries}
        if 1 in fields:
            print(f"node {decode(fields[1][0])[1][0].decode()}", flush=True)
        print(f"request {kind} initial={len(initial)} nonce={nonce} error={error}", flush=True)
        if kind and kind not in self.types:
            self.types.add(kind)
            with self.state.lock:
                held = self.state.resources[kind]
                names = [n for n, (version, _) in held.items() if initial.get(n) != version]
                removed = [n for n in initial if n not in held]
                self.queue.put(self.state.response(kind, names, removed))

    def read(self, requests):
        try:
            for data in requests:
                self.on_request(data)
        except Exception as error:  # the stream has ended
            print(f"stream ended: {type(error).__name__}", flush=True)
        self.queue.put(None)


class Handler(grpc.GenericRpcHandler):
    def __init__(self, state, token):
        self.state = state
        self.token = token

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self.run)

    def run(self, requests, context):
        sent = dict(context.invocation_metadata()).get("authorization")
        if self.token and sent != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        if self.state.refusing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "caches are not ready")
        stream = Stream(self.state, context)
        with self.state.lock:
            self.state.streams.append(stream)
        threading.Thread(target=stream.read, args=(requests,), daemon=True).start()
        try:
            while (item := stream.queue.get()) is not None:
                if isinstance(item, tuple):
                    context.abort(*item)
                yield item
        finally:
            with self.state.lock:
                self.state.streams.remove(stream)


# ---- commands -------------------------------------------------------------------------------


class Commands:
    def __init__(self, state):
        self.state = state

    def workload(self, rest):
        w = json.loads(rest)
        self.state.set("address", w["uid"], workload(w))

    def service(self, rest):
        s = json.loads(rest)
        self.state.set("address", f"{s.get('ns', 'default')}/{s['hostname']}", service(s))

    def policy(self, rest):
        p = json.loads(rest)
        self.state.set("authorization", f"{p.get('ns', 'default')}/{p['name']}", policy(p))

    def raw(self, rest):
        kind, name, data = (rest + " ").split(" ", 2)
        self.state.set(kind, name, bytes.fromhex(data))

    def remove(self, rest):
        self.state.remove(*rest.split(" ", 1))

    def fill(self, rest):
        for name, data in large_mesh(*map(int, rest.split())):
            self.state.set("address", name, data)

    def push(self, _rest):
        for kind in URLS:
            changed, self.state.changed[kind] = self.state.changed[kind], {}
            names = [n for n, there in changed.items() if there]
            removed = [n for n, there in changed.items() if not there]
            if names or removed:
                self.tell(kind, self.state.response(kind, names, removed))

    def resend(self, _rest):
        for kind in URLS:
            self.tell(kind, self.state.response(kind, list(self.state.resources[kind]), []))

    def message(self, rest):
        self.tell(None, bytes.fromhex(rest))

    def end(self, rest):
        code, what = rest.split(" ", 1)
        self.tell(None, (grpc.StatusCode[code], what))

    def refuse(self, rest):
        self.state.refusing = rest == "on"

    def tell(self, kind, item):
        for stream in self.state.streams:
            if kind is None or kind in stream.types:
                stream.queue.put(item)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--certificate")
    parser.add_argument("-k", "--key")
    parser.add_argument("-t", "--token")
    parser.add_argument("-a", "--address", default="127.0.0.1")
    parser.add_argument("port")
    args = parser.parse_args()
    state = State()
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=8)
    server = grpc.server(pool, handlers=[Handler(state, args.token)], options=options)
    where = f"{args.address}:{args.port}"
    if args.certificate:
        with open(args.key, "rb") as key, open(args.certificate, "rb") as certificate:
            pair = (key.read(), certificate.read())
        server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(where)
    server.start()
    print("ready", flush=True)
    commands = Commands(state)
    for line in sys.stdin:
        name, _, rest = line.strip().partition(" ")
        with state.lock:
            getattr(commands, name)(rest)
        print(f"done {name}", flush=True)
    server.stop(0)


if __name__ == "__main__":
    main()
