"""What the operator costs with many QueueConsumers: memory, CPU time, the length of its passes, calls of the API server and
of SQS. The control plane is real and runs here for the measurement alone; kwok plays nodes and pods, and `millrace-bench
stand-in` SQS and workers. docs/benchmarks.md says how to read it. Prints tables, and the result as one line of JSON."""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from plane import Plane
from processes import Process, die_with_parent, free_port, machine_busy

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STARTED = int(os.environ.get("MILLRACE_STARTED") or time.time())
PER_NAMESPACE = 100
PER_NODE = 20  # consumers for each node of 8 GPUs
BUSY_EVERY = 10  # of ten consumers one has work
MESSAGES = 5  # for one worker
LOOK = 5  # seconds between two looks at memory
SCRAPE = 30  # seconds between two reads of /metrics, as Prometheus does
RAMP_SCRAPE = 10  # seconds, while all consumers get their first workers
STUCK = 300  # seconds without any progress after which it is given up
SETTLE = 90  # seconds after that: first scale-downs, and what was queued up
BUCKET = re.compile(r'millrace_reconcile_seconds_bucket\{le="([^"]+)"[^}]*\} (\S+)')


def say(text):
    seconds = int(time.time()) - STARTED
    print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {text}", file=sys.stderr, flush=True)


def http_get(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return answer.read().decode()


def series(page, name):
    """The values of all series called `name`."""
    return [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith((name + "{", name + " "))]


class Stopped(SystemExit):
    """By a signal: there is nothing to look into."""


class StandIn:
    """SQS and the workers."""

    def __init__(self, binary, folder, arguments):
        self.port = free_port()
        command = [str(binary), "stand-in", f"--sqs-port={self.port}", f"--busy-every={BUSY_EVERY}",
                   f"--messages-per-replica={MESSAGES}", f"--step-seconds={arguments.step}"]
        self.process = Process("the stand-in", command, folder / "stand-in.log")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process.await_("ready", self._asked)

    def _asked(self):
        try:
            return [self.asked()]
        except OSError:
            return None

    def asked(self):
        return json.loads(http_get(self.endpoint + "/asked"))


class Operator:
    """The operator as a process, as it would be in a pod."""

    def __init__(self, binary, plane, folder):
        self.port = free_port()
        # nothing of this machine's settings
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(plane.kubeconfig("operator")),
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
            "POD_NAMESPACE": "millrace-system", "POD_NAME": "millrace-operator-0", "MILLRACE_LOG_FORMAT": "json",
        }
        command = [str(binary), "run", "--leader-election=false", f"--http-address=127.0.0.1:{self.port}"]
        self.started = time.monotonic()
        self.process = Process("the operator", command, folder / "operator.log", environment)
        self.process.await_("ready", self._ready)

    def _ready(self):
        try:
            return http_get(f"http://127.0.0.1:{self.port}/readyz").startswith("ok")
        except OSError:
            return False

    def metrics(self):
        return http_get(f"http://127.0.0.1:{self.port}/metrics")


def consumer(number, endpoint):
    return {
        "apiVersion": "millrace.dev/v1alpha1", "kind": "QueueConsumer",
        "metadata": {"name": f"consumer-{number}", "namespace": namespace(number)},
        "spec": {
            "queue": {"url": f"{endpoint}/000000000000/q-{number}", "region": "us-east-1", "endpoint": endpoint},
            "model": {"task": "TextToImage", "source": {"s3": {"uri": "s3://models/tiny-sdxl/", "region": "us-east-1"}},
                      "parameters": {"steps": 4, "width": 512, "height": 512}},
            "output": {"bucket": "images", "region": "us-east-1"},
            "worker": {
                "podAnnotations": {"bench.millrace.dev/address": f"{64 + number // 256}.{number % 256}"},
                "resources": {"requests": {"cpu": "2", "memory": "16Gi"}},
                "env": [{"name": "RUST_LOG", "value": "info"}],
            },
            "scaling": {"minReplicas": 0, "maxReplicas": 10, "target": {"messagesPerReplica": MESSAGES},
                        "scaleToZeroAfterSeconds": 120},
        },
    }


def namespace(number):
    return f"team-{number // PER_NAMESPACE:03d}"


def node(number):
    return {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": f"node-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"},
                         "labels": {"kubernetes.io/hostname": f"node-{number}", "node.kubernetes.io/instance-type": "g6.48xlarge"}}}


