//! Operations on queues rather than on their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::attributes::Attributes;
use super::error::{Code, Error};
use super::message::{Message, State as MessageState};
use super::protocol::{CreateQueue, ListMessageMoveTasks, ListQueues, Request, StartMessageMoveTask};
use super::queue::{Counts, Queue};
use super::{Sqs, State, arn, name_in_arn};
use crate::clock::Moment;
use crate::fault::Inner;
use crate::journal::Event;

/// SQS purges a queue once in this time.
const PURGE_AGAIN: Duration = Duration::from_mins(1);
/// Most queues of one listing.
const MOST_LISTED: usize = 1000;

/// A redrive from a dead-letter queue. Here it is done by the time that it is answered.
#[derive(Debug)]
pub(crate) struct MoveTask {
    source: Arc<str>,
    destination: Option<String>,
    moved: usize,
    started: Moment,
}

impl Sqs {
    pub(super) fn administer(&self, name: &str, request: Request, faults: Inner) -> Result<Vec<u8>, Error> {
        let answer = match request {
            Request::CreateQueue(request) => json!({ "QueueUrl": self.create(request)? }),
            Request::GetQueueUrl(_) => self.on(name, |queue, _| Ok(json!({ "QueueUrl": self.url(&queue.name) })))?,
            Request::ListQueues(request) => self.list(&request)?,
            Request::DeleteQueue(_) => {
                let queue = self.state().queues.remove(name).ok_or_else(Error::no_queue)?;
                self.journal.record(self.clock.now(), || Event::Purged { queue: Arc::clone(&queue.name) });
                queue.wake.notify_waiters();
                json!({})
            }
            Request::PurgeQueue(_) => self.on(name, |queue, turn| {
                if queue.purged.is_some_and(|before| before + PURGE_AGAIN > turn.now) {
                    let message =
                        format!("Only one PurgeQueue operation on {} is allowed every 60 seconds.", queue.name);
                    return Err(Error::new(Code::PurgeQueueInProgress, message));
                }
                queue.purged = Some(turn.now);
                queue.clear();
                turn.record(|| Event::Purged { queue: Arc::clone(&queue.name) });
                Ok(json!({}))
            })?,
            Request::GetQueueAttributes(request) => {
                let names = request.attribute_names.unwrap_or_default();
                self.on(name, |queue, _| attributes(queue, &names, faults))?
            }
            Request::SetQueueAttributes(request) => self.set(name, &request.attributes)?,
            Request::TagQueue(request) => self.on(name, |queue, _| {
                queue.tags.extend(request.tags);
                Ok(json!({}))
            })?,
            Request::UntagQueue(request) => self.on(name, |queue, _| {
                queue.tags.retain(|key, _| !request.tag_keys.contains(key));
                Ok(json!({}))
            })?,
            Request::ListQueueTags(_) => self.on(name, |queue, _| Ok(json!({ "Tags": queue.tags })))?,
            Request::ListDeadLetterSourceQueues(_) => {
                let state = self.state();
                state.queues.get(name).ok_or_else(Error::no_queue)?;
                let urls: Vec<_> = state.sources_of(name).map(|queue| self.url(&queue.name)).collect();
                // the SDKs read it so
                json!({ "queueUrls": urls })
            }
            Request::StartMessageMoveTask(request) => self.move_back(name, &request)?,
            Request::ListMessageMoveTasks(request) => self.list_moves(name, &request),
            // the other operations are on messages
            _ => return Err(Error::internal()),
        };
        super::json(&answer)
    }

    /// Makes a queue, and gives its URL.
    pub fn create_queue(&self, name: &str, attributes: &[(&str, &str)]) -> Result<String, Error> {
        let fifo = name.strip_suffix(".fifo").and(Some(&("FifoQueue", "true")));
        let attributes = attributes.iter().chain(fifo).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.create(CreateQueue { queue_name: name.into(), attributes: Some(attributes.collect()), tags: None })
    }

