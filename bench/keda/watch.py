"""What happens to one Deployment and its pods, with the times at which this machine heard of it: `kubectl get --watch`,
read as it comes, so that no value in between is missed."""

import json
import subprocess
import threading
import time


class Watch:
    """From its making until `stop`."""

    def __init__(self, namespace, name):
        self.replicas = []  # (time, count) of spec.replicas, each different from the one before
        self.ready = []  # the same of status.readyReplicas
        self.pods = {}  # by uid: the times of being made and of being gone, None while it is there
        self.broken = None
        self._lock = threading.Lock()
        self._watches = []
        self._follow(["deployments", "--namespace", namespace, "--field-selector", f"metadata.name={name}"], self._deployment)
        # one namespace holds one side's pods at a time
        self._follow(["pods", "--namespace", namespace], self._pod)

    def _follow(self, what, take):
        command = ["kubectl", "get", *what, "--watch", "--output-watch-events", "--output=json"]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._watches.append(watch)

        def read():
            for line in watch.stdout:  # an event each
                now, event = time.monotonic(), json.loads(line)
                with self._lock:
                    take(now, event["type"], event["object"])
            with self._lock:
                self.broken = self.broken or f"{' '.join(command)} ended: {watch.stderr.read().strip()}"

        threading.Thread(target=read, daemon=True).start()

    def _deployment(self, now, _kind, deployment):
        for series, value in ((self.replicas, deployment["spec"].get("replicas", 1)),
                              (self.ready, deployment.get("status", {}).get("readyReplicas", 0))):
            if not series or series[-1][1] != value:
                series.append((now, value))

    def _pod(self, now, kind, pod):
        seen = self.pods.setdefault(pod["metadata"]["uid"], [now, None])
        if kind == "DELETED":
            seen[1] = now

    def look(self):
        """The Deployment's count, its ready replicas (None before it is there), and how many pods there are."""
        with self._lock:
            if self.broken:
                raise RuntimeError(self.broken)
            last = [series[-1][1] if series else None for series in (self.replicas, self.ready)]
            return (*last, sum(1 for _, gone in self.pods.values() if gone is None))

    def stop(self):
        """Ends it."""
        for watch in self._watches:
            watch.terminate()
            watch.wait()
