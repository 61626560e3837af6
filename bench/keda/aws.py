"""The little of SQS and S3 that this needs of LocalStack, with Python's standard library."""

import json
import urllib.request
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor

ACCOUNT = "000000000000"
COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
AT_ONCE = 4


class Aws:
    """LocalStack, which wants credentials to be there and does not look at them."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def _call(self, service, path, body=None, headers=None, method=None):
        credential = f"Credential=test/20260101/us-east-1/{service}/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0", **(headers or {})}
        request = urllib.request.Request(self.endpoint + path, data=body, headers=headers, method=method)
        # no proxy: a cluster on this machine is reached directly
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return answer.read()

    def _sqs(self, operation, **fields):
        headers = {"X-Amz-Target": f"AmazonSQS.{operation}", "Content-Type": "application/x-amz-json-1.0"}
        return json.loads(self._call("sqs", "/", json.dumps(fields).encode(), headers) or b"{}")

    def _url(self, queue):
        return f"{self.endpoint}/{ACCOUNT}/{queue}"

    def create(self, name):
        """A queue and a bucket."""
        self._sqs("CreateQueue", QueueName=name)
        self._call("s3", f"/{name}", b"", method="PUT")

    def delete(self, name):
        """Both of them, with all that is in them."""
        self._sqs("DeleteQueue", QueueUrl=self._url(name))
        for key in self.keys(name):
            self._call("s3", f"/{name}/{key}", method="DELETE")
        self._call("s3", f"/{name}", method="DELETE")

    def send(self, queue, messages):
        """Sends so many prompts, ten at a time."""

        def ten(first):
            some = range(first, min(first + 10, messages))
            entries = [{"Id": str(n), "MessageBody": json.dumps({"prompt": f"a lighthouse at night, number {n}"})} for n in some]
            answer = self._sqs("SendMessageBatch", QueueUrl=self._url(queue), Entries=entries)
            if answer.get("Failed"):
                raise RuntimeError(f"SQS refused {answer['Failed']}")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ten, range(0, messages, 10)))

    def counts(self, queue):
        """Messages that are visible, in flight, delayed."""
        answer = self._sqs("GetQueueAttributes", QueueUrl=self._url(queue), AttributeNames=COUNTS)
        return tuple(int(answer["Attributes"][name]) for name in COUNTS)

    def keys(self, bucket):
        """All keys of a bucket of at most a thousand objects."""
        page = xml.etree.ElementTree.fromstring(self._call("s3", f"/{bucket}?list-type=2"))
        return [key.text for key in page.iter() if key.tag.endswith("}Key") or key.tag == "Key"]

    def records(self, bucket):
        """The result records in a bucket."""
        keys = [key for key in self.keys(bucket) if key.endswith(".record.json")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [json.loads(body) for body in pool.map(lambda key: self._call("s3", f"/{bucket}/{key}"), keys)]
