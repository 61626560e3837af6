//! Messages that come in.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Turn;
use super::error::{Code, Error};
use super::message::{Content, Message, MessageAttributes, State, hex, md5, md5_of_attributes};
use super::protocol::{Outgoing, Sent};
use super::queue::Queue;
use crate::journal::Event;

/// Characters in an id of a message group or a deduplication.
const LONGEST_ID: usize = 128;

/// Takes one message in.
pub(crate) fn send(queue: &mut Queue, outgoing: Outgoing, turn: &mut Turn<'_>) -> Result<Sent, Error> {
    let delay = delay(queue, outgoing.delay_seconds)?;
    let md5_of_message_system_attributes = outgoing.message_system_attributes.as_ref().and_then(md5_of_attributes);
    let content = content(queue, outgoing)?;
    let md5_of_message_body = content.md5.clone();
    let md5_of_message_attributes = md5_of_attributes(&content.attributes);
    let (message_id, key) = if let Some(first) = queue.sent_before(&content) {
        turn.record(|| Event::Deduplicated { queue: Arc::clone(&queue.name), id: Arc::clone(&first.0) });
        first
    } else {
        let id = turn.ids.message();
        turn.record(|| Event::Sent { queue: Arc::clone(&queue.name), id: Arc::clone(&id) });
        let content = Arc::new(content);
        let key = queue.add(Message {
            id: Arc::clone(&id),
            content: Arc::clone(&content),
            sent: turn.now,
            sequence: None,
            receives: 0,
            receives_here: 0,
            first_received: None,
            given_up_by: None,
            state: if delay.is_zero() { State::Ready } else { State::Delayed { until: turn.now + delay } },
            receipt: 0,
        });
        queue.remember_sent(&content, &id, key, turn.now);
        (id, key)
    };
    Ok(Sent {
        message_id,
        md5_of_message_body,
        md5_of_message_attributes,
        md5_of_message_system_attributes,
        sequence_number: queue.is_fifo().then(|| sequence_number(key)),
    })
}

/// A place in a FIFO queue, as SQS writes it: twenty digits.
pub(crate) fn sequence_number(place: u64) -> String {
    format!("{:020}", 18_000_000_000_000_000_000 + u128::from(place))
}

fn delay(queue: &Queue, seconds: Option<i64>) -> Result<Duration, Error> {
    match seconds {
        None => Ok(queue.attributes.delay),
        Some(seconds) if queue.is_fifo() && seconds != 0 => {
            let reason = "The request include parameter that is not valid for this queue type.";
            Err(Error::value(seconds, "DelaySeconds", reason))
        }
        Some(_) if queue.is_fifo() => Ok(queue.attributes.delay),
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds <= 900 => Ok(Duration::from_secs(seconds)),
            _ => Err(Error::value(seconds, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")),
        },
    }
}

fn content(queue: &Queue, outgoing: Outgoing) -> Result<Content, Error> {
    let body = outgoing.message_body.unwrap_or_default();
    let trace_header = trace_header(outgoing.message_system_attributes)?;
    let attributes = outgoing.message_attributes.unwrap_or_default();
    let (group, given) = (outgoing.message_group_id, outgoing.message_deduplication_id);
    check_id("MessageGroupId", group.as_deref())?;
    check_id("MessageDeduplicationId", given.as_deref())?;
    let deduplication = match (queue.attributes.fifo, given) {
        (None, Some(given)) => {
            let reason = "The request includes a parameter that is not valid for this queue type.";
            return Err(Error::value(given, "MessageDeduplicationId", reason));
        }
        (None, None) => None,
        (Some(_), _) if group.is_none() => return Err(Error::missing("MessageGroupId")),
        (Some(_), Some(given)) => Some(given),
        (Some(fifo), None) if fifo.content_based_deduplication => Some(hex(&Sha256::digest(&body))),
        (Some(_), None) => {
            let message = "The queue should either have ContentBasedDeduplication enabled or \
                           MessageDeduplicationId provided explicitly";
            return Err(Error::new(Code::InvalidParameterValue, message));
        }
    };
    let group = group.map(Arc::from);
    let content = Content { md5: md5(body.as_bytes()), body, attributes, trace_header, group, deduplication };
    content.check(queue.attributes.maximum_message_size)?;
    Ok(content)
}

fn trace_header(attributes: Option<MessageAttributes>) -> Result<Option<String>, Error> {
    let mut header = None;
    for (name, value) in attributes.unwrap_or_default() {
        match (name.as_str(), value.data_type.as_str(), value.string_value) {
            ("AWSTraceHeader", "String", Some(text)) if !text.is_empty() => header = Some(text),
            _ => {
                return Err(Error::value(
                    name,
                    "MessageSystemAttributes",
                    "only AWSTraceHeader, a String, can be sent.",
                ));
            }
        }
    }
    Ok(header)
}

fn check_id(parameter: &str, id: Option<&str>) -> Result<(), Error> {
    match id {
        Some(id) if !(1..=LONGEST_ID).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_graphic()) => {
            let reason =
                format!("{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length.");
            Err(Error::value(id, parameter, reason))
        }
        _ => Ok(()),
    }
}
