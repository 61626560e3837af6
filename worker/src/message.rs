//! A message as SQS gave it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{Message as SqsMessage, MessageSystemAttributeName as Name};
use jiff::Timestamp;

/// A received message. The worker owns it until it is settled or its lease is lost.
#[derive(Debug, Clone)]
pub struct Message {
    /// SQS's id, the same at every delivery.
    pub id: String,
    /// Of this delivery.
    pub receipt_handle: String,
    /// As sent.
    pub body: String,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When the producer sent it.
    pub sent_at: Timestamp,
    /// When this delivery came.
    pub received_at: Timestamp,
    /// The same on the clock that never jumps; the lease counts from before the request.
    pub polled: Instant,
    /// How long the poll took that brought it: an answer that was long under way may be of a lease that is nearly over.
    pub poll_took: Duration,
    /// String and number attributes by name.
    pub attributes: BTreeMap<String, String>,
    /// On a FIFO queue: messages of one group are done in order. On a standard queue: the tenant of a fair queue.
    pub group: Option<String>,
    /// The sender's X-Ray trace (`Root=1-…;Parent=…;Sampled=1`).
    pub trace_header: Option<String>,
}

impl Message {
    /// The message in an SQS answer to a request that was made at `asked`; none for one without id, handle or body.
    pub fn from_sqs(message: SqsMessage, asked: Instant) -> Option<Self> {
        let (now, answered) = (Timestamp::now(), Instant::now());
        // SQS hides a message when it answers, which as a rule is at most a moment before the answer is here
        let moment_ago = answered.checked_sub(Duration::from_secs(1)).unwrap_or(asked);
        let system = message.attributes.unwrap_or_default();
        let sent = system.get(&Name::SentTimestamp).and_then(|ms| ms.parse().ok());
        let count = system.get(&Name::ApproximateReceiveCount).and_then(|n| n.parse().ok());
        let attributes = message.message_attributes.unwrap_or_default();
        let text = |name| system.get(&name).cloned();
        Some(Self {
            group: text(Name::MessageGroupId),
            trace_header: text(Name::AwsTraceHeader),
            id: message.message_id?,
            receipt_handle: message.receipt_handle?,
            body: message.body?,
            receive_count: count.unwrap_or(1),
            sent_at: sent.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(now),
            received_at: now,
            polled: asked.max(moment_ago),
            poll_took: answered - asked,
            attributes: attributes.into_iter().filter_map(|(k, v)| Some((k, v.string_value?))).collect(),
        })
    }
}
