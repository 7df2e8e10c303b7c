# SPDX-License-Identifier: Apache-2.0
"""podlet.py: stands in kubelet's place on a node that is a network namespace.

For every pod that is bound to the node (host-network pods excepted) it makes a network namespace, runs
the CNI chain (cnitool) in it, starts the containers' commands there, tells the API server the pod's
addresses and whether its readiness probe (tcpSocket alone) answers, and takes all of it down again when
the pod is deleted. Images, volumes and resources mean nothing to it: a command is a program of this
machine. What fails is tried again, as kubelet does.
"""
import argparse
import contextlib
import datetime
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

RETRY_S = 0.5
POLL_S = 0.2
CNI_AT_ONCE = 4

# cnitool keeps what the chain answered in /var/lib/cni, and takes no other directory.
OWN_VAR_LIB = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /var/lib && exec "$@"')

# Runs in the pod's network namespace; gives the command a resolv.conf and a cgroup of its pod's own.
ENTER = """
echo $$ >"$1/cgroup.procs" || exit
mount --bind "$2" /etc/resolv.conf || exit
shift 2
exec "$@"
"""


def log(text):
    print(f"{datetime.datetime.now():%H:%M:%S.%f} {text}", flush=True)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """The API server, one connection a thread."""

    def __init__(self, args):
        self.host, self.port = args.server.rsplit(":", 1)
        self.context = ssl.create_default_context(cafile=args.ca)
        self.context.load_cert_chain(args.cert, args.key)
        self.local = threading.local()

    def connect(self, timeout=10):
        return http.client.HTTPSConnection(self.host, int(self.port), timeout=timeout,
                                           context=self.context)

    def call(self, method, path, body=None, content_type="application/json"):
        """Returns (status, object); raises OSError or HTTPException when the server is away."""
        conn = getattr(self.local, "conn", None) or self.connect()
        self.local.conn = None
        conn.request(method, path, json.dumps(body) if body is not None else None,
                     {"Content-Type": content_type})
        answer = conn.getresponse()
        data = answer.read()
        self.local.conn = conn
        return answer.status, json.loads(data) if data else None

    def insist(self, method, path, body=None, content_type="application/json"):
        """The same, again and again until the server has answered with less than 500."""
        while True:
            try:
                status, answer = self.call(method, path, body, content_type)
                if status < 500 and status != 429:
                    return status, answer
            except (OSError, http.client.HTTPException) as error:
                log(f"{method} {path}: {error}")
            time.sleep(RETRY_S)

    def watch(self, path, version):
        conn = self.connect(timeout=300)
        conn.request("GET", f"{path}&watch=1&allowWatchBookmarks=true&resourceVersion={version}")
        answer = conn.getresponse()
        if answer.status != 200:
            raise OSError(f"watch: {answer.status}")
        for line in answer:
            yield json.loads(line)


class Container:
    """A process of a pod."""

    def __init__(self, pod, spec):
        self.pod, self.spec = pod, spec
        self.restarts = 0
        self.process = None

    def start(self):
        command = self.spec.get("command", []) + self.spec.get("args", [])
        if not command:
            command = ["sleep", "infinity"]
        env = dict(os.environ)
        for var in self.spec.get("env", []):
            env[var["name"]] = var.get("value", "")
        self.process = self.pod.start(command, env, f"{self.pod.log_base}.{self.spec['name']}.log")
        self.started = now()

    def running(self):
        return self.process.poll() is None

    def status(self, ready):
        state = {"running": {"startedAt": self.started}}
        if not self.running():
            state = {"terminated": {"exitCode": abs(self.process.returncode)}}
        return {"name": self.spec["name"], "image": self.spec["image"], "imageID": "",
                "ready": ready and self.running(), "started": self.running(),
                "restartCount": self.restarts, "state": state}

    def stop(self, seconds):
        """SIGTERM, after the sleep that a preStop hook asks for, then SIGKILL."""
        hook = self.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        end = time.monotonic() + seconds
        time.sleep(min(hook, seconds))
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, end - time.monotonic()))
        self.process.kill()
        self.process.wait()


