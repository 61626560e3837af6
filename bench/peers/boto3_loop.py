"""The loop that a Python worker begins as: receive ten, put a record for each, delete the ten; in one process."""

import peer

arguments = peer.arguments(__doc__)
queue = arguments.queue_url
sqs = peer.client("sqs", arguments.endpoint)
records = peer.Records(arguments.endpoint, arguments.bucket, arguments.record)
# the connection is open before the clock starts
sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])

tally = peer.Tally(arguments.messages, arguments.seconds)
tally.watch()
while tally.goes_on():
    received = sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20, VisibilityTimeout=peer.VISIBILITY
    )
    messages = received.get("Messages", [])
    for message in messages:
        records.put(message["MessageId"])
    if messages:
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
        sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
tally.print({})
