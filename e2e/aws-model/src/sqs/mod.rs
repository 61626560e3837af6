//! The model of SQS: its queues behind one lock, and what each request does to them.

mod admin;
mod attributes;
mod error;
#[cfg(test)]
mod fifo_tests;
mod lease;
mod message;
mod protocol;
mod queue;
mod ready;
mod receive;
mod recent;
mod send;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

pub(crate) use self::error::{Code, Error};
pub(crate) use self::message::hex;
pub(crate) use self::protocol::Request;
pub use self::view::{MessageView, QueueView};

use self::admin::MoveTask;
use self::attributes::LARGEST;
use self::message::Message;
use self::protocol::{BatchAnswer, Failure, Identified, Nothing, Outgoing, Received, Success};
use self::queue::Queue;
use self::receive::{Order, Outcome};
use crate::clock::{Clock, Moment};
use crate::fault::{FailEntries, Fate, Inner};
use crate::journal::{Event, Journal};

/// The account that owns everything.
pub(crate) const ACCOUNT: &str = "000000000000";
/// The region that everything is in.
const REGION: &str = "us-east-1";
/// Most entries of a batch.
const MOST_ENTRIES: usize = 10;

fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

fn name_in_arn(arn: &str) -> Option<&str> {
    let name = arn.strip_prefix("arn:aws:sqs:")?.strip_prefix(REGION)?.strip_prefix(':')?;
    name.strip_prefix(ACCOUNT)?.strip_prefix(':').filter(|name| !name.is_empty())
}

/// The model of SQS.
#[derive(Debug)]
pub(crate) struct Sqs {
    clock: Clock,
    journal: Arc<Journal>,
    state: Mutex<State>,
    endpoint: String,
}

#[derive(Debug)]
struct State {
    queues: BTreeMap<Arc<str>, Queue>,
    ids: Ids,
    tasks: Vec<MoveTask>,
}

/// Ids, the same in every run with the same seed.
#[derive(Debug)]
struct Ids {
    rng: ChaCha8Rng,
    last: u64,
}

impl Ids {
    /// A message's id: a UUID, as SQS gives.
    fn message(&mut self) -> Arc<str> {
        let [a, b] = [self.rng.random::<u64>(), self.rng.random::<u64>()];
        let (first, second, third) = (a >> 32, (a >> 16) & 0xffff, a & 0xfff);
        let (fourth, fifth) = ((b >> 48) & 0x3fff | 0x8000, b & 0xffff_ffff_ffff);
        format!("{first:08x}-{second:04x}-4{third:03x}-{fourth:04x}-{fifth:012x}").into()
    }

    /// A number that no other has.
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What an operation on a queue has at hand besides the queue.
#[derive(Debug)]
struct Turn<'a> {
    now: Moment,
    ids: &'a mut Ids,
    journal: &'a Journal,
}

impl Turn<'_> {
    fn record(&self, event: impl FnOnce() -> Event) {
        self.journal.record(self.now, event);
    }
}

impl State {
    /// Does something to a queue, and wakes those who wait for what it brings.
    fn on<T>(
        &mut self,
        name: &str,
        now: Moment,
        journal: &Journal,
        act: impl FnOnce(&mut Queue, &mut Turn<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let queue = self.queues.get_mut(name).ok_or_else(Error::no_queue)?;
        queue.settle(now, journal);
        let before = queue.next_visible();
        let result = act(queue, &mut Turn { now, ids: &mut self.ids, journal });
        if queue.next_visible().is_some_and(|after| before.is_none_or(|before| after < before)) {
            // a poll that waits would look too late
            queue.wake.notify_waiters();
        }
        if !queue.ready.next(1).is_empty() {
            queue.wake.notify_one();
        }
        result
    }
}

impl Sqs {
    pub fn new(seed: u64, endpoint: String, clock: Clock, journal: Arc<Journal>) -> Self {
        let ids = Ids { rng: ChaCha8Rng::seed_from_u64(seed), last: 0 };
        let state = Mutex::new(State { queues: BTreeMap::new(), ids, tasks: Vec::new() });
        Self { clock, journal, state, endpoint }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, queue: &str) -> String {
        format!("{}/{ACCOUNT}/{queue}", self.endpoint)
    }

