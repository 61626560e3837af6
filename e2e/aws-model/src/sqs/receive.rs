//! Messages that are given out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Turn;
use super::attributes::Redrive;
use super::error::{Code, Error};
use super::lease::{handle, lease};
use super::message::{Message, MessageAttributes, State, md5_of_attributes};
use super::protocol::{ReceiveMessage, ReceivedMessage};
use super::queue::Queue;
use super::ready::Key;
use super::send::sequence_number;
use crate::fault::Inner;
use crate::journal::Event;

/// Most messages in flight; from then on SQS gives none.
const MOST_IN_FLIGHT: usize = 120_000;
/// Of the messages in flight, how many a duplicate is chosen from.
const DUPLICATED_FROM: usize = 20;

/// A receive, with its bounds checked.
#[derive(Debug)]
pub(crate) struct Order {
    most: usize,
    lease: Option<Duration>,
    /// How long it waits for a message; the queue says where it does not.
    pub wait: Option<Duration>,
    attempt: Option<String>,
    system_attributes: Vec<String>,
    attributes: Vec<String>,
}

impl TryFrom<ReceiveMessage> for Order {
    type Error = Error;

    fn try_from(request: ReceiveMessage) -> Result<Self, Error> {
        let bounded = |value: i64, least: i64, most: i64, parameter: &str| {
            let reason = format!("Must be >= {least} and <= {most}, if provided.");
            if (least..=most).contains(&value) { Ok(value as u64) } else { Err(Error::value(value, parameter, reason)) }
        };
        let most = bounded(request.max_number_of_messages.unwrap_or(1), 1, 10, "MaxNumberOfMessages")? as usize;
        let wait = request.wait_time_seconds.map(|wait| bounded(wait, 0, 20, "WaitTimeSeconds")).transpose()?;
        let mut system_attributes = request.attribute_names.unwrap_or_default();
        system_attributes.extend(request.message_system_attribute_names.unwrap_or_default());
        if let Some(unknown) = system_attributes.iter().find(|name| !SYSTEM_ATTRIBUTES.contains(&name.as_str())) {
            return Err(Error::new(Code::InvalidAttributeName, format!("Unknown Attribute {unknown}.")));
        }
        Ok(Self {
            most,
            lease: request.visibility_timeout.map(lease).transpose()?,
            wait: wait.map(Duration::from_secs),
            attempt: request.receive_request_attempt_id,
            system_attributes,
            attributes: request.message_attribute_names.unwrap_or_default(),
        })
    }
}

const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "All",
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
];

/// What a receive did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub given: Vec<ReceivedMessage>,
    /// Messages that were given out in vain too often, to be added to the dead-letter queue.
    pub given_up: Vec<Message>,
}

/// Gives out what can be had now. `redrive` is the queue's policy, if its dead-letter queue is there.
pub(crate) fn receive(
    queue: &mut Queue,
    order: &Order,
    redrive: Option<&Redrive>,
    faults: &mut Inner,
    turn: &mut Turn<'_>,
) -> Result<Outcome, Error> {
    let lease = order.lease.unwrap_or(queue.attributes.visibility_timeout);
    if order.attempt.is_some() && !queue.is_fifo() {
        let reason = "The request includes a parameter that is not valid for this queue type.";
        return Err(Error::value("given", "ReceiveRequestAttemptId", reason));
    }
    if let Some(attempt) = &order.attempt {
        let again = repeat(queue, attempt, lease, turn);
        if !again.is_empty() {
            return Ok(Outcome {
                given: again.iter().filter_map(|key| describe(queue, *key, order)).collect(),
                ..Outcome::default()
            });
        }
    }
    let mut outcome = Outcome::default();
    let mut keys = Vec::new();
    let room = MOST_IN_FLIGHT.saturating_sub(queue.counts().in_flight);
    if room == 0 && !queue.is_fifo() && order.wait.unwrap_or(queue.attributes.wait).is_zero() {
        let message = format!("Too many messages in flight: {MOST_IN_FLIGHT} is the most, delete some");
        return Err(Error::new(Code::OverLimit, message));
    }
    let most = order.most.min(room);
    let may_receive = |message: &Message| redrive.is_none_or(|r| message.receives_here < r.max_receive_count);
    // asked for once a call: how often a long poll looks depends on other calls
    if let Some(mut duplicate) = faults.duplicate.take().filter(|_| !queue.is_fifo()) {
        let held: Vec<Key> = queue.held().take(DUPLICATED_FROM).collect();
        for key in held {
            if keys.len() < most && queue.get(key).is_some_and(may_receive) && duplicate.strikes() {
                keys.push(key);
                hand_out(queue, key, lease, faults, turn);
            }
        }
    }
    while keys.len() < most {
        let next = queue.ready.next(most - keys.len());
        if next.is_empty() {
            break;
        }
        for key in next {
            if queue.get(key).is_some_and(may_receive) {
                keys.push(key);
                hand_out(queue, key, lease, faults, turn);
            } else {
                outcome.given_up.extend(queue.remove(key));
            }
        }
    }
    if let Some(attempt) = order.attempt.clone().filter(|_| !keys.is_empty()) {
        let given = keys.iter().filter_map(|key| Some((*key, queue.get(*key)?.receipt))).collect();
        queue.attempts.insert(attempt, given, turn.now);
    }
    outcome.given = keys.iter().filter_map(|key| describe(queue, *key, order)).collect();
    Ok(outcome)
}

