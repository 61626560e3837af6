//! A task for each distinct queue that some QueueConsumer names. It ends with the last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use millrace_api::QueueConsumer;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::{QueueAddress, QueueError, Read, Reading, plan};
use crate::metrics::Metrics;

/// Where the name of a QueueConsumer goes whose queue has a new reading.
pub(crate) type Trigger = mpsc::UnboundedSender<ObjectRef<QueueConsumer>>;
/// How old a reading may be that stays when a later one fails in a way that may pass by itself: twice the longest interval.
const KEEP: Duration = Duration::from_secs(70);

type Key = ObjectRef<QueueConsumer>;

/// All queues that are read.
pub(crate) struct Queues<R> {
    shared: Arc<Shared<R>>,
}

struct Shared<R> {
    reader: R,
    metrics: Arc<Metrics>,
    pollers: Mutex<Pollers>,
}

/// The tasks by queue, and the queue of each consumer, so that a pass touches no other queue than its own.
#[derive(Default)]
struct Pollers {
    by_queue: HashMap<Arc<QueueAddress>, Poller>,
    queue_of: HashMap<Key, Arc<QueueAddress>>,
}

struct Poller {
    latest: Reading,
    subscribers: HashMap<Key, Subscriber>,
    /// The shortest interval that a subscriber wants.
    interval: watch::Sender<Duration>,
    task: AbortHandle,
}

struct Subscriber {
    interval: Duration,
    trigger: Trigger,
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<R: Read> Queues<R> {
    /// Reads with `reader`.
    pub(crate) fn new(reader: R, metrics: Arc<Metrics>) -> Self {
        Self { shared: Arc::new(Shared { reader, metrics, pollers: Mutex::default() }) }
    }

    /// The last reading of a consumer's queue. From now on that queue is read at least at this interval, and `trigger`
    /// gets the consumer's name whenever a reading differs from the one before.
    pub(crate) fn read(&self, key: &Key, address: &QueueAddress, interval: Duration, trigger: &Trigger) -> Reading {
        let mut pollers = self.shared.pollers();
        let address = pollers.join(key, address);
        let poller = pollers
            .by_queue
            .entry(Arc::clone(&address))
            .or_insert_with(|| self.shared.clone().start(address, interval));
        poller.subscribers.insert(key.clone(), Subscriber { interval, trigger: trigger.clone() });
        poller.replan();
        poller.latest.as_of(Instant::now())
    }

    /// The other consumers of a consumer's queue, by name.
    pub(crate) fn sharing(&self, key: &Key, address: &QueueAddress) -> Vec<String> {
        let pollers = self.shared.pollers();
        let subscribers = pollers.by_queue.get(address).map(|poller| poller.subscribers.keys());
        let others = subscribers.into_iter().flatten().filter(|other| *other != key);
        let mut names: Vec<String> =
            others.map(|other| format!("{}/{}", other.namespace.as_deref().unwrap_or_default(), other.name)).collect();
        names.sort();
        names
    }

    /// A consumer is gone, or its queue is unknown.
    pub(crate) fn forget(&self, key: &Key) {
        self.shared.pollers().leave(key);
    }
}

impl<R: Read> Shared<R> {
    fn pollers(&self) -> MutexGuard<'_, Pollers> {
        self.pollers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: Arc<Self>, address: Arc<QueueAddress>, interval: Duration) -> Poller {
        let (interval, plan) = watch::channel(interval);
        let task = tokio::spawn(self.poll(address, plan)).abort_handle();
        Poller { latest: Reading::none(Instant::now()), subscribers: HashMap::new(), interval, task }
    }

    /// Reads one queue until it is aborted.
    async fn poll(self: Arc<Self>, address: Arc<QueueAddress>, mut interval: watch::Receiver<Duration>) {
        let mut failures = 0_u32;
        loop {
            // On the heap, so that a task that waits, as most do, is small.
            let depth = Box::pin(self.reader.read(&address)).await;
            failures = if depth.is_ok() { 0 } else { failures.saturating_add(1) };
            self.metrics.sqs("GetQueueAttributes", depth.as_ref().map_or_else(QueueError::reason, |_| "ok"));
            let read = tokio::time::Instant::now();
            self.publish(&address, Reading { at: read.into_std(), depth: depth.clone() });
            let jitter = fastrand::f64();
            loop {
                let next = read + plan::wait(&depth, *interval.borrow_and_update(), failures, jitter);
                tokio::select! {
                    () = sleep_until(next) => break,
                    changed = interval.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    fn publish(&self, address: &QueueAddress, reading: Reading) {
        let mut pollers = self.pollers();
        let Some(poller) = pollers.by_queue.get_mut(address) else { return };
        if let Ok(depth) = &reading.depth {
            for key in poller.subscribers.keys() {
                self.metrics.depth(key, depth);
            }
        }
        if poller.outlives(&reading) {
            return;
        }
        let differs = reading.differs(&poller.latest);
        poller.latest = reading;
        if differs {
            for (key, subscriber) in &poller.subscribers {
                // Nobody listens only when the operator stops.
                let _ = subscriber.trigger.send(key.clone());
            }
        }
    }
}

impl Pollers {
    /// Has a consumer at this queue, and at no other.
    fn join(&mut self, key: &Key, address: &QueueAddress) -> Arc<QueueAddress> {
        if let Some(same) = self.queue_of.get(key).filter(|known| ***known == *address) {
            return Arc::clone(same);
        }
        self.leave(key);
        let known = self.by_queue.get_key_value(address).map(|(known, _)| Arc::clone(known));
        let address = known.unwrap_or_else(|| Arc::new(address.clone()));
        self.queue_of.insert(key.clone(), Arc::clone(&address));
        address
    }

    /// Takes a consumer out of its queue, whose task ends with the last one.
    fn leave(&mut self, key: &Key) {
        let Some(address) = self.queue_of.remove(key) else { return };
        if self.by_queue.get_mut(&address).is_some_and(|poller| !poller.without(key)) {
            self.by_queue.remove(&address);
        }
    }
}

impl Poller {
    /// Takes a consumer out; false where it was the last one.
    fn without(&mut self, key: &Key) -> bool {
        if self.subscribers.remove(key).is_some() {
            self.replan();
        }
        !self.subscribers.is_empty()
    }

    /// One answer that is missing says nothing new: the counts of a moment ago stand, and the queue is soon read again.
    fn outlives(&self, reading: &Reading) -> bool {
        let age = reading.at.saturating_duration_since(self.latest.at);
        let passing = matches!(&reading.depth, Err(error) if !error.needs_a_change());
        passing && self.latest.depth.is_ok() && age < KEEP
    }

    fn replan(&self) {
        if let Some(shortest) = self.subscribers.values().map(|s| s.interval).min() {
            self.interval.send_if_modified(|interval| std::mem::replace(interval, shortest) != shortest);
        }
    }
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
