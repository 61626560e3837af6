//! Long polls with permits: a message is received only with a slot for it, so receive counts are never burnt.
//!
//! One poll is under way as a rule; another one joins it only when a poll came back full while there is still room, and
//! leaves when one does not. Polls are long, but for those that fill up a batch which is about to begin. On a FIFO queue a poll asks for one message: several would come from one group, and all but
//! the first would wait for their turn while their receive counts are burnt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::MessageSystemAttributeName as Name;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use crate::aws::{explain, trouble};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::queue::{QueueError, queue_error};
use crate::slots::{Slot, Slots};
use crate::state::{Part, State};

/// Most messages of one receive.
const BATCH: usize = 10;
/// Most polls at a time, which is enough for some thousand messages a second.
const POLLS: usize = 4;
/// On a FIFO queue, where each brings one message.
const ORDERED_POLLS: usize = 10;
/// What SQS tells of a message besides its own attributes.
const SYSTEM_ATTRIBUTES: [Name; 4] =
    [Name::ApproximateReceiveCount, Name::SentTimestamp, Name::MessageGroupId, Name::AwsTraceHeader];
/// How long a free slot waits for its neighbours, so that one call fills several.
const GATHER: Duration = Duration::from_millis(5);
/// How long a batch that could not be filled up is given to begin before the next poll.
const GATHERED: Duration = Duration::from_secs(1);
/// A poll that outlives this is given up and replaced, whatever the SDK thinks of it.
const WATCHDOG: Duration = Duration::from_secs(35);
/// Wait after a poll that failed; doubled at each, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// SQS answers a repeated receive-request attempt id with the same messages for five minutes.
const ATTEMPT_LIVES: Duration = Duration::from_mins(4);

/// Receives messages for free slots.
#[derive(Debug)]
pub struct Receiver {
    /// With timeouts made for long polls.
    pub sqs: aws_sdk_sqs::Client,
    /// The queue.
    pub queue_url: String,
    /// A FIFO queue.
    pub ordered: bool,
    /// Lease asked for with each message.
    pub visibility: Duration,
    /// How long a poll waits for messages.
    pub poll: Duration,
    /// One for each job that the worker may hold.
    pub slots: Slots,
    /// Who says whether a poll may begin, and is told of each.
    pub state: Arc<State>,
    /// For counts.
    pub metrics: Arc<Metrics>,
    /// For liveness.
    pub pulse: Arc<Pulse>,
}

/// A poll that ended.
struct Polled {
    slots: Vec<Slot>,
    attempt: Attempt,
    /// It was to fill up a batch.
    gathering: bool,
    answer: Result<Vec<Message>, QueueError>,
}

/// On a FIFO queue a receive whose answer was lost is repeated under its old id, or its message would stay hidden.
#[derive(Debug, Clone)]
struct Attempt {
    id: String,
    since: Instant,
}

impl Attempt {
    fn new() -> Self {
        Self { id: format!("{:032x}", rand::random::<u128>()), since: Instant::now() }
    }
}

/// When the receive loop last came round; liveness means that it does.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the beginning of the poll under way; negative while none is.
    polling_since: AtomicI64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { start: Instant::now(), polling_since: AtomicI64::new(-1) }
    }
}

impl Pulse {
    fn begin(&self) {
        let since = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.polling_since.store(since, Ordering::Relaxed);
    }

    fn end(&self) {
        self.polling_since.store(-1, Ordering::Relaxed);
    }

