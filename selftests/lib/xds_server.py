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
	mesh W S G        such a mesh and nothing else; generations G differ in every workload and service
	push              send what changed since the last push to every stream
	resend            send everything again
	message HEX       send these bytes as a response
	end CODE TEXT     end every stream with this status
	refuse on|off     end new streams at once (UNAVAILABLE)

A client that subscribes to nothing gets what it subscribes to later, as istiod does it on demand:
names, or `/ADDRESS`, each answered once with what is there under its own name (the address is an
alias then, a service comes with its workloads) or as removed; workloads of its node unasked. A later
request that only gives names back is answered with the removal of all that it had, as by istiod.

On standard output: `ready`, `subscribe NAME`, `unsubscribe NAME`, `unanswered NAME` (subscribed to
already), `request TYPE initial=N at=SECONDS nonce=… error=…` for what a client sends,
`sent TYPE RESOURCES BYTES at=SECONDS` when a response is handed to gRPC, `done COMMAND` once a command has been carried out.
"""

import argparse
import concurrent.futures
import hashlib
import ipaddress
import json
import queue
import sys
import threading
import time

import grpc

sys.dont_write_bytecode = True
from wire import decode, field, varint  # noqa: E402

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
URLS = {
    "address": "type.googleapis.com/istio.workload.Address",
    "authorization": "type.googleapis.com/istio.security.Authorization",
}


def text(number, value):
    return field(number, value) if value else b""


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


def monotonic():
    return f"at={time.monotonic():.4f}"


def large_mesh(workloads, services, generation=0):
    """As a mesh of istiod's: deployments of ten pods, a service each. Another generation: everything
    was rolled out anew, in place."""
    shift = generation * 7
    per = max(1, workloads // max(1, services))
    for i in range(services):
        host = f"service-{i}.namespace-{i % 100}.svc.cluster.local"
        vip = str(ipaddress.ip_address(0x0A600000 + i))
        yield f"namespace-{i % 100}/{host}", service(
            {"name": f"service-{i}", "ns": f"namespace-{i % 100}", "hostname": host,
             "vip": vip, "ports": {"80": 8080 + shift, "443": 8443}})
    for i in range(workloads):
        owner = i // per % max(1, services)
        ns = f"namespace-{owner % 100}"
        suffix = hashlib.md5(str(i).encode()).hexdigest()
        name = f"deployment-{owner}-{suffix[:10]}-{suffix[10:15]}"
        host = f"service-{owner}.{ns}.svc.cluster.local"
        yield f"Kubernetes//Pod/{ns}/{name}", workload(
            {"uid": f"Kubernetes//Pod/{ns}/{name}", "name": name, "ns": ns,
             "ip": str(ipaddress.ip_address(0x0B000000 + i)), "sa": f"account-{owner}",
             "node": f"node-{(i + shift) % 500}", "canonical": f"deployment-{owner}",
             "workload": f"deployment-{owner}",
             "services": {f"{ns}/{host}": {"80": 8080 + shift, "443": 8443}}})


class State:
    """Resources by type and name, and the streams that are told of changes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.resources = {kind: {} for kind in URLS}
        self.changed = {kind: {} for kind in URLS}  # name -> True = there, False = removed
        self.streams = []
        self.given, self.aliases, self.aliased = {}, {}, {}  # of addresses, for lookup
        self.refusing = False
        self.nonce = 0
        self.meshes = {}

    @staticmethod
    def encode(kind, data):
        version = hashlib.sha256(data).hexdigest()[:16].lstrip("0")
        return version, field(1, version) + field(2, field(1, URLS[kind]) + field(2, data))

    def mesh(self, *size):
        """All addresses are those of a large mesh; encoded once."""
        if size not in self.meshes:
            self.meshes[size] = {}
            for name, data in large_mesh(*size):
                version, entry = self.encode("address", data)
                self.meshes[size][name] = (version, field(2, entry + field(3, name)))
        for name in self.resources["address"]:
            self.changed["address"][name] = False
        self.resources["address"] = dict(self.meshes[size])
        for name in self.meshes[size]:
            self.changed["address"][name] = True

    def set(self, kind, name, data, given=None):
        """given: the JSON of an address"""
        version, entry = self.encode(kind, data)
        self.resources[kind][name] = (version, field(2, entry + field(3, name)))
        self.changed[kind][name] = True
        if given:
            self.given[name] = given
            ips = [given[k] for k in ("ip", "vip") if k in given]
            self.aliases[name] = ["/" + ip for ip in ips]
            named = b"".join(field(4, alias) for alias in self.aliases[name])
            self.aliased[name] = field(2, entry + field(3, name) + named)

    def remove(self, kind, name):
        self.resources[kind].pop(name, None)
        self.changed[kind][name] = False
        self.aliases.pop(name, None)

    def lookup(self, key):
        """Names of the addresses that an on-demand key leads to"""
        held = self.resources["address"]
        found = [key] if key in held else [n for n, a in self.aliases.items() if key in a]
        for name in list(found):
            found += [n for n in held if name in self.given.get(n, {}).get("services", {})]
        return found

    def on_node(self, node):
        held = self.resources["address"]
        return [n for n in held if node and self.given.get(n, {}).get("node") == node]

    def response(self, kind, names, removed, on_demand=False):
        self.nonce += 1
        parts = [
            self.aliased[name] if on_demand else self.resources[kind][name][1] for name in names
        ]
        parts += [field(4, URLS[kind]), field(5, f"nonce-{self.nonce}")]
        parts += [field(6, name) for name in removed]
        data = b"".join(parts)
        print(f"sent {kind} {len(names)} {len(data)} {monotonic()}", flush=True)
        return data


