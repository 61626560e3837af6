"""One burst on KEDA's side and on ours, in turns, on the cluster that bench/run prepared: when the worker count follows,
when the queue is empty, when all is gone, and how many worker-seconds that took. docs/benchmarks.md says how to read it.
Prints tables, and the result as one line of JSON."""

import argparse
import json
import os
import pathlib
import signal
import statistics
import string
import subprocess
import sys
import time

from aws import Aws
from watch import Watch

HERE = pathlib.Path(__file__).resolve().parent
NAMESPACE = "bench-keda"
INSIDE = "http://localstack.localstack:4566"  # LocalStack as pods and KEDA reach it
# By which period a scaler looks, from 0 replicas and from 1: KEDA's own, and that of the HorizontalPodAutoscaler that KEDA
# leaves the rest to. The bursts of several rounds are spread over it.
PERIODS = {0: 30, 1: 15}
SETTLE = 30  # seconds that a new object is given before the burst
EMPTY_LOOKS = 3  # looks in a row at an empty queue that count
PATIENCE = 1200  # seconds in which all must be over
SIDES = {
    "keda": ("keda.yaml", None),
    "messages-per-replica": ("millrace.yaml", "{ messagesPerReplica: 5 }"),
    "queue-delay": ("millrace.yaml", "{ queueDelaySeconds: 60 }"),
}
TITLES = {
    "keda": "KEDA, queueLength 5",
    "messages-per-replica": "millrace, messagesPerReplica 5",
    "queue-delay": "millrace, queueDelaySeconds 60",
}
FIGURES = {  # key: what it is
    "first_change_seconds": "first change of the count",
    "all_asked_seconds": "all replicas asked for",
    "all_ready_seconds": "all of them ready",
    "empty_seconds": "queue empty",
    "zero_seconds": "count back at 0",
    "gone_seconds": "last pod gone",
    "worker_seconds": "worker-seconds",
    "peak_replicas": "most replicas asked for",
    "p95_wait_seconds": "p95 of a job's wait",
}


def say(text):
    seconds = int(time.time()) - int(os.environ.get("MILLRACE_STARTED") or STARTED)
    print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {text}", file=sys.stderr, flush=True)


STARTED = int(time.time())


def kubectl(*arguments, text=None):
    answer = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def until(what, seconds, probe):
    """Looks every half second until the probe gives something."""
    end = time.monotonic() + seconds
    while not (found := probe()):
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.5)
    return found


def prepare():
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "aws",
            "--from-literal=AWS_ACCESS_KEY_ID=test", "--from-literal=AWS_SECRET_ACCESS_KEY=test")


class Turn:
    """One side, one start, one burst."""

    def __init__(self, arguments, aws, side, start, number):
        self.arguments, self.aws, self.side, self.start, self.number = arguments, aws, side, start, number
        self.name = f"burst-{side}-{start}-{number}"
        file, target = SIDES[side]
        words = {"name": self.name, "namespace": NAMESPACE, "aws": INSIDE, "image": arguments.image, "target": target or ""}
        self.manifest = string.Template((HERE / file).read_text(encoding="utf-8")).substitute(words)

    def run(self):
        say(f"round {self.number + 1}: {TITLES[self.side]}, from {self.start}")
        self.aws.create(self.name)
        self.watch = Watch(NAMESPACE, self.name)
        try:
            kubectl("apply", "--filename", "-", text=self.manifest)
            made = time.monotonic()
            until("the Deployment and no pod", 60, lambda: self.watch.look()[::2] == (0, 0))
            if self.start:
                self.warm()
            # A scaler that looks every 30 s answers after 0 to 30 s: the bursts of all rounds are spread evenly over them,
            # and that of a single round comes in the middle. The same for every side.
            period = PERIODS[self.start]
            at = made + SETTLE + (self.number + 0.5) / self.arguments.rounds * period
            while at < time.monotonic():
                at += period
            time.sleep(at - time.monotonic())
            if self.watch.look()[0] != self.start:
                sys.exit(f"{self.name} should begin with {self.start} replicas and has {self.watch.look()}")
            return self.burst()
        finally:
            self.watch.stop()
            subprocess.run(["kubectl", "delete", "--wait", "--timeout=120s", "--ignore-not-found", "--filename", "-"],
                           input=self.manifest, capture_output=True, text=True, check=False)
            self.aws.delete(self.name)

    def warm(self):
        """One job, for one replica that is ready and idle when the burst comes."""
        self.aws.send(self.name, 1)
        until("one replica, ready, and its job done", 180,
              lambda: self.watch.look()[:2] == (1, 1) and not any(self.aws.counts(self.name)))

    def burst(self):
        began = time.monotonic()
        self.aws.send(self.name, self.arguments.jobs)
        sent = time.monotonic() - began
        empty, looks, shown = None, 0, None
        while True:
            counts = self.aws.counts(self.name)
            now = time.monotonic() - began
            looks = 0 if any(counts) else looks + 1
            empty = None if any(counts) else (empty or now)
            replicas, ready, pods = self.watch.look()
            if (replicas, ready) != shown:
                shown = (replicas, ready)
                say(f"  {now:5.0f} s: visible {counts[0]}, in flight {counts[1]}, replicas {replicas}, ready {ready or 0}, pods {pods}")
            if looks >= EMPTY_LOOKS and replicas == 0 and pods == 0:
                break
            if now > PATIENCE:
                sys.exit(f"{self.name}: not over within {PATIENCE} s: queue {counts}, replicas {replicas}, pods {pods}")
            time.sleep(1)
        return self.figures(began, sent, empty)

    def figures(self, began, sent, empty):
        after = [(at - began, count) for at, count in self.watch.replicas if at > began]
        ready = [(at - began, count) for at, count in self.watch.ready if at > began]
        # up to the empty queue: what happens later is no answer to the burst
        peak = max([count for at, count in after if at <= empty] + [self.start])
        first = lambda series, enough: next((at for at, count in series if enough(count)), None)
        zero = [at for at, count in after if count == 0]
        end = max(gone for _, gone in self.watch.pods.values())
        used = sum(gone - max(made, began) for made, gone in self.watch.pods.values() if gone > began)
        records = self.aws.records(self.name)
        wanted = self.arguments.jobs + self.start
        done = [record for record in records if record["status"] == "COMPLETED"]
        if len(done) != wanted:
            sys.exit(f"{self.name}: {len(done)} of {wanted} jobs have a COMPLETED record; this run measured nothing")
        waits = sorted(record["timings"]["queued_seconds"] for record in done)
        return {
            "first_change_seconds": first(after, lambda count: count > self.start),
            "all_asked_seconds": first(after, lambda count: count == peak) if peak > self.start else None,
            "all_ready_seconds": first(ready, lambda count: count >= peak),
            "empty_seconds": empty,
            "zero_seconds": zero[-1] if zero else None,
            "gone_seconds": end - began,
            "worker_seconds": used,
            "peak_replicas": peak,
            "p95_wait_seconds": waits[int(0.95 * (len(waits) - 1))],
            "sent_seconds": sent,
            "redelivered": sum(1 for record in done if record["attempt"] > 1),
        }


