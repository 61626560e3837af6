"""The worker as a process: one picture by hand, and jobs from a queue of the model server (SQS and S3 in memory)."""

import http.client
import json
import os
import pathlib
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


class Server:
    """The model server with the model in a bucket, from which workers load it as they do from S3."""

    def __init__(self, binaries, folder):
        self.dir = tempfile.TemporaryDirectory()
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        log = pathlib.Path(self.dir.name, "aws-model.log")
        self.process = Process("the model server", [binaries / "millrace-aws-model", "--port", str(port), "--bucket", "models"], log)
        self.aws = Aws(self.endpoint)
        self.process.await_("listening", log.read_text)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            put(port, f"/models/{file.relative_to(folder)}", file)

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


def rate(binaries, server, job, batch, count, name, device="Cpu"):
    """Pictures a second of a new worker that holds `batch` jobs at a time and finds `count`, and the most memory it had."""
    with tempfile.TemporaryDirectory() as folder:
        folder, port = pathlib.Path(folder), free_port()
        server.aws.create(name)
        there = {"region": REGION, "endpoint": server.endpoint}
        parameters = {key: value for key, value in job.items() if key not in ("prompt", "seed")}
        config = {
            "consumer": {"namespace": "bench", "name": "images"},
            "queue": {"url": server.aws._url(name), "visibilityTimeoutSeconds": 120, **there},
            "model": {"task": "TextToImage", "device": device, "source": {"s3": {"uri": "s3://models/", **there}},
                      "parameters": parameters, "batch": {"maxSize": batch, "maxWaitMilliseconds": 200}},
            "output": {"bucket": name, "forcePathStyle": True, **there},
            "http": {"port": port},
        }
        (folder / "worker.yaml").write_text(json.dumps(config))  # JSON is YAML
        environment = os.environ | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                                    "MILLRACE_CACHE_DIR": str(folder / "cache")}
        worker = Process("the worker", [binaries / "millrace-worker", "run", "--config", folder / "worker.yaml"],
                         folder / "worker.log", environment)
        try:
            worker.await_("ready", lambda: (state(port) or {}).get("ready"), STUCK)
            began = time.perf_counter()
            entries = [{"Id": str(i), "MessageBody": json.dumps({"prompt": job["prompt"], "seed": job["seed"] + i})} for i in range(count)]
            for first in range(0, count, 10):
                server.aws._sqs("SendMessageBatch", QueueUrl=server.aws._url(name), Entries=entries[first : first + 10])
            end = time.monotonic() + STUCK
            while True:
                now = state(port) or {}
                if now.get("failed"):
                    sys.exit(f"the worker failed a job: {(folder / 'worker.log').read_text()[-2000:]}")
                if now.get("completed", 0) >= count and not now.get("busy"):
                    break
                worker.ensure_running()
                if time.monotonic() > end:
                    sys.exit(f"the worker is stuck: {now}")
                time.sleep(LOOK)
            return count / (time.perf_counter() - began), worker.memory("VmHWM")
        finally:
            worker.stop()


def by_hand(binaries, folder, job, picture, device="Cpu"):
    """The command that makes one picture without a queue."""
    return [binaries / "millrace-worker", "infer", "--model", folder, "--task", "TextToImage", "--input", json.dumps(job),
            "--output", picture, "--device", device.lower()]
