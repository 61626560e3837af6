"""A poller before a Ray Serve deployment, as published: it receives ten at a time and hands each to the deployment, which
runs one, queues three and rejects the rest. What is done is deleted; what is rejected stays hidden until its timeout."""

import asyncio
import logging
import os
import shutil
import tempfile

import peer
import ray
from ray import serve
from ray.serve.exceptions import BackPressureError

arguments = peer.arguments(__doc__)


@serve.deployment(
    max_ongoing_requests=1,
    max_queued_requests=3,
    # by default it adds a replica after 30 s of load
    autoscaling_config={"min_replicas": 1, "max_replicas": 2},
)
class Model:
    """Computes nothing. It travels to its replica pickled, so its client is made there."""

    def __init__(self, endpoint, bucket, record):
        self.records = peer.Records(endpoint, bucket, record)

    def __call__(self, message_id, prompt):
        self.records.put(message_id)


async def poll(handle, tally):
    """Sees each ten through before it receives the next: a poller that does not wait has even more of them rejected."""
    sqs = peer.client("sqs", arguments.endpoint)
    queue = arguments.queue_url

    async def see_through(message):
        try:
            await handle.remote(message["MessageId"], message["Body"])
        except BackPressureError:
            return
        await asyncio.to_thread(sqs.delete_message, QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    # one second, so that it stops in time when all messages are hidden
    receive = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1, "VisibilityTimeout": peer.VISIBILITY}
    while tally.goes_on():
        received = await asyncio.to_thread(sqs.receive_message, **receive)
        await asyncio.gather(*map(see_through, received.get("Messages", [])))


os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
folder = tempfile.mkdtemp(prefix="ray-")
try:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
    application = Model.bind(arguments.endpoint, arguments.bucket, arguments.record)
    handle = serve.run(application, route_prefix=None)
    # it tells every rejection
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # the replica is loaded and its route known before the clock starts
    tally = peer.Tally(arguments.messages, arguments.seconds)
    tally.watch()
    asyncio.run(poll(handle, tally))
    tally.print({"ray": ray.__version__}, one_process=False)
finally:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