def rounded(value):
    return None if value is None else round(value, 2)


def merged(runs):
    """The median of each figure over the rounds, and the rounds themselves."""
    of = lambda key: [run[key] for run in runs if run[key] is not None]
    result = {key: rounded(statistics.median(of(key))) if of(key) else None for key in FIGURES}
    result["redelivered"] = sum(run["redelivered"] for run in runs)
    result["rounds"] = [{key: rounded(value) for key, value in run.items()} for run in runs]
    return result


def ratios(ours, keda):
    keys = ["first_change_seconds", "all_asked_seconds", "all_ready_seconds", "empty_seconds", "gone_seconds",
            "worker_seconds", "p95_wait_seconds"]
    return {key: round(ours[key] / keda[key], 3) for key in keys if ours[key] is not None and keda[key]}


def table(start, sides):
    print(f"\nfrom {start} replica{'' if start == 1 else 's'}; seconds since the first message was sent (medians)")
    names = list(sides)
    print(f"{'':<28}" + "".join(f"{TITLES[name]:>34}" for name in names))
    for key, title in FIGURES.items():
        cells = []
        for name in names:
            value, text = sides[name][key], "-"
            if value is not None:
                text = f"{value:.0f}" if key == "peak_replicas" else f"{value:.1f}"
                if name != "keda" and "keda" in sides and sides["keda"][key] and key != "peak_replicas":
                    text += f" ({value / sides['keda'][key]:.2f} ×)"
            cells.append(f"{text:>34}")
        print(f"{title:<28}" + "".join(cells))


def versions(arguments):
    kubernetes = json.loads(kubectl("get", "--raw", "/version"))["gitVersion"]
    return {"keda": arguments.keda_version, "kubernetes": kubernetes, "worker_image": arguments.image}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default=os.environ.get("MILLRACE_E2E_ENDPOINT"), help="LocalStack from here")
    parser.add_argument("--image", default=os.environ.get("MILLRACE_WORKER_IMAGE"), help="the worker's, as the nodes have it")
    parser.add_argument("--keda-version", default=os.environ.get("KEDA"))
    parser.add_argument("--jobs", type=int, default=200, help="in the burst, of 5 s each")
    parser.add_argument("--rounds", type=int, default=1, help="of all sides, each begun by another one")
    parser.add_argument("--sides", default=",".join(SIDES), help="which, by commas")
    parser.add_argument("--starts", default="0,1", help="replicas to begin with, by commas")
    arguments = parser.parse_args()
    if not arguments.endpoint or not arguments.image:
        parser.error("the cluster is not known: run `make bench NAME=keda`")
    sides = arguments.sides.split(",")
    starts = [int(start) for start in arguments.starts.split(",")]
    if set(starts) - set(PERIODS):
        parser.error("a burst begins with 0 replicas or with 1")
    if unknown := set(sides) - set(SIDES):
        parser.error(f"no side is called {', '.join(unknown)}: {', '.join(SIDES)}")

    aws = Aws(arguments.endpoint)
    turns = len(sides) * len(starts) * arguments.rounds
    say(f"{turns} bursts, about 8 minutes each: {turns * 8} minutes")
    runs = {start: {side: [] for side in sides} for start in starts}
    prepare()
    try:
        for number in range(arguments.rounds):
            for start in starts:
                first = number % len(sides)
                for side in sides[first:] + sides[:first]:
                    runs[start][side].append(Turn(arguments, aws, side, start, number).run())
    finally:
        subprocess.run(["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"],
                       capture_output=True, check=False)

    result = {"jobs": arguments.jobs, "job_seconds": 5, "ours": {}, "peers": {"keda": {}}, "ratios": {}}
    for start in starts:
        of = {side: merged(runs[start][side]) for side in sides}
        table(start, of)
        for side in sides:
            key, name = f"from_{start}", side.replace("-", "_")
            if side == "keda":
                result["peers"]["keda"][key] = of[side]
                continue
            result["ours"].setdefault(name, {})[key] = of[side]
            if "keda" in of:
                result["ratios"].setdefault(name, {})[key] = ratios(of[side], of["keda"])
    result["versions"] = versions(arguments)
    whole = set(sides) == set(SIDES) and set(starts) == {0, 1} and arguments.jobs == 200
    print(json.dumps({"whole": whole, **result}))


def stop(number, _frame):
    # once: what cleans up is not to be broken off
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    main()