def prepare(plane, consumers):
    """Namespaces, the words of QueueConsumers, nodes."""
    spaces = ["millrace-system"] + sorted({namespace(n) for n in range(consumers)})
    plane.api.create_all(lambda _: "/api/v1/namespaces",
                         [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces], lambda _: None)
    kubectl = [str(plane.programs / "kubectl"), "--kubeconfig", str(plane.kubeconfig("admin"))]
    for what in (["apply", "--server-side", "--filename", str(ROOT / "crds")],
                 ["wait", "--for=condition=Established", "--filename", str(ROOT / "crds"), "--timeout=60s"]):
        answer = subprocess.run(kubectl + what, capture_output=True, text=True, check=False)
        if answer.returncode:
            sys.exit(f"kubectl {' '.join(what)}: {answer.stderr.strip()}")
    plane.api.create_all(lambda _: "/api/v1/nodes", [node(n) for n in range(max(1, consumers // PER_NODE))], lambda _: None)


class Watcher:
    """Looks at the operator's memory and metrics at their times."""

    def __init__(self, operator):
        self.operator, self.page = operator, operator.metrics()
        self._scraped = time.monotonic()

    def look(self, scrape=SCRAPE):
        """Resident and anonymous memory, in MiB."""
        self.operator.process.ensure_running()
        if time.monotonic() - self._scraped >= scrape:
            self._scraped, self.page = time.monotonic(), self.operator.metrics()
        return self.operator.process.memory("VmRSS"), self.operator.process.memory("RssAnon")

    def counts(self):
        """Consumers that have a decision, workers asked for, workers ready."""
        desired = series(self.page, "millrace_desired_replicas")
        return len(desired), int(sum(desired)), int(sum(series(self.page, "millrace_ready_replicas")))


def ramp(watcher, plane, consumers):
    """Until (nearly) every consumer has the workers that it asks for."""
    began, peak = time.monotonic(), 0.0
    progress = Progress(consumers)
    while True:
        resident, _ = watcher.look(RAMP_SCRAPE)
        peak = max(peak, resident)
        decided, desired, ready = watcher.counts()
        if decided >= consumers and desired and ready >= 0.95 * desired:
            return time.monotonic() - began, peak
        progress.tell(decided, desired, ready, resident)
        plane.ensure_running()
        time.sleep(LOOK)


class Progress:
    """Tells how far it is, and gives up where nothing moves."""

    def __init__(self, consumers):
        self._consumers, self._told, self._best, self._moved = consumers, time.monotonic(), None, time.monotonic()

    def tell(self, decided, desired, ready, resident):
        now, words = time.monotonic(), f"{decided} of {self._consumers} decided, {ready} of {desired} workers ready"
        if (decided, ready) != self._best:
            self._best, self._moved = (decided, ready), now
        if now - self._moved > STUCK:
            sys.exit(f"nothing has moved for {STUCK} s: {words}")
        if now - self._told > SCRAPE:
            self._told = now
            say(f"  {words}; operator {resident:.0f} MiB")


def buckets(page):
    return {float(bound): float(count) for bound, count in BUCKET.findall(page)}


def percentile(before, after, share):
    """Of the passes between two pages, in seconds, and the bucket that it lies in; within a bucket by interpolation."""
    counts = [(bound, after[bound] - before.get(bound, 0.0)) for bound in sorted(after)]
    if not counts or counts[-1][1] <= 0:
        return None, None
    wanted, low, below = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            inside = 0.0 if bound == float("inf") or count == below else (wanted - below) / (count - below)
            return (low if bound == float("inf") else low + (bound - low) * inside), (low, bound)
        low, below = bound, count
    return None, None


def steady(plane, operator, stand_in, watcher, seconds):
    """The window that is measured."""
    before, asked, cpu, others, busy = operator.metrics(), stand_in.asked(), operator.process.cpu(), stand_in.process.cpu(), machine_busy()
    began, clock = time.monotonic(), time.time()
    resident, anonymous = [], []
    while time.monotonic() - began < seconds:
        time.sleep(LOOK)
        for values, value in zip((resident, anonymous), watcher.look()):
            values.append(value)
        plane.ensure_running()
    after, length = operator.metrics(), time.monotonic() - began
    minutes = length / 60
    rate = lambda name: (sum(series(after, name)) - sum(series(before, name))) / minutes
    p50, _ = percentile(buckets(before), buckets(after), 0.5)
    p99, bucket = percentile(buckets(before), buckets(after), 0.99)
    requests = plane.requests(clock, clock + length)
    used, there = (after - before for after, before in zip(machine_busy(), busy))
    answered = {name: (count - asked.get(name, 0)) / minutes for name, count in stand_in.asked().items()}
    return {
        "seconds": length,
        "resident_mib": max(resident), "anonymous_mib": max(anonymous),
        "cpu_millicores": 1000 * (operator.process.cpu() - cpu) / length,
        "reconciles_per_minute": rate("millrace_reconcile_total"),
        "reconcile_p50_milliseconds": None if p50 is None else 1000 * p50,
        "reconcile_p99_milliseconds": None if p99 is None else 1000 * p99,
        "reconcile_p99_bucket_milliseconds": None if bucket is None else [1000 * b if b != float("inf") else None for b in bucket],
        "api_calls_per_minute": sum(requests.values()) / minutes,
        "api_calls": {name: round(count / minutes, 1) for name, count in sorted(requests.items(), key=lambda item: -item[1])},
        "sqs_calls_per_minute": sum(count for name, count in answered.items() if name.startswith("sqs ")),
        "worker_calls_per_minute": sum(count for name, count in answered.items() if name.startswith("worker ")),
        "scale_changes_per_minute": rate("millrace_scale_total"),
        "workers": watcher.counts()[1],
        "stand_in_cpu_percent": 100 * (stand_in.process.cpu() - others) / length,
        "machine_cpu_percent": 100 * used / there,
    }


def restart(binary, plane, folder, operator, consumers):
    """How long a new process takes until it works for all, what that costs, and the most memory that it has until then."""
    operator.process.stop()
    clock = time.time()
    operator = Operator(binary, plane, folder)
    ready, watcher, progress = time.monotonic() - operator.started, Watcher(operator), Progress(consumers)
    while (counts := watcher.counts())[0] < consumers:
        progress.tell(*counts, watcher.look(1)[0])
        time.sleep(1)
    requests = plane.requests(clock, time.time() + 1)
    return operator, {"ready_seconds": ready, "all_decided_seconds": time.monotonic() - operator.started,
                      "api_calls": dict(sorted(requests.items(), key=lambda item: -item[1])),
                      "peak_resident_mib": operator.process.memory("VmHWM")}


def measure(arguments, binaries, consumers):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millrace-scale-"))
    plane = stand_in = operator = None
    ended_well = False
    say(f"{consumers} consumers")
    try:
        plane = Plane(folder, arguments.programs, say)
        stand_in = StandIn(binaries / "millrace-bench", folder, arguments)
        prepare(plane, consumers)
        binary = arguments.operator or binaries / "millrace-operator"
        operator = Operator(binary, plane, folder)
        say(f"the operator runs, pid {operator.process.pid}; its log: {operator.process.log}")
        time.sleep(10)
        watcher = Watcher(operator)
        empty = watcher.look()
        say(f"without a consumer {empty[0]:.1f} MiB, {empty[1]:.1f} of them its own; creating {consumers}")

        def tell(done):
            if done % 1000 == 0:
                say(f"  {done} created")

        began = time.monotonic()
        plane.api.create_all(lambda item: f"/apis/millrace.dev/v1alpha1/namespaces/{item['metadata']['namespace']}/queueconsumers",
                             (consumer(n, stand_in.endpoint) for n in range(consumers)), tell)
        created = time.monotonic() - began
        ramped, peak = ramp(watcher, plane, consumers)
        say(f"all have their workers {created + ramped:.0f} s after the first was created; settling for {SETTLE} s")
        settled = time.monotonic() + SETTLE
        while time.monotonic() < settled:
            time.sleep(LOOK)
            peak = max(peak, watcher.look()[0])
        say(f"measuring for {arguments.seconds} s: {watcher.counts()[1]} workers, operator {watcher.look()[0]:.0f} MiB")
        result = steady(plane, operator, stand_in, watcher, arguments.seconds)
        result["empty_resident_mib"], result["empty_anonymous_mib"] = empty
        thousands = consumers / 1000
        result["resident_mib_per_1000"] = result["resident_mib"] / thousands
        result["added_mib_per_1000"] = (result["resident_mib"] - empty[0]) / thousands
        result["cpu_millicores_per_1000"] = result["cpu_millicores"] / thousands
        result["ramp_seconds"], result["ramp_peak_resident_mib"] = created + ramped, peak
        say("restarting the operator")
        operator, result["restart"] = restart(binary, plane, folder, operator, consumers)
        ended_well = True
        return rounded(result)
    except Stopped:
        ended_well = True
        raise
    finally:
        for part in (operator and operator.process, stand_in and stand_in.process, plane):
            if part:
                part.stop()
        if arguments.keep or not ended_well:
            say(f"logs stay in {folder}")
            shutil.rmtree(folder / "etcd", ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


ROWS = [
    ("resident memory, most seen", "resident_mib", "MiB"), ("  of it its own, the rest is the binary's", "anonymous_mib", "MiB"),
    ("  before there was a consumer", "empty_resident_mib", "MiB"), ("  for 1,000 consumers, all of it", "resident_mib_per_1000", "MiB"),
    ("  for 1,000 consumers, what they added", "added_mib_per_1000", "MiB"), ("  most during the ramp", "ramp_peak_resident_mib", "MiB"),
    ("CPU for 1,000 consumers", "cpu_millicores_per_1000", "mCPU"), ("passes a minute", "reconciles_per_minute", ""),
    ("length of a pass, p50", "reconcile_p50_milliseconds", "ms"), ("length of a pass, p99", "reconcile_p99_milliseconds", "ms"),
    ("changes of a worker count a minute", "scale_changes_per_minute", ""), ("calls of the API server a minute", "api_calls_per_minute", ""),
    ("calls of SQS a minute", "sqs_calls_per_minute", ""), ("calls of workers a minute", "worker_calls_per_minute", ""),
    ("workers", "workers", ""), ("from the first consumer to all workers", "ramp_seconds", "s"),
    ("the stand-in's part of a core", "stand_in_cpu_percent", "%"), ("the whole machine", "machine_cpu_percent", "%"),
]


def table(results):
    print(f"\n{'QueueConsumers':<44}" + "".join(f"{consumers:>14}" for consumers in results))
    for title, key, unit in ROWS:
        cells = (f"{'-' if value is None else format(value, '.1f')} {unit:<4}" for value in (result[key] for result in results.values()))
        print(f"{title:<44}" + "".join(f"{cell:>14}" for cell in cells))
    for consumers, result in results.items():
        low, high = result["reconcile_p99_bucket_milliseconds"] or (None, None)
        print(f"\nwith {consumers}: the p99 lies between {low} and {high} ms, by the histogram's buckets")
        print(f"  restarted: ready after {result['restart']['ready_seconds']} s, all decided after "
              f"{result['restart']['all_decided_seconds']} s and {sum(result['restart']['api_calls'].values())} calls of the API server, "
              f"at most {result['restart']['peak_resident_mib']} MiB")
        print("  calls of the API server a minute: " + ", ".join(f"{name} {count}" for name, count in list(result["api_calls"].items())[:8]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--consumers", type=int, nargs="+", default=[1000, 10000], help="how many, one measurement each")
    parser.add_argument("--seconds", type=int, default=240, help="length of the window that is measured")
    parser.add_argument("--step", type=int, default=60, help="seconds after which a busy queue has another backlog")
    parser.add_argument("--operator", type=pathlib.Path, help="another binary of the operator")
    parser.add_argument("--programs", default=os.environ.get("MILLRACE_BENCH_PROGRAMS"), help="folder of etcd, kube-apiserver, …, kwok")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    arguments = parser.parse_args()
    binaries = os.environ.get("MILLRACE_BENCH_BINARIES")
    if not arguments.programs or not binaries:
        parser.error("where programs are is not known: run `make bench NAME=operator-scale`")
    results = {count: measure(arguments, pathlib.Path(binaries), count) for count in arguments.consumers}
    table(results)
    versions = {"kubernetes": os.environ.get("KUBERNETES"), "kwok": os.environ.get("KWOK"), "etcd": os.environ.get("ETCD")}
    whole = arguments.consumers == [1000, 10000] and arguments.seconds >= 240 and not arguments.operator and arguments.step == 60
    print(json.dumps({"whole": whole, "ours": {str(count): result for count, result in results.items()},
                      "peers": {}, "ratios": {}, "versions": versions}))


def stop(number, _frame):
    # once: what cleans up is not to be broken off
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stopped(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    die_with_parent(signal.SIGTERM)
    main()