    /// Does what is asked for, and gives the answer's body.
    pub async fn perform(&self, request: Request, faults: Inner) -> Result<Vec<u8>, Error> {
        let queue: Arc<str> = request.queue().into();
        match request {
            Request::ReceiveMessage(request) => json(&self.receive(&queue, request.try_into()?, faults).await?),
            request => self.perform_now(&queue, request, faults),
        }
    }

    fn perform_now(&self, name: &str, request: Request, mut faults: Inner) -> Result<Vec<u8>, Error> {
        let (failing, lose) = (&mut faults.fail_entries, &mut faults.lose_delete);
        match request {
            Request::SendMessage(one) => json(&self.on(name, |queue, turn| send::send(queue, one.into(), turn))?),
            Request::SendMessageBatch(batch) => json(&self.on(name, |queue, turn| {
                if batch.entries.iter().map(size).sum::<usize>() > LARGEST {
                    let message = format!("Batch requests cannot be longer than {LARGEST} bytes.");
                    return Err(Error::new(Code::BatchRequestTooLong, message));
                }
                each(batch.entries, failing, |entry| send::send(queue, entry, turn))
            })?),
            Request::DeleteMessage(one) => {
                self.on(name, |queue, turn| lease::delete(queue, &one.receipt_handle, lose, turn))?;
                json(&Nothing {})
            }
            Request::DeleteMessageBatch(batch) => json(&self.on(name, |queue, turn| {
                each(batch.entries, failing, |entry| {
                    lease::delete(queue, &entry.receipt_handle, lose, turn).map(|()| Nothing {})
                })
            })?),
            Request::ChangeMessageVisibility(one) => {
                let seconds = one.visibility_timeout;
                self.on(name, |queue, turn| lease::change_visibility(queue, &one.receipt_handle, seconds, turn))?;
                json(&Nothing {})
            }
            Request::ChangeMessageVisibilityBatch(batch) => json(&self.on(name, |queue, turn| {
                each(batch.entries, failing, |entry| {
                    let (handle, seconds) = (&entry.receipt_handle, entry.visibility_timeout);
                    lease::change_visibility(queue, handle, seconds, turn).map(|()| Nothing {})
                })
            })?),
            request => self.administer(name, request, faults),
        }
    }