class Pod:
    """One pod, in a thread of its own from its creation to its end."""

    def __init__(self, node, obj):
        meta = obj["metadata"]
        self.node, self.obj = node, obj
        self.namespace, self.name, self.uid = meta["namespace"], meta["name"], meta["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.netns = f"{node.args.prefix}-{self.namespace}-{self.name}"
        self.log_base = os.path.join(node.args.state, "logs", f"{self.namespace}-{self.name}")
        self.cgroup = os.path.join(node.args.cgroup, f"pod{self.uid}", "c0")
        self.resolv = os.path.join(node.args.state, f"resolv.{self.namespace}")
        self.containers = [Container(self, c) for c in obj["spec"]["containers"]]
        self.deleted = threading.Event()
        self.grace_s = 0
        self.addresses = []
        self.reported = None
        threading.Thread(target=self.run, daemon=True).start()

    def delete(self, grace_s):
        self.grace_s = grace_s
        self.deleted.set()

    def run(self):
        try:
            self.set_up()
            for container in self.containers if not self.deleted.is_set() else []:
                container.start()
            while not self.deleted.wait(POLL_S):
                self.tend()
        finally:
            self.take_down()
            self.node.forget(self)

    def set_up(self):
        os.makedirs(self.cgroup, exist_ok=True)
        with open(self.resolv, "w") as f:
            f.write(f"nameserver {self.node.args.dns}\nsearch {self.namespace}.svc.cluster.local "
                    "svc.cluster.local cluster.local\noptions ndots:5\n")
        while not self.deleted.is_set():
            try:
                self.make_network()
                return
            except subprocess.CalledProcessError as error:
                said = (error.stderr or error.stdout).splitlines() or [f"status {error.returncode}"]
                log(f"{self.namespace}/{self.name}: {said[0]}")
                self.remove_network()
                self.deleted.wait(RETRY_S)

    def make_network(self):
        run("ip", "netns", "add", self.netns)
        run("nsenter", f"--net=/run/netns/{self.netns}", "sh", "-c",
            "ip link set lo up && echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
        result = json.loads(self.cni("add"))
        self.addresses = [ip["address"].split("/")[0] for ip in result["ips"]]

    def cni(self, command):
        args = (f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name};"
                f"K8S_POD_INFRA_CONTAINER_ID={self.uid};K8S_POD_UID={self.uid}")
        with self.node.cni_slots:
            return run(*OWN_VAR_LIB, os.path.join(self.node.args.state, "cni/lib"),
                       self.node.args.cnitool, command, self.node.args.network,
                       f"/var/run/netns/{self.netns}", env=dict(os.environ, CNI_ARGS=args))

    def remove_network(self):
        if os.path.exists(f"/run/netns/{self.netns}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.cni("del")
            subprocess.run(["ip", "netns", "del", self.netns], check=False)

    def start(self, command, env, log_path):
        with open(log_path, "ab") as output:
            return subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.netns}", "unshare", "-m", "sh", "-c", ENTER,
                 "sh", self.cgroup, self.resolv, *command],
                env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True)

    def tend(self):
        """Restart what ended, and report what changed."""
        again = self.obj["spec"].get("restartPolicy", "Always") == "Always"
        for container in self.containers:
            if not container.running() and again:
                container.restarts += 1
                container.start()
        ready = all(c.running() and self.probe(c.spec) for c in self.containers)
        report = (ready, tuple((c.running(), c.restarts) for c in self.containers))
        if report != self.reported:
            self.report(ready)
            self.reported = report

    def probe(self, spec):
        """The node's own connection to the application, as a kubelet makes it."""
        port = spec.get("readinessProbe", {}).get("tcpSocket", {}).get("port")
        if port is None:
            return True
        try:
            socket.create_connection((self.addresses[0], port), timeout=1).close()
            return True
        except OSError:
            return False

    def report(self, ready):
        phase = "Running"
        if not any(c.running() for c in self.containers):
            good = all(c.process.returncode == 0 for c in self.containers)
            phase = "Succeeded" if good else "Failed"
        value = "True" if ready else "False"
        conditions = [{"type": t, "status": s, "lastTransitionTime": now()} for t, s in (
            ("PodScheduled", "True"), ("Initialized", "True"),
            ("ContainersReady", value), ("Ready", value))]
        status = {"phase": phase, "conditions": conditions, "startTime": now(),
                  "hostIP": self.node.args.address, "hostIPs": [{"ip": self.node.args.address}],
                  "podIP": self.addresses[0], "podIPs": [{"ip": a} for a in self.addresses],
                  "containerStatuses": [c.status(ready) for c in self.containers]}
        code, answer = self.node.api.insist("PATCH", f"{self.path}/status", {"status": status},
                                            "application/strategic-merge-patch+json")
        if code not in (200, 404):
            log(f"{self.namespace}/{self.name}: status: {answer.get('message')}")

    def take_down(self):
        stops = [threading.Thread(target=c.stop, args=(self.grace_s,))
                 for c in self.containers if c.process]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        self.kill_rest()
        self.remove_network()
        for directory in (self.cgroup, os.path.dirname(self.cgroup)):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        self.node.api.insist("DELETE", self.path, {
            "gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})

    def kill_rest(self):
        """What the containers left behind, and whoever else entered the pod's cgroup."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with open(os.path.join(self.cgroup, "cgroup.procs")) as f:
                pids = [int(pid) for pid in f.read().split()]
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


class Node:
    """The pods of this node, as the API server tells them."""

    def __init__(self, args):
        self.args = args
        self.api = Api(args)
        self.cni_slots = threading.Semaphore(CNI_AT_ONCE)
        self.pods = {}
        self.lock = threading.Lock()
        os.makedirs(os.path.join(args.state, "logs"), exist_ok=True)

    def forget(self, pod):
        with self.lock:
            del self.pods[pod.uid]

    def see(self, obj):
        meta = obj["metadata"]
        if obj["spec"].get("hostNetwork"):
            return
        with self.lock:
            pod = self.pods.get(meta["uid"])
            if not pod and obj["status"].get("phase") in ("Succeeded", "Failed"):
                return
            if not pod:
                pod = self.pods[meta["uid"]] = Pod(self, obj)
        if "deletionTimestamp" in meta:
            pod.delete(meta.get("deletionGracePeriodSeconds", 0))

    def gone(self, uid):
        with self.lock:
            pod = self.pods.get(uid)
        if pod:
            pod.delete(0)

    def follow(self):
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self.args.node}"
        status, answer = self.api.call("GET", path)
        if status != 200:
            raise OSError(f"list of pods: {status}")
        for obj in answer["items"]:
            self.see(obj)
        with self.lock:
            lost = set(self.pods) - {obj["metadata"]["uid"] for obj in answer["items"]}
        for uid in lost:
            self.gone(uid)
        log("ready")
        for event in self.api.watch(path, answer["metadata"]["resourceVersion"]):
            if event["type"] in ("ADDED", "MODIFIED"):
                self.see(event["object"])
            elif event["type"] == "DELETED":
                self.gone(event["object"]["metadata"]["uid"])
            elif event["type"] == "ERROR":
                raise OSError(event["object"].get("message"))


def run(*command, env=None):
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL).stdout


def main():
    parser = argparse.ArgumentParser(description=re.sub(r"\n.*", "", __doc__))
    for name, text in (
            ("node", "the node's name"), ("address", "its address"), ("server", "HOST:PORT of the API"),
            ("ca", "its CA"), ("cert", "our certificate"), ("key", "our key"),
            ("state", "directory for logs"), ("cnitool", "path"), ("network", "the CNI network's name"),
            ("cgroup", "directory for the pods' cgroups"), ("prefix", "of the namespaces' names"),
            ("dns", "the nameserver of the pods")):
        parser.add_argument(f"--{name}", required=True, help=text)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    node = Node(parser.parse_args())
    while True:
        try:
            node.follow()
        except (OSError, http.client.HTTPException, ValueError) as error:
            log(f"pods of the node: {error}")
        time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
