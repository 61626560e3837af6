//! What really happened, in order and with model time: what a test's ledger is drawn up from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// Something that changed a queue or a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message came into a queue from a producer.
    Sent {
        /// The queue's name.
        queue: Arc<str>,
        /// The message's id.
        id: Arc<str>,
    },
    /// A producer repeated itself within five minutes, and SQS kept the first.
    Deduplicated {
        /// The queue's name.
        queue: Arc<str>,
        /// The id of the first.
        id: Arc<str>,
    },
    /// A message was given out.
    Received {
        /// The queue's name.
        queue: Arc<str>,
        /// The message's id.
        id: Arc<str>,
        /// Its receipt handle.
        handle: String,
        /// How often it has been given out by now.
        count: u32,
        /// How long it stays hidden.
        lease: Duration,
    },
    /// A message was deleted by who held it.
    Deleted {
        /// The queue's name.
        queue: Arc<str>,
        /// The message's id.
        id: Arc<str>,
        /// The receipt handle that was shown.
        handle: String,
    },
    /// A delete was answered well and did nothing: its receipt handle was old, or a fault lost it.
    DeleteIgnored {
        /// The queue's name.
        queue: Arc<str>,
        /// The receipt handle that was shown.
        handle: String,
    },
    /// A message in flight is hidden so long from now; zero returns it.
    VisibilityChanged {
        /// The queue's name.
        queue: Arc<str>,
        /// The message's id.
        id: Arc<str>,
        /// The receipt handle that was shown.
        handle: String,
        /// The new lease.
        lease: Duration,
    },
    /// A message went to the dead-letter queue, or back from it.
    Redriven {
        /// The queue that it left.
        from: Arc<str>,
        /// The queue that it is in.
        to: Arc<str>,
        /// Its id there, until then.
        id: Arc<str>,
        /// Its id from then on: the same in a dead-letter queue, a new one on the way back.
        new_id: Arc<str>,
    },
    /// A message outlived its queue's retention.
    Expired {
        /// The queue's name.
        queue: Arc<str>,
        /// The message's id.
        id: Arc<str>,
    },
    /// All messages of a queue were dropped, with the queue or without.
    Purged {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// An object was put.
    Put {
        /// Its bucket.
        bucket: Arc<str>,
        /// Its key.
        key: Arc<str>,
        /// Its version.
        etag: String,
        /// Whether there was one of that key.
        put: Put,
    },
    /// An object was deleted.
    ObjectDeleted {
        /// Its bucket.
        bucket: Arc<str>,
        /// Its key.
        key: Arc<str>,
    },
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The key was free.
    Created,
    /// An object of that key was replaced.
    Replaced,
}

/// An event and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Moment,
    /// What.
    pub event: Event,
}

/// Where events are written down; benchmarks keep none.
#[derive(Debug)]
pub(crate) struct Journal(Option<Mutex<Vec<Entry>>>);

impl Journal {
    pub fn new(kept: bool) -> Self {
        Self(kept.then(Mutex::default))
    }

    pub fn record(&self, at: Moment, event: impl FnOnce() -> Event) {
        if let Some(entries) = &self.0 {
            entries.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { at, event: event() });
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.0
            .as_ref()
            .map(|entries| entries.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }
}
