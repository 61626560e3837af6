"""A Kubernetes control plane of our own on 127.0.0.1: etcd, API server, the controllers that Deployments need, scheduler,
and kwok in place of nodes. All of it lies in one folder and ends with this process."""

import http.client
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from processes import Process, free_port

HERE = pathlib.Path(__file__).resolve().parent
# The operator's name is that of a pod's ServiceAccount: the API server gives it the same share as in a cluster.
OPERATOR = "system:serviceaccount:millrace-system:millrace-operator"
USERS = {"admin": "admin", "controllers": "system:kube-controller-manager", "scheduler": "system:kube-scheduler",
         "kwok": "kwok", "operator": OPERATOR}
CONTROLLERS = "deployment-controller,replicaset-controller,garbage-collector-controller,disruption-controller"
# What the operator asks for is written down, once it is answered, and nothing else.
AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
         "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}]}
AT_ONCE = 8


class Api:
    """Calls as the administrator, on connections that stay: one a thread."""

    def __init__(self, port):
        self._port, self._local = port, threading.local()
        self._trust = ssl._create_unverified_context()  # its certificate was made a moment ago, on this machine

    def call(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": "Bearer admin", "Content-Type": kind}
        text = json.dumps(body) if body is not None else None
        for last in (False, True):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._trust, timeout=60)
                self._local.connection = connection
            try:
                connection.request(method, path, text, headers)
                answer = connection.getresponse()
                content = answer.read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                if last:
                    raise
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300].decode(errors='replace')}")
        return content

    def get(self, path):
        return json.loads(self.call("GET", path))

    def create_all(self, path, objects, tell):
        """Several at a time; `tell` gets how many there are by now."""
        done, lock = 0, threading.Lock()

        def create(item):
            nonlocal done
            self.call("POST", path(item), item)
            with lock:
                done += 1
                tell(done)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(create, objects))

    def answers(self):
        try:
            return self.call("GET", "/readyz") == b"ok"
        except (OSError, RuntimeError, http.client.HTTPException):
            return False


class Plane:
    """The control plane; `folder` holds its data, keys and logs."""

    def __init__(self, folder, programs, say):
        self.folder, self.programs, self._running = folder, pathlib.Path(programs), []
        self.audit = folder / "audit.log"
        say("starting a control plane: etcd, API server, controllers, scheduler, kwok")
        store = self._etcd()
        self.api = self._api_server(store)
        self._start("kube-controller-manager", f"--kubeconfig={self.kubeconfig('controllers')}", f"--controllers={CONTROLLERS}",
                    "--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=2000",
                    "--concurrent-deployment-syncs=10", "--concurrent-replicaset-syncs=10")
        self._start("kube-scheduler", f"--kubeconfig={self.kubeconfig('scheduler')}", "--leader-elect=false", "--secure-port=0",
                    "--kube-api-qps=1000", "--kube-api-burst=2000")
        self._start("kwok", f"--kubeconfig={self.kubeconfig('kwok')}", f"--config={HERE / 'kwok.yaml'}",
                    "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-lease-duration-seconds=0")

    def _start(self, program, *options, name=None):
        path = self.programs / program
        if not path.exists():
            sys.exit(f"{path} is not there: run `make bench NAME=operator-scale`, which builds it")
        process = Process(name or program, [str(path), *options], self.folder / f"{program}.log",
                          # kwok and others look for settings of the user
                          {"PATH": os.environ["PATH"], "HOME": str(self.folder)})
        self._running.append(process)
        return process

    def _etcd(self):
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        # Its data is thrown away: nothing has to survive a power cut, and no disk is measured here.
        self._start("etcd", f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
                    "--unsafe-no-fsync", "--quota-backend-bytes=8589934592", "--log-level=warn")
        return client

    def _api_server(self, store):
        self.port, key = free_port(), self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        tokens = "".join(f"{token},{user},{token},system:masters\n" if token != "operator" else
                         f'{token},{user},{token},"system:masters,system:serviceaccounts"\n' for token, user in USERS.items())
        (self.folder / "tokens.csv").write_text(tokens, encoding="ascii")
        (self.folder / "audit.json").write_text(json.dumps(AUDIT), encoding="ascii")
        server = self._start(
            "kube-apiserver", f"--etcd-servers={store}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}", f"--cert-dir={self.folder / 'certificates'}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}", "--endpoint-reconciler-type=none",
            # its taint is taken off by a controller that would also look for the nodes' leases
            "--disable-admission-plugins=TaintNodesByCondition",
            f"--audit-policy-file={self.folder / 'audit.json'}", f"--audit-log-path={self.audit}", "--audit-log-maxsize=4000")
        api = Api(self.port)
        server.await_("ready", api.answers)
        return api

    def kubeconfig(self, token):
        """For one of USERS."""
        path = self.folder / f"{token}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": token, "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": token}}],
        }), encoding="ascii")
        return path

    def ensure_running(self):
        for process in self._running:
            process.ensure_running()

    def stop(self):
        for process in reversed(self._running):
            process.stop()

    def requests(self, since, until):
        """What the operator asked the API server for between two times (seconds since 1970): {"verb resource": calls}."""
        counts = {}
        stamp = lambda at: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
        since, until = stamp(since), stamp(until)
        with open(self.audit, encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                if not since <= entry["stageTimestamp"] < until:
                    continue
                of = entry.get("objectRef", {})
                resource = "/".join(filter(None, [of.get("resource", entry["requestURI"]), of.get("subresource")]))
                key = f"{entry['verb']} {resource}"
                if (code := entry.get("responseStatus", {}).get("code", 200)) >= 400:
                    key += f" ({code})"
                counts[key] = counts.get(key, 0) + 1
        return counts
