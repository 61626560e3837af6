"""What all peers share: arguments, clients of the one server, the tally of SQS calls, and the line that they end with."""

import argparse
import json
import platform
import threading
import time

import boto3
from botocore.client import BaseClient
from botocore.config import Config

KEY = "test"
REGION = "us-east-1"
VISIBILITY = 120


class Tally:
    """Counts calls of SQS and what they did; its clock runs from the first receive to the last delete."""

    def __init__(self, messages, seconds):
        self.messages, self.limit = messages, seconds
        self.calls = self.received = self.deleted = 0
        self.began = self.ended = self.cpu_began = self.cpu_ended = None
        self.lock = threading.Lock()

    def calling(self, operation):
        with self.lock:
            self.calls += 1
            if self.began is None and operation == "ReceiveMessage":
                self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def answered(self, operation, answer):
        with self.lock:
            if operation == "ReceiveMessage":
                self.received += len(answer.get("Messages", []))
            elif operation in ("DeleteMessage", "DeleteMessageBatch"):
                self.deleted += len(answer["Successful"]) if "Successful" in answer else 1
                self.ended, self.cpu_ended = time.perf_counter(), time.process_time()

    def goes_on(self):
        """Whether there is work left, and time for it."""
        late = self.began is not None and time.perf_counter() - self.began > self.limit
        return self.deleted < self.messages and not late

    def watch(self):
        """From now on it sees every call of SQS that a client of boto3 makes in this process."""
        make_call = BaseClient._make_api_call

        def counted(client, operation, parameters):
            if client.meta.service_model.service_name != "sqs":
                return make_call(client, operation, parameters)
            self.calling(operation)
            answer = make_call(client, operation, parameters)
            self.answered(operation, answer)
            return answer

        BaseClient._make_api_call = counted

    def print(self, versions, one_process=True):
        """The result, as bench/src/peer.rs reads it. CPU time is told only where it is all of one process."""
        result = {
            "messages": self.deleted,
            "seconds": self.ended - self.began if self.ended else self.limit,
            "sqs_calls": self.calls,
            "unfinished": self.received - self.deleted,
            "versions": {"python": platform.python_version(), "boto3": boto3.__version__} | versions,
        }
        if one_process and self.ended:
            result["cpu_seconds"] = self.cpu_ended - self.cpu_began
        print(json.dumps(result), flush=True)


def arguments(description):
    """Of every peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--queue-url", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--messages", type=int, required=True, help="stop when so many are done")
    parser.add_argument("--seconds", type=float, required=True, help="or after so long")
    parser.add_argument("--record", required=True, help="a file with what is put for each message")
    parser.add_argument("--fill", action="store_true", help="only send the messages, where the peer has a form of its own")
    return parser.parse_args()


def client(service, endpoint):
    """A client of SQS or S3."""
    settings = Config(s3={"addressing_style": "path"}) if service == "s3" else None
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY, "region_name": REGION}
    return boto3.client(service, endpoint_url=endpoint, config=settings, **keys)


class Records:
    """Puts the record of a message, once. Its connection is open before the clock starts."""

    def __init__(self, endpoint, bucket, record):
        self.s3, self.bucket = client("s3", endpoint), bucket
        with open(record, "rb") as file:
            self.record = file.read()
        self.s3.head_bucket(Bucket=bucket)

    def put(self, name):
        self.s3.put_object(
            Bucket=self.bucket,
            Key=f"{name}.record.json",
            Body=self.record,
            ContentType="application/json",
            IfNoneMatch="*",
        )