    fn create(&self, request: CreateQueue) -> Result<String, Error> {
        let CreateQueue { queue_name: name, attributes: given, tags } = request;
        let (given, tags) = (given.unwrap_or_default(), tags.unwrap_or_default());
        let of_fifo = name.strip_suffix(".fifo");
        let (is_fifo, bare) = (of_fifo.is_some(), of_fifo.unwrap_or(&name));
        let is_sound = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if bare.is_empty() || name.len() > 80 || !bare.bytes().all(is_sound) {
            let reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(Error::value(name, "QueueName", reason));
        }
        if is_fifo && !given.contains_key("FifoQueue") {
            let reason = "The name of a queue that is not FIFO cannot end with .fifo; set FifoQueue to true.";
            return Err(Error::value(name, "QueueName", reason));
        }
        let mut attributes = Attributes::new(is_fifo);
        attributes.set(&given)?;
        let url = self.url(&name);
        let mut state = self.state();
        state.check_redrive(&attributes)?;
        if let Some(there) = state.queues.get(name.as_str()) {
            let (wanted, there) = (attributes.texts(), there.attributes.texts());
            return match given.keys().find(|key| wanted.get(key.as_str()) != there.get(key.as_str())) {
                None => Ok(url),
                Some(differs) => {
                    let message = format!(
                        "A queue already exists with the same name and a different value for attribute {differs}"
                    );
                    Err(Error::new(Code::QueueNameExists, message))
                }
            };
        }
        let uid = state.ids.next();
        let mut queue = Queue::new(&name, uid, attributes, self.clock.now());
        queue.tags = tags;
        state.queues.insert(Arc::clone(&queue.name), queue);
        Ok(url)
    }

    fn list(&self, request: &ListQueues) -> Result<Value, Error> {
        let state = self.state();
        let prefix = request.queue_name_prefix.as_deref().unwrap_or_default();
        let after = request.next_token.as_deref().unwrap_or_default();
        let most = request.max_results.unwrap_or(MOST_LISTED);
        if !(1..=MOST_LISTED).contains(&most) {
            return Err(Error::value(most, "MaxResults", "Must be between 1 and 1000."));
        }
        let names = state.queues.keys().filter(|name| name.starts_with(prefix) && name.as_ref() > after);
        let mut names: Vec<_> = names.take(most + 1).collect();
        let more = names.len() > most;
        names.truncate(most);
        let mut answer = json!({ "QueueUrls": names.iter().map(|name| self.url(name)).collect::<Vec<_>>() });
        // as AWS does: pages only for who asked for them
        if more && request.max_results.is_some() {
            answer["NextToken"] = json!(names.last().map(ToString::to_string));
        }
        Ok(answer)
    }

    fn set(&self, name: &str, given: &BTreeMap<String, String>) -> Result<Value, Error> {
        let mut state = self.state();
        let mut attributes = state.queues.get(name).ok_or_else(Error::no_queue)?.attributes.clone();
        attributes.set(given)?;
        state.check_redrive(&attributes)?;
        state.on(name, self.clock.now(), &self.journal, |queue, turn| {
            queue.attributes = attributes;
            queue.modified = turn.now;
            Ok(json!({}))
        })
    }

    /// Moves what is visible in a dead-letter queue back to where each came from, or to one queue. As in AWS each gets a
    /// new id and is as good as new.
    fn move_back(&self, name: &str, request: &StartMessageMoveTask) -> Result<Value, Error> {
        let mut state = self.state();
        let missing = |what: &str| {
            let message = format!("The resource that you specified for the {what} parameter doesn't exist.");
            Error::new(Code::ResourceNotFound, message)
        };
        let source = Arc::clone(&state.queues.get(name).ok_or_else(|| missing("SourceArn"))?.name);
        if state.sources_of(name).next().is_none() {
            let message = "Source queue must be configured as a Dead Letter Queue.";
            return Err(Error::new(Code::InvalidParameterValue, message));
        }
        let destination = match request.destination_arn.as_deref() {
            None => None,
            Some(text) => {
                let known = name_in_arn(text).and_then(|name| state.queues.get_key_value(name));
                Some(Arc::clone(known.ok_or_else(|| missing("DestinationArn"))?.0))
            }
        };
        let now = self.clock.now();
        let there: BTreeSet<_> = state.queues.keys().cloned().collect();
        let moved = state.on(name, now, &self.journal, |queue, _| {
            let visible = queue.in_order().into_iter().filter(|(_, message)| message.state == MessageState::Ready);
            // one whose queue is gone stays where it is
            let to = |message: &Message| {
                destination.clone().or_else(|| message.given_up_by.clone()).filter(|to| there.contains(to))
            };
            let moves: Vec<_> = visible.filter_map(|(key, message)| Some((key, to(message)?))).collect();
            Ok(moves.into_iter().filter_map(|(key, to)| Some((to, queue.remove(key)?))).collect::<Vec<_>>())
        })?;
        let count = moved.len();
        for (to, mut message) in moved {
            state.on(&to, now, &self.journal, |queue, turn| {
                let id = std::mem::replace(&mut message.id, turn.ids.message());
                let (from, to, new_id) = (Arc::clone(&source), Arc::clone(&queue.name), Arc::clone(&message.id));
                turn.record(|| Event::Redriven { from, to, id, new_id });
                message.sent = now;
                message.receives = 0;
                message.first_received = None;
                message.given_up_by = None;
                message.receipt = 0;
                queue.add(message);
                Ok(())
            })?;
        }
        let handle = format!("task-{:x}", state.ids.next());
        let destination = request.destination_arn.clone();
        state.tasks.push(MoveTask { source, destination, moved: count, started: now });
        Ok(json!({ "TaskHandle": handle }))
    }