class Stream:
    def __init__(self, state, context):
        self.state = state
        self.context = context
        self.queue = queue.Queue()
        self.types = set()
        self.names = None  # subscribed to on demand; None = to everything
        self.node = ""

    def on_demand(self, subscribe, unsubscribe):
        for name in unsubscribe:
            print(f"unsubscribe {name}", flush=True)
            self.names.discard(name)
        fresh = [name for name in subscribe if name not in self.names]
        for name in subscribe:
            print(f"{'subscribe' if name in fresh else 'unanswered'} {name}", flush=True)
        if not fresh and not unsubscribe:
            return
        found = {key: self.state.lookup(key) for key in fresh}
        removed = [key for key, names in found.items() if not names] if subscribe else self.names
        self.names.update(fresh, *found.values())
        names = list(dict.fromkeys(n for names in found.values() for n in names))
        self.queue.put(self.state.response("address", names, removed, True))

    def on_request(self, data):
        fields = decode(data)
        url = fields.get(2, [b""])[0].decode()
        kind = next((k for k, u in URLS.items() if u == url), None)
        nonce = fields.get(6, [b""])[0].decode()
        error = decode(fields[7][0])[2][0].decode() if 7 in fields else ""
        entries = [decode(entry) for entry in fields.get(5, [])]
        initial = {e[1][0].decode(): e[2][0].decode() for e in entries}
        if 1 in fields:
            self.read_node(decode(fields[1][0]))
        print(f"request {kind} initial={len(initial)} {monotonic()} nonce={nonce} error={error}",
              flush=True)
        subscribe = [name.decode() for name in fields.get(3, [])]
        unsubscribe = [name.decode() for name in fields.get(4, [])]
        with self.state.lock:
            if kind and kind not in self.types:
                self.types.add(kind)
                self.first(kind, initial, "*" in subscribe and "*" in unsubscribe)
            elif subscribe or unsubscribe:
                self.on_demand(subscribe, unsubscribe)

    def read_node(self, node):
        print(f"node {node[1][0].decode()}", flush=True)
        for entry in decode(node[3][0]).get(1, []):
            fields = decode(entry)
            if fields[1][0] == b"NODE_NAME":
                self.node = decode(fields[2][0])[3][0].decode()

    def first(self, kind, initial, on_demand):
        held = self.state.resources[kind]
        wanted = held
        if on_demand:
            local = self.state.on_node(self.node)
            self.names = set(initial) | set(local)
            wanted = [n for n in held if n in self.names]
        names = [n for n in wanted if initial.get(n) != held[n][0]]
        removed = [n for n in initial if n not in held]
        self.queue.put(self.state.response(kind, names, removed, on_demand))


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
        self.state.set("address", w["uid"], workload(w), w)

    def service(self, rest):
        s = json.loads(rest)
        self.state.set("address", f"{s.get('ns', 'default')}/{s['hostname']}", service(s), s)

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

    def mesh(self, rest):
        self.state.mesh(*map(int, rest.split()))

    def push(self, _rest):
        for kind in URLS:
            changed, self.state.changed[kind] = self.state.changed[kind], {}
            for stream in self.state.streams:
                self.push_to(stream, kind, changed)

    def push_to(self, stream, kind, changed):
        on_demand = kind == "address" and stream.names is not None
        if on_demand:
            stream.names.update(self.state.on_node(stream.node))
            changed = {n: there for n, there in changed.items() if n in stream.names}
        names = [n for n, there in changed.items() if there]
        removed = [n for n, there in changed.items() if not there]
        if kind in stream.types and (names or removed):
            stream.queue.put(self.state.response(kind, names, removed, on_demand))

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
    parser.add_argument("-s", "--state", help="a file of commands, carried out before anybody is served")
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
    commands = Commands(state)

    def carry_out(line):
        name, _, rest = line.strip().partition(" ")
        with state.lock:
            getattr(commands, name)(rest)
        print(f"done {name}", flush=True)

    if args.state:
        with open(args.state) as lines:
            for line in lines:
                carry_out(line)
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        carry_out(line)
    server.stop(0)


if __name__ == "__main__":
    main()