    /// No poll hangs. A loop that waits for a free slot is well: the model is busy.
    pub fn is_alive(&self) -> bool {
        let since = self.polling_since.load(Ordering::Relaxed);
        let now = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        since < 0 || now - since < 2 * i64::try_from(WATCHDOG.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Receiver {
    /// Receives until `stop`, handing each message with its slot to `take`, which holds it before it returns. What polls
    /// under way at that time still bring is handed to `late`. While the operator has the worker drain, none begins, and
    /// what those under way bring is taken: given back, it would have cost a receive.
    pub async fn run(self, stop: CancellationToken, take: impl Fn(Message, Slot), late: impl AsyncFn(Vec<Message>)) {
        let (batch, most_polls) = if self.ordered { (1, ORDERED_POLLS) } else { (BATCH, POLLS) };
        let batch = batch.min(self.slots.capacity());
        let mut polls = FuturesUnordered::new();
        let mut polls_wanted = 1;
        let mut lost = VecDeque::new();
        let mut pause = FIRST_PAUSE;
        // there is nothing to add to the jobs that wait for their batch to begin
        let mut gathered = false;
        let mut not_before = tokio::time::Instant::now();
        loop {
            let stopping = stop.is_cancelled();
            let slots = async {
                tokio::time::sleep_until(not_before).await;
                if gathered {
                    // a job that does not get that far (it waits for S3, or for its time) must not keep others waiting
                    drop(tokio::time::timeout(GATHERED, self.slots.gathered()).await);
                }
                // first, as a slot that waits for the end of a drain would count as a job
                self.state.receives().await;
                self.slots.acquire(batch).await
            };
            tokio::select! {
                biased;
                Some(polled) = polls.next() => {
                    let Polled { mut slots, attempt, gathering, answer } = polled;
                    if polls.is_empty() { self.pulse.end() } else { self.pulse.begin() }
                    match answer {
                        Ok(messages) => {
                            pause = FIRST_PAUSE;
                            if self.state.clear_problem(Part::Queue) {
                                tracing::info!("the queue can be read again");
                            }
                            self.state.received(&messages, gathering);
                            let full = messages.len() >= slots.len();
                            gathered = gathering && messages.is_empty();
                            polls_wanted = if full { (polls_wanted + 1).min(most_polls) } else { 1 };
                            if stopping {
                                late(messages).await;
                            } else {
                                for message in messages {
                                    // SQS never gives more than was asked for
                                    if let Some(slot) = slots.pop() {
                                        take(message, slot);
                                    }
                                }
                            }
                        }
                        Err(error) => {
                            self.state.receive_failed();
                            if self.state.set_problem(Part::Queue, error.reason, &error.message) {
                                tracing::error!(reason = error.reason, "{error}");
                            }
                            if self.ordered {
                                lost.push_back(attempt);
                            }
                            polls_wanted = 1;
                            not_before = tokio::time::Instant::now() + pause.mul_f64(rand::rng().random_range(0.5..1.0));
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                    self.state.end_poll();
                }
                () = stop.cancelled(), if !stopping => {}
                slots = slots, if !stopping && polls.len() < polls_wanted => {
                    if !self.state.begin_poll() {
                        continue;
                    }
                    lost.retain(|attempt: &Attempt| attempt.since.elapsed() < ATTEMPT_LIVES);
                    let attempt = lost.pop_front().unwrap_or_else(Attempt::new);
                    if polls.is_empty() {
                        self.pulse.begin();
                    }
                    polls.push(self.poll(slots, batch, !gathered, attempt));
                }
                else => return,
            }
        }
    }

    /// One long poll for these slots, and for their neighbours that get free within moments.
    async fn poll(&self, mut slots: Vec<Slot>, batch: usize, may_gather: bool, attempt: Attempt) -> Polled {
        if slots.len() < batch {
            tokio::time::sleep(GATHER).await;
            slots.extend(self.slots.try_acquire(batch - slots.len()));
        }
        // a long poll would bring messages when the batch has begun without them
        let gathering = may_gather && self.slots.is_gathering(slots.len());
        let wait = if gathering { Duration::ZERO } else { self.poll };
        let answer = match tokio::time::timeout(WATCHDOG, self.ask(slots.len(), wait, &attempt)).await {
            Ok(answer) => answer,
            Err(_) => Err(QueueError {
                reason: "QueueUnreachable",
                message: format!("a poll of {} did not end in time and was replaced", self.queue_url),
            }),
        };
        Polled { slots, attempt, gathering, answer }
    }

    async fn ask(&self, wanted: usize, wait: Duration, attempt: &Attempt) -> Result<Vec<Message>, QueueError> {
        let asked = Instant::now();
        let seconds = |d: Duration| i32::try_from(d.as_secs()).unwrap_or(i32::MAX);
        let call = self.sqs.receive_message().queue_url(&self.queue_url).wait_time_seconds(seconds(wait));
        let call = call.max_number_of_messages(i32::try_from(wanted).unwrap_or(1));
        let call = call.visibility_timeout(seconds(self.visibility)).message_attribute_names("All");
        let call = call.set_message_system_attribute_names(Some(SYSTEM_ATTRIBUTES.to_vec()));
        let call = call.set_receive_request_attempt_id(self.ordered.then(|| attempt.id.clone()));
        let answer = call.send().await;
        self.metrics.request("ReceiveMessage", answer.is_ok());
        match answer {
            Ok(answer) => {
                let messages = answer.messages.unwrap_or_default();
                Ok(messages.into_iter().filter_map(|m| Message::from_sqs(m, asked)).collect())
            }
            Err(error) => Err(queue_error(&self.queue_url, "sqs:ReceiveMessage", trouble(&error), &explain(&error))),
        }
    }
}
