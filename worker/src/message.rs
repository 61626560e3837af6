//! A message as SQS gave it.

use std::collections::BTreeMap;
use std::time::Instant;

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
    /// String attributes by name.
    pub attributes: BTreeMap<String, String>,
}

impl Message {
    /// The message in an SQS answer to a request that was made at `polled`; none for one without id, handle or body.
    pub fn from_sqs(message: SqsMessage, polled: Instant) -> Option<Self> {
        let now = Timestamp::now();
        let system = message.attributes.unwrap_or_default();
        let sent = system.get(&Name::SentTimestamp).and_then(|ms| ms.parse().ok());
        let count = system.get(&Name::ApproximateReceiveCount).and_then(|n| n.parse().ok());
        let attributes = message.message_attributes.unwrap_or_default();
        Some(Self {
            id: message.message_id?,
            receipt_handle: message.receipt_handle?,
            body: message.body?,
            receive_count: count.unwrap_or(1),
            sent_at: sent.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(now),
            received_at: now,
            polled,
            attributes: attributes.into_iter().filter_map(|(k, v)| Some((k, v.string_value?))).collect(),
        })
    }
}