    fn list_moves(&self, name: &str, request: &ListMessageMoveTasks) -> Value {
        let state = self.state();
        let tasks = state.tasks.iter().rev().filter(|task| task.source.as_ref() == name);
        let tasks = tasks.take(request.max_results.unwrap_or(1)).map(|task| {
            let mut told = json!({
                "Status": "COMPLETED",
                "SourceArn": arn(&task.source),
                "ApproximateNumberOfMessagesMoved": task.moved,
                "ApproximateNumberOfMessagesToMove": task.moved,
                "StartedTimestamp": task.started.millis() as u64,
            });
            if let Some(destination) = &task.destination {
                told["DestinationArn"] = json!(destination);
            }
            told
        });
        json!({ "Results": tasks.collect::<Vec<_>>() })
    }
}

impl State {
    /// The queues whose dead-letter queue this is.
    fn sources_of(&self, name: &str) -> impl Iterator<Item = &Queue> {
        let gives = move |queue: &&Queue| queue.attributes.redrive.as_ref().is_some_and(|r| r.target.as_ref() == name);
        self.queues.values().filter(gives)
    }

    /// A dead-letter queue must be there, and of the same sort.
    fn check_redrive(&self, attributes: &Attributes) -> Result<(), Error> {
        let Some(redrive) = &attributes.redrive else { return Ok(()) };
        let target = arn(&redrive.target);
        match self.queues.get(&redrive.target) {
            None => Err(Error::value(target, "RedrivePolicy", "Dead letter target does not exist.")),
            Some(queue) if queue.is_fifo() != attributes.fifo.is_some() => {
                let reason = "Dead-letter queue must be same type of queue as the source.";
                Err(Error::value(target, "RedrivePolicy", reason))
            }
            Some(_) => Ok(()),
        }
    }
}

fn attributes(queue: &Queue, names: &[String], mut faults: Inner) -> Result<Value, Error> {
    let mut all = queue.attributes.texts();
    let Counts { visible, in_flight, delayed } = queue.counts();
    let mut count = |truth: usize| match &mut faults.lying_counts {
        Some(lies) => lies.instead_of(truth).to_string(),
        None => truth.to_string(),
    };
    all.insert("ApproximateNumberOfMessages", count(visible));
    all.insert("ApproximateNumberOfMessagesNotVisible", count(in_flight));
    all.insert("ApproximateNumberOfMessagesDelayed", count(delayed));
    all.insert("QueueArn", arn(&queue.name));
    all.insert("CreatedTimestamp", queue.created.seconds().to_string());
    all.insert("LastModifiedTimestamp", queue.modified.seconds().to_string());
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(Error::new(Code::InvalidAttributeName, format!("Unknown Attribute {unknown}.")));
    }
    all.retain(|name, _| names.iter().any(|wanted| wanted == "All" || wanted == name));
    Ok(if all.is_empty() { json!({}) } else { json!({ "Attributes": all }) })
}

/// Whether SQS has an attribute of that name, set here or not.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 22] = [
        "All",
        "Policy",
        "VisibilityTimeout",
        "MaximumMessageSize",
        "MessageRetentionPeriod",
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "CreatedTimestamp",
        "LastModifiedTimestamp",
        "QueueArn",
        "ApproximateNumberOfMessagesDelayed",
        "DelaySeconds",
        "ReceiveMessageWaitTimeSeconds",
        "RedrivePolicy",
        "FifoQueue",
        "ContentBasedDeduplication",
        "KmsMasterKeyId",
        "KmsDataKeyReusePeriodSeconds",
        "DeduplicationScope",
        "FifoThroughputLimit",
        "RedriveAllowPolicy",
        "SqsManagedSseEnabled",
    ];
    NAMES.contains(&name)
}
