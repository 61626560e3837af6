"""What the demo asks of SQS and S3: prepares queues and buckets, uploads a model, sends prompts, follows them to their
pictures. The consumer is that of deploy/samples/tiny.yaml."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

QUEUE, DEAD_LETTERS, MODELS, IMAGES = "prompts", "prompts-dead-letter", "models", "images"
NAMESPACE, CONSUMER = "demo", "tiny"
PREFIX = f"{NAMESPACE}/{CONSUMER}/"
PATIENCE_SECONDS = 900  # without anything new: an image pull, a model download and a slow CPU fit

SUBJECTS = ["a lighthouse at night", "a red bicycle", "an orchard in bloom", "a paper boat", "a mountain hut", "a clock tower"]
STYLES = ["in watercolour", "as a woodcut", "in the rain", "at dawn"]


def client(service, endpoint):
    config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5})
    return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", config=config,
                        aws_access_key_id="test", aws_secret_access_key="test")


def prepare(sqs, s3):
    dead_letters = sqs.create_queue(QueueName=DEAD_LETTERS)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    queue = sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": redrive})
    for bucket in (MODELS, IMAGES):
        s3.create_bucket(Bucket=bucket)


def upload(s3, folder, uri):
    target = urlsplit(uri)
    for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file()):
        s3.upload_file(str(path), target.netloc, target.path.lstrip("/") + path.relative_to(folder).as_posix())


def send(sqs, queue, prompts):
    """Sends the prompts as plain text and gives their message ids."""
    ids = []
    for start in range(0, len(prompts), 10):
        entries = [{"Id": str(n), "MessageBody": text} for n, text in enumerate(prompts[start:start + 10])]
        answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        if answer.get("Failed"):
            sys.exit(f"SQS refused {answer['Failed']}")
        ids += [entry["MessageId"] for entry in answer["Successful"]]
    return ids


def workers():
    """Ready and desired workers, as the consumer's status has them."""
    command = ["kubectl", "-n", NAMESPACE, "get", "queueconsumer", CONSUMER, "-o", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    status = json.loads(answer.stdout).get("status", {}) if answer.returncode == 0 else {}
    return status.get("readyReplicas", 0), status.get("desiredReplicas", 0)


def record(s3, message_id):
    """The result record of a message, None until there is one."""
    try:
        return json.load(s3.get_object(Bucket=IMAGES, Key=f"{PREFIX}{message_id}.record.json")["Body"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise


def follow(sqs, s3, queue, ids):
    """Shows one live line until every message has its record; gives the records in the order of the messages."""
    records, shown, started, news = {}, None, time.monotonic(), time.monotonic()
    while True:
        for message_id in ids:
            if message_id not in records and (found := record(s3, message_id)) is not None:
                records[message_id] = found
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        ready, desired = workers()
        line = (f"visible {counts[names[0]]:>3}   in flight {counts[names[1]]:>3}   "
                f"workers ready {ready}/{desired}   done {len(records):>3}/{len(ids)}")
        if line != shown:
            shown, news = line, time.monotonic()
            if not sys.stdout.isatty():
                print(f"{time.monotonic() - started:5.0f} s   {line}", flush=True)
        if sys.stdout.isatty():
            print(f"\r{time.monotonic() - started:5.0f} s   {line}", end="", flush=True)
        if len(records) == len(ids):
            if sys.stdout.isatty():
                print()
            return [records[message_id] for message_id in ids]
        if time.monotonic() - news > PATIENCE_SECONDS:
            sys.exit(f"\nnothing new for {PATIENCE_SECONDS} s; kubectl -n {NAMESPACE} describe qc {CONSUMER} tells why")
        time.sleep(1)


def run(sqs, s3, prompts, folder):
    queue = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    records = follow(sqs, s3, queue, send(sqs, queue, prompts))
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    print("\nThe pictures:")
    for result in records:
        for output in result["outputs"]:
            uri = urlsplit(output["uri"])
            path = folder / uri.path.rsplit("/", 1)[-1]
            s3.download_file(uri.netloc, uri.path.lstrip("/"), str(path))
            print(f"  {os.path.relpath(path)}")
    print("\nOne of their records:")
    print(json.dumps(records[0], indent=2))
    failed = [result for result in records if result["status"] != "COMPLETED"]
    if failed:
        sys.exit(f"{len(failed)} of {len(records)} failed, the first with {json.dumps(failed[0].get('error'))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    uploading = commands.add_parser("upload")
    uploading.add_argument("folder")
    uploading.add_argument("uri")
    running = commands.add_parser("run")
    running.add_argument("--pictures", required=True)
    running.add_argument("--count", type=int, default=12, help="how many prompts, where none is given")
    running.add_argument("prompts", nargs="*")
    args = parser.parse_args()
    sqs, s3 = client("sqs", args.endpoint), client("s3", args.endpoint)
    if args.command == "prepare":
        prepare(sqs, s3)
    elif args.command == "upload":
        upload(s3, args.folder, args.uri)
    else:
        made_up = [f"{SUBJECTS[n % len(SUBJECTS)]} {STYLES[n // len(SUBJECTS) % len(STYLES)]}" for n in range(args.count)]
        run(sqs, s3, args.prompts or made_up, args.pictures)


if __name__ == "__main__":
    main()
