//! Long polls with permits: a message is received only when a slot for it is free now, so receive counts are never burnt.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::MessageSystemAttributeName as Name;
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::aws::{LONG_POLL, explain, trouble};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::queue::queue_error;
use crate::state::{Part, State};

/// Most messages of one receive.
const BATCH: usize = 10;
/// How long a free slot waits for its neighbours, so that one call fills several.
const GATHER: Duration = Duration::from_millis(5);
/// A poll that outlives this is given up and replaced, whatever the SDK thinks of it.
const WATCHDOG: Duration = Duration::from_secs(35);

/// The right to hold one job.
pub type Slot = OwnedSemaphorePermit;

/// Receives messages for free slots.
#[derive(Debug)]
pub struct Receiver {
    /// With timeouts made for long polls.
    pub sqs: aws_sdk_sqs::Client,
    /// The queue.
    pub queue_url: String,
    /// Lease asked for with each message.
    pub visibility: Duration,
    /// One permit for each job that the worker can hold.
    pub slots: Arc<Semaphore>,
    /// How many slots there are.
    pub capacity: usize,
    /// For problems.
    pub state: Arc<State>,
    /// For counts.
    pub metrics: Arc<Metrics>,
    /// For liveness.
    pub pulse: Arc<Pulse>,
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
    /// Receives until `stop`, handing each message with its slot to `take`. What a poll under way at that time still
    /// brings is handed to `late`.
    pub async fn run(self, stop: CancellationToken, take: impl Fn(Message, Slot), late: impl AsyncFn(Vec<Message>)) {
        let mut pause = Duration::from_millis(500);
        while let Some(mut slots) = self.free_slots(&stop).await {
            self.pulse.begin();
            let answer = tokio::time::timeout(WATCHDOG, self.poll(slots.len())).await;
            self.pulse.end();
            match answer {
                Ok(Ok(messages)) => {
                    pause = Duration::from_millis(500);
                    if self.state.clear_problem(Part::Queue) {
                        tracing::info!("the queue can be read again");
                    }
                    if stop.is_cancelled() {
                        late(messages).await;
                        return;
                    }
                    for message in messages {
                        // SQS never gives more than was asked for
                        if let Some(slot) = slots.pop() {
                            take(message, slot);
                        }
                    }
                    continue;
                }
                Ok(Err((reason, message))) => self.report(reason, &message),
                Err(_) => self.report("QueueUnreachable", "a poll did not end in time and was replaced"),
            }
            drop(slots);
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            pause = (pause * 2).min(Duration::from_secs(20));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
            }
        }
    }

    /// At least one free slot, and its neighbours that get free within moments; none when it is time to stop.
    async fn free_slots(&self, stop: &CancellationToken) -> Option<Vec<Slot>> {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok()?,
        };
        let mut slots = vec![first];
        let wanted = BATCH.min(self.capacity);
        if self.slots.available_permits() + 1 < wanted {
            tokio::time::sleep(GATHER).await;
        }
        while slots.len() < wanted {
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { break };
            slots.push(slot);
        }
        Some(slots)
    }

    async fn poll(&self, wanted: usize) -> Result<Vec<Message>, (&'static str, String)> {
        let polled = Instant::now();
        let seconds = |d: Duration| i32::try_from(d.as_secs()).unwrap_or(i32::MAX);
        let call = self.sqs.receive_message().queue_url(&self.queue_url).wait_time_seconds(seconds(LONG_POLL));
        let call = call.max_number_of_messages(i32::try_from(wanted).unwrap_or(1));
        let call = call.visibility_timeout(seconds(self.visibility)).message_attribute_names("All");
        let call = call.message_system_attribute_names(Name::ApproximateReceiveCount);
        let answer = call.message_system_attribute_names(Name::SentTimestamp).send().await;
        self.metrics.request("ReceiveMessage", answer.is_ok());
        match answer {
            // SQS hides a message when it answers, which is at most a moment before the answer is here
            Ok(answer) => {
                let moment_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(polled);
                let polled = polled.max(moment_ago);
                let messages = answer.messages.unwrap_or_default();
                Ok(messages.into_iter().filter_map(|m| Message::from_sqs(m, polled)).collect())
            }
            Err(error) => {
                let error = queue_error(&self.queue_url, "sqs:ReceiveMessage", trouble(&error), &explain(&error));
                Err((error.reason, error.message))
            }
        }
    }

    fn report(&self, reason: &str, message: &str) {
        if self.state.set_problem(Part::Queue, reason, message) {
            tracing::error!(reason, "{message}");
        }
    }
}
