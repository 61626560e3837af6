"""The loop that a Python worker begins as: receive ten, put a record for each, delete the ten; in one process.

Prints one JSON line: how many messages, in how many seconds, with how many calls and how much CPU time.
"""

import argparse
import json
import platform
import time

import boto3
from botocore.config import Config

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", required=True)
parser.add_argument("--queue-url", required=True)
parser.add_argument("--bucket", required=True)
parser.add_argument("--messages", type=int, required=True)
parser.add_argument("--record", required=True, help="a file with what is put for each message")
arguments = parser.parse_args()

here = {"endpoint_url": arguments.endpoint, "region_name": "us-east-1"}
here |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
sqs = boto3.client("sqs", **here)
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}), **here)
queue, bucket = arguments.queue_url, arguments.bucket
with open(arguments.record, "rb") as file:
    record = file.read()

# connections are open before the clock starts
sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
s3.head_bucket(Bucket=bucket)

done = calls = 0
began, cpu = time.perf_counter(), time.process_time()
while done < arguments.messages:
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20, VisibilityTimeout=120)
    calls += 1
    messages = received.get("Messages", [])
    for message in messages:
        key = f"{message['MessageId']}.record.json"
        s3.put_object(Bucket=bucket, Key=key, Body=record, ContentType="application/json", IfNoneMatch="*")
    if messages:
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
        deleted = sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
        calls += 1
        done += len(deleted["Successful"])
result = {
    "messages": done,
    "seconds": time.perf_counter() - began,
    "cpu_seconds": time.process_time() - cpu,
    "sqs_calls": calls,
    "boto3": boto3.__version__,
    "python": platform.python_version(),
}
print(json.dumps(result))
