"""Celery with its SQS transport: one worker, a pool of threads, a record put by each task; acknowledged when it is done."""

import threading
import time
from urllib.parse import urlsplit

import celery
import kombu
import peer
from celery import Celery
from celery.worker import state
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.transport.SQS import Channel

arguments = peer.arguments(__doc__)
name = arguments.queue_url.rsplit("/", 1)[1]
# the transport takes its endpoint from here alone
app = Celery("peer", broker=f"sqs://{peer.KEY}:{peer.KEY}@{urlsplit(arguments.endpoint).netloc}//")
queue = {"url": arguments.queue_url, "access_key_id": peer.KEY, "secret_access_key": peer.KEY}
app.conf.update(
    task_default_queue=name,
    broker_transport_options={
        "is_secure": False,
        "region": peer.REGION,
        "predefined_queues": {name: queue},
        "wait_time_seconds": 20,
        # how long it sleeps when it holds all that it may: 1 s by default, in which this worker would idle
        "polling_interval": 0.01,
    },
    task_acks_late=True,
    task_ignore_result=True,
    # SQS has no fan-out
    worker_enable_remote_control=False,
    worker_redirect_stdouts=False,
)


def fill():
    """Sends the tasks as Celery itself would, but ten a call."""

    sqs, waiting = peer.client("sqs", arguments.endpoint), []

    def flush():
        sent = sqs.send_message_batch(QueueUrl=arguments.queue_url, Entries=waiting)
        assert not sent.get("Failed"), sent["Failed"]
        waiting.clear()

    def send_message(QueueUrl, MessageBody):
        waiting.append({"Id": str(len(waiting)), "MessageBody": MessageBody})
        if len(waiting) == 10:
            flush()

    sqs.send_message = send_message
    Channel.sqs = lambda channel, queue=None: sqs
    for number in range(arguments.messages):
        app.send_task("record", [f"a lighthouse at night, number {number}"])
    if waiting:
        flush()


def work():
    """Runs the worker until the work or the time is over."""
    records = peer.Records(arguments.endpoint, arguments.bucket, arguments.record)
    tally = peer.Tally(arguments.messages, arguments.seconds)
    tally.watch()
    # it receives by a client of its own
    make_request, take = AsyncSQSConnection.make_request, Channel._on_messages_ready

    def counted(connection, operation, *rest, **named):
        tally.calling(operation)
        return make_request(connection, operation, *rest, **named)

    def taken(channel, queue, name, answer):
        tally.answered("ReceiveMessage", answer)
        return take(channel, queue, name, answer)

    AsyncSQSConnection.make_request, Channel._on_messages_ready = counted, taken

    @app.task(name="record", bind=True)
    def record(task, prompt):
        records.put(task.request.id)

    def stop():
        while tally.goes_on():
            time.sleep(0.01)
        state.should_stop = 0

    threading.Thread(target=stop, daemon=True).start()
    app.Worker(pool="threads", concurrency=8, loglevel="ERROR", without_mingle=True, without_gossip=True).start()
    tally.print({"celery": celery.__version__, "kombu": kombu.__version__})


fill() if arguments.fill else work()