/// The messages that this attempt got before and still holds, with their leases begun anew.
fn repeat(queue: &mut Queue, attempt: &str, lease: Duration, turn: &Turn<'_>) -> Vec<Key> {
    let given = queue.attempts.get(attempt).cloned().unwrap_or_default();
    let held = given.into_iter().filter_map(|(key, receipt)| {
        let message = queue.get(key).filter(|message| message.receipt == receipt)?;
        let State::InFlight { since, .. } = message.state else { return None };
        let id = Arc::clone(&message.id);
        queue.set_state(key, State::InFlight { since, until: turn.now + lease });
        let (queue, handle) = (Arc::clone(&queue.name), handle(queue, key, receipt));
        turn.record(|| Event::VisibilityChanged { queue, id, handle, lease });
        Some(key)
    });
    held.collect()
}

fn hand_out(queue: &mut Queue, key: Key, lease: Duration, faults: &mut Inner, turn: &mut Turn<'_>) {
    let lease = faults.stale_handle.as_mut().map_or(lease, |stale| stale.lease(lease));
    let receipt = turn.ids.next();
    let now = turn.now;
    // with a lease of zero it is visible again from the next call on, not within this one
    queue.set_state(key, State::InFlight { since: now, until: now + lease });
    let Some(message) = queue.get_mut(key) else { return };
    message.receives += 1;
    message.receives_here += 1;
    message.first_received.get_or_insert(now);
    message.receipt = receipt;
    let (id, count) = (Arc::clone(&message.id), message.receives);
    turn.record(|| Event::Received {
        queue: Arc::clone(&queue.name),
        id,
        handle: handle(queue, key, receipt),
        count,
        lease,
    });
}

/// A message as its receiver gets it.
fn describe(queue: &Queue, key: Key, order: &Order) -> Option<ReceivedMessage> {
    let message = queue.get(key)?;
    let content = &message.content;
    let wants = |name: &str| order.system_attributes.iter().any(|wanted| wanted == "All" || wanted == name);
    let mut attributes = BTreeMap::new();
    let mut tell = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.filter(|_| wants(name)) {
            attributes.insert(name, value);
        }
    };
    tell("SenderId", Some(super::ACCOUNT.into()));
    tell("SentTimestamp", Some(message.sent.millis().to_string()));
    tell("ApproximateReceiveCount", Some(message.receives.to_string()));
    tell("ApproximateFirstReceiveTimestamp", message.first_received.map(|first| first.millis().to_string()));
    tell("SequenceNumber", message.sequence.map(sequence_number));
    tell("MessageDeduplicationId", content.deduplication.clone());
    tell("MessageGroupId", content.group.as_deref().map(str::to_owned));
    tell("AWSTraceHeader", content.trace_header.clone());
    tell("DeadLetterQueueSourceArn", message.given_up_by.as_deref().map(super::arn));
    let is_wanted = |name: &str| {
        order.attributes.iter().any(|wanted| match wanted.strip_suffix(".*") {
            Some(prefix) => name.starts_with(prefix),
            None => wanted == "All" || wanted == name,
        })
    };
    let wanted = content.attributes.iter().filter(|(name, _)| is_wanted(name));
    let message_attributes: MessageAttributes = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
    Some(ReceivedMessage {
        message_id: Arc::clone(&message.id),
        receipt_handle: handle(queue, key, message.receipt),
        md5_of_body: content.md5.clone(),
        body: content.body.clone(),
        attributes,
        md5_of_message_attributes: md5_of_attributes(&message_attributes),
        message_attributes,
    })
}