    fn on<T>(&self, name: &str, act: impl FnOnce(&mut Queue, &mut Turn<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.state().on(name, self.clock.now(), &self.journal, act)
    }

    /// A receive, which waits for a message as long as it is told to.
    async fn receive(&self, name: &Arc<str>, order: Order, mut faults: Inner) -> Result<Received, Error> {
        let mut deadline = None;
        loop {
            let (look_again, wake) = {
                let mut state = self.state();
                let now = self.clock.now();
                let (given, given_up) = self.receive_now(&mut state, name, &order, &mut faults, now)?;
                if !given_up.is_empty() {
                    self.give_up(&mut state, name, given_up, now)?;
                }
                let queue = state.queues.get(name).ok_or_else(Error::no_queue)?;
                let deadline = *deadline.get_or_insert(now + order.wait.unwrap_or(queue.attributes.wait));
                if !given.is_empty() || deadline <= now {
                    return Ok(Received { messages: given });
                }
                let look_again = queue.next_visible().map_or(deadline, |visible| visible.min(deadline));
                (look_again, Arc::clone(&queue.wake).notified_owned())
            };
            tokio::select! {
                () = wake => {}
                () = self.clock.until(look_again) => {}
            }
        }
    }

    fn receive_now(
        &self,
        state: &mut State,
        name: &str,
        order: &Order,
        faults: &mut Inner,
        now: Moment,
    ) -> Result<(Vec<protocol::ReceivedMessage>, Vec<Message>), Error> {
        let queue = state.queues.get(name).ok_or_else(Error::no_queue)?;
        // with no dead-letter queue there, SQS goes on giving the message out
        let redrive = queue.attributes.redrive.clone().filter(|redrive| state.queues.contains_key(&redrive.target));
        let Outcome { given, given_up } = state.on(name, now, &self.journal, |queue, turn| {
            receive::receive(queue, order, redrive.as_ref(), faults, turn)
        })?;
        Ok((given, given_up))
    }

    /// Moves messages that were received in vain to the dead-letter queue.
    fn give_up(&self, state: &mut State, from: &Arc<str>, messages: Vec<Message>, now: Moment) -> Result<(), Error> {
        let redrive = state.queues.get(from).and_then(|queue| queue.attributes.redrive.clone());
        let target = redrive.ok_or_else(Error::no_queue)?.target;
        state.on(&target, now, &self.journal, |queue, turn| {
            for mut message in messages {
                message.given_up_by = Some(Arc::clone(from));
                message.state = message::State::Ready;
                if queue.is_fifo() {
                    message.sent = now;
                }
                let (id, new_id) = (Arc::clone(&message.id), Arc::clone(&message.id));
                let (from, to) = (Arc::clone(from), Arc::clone(&queue.name));
                turn.record(|| Event::Redriven { from, to, id, new_id });
                queue.add(message);
            }
            Ok(())
        })
    }
}

/// Does what a batch asks for, entry by entry.
fn each<Entry: Identified, Answer>(
    entries: Vec<Entry>,
    failing: &mut Option<FailEntries>,
    mut act: impl FnMut(Entry) -> Result<Answer, Error>,
) -> Result<BatchAnswer<Answer>, Error> {
    check_ids(&entries)?;
    let mut answer = BatchAnswer { successful: Vec::new(), failed: Vec::new() };
    for entry in entries {
        let id = entry.id().to_owned();
        let fate = failing.as_mut().map_or(Fate::AsUsual, FailEntries::fate);
        let result = if fate == Fate::FailedUndone { Err(Error::internal()) } else { act(entry) };
        match result {
            Ok(done) if fate == Fate::AsUsual => answer.successful.push(Success { id, answer: done }),
            Ok(_) => answer.failed.push(failure(id, Error::internal())),
            Err(error) => answer.failed.push(failure(id, error)),
        }
    }
    Ok(answer)
}

fn failure(id: String, error: Error) -> Failure {
    let (_, code, status) = error.code.names();
    Failure { id, sender_fault: status < 500, code, message: error.message }
}

fn check_ids<Entry: Identified>(entries: &[Entry]) -> Result<(), Error> {
    let is_sound = |id: &str| {
        (1..=80).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if entries.is_empty() {
        return Err(Error::new(Code::EmptyBatchRequest, "There should be at least one entry in the request."));
    }
    if entries.len() > MOST_ENTRIES {
        let message =
            format!("Maximum number of entries per request are {MOST_ENTRIES}. You have sent {}.", entries.len());
        return Err(Error::new(Code::TooManyEntriesInBatchRequest, message));
    }
    if entries.iter().any(|entry| !is_sound(entry.id())) {
        let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. \
                       It can be at most 80 letters long.";
        return Err(Error::new(Code::InvalidBatchEntryId, message));
    }
    let mut seen = HashSet::new();
    match entries.iter().find(|entry| !seen.insert(entry.id())) {
        Some(twice) => Err(Error::new(Code::BatchEntryIdsNotDistinct, format!("Id {} repeated.", twice.id()))),
        None => Ok(()),
    }
}

/// An entry's size, attributes included, before they are looked at.
fn size(entry: &Outgoing) -> usize {
    let body = entry.message_body.as_ref().map_or(0, String::len);
    body + entry.message_attributes.as_ref().map_or(0, message::size)
}

fn json(answer: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(answer).map_err(|_| Error::internal())
}
