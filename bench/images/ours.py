"""The worker as a process, for bench/images and bench/embeddings: one picture by hand, and jobs from a queue of the model server (SQS and S3 in memory)."""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT / "bench" / "keda"), str(ROOT / "bench" / "operator-scale")]

from aws import Aws  # noqa: E402
from processes import Process, free_port  # noqa: E402

REGION = "us-east-1"
LOOK = 0.02  # seconds between two looks at /state
STUCK = 1800  # seconds
STARTED = int(os.environ.get("MILLRACE_STARTED") or time.time())


def say(text):
    seconds = int(time.time()) - STARTED
    print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {text}", file=sys.stderr, flush=True)


def first_output(command):
    """Seconds until the command prints a line, and the most memory that it had, in MiB."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        said = child.stdout.readline()
        seconds = time.perf_counter() - began
        child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or not said:
        sys.exit(f"{command[0]} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / 1024


class Server:
    """The model server with the model in a bucket, from which workers load it as they do from S3."""

    def __init__(self, binaries, folder):
        self.dir = tempfile.TemporaryDirectory()
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        log = pathlib.Path(self.dir.name, "aws-model.log")
        self.process = Process("the model server", [binaries / "millrace-aws-model", "--port", str(self.port), "--bucket", "models"], log)
        self.aws = Aws(self.endpoint)
        self.process.await_("listening", log.read_text)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            put(self.port, f"/models/{file.relative_to(folder)}", file)

    def stop(self):
        self.process.stop()
        self.dir.cleanup()


def put(port, path, file):
    """Into the model server, without holding the file in memory."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STUCK)
    authorization = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    with open(file, "rb") as body:
        connection.request("PUT", path, body, {"Authorization": authorization, "Content-Length": str(file.stat().st_size)})
        answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 200:
        sys.exit(f"PUT {path}: {answer.status} {said[:300]}")


def state(port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/state", timeout=30) as answer:
            return json.loads(answer.read())
    except OSError:
        return None  # it does not listen yet, or answers late


def through_a_queue(binaries, server, model, jobs, name, batch=1, warm=None, allow=None):
    """Seconds that a new worker takes for jobs that are sent when it is ready, and has done `warm`, and the most memory it
    had, in MiB. `model` is its task and parameters, without a source."""
    with tempfile.TemporaryDirectory() as folder:
        folder, port = pathlib.Path(folder), free_port()
        server.aws.create(name)
        there = {"region": REGION, "endpoint": server.endpoint}
        config = {
            "consumer": {"namespace": "bench", "name": name.split("-")[0]},
            "queue": {"url": server.aws._url(name), "visibilityTimeoutSeconds": 120, "allow": allow or {}, **there},
            "model": {"source": {"s3": {"uri": "s3://models/", **there}},
                      "batch": {"maxSize": batch, "maxWaitMilliseconds": 200}, **model},
            "output": {"bucket": name, "forcePathStyle": True, **there},
            "http": {"port": port},
        }
        (folder / "worker.yaml").write_text(json.dumps(config))  # JSON is YAML
        environment = os.environ | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                                    "MILLRACE_CACHE_DIR": str(folder / "cache")}
        worker = Process("the worker", [binaries / "millrace-worker", "run", "--config", folder / "worker.yaml"],
                         folder / "worker.log", environment)

        def do(some, before):
            entries = [{"Id": str(i), "MessageBody": json.dumps(one)} for i, one in enumerate(some)]
            for first in range(0, len(entries), 10):
                server.aws._sqs("SendMessageBatch", QueueUrl=server.aws._url(name), Entries=entries[first : first + 10])
            end = time.monotonic() + STUCK
            while True:
                now = state(port) or {}
                if now.get("failed"):
                    sys.exit(f"the worker failed a job: {(folder / 'worker.log').read_text()[-2000:]}")
                if now.get("completed", 0) >= before + len(some) and not now.get("busy"):
                    return
                worker.ensure_running()
                if time.monotonic() > end:
                    sys.exit(f"the worker is stuck: {now}")
                time.sleep(LOOK)

        try:
            worker.await_("ready", lambda: (state(port) or {}).get("ready"), STUCK)
            before = 0
            if warm:
                do([warm], 0)
                before = 1
            began = time.perf_counter()
            do(jobs, before)
            return time.perf_counter() - began, worker.memory("VmHWM")
        finally:
            worker.stop()


def rate(binaries, server, job, batch, count, name, device="Cpu"):
    """Pictures a second of a new worker that holds `batch` jobs at a time and finds `count`, and the most memory it had."""
    parameters = {key: value for key, value in job.items() if key not in ("prompt", "seed")}
    model = {"task": "TextToImage", "device": device, "parameters": parameters}
    jobs = [{"prompt": job["prompt"], "seed": job["seed"] + i} for i in range(count)]
    seconds, memory = through_a_queue(binaries, server, model, jobs, name, batch)
    return count / seconds, memory


def by_hand(binaries, folder, job, picture, device="Cpu"):
    """The command that makes one picture without a queue."""
    return [binaries / "millrace-worker", "infer", "--model", folder, "--task", "TextToImage", "--input", json.dumps(job),
            "--output", picture, "--device", device.lower()]
